"""What a million users and a million items cost in memory while a model trains.

    python benchmarks/memory_slope.py
    python benchmarks/memory_slope.py --models LightGCN MGCN --width 384

Each model is trained by ``fit`` (three batches of 2,048 and an evaluation of a thousand users) at
three sizes: ``--users`` and ``--items``, twice the users, twice the items. The differences are the
slopes: a user costs what it takes with ``--links`` links of its own, an item what it takes with one
feature table of ``--width`` columns and ten neighbours in the item graph. Links, features and
neighbours are made up. Every measurement has a process of its own; what it takes is the size of the
data and the largest resident size from then on, less that before the model is built. Table and
figures go to ``--out``.

Exit status: 0, 2 if the arguments do not fit.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.cli.arguments import positive_int, problems_of_folder
from alignrec_pyg.cli.options import unknown_names
from alignrec_pyg.experiments.memory import PeakMemory, memory_description
from alignrec_pyg.experiments.presets import PAPER
from alignrec_pyg.experiments.provenance import commit, hardware, versions
from alignrec_pyg.experiments.session import log
from alignrec_pyg.graph import INTERACTS, ITEM, USER, feature_key, knn_edge_type
from alignrec_pyg.training.loop import TrainConfig, fit
from benchmarks.performance.generated import Shape, generate_features, generate_links

_BATCH_SIZE = 2048
_NUM_BATCHES = 3
_NUM_EVALUATED = 1000
_NUM_NEIGHBORS = 10


class Slopes(NamedTuple):
    """Peak bytes of one model, and what more of either side adds to them.

    Args:
        base: At the first size.
        more_users: With twice the users.
        more_items: With twice the items.
        users: Users of the first size.
        items: Items of the first size.
    """

    base: int
    more_users: int
    more_items: int
    users: int
    items: int

    @property
    def per_user(self) -> float:
        """Bytes of one user more, with its links."""
        return (self.more_users - self.base) / self.users

    @property
    def per_item(self) -> float:
        """Bytes of one item more, with its features and neighbours."""
        return (self.more_items - self.base) / self.items


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the slopes.

    Returns:
        0, 2 if the arguments do not fit.
    """
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    problems = unknown_names("model", options.models, list(PAPER))
    problems = problems or problems_of_folder(options.out)
    if problems:
        for problem in problems:
            log(f"memory_slope.py: {problem}")
        return 2
    users, items = options.users, options.items
    found = {}
    for name in dict.fromkeys(options.models):
        sizes = ((users, items), (2 * users, items), (users, 2 * items))
        base, more_users, more_items = (_in_a_process(name, *size, options) for size in sizes)
        found[name] = Slopes(base, more_users, more_items, users, items)
        log(f"{name}: {_row(name, found[name])}")
    _tell(found, options)
    return 0


def _in_a_process(name: str, num_users: int, num_items: int, options: argparse.Namespace) -> int:
    """Peak bytes in a process of its own: what an earlier one left to reuse would not count."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.apply(_peak, (name, _NUM_EVALUATED, _NUM_EVALUATED, options))  # torch loads more then
        return pool.apply(_peak, (name, num_users, num_items, options))


def _peak(name: str, num_users: int, num_items: int, options: argparse.Namespace) -> int:
    """Peak bytes of training one model at one size."""
    preset = PAPER[name]
    train, val = _graphs(num_users, num_items, options.links, options.width)
    with PeakMemory(torch.device("cpu")) as memory:
        torch.manual_seed(0)
        model = preset.model(train, **preset.hparams())
        fit(model, train, val, TrainConfig(batch_size=_BATCH_SIZE, max_epochs=1))
    if memory.peak_bytes is None:
        raise SystemExit(f"memory_slope.py: {memory_description(torch.device('cpu'))}")
    return memory.peak_bytes + _bytes_of(train, val)


def _bytes_of(*graphs: HeteroData) -> int:
    """Bytes of all tensors, those that are shared once."""
    tensors = [value for graph in graphs for store in graph.stores for value in store.values()]
    storages = [value.untyped_storage() for value in tensors if isinstance(value, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _graphs(
    num_users: int, num_items: int, links: int, width: int
) -> tuple[HeteroData, HeteroData]:
    """Training graph and validation; all links are known, few of them trained or predicted."""
    shape = Shape(num_users, num_items, train=links * num_users, val=num_users, test=num_users)
    known, labels, _ = generate_links(shape)
    offsets = torch.randperm(num_items, generator=torch.Generator().manual_seed(0))[:_NUM_NEIGHBORS]
    neighbors = (torch.arange(num_items).unsqueeze(1) + offsets) % num_items  # no item twice
    item = torch.arange(num_items).repeat_interleave(_NUM_NEIGHBORS)
    table = generate_features(num_items, 0, width)
    graphs = HeteroData(), HeteroData()
    of_few = labels[:, labels[0] < _NUM_EVALUATED]
    for part, label in zip(graphs, (known[:, : _NUM_BATCHES * _BATCH_SIZE], of_few), strict=True):
        part[USER].num_nodes, part[ITEM].num_nodes = num_users, num_items
        part[INTERACTS].edge_index, part[INTERACTS].edge_label_index = known, label
        part[ITEM][feature_key("mm")] = table
        part[knn_edge_type("mm")].edge_index = torch.stack([neighbors.flatten(), item])
        part[knn_edge_type("mm")].edge_weight = torch.full((item.numel(),), 1 / _NUM_NEIGHBORS)
    return graphs


def _row(name: str, slopes: Slopes) -> str:
    # bytes of one are megabytes of a million
    per_user, per_item = slopes.per_user / 1e3, slopes.per_item / 1e3
    return f"| {name} | {slopes.base / 1e6:.0f} | {per_user:.1f} | {per_item:.1f} |"


def _tell(found: Mapping[str, Slopes], options: argparse.Namespace) -> None:
    lines = [
        "| model | MB at the first size | GB per million users | GB per million items |",
        "| --- | ---: | ---: | ---: |",
        *(_row(name, slopes) for name, slopes in found.items()),
    ]
    print("\n" + "\n".join(lines))
    about = {
        "users": options.users,
        "items": options.items,
        "links per user": options.links,
        "width of features": options.width,
        "memory": memory_description(torch.device("cpu")),
        "commit": commit(),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "memory_slope.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    models = {
        name: {**slopes._asdict(), "per_user": slopes.per_user, "per_item": slopes.per_item}
        for name, slopes in found.items()
    }
    text = json.dumps({"about": about, "models": models}, indent=2)
    (options.out / "memory_slope.json").write_text(text, encoding="utf-8")
    print(f"written: {options.out / 'memory_slope.md'}, {options.out / 'memory_slope.json'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    models = ["LightGCN", "FREEDOM", "AlignRec"]
    add("--models", nargs="+", default=models, metavar="NAME", help=f"of {', '.join(PAPER)}")
    add("--users", type=positive_int, default=10_000, metavar="N", help="first size (10000)")
    add("--items", type=positive_int, default=5_000, metavar="N", help="first size (5000)")
    add("--links", type=positive_int, default=8, metavar="N", help="of a user, 3 or more (8)")
    add("--width", type=positive_int, default=768, metavar="N", help="of the features (768)")
    add("--threads", type=positive_int, default=torch.get_num_threads(), metavar="N")
    add("--out", type=Path, default=Path("results/memory_slope"), metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
