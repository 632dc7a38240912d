from __future__ import annotations

import sys

from alignrec_pyg.pretraining import __main__


def test_takes_the_options_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["alignrec_pyg.pretraining", "--epochs", "two"])
    assert __main__.main() == 2
    assert "'--epochs': needs to be a whole number of 1 or more" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["alignrec_pyg.pretraining", "--help"])
    assert __main__.main() == 0
    assert "--mask-image" in capsys.readouterr().out
