from __future__ import annotations

import os
import re
import socket
import threading
import time
from contextlib import contextmanager

import pytest

from alignrec_pyg import Server, load
from benchmarks.performance import service_load

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@contextmanager
def serving_in_a_thread(folder, threads):
    from alignrec_pyg.serving.service import make_service

    service = make_service(lambda: Server(*load(folder)), num_threads=threads)
    server = uvicorn.Server(uvicorn.Config(service, log_level="critical", access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield listening.getsockname()[1], os.getpid()
        finally:
            server.should_exit = True
            thread.join()


def test_clients_are_answered_through_a_reload(monkeypatch, capsys):
    monkeypatch.setattr(service_load, "serving", serving_in_a_thread)
    words = ["--users", "60", "--items", "40", "--links", "300", "--dim", "8", "--k", "5"]
    assert service_load.main([*words, "--clients", "3", "--seconds", "1", "--threads", "1"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"reload: status 200 after .* s, \{\"status\":\"ok\"", captured.err)
    row = captured.out.splitlines()[2].strip("| ").split(" | ")
    assert row[0] == "3"
    assert int(row[1].replace(",", "")) > 3
    times = [float(cell.replace(",", "")) for cell in row[3:7]]
    assert times == sorted(times)
    assert float(row[7]) > 0
    assert row[8] == "0"
    assert "60 users, 40 items, 300 links, width 8, k 5, 1 threads" in captured.out


def test_requests_that_fail_are_counted(monkeypatch, capsys):
    monkeypatch.setattr(service_load, "serving", serving_in_a_thread)
    words = ["--users", "60", "--items", "40", "--links", "300", "--dim", "8", "--k", "999"]
    assert service_load.main([*words, "--clients", "2", "--seconds", "1", "--threads", "1"]) == 1
    row = capsys.readouterr().out.splitlines()[2].strip("| ").split(" | ")
    assert row[8] == row[1] != "0"


def test_a_service_that_does_not_start_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(service_load.sys, "executable", "false")
    with (
        pytest.raises(RuntimeError, match=r"alignrec serve ended \("),
        service_load.serving(tmp_path, 1),
    ):
        pass


def test_sizes_have_to_fit(capsys):
    with pytest.raises(SystemExit):
        service_load.main(["--links", "9"])
    assert "--links: needs to be 3 or more for each user (got 9)" in capsys.readouterr().err
