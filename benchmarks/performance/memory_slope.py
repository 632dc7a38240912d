"""What a million users and a million items cost in memory while a model trains.

    python -m benchmarks.performance.memory_slope
    python -m benchmarks.performance.memory_slope --models LightGCN MGCN --width 384

Each model is trained by ``fit`` (three batches of 2,048 and an evaluation of a thousand users) at
three sizes: ``--users`` and ``--items``, twice the users, twice the items. The differences are the
slopes: a user costs what it takes with ``--links`` links of its own, an item what it takes with one
feature table of ``--width`` columns and ten neighbours in the item graph. Links, features and
neighbours are made up. Every measurement has a process of its own; what it takes is the size of the
data and the largest resident size from then on, less that before the model is built.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.experiments.memory import PeakMemory, memory_description
from alignrec_pyg.graph import INTERACTS, knn_edge_type
from alignrec_pyg.text_tables import markdown_table
from alignrec_pyg.train_config import TrainConfig
from alignrec_pyg.training.loop import fit
from benchmarks.performance.made_up import Shape, make_graphs
from benchmarks.performance.measuring import (
    in_new_process,
    log,
    make_parser,
    origin,
    positive_int,
    published,
    take_first_step,
)

_BATCH_SIZE = 2048
_NUM_BATCHES = 3
_NUM_EVALUATED = 1000
_NUM_NEIGHBORS = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, models=("LightGCN", "FREEDOM", "AlignRec"))
    add = parser.add_argument
    add("--users", type=positive_int, default=10_000, metavar="N", help="first size (10000)")
    add("--items", type=positive_int, default=5_000, metavar="N", help="first size (5000)")
    add("--links", type=positive_int, default=8, metavar="N", help="of a user, 3 or more (8)")
    add("--width", type=positive_int, default=768, metavar="N", help="of the features (768)")
    options = parser.parse_args(arguments)
    users, items, kind = options.users, options.items, (options.links, options.width)
    rows = [["model", "MB at the first size", "GB per million users", "GB per million items"]]
    for name in dict.fromkeys(options.models):
        base, more_users, more_items = (
            in_new_process(options.threads, peak_bytes, name, *size, *kind)
            for size in ((users, items), (2 * users, items), (users, 2 * items))
        )
        slopes = (more_users - base) / users, (more_items - base) / items  # bytes of one
        rows.append([name, f"{base / 1e6:.0f}", *(f"{slope / 1e3:.1f}" for slope in slopes)])
        log("  ".join(rows[-1]))
    print(markdown_table(rows))
    print(
        f"\n{users:,} users, {items:,} items, {options.links} links of a user, features of width "
        f"{options.width}, {memory_description(torch.device('cpu'))}, {origin(torch.device('cpu'))}"
    )
    return 0


def peak_bytes(name: str, num_users: int, num_items: int, links: int, width: int) -> int:
    """Peak bytes of training one model at one size, in this process."""
    take_first_step(torch.device("cpu"))
    train, val = make_large_graphs(num_users, num_items, links, width)
    model_class, hparams, _ = published(name)
    with PeakMemory(torch.device("cpu")) as memory:
        torch.manual_seed(0)
        model = model_class(train, **hparams)
        fit(model, train, val, TrainConfig(batch_size=_BATCH_SIZE, max_epochs=1))
    if memory.peak_bytes is None:
        raise SystemExit(f"memory_slope: {memory_description(torch.device('cpu'))}")
    return memory.peak_bytes + bytes_of(train, val)


def bytes_of(*graphs: HeteroData) -> int:
    """Bytes of all tensors, those that graphs share once."""
    tensors = [value for graph in graphs for store in graph.stores for value in store.values()]
    storages = [value.untyped_storage() for value in tensors if isinstance(value, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def make_large_graphs(
    num_users: int, num_items: int, links: int, width: int
) -> tuple[HeteroData, HeteroData]:
    """Training and validation graph whose links are all known, few of them to train or predict."""
    shape = Shape(num_users, num_items, train=links * num_users, val=num_users, test=num_users)
    train, val, _ = make_graphs(shape, {"mm": width})
    train[INTERACTS].edge_label_index = train[INTERACTS].edge_index[:, : _NUM_BATCHES * _BATCH_SIZE]
    labels = val[INTERACTS].edge_label_index
    val[INTERACTS].edge_label_index = labels[:, labels[0] < _NUM_EVALUATED]
    offsets = torch.randperm(num_items, generator=torch.Generator().manual_seed(0))[:_NUM_NEIGHBORS]
    neighbors = (torch.arange(num_items).unsqueeze(1) + offsets) % num_items  # no item twice
    item = torch.arange(num_items).repeat_interleave(_NUM_NEIGHBORS)
    for graph in (train, val):
        edges = graph[knn_edge_type("mm")]
        edges.edge_index = torch.stack([neighbors.flatten(), item])
        edges.edge_weight = torch.full((item.numel(),), 1 / _NUM_NEIGHBORS)
    return train, val


if __name__ == "__main__":
    sys.exit(main())
