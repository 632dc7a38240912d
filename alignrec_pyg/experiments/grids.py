"""Which settings each paper searched, and a small grid of equal size for every model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

from alignrec_pyg.experiments.presets import (
    PAPER,
    TRAIN_ARGUMENTS,
    BM3Preset,
    DualGNNPreset,
    GRCNPreset,
    MMGCNPreset,
    Preset,
)

Grid = Mapping[str, tuple[Any, ...]]
"""Values by argument of the model's constructor or field of its training."""

_NORMS = (2.0, 1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5)
_DECADES = (0.1, 1e-2, 1e-3, 1e-4, 1e-5)

PUBLISHED: dict[str, Grid] = {
    "AlignRec": {"lr": (3e-4, 1e-4), "reg_weight": (0.1, 0.2, 0.3)},
    "BPR": {"reg_weight": _NORMS},
    "LightGCN": {"num_layers": (1, 2, 3, 4), "reg_weight": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)},
    "VBPR": {"reg_weight": _NORMS},
    "MMGCN": {"lr": (1e-4, 5e-4, 1e-3, 5e-3, 1e-2)},
    "GRCN": {"lr": (1.0, 0.1, 1e-2, 1e-3, 1e-4), "reg_weight": _DECADES},
    "DualGNN": {"lr": _DECADES, "reg_weight": _DECADES},
    "BM3": {"num_layers": (1, 2), "reg_weight": (0.1, 0.01), "dropout": (0.3, 0.5)},
    "MGCN": {"cl_weight": (1e-3, 1e-2, 1e-1)},
    "FREEDOM": {"dropout": (0.8, 0.9), "reg_weight": (0.0, 1e-5, 1e-4, 1e-3)},
    "LATTICE": {"lr": (1e-4, 5e-4, 1e-3, 5e-3), "l2_weight": (0.0, 1e-5, 1e-4, 1e-3)},
    "SLMRec": {
        "lr": (1e-4, 1e-3, 1e-2, 0.1),
        "ssl_temperature": (0.1, 0.2, 0.5, 1.0),
        "ssl_weight": (0.01, 0.05, 0.1, 0.5, 1.0),
    },
}
"""The grids behind the published figures (AlignRec: the paper's Table 7; the others: those of the
multimodal toolbox that most figures come from). They were searched on test links there; here they
serve validation. ContentLightGCN is our own and has none.
"""

SEARCH: dict[str, Grid] = {
    "AlignRec": {"lr": (1e-3, 3e-3), "reg_weight": (0.1, 0.3)},
    "BPR": {"lr": (1e-3, 3e-3), "reg_weight": (0.1, 0.01)},
    "LightGCN": {"lr": (1e-3, 3e-3), "num_layers": (2, 3)},
    "VBPR": {"lr": (1e-3, 3e-3), "reg_weight": (0.1, 0.01)},
    "MMGCN": {"lr": (1e-3, 3e-3), "reg_weight": (0.1, 0.01)},
    "GRCN": {"lr": (1e-3, 3e-3), "reg_weight": (1e-2, 1e-4)},
    "DualGNN": {"lr": (1e-3, 3e-3), "reg_weight": (1e-2, 1e-4)},
    "BM3": {"lr": (1e-3, 3e-3), "dropout": (0.3, 0.5)},
    "MGCN": {"lr": (1e-3, 3e-3), "cl_weight": (0.01, 0.1)},
    "FREEDOM": {"lr": (1e-3, 3e-3), "dropout": (0.8, 0.9)},
    "LATTICE": {"lr": (1e-3, 3e-3), "l2_weight": (0.0, 1e-4)},
    "SLMRec": {"lr": (1e-3, 3e-3), "ssl_weight": (0.01, 0.1)},
    "ContentLightGCN": {"lr": (1e-3, 3e-3), "num_layers": (2, 3)},
}
"""Four points for every model: two learning rates and two values of what its paper searched."""

_FAITHFUL: dict[str, Preset] = {
    "MMGCN": MMGCNPreset(faithful=True),
    "GRCN": GRCNPreset(faithful=True),
    "DualGNN": DualGNNPreset(faithful=True),
}
"""Models whose published figures come from code with known defects."""

_BY_DATA: dict[str, dict[str, Preset]] = {
    "baby": {**_FAITHFUL, "BM3": BM3Preset(num_layers=1, dropout=0.5, reg_weight=0.1)},
    "sports": {**_FAITHFUL, "BM3": BM3Preset(num_layers=1, dropout=0.5, reg_weight=0.01)},
    "elec": {**_FAITHFUL, "BM3": BM3Preset(num_layers=2, dropout=0.3, reg_weight=0.1)},
}


def published(data_name: str) -> dict[str, Preset]:
    """Every model's published settings for a data set of the paper; the defaults for others.

    On the paper's data sets these are the settings behind the published figures, known defects of
    code included (``faithful=True``; ``--set MMGCN.faithful=False`` is what its paper intends).
    BM3's authors alone name their best for each data set; AlignRec's choice of learning rate and
    similarity weight from its grid is unknown, as is that of the other models.

    Args:
        data_name: ``"baby"``, ``"sports"``, ``"elec"`` or any other.
    """
    return PAPER | _BY_DATA.get(data_name, {})


def points(preset: Preset, grid: Grid) -> list[Preset]:
    """The preset with every combination of the grid's values.

    Raises:
        ValueError: If the grid names what is no setting of the model.
    """
    unknown = [name for name in grid if name not in (*preset.hparams(), *TRAIN_ARGUMENTS)]
    if unknown:
        raise ValueError(f"'grid' needs to name settings of the preset (got {unknown})")
    found = []
    for values in product(*grid.values()):
        changes = dict(zip(grid, values, strict=True))
        train = {name: value for name, value in changes.items() if name in TRAIN_ARGUMENTS}
        model = {name: value for name, value in changes.items() if name not in TRAIN_ARGUMENTS}
        found.append(replace(preset.with_train(**train), **model))
    return found
