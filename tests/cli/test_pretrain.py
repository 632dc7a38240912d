import pytest

from alignrec_pyg.cli import main
from alignrec_pyg.pretraining import __main__


def test_hands_its_arguments_on(monkeypatch):
    given = []
    monkeypatch.setattr(
        __main__, "main", lambda *arguments, **named: given.append((arguments, named))
    )
    assert main(["pretrain", "--data", "x.csv", "--fields", "a", "b", "--epochs", "2"]) == 0
    ((arguments, named),) = given
    assert list(*arguments) == ["--data", "x.csv", "--fields", "a", "b", "--epochs", "2"]
    assert named == {"prog": "alignrec pretrain"}


def test_its_help_and_its_errors(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: alignrec pretrain ")
    assert "--mask-image" in printed
    with pytest.raises(SystemExit) as caught:
        main(["pretrain", "--epochs", "two"])
    assert caught.value.code == 2
    assert "alignrec pretrain: error: argument --epochs: invalid int" in capsys.readouterr().err


def test_unusable_data(tmp_path, capsys):
    command = ["pretrain", "--data", str(tmp_path / "x.csv"), "--images", str(tmp_path)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert "error: 'table' needs to be a .csv, .tsv, .parquet file" in capsys.readouterr().err
