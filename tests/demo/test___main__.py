import socket
import sys

import pytest

from alignrec_pyg.demo import __main__ as module
from alignrec_pyg.demo import page
from alignrec_pyg.demo.__main__ import UNUSABLE, main, parser
from alignrec_pyg.demo.model import DemoModel


@pytest.fixture
def launched(monkeypatch, served):
    """What the command would train and serve, told instead."""
    told = {}

    class Told:
        def launch(self, port):
            told["port"] = port

    def load_or_train(folder, run, *, log):
        log("training")
        told["folder"], told["run"] = folder, run
        return DemoModel(
            served.model, served.data, served.val, served.titles, ["Ada"], served.encode, []
        )

    def page(model, data, **arguments):
        told["title"], told["names"] = arguments["title"], arguments["user_names"]
        return Told()

    monkeypatch.setattr(module, "require_package", lambda *given, **named: None)
    monkeypatch.setattr(module, "load_or_train", load_or_train)
    monkeypatch.setattr(module, "page", page)
    return told


def test_embedded_data_by_default(launched, capsys):
    assert main([]) == 0
    assert launched["folder"] is None
    assert launched["run"].parts == ("results", "demo", "synthetic")
    assert (launched["port"], launched["title"]) == (None, "AlignRec on synthetic")
    assert launched["names"] == ["Ada"]
    assert capsys.readouterr().err == "training\n"


def test_a_folder_names_its_run(launched, tmp_path):
    folder = tmp_path / "ml-latest-small"
    assert main(["--data", str(folder), "--port", "7871"]) == 0
    assert launched["folder"] == folder
    assert launched["run"].parts == ("results", "demo", "ml-latest-small")
    assert launched["port"] == 7871
    assert main(["--run", str(tmp_path)]) == 0
    assert launched["run"] == tmp_path


def test_data_that_cannot_be_read(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "require_package", lambda *given, **named: None)
    assert main(["--data", str(tmp_path / "none"), "--run", str(tmp_path / "run")]) == UNUSABLE
    assert "'path' needs to be a folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_gradio_nothing_is_trained(launched, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main([]) == UNUSABLE
    assert "--extra demo" in capsys.readouterr().err
    assert launched == {}


@pytest.mark.slow
def test_a_port_that_is_taken(launched, apart, monkeypatch):
    monkeypatch.setattr(module, "page", lambda model, data, **arguments: page(model, data))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with apart(lambda tell: tell(main(["--port", port]))) as code:
            assert code == str(UNUSABLE)


def test_arguments_that_are_none():
    with pytest.raises(SystemExit) as left:
        parser().parse_args(["--prot", "80"])
    assert left.value.code == 2
