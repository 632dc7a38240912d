"""``alignrec compare``: models on one data set, in one table."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from multiprocessing import forkserver
from typing import Annotated, ClassVar

from alignrec_pyg import experiments
from alignrec_pyg.cli.entry_points import script
from alignrec_pyg.cli.experiment_options import ExperimentOptions
from alignrec_pyg.cli.options import EXPERIMENT, option


@dataclass(frozen=True, kw_only=True)
class CompareOptions(ExperimentOptions):
    """The options of the comparison."""

    with_baselines: ClassVar[bool] = True

    aligned: Annotated[
        tuple[str, ...],
        option(
            EXPERIMENT,
            "Models that also run with AlignRec's alignments, each in a row of its own.",
            "NAME ...",
        ),
    ] = ()


def compare(options: CompareOptions) -> int:
    """Train and compare models on one data set.

        alignrec compare
        alignrec compare films --models BPR LightGCN --seeds 3

    Without arguments: the models of the AlignRec paper's Table 2 and three baselines without
    training (Popularity, ItemKNN, EASE) on generated data, in two minutes.
    PATH is a folder that encode wrote, or any in MMRec's format (NAME.inter and .npy feature
    tables); models then have their published settings.

    OUT/compare.md, .csv, .json, .tex and, with matplotlib, .png hold the results: test metrics of
    the best epoch on validation, mean and deviation over seeds, and tests of significance. Finished
    models stay in OUT/cells and are not trained again; an interrupted one continues.
    """
    if options.jobs != 1 and options.device != "cuda" and sys.platform != "win32":
        # The server of processes imports torch while this process reads the data.
        forkserver.set_forkserver_preload(["alignrec_pyg.experiments.runner"])
        forkserver.ensure_running()
    session = options.session()
    models, not_run = session.runnable()
    cells = session.cells_of(models)
    for name, settings in session.alignable(options.aligned).items():
        cells += session.cells(f"{name} + alignment", settings, alignment=session.alignment())
    return session.conclude(
        "compare",
        f"{len({cell.row for cell in cells})} models, test links",
        session.run(cells),
        not_run=not_run,
        paper=session.papers(experiments.table_2),
    )


main = script(CompareOptions, compare, compare.__doc__)
