"""What a protocol does to figures: the kind of split, validation links known or not in tests.

    python benchmarks/protocols.py
    python benchmarks/protocols.py --data FOLDER --models AlignRec LightGCN FREEDOM

Splits: the file's labels, each user's links at random, each user's latest link, all links after a
moment. Those that the data has no labels or times for are left out. At test time the validation
links are unknown to the model and stay candidates (MMRec's rule, behind the papers' tables), or are
known: part of the graph and no candidates. Each model is trained once per split and seed.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import torch
from torch import Tensor

from alignrec_pyg.cli import command
from alignrec_pyg.cli.arguments import make_parser
from alignrec_pyg.experiments.cells import TEST, Parts, link_metrics
from alignrec_pyg.experiments.description import split_text
from alignrec_pyg.experiments.prepare import val_known_at_test
from alignrec_pyg.experiments.result_table import TableStyle
from alignrec_pyg.experiments.runner import RunOutcome
from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.experiments.statistics import Measurement
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.graph import links_to_predict
from alignrec_pyg.transforms.split_interactions import SplitRule

MODELS = ("LightGCN", "FREEDOM", "AlignRec")
SPLITS: tuple[SplitRule, ...] = ("labels", "random", "leave_last_out", "global_time")
KNOWN = "validation known"
_COLUMNS = ("recall@20", "ndcg@20")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment (see :func:`alignrec_pyg.cli.command.main`)."""
    parser = make_parser(__doc__, models=MODELS)
    parser.set_defaults(split=None)
    return command.main("protocols.py", parser, _compare, arguments)


def _compare(session: Session) -> int:
    if session.options.split is not None:
        raise SettingsError(["--split: this script runs all splits"])
    models, not_run = session.runnable()
    links: dict[str, Tensor] = {}
    results: list[CellResult] = []
    failed: dict[tuple[str, int], str] = {}
    notes = []
    for rule in SPLITS:
        try:
            here = session.with_split(rule)
        except SettingsError as error:
            notes += [f"no {rule} split: {problem}" for problem in error.problems]
            continue
        data = here.data
        rows = {f"{name}, {rule}": settings for name, settings in models.items()}
        cells = [cell for row, settings in rows.items() for cell in here.cells(row, settings)]
        parts = Parts(data.train, data.val, {TEST: data.test, KNOWN: val_known_at_test(data)})
        outcome = here.run(cells, parts)
        results += outcome.results
        failed |= outcome.failed
        links |= dict.fromkeys(rows, links_to_predict(data.test))
        notes += split_text(data).splitlines()
        notes += [f"item graph '{name}': {text}" for name, text in data.item_graphs.items()]

    def measure(cell: CellResult) -> Measurement:
        test, known = (link_metrics(cell.rankings[name], links[cell.row]) for name in (TEST, KNOWN))
        values = {column: test[column] for column in _COLUMNS}
        values |= {f"{column}, {KNOWN}": known[column] for column in _COLUMNS}
        return Measurement(values, torch.empty(0, dtype=torch.int64), torch.empty(0))

    return session.conclude(
        "protocols",
        "models under several splits, validation links unknown and known at test time",
        RunOutcome(results=results, failed=failed),
        measure=measure,
        compared=False,
        not_run=not_run,
        style=TableStyle(unmarked=None),
        one_split=False,
        notes=[
            f"{KNOWN}: at test time the validation links are part of the graph and no candidates",
            *notes,
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
