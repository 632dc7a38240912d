"""A web server on this machine, whose manners a test decides."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Route = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Routes by path, and the requests that came: path and ``Range``."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.requests.append((self.path, self.headers.get("Range")))
                self.close_connection = True
                route = outer.routes.get(self.path)
                if route is None:
                    self.send_error(404)
                else:
                    route(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def serve(
        self,
        path: str,
        body: bytes,
        *,
        kind: str = "application/octet-stream",
        tag: str | None = '"v1"',
        drops: int = 0,
        piece: int = 1000,
    ) -> None:
        """``body`` at ``path``, with ranges where there is a tag; breaks off ``drops`` times."""
        left = [drops]

        def answer(handler: BaseHTTPRequestHandler) -> None:
            start = 0
            wanted = handler.headers.get("Range")
            if wanted and tag and handler.headers.get("If-Range") == tag:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            handler.send_response(206 if start else 200)
            handler.send_header("Content-Type", kind)
            handler.send_header("Content-Length", str(len(body) - start))
            if tag:
                handler.send_header("ETag", tag)
            if start:
                handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            handler.end_headers()
            if left[0] > 0:
                left[0] -= 1
                handler.wfile.write(body[start : start + piece])
            else:
                handler.wfile.write(body[start:])

        self.routes[path] = answer

    def status(self, path: str, code: int, *, location: str | None = None) -> None:
        """An empty answer with a status, at ``path``."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(code)
            handler.send_header("Content-Length", "0")
            if location:
                handler.send_header("Location", location)
            handler.end_headers()

        self.routes[path] = answer


@pytest.fixture
def server() -> Iterator[Server]:
    """A server without routes: whatever is asked for is not found."""
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield made
    made.http.shutdown()
    made.http.server_close()
    thread.join()
