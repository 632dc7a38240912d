"""AlignRec's alignment losses added to those of another model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding
from torch_geometric.data import HeteroData

from alignrec_pyg.fingerprint import compare, data_fingerprints
from alignrec_pyg.graph import InteractionBatch, Nodes, feature_table
from alignrec_pyg.models.base import Recommender
from alignrec_pyg.models.content import ContentRecommender, alignment_of
from alignrec_pyg.models.inputs import require_features
from alignrec_pyg.nn import FeatureTable
from alignrec_pyg.storage import CheckpointError, read_manifest

AlignedT = TypeVar("AlignedT", bound="Aligned")


class Aligned(Recommender):
    r"""Another model, trained with the alignment losses of `"AlignRec: Aligning and Training in
    Multimodal Recommendations" <https://arxiv.org/abs/2403.12384>`_ (CIKM 2024), Eqs. 10-12.

    The paper says that its losses can be integrated into existing approaches. Here such a model,
    the *backbone*, has ID vectors :math:`c`, content vectors :math:`m` and final vectors :math:`h`.
    Its scores are computed as without the losses; its own loss is extended by

    .. math::
        \alpha \left[ \operatorname{NCE}_\tau(m_i, c_i) + \operatorname{NCE}_\tau(m_u, c_u) \right]
        + \beta \left[ 1 - \operatorname{mean} \cos(h_u, h_i) \right]
        + \lambda \operatorname{RMS}_{a,b} \left( m_a^\top m_b - \cos(f_a, f_b) \right),

    from the same propagation. Items that lack features take no part in the last term.

    **Differs from the paper:** :math:`f` are the encoder's features, several feature sets
    concatenated, also where the backbone trains a copy of them (as in the paper's equation, unlike
    the authors' code; :class:`~alignrec_pyg.models.AlignRec` has both). The paper gives no figures
    for other models.

    A subclass whose constructor builds the backbone behaves as any model,
    ``Subclass(data, **hparams)`` and ``Subclass.from_pretrained(folder, data)`` included.

    Args:
        data: Training graph that the backbone was built on; reads the feature tables.
        backbone: The model to train; it becomes part of this one.
        features: Feature sets of :math:`f` (default: those the backbone's content comes from).
        cca_weight: Weight :math:`\alpha` of content-ID alignment.
        uia_weight: Weight :math:`\beta` of user-item alignment.
        reg_weight: Weight :math:`\lambda` of the similarity regulariser.
        temperature: :math:`\tau`.
        cca_normalize: Whether content-ID alignment compares cosines or inner products.
        cca_symmetric: Whether it also runs from IDs to content; the directions are averaged.
        reg_similarity: Similarity of :math:`m`: ``"dot"`` or ``"cosine"``.
        reg_reduction: ``"rms"`` or ``"mse"``.

    Shapes:
        - **output:** those of the backbone

    Raises:
        ValueError: If the backbone has no separate content and ID vectors or was built on other
            data, or an option is unknown.
    """  # noqa: D205

    backbone: ContentRecommender

    def __init__(
        self,
        data: HeteroData,
        backbone: ContentRecommender,
        *,
        features: Sequence[str] | None = None,
        cca_weight: float = 0.01,
        uia_weight: float = 0.1,
        reg_weight: float = 0.1,
        temperature: float = 0.2,
        cca_normalize: bool = True,
        cca_symmetric: bool = False,
        reg_similarity: Literal["dot", "cosine"] = "dot",
        reg_reduction: Literal["rms", "mse"] = "rms",
    ) -> None:
        _require_content(backbone)
        super().__init__(data, embedding_dim=backbone.embedding_dim, hparams=locals())
        self._take_data_of(backbone)
        self.features = require_features(
            data, backbone.features if features is None else features, "Aligned"
        )
        self.fingerprints |= data_fingerprints(data, self.features, ())
        self.supports_new_items = backbone.supports_new_items
        self.supports_neighbor_sampling = backbone.supports_neighbor_sampling
        self.alignment = alignment_of(self, data)
        # one by one, each shares the memory of the data; concatenated they would be a copy
        self.encoder_features = nn.ModuleList(
            FeatureTable(feature_table(data, name), trainable=False) for name in self.features
        )

    def reset_parameters(self) -> None:
        """Draws the backbone's parameters anew."""
        self.backbone.reset_parameters()

    def on_epoch_start(self, data: HeteroData, generator: torch.Generator) -> None:
        """The backbone's."""
        self.backbone.on_epoch_start(data, generator)

    def on_batch_start(self, generator: torch.Generator) -> None:
        """The backbone's."""
        self.backbone.on_batch_start(generator)

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """The backbone's vectors."""
        user, item = self.backbone(data, nodes)
        return user, item

    def loss_terms(self, data: HeteroData, batch: InteractionBatch) -> dict[str, Tensor]:
        """The backbone's terms, and ``align_cca``, ``align_uia`` and ``align_reg``."""
        batch = batch.compact()
        x = self.backbone.representations(data, batch.nodes)
        user_x, item_x = self.backbone.fuse(x)
        user, pos = embedding(batch.user, user_x), embedding(batch.pos_item, item_x)
        aligned = self.alignment(batch, x, user, pos, self._target)
        return {
            **self.backbone.terms(batch, x),
            **{f"align_{name}": term for name, term in aligned.items()},
        }

    @property
    def loss_weights(self) -> dict[str, float]:
        """The backbone's weights, and the arguments of this model."""
        return {
            **self.backbone.loss_weights,
            "align_cca": self.cca_weight,
            "align_uia": self.uia_weight,
            "align_reg": self.reg_weight,
        }

    @property
    def hparams(self) -> dict[str, Any]:
        """The keyword arguments that build this model again, on a backbone like this one."""
        return {name: value for name, value in super().hparams.items() if name != "backbone"}

    def clone_for(self: AlignedT, data: HeteroData) -> AlignedT:
        """An untrained model with the arguments of this one and its backbone, on other data."""
        if "backbone" in inspect.signature(type(self)).parameters:
            return type(self)(data, self.backbone.clone_for(data), **self.hparams)
        return super().clone_for(data)

    def description(self) -> dict[str, Any]:
        """What identifies the model on disk, its backbone included."""
        return {**super().description(), "backbone": self.backbone.description()}

    def check_fits(self, data: HeteroData, argument: str) -> None:
        """As the backbone does.

        Raises:
            ValueError: If ``data`` does not fit; ``argument`` names it in the message.
        """
        self.backbone.check_fits(data, argument)

    @classmethod
    def from_pretrained(
        cls: type[AlignedT],
        folder: str | Path,
        data: HeteroData,
        backbone: ContentRecommender | None = None,
        *,
        strict: bool = False,
    ) -> AlignedT:
        """Builds the model that ``save_pretrained`` wrote, around a backbone built anew.

        Args:
            folder: Where it was saved.
            data: The graph it was trained on.
            backbone: A model built with the same arguments as the trained one; takes its weights
                and becomes part of the result. Subclasses that build it do without.
            strict: Whether data that differ by rounding are refused.

        Raises:
            CheckpointError: If files are missing or damaged, or belong to another model, backbone
                or graph.
            ValueError: If ``backbone`` is missing.
        """
        if backbone is None:
            if "backbone" in inspect.signature(cls).parameters:
                raise ValueError(
                    "'backbone' needs to be a model built with the arguments of the trained one: "
                    f"{cls.__name__}.from_pretrained(folder, data, MGCN(data))"
                )
            return super().from_pretrained(folder, data, strict=strict)
        _require_content(backbone)
        path = Path(folder) / "config.json"
        stored, given = read_manifest(path, {"model": str}).get("backbone"), backbone.description()
        if not isinstance(stored, dict | None):
            raise CheckpointError(f"{path} holds something else ('backbone' is no dictionary)")
        if stored is not None and stored != given:
            differing = {
                name: (stored.get(name), value)
                for name, value in given.items()
                if stored.get(name) != value
            }
            raise CheckpointError(
                f"{folder} was trained with another backbone (stored, given): {differing}; build "
                "it with the stored arguments, on the data it was trained on"
            )
        return cls._load(folder, data, backbone, strict=strict)

    def _take_data_of(self, backbone: ContentRecommender) -> None:
        """Adds the hashes of the backbone's data to those that are saved with the model."""
        for name, value in self._data_hashes.items():
            if backbone._data_hashes[name] != value:
                raise ValueError(f"'backbone' needs to be built on 'data' (other {name} found)")
        if (backbone.num_users, backbone.num_items) != (self.num_users, self.num_items):
            raise ValueError(
                f"'backbone' needs to be built on 'data', with {self.num_users} users and "
                f"{self.num_items} items (got {backbone.num_users} and {backbone.num_items})"
            )
        self._data_hashes = dict(backbone._data_hashes)
        for name in self.fingerprints.keys() & backbone.fingerprints.keys():
            if compare(self.fingerprints[name], backbone.fingerprints[name]):
                raise ValueError(f"'backbone' needs to be built on 'data' (other {name} found)")
        self.fingerprints |= backbone.fingerprints

    def _target(self, items: Tensor) -> Tensor:
        return torch.cat([table(items) for table in self.encoder_features], dim=1)


def _require_content(backbone: object) -> None:
    if not isinstance(backbone, ContentRecommender):
        raise ValueError(
            f"'backbone' needs to be a ContentRecommender (got {type(backbone).__name__}), which "
            "has separate content and ID vectors: AlignRec, ContentLightGCN, MGCN, SMORE, VBPR, "
            "or a "
            "subclass of your own with 'representations' and 'terms'"
        )
