import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

from alignrec_pyg import BPR, EASE, CheckpointError, ItemKNN, Server

anyio = pytest.importorskip("anyio")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

from alignrec_pyg.serving.service import make_service  # noqa: E402

JSON = {"Content-Type": "application/json"}


@contextmanager
def running(service):
    """The port at which a service answers while the block runs."""
    config = uvicorn.Config(service, log_level="critical", access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def ask(port, path, body=None, headers=JSON, method=None):
    """Status and JSON of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body)
    try:
        connection.request(method or ("GET" if body is None else "POST"), path, content, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def built(toy, seed):
    torch.manual_seed(seed)
    return Server(BPR(toy), toy)


@pytest.fixture
def made(toy):
    """What the service loads, one after the other; and the service."""
    servers = [built(toy, 0), built(toy, 1)]
    waiting = list(servers)

    def load():
        if not waiting:
            raise CheckpointError("the folder is empty")
        return waiting.pop(0)

    return servers, make_service(load, max_ids=3, max_k=4, max_bytes=2000, num_threads=2)


def test_answers_are_those_of_the_server(made):
    (server, _), service = made
    with running(service) as port:
        status, told = ask(port, "/recommend", {"user_ids": ["ann", "cy"], "k": 2})
        lists = server.recommend(["ann", "cy"], 2)
        assert (status, list(told)) == (200, ["recommendations"])
        assert told["recommendations"] == [
            {"user_id": user, "item_ids": row.item.tolist(), "scores": row.score.tolist()}
            for user, row in zip(["ann", "cy"], lists, strict=True)
        ]
        limits = {"candidates": [10, 20, 30], "exclude": [20], "exclude_known": False}
        asked = {"user_ids": ["ann", "zoe"], "unknown": "popular", **limits}
        _, told = ask(port, "/recommend", asked)
        assert [set(row["item_ids"]) for row in told["recommendations"]] == [{10, 30}] * 2
        status, told = ask(port, "/similar", {"item_ids": [20], "k": 2, "exclude": [10]})
        (row,) = server.similar([20], 2, exclude=[10])
        assert status == 200
        assert told == {
            "similar": [
                {"item_id": 20, "item_ids": row.item.tolist(), "cosines": row.score.tolist()}
            ]
        }
        status, told = ask(port, "/health")
        assert (status, told["status"], told["model"]) == (200, "ok", "BPR")
        assert (told["num_users"], told["num_items"]) == (3, 4)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/recommend", {"user_ids": ["zoe"]}, 404, "'user_ids' needs to hold ids of the data's 3"),
        ("/similar", {"item_ids": ["10"]}, 404, "'item_ids' needs to hold ids of the data's 4"),
        ("/recommend", {"user_ids": ["ann"], "k": 5}, 400, "'k' needs to be in [1, 4] (got 5)"),
        ("/recommend", {"user_ids": ["ann"], "k": True}, 400, "'k' needs to be a whole number"),
        ("/recommend", {"user_ids": ["ann"] * 4}, 413, "'user_ids' needs to hold at most 3 ids"),
        ("/recommend", {"user_ids": "ann"}, 400, "'user_ids' needs to be a list of strings or wh"),
        ("/recommend", {"user_ids": [True]}, 400, "'user_ids' needs to be a list of strings"),
        ("/recommend", {"user_ids": [{}]}, 400, "'user_ids' needs to be a list of strings"),
        ("/recommend", {"k": 3}, 400, "the fields are user_ids, k, candidates, exclude, exclude_"),
        ("/similar", {"item_ids": [10], "users": 1}, 400, "'users' is none)"),
        ("/recommend", {"user_ids": ["ann"], "unknown": "x"}, 400, "'unknown' needs to be one of"),
        ("/recommend", {"user_ids": ["ann"], "exclude": ["z" * 3000]}, 413, "at most 2000 bytes"),
        ("/recommend", b"{", 400, "the body needs to be JSON ("),
        ("/recommend", b"[" * 1999, 400, "the body needs to be JSON"),
        ("/recommend", b"\xff", 400, "the body needs to be JSON ("),
        ("/recommend", [1], 400, "the body needs to be a JSON object"),
        ("/nothing", {}, 404, "Not Found"),
    ],
)
def test_what_does_not_fit_is_told(made, path, body, status, message):
    _, service = made
    with running(service) as port:
        found, told = ask(port, path, body)
        assert (found, list(told)) == (status, ["error"])
        assert message in told["error"]
        assert ask(port, "/health")[0] == 200


def test_other_methods_and_pages_of_other_sites_are_refused(made):
    _, service = made
    with running(service) as port:
        assert ask(port, "/recommend")[0] == 405
        for path in ("/recommend", "/reload"):
            for headers in ({}, {"Content-Type": "text/plain"}):
                status, told = ask(port, path, {}, headers)
                assert status == 415
                assert "needs to be application/json" in told["error"]


@pytest.mark.parametrize("model_cls", [ItemKNN, EASE])
def test_similar_items_of_models_without_vectors(toy, model_cls):
    model = model_cls(toy)
    model.solve(toy)
    service = make_service(lambda: Server(model, toy))
    with running(service) as port:
        status, told = ask(port, "/similar", {"item_ids": [10, 40]})
        assert status == 200
        (row, nothing) = told["similar"]
        assert (row["item_id"], row["item_ids"]) == (10, [20])  # which ann has, too
        weight = model.item_weights[0, 1] if model_cls is EASE else model.similarity[1].max()
        assert row["scores"] == [pytest.approx(float(weight))]
        assert nothing == {"item_id": 40, "item_ids": [], "scores": []}  # which only cy has
        assert ask(port, "/recommend", {"user_ids": ["ann"]})[0] == 200


def test_own_scorers_have_no_similar_items(toy):
    class Own(BPR):
        def scorer(self, data, items=None):
            return super().scorer(data, items)

    service = make_service(lambda: Server(Own(toy), toy))
    with running(service) as port:
        status, told = ask(port, "/similar", {"item_ids": [10]})
        assert status == 400
        assert told["error"].startswith("vectors are needed")


def test_a_new_model_takes_over_without_a_gap(made):
    (old, new), service = made
    asked = {"user_ids": ["ann"], "k": 2, "exclude_known": False}
    scores = [s.recommend("ann", 2, exclude_known=False)[0].score.tolist() for s in (old, new)]
    assert scores[0] != scores[1]
    with running(service) as port, ThreadPoolExecutor(4) as threads:
        before = [threads.submit(ask, port, "/recommend", asked) for _ in range(20)]
        assert ask(port, "/reload", {})[0] == 200
        after = [threads.submit(ask, port, "/recommend", asked) for _ in range(20)]
        answers = [future.result() for future in before]
        assert {status for status, _ in answers} == {200}
        assert all(told["recommendations"][0]["scores"] in scores for _, told in answers)
        for status, told in (future.result() for future in after):
            assert (status, told["recommendations"][0]["scores"]) == (200, scores[1])
        status, told = ask(port, "/reload", {})
        assert status == 500
        assert told["error"] == "the folder is empty (the previous model is still served)"
        assert ask(port, "/recommend", asked)[1]["recommendations"][0]["scores"] == scores[1]


def test_one_reload_at_a_time(toy):
    loads, begun, go_on = [], threading.Event(), threading.Event()

    def load():
        loads.append(built(toy, 0))
        if len(loads) == 2:
            begun.set()
            go_on.wait(60)
        return loads[-1]

    with running(make_service(load)) as port, ThreadPoolExecutor(1) as threads:
        first = threads.submit(ask, port, "/reload", {})
        assert begun.wait(60)
        assert ask(port, "/reload", {})[0] == 409
        assert ask(port, "/recommend", {"user_ids": ["ann"]})[0] == 200  # meanwhile
        go_on.set()
        assert first.result()[0] == 200
    assert len(loads) == 2


@pytest.fixture
def held(toy):
    """A server whose first call for users waits until it is released; and its calls."""
    server, calls = built(toy, 0), []
    begun, released = threading.Event(), threading.Event()
    recommend = server.recommend

    def recorded(user_ids, **arguments):
        calls.append(list(user_ids))
        if len(calls) == 1:
            begun.set()
            assert released.wait(60)
        return recommend(user_ids, **arguments)

    server.recommend = recorded
    return server, calls, begun, released


def asked_while_one_is_computed(held, bodies):
    """Answers to requests that arrive, one after the other, while another one is computed."""
    server, calls, begun, released = held
    service = make_service(lambda: server, max_ids=3, num_threads=1)
    with running(service) as port, ThreadPoolExecutor(len(bodies) + 1) as threads:
        threads.submit(ask, port, "/recommend", {"user_ids": ["ann"]})
        assert begun.wait(60)
        waiting = []
        for body in bodies:
            waiting.append(threads.submit(ask, port, "/recommend", body))
            time.sleep(0.2)  # until it has arrived
        released.set()
        return calls, [future.result() for future in waiting]


def test_requests_that_wait_are_computed_together(held, toy):
    bodies = [{"user_ids": ["cy"]}, {"user_ids": ["ann", "bob"]}, {"user_ids": ["bob"]}]
    bodies += [{"user_ids": ["ann"], "k": 1}, {"user_ids": ["ann"], "exclude": [10]}]
    calls, answers = asked_while_one_is_computed(held, bodies)
    # not together: more users than a request may have, other arguments
    assert calls == [["ann"], ["cy", "ann", "bob"], ["bob"], ["ann"], ["ann"]]
    alone = built(toy, 0)
    for body, (status, told) in zip(bodies, answers, strict=True):
        assert status == 200
        lists = alone.recommend(**{"k": 10, **body})
        for user, row, expected in zip(
            body["user_ids"], told["recommendations"], lists, strict=True
        ):
            assert (row["user_id"], row["item_ids"]) == (user, expected.item.tolist())
            assert row["scores"] == pytest.approx(expected.score.tolist(), rel=1e-5)


def test_an_error_reaches_only_the_request_that_causes_it(held):
    bodies = [{"user_ids": ["cy"]}, {"user_ids": ["zoe"]}, {"user_ids": ["bob"]}]
    _, answers = asked_while_one_is_computed(held, bodies)
    assert [status for status, _ in answers] == [200, 404, 200]
    assert [told["recommendations"][0]["user_id"] for _, told in (answers[0], answers[2])] == [
        "cy",
        "bob",
    ]


def test_a_computation_that_cannot_start_holds_up_no_later_request(made, monkeypatch):
    _, service = made
    run_sync, calls = anyio.to_thread.run_sync, []

    async def failing_once(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            raise RuntimeError("can't start new thread")
        return await run_sync(*arguments, **options)

    with running(service) as port:
        monkeypatch.setattr(anyio.to_thread, "run_sync", failing_once)
        body = {"user_ids": ["ann"]}
        with pytest.raises(json.JSONDecodeError):  # "Internal Server Error"
            ask(port, "/recommend", body)
        assert ask(port, "/recommend", body)[0] == 200
