"""Micro-batches, loaded ahead by other processes or when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader

from alignrec_pyg.pretraining.config import PretrainConfig
from alignrec_pyg.pretraining.pairs import PairBatch, PairDataset


def load(
    pairs: PairDataset,
    keys: Sequence[tuple[int | None, Sequence[int]]],
    config: PretrainConfig,
    device: torch.device,
) -> Iterator[PairBatch]:
    """``pairs[key]`` for each key, in order, by ``config.num_workers`` processes."""
    return iter(
        DataLoader(
            pairs,
            batch_size=None,  # an element is a micro-batch
            sampler=keys,
            num_workers=config.num_workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # leaves the global one alone
        )
    )
