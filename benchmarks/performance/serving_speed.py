"""What recommendations cost once a model is trained: export, indexes, one user at a time.

    python -m benchmarks.performance.serving_speed
    python -m benchmarks.performance.serving_speed --users 1000000 --items 1000000 --k 20

LightGCN on made-up links, untrained: what is measured depends on sizes, not on what was learned.

- **export**: ``export_recommendations`` of all users, users per second and peak memory above the
  model and its vectors;
- **FAISS**: time to build each index, its recall@k (share of the exact lists' items, over
  ``--queries`` users) and searches per second;
- **ONNX**: size of the file (onnxruntime has to be there for the searches per second);
- **ranking**: microseconds for a user's k best of 7,000 to 500,000 items, median and least over
  repeats with ``--queries`` users, and memory at its peak above the vectors;
- **one user**: median time of ``recommend`` for one user, which propagates each time, and of a
  search for a vector at hand.

Seconds are the processor's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, TypeVar

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg import LightGCN, recommend
from alignrec_pyg.evaluation.ranking import embeddings, top_items
from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.graph import ITEM, USER
from alignrec_pyg.models.base import inner_products
from alignrec_pyg.serving import ItemIndex, export_onnx, export_recommendations
from alignrec_pyg.serving.faiss_index import IndexKind, index_recall
from alignrec_pyg.text_tables import markdown_table
from benchmarks.performance.made_up import Shape, make_graphs
from benchmarks.performance.measuring import log, make_parser, megabytes, origin, positive_int

KINDS: tuple[IndexKind, ...] = ("flat", "hnsw")
_LINKS = 8  # per user
_CATALOGUES = (7_000, 50_000, 100_000, 500_000)
_REPEATS = 10
ResultT = TypeVar("ResultT")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, threads=1)
    add = parser.add_argument
    add("--users", type=positive_int, default=200_000, metavar="N", help="(200000)")
    add("--items", type=positive_int, default=100_000, metavar="N", help="(100000)")
    add("--dim", type=positive_int, default=64, metavar="N", help="width of the vectors (64)")
    add("--k", type=positive_int, default=50, metavar="N", help="length of the lists (50)")
    add("--queries", type=positive_int, default=1000, metavar="N", help="of the indexes (1000)")
    options = parser.parse_args(arguments)
    if options.queries > options.users:
        parser.error(f"--queries: needs to be at most --users (got {options.queries})")
    if options.k > options.items:
        parser.error(f"--k: needs to be at most --items (got {options.k})")
    torch.set_num_threads(options.threads)
    data = _graph(options.users, options.items)
    torch.manual_seed(0)
    model = LightGCN(data, embedding_dim=options.dim)
    rows = [["what", "set-up", "speed", "result"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measurements: list[Callable[[], list[str]]] = [
            partial(_export, model, data, folder / "best.parquet", options.k),
            *(partial(_index, model, data, kind, options.queries, options.k) for kind in KINDS),
            partial(_onnx, model, data, folder / "scorer.onnx", options.k, options.threads),
            *(
                partial(_ranking, items, options.dim, options.queries, options.k)
                for items in _CATALOGUES
            ),
            partial(_one_user, model, data, options.k),
        ]
        for measure in measurements:
            rows.append(measure())
            log("  ".join(rows[-1]))
    print(markdown_table(rows, left=range(4)))
    print(
        f"\n{options.users:,} users, {options.items:,} items, width {options.dim}, k {options.k}, "
        f"{origin(torch.device('cpu'))}"
    )
    return 0


def taken(
    function: Callable[..., ResultT], *arguments: Any, **options: Any
) -> tuple[ResultT, float]:
    """What a call gives, and its seconds of the processor."""
    start = process_time()
    result = function(*arguments, **options)
    return result, process_time() - start


def _graph(num_users: int, num_items: int) -> HeteroData:
    links = num_users * _LINKS
    data, _, _ = make_graphs(Shape(num_users, num_items, links, num_users, num_users), {})
    data[USER].id = np.array([f"A{number:013d}" for number in range(num_users)], dtype=object)
    data[ITEM].id = np.array([f"B{number:09d}" for number in range(num_items)], dtype=object)
    return data


def _export(model: LightGCN, data: HeteroData, path: Path, k: int) -> list[str]:
    embeddings(model, data)  # prepares the graph
    with PeakMemory(torch.device("cpu")) as memory:
        count, seconds = taken(export_recommendations, model, data, path, k)
    result = f"{count:,} rows, {path.stat().st_size / 1e6:,.0f} MB, peak MB "
    speed = f"{model.num_users / seconds:,.0f} users/s"
    return ["export to parquet", "", speed, result + megabytes(memory.peak_bytes)]


def _index(
    model: LightGCN, data: HeteroData, kind: IndexKind, num_queries: int, k: int
) -> list[str]:
    user_x: Tensor = embeddings(model, data)[0][:num_queries]
    index, building = taken(ItemIndex.build, model, data, kind)
    found, seconds = taken(index.recommend, user_x, k)
    exact = ItemIndex.build(model, data, "flat").recommend(user_x, k)
    alone = median(taken(index.recommend, user_x[n : n + 1], k)[1] for n in range(_REPEATS))
    speed = f"{num_queries / seconds:,.0f} users/s, one {1000 * alone:.2f} ms"
    recall = f"recall@{k} {index_recall(found, exact):.4f}"
    return [f"FAISS {kind}", f"{building:.1f} s", speed, recall]


def _onnx(model: LightGCN, data: HeteroData, path: Path, k: int, threads: int) -> list[str]:
    _, writing = taken(export_onnx, model, data, path, k)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings)
    nothing = np.full((1, 1), model.num_items, dtype=np.int64)
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


def _one_user(model: LightGCN, data: HeteroData, k: int) -> list[str]:
    asked = data[USER].id[:_REPEATS]
    seconds = median(taken(recommend, model, data, [user], k=k)[1] for user in asked)
    return ["recommend, one user", "", f"one {1000 * seconds:,.1f} ms", ""]


if __name__ == "__main__":
    sys.exit(main())
