"""Losses and accuracies on held-out pairs: with the other modality, another pair's, without."""

from __future__ import annotations

import torch

from alignrec_pyg.pretraining.config import PretrainConfig
from alignrec_pyg.pretraining.loading import load
from alignrec_pyg.pretraining.objective import Objective
from alignrec_pyg.pretraining.pairs import PairDataset
from alignrec_pyg.pretraining.precision import autocast
from alignrec_pyg.training.parallel import Workers


@torch.no_grad()
def validate(
    objective: Objective, val: PairDataset, config: PretrainConfig, workers: Workers
) -> dict[str, float]:
    """Means over all held-out pairs; whole images, always the same masks.

    ``val_loss`` is the sum of the terms. Each term "x" gives ``val_x``, ``val_x_accuracy`` and the
    same two

    - of texts beside other pairs' images, ``val_x_control``: no worse says that the other modality
      is not made use of;
    - without the other modality, ``val_x_alone``: how far a modality is told from itself. Input of
      one modality is unlike anything seen in training, and so part of the loss is due to that.

    Args:
        objective: What is validated; left in training mode.
        val: Held-out pairs, two or more.
        config: Size of the parts and precision.
        workers: The processes that share the work.

    Raises:
        ValueError: If there are fewer than two pairs.
    """
    if len(val) < 2:
        raise ValueError(f"'val' needs two pairs or more, to exchange partners (got {len(val)})")
    objective.eval()
    parts = [(None, part) for part in _parts(len(val), config.micro_batch_size)]
    mine = parts[workers.rank :: workers.size]
    weight = 1.0 if mine else 0.0  # without a part of its own, a worker learns the names
    sums: dict[str, float] = {}
    terms: list[str] = []
    for batch in load(val, mine or parts[:1], config, workers.device):
        exchanged = objective.control(batch)
        for suffix, sums_of, given in (
            ("", objective, batch),
            ("_control", objective, exchanged),
            ("_alone", objective.alone, batch),
        ):
            counts = objective.counts(given)
            terms = list(counts)
            with autocast(workers.device, config.precision):
                found = sums_of(given.to(workers.device))
            values = {f"{term}{suffix} count": float(count) for term, count in counts.items()}
            for name, value in found.items():
                term = name.removesuffix("_correct")
                values[f"{term}{suffix}" + ("_accuracy" if name != term else "")] = float(value)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + weight * value
    objective.train()
    names = sorted(sums)
    totals = dict(zip(names, workers.sums([sums[name] for name in names]), strict=True))
    metrics = {
        f"val_{key}": totals[key] / max(1.0, totals[f"{key.removesuffix('_accuracy')} count"])
        for key in names
        if not key.endswith(" count")
    }
    return {"val_loss": sum(metrics[f"val_{term}"] for term in terms), **metrics}


def _parts(count: int, size: int) -> list[range]:
    """Ranges of ``size``, none of them of a single pair."""
    size = max(2, size)
    starts = [start for start in range(0, count, size) if count - start > 1 or start == 0]
    return [range(start, count if start == starts[-1] else start + size) for start in starts]
