"""From a csv file to an index at a large size: what each step costs.

    python -m benchmarks.performance.files_to_index --links 10000000 --nodes 1000000 --epochs 2

Links between as many users as items are made up and written to a csv file with string ids: the
popularity of items falls as rank^-0.8, and three of four links are within two of 200 topics of a
user. They are read, split, trained on with LightGCN on sampled neighbourhoods, and evaluated; then
come a server and FAISS indexes, whose recall is measured. For each step: seconds by the clock and
of the processor, and the peak of memory above that at its beginning. The file is written to a
temporary folder, which needs 45 bytes a link.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import pyarrow as pa
import torch
from pyarrow import csv

from alignrec_pyg import LightGCN, Server, TrainConfig, evaluate, fit
from alignrec_pyg.datasets import from_files
from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.graph import USER, links_to_predict, with_links_to_predict
from alignrec_pyg.serving.faiss_index import index_recall
from alignrec_pyg.text_tables import markdown_table
from alignrec_pyg.transforms import SplitInteractions
from benchmarks.performance.measuring import log, make_parser, megabytes, origin, positive_int
from benchmarks.performance.serving_speed import KINDS

_TOPICS = 200
_TOPICS_OF_A_USER = 2
_WITHIN = 0.75  # share of links within a user's topics
_SKEW = 0.8
_EVALUATED = 2000  # users


def write_links(path: Path, links: int, nodes: int, seed: int = 0) -> int:
    """Writes distinct links in random order and gives their number, which repeats reduce."""
    rng = np.random.default_rng(seed)
    weight = (np.arange(nodes) + 1.0) ** -_SKEW
    topic = rng.integers(_TOPICS, size=nodes)
    order = np.argsort(topic, kind="stable")
    ends = np.cumsum(weight[order])
    first = np.searchsorted(topic[order], np.arange(_TOPICS + 1))
    before = np.concatenate([[0], ends])[first]
    tastes = rng.integers(_TOPICS, size=(nodes, _TOPICS_OF_A_USER))
    user = rng.integers(nodes, size=links)
    low, high = np.zeros(links), np.full(links, ends[-1])
    within = rng.random(links) < _WITHIN
    chosen = tastes[user[within], rng.integers(_TOPICS_OF_A_USER, size=within.sum())]
    low[within], high[within] = before[chosen], before[chosen + 1]
    point = low + (high - low) * rng.random(links)
    item = order[np.minimum(np.searchsorted(ends, point, side="right"), nodes - 1)]
    key = rng.permutation(np.unique(user * nodes + item))
    names = [np.char.add(letter, np.arange(nodes).astype(str)) for letter in ("user-", "item-")]
    columns = [
        pa.DictionaryArray.from_arrays(number.astype(np.int32), pa.array(ids)).cast(pa.string())
        for number, ids in zip((key // nodes, key % nodes), names, strict=True)
    ]
    csv.write_csv(pa.table(columns, names=["user", "item"]), path)
    return key.size


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, threads=2)
    add = parser.add_argument
    add("--links", type=positive_int, default=10_000_000, metavar="N", help="(10000000)")
    add("--nodes", type=positive_int, default=1_000_000, metavar="N", help="users, items (1000000)")
    add("--epochs", type=positive_int, default=2, metavar="N", help="(2)")
    add("--batch-size", type=positive_int, default=8192, metavar="N", help="(8192)")
    add("--fan-out", nargs="+", type=positive_int, default=[4, 2], metavar="N", help="(4 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = [["step", "seconds", "processor s", "more memory MB", "result"]]

    @contextmanager
    def measured(step: str) -> Iterator[list[str]]:
        result: list[str] = []
        clock, processor = perf_counter(), process_time()
        with PeakMemory(torch.device("cpu")) as memory:
            yield result
        taken = f"{perf_counter() - clock:.1f}", f"{process_time() - processor:.1f}"
        rows.append([step, *taken, megabytes(memory.peak_bytes), "; ".join(result)])
        log("  ".join(rows[-1]))

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "links.csv"
        links = write_links(path, options.links, options.nodes)
        log(f"{links:,} distinct links, {path.stat().st_size / 1e6:,.0f} MB")
        with measured("read the csv file") as result:
            data = from_files(path).data
            result.append(f"{data[USER].num_nodes:,} users")
        with measured("split at random"):
            train, val, test = SplitInteractions("random")(data)
        with measured("build LightGCN"):
            torch.manual_seed(0)
            model = LightGCN(train, num_layers=len(options.fan_out))
        links_of = links_to_predict(test)
        users = links_of[0].unique()
        users = users[torch.randperm(users.numel())[:_EVALUATED]]
        test = with_links_to_predict(test, links_of[:, torch.isin(links_of[0], users)])
        config = TrainConfig(
            batch_size=options.batch_size,
            fan_out=tuple(options.fan_out),
            max_epochs=options.epochs,
            eval_every=1,
            eval_users=_EVALUATED,
        )
        with measured(f"{options.epochs} epochs") as result:
            fitted = fit(model, train, val, config)
            values = " ".join(f"{entry['recall@20']:.4f}" for entry in fitted.history)
            result.append(f"validation recall@20 of {_EVALUATED:,} users by epoch {values}")
        with measured(f"test recall@20 of {_EVALUATED:,} users") as result:
            result.append(f"{evaluate(model, test, ks=20)['recall@20']:.4f}")
        with measured("server with all links"):
            server = Server(model, data, keep_model=False)
        user_x = server.vectors[0][users]
        found = {}
        for kind in KINDS:
            with measured(f"FAISS index, {kind}"):
                found[kind] = server.to_faiss(Path(name) / kind, kind)
            with measured(f"its lists of {users.numel():,} users") as result:
                lists = found[kind].recommend(user_x, 20)
                exact = lists if kind == "flat" else found["flat"].recommend(user_x, 20)
                result.append(f"recall@20 of the exact lists {index_recall(lists, exact):.4f}")
    print(markdown_table(rows, left=(0, 4)))
    print(f"\n{links:,} links, {options.nodes:,} users and items, {origin(torch.device('cpu'))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
