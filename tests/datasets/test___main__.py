import runpy
import sys

import pytest

from alignrec_pyg.datasets.__main__ import main


def test_exit_codes(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("user,sku,when\nu1,1,5\nu2,2,6\n")
    assert main(["check", str(path), "--item", "sku", "--time", "when"]) == 0
    assert "interactions 2" in " ".join(capsys.readouterr().out.split())
    path.write_text("user,sku,when\nu1,1,5\nu2,,soon\n")
    assert main(["check", str(path), "--item", "sku", "--time", "when"]) == 1
    printed = capsys.readouterr().out
    assert f"{path}, line 3, column 'sku': an id needs a value" in printed
    assert f"{path}, line 3, column 'when': a finite number" in printed
    assert main(["check", str(tmp_path / "none")]) == 2
    assert "there is none at" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["check"])
    assert caught.value.code == 2


def test_help_says_what_the_exit_codes_mean(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    assert "Exit code 0: usable" in " ".join(capsys.readouterr().out.split())


def test_as_a_module(tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "alignrec_pyg.datasets.__main__")
    monkeypatch.setattr(sys, "argv", ["datasets", "check", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("alignrec_pyg.datasets", run_name="__main__")
    assert caught.value.code == 2
    assert "needs to be a folder with" in capsys.readouterr().err
