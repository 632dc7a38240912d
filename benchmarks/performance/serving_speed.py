"""What recommendations cost once a model is trained: one user, many users, export, indexes.

    python -m benchmarks.performance.serving_speed
    python -m benchmarks.performance.serving_speed --users 200000 --links 1600000 --k 50

LightGCN on made-up links, untrained: what is measured depends on sizes, not on what was learned.

- **server**: time to make a :class:`~alignrec_pyg.Server`, which propagates; its vectors and links,
  and memory at its peak above model and graph;
- **one user**, **one item**: median and longest time of ``recommend`` and ``similar``;
- **users at once**: users per second of one ``recommend`` for ``--queries`` users;
- **export**: ``to_parquet`` of ``--exported`` users, users per second and peak memory above the
  server;
- **implicit**: the same vectors and known items in the package ``implicit``, where it is installed;
- **FAISS**: time to build each index, its recall@k (share of the exact lists' items, over
  ``--queries`` users) and searches per second;
- **ONNX**: size of the file (onnxruntime has to be there for the time of a search);
- **ranking**: microseconds for a user's k best of 7,000 to 500,000 items, median and least over
  repeats with ``--queries`` users, and memory at its peak above the vectors.

Seconds are the processor's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, TypeVar

import numpy as np
import onnxruntime
import torch
from scipy.sparse import csr_matrix
from torch_geometric.data import HeteroData

from alignrec_pyg import LightGCN, Server
from alignrec_pyg.checks import require_package
from alignrec_pyg.evaluation.ranking import embeddings, top_items
from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.graph import INTERACTS, ITEM, USER
from alignrec_pyg.models.base import inner_products
from alignrec_pyg.serving.faiss_index import IndexKind, ItemIndex, index_recall
from alignrec_pyg.text_tables import markdown_table
from benchmarks.performance.made_up import Shape, make_graphs
from benchmarks.performance.measuring import log, make_parser, megabytes, origin, positive_int

KINDS: tuple[IndexKind, ...] = ("flat", "hnsw")
_CATALOGUES = (7_000, 50_000, 100_000, 500_000)
_REPEATS = 10
_ALONE = 50  # users and items asked for one by one
ResultT = TypeVar("ResultT")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, threads=1)
    add = parser.add_argument
    add("--users", type=positive_int, default=1_000_000, metavar="N", help="(1000000)")
    add("--items", type=positive_int, default=100_000, metavar="N", help="(100000)")
    add("--links", type=positive_int, default=5_000_000, metavar="N", help="known (5000000)")
    add("--dim", type=positive_int, default=64, metavar="N", help="width of the vectors (64)")
    add("--k", type=positive_int, default=20, metavar="N", help="length of the lists (20)")
    add("--queries", type=positive_int, default=1000, metavar="N", help="users at once (1000)")
    add("--exported", type=positive_int, default=20_000, metavar="N", help="users (20000)")
    add("--faiss", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help="of flat, hnsw")
    options = parser.parse_args(arguments)
    for name, most in (("queries", options.users), ("exported", options.users)):
        if getattr(options, name) > most:
            parser.error(f"--{name}: needs to be at most --users (got {getattr(options, name)})")
    if options.k > options.items:
        parser.error(f"--k: needs to be at most --items (got {options.k})")
    if options.links < 3 * options.users:
        parser.error(f"--links: needs to be 3 or more for each user (got {options.links})")
    torch.set_num_threads(options.threads)
    data = _graph(options.users, options.items, options.links)
    rows = [["what", "set-up", "speed", "result"]]
    for row in _rows(data, options):
        rows.append(row)
        log("  ".join(row))
    print(markdown_table(rows, left=range(4)))
    print(
        f"\n{options.users:,} users, {options.items:,} items, {options.links:,} links, width "
        f"{options.dim}, k {options.k}, {origin(torch.device('cpu'))}"
    )
    return 0


def _rows(data: HeteroData, options: Any) -> Iterator[list[str]]:
    k, queries = options.k, options.queries
    torch.manual_seed(0)
    model = LightGCN(data, embedding_dim=options.dim)
    embeddings(model, data)  # prepares the graph
    server, row = _server(model, data)
    yield row
    del model
    rng = np.random.default_rng(0)
    users = rng.choice(data[USER].id, options.exported, replace=False)
    items = rng.choice(data[ITEM].id, min(_ALONE, options.items), replace=False)
    yield _alone("one user", partial(server.recommend, k=k), users[:_ALONE])
    yield _alone("one item", partial(server.similar, k=k), items)
    for name, call in _at_once(server, data, users[:queries], k):
        found, seconds = taken(call)
        yield [f"{name}, {queries:,} users at once", "", f"{queries / seconds:,.0f} users/s", ""]
        del found
    yield from _implicit_alone(server, data, users[:_ALONE], k)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield _export(server, folder / "best.parquet", users, k)
        for kind in options.faiss:
            yield _index(server, kind, queries, k)
        yield _onnx(server, folder / "scorer.onnx", k, options.threads)
    for num_items in _CATALOGUES:
        yield _ranking(num_items, options.dim, queries, k)


def taken(
    function: Callable[..., ResultT], *arguments: Any, **options: Any
) -> tuple[ResultT, float]:
    """What a call gives, and its seconds of the processor."""
    start = process_time()
    result = function(*arguments, **options)
    return result, process_time() - start


def _graph(num_users: int, num_items: int, links: int) -> HeteroData:
    data, _, _ = make_graphs(Shape(num_users, num_items, links, num_users, num_users), {})
    data[USER].id = np.array([f"A{number:013d}" for number in range(num_users)], dtype=object)
    data[ITEM].id = np.array([f"B{number:09d}" for number in range(num_items)], dtype=object)
    return data


def _server(model: LightGCN, data: HeteroData) -> tuple[Server, list[str]]:
    with PeakMemory(torch.device("cpu")) as memory:
        server, seconds = taken(Server, model, data, keep_model=False)
    kept = sum(x.numel() * x.element_size() for x in server.vectors)
    kept += 5 * data[INTERACTS].edge_index.size(1)  # an int32 and a bool each
    result = f"vectors and links MB {kept / 1e6:,.0f}, peak MB {megabytes(memory.peak_bytes)}"
    return server, ["server", f"{seconds:.1f} s", "", result]


def _alone(what: str, call: Callable[[Any], object], ids: Sequence[Any]) -> list[str]:
    call(ids[0])
    times = [1000 * taken(call, entry)[1] for entry in ids]
    return [what, "", f"one {median(times):.2f} ms", f"longest {max(times):.2f} ms of {len(ids)}"]


def _at_once(
    server: Server, data: HeteroData, users: np.ndarray, k: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    yield "server", partial(server.recommend, users, k)
    other = _implicit(server, data)
    if not isinstance(other, str):
        model, known = other
        numbers = server.users.numbers(users, "users").numpy()
        yield "implicit", partial(model.recommend, numbers, known[numbers], N=k)


def _implicit(server: Server, data: HeteroData) -> tuple[Any, Any] | str:
    """A model of ``implicit`` with our vectors, and what users know; or why there is none."""
    try:
        als = require_package("implicit.cpu.als", "this row", "implicit")
    except ImportError as error:
        return str(error)
    user_x, item_x = server.vectors
    model = als.AlternatingLeastSquares(factors=user_x.size(1))
    model.user_factors, model.item_factors = user_x.numpy(), item_x.contiguous().numpy()
    user, item = data[INTERACTS].edge_index.numpy()
    shape = (len(user_x), len(item_x))
    return model, csr_matrix((np.ones(len(user), dtype=np.float32), (user, item)), shape=shape)


def _implicit_alone(
    server: Server, data: HeteroData, users: np.ndarray, k: int
) -> Iterator[list[str]]:
    other = _implicit(server, data)
    if isinstance(other, str):
        yield ["implicit", "", "not measured", other]
        return
    model, known = other
    numbers = server.users.numbers(users, "users").tolist()
    yield _alone(
        "implicit, one user", lambda user: model.recommend(user, known[user], N=k), numbers
    )


def _export(server: Server, path: Path, users: np.ndarray, k: int) -> list[str]:
    with PeakMemory(torch.device("cpu")) as memory:
        count, seconds = taken(server.to_parquet, path, k, user_ids=users)
    result = f"{count:,} rows, {path.stat().st_size / 1e6:,.0f} MB, peak MB "
    speed = f"{len(users) / seconds:,.0f} users/s"
    return ["export to parquet", "", speed, result + megabytes(memory.peak_bytes)]


def _index(server: Server, kind: IndexKind, num_queries: int, k: int) -> list[str]:
    user_x, item_x = server.vectors
    user_x = user_x[:num_queries]
    index, building = taken(ItemIndex.build, item_x, server.items.ids, kind)
    found, seconds = taken(index.recommend, user_x, k)
    exact = ItemIndex.build(item_x, server.items.ids, "flat").recommend(user_x, k)
    alone = median(taken(index.recommend, user_x[n : n + 1], k)[1] for n in range(_REPEATS))
    speed = f"{num_queries / seconds:,.0f} users/s, one {1000 * alone:.2f} ms"
    recall = f"recall@{k} {index_recall(found, exact):.4f}"
    return [f"FAISS {kind}", f"{building:.1f} s", speed, recall]


def _onnx(server: Server, path: Path, k: int, threads: int) -> list[str]:
    _, writing = taken(server.to_onnx, path, k)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings)
    nothing = np.full((1, 1), len(server.items), dtype=np.int64)
    seconds = median(
        taken(session.run, None, {"user": np.array([user]), "exclude": nothing})[1]
        for user in range(_REPEATS)
    )
    size = f"{path.stat().st_size / 1e6:,.0f} MB"
    return ["ONNX", f"{writing:.1f} s", f"one {1000 * seconds:.2f} ms", size]


def _ranking(num_items: int, dim: int, num_users: int, k: int) -> list[str]:
    generator = torch.Generator().manual_seed(0)
    vectors = [torch.randn(rows, dim, generator=generator) for rows in (num_users, num_items)]
    users, known = torch.arange(num_users), torch.empty(2, 0, dtype=torch.int64)

    def rank() -> None:
        scores = inner_products(*vectors)
        for _ in top_items(scores, users, known, k, num_items=num_items, of="the ranking"):
            pass

    with PeakMemory(torch.device("cpu")) as memory:
        rank()
    seconds = [taken(rank)[1] for _ in range(_REPEATS)]
    median_us, least_us = (1e6 * value / num_users for value in (median(seconds), min(seconds)))
    speed = f"one {median_us:,.0f} us (least {least_us:,.0f})"
    return [f"ranking of {num_items:,} items", "", speed, f"peak MB {megabytes(memory.peak_bytes)}"]


if __name__ == "__main__":
    sys.exit(main())
