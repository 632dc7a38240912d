import socket
import sys

import pytest

from alignrec_pyg import Server, load
from alignrec_pyg.cli import main
from alignrec_pyg.cli.runs import load_run

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@pytest.fixture
def served(monkeypatch):
    """What uvicorn is given, in place of serving it."""
    given = []

    def run(self, sockets):
        (listening,) = sockets
        given.append((self.config.app, listening.getsockname()))
        raise KeyboardInterrupt  # as uvicorn does after Ctrl-C, when all is closed

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return given


def test_a_run_and_a_saved_model_are_served_on_this_machine(run, tmp_path, served, capsys):
    loaded = load_run(run, None, "cpu")
    loaded.model.save_pretrained(tmp_path, loaded.known)
    expected = Server(*load(tmp_path)).recommend(["u1"], 5)[0].item.tolist()
    for folder in (run, tmp_path):
        assert main(["serve", str(folder), "--port", "0", "--threads", "2"]) == 0
        app, (host, port) = served.pop()
        told = capsys.readouterr().err
        assert f"AlignRec of 40 users and 60 items: http://127.0.0.1:{port} (Ctrl-C" in told
        assert host == "127.0.0.1"
        server = app.state.server
        assert server.recommend(["u1"], 5)[0].item.tolist() == expected
        assert server.model is None  # vectors and links are all that is kept


def test_addresses_that_cannot_be_used(run, served, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", str(run), "--port", port]) == 2
    assert f"error: --host, --port: 127.0.0.1 port {port} cannot be" in capsys.readouterr().err
    assert main(["serve", str(run), "--port", "65536"]) == 2
    assert "error: --port: needs to be at most 65535 (got 65536)" in capsys.readouterr().err
    assert main(["serve", str(run / "nothing"), "--port", "0"]) == 1
    assert "holds no trained model" in capsys.readouterr().err
    assert served == []


def test_without_the_packages_it_says_what_to_install(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", str(run)]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("error: alignrec serve needs 'uvicorn', which cannot be imported (")
    assert "`pip install starlette uvicorn`, or in a checkout `uv sync --extra serve`" in told
