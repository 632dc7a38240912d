"""Settings of every model: the published defaults, and those for small data.

A preset holds every argument of a model's constructor but ``features`` and the item graphs, which
follow from the data, and how to train. Differences from :data:`PAPER` are shown with every result.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal

from alignrec_pyg.models import (
    BM3,
    BPR,
    FREEDOM,
    GRCN,
    LATTICE,
    MGCN,
    MMGCN,
    VBPR,
    AlignRec,
    ContentLightGCN,
    DualGNN,
    LightGCN,
    Recommender,
    SLMRec,
)
from alignrec_pyg.training.loop import TrainConfig
from alignrec_pyg.transforms.knn_item_graph import Weighting

Tables = Literal["none", "optional", "separate", "fused"]
"""Feature tables a model reads: none, those there are, at least one, or one of all fused."""

TRAIN_ARGUMENTS = (
    "lr",
    "lr_decay",
    "lr_decay_epochs",
    "weight_decay",
    "batch_size",
    "max_epochs",
    "patience",
    "eval_every",
)
"""Fields of :class:`TrainConfig` that a preset decides; the others are the same for all models."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of one model.

    Args:
        train: How to train; its seed is replaced by the cell's.
        embedding_dim: Width of the ID tables.
    """

    model: ClassVar[type[Recommender]]
    tables: ClassVar[Tables] = "none"
    item_graph: ClassVar[Weighting | None] = None
    table_graphs: ClassVar[bool] = False
    """Whether the model reads a graph of cosines of each table instead of one graph."""

    train: TrainConfig = TrainConfig()
    embedding_dim: int = 64

    def hparams(self) -> dict[str, Any]:
        """Keyword arguments of the model's constructor."""
        return {
            entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "train"
        }

    def with_train(self, **changes: Any) -> Preset:
        """The preset with other fields of ``train``; another batch size divides L2 terms too."""
        train = replace(self.train, **changes)
        if train.batch_size != self.train.batch_size and "l2_batch_size" in self.hparams():
            return replace(self, train=train, **{"l2_batch_size": train.batch_size})
        return replace(self, train=train)

    def differences(self, other: Preset) -> list[str]:
        """What differs from ``other``, as ``"lr 0.01 (0.001)"``."""
        ours, theirs = self.hparams() | asdict(self.train), other.hparams() | asdict(other.train)
        return [
            f"{name} {ours[name]} ({theirs[name]})" for name in ours if ours[name] != theirs[name]
        ]


@dataclass(frozen=True, kw_only=True)
class AlignRecPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.AlignRec`."""

    model: ClassVar[type[Recommender]] = AlignRec
    tables: ClassVar[Tables] = "fused"
    item_graph: ClassVar[Weighting | None] = "cosine"

    train: TrainConfig = TrainConfig(lr=3e-4, lr_decay=0.96, lr_decay_epochs=50, patience=30)
    num_layers: int = 2
    num_item_layers: int = 1
    cca_weight: float = 0.01
    uia_weight: float = 0.1
    reg_weight: float = 0.1
    l2_weight: float = 1e-4
    l2_batch_size: int = 2048
    temperature: float = 0.2
    cca_normalize: bool = True
    cca_symmetric: bool = False
    reg_similarity: Literal["dot", "cosine"] = "dot"
    reg_reduction: Literal["rms", "mse"] = "rms"
    reg_target: Literal["live", "frozen"] = "live"
    freeze_features: bool = False
    feature_norm: bool = False
    mlp_relu: bool = False
    user_aggregation: Literal["symmetric", "row"] = "symmetric"
    unused_gates: bool = False


@dataclass(frozen=True, kw_only=True)
class BPRPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.BPR`."""

    model: ClassVar[type[Recommender]] = BPR

    reg_weight: float = 0.01


@dataclass(frozen=True, kw_only=True)
class LightGCNPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.LightGCN`."""

    model: ClassVar[type[Recommender]] = LightGCN

    num_layers: int = 3
    reg_weight: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class VBPRPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.VBPR`."""

    model: ClassVar[type[Recommender]] = VBPR
    tables: ClassVar[Tables] = "separate"

    reg_weight: float = 0.01
    freeze_features: bool = True


@dataclass(frozen=True, kw_only=True)
class BM3Preset(Preset):
    """Settings of :class:`~alignrec_pyg.models.BM3`, its authors' best on Baby."""

    model: ClassVar[type[Recommender]] = BM3
    tables: ClassVar[Tables] = "separate"

    num_layers: int = 1
    dropout: float = 0.5
    cl_weight: float = 2.0
    reg_weight: float = 0.1
    freeze_features: bool = False


@dataclass(frozen=True, kw_only=True)
class FREEDOMPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.FREEDOM`."""

    model: ClassVar[type[Recommender]] = FREEDOM
    tables: ClassVar[Tables] = "optional"
    item_graph: ClassVar[Weighting | None] = "binary"

    num_layers: int = 2
    num_item_layers: int = 1
    dropout: float = 0.8
    reg_weight: float = 0.001
    freeze_features: bool = False


@dataclass(frozen=True, kw_only=True)
class ContentLightGCNPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.ContentLightGCN`, those of LightGCN."""

    model: ClassVar[type[Recommender]] = ContentLightGCN
    tables: ClassVar[Tables] = "separate"

    num_layers: int = 3
    reg_weight: float = 1e-4
    freeze_features: bool = True


@dataclass(frozen=True, kw_only=True)
class MMGCNPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.MMGCN`."""

    model: ClassVar[type[Recommender]] = MMGCN
    tables: ClassVar[Tables] = "separate"

    num_layers: int = 3
    latent_dim: int = 256
    max_feature_dim: int = 384
    reg_weight: float = 1e-4
    freeze_features: bool = True
    faithful: bool = False


@dataclass(frozen=True, kw_only=True)
class GRCNPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.GRCN`."""

    model: ClassVar[type[Recommender]] = GRCN
    tables: ClassVar[Tables] = "separate"

    num_layers: int = 2
    num_routings: int = 3
    reg_weight: float = 1e-3
    freeze_features: bool = True
    faithful: bool = False


@dataclass(frozen=True, kw_only=True)
class DualGNNPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.DualGNN`."""

    model: ClassVar[type[Recommender]] = DualGNN
    tables: ClassVar[Tables] = "separate"

    num_layers: int = 2
    latent_dim: int = 256
    num_neighbors: int = 40
    reg_weight: float = 0.1
    freeze_features: bool = True
    faithful: bool = False


@dataclass(frozen=True, kw_only=True)
class MGCNPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.MGCN`."""

    model: ClassVar[type[Recommender]] = MGCN
    tables: ClassVar[Tables] = "separate"
    table_graphs: ClassVar[bool] = True

    train: TrainConfig = TrainConfig(lr_decay=0.96, lr_decay_epochs=50)
    num_layers: int = 2
    num_item_layers: int = 1
    cl_weight: float = 0.01
    l2_weight: float = 1e-4
    l2_batch_size: int = 2048
    temperature: float = 0.2
    freeze_features: bool = False


@dataclass(frozen=True, kw_only=True)
class LATTICEPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.LATTICE`."""

    model: ClassVar[type[Recommender]] = LATTICE
    tables: ClassVar[Tables] = "separate"
    table_graphs: ClassVar[bool] = True

    train: TrainConfig = TrainConfig(lr_decay=0.96, lr_decay_epochs=50)
    num_layers: int = 2
    num_item_layers: int = 1
    num_neighbors: int = 10
    frozen_share: float = 0.9
    l2_weight: float = 1e-4
    l2_batch_size: int = 2048
    freeze_features: bool = False


@dataclass(frozen=True, kw_only=True)
class SLMRecPreset(Preset):
    """Settings of :class:`~alignrec_pyg.models.SLMRec`."""

    model: ClassVar[type[Recommender]] = SLMRec
    tables: ClassVar[Tables] = "separate"

    train: TrainConfig = TrainConfig(weight_decay=1e-4)
    num_layers: int = 3
    temperature: float = 0.2
    ssl_temperature: float = 0.2
    ssl_weight: float = 0.1
    freeze_features: bool = True


PAPER: dict[str, Preset] = {
    preset.model.__name__: preset
    for preset in (
        AlignRecPreset(),
        BPRPreset(),
        LightGCNPreset(),
        VBPRPreset(),
        MMGCNPreset(),
        GRCNPreset(),
        DualGNNPreset(),
        BM3Preset(),
        MGCNPreset(),
        FREEDOMPreset(),
        LATTICEPreset(),
        SLMRecPreset(),
        ContentLightGCNPreset(),
    )
}
"""Published defaults (BM3: its authors' best on Baby), for about 100,000 interactions and more."""

TABLE_2 = (
    "AlignRec",
    "BPR",
    "LightGCN",
    "VBPR",
    "MMGCN",
    "GRCN",
    "DualGNN",
    "BM3",
    "MGCN",
    "FREEDOM",
)
"""The models of the paper's main table; scripts run these unless others are named."""

SMALL: dict[str, Preset] = {
    name: preset.with_train(lr=5e-3, batch_size=512, max_epochs=200, patience=10)
    for name, preset in PAPER.items()
}
"""Settings for about 10,000 interactions: more and longer steps, so that a run takes seconds.

The learning rate is one for all models: of 1e-2, 5e-3 and 2e-3, the one that comes within 0.01 of
each model's best validation recall@20 (default synthetic data, seed 0). DualGNN (best at 2e-3) and
MGCN (1e-2) lose 0.008 by it, the others 0.002 or less.
"""
