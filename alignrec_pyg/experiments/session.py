"""A running experiment: its cells, and the table that it ends with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from alignrec_pyg.experiments.cells import KS, Cell, Parts
from alignrec_pyg.experiments.charts import chart_problem
from alignrec_pyg.experiments.description import header
from alignrec_pyg.experiments.learning_curves import CURVES, write_curves
from alignrec_pyg.experiments.paper import PaperResults
from alignrec_pyg.experiments.prepared_data import PreparedData
from alignrec_pyg.experiments.result_table import TableStyle
from alignrec_pyg.experiments.results import (
    Experiment,
    remove_results,
    screen_text,
    write_results,
)
from alignrec_pyg.experiments.runner import RunOutcome, run_cells
from alignrec_pyg.experiments.settings import ModelSettings, SettingsError, published_settings
from alignrec_pyg.experiments.statistics import (
    Comparison,
    Measure,
    Row,
    best_first,
    compare_pairs,
    compare_rows,
    of_test_links,
    summarize,
)
from alignrec_pyg.experiments.store import CellResult, CellStore
from alignrec_pyg.graph import links_to_predict
from alignrec_pyg.models import AlignRec, ContentRecommender
from alignrec_pyg.report import DataReport

PaperT = TypeVar("PaperT")


@dataclass(frozen=True, kw_only=True)
class Session:
    """A running script: its options, checked, with the models, seeds and data that they name.

    ``prepare`` is ``experiments.prepare.prepare`` with the arguments of the options, to split the
    data in another way.
    """

    options: Any
    device: torch.device
    models: dict[str, ModelSettings]
    data: PreparedData
    prepare: Callable[..., PreparedData]
    seeds: range
    out: Path
    jobs: int = 1

    @property
    def measure(self) -> Measure:
        """The test metrics of a cell."""
        return of_test_links(links_to_predict(self.data.test))

    def prepared(self, **how: Any) -> Session:
        """The same with the data prepared in another way, by arguments of ``prepare``.

        Raises:
            SettingsError: If the data lacks what that needs.
        """
        return replace(self, data=self.prepare(**how))

    def cells(
        self,
        row: str,
        settings: ModelSettings,
        *,
        features: Sequence[str] | None = None,
        alignment: Mapping[str, Any] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[Cell]:
        """The cells of one row, one for each seed (default: the session's, and all feature sets).

        ``alignment`` holds arguments of ``Aligned``, for a model with AlignRec's alignments.
        """
        hparams = {**settings.hparams, **self.data.inputs(settings.model, features)}
        config = settings.complete_config(self.data.train)
        return [
            Cell(
                row=row,
                model=settings.model,
                hparams=hparams,
                config=replace(config, seed=seed, ks=KS),
                alignment=alignment,
            )
            for seed in (self.seeds if seeds is None else seeds)
        ]

    def cells_of(self, models: Mapping[str, ModelSettings]) -> list[Cell]:
        """The cells of one row for each of some settings, by name of the row."""
        return [cell for row, settings in models.items() for cell in self.cells(row, settings)]

    def runnable(self) -> tuple[dict[str, ModelSettings], dict[str, str]]:
        """Settings of the models that can run on the data, and why the others cannot.

        Raises:
            SettingsError: If one that was named with ``--models`` cannot, or none can.
        """
        reasons = {
            name: self.data.why_not(settings.model) for name, settings in self.models.items()
        }
        not_run = {name: reason for name, reason in reasons.items() if reason is not None}
        named = self.options.models not in ((), ("all",))
        if not_run and (named or len(not_run) == len(self.models)):
            raise SettingsError([f"{name} {reason}" for name, reason in not_run.items()])
        return {n: p for n, p in self.models.items() if n not in not_run}, not_run

    def papers(self, table: Callable[[str, DataReport], PaperT]) -> PaperT:
        """Published figures for this data; none if it is not the paper's, or split anew."""
        known = self.data.split_rule == "labels"
        return table(self.data.name if known else "", self.data.report)

    def required(self, name: str) -> ModelSettings:
        """Settings of a model that the experiment is about.

        Raises:
            SettingsError: If it cannot run on the data.
        """
        reason = self.data.why_not(self.models[name].model)
        if reason is not None:
            raise SettingsError([f"{name} {reason}"])
        return self.models[name]

    def alignable(self, names: Iterable[str]) -> dict[str, ModelSettings]:
        """Settings of models that are to be trained with AlignRec's alignments.

        Raises:
            SettingsError: If one is not among the session's, cannot take them or cannot run.
        """
        names = list(dict.fromkeys(names))
        problems = [
            f"{name} is not among the models to run: {', '.join(self.models)}"
            for name in names
            if name not in self.models
        ]
        for name in names:
            if name in self.models:
                if not issubclass(self.models[name].model, ContentRecommender):
                    problems.append(f"{name} has no separate content and ID vectors")
                elif (reason := self.data.why_not(self.models[name].model)) is not None:
                    problems.append(f"{name} {reason}")
        if problems:
            raise SettingsError(problems)
        return {name: self.models[name] for name in names}

    def alignment(self, **weights: float | None) -> dict[str, Any]:
        """Arguments of ``Aligned``: all feature sets, AlignRec's weights or others."""
        alignrec = published_settings(AlignRec, self.data.name).hparams
        names = ("cca_weight", "uia_weight", "reg_weight")
        given = {name: weights.get(name) for name in names}
        chosen = {n: alignrec[n] if value is None else value for n, value in given.items()}
        return {"features": self.data.features, **chosen}

    def check(self, cells: Sequence[Cell]) -> None:
        """Makes sure that the model of every row can be built.

        Raises:
            SettingsError: If not.
        """
        problems = []
        for cell in {cell.row: cell for cell in cells}.values():
            try:
                cell.build(self.data.train)
            except ValueError as error:
                problems.append(f"{cell.row}: {error}")
            except (RuntimeError, MemoryError) as error:  # torch's own for too little memory
                if isinstance(error, RuntimeError) and "memory" not in str(error):
                    raise
                problems.append(f"{cell.row}: too large for the memory ({str(error)[:200]})")
        if problems:
            raise SettingsError(problems)

    def run(
        self,
        cells: Sequence[Cell],
        parts: Parts | None = None,
        *,
        estimated: bool = False,
    ) -> RunOutcome:
        """Runs the cells; those that are in the results' folder are not run again.

        With ``estimated``, an estimate of time and memory is printed first.

        Raises:
            SettingsError: If a model cannot be built from its settings.
        """
        self.check(cells)
        print(header(self.data, self.out), flush=True)
        store = CellStore(self.out / "cells")
        return run_cells(
            cells,
            parts or self.data.parts,
            store,
            self.device,
            log,
            jobs=self.jobs,
            estimated=estimated,
        )

    def conclude(
        self,
        stem: str,
        title: str,
        outcome: RunOutcome,
        *,
        models: Mapping[str, ModelSettings] | None = None,
        measure: Measure | None = None,
        reference: str | None = None,
        pairs: Sequence[tuple[str, str]] | None = None,
        compared: bool = True,
        not_run: Mapping[str, str] | None = None,
        paper: PaperResults | None = None,
        paper_source: str = "Table 2",
        style: TableStyle = TableStyle(),
        notes: Sequence[str] = (),
        one_split: bool = True,
        draw: Callable[[Sequence[Row], Path], None] | None = None,
    ) -> int:
        """Prints the table of an experiment with its outcome, and writes it with all details.

        The best row is first and compared with every other, unless a reference or pairs are
        given or rows are not compared: these keep their order.

        Args:
            stem: Name of the files.
            title: What was asked, on this data.
            outcome: What :meth:`run` gave.
            models: Settings by row (default: those of the models).
            measure: Columns of the table (default: the test metrics).
            reference: Row that the others are compared with (default: the best).
            pairs: Rows to compare with each other instead, the first with the second.
            compared: Whether rows are compared at all.
            not_run: Why other models have no row.
            paper: Published values, by row.
            paper_source: Where they stand.
            style: Which parts the table has.
            notes: More to know when reading the table.
            one_split: Whether all rows are of the data's own split.
            draw: Draws another chart than the table's bars.

        Returns:
            The script's exit status.
        """
        failed = {f"{row} seed {seed}": reason for (row, seed), reason in outcome.failed.items()}
        table = summarize(outcome.results, self.seeds, measure or self.measure)
        if not table:
            for name in (stem, CURVES):
                remove_results(self.out, name)
            for name, reason in failed.items():
                log(f"not run: {name}: {reason}")
            log("no cell has a result: no files are written, those of an earlier run are removed")
            return 1
        comparisons: Sequence[Comparison] | None = None
        if compared and pairs is not None:
            comparisons = compare_pairs(table, pairs)
        elif compared:
            table = table if reference else best_first(table)
            comparisons = compare_rows(table, reference)
        experiment = Experiment(
            title=f"{title} ({self.data.name})",
            data=self.data,
            models=self._used(outcome.results) if models is None else models,
            seeds=self.seeds,
            device=self.device,
            cells=outcome.results,
            table=table,
            comparisons=comparisons,
            not_run={**(not_run or {}), **failed},
            paper=paper or {},
            paper_source=paper_source,
            style=style,
            notes=notes,
            one_split=one_split,
        )
        print(f"\n{screen_text(experiment, ansi=sys.stdout.isatty())}\n")
        chart = None if draw is None else partial(draw, table)
        written = write_results(experiment, self.out, stem, chart)
        written += write_curves(self.out, f"{experiment.title}: validation", outcome.results)
        print("written: " + ", ".join(str(path) for path in written))
        if (problem := chart_problem()) is not None:
            print(problem)
        return 1 if outcome.failed else 0

    def _used(self, cells: Sequence[CellResult]) -> dict[str, ModelSettings]:
        """The models' settings, of those that ``cells`` are of."""
        names = {cell.settings["model"] for cell in cells}
        return {name: settings for name, settings in self.models.items() if name in names}


def log(line: str) -> None:
    """Prints progress and problems on standard error."""
    print(line, file=sys.stderr, flush=True)
