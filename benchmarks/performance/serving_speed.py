"""What recommendations cost once a model is trained: export, indexes, one user at a time.

    python benchmarks/serving_speed.py
    python benchmarks/serving_speed.py --users 1000000 --items 1000000 --k 20

LightGCN on made-up links, untrained: what is measured depends on sizes, not on what was learned.

- **export**: ``export_recommendations`` of all users, users per second and peak memory above the
  model and its vectors;
- **FAISS**: time to build each index, its recall@k (share of the exact lists' items, over
  ``--queries`` users) and searches per second;
- **ONNX**: size of the file (onnxruntime has to be there for the searches per second);
- **one user**: median time of ``recommend`` for one user, which propagates each time, and of a
  search for a vector at hand.

One thread unless ``--threads`` says otherwise; seconds are the processor's.
Exit status: 0, 2 if the arguments do not fit.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg import LightGCN, recommend
from alignrec_pyg.cli.arguments import positive_int
from alignrec_pyg.evaluation.ranking import embeddings
from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.experiments.provenance import commit, hardware
from alignrec_pyg.experiments.session import log
from alignrec_pyg.graph import INTERACTS, ITEM, USER
from alignrec_pyg.serving import ItemIndex, export_onnx, export_recommendations
from alignrec_pyg.serving.faiss_index import IndexKind, index_recall
from benchmarks.performance.generated import Shape, generate_links

KINDS: tuple[IndexKind, ...] = ("flat", "hnsw")
_LINKS = 8  # per user
_REPEATS = 10
ResultT = TypeVar("ResultT")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints.

    Returns:
        0, 2 if the arguments do not fit.
    """
    options = _parser().parse_args(arguments)
    if options.queries > options.users or options.k > options.items:
        log("serving_speed.py: --queries needs to be at most --users, and --k at most --items")
        return 2
    torch.set_num_threads(options.threads)
    data = _graph(options.users, options.items)
    torch.manual_seed(0)
    model = LightGCN(data, embedding_dim=options.dim)
    user_x, _ = embeddings(model, data)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        rows.append(_export(model, data, Path(folder) / "best.parquet", options.k))
        log(rows[-1])
        for kind in KINDS:
            rows.append(_index(model, data, user_x[: options.queries], kind, options.k))
            log(rows[-1])
        rows.append(_onnx(model, data, Path(folder) / "scorer.onnx", options))
        log(rows[-1])
    asked = data[USER].id[:_REPEATS]
    seconds = median(taken(recommend, model, data, [user], k=options.k)[1] for user in asked)
    rows.append(f"| recommend, one user | | {1000 * seconds:,.1f} ms a user | |")
    print("| what | set-up | speed | result |\n|---|---|---|---|")
    print("\n".join(rows))
    print(
        f"\n{options.users:,} users, {options.items:,} items, width {options.dim}, k {options.k}, "
        f"{options.threads} threads, commit {commit()}, {hardware(torch.device('cpu'))}"
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
    shape = Shape(num_users, num_items, train=links, val=num_users, test=num_users)
    data = HeteroData()
    data[USER].num_nodes, data[ITEM].num_nodes = num_users, num_items
    data[USER].id = np.array([f"A{number:013d}" for number in range(num_users)], dtype=object)
    data[ITEM].id = np.array([f"B{number:09d}" for number in range(num_items)], dtype=object)
    data[INTERACTS].edge_index = generate_links(shape)[0]
    return data


def _export(model: LightGCN, data: HeteroData, path: Path, k: int) -> str:
    with PeakMemory(torch.device("cpu")) as memory:
        count, seconds = taken(export_recommendations, model, data, path, k)
    peak = "not measured" if memory.peak_bytes is None else f"{memory.peak_bytes / 1e6:,.0f} MB"
    return (
        f"| export to parquet | | {model.num_users / seconds:,.0f} users/s | {count:,} rows, "
        f"{path.stat().st_size / 1e6:,.0f} MB, peak memory {peak} |"
    )


def _index(model: LightGCN, data: HeteroData, user_x: Tensor, kind: IndexKind, k: int) -> str:
    index, building = taken(ItemIndex.build, model, data, kind)
    found, seconds = taken(index.recommend, user_x, k)
    exact = ItemIndex.build(model, data, "flat").recommend(user_x, k)
    alone = median(taken(index.recommend, user_x[n : n + 1], k)[1] for n in range(_REPEATS))
    return (
        f"| FAISS {kind} | {building:.1f} s | {len(user_x) / seconds:,.0f} users/s, one "
        f"{1000 * alone:.2f} ms | recall@{k} {index_recall(found, exact):.4f} |"
    )


def _onnx(model: LightGCN, data: HeteroData, path: Path, options: argparse.Namespace) -> str:
    _, writing = taken(export_onnx, model, data, path, options.k)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(str(path), settings)
    nothing = np.full((1, 1), model.num_items, dtype=np.int64)
    seconds = median(
        taken(session.run, None, {"user": np.array([user]), "exclude": nothing})[1]
        for user in range(_REPEATS)
    )
    return (
        f"| ONNX | {writing:.1f} s | one {1000 * seconds:.2f} ms | "
        f"{path.stat().st_size / 1e6:,.0f} MB |"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--users", type=positive_int, default=200_000, metavar="N", help="(200000)")
    add("--items", type=positive_int, default=100_000, metavar="N", help="(100000)")
    add("--dim", type=positive_int, default=64, metavar="N", help="width of the vectors (64)")
    add("--k", type=positive_int, default=50, metavar="N", help="length of the lists (50)")
    add("--queries", type=positive_int, default=1000, metavar="N", help="of the indexes (1000)")
    add("--threads", type=positive_int, default=1, metavar="N", help="of torch and ONNX (1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
