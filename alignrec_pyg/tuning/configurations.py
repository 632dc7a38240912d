"""Trials of one configuration put together over seeds, the choice among them, and their tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from alignrec_pyg.experiments.runner import METRICS
from alignrec_pyg.tuning.spaces import Point, Space

SELECTED_BY = "recall@20"
"""The validation metric by which configurations are chosen."""


Outcome = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What became of a trial.

    Args:
        number: Of its configuration.
        seed: Its seed.
        point: Its configuration.
        outcome: Whether training ended by itself, was stopped (unpromising, or out of time) or
            failed.
        reason: Why it failed.
        val: Validation metrics of its best epoch; empty if there is none.
        best_epoch: That epoch (from 1).
        epochs: Epochs trained.
        seconds: Time of training and validation; of a trial that was stopped, since its last start.
    """

    number: int
    seed: int
    point: Point
    outcome: Outcome
    reason: str
    val: dict[str, float]
    best_epoch: int
    epochs: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A configuration with its trials, one for each seed it was tried with.

    Args:
        number: Its number.
        point: Its values.
        trials: The trials in the order of their seeds.
    """

    number: int
    point: Point
    trials: tuple[Trial, ...]

    @property
    def values(self) -> list[float]:
        """Best validation recall@20 of every trial that has one."""
        return [trial.val[SELECTED_BY] for trial in self.trials if trial.val]

    @property
    def mean(self) -> float:
        """Mean of :attr:`values`; there is at least one."""
        return fmean(self.values)

    @property
    def std(self) -> float | None:
        """Their standard deviation (divisor n - 1); ``None`` with fewer than two."""
        return stdev(self.values) if len(self.values) > 1 else None

    @property
    def failed(self) -> bool:
        """Whether a trial failed: the configuration is not chosen."""
        return any(trial.outcome == "failed" for trial in self.trials)

    @property
    def finished(self) -> bool:
        """Whether every trial trained to its end."""
        return all(trial.outcome == "finished" for trial in self.trials)


def collect(trials: Sequence[Trial]) -> list[Configuration]:
    """Configurations by number; of trials with the same seed the last one counts."""
    found: dict[int, dict[int, Trial]] = {}
    for trial in trials:
        found.setdefault(trial.number, {})[trial.seed] = trial
    return [
        Configuration(
            number=number,
            point=next(iter(by_seed.values())).point,
            trials=tuple(by_seed[seed] for seed in sorted(by_seed)),
        )
        for number, by_seed in sorted(found.items())
    ]


def ranked(configurations: Sequence[Configuration]) -> list[Configuration]:
    """The configurations that may be chosen, the best first.

    Those tried with more seeds come before those tried with fewer; among them the mean validation
    recall@20 decides, and of equal ones the first wins. Running bests of trials that were stopped
    count: trained to the end, they are as good at least.
    """
    valid = [entry for entry in configurations if entry.values and not entry.failed]
    return sorted(valid, key=lambda entry: (-len(entry.values), -entry.mean, entry.number))


def trials_csv(configurations: Sequence[Configuration], space: Space) -> str:
    """Every trial in a line, unrounded."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    costs = ["best epoch", "epochs", "seconds"]
    writer.writerow(
        ["configuration", "seed", *space, "outcome", *(f"val {m}" for m in METRICS), *costs, "why"]
    )
    for entry in configurations:
        for trial in entry.trials:
            writer.writerow(
                [
                    trial.number,
                    trial.seed,
                    *(trial.point[name] for name in space),
                    trial.outcome,
                    *(trial.val.get(metric) for metric in METRICS),
                    trial.best_epoch or None,
                    trial.epochs,
                    trial.seconds,
                    trial.reason or None,
                ]
            )
    return buffer.getvalue()


def configurations_table(configurations: Sequence[Configuration], space: Space) -> str:
    """A Markdown table of all configurations, the best first, those without a value last."""
    first = ranked(configurations)
    rest = [entry for entry in configurations if entry not in first]
    head = ["configuration", *space, f"validation {SELECTED_BY}", "seeds", "outcome", "epochs"]
    lines = [head, ["---", *["---:"] * (len(space) + 2), "---", "---:"]]
    for entry in [*first, *rest]:
        lines.append(
            [
                str(entry.number),
                *(f"{entry.point[name]:g}" for name in space),
                _value(entry),
                str(len(entry.values)),
                ", ".join(dict.fromkeys(_outcome(trial) for trial in entry.trials)),
                ", ".join(str(trial.epochs) for trial in entry.trials),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value(entry: Configuration) -> str:
    if not entry.values:
        return ""
    return f"{entry.mean:.4f}" if entry.std is None else f"{entry.mean:.4f} ± {entry.std:.4f}"


def _outcome(trial: Trial) -> str:
    return f"{trial.outcome} ({trial.reason})" if trial.reason else trial.outcome
