import time

import pytest
from torch_geometric.data import HeteroData

from alignrec_pyg.datasets import fetch_images

JPEG = b"\xff\xd8\xff\xe0" + b"j" * 100
PNG = b"\x89PNG\r\n\x1a\n" + b"p" * 100
HOSTS = ["127.0.0.1"]


def items(*urls):
    data = HeteroData()
    data["item"].num_nodes = len(urls)
    data["item"].image_url = list(urls)
    return data


def test_images_are_fetched_once(server, tmp_path):
    server.serve("/a.jpg", JPEG, kind="image/jpeg")
    server.serve("/b.png", PNG)
    a, b = f"{server.url}/a.jpg", f"{server.url}/b.png"
    data = items(a, None, b, a, "")
    report = fetch_images(data, tmp_path, hosts=HOSTS)
    paths = data["item"].image_path
    assert [path and path.read_bytes() for path in paths] == [JPEG, None, PNG, JPEG, None]
    assert paths[0] == paths[3]
    assert (report.fetched, report.cached, report.without_url, report.failed) == (3, 0, 2, {})
    again = fetch_images(data, tmp_path, hosts=HOSTS)
    assert (again.fetched, again.cached) == (0, 3)
    assert len(server.requests) == 2
    assert "images: 3 of 5 items (0 fetched, 3 in the cache), 2 have no address" in str(again)


def test_reasons_are_told_and_final_ones_kept(server, tmp_path):
    server.serve("/page", b"<html>not here</html>")
    server.serve("/large", JPEG + b"j" * 5000)
    server.status("/busy", 503)
    server.status("/round", 302, location="/round")
    names = ("/page", "/large", "/gone", "/busy", "/round")
    data = items(*(server.url + name for name in names))
    report = fetch_images(data, tmp_path, hosts=HOSTS, max_bytes=4000)
    assert report.failed == {
        "no image came": 1,
        "larger than 4,000 bytes": 1,
        "the server answered 404": 1,
        "the server answered 503": 1,
        "too many redirections": 1,
    }
    assert data["item"].image_path == [None] * 5
    assert "1: no image came (such as http://127.0.0.1" in str(report)
    server.requests.clear()
    assert fetch_images(data, tmp_path, hosts=HOSTS).failed == report.failed
    assert server.requests == [("/busy", None)]
    server.serve("/gone", PNG)
    report = fetch_images(data, tmp_path, hosts=HOSTS, retry_failed=True)
    assert data["item"].image_path[2].read_bytes() == PNG
    assert fetch_images(data, tmp_path, hosts=HOSTS).cached == 2  # /large, too: there is room now


def test_sizes_are_counted_where_none_is_stated(server, tmp_path):
    def answer(handler):
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(JPEG + b"j" * 200_000)

    server.routes["/endless"] = answer
    report = fetch_images(items(f"{server.url}/endless"), tmp_path, hosts=HOSTS, max_bytes=1000)
    assert report.failed == {"larger than 1,000 bytes": 1}


def test_slow_servers_are_left(server, tmp_path):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "400000")
        handler.end_headers()
        for _ in range(4):
            handler.wfile.write(JPEG.ljust(70_000, b"j"))
            time.sleep(0.1)

    server.routes["/slow"] = answer
    report = fetch_images(items(f"{server.url}/slow"), tmp_path, hosts=HOSTS, max_seconds=0.05)
    assert report.failed == {"not there after 0.05 s": 1}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1.evil.example/a.jpg",
        "http://evil.example@localhost/a.jpg",
        "file:///etc/passwd",
        "ftp://127.0.0.1/a.jpg",
        "//127.0.0.1/a.jpg",
        "nonsense",
        "http://[bad/a.jpg",
    ],
)
def test_other_hosts_are_not_asked(server, tmp_path, url):
    report = fetch_images(items(url), tmp_path, hosts=HOSTS)
    assert sum(report.failed.values()) == 1
    assert server.requests == []


def test_redirections_stay_within_the_hosts(server, tmp_path):
    server.serve("/a.jpg", JPEG)
    server.status("/moved", 301, location="/a.jpg")
    server.status("/out", 302, location="http://localhost/secret.jpg")
    data = items(f"{server.url}/moved", f"{server.url}/out")
    report = fetch_images(data, tmp_path, hosts=HOSTS)
    assert data["item"].image_path[0].read_bytes() == JPEG
    assert report.failed == {"the host 'localhost' is not allowed": 1}


def test_only_so_many_at_a_time(server, tmp_path):
    now, most = [0], [0]

    def answer(handler):
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.02)
        now[0] -= 1
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(JPEG)))
        handler.end_headers()
        handler.wfile.write(JPEG)

    for number in range(8):
        server.routes[f"/{number}"] = answer
    data = items(*(f"{server.url}/{number}" for number in range(8)))
    assert fetch_images(data, tmp_path, hosts=HOSTS, workers=2).fetched == 8
    assert most[0] <= 2


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ValueError, match="needs data.'item'..image_url"):
        fetch_images(HeteroData(), tmp_path)
    for name in ("timeout", "max_seconds", "max_bytes", "workers"):
        with pytest.raises(ValueError, match=f"'{name}' needs to be "):
            fetch_images(items("http://x/y"), tmp_path, **{name: 0})
    with pytest.raises(ValueError, match="'hosts' needs to be a list"):
        fetch_images(items("http://x/y"), tmp_path, hosts="x")


def test_the_address_that_is_fetched_is_the_one_that_is_checked(server, tmp_path):
    """Parsers disagree on what the host of these is."""
    server.serve("/x.jpg", JPEG)
    at = server.url.removeprefix("http://")
    tricks = [
        rf"http://{at}\@m.media-amazon.com/x.jpg",
        f"http://{at}#@m.media-amazon.com/x.jpg",
        f"http://{at}/x.jpg?@m.media-amazon.com/",
        f"http://m.media-amazon.com@{at}/x.jpg",
        rf"http:\\{at}/x.jpg",
        f"http://{at}%2f@m.media-amazon.com:0/x.jpg",
        f" http://{at}/x.jpg",
        "http:///x.jpg",
        "http://[::1/x.jpg",
        f"file://{tmp_path}/x.jpg",
    ]
    data = items(*tricks)
    report = fetch_images(data, tmp_path, hosts=["m.media-amazon.com"], timeout=2)
    assert server.requests == []
    assert data["item"].image_path == [None] * len(tricks)
    assert sum(report.failed.values()) == len(tricks)


def test_an_address_that_cannot_be_written_down_ends_nothing(server, tmp_path):
    server.serve("/b.png", PNG)
    data = items("http://127.0.0.1/\ud800", f"{server.url}/b.png")
    report = fetch_images(data, tmp_path, hosts=HOSTS)
    assert report.fetched == 1
    assert sum(report.failed.values()) == 1
