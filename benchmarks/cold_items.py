"""Items that come after training: held out entirely, then taken in by their content.

    python benchmarks/cold_items.py
    python benchmarks/cold_items.py --data FOLDER --models AlignRec VBPR FREEDOM --held-out 0.2

A share of the items is parted from the data, with all its links, before anything else. Models train
and are selected on the rest as ever; then each takes the held-out items in (``add_items``): with no
ID vector (content alone), and with the mean of their neighbours' ID vectors. Rows beside them:
items by popularity, and items by the cosine of their features with the user's train items.

Columns: the held-out items' links, ranked among the held-out items alone; then test links by the
number of train links of their item (0: held out), ranked among all items.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.cli import command
from alignrec_pyg.cli.arguments import make_parser
from alignrec_pyg.evaluation.metrics import user_metrics
from alignrec_pyg.evaluation.ranking import Ranking, rank
from alignrec_pyg.experiments.cells import RANKED, TEST, Cell, Parts
from alignrec_pyg.experiments.prepare import NUM_NEIGHBORS, PreparedData
from alignrec_pyg.experiments.result_table import TableStyle
from alignrec_pyg.experiments.runner import RunOutcome
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.experiments.statistics import Measurement
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.graph import INTERACTS, ITEM, content_hash, feature_table, links_to_predict
from alignrec_pyg.models import Recommender
from alignrec_pyg.serving import add_items
from alignrec_pyg.serving.new_items import IdVectors
from alignrec_pyg.transforms import HoldOutItems, KNNItemGraph
from benchmarks.cold_baselines import as_result, content, popularity

MODELS = ("AlignRec", "VBPR", "FREEDOM")
COLD = "held-out items only"
NEIGHBORS = "IDs of neighbours"
DEGREES = ((0, 0), (1, 4), (5, 9), (10, 19), (20, None))
"""Groups of test links by the train links of their item, fewest and most."""

_K = 20
_RANKED_BY = "cold items 1"  # raise it with each change of what _ranked gives


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`alignrec_pyg.cli.command.main`)."""
    parser = make_parser(__doc__, models=MODELS)
    parser.add_argument(
        "--held-out", type=_share, default=0.2, metavar="X", help="share of the items (0.2)"
    )
    parser.add_argument(
        "--item-seed", type=int, default=0, metavar="N", help="seed of their draw (0)"
    )
    return command.main("cold_items.py", parser, _cold_items, arguments)


def _cold_items(session: Session) -> int:
    options = session.options
    if options.neighbors:
        raise SettingsError(["--neighbors: lists know no items that come later; give features"])
    if not session.data.features:
        raise SettingsError(["--data: needs a feature table: held-out items have nothing else"])
    by_id = [
        name for name, settings in session.models.items() if not settings.model.supports_new_items
    ]
    if by_id:
        raise SettingsError([f"--models {name}: tells items by their IDs only" for name in by_id])
    if options.item_seed < 0:
        raise SettingsError([f"--item-seed {options.item_seed}: needs to be 0 or more"])
    session = session.without_items(HoldOutItems(options.held_out, seed=options.item_seed))
    models, not_run = session.runnable()
    cells = [cell for name, settings in models.items() for cell in session.cells(name, settings)]
    data = session.data
    test, num_dropped = _test_graph(data)
    outcome = session.run(cells, _parts(data, test))
    results = [row for result in outcome.results for row in _two_rows(result)]
    results += _baselines(session, test)
    links = links_to_predict(test)

    def measure(cell: CellResult) -> Measurement:
        alone = user_metrics(cell.rankings[COLD], _cold_links(data, links), _K)
        values = {
            f"recall@{_K}, {COLD}": alone.recall.double().mean().item(),
            f"ndcg@{_K}, {COLD}": alone.ndcg.double().mean().item(),
        }
        for name, part in _by_degree(data, links).items():
            if part.size(1):
                users = user_metrics(cell.rankings[TEST], part, _K)
                values[f"recall@{_K}, {name} train links"] = users.recall.double().mean().item()
        return Measurement(values, alone.user, alone.recall, compared=f"recall@{_K}, {COLD}")

    return session.conclude(
        "cold_items",
        "items held out entirely, and test links by the number of train links of their item",
        RunOutcome(results=results, failed=outcome.failed),
        measure=measure,
        not_run=not_run,
        style=TableStyle(costs=False),
        notes=_notes(session, links, num_dropped),
    )


def _parts(data: PreparedData, test: HeteroData) -> Parts:
    cold = data.cold
    assert cold is not None
    tables = [feature_table(cold, name) for name in data.features]
    return Parts(
        data.train,
        data.val,
        dict.fromkeys((TEST, COLD, *(f"{name}, {NEIGHBORS}" for name in (TEST, COLD))), test),
        partial(_ranked, data),
        content_hash(_RANKED_BY, *tables),
    )


def _ranked(
    data: PreparedData, cell: Cell, model: Recommender, name: str, test: HeteroData
) -> Ranking:
    """Takes the held-out items in, and ranks for one of the tests."""
    assert data.cold is not None
    named = [cell.hparams["item_graph"]] if "item_graph" in cell.hparams else []
    transforms = [
        data.graph_transforms[graph] for graph in named + cell.hparams.get("item_graphs", [])
    ]
    graphs = [transform for transform in transforms if isinstance(transform, KNNItemGraph)]
    id_vectors: IdVectors = "neighbors" if name.endswith(NEIGHBORS) else "none"
    if id_vectors == "neighbors" and not graphs:
        graphs = [KNNItemGraph(data.features, NUM_NEIGHBORS, name="id_vectors")]
    served, graph = add_items(model, test, data.cold, item_graphs=graphs, id_vectors=id_vectors)
    items = _cold_numbers(data).to(test[INTERACTS].edge_index.device)
    return rank(served, graph, RANKED, items=items if name.startswith(COLD) else None)


def _two_rows(result: CellResult) -> list[CellResult]:
    """A cell's rankings as two rows, without ID vectors and with those of neighbours."""
    alone = {name: result.rankings[name] for name in (TEST, COLD)}
    others = {name: result.rankings[f"{name}, {NEIGHBORS}"] for name in (TEST, COLD)}
    return [
        replace(result, rankings=alone),
        replace(result, row=f"{result.row}, {NEIGHBORS}", rankings=others),
    ]


def _baselines(session: Session, test: HeteroData) -> list[CellResult]:
    data = session.data
    assert data.cold is not None
    candidates = {TEST: None, COLD: _cold_numbers(data)}
    alike = content(data.train, data.cold, data.features)
    results = []
    for seed in session.seeds:
        popular = popularity(data.train, int(data.cold[ITEM].num_nodes), seed)
        results.append(as_result("popularity", seed, popular, test, candidates))
        results.append(as_result("content", seed, alike, test, candidates))
    return results


def _test_graph(data: PreparedData) -> tuple[HeteroData, int]:
    """The test links of all items, those held out numbered after the others.

    Returns:
        The graph, and the number of links left out as their user has no train link.
    """
    assert data.cold is not None
    user, item = data.cold[INTERACTS].edge_index
    trained = torch.isin(user, data.train[INTERACTS].edge_index[0])
    cold = torch.stack([user, item + int(data.train[ITEM].num_nodes)])[:, trained]
    if cold.size(1) == 0:
        raise SettingsError(["--held-out: no held-out item has a user with train links"])
    test = copy.copy(data.test)
    test[INTERACTS].edge_label_index = torch.cat([links_to_predict(data.test), cold], dim=1)
    return test, int((~trained).sum())


def _cold_numbers(data: PreparedData) -> Tensor:
    assert data.cold is not None
    first = int(data.train[ITEM].num_nodes)
    return torch.arange(first, first + int(data.cold[ITEM].num_nodes))


def _cold_links(data: PreparedData, links: Tensor) -> Tensor:
    return links[:, links[1] >= int(data.train[ITEM].num_nodes)]


def _by_degree(data: PreparedData, links: Tensor) -> dict[str, Tensor]:
    """The test links by the number of train links of their item."""
    size = int(links[1].max()) + 1
    degree = torch.bincount(data.train[INTERACTS].edge_index[1], minlength=size)[links[1]]
    # an item that is not held out may have no train link either: its own split took them
    cold = links[1] >= int(data.train[ITEM].num_nodes)
    groups = {}
    for fewest, most in DEGREES:
        inside = (degree >= fewest) & (cold if fewest == 0 else ~cold)
        if most is not None:
            inside &= degree <= most
        name = (
            f"{fewest}" if most == fewest else f"{fewest}+" if most is None else f"{fewest}-{most}"
        )
        groups[name] = links[:, inside]
    return groups


def _notes(session: Session, links: Tensor, num_dropped: int) -> list[str]:
    data = session.data
    assert data.cold is not None
    lines = [
        f"held out: {int(data.cold[ITEM].num_nodes):,} items of "
        f"{int(data.cold[ITEM].num_nodes) + int(data.train[ITEM].num_nodes):,} (share "
        f"{session.options.held_out} of those with links, seed {session.options.item_seed}), with "
        f"{data.cold[INTERACTS].edge_index.size(1):,} links, of which {num_dropped:,} have a user "
        "without train links and are left out",
        f"rows '{NEIGHBORS}': new items have the mean of their neighbours' ID vectors, else none",
    ]
    return lines + [
        f"{name} train links: {part.size(1):,} test links of {part[0].unique().numel():,} users"
        + ("" if part.size(1) else " (no column)")
        for name, part in _by_degree(data, links).items()
    ]


def _share(text: str) -> float:
    """A number between 0 and 1, for ``argparse``."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs to be a number (got {text!r})") from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"needs to be between 0 and 1 (got {value})")
    return value


if __name__ == "__main__":
    sys.exit(main())
