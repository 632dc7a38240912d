"""AlignRec on tables that weigh as much as they tell about the links, the one to start with."""

from __future__ import annotations

from typing import Any

from torch_geometric.data import HeteroData

from alignrec_pyg.models.alignrec import AlignRec
from alignrec_pyg.models.inputs import ModelInputs


class WeightedAlignRec(AlignRec):
    r"""`"AlignRec: Aligning and Training in Multimodal Recommendations"
    <https://arxiv.org/abs/2403.12384>`_ (CIKM 2024), a variant of ours.

    The equations, losses and arguments are those of :class:`~alignrec_pyg.models.AlignRec`. What
    differs was chosen on validation links (see "AlignRec at its best" in the results):

    - Of several feature tables, each weighs in the fused table and in the item graph by its recall
      in the item-CF protocol on the training links
      (:func:`~alignrec_pyg.feature_eval.table_weights`), so that a modality that says little has
      little influence. Commands prepare the data so; in Python,
      ``ConcatFeatures(names, weights=table_weights(train, names))`` does.
    - The feature table stays as it is (``freeze_features``), so that an epoch is shorter, and REG
      aims at the cosines of the encoder's features.

    Args:
        data: Training graph; reads the sizes, the feature table and the item graph.
        freeze_features: Whether the feature table stays as it is.
        **hparams: The other arguments of :class:`~alignrec_pyg.models.AlignRec`.

    Shapes:
        - **input:** features :math:`(|I|, F)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: As :class:`~alignrec_pyg.models.AlignRec`.
    """  # noqa: D205

    inputs = ModelInputs(tables="fused", item_graph="one", weighted=True)

    def __init__(
        self,
        data: HeteroData,
        *,
        freeze_features: bool | None = True,
        **hparams: Any,
    ) -> None:
        super().__init__(data, freeze_features=freeze_features, **hparams)
