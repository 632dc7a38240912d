"""A server's answers over HTTP, as JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timezone
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from alignrec_pyg.ids import UnknownItemError, UnknownUserError
from alignrec_pyg.serving.ranked_items import RankedItems
from alignrec_pyg.serving.server import Server
from alignrec_pyg.storage import CheckpointError

_IDS = "a list of strings or whole numbers"
_RECOMMEND = {
    "user_ids": _IDS,
    "k": "a whole number",
    "candidates": _IDS,
    "exclude": _IDS,
    "exclude_known": "true or false",
    "unknown": "a string",
}
_SIMILAR = {name: _RECOMMEND[name] for name in ("k", "candidates", "exclude")} | {"item_ids": _IDS}


def make_service(
    load: Callable[[], Server],
    *,
    max_ids: int = 1000,
    max_k: int = 100,
    max_bytes: int = 1 << 20,
    num_threads: int = 1,
) -> Starlette:
    """An ASGI application that answers from a :class:`~alignrec_pyg.Server`.

    ``POST /recommend`` and ``POST /similar`` take the arguments of the methods of these names as a
    JSON object, ``GET /health`` describes the model, and ``POST /reload`` loads it again: requests
    are answered by the old server until the new one is complete, and further by the old one if
    loading fails. POST needs ``Content-Type: application/json``, which pages of other sites cannot
    send without permission.

    Args:
        load: Makes the server; called at once, and at each reload.
        max_ids: How many users or items a request may ask for.
        max_k: How long lists may be.
        max_bytes: Size of a request's body.
        num_threads: How many requests are computed at a time; others wait.

    Returns:
        The application. ``application.state.server`` is what it answers from.
    """
    return _Service(load, max_ids, max_k, max_bytes, num_threads).app


class _Service:
    def __init__(
        self,
        load: Callable[[], Server],
        max_ids: int,
        max_k: int,
        max_bytes: int,
        num_threads: int,
    ) -> None:
        self._load = load
        self._max_ids, self._max_k, self._max_bytes = max_ids, max_k, max_bytes
        self._limiter = anyio.CapacityLimiter(num_threads)
        self._reloading = False
        routes = [
            Route("/recommend", _json(self.recommend), methods=["POST"]),
            Route("/similar", _json(self.similar), methods=["POST"]),
            Route("/reload", _json(self.reload), methods=["POST"]),
            Route("/health", _json(self.health), methods=["GET"]),
        ]
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: _told})
        self._take(load())

    def _take(self, server: Server) -> None:
        # One assignment: a request sees either the old server or the new one.
        self.app.state.server = server
        self._since = datetime.now(timezone.utc).isoformat(timespec="seconds")

    async def recommend(self, request: Request) -> dict[str, Any]:
        asked = await self._asked(request, _RECOMMEND, "user_ids")
        server: Server = self.app.state.server

        def answer() -> dict[str, Any]:
            lists = server.recommend(**asked)
            return {"recommendations": _entries("user_id", asked["user_ids"], lists, "scores")}

        return await self._computed(answer)

    async def similar(self, request: Request) -> dict[str, Any]:
        asked = await self._asked(request, _SIMILAR, "item_ids")
        server: Server = self.app.state.server

        def answer() -> dict[str, Any]:
            lists = server.similar(**asked)
            return {"similar": _entries("item_id", asked["item_ids"], lists, "cosines")}

        return await self._computed(answer)

    async def reload(self, request: Request) -> dict[str, Any]:
        await self._body(request)  # there may be one, such as {}
        if self._reloading:
            raise HTTPException(409, "a reload is already in progress")
        self._reloading = True
        try:
            self._take(await anyio.to_thread.run_sync(self._load))
        except (CheckpointError, FloatingPointError, MemoryError, OSError, ValueError) as error:
            raise HTTPException(500, f"{error} (the previous model is still served)") from error
        finally:
            self._reloading = False
        return await self.health(request)

    async def health(self, request: Request) -> dict[str, Any]:
        server: Server = self.app.state.server
        return {
            "status": "ok",
            "model": server.model_name,
            "num_users": len(server.users),
            "num_items": len(server.items),
            "since": self._since,
        }

    async def _computed(self, answer: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return await anyio.to_thread.run_sync(answer, limiter=self._limiter)
        except (UnknownUserError, UnknownItemError) as error:
            raise HTTPException(404, str(error)) from error
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        except FloatingPointError as error:
            raise HTTPException(500, str(error)) from error

    async def _asked(
        self, request: Request, fields: Mapping[str, str], required: str
    ) -> dict[str, Any]:
        """The arguments that a request names, checked."""
        try:
            asked = json.loads(await self._body(request))
        except ValueError as error:
            raise HTTPException(400, f"the body needs to be JSON ({error})") from error
        except RecursionError as error:
            raise HTTPException(400, "the body needs to be JSON of a few levels") from error
        if not isinstance(asked, dict):
            raise HTTPException(400, "the body needs to be a JSON object")
        unknown = sorted(asked.keys() - fields.keys())
        if unknown or required not in asked:
            problem = f"'{unknown[0]}' is none" if unknown else f"'{required}' is needed"
            raise HTTPException(400, f"the fields are {', '.join(fields)} ({problem})")
        for name, value in asked.items():
            if not _is(fields[name], value):
                raise HTTPException(400, f"'{name}' needs to be {fields[name]} (got {value!r:.60})")
        asked = {"k": min(10, self._max_k), **asked}
        if not 1 <= asked["k"] <= self._max_k:
            raise HTTPException(400, f"'k' needs to be in [1, {self._max_k}] (got {asked['k']})")
        if len(asked[required]) > self._max_ids:
            raise HTTPException(
                413,
                f"'{required}' needs to hold at most {self._max_ids} ids (got "
                f"{len(asked[required])}): send several requests",
            )
        return asked

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise HTTPException(
                415, f"the Content-Type needs to be application/json (got {kind or 'none'})"
            )
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._max_bytes:
                raise HTTPException(413, f"the body needs to be of at most {self._max_bytes} bytes")
        return bytes(body)


def _json(
    answer: Callable[[Request], Awaitable[dict[str, Any]]],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(await answer(request))

    return endpoint


async def _told(request: Request, error: Exception) -> Response:
    status, headers = 500, None
    if isinstance(error, HTTPException):
        status, headers = error.status_code, error.headers
    return JSONResponse({"error": getattr(error, "detail", "")}, status, headers=headers)


def _is(kind: str, value: Any) -> bool:
    if kind == _IDS:
        return isinstance(value, list) and all(
            isinstance(entry, str | int) and not isinstance(entry, bool) for entry in value
        )
    types = {"a whole number": int, "true or false": bool, "a string": str}
    return type(value) is types[kind]


def _entries(
    kind: str, asked: list[Any], lists: list[RankedItems] | Any, scores: str
) -> list[dict[str, Any]]:
    return [
        {kind: entry, "item_ids": row.item.tolist(), scores: row.score.tolist()}
        for entry, row in zip(asked, lists, strict=True)
    ]
