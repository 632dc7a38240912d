"""AlignRec: image-text features, IDs, users and items aligned with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch_geometric.data import HeteroData
from torch_geometric.nn.inits import reset

from alignrec_pyg.graph import InteractionBatch, Nodes
from alignrec_pyg.models.content import ContentRecommender, Representations, alignment_of
from alignrec_pyg.models.inputs import ModelInputs, trains_features
from alignrec_pyg.nn import (
    FeatureTable,
    ItemPropagation,
    UserItemPropagation,
    batch_rows,
    bpr_loss,
    l2_loss,
)
from alignrec_pyg.train_config import TrainConfig


class AlignRec(ContentRecommender):
    r"""`"AlignRec: Aligning and Training in Multimodal Recommendations"
    <https://arxiv.org/abs/2403.12384>`_ (CIKM 2024), recommender stage.

    The aggregator propagates IDs over the user-item graph, and content over the item graph
    :math:`S`, gated by the encoder's features :math:`F` (Sec. 4.2, Eqs. 4-8):

    .. math::
        C &= \operatorname{LGC}_L([E_U ; E_I]), \\
        M_I &= S^{L_s} \left( E_I \odot \sigma(W_g (W_f F + b_f) + b_g) \right), \\
        M_U &= \hat{R} M_I, \\
        H &= C + [M_U ; M_I] \quad \text{(fuser)},

    with :math:`\hat{R} = D_u^{-1/2} R D_i^{-1/2}` and scores :math:`\hat{y}_{ui} = h_u^\top h_i`.
    The loss on a batch (Sec. 4.3, Eqs. 10-14) is

    .. math::
        L = {} & \operatorname{BPR}(\hat{y}_{ui}, \hat{y}_{uj})
        + \alpha \, \text{CCA} + \beta \, \text{UIA} + \lambda \, \text{REG}
        + \lambda_2 \lVert h \rVert^2 / 2B, \\
        \text{CCA} &= \operatorname{NCE}_\tau(M_i, C_i) + \operatorname{NCE}_\tau(M_u, C_u), \\
        \text{UIA} &= 1 - \operatorname{mean} \cos(h_u, h_i), \\
        \text{REG} &= \operatorname{RMS}_{a,b} \left( m_a^\top m_b
        - \operatorname{sg} \cos(f_a, f_b) \right).

    **Differs from the paper:** the defaults are the choices of the authors' code, which made the
    published figures: inner products (not cosines) of :math:`m` in REG, the cosine of the feature
    table *in training* as its target, normalised rows in CCA, a small L2 on the final rows.
    :meth:`paper_equations` builds the variant that follows the paper to the letter. Items that lack
    features take no part in REG.

    Args:
        data: Training graph; reads the sizes, the feature tables and the item graph.
        features: Feature sets, concatenated in this order (default: all; the paper has one).
        item_graph: Name of :math:`S` (default: the only one); the paper's is
            ``KNNItemGraph(name, k=10, weighting="cosine")``.
        embedding_dim: Width :math:`d`.
        num_layers: Number of user-item layers :math:`L`.
        num_item_layers: Number of item graph layers :math:`L_s`.
        cca_weight: Weight :math:`\alpha` of content-ID alignment (searched over 1e-4 to 1e-1).
        uia_weight: Weight :math:`\beta` of user-item alignment.
        reg_weight: Weight :math:`\lambda` of the similarity regulariser (searched over 0.1 to 0.5).
        l2_weight: Weight :math:`\lambda_2` of the L2 term (not in the paper).
        temperature: :math:`\tau` of CCA.
        cca_normalize: Whether CCA compares cosines (code) or inner products (paper's Eq. 10).
        cca_symmetric: Whether CCA also runs from IDs to content; the two directions are averaged.
        reg_similarity: Similarity of :math:`m` in REG: ``"dot"`` (code) or ``"cosine"`` (paper).
        reg_reduction: ``"rms"`` (code) or ``"mse"``.
        reg_target: Features whose cosine REG aims at: ``"live"``, the table in training (code), or
            ``"frozen"``, the encoder's (paper).
        freeze_features: Whether the feature table stays as it is
            (``None``: above a million items).
        feature_norm: Whether features pass a LayerNorm before the projection.
        mlp_relu: Whether a ReLU stands between :math:`W_f` and :math:`W_g`.
        user_aggregation: Normalisation of :math:`\hat{R}`: ``"symmetric"`` (code) or ``"row"``.

    Shapes:
        - **input:** features :math:`(|I|, F)`
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If ``data`` lacks the features or the graph, or an option is unknown.
    """  # noqa: D205

    inputs = ModelInputs(tables="fused", item_graph="one")
    supports_new_items = True
    supports_neighbor_sampling = True

    def __init__(
        self,
        data: HeteroData,
        *,
        features: Sequence[str] | None = None,
        item_graph: str | None = None,
        embedding_dim: int = 64,
        num_layers: int = 2,
        num_item_layers: int = 1,
        cca_weight: float = 0.01,
        uia_weight: float = 0.1,
        reg_weight: float = 0.1,
        l2_weight: float = 1e-4,
        temperature: float = 0.2,
        cca_normalize: bool = True,
        cca_symmetric: bool = False,
        reg_similarity: Literal["dot", "cosine"] = "dot",
        reg_reduction: Literal["rms", "mse"] = "rms",
        reg_target: Literal["live", "frozen"] = "live",
        freeze_features: bool | None = None,
        feature_norm: bool = False,
        mlp_relu: bool = False,
        user_aggregation: Literal["symmetric", "row"] = "symmetric",
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        tables = self.feature_tables(data)
        self.alignment = alignment_of(self, data)
        self.add_id_tables()
        trainable = trains_features(freeze_features, self.num_items)
        self.feature_table = FeatureTable(*tables, trainable=trainable)
        frozen_copy = reg_target == "frozen" and trainable
        self.encoder_features = FeatureTable(*tables, trainable=False) if frozen_copy else None
        self.layer_norm = nn.LayerNorm(self.feature_table.dim) if feature_norm else nn.Identity()
        self.projection = nn.Linear(self.feature_table.dim, embedding_dim)
        self.gate = nn.Linear(embedding_dim, embedding_dim)
        self.propagation = UserItemPropagation(num_layers)
        self.item_propagation = ItemPropagation(num_item_layers)
        self.reset_parameters()

    @classmethod
    def paper_equations(cls, data: HeteroData, **hparams: Any) -> AlignRec:
        r"""AlignRec by the equations of the paper, where the authors' code does otherwise.

        CCA compares inner products (Eq. 10); REG has cosines on both sides, towards the encoder's
        features, not the training ones (Eq. 11); and there is no L2 (Eq. 14). The paper trains
        with the settings of :meth:`published_train_config`.

        Args:
            data: Training graph.
            **hparams: Further arguments of the constructor.
        """
        equations = {
            "cca_normalize": False,
            "reg_similarity": "cosine",
            "reg_target": "frozen",
            "l2_weight": 0.0,
        }
        return cls(data, **{**equations, **hparams})

    @classmethod
    def published_train_config(cls) -> TrainConfig:
        """Learning rate 3e-4, falling by 4 % in 50 epochs, and patience 30."""
        return TrainConfig(
            lr=3e-4,
            lr_decay=0.96,
            lr_decay_epochs=50,
            batch_size=2048,
            eval_every=1,
            patience=30,
            min_steps=0,
        )

    def reset_parameters(self) -> None:
        """Draws tables (Xavier-uniform) and linear layers anew, puts the features back."""
        self.reset_id_tables()
        for part in (self.feature_table, self.layer_norm, self.projection, self.gate):
            reset(part)

    def representations(self, data: HeteroData, nodes: Nodes | None = None) -> Representations:
        """ID and content vectors, before the fuser adds them."""
        graph = self.user_item_graph(data)
        id_user, id_item = self.propagation(*self.id_tables, graph, nodes=nodes)
        to_users = self.item_to_user_aggregation(data, nodes, self.user_aggregation)
        flow = self.item_item_flow(
            data, self.item_graph, self.num_item_layers, nodes, to_users.items
        )
        hidden = self.projection(self.layer_norm(self.feature_table(flow.source)))
        gate = self.gate(hidden.relu() if self.mlp_relu else hidden).sigmoid()
        content = self.item_propagation(self.item_ids(flow.source) * gate, flow)
        return Representations(id_user, id_item, *to_users(content))

    def terms(self, batch: InteractionBatch, x: Representations) -> dict[str, Tensor]:
        """``bpr``, ``cca``, ``uia``, ``reg`` and ``l2``."""
        user_x, item_x = self.fuse(x)
        user, pos, neg = batch_rows(batch, user_x, item_x)
        target = self.feature_table if self.encoder_features is None else self.encoder_features
        return {
            "bpr": bpr_loss((user * pos).sum(-1), (user * neg).sum(-1)),
            **self.alignment(batch, x, user, pos, target),
            "l2": l2_loss(user, pos, neg, batch_size=batch.full_size),
        }
