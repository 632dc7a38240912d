"""Random masks of patches and tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alignrec_pyg.checks import check_integer, check_number

_LEAST_ASPECT = 0.3
_TRIES = 10


def block_mask(
    grid: int, ratio: float, generator: torch.Generator, *, least_block: int | None = None
) -> Tensor:
    r"""Masks blocks of patches, as `"BEiT" <https://arxiv.org/abs/2106.08254>`_ (Algorithm 1).

    Blocks are drawn until :math:`\mathrm{round}(\rho\, g^2)` of the :math:`g \times g` patches are
    masked (paper: :math:`\rho = 0.4`): with an area uniform between ``least_block`` (default: 16 of
    196, and so in proportion) and the number of patches still to mask, an aspect ratio log-uniform
    in [0.3, 1/0.3], and a random position. A block is rejected if it does not fit, masks nothing
    new or too much. After ten rejections in a row the remaining patches are drawn one by one, so
    equally many patches of every image are masked. Patches in the middle are masked more often than
    those in the corners.

    Shapes:
        - **output:** bool :math:`(g^2)`, true where masked, row by row
    """
    check_number("ratio", ratio, above=0, below=1)
    check_integer("grid", grid, 1)
    target = round(ratio * grid**2)
    least = max(1, grid**2 // 12) if least_block is None else least_block
    check_integer("least_block", least, 1)
    mask = torch.zeros(grid, grid, dtype=torch.bool)
    left, tries = target, 0
    while left > 0 and tries < _TRIES:
        size, shape, top, side = torch.rand(4, dtype=torch.float64, generator=generator).tolist()
        area = min(least, left) + size * (left - min(least, left))
        aspect = math.exp((2 * shape - 1) * -math.log(_LEAST_ASPECT))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        tries += 1
        if not (0 < height < grid and 0 < width < grid):
            continue
        row, column = int(top * (grid - height + 1)), int(side * (grid - width + 1))
        block = mask[row : row + height, column : column + width]
        new = block.numel() - int(block.sum())
        if 0 < new <= left:
            block.fill_(True)
            left, tries = left - new, 0
    flat = mask.flatten()
    if left > 0:
        free = (~flat).nonzero()[:, 0]
        flat[free[torch.randperm(len(free), generator=generator)[:left]]] = True
    return flat


def text_mask(eligible: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    r"""Masks :math:`\mathrm{round}(\rho\, n)` of :math:`n` eligible tokens, at least one.

    Eligible are neither ``<s>`` nor ``</s>`` nor padding; :math:`\rho` is 0.15 in the paper.

    Shapes:
        - **input and output:** bool :math:`(T)`
    """
    check_number("ratio", ratio, above=0, below=1)
    positions = eligible.nonzero()[:, 0]
    count = max(1, round(ratio * len(positions)))
    mask = torch.zeros_like(eligible)
    mask[positions[torch.randperm(len(positions), generator=generator)[:count]]] = True
    return mask
