import gzip
import hashlib
import multiprocessing
import os
import random

import pytest

from alignrec_pyg.atomic import LockedError, folder_lock
from alignrec_pyg.datasets import download, transfer

BODY = random.Random(0).randbytes(5000)
HASH = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(transfer, "_CHUNK", 500)


def fetch(server, path, **arguments):
    return download(f"{server.url}/data.b", path, backoff=0.01, **arguments)


def test_whole_files_get_the_name_and_are_not_fetched_again(server, tmp_path):
    server.serve("/data.b", BODY)
    path = tmp_path / "deep" / "data.b"
    assert fetch(server, path, sha256=HASH.upper()) == path
    assert path.read_bytes() == BODY
    assert fetch(server, path, sha256=HASH).read_bytes() == BODY
    assert len(server.requests) == 1
    assert {entry.name for entry in path.parent.iterdir()} <= {"data.b", ".alignrec-data.b.lock"}


def test_dropped_connections_are_taken_up_where_they_broke(server, tmp_path):
    server.serve("/data.b", BODY, drops=3)
    assert fetch(server, tmp_path / "data.b").read_bytes() == BODY
    ranges = [wanted for _, wanted in server.requests]
    assert ranges == [None, "bytes=1000-", "bytes=2000-", "bytes=3000-"]


def test_a_later_process_goes_on_if_the_file_is_the_same(server, tmp_path):
    path = tmp_path / "data.b"
    server.serve("/data.b", BODY, drops=1)
    with pytest.raises(RuntimeError, match="1 attempts failed"):
        fetch(server, path, attempts=1)
    assert not path.exists()
    assert fetch(server, path, sha256=HASH).read_bytes() == BODY
    assert server.requests == [("/data.b", None), ("/data.b", "bytes=1000-")]


def test_parts_of_another_version_are_thrown_away(server, tmp_path):
    (tmp_path / ".alignrec-data.b.download").write_bytes(b"old" * 100)
    (tmp_path / ".alignrec-data.b.download.tag").write_text('"v0"')
    server.serve("/data.b", BODY)
    assert fetch(server, tmp_path / "data.b", sha256=HASH).read_bytes() == BODY


def test_parts_without_a_tag_are_not_trusted(server, tmp_path):
    (tmp_path / ".alignrec-data.b.download").write_bytes(b"old" * 100)
    server.serve("/data.b", BODY, tag=None, drops=2)
    assert fetch(server, tmp_path / "data.b").read_bytes() == BODY
    assert {wanted for _, wanted in server.requests} == {None}


def test_what_others_download_there_is_left(server, tmp_path):
    names = ["data.b.part", "data.b.part.tag", "data.b.lock"]
    for name in names:
        (tmp_path / name).write_bytes(b"a browser's")
    server.serve("/data.b", BODY, drops=1)
    assert fetch(server, tmp_path / "data.b", sha256=HASH).read_bytes() == BODY
    assert all((tmp_path / name).read_bytes() == b"a browser's" for name in names)


@pytest.mark.parametrize("part", [b"x" * 9000, BODY])
def test_parts_that_nothing_can_be_added_to(server, tmp_path, part):
    """Longer than the file, which starts anew, or the whole file, which is taken."""
    (tmp_path / ".alignrec-data.b.download").write_bytes(part)
    (tmp_path / ".alignrec-data.b.download.tag").write_text('"v1"')

    def answer(handler):
        if handler.headers.get("Range"):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(BODY)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
        else:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(BODY)))
            handler.end_headers()
            handler.wfile.write(BODY)

    server.routes["/data.b"] = answer
    assert fetch(server, tmp_path / "data.b").read_bytes() == BODY
    assert len(server.requests) == (1 if part == BODY else 2)


def test_wrong_hashes_leave_no_file(server, tmp_path):
    server.serve("/data.b", BODY)
    with pytest.raises(ValueError, match="another SHA-256 than 0000"):
        fetch(server, tmp_path / "data.b", sha256="0" * 64)
    assert not list(tmp_path.glob("data.b")) + list(tmp_path.glob("*.download*"))


def test_files_that_are_there_are_checked_and_left(server, tmp_path):
    path = tmp_path / "data.b"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match="needs the SHA-256 .*remove it to fetch it anew"):
        fetch(server, path, sha256=HASH)
    assert path.read_bytes() == b"mine"
    assert server.requests == []


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_web_pages_are_no_data(server, tmp_path, kind):
    page = b"\n <!DOCTYPE html><html>Quota exceeded</html>"
    server.serve("/data.b", page, kind=kind)
    with pytest.raises(RuntimeError, match="a web page came instead.*By hand: .*data.b") as caught:
        fetch(server, tmp_path / "data.b")
    assert f"save it as {tmp_path / 'data.b'}" in str(caught.value)
    assert not (tmp_path / "data.b").exists()
    assert len(server.requests) == 1


def test_what_should_be_gzip_is(server, tmp_path):
    url = f"{server.url}/a.gz"
    server.serve("/a.gz", b"plain")
    with pytest.raises(RuntimeError, match="no gzip file, it begins with b'plain'"):
        download(url, tmp_path / "a.gz")
    server.serve("/a.gz", gzip.compress(b"plain"))
    assert gzip.decompress(download(url, tmp_path / "a.gz").read_bytes()) == b"plain"


def test_dead_links_are_not_tried_again(server, tmp_path):
    with pytest.raises(RuntimeError, match="answered 404 Not Found.*By hand: open the address"):
        fetch(server, tmp_path / "data.b")
    assert len(server.requests) == 1


def test_busy_servers_are(server, tmp_path):
    server.status("/data.b", 503)
    with pytest.raises(RuntimeError, match="3 attempts failed, the last: the server answered 503"):
        fetch(server, tmp_path / "data.b", attempts=3)
    assert len(server.requests) == 3


def test_no_server_at_all(tmp_path):
    with pytest.raises(RuntimeError, match="1 attempts failed"):
        download("http://127.0.0.1:9/x", tmp_path / "x", attempts=1)


def test_no_room_on_the_disk(server, tmp_path, monkeypatch):
    server.serve("/data.b", BODY)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RuntimeError, match="5,000 bytes are to come and 10 are free"):
        fetch(server, tmp_path / "data.b")


def _fetch_in_process(url, path, results):
    results.put(download(url, path).read_bytes() == BODY)


def test_two_processes_fetch_a_file_once(server, tmp_path):
    server.serve("/data.b", BODY, drops=2)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (f"{server.url}/data.b", tmp_path / "data.b", results)
    processes = [context.Process(target=_fetch_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [True, True]
    for process in processes:
        process.join()
    assert [wanted for _, wanted in server.requests] == [None, "bytes=1000-", "bytes=2000-"]


def test_waiting_for_another_process_ends(server, tmp_path):
    with (
        folder_lock(tmp_path, "data.b"),
        pytest.raises(LockedError, match=f"data.b is in use by process {os.getpid()}"),
    ):
        fetch(server, tmp_path / "data.b", lock_seconds=0.01)


@pytest.mark.parametrize(
    ("url", "sha256", "message"),
    [
        ("ftp://x/y", None, "'url' needs to begin with http"),
        ("file:///etc/passwd", None, "'url' needs to begin with http"),
        ("http://x/y", "abc", "'sha256' needs to be 64 hexadecimal digits"),
    ],
)
def test_arguments_are_checked(tmp_path, url, sha256, message):
    with pytest.raises(ValueError, match=message):
        download(url, tmp_path / "y", sha256=sha256)
