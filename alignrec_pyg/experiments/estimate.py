"""An estimate of an experiment's time and memory, from a few steps of every model."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import psutil
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation.metrics import evaluate
from alignrec_pyg.experiments.cells import KS, Cell, Parts
from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.experiments.store import CellResult
from alignrec_pyg.graph import positive_links, with_links_to_predict
from alignrec_pyg.memory import available_memory
from alignrec_pyg.models import ClosedFormRecommender
from alignrec_pyg.training.loop import fit

TIMED_STEPS = 4
"""Steps of a trial that are timed, after a first one that is not."""

_MINUTE, _HOUR = 60.0, 3600.0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Time and memory of a model, from a few steps; all zero for a model in closed form.

    Args:
        epoch_steps: Batches in an epoch.
        epoch_seconds: Seconds of an epoch, without validation.
        evaluation_seconds: Seconds of one validation.
        peak_bytes: Peak memory above that before the trial, if it can be measured.
    """

    epoch_steps: int = 1
    epoch_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    peak_bytes: int | None = 0


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """How long some work may take: at least, as expected, and at most."""

    least: float
    expected: float
    most: float


def try_cell(cell: Cell, parts: Parts) -> Trial:
    """Trains a cell's model for a few steps and validates it once; nothing of it is kept."""
    if issubclass(cell.model, ClosedFormRecommender):
        return Trial()
    train, val = parts.train, parts.val
    links = positive_links(train)
    device = links.device
    config = replace(cell.config, max_epochs=1)
    num_steps = -(-links.size(1) // config.batch_size)
    timed = min(num_steps, 1 + TIMED_STEPS)
    # Any links will do, but not those of the first users alone.
    order = torch.randperm(links.size(1), generator=torch.Generator().manual_seed(0)).to(device)
    with PeakMemory(device) as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the cell itself will report it
        model = cell.build(train).to(device)

        def epoch(steps: int) -> float:
            some = links[:, order[: steps * config.batch_size]]
            part = with_links_to_predict(train, some)
            return fit(model, part, None, config, progress=False).seconds

        epoch(1)  # which prepares the graph
        first = epoch(1)
        step = max(0.0, epoch(timed) - first) / (timed - 1) if timed > 1 else 0.0
        start = time.perf_counter()
        evaluate(model, val, KS)
        evaluation_seconds = time.perf_counter() - start
    return Trial(
        epoch_steps=num_steps,
        epoch_seconds=first + step * (num_steps - 1),
        evaluation_seconds=evaluation_seconds,
        peak_bytes=memory.peak_bytes,
    )


def try_rows(
    cells: Sequence[Cell],
    finished: Mapping[int, CellResult],
    parts: Parts,
    is_the_cells_own: Callable[[BaseException], bool],
) -> dict[str, Trial]:
    """A trial of each row that has cells to run and none that has finished.

    A row whose trial fails by an error of its own has none: its cell will report the error.
    """
    known = {result.row for result in finished.values()}
    trials: dict[str, Trial] = {}
    for index, cell in enumerate(cells):
        if index not in finished and cell.row not in known:
            known.add(cell.row)
            try:
                trials[cell.row] = try_cell(cell, parts)
            except (FloatingPointError, MemoryError, RuntimeError) as error:
                if not is_the_cells_own(error):
                    raise
    return trials


def estimate(
    seconds: Seconds,
    rows: Sequence[str],
    peaks: Sequence[int | None],
    jobs: int,
    trials: Mapping[str, Trial],
    parts: Parts,
) -> str:
    """The estimate as text, with what it is based on.

    Args:
        seconds: Time by the clock.
        rows: Row of each cell that is to run.
        peaks: Its peak memory, where known.
        jobs: Cells at a time.
        trials: Trials by row.
        parts: The graphs.
    """
    closed = [row for row in dict.fromkeys(rows) if trials.get(row) == Trial()]
    runs = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    lines = [f"estimate: about {_about(seconds.expected)} for {runs}, {jobs} at a time"]
    if seconds.least < seconds.most:
        lines[0] += (
            f"; {_about(seconds.least)} if every model stops as early as its patience allows, "
            f"{_about(seconds.most)} if all go to their limit of epochs"
        )
    if all(peak is not None for peak in peaks):
        lines.append(_memory([peak or 0 for peak in peaks], jobs, parts))
    sources = []
    if len(closed) < len(trials):
        sources.append(f"{TIMED_STEPS + 1} steps and a validation of each model, timed just now")
    if not trials.keys() >= set(rows):
        sources.append("finished runs")
    lines.append(f"it is based on {' and on '.join(sources)}")
    if closed:
        lines[-1] += f"; {', '.join(closed)}: solved in closed form, not counted"
    return "\n  ".join(lines)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 5e8 else f"{num_bytes / 1e6:.0f} MB"


def _memory(peaks: Sequence[int], jobs: int, parts: Parts) -> str:
    device = positive_links(parts.train).device
    largest = sum(sorted(peaks)[-jobs:])
    if device.type == "cuda":
        free, needed = torch.cuda.mem_get_info(device)[0], largest
    else:
        free, needed = available_memory(), largest
        if jobs > 1:  # processes of their own: what they import, and the graphs
            process = psutil.Process()
            others = [child.memory_full_info().uss for child in process.children()]
            each = max(others, default=process.memory_full_info().uss)
            needed += jobs * (each + _num_bytes(parts.train))
    text = f"memory: about {_size(needed)} beside what this process has now"
    if device.type == "cuda":
        text = f"GPU memory: about {_size(needed)}"
    text += f", of {_size(free)} that are free"
    if needed > free:
        fewer = " with fewer --jobs" if jobs > 1 else " with a smaller --batch-size"
        text += f": TOO LITTLE, try it{fewer}"
    return text


def _num_bytes(data: HeteroData) -> int:
    tensors = [value for store in data.stores for value in store.values()]
    return sum(
        value.numel() * value.element_size() for value in tensors if isinstance(value, Tensor)
    )


def _about(seconds: float) -> str:
    if seconds < 1.5 * _MINUTE:
        return f"{max(1, round(seconds))} s"
    if seconds < 1.5 * _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"
