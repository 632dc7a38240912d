"""A server's answers over HTTP, as JSON."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from itertools import islice
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

_Lists = list[RankedItems] | Any  # of a server that was not asked for a frame


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

    Requests for recommendations that have to wait are computed together if they differ in nothing
    but the users. What other requests ask for may change scores in their last digit, as products of
    matrices of another size do.

    Args:
        load: Makes the server; called at once, and at each reload.
        max_ids: How many users or items a request may ask for, and how many users are computed
            together.
        max_k: How long lists may be.
        max_bytes: Size of a request's body.
        num_threads: How many computations run at a time; other requests wait.

    Returns:
        The application. ``application.state.server`` is what it answers from.
    """
    return _Service(load, max_ids, max_k, max_bytes, num_threads).app


class _Batch:
    """Requests for recommendations that differ in nothing but the users: one call answers them."""

    def __init__(self) -> None:
        self.num_users = 0
        self.computed = anyio.Event()
        self._asked: list[list[Any]] = []
        self._answers: list[_Lists | Exception] = []

    def add(self, user_ids: list[Any]) -> int:
        """Adds a request; returns its number."""
        self.num_users += len(user_ids)
        self._asked.append(user_ids)
        return len(self._asked) - 1

    def compute(self, recommend: Callable[[list[Any]], _Lists]) -> None:
        """Answers all requests: at once, or each by itself where one of them causes an error."""

        def answer(user_ids: list[Any]) -> _Lists | Exception:
            try:
                return recommend(user_ids)
            except Exception as error:  # raised again for the request that caused it
                return error

        together = answer([user_id for user_ids in self._asked for user_id in user_ids])
        if isinstance(together, Exception):
            self._answers = [answer(user_ids) for user_ids in self._asked]
        else:
            lists = iter(together)
            self._answers = [list(islice(lists, len(user_ids))) for user_ids in self._asked]

    def lists(self, number: int) -> _Lists:
        """The lists of a request, or the error that it caused."""
        answer = self._answers[number]
        if isinstance(answer, Exception):
            raise answer
        return answer


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
        self._waiting: dict[tuple[Server, str], _Batch] = {}
        self._adding = threading.Lock()
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
        user_ids = asked.pop("user_ids")
        key = self.app.state.server, json.dumps(asked, sort_keys=True)
        with self._adding:
            batch = self._waiting.get(key)
            if batch is None or batch.num_users + len(user_ids) > self._max_ids:
                batch = self._waiting[key] = _Batch()
            number = batch.add(user_ids)
        if number == 0:
            try:
                with anyio.CancelScope(shield=True):  # others wait for it, too
                    await anyio.to_thread.run_sync(
                        self._compute, key, batch, asked, limiter=self._limiter
                    )
            finally:  # no request waits for what will not come, or joins it
                self._close(key, batch)
                batch.computed.set()
        await batch.computed.wait()
        with _errors_told():
            lists = batch.lists(number)
        return {"recommendations": _entries("user_id", user_ids, lists, "scores")}

    def _compute(self, key: tuple[Server, str], batch: _Batch, arguments: dict[str, Any]) -> None:
        server, _ = key
        self._close(key, batch)
        batch.compute(partial(server.recommend, **arguments))

    def _close(self, key: tuple[Server, str], batch: _Batch) -> None:
        """No request is added to the batch any more."""
        with self._adding:
            if self._waiting.get(key) is batch:
                del self._waiting[key]

    async def similar(self, request: Request) -> dict[str, Any]:
        asked = await self._asked(request, _SIMILAR, "item_ids")
        server: Server = self.app.state.server

        with _errors_told():
            lists = await anyio.to_thread.run_sync(
                partial(server.similar, **asked), limiter=self._limiter
            )
        strengths = f"{server.similarity}s"
        return {"similar": _entries("item_id", asked["item_ids"], lists, strengths)}

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


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except (UnknownUserError, UnknownItemError) as error:
        raise HTTPException(404, str(error)) from error
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    except FloatingPointError as error:
        raise HTTPException(500, str(error)) from error


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


def _entries(kind: str, asked: list[Any], lists: _Lists, scores: str) -> list[dict[str, Any]]:
    return [
        {kind: entry, "item_ids": row.item.tolist(), scores: row.score.tolist()}
        for entry, row in zip(asked, lists, strict=True)
    ]
