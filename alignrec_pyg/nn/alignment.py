"""The alignment losses of AlignRec, for models with separate ID and content vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, normalize

from alignrec_pyg.checks import check_choice, check_number
from alignrec_pyg.graph import InteractionBatch
from alignrec_pyg.nn.losses import cosine_alignment_loss, info_nce_loss, similarity_loss


class Alignment(nn.Module):
    r"""Content-ID alignment, user-item alignment and the similarity regulariser on a batch.

    With content vectors :math:`m`, ID vectors :math:`c`, final vectors :math:`h` and features
    :math:`f`,

    .. math::
        \text{CCA} &= \operatorname{NCE}_\tau(m_i, c_i) + \operatorname{NCE}_\tau(m_u, c_u), \\
        \text{UIA} &= 1 - \operatorname{mean} \cos(h_u, h_i), \\
        \text{REG} &= \operatorname{RMS}_{a,b} \left( m_a^\top m_b
        - \operatorname{sg} \cos(f_a, f_b) \right)

    over the users :math:`u` and positive items :math:`i, a, b` of the batch. CCA and REG are
    computed from the distinct users and items, weighted by their counts, with the same values and
    gradients.

    Source: `AlignRec <https://arxiv.org/abs/2403.12384>`_ (CIKM 2024), Eqs. 10-12.

    Args:
        has_features: Mask of the items in REG, bool ``[num_items]`` (default: all items).
        temperature: Temperature :math:`\tau` of CCA.
        cca_normalize: Whether CCA uses cosines instead of inner products.
        cca_symmetric: Whether CCA is also computed from IDs to content and averaged.
        reg_similarity: Similarity of :math:`m` in REG, ``"dot"`` or ``"cosine"``.
        reg_reduction: Reduction of REG, ``"rms"`` or ``"mse"``.

    Raises:
        ValueError: If ``temperature`` is not positive or an option is unknown.
    """

    has_features: Tensor | None

    def __init__(
        self,
        *,
        has_features: Tensor | None = None,
        temperature: float = 0.2,
        cca_normalize: bool = True,
        cca_symmetric: bool = False,
        reg_similarity: Literal["dot", "cosine"] = "dot",
        reg_reduction: Literal["rms", "mse"] = "rms",
    ) -> None:
        super().__init__()
        check_number("temperature", temperature, above=0)
        check_choice("reg_similarity", reg_similarity, ("dot", "cosine"))
        check_choice("reg_reduction", reg_reduction, ("rms", "mse"))
        self.register_buffer("has_features", has_features, persistent=False)
        self.temperature = temperature
        self.cca_normalize = cca_normalize
        self.cca_symmetric = cca_symmetric
        self.reg_similarity = reg_similarity
        self.reg_reduction: Literal["rms", "mse"] = reg_reduction

    def forward(
        self,
        batch: InteractionBatch,
        representations: tuple[Tensor, Tensor, Tensor, Tensor],
        user: Tensor,
        pos_item: Tensor,
        features: Callable[[Tensor], Tensor],
    ) -> dict[str, Tensor]:
        r"""Computes the loss terms ``cca``, ``uia`` and ``reg``, unweighted scalars.

        Args:
            batch: Training triplets; their negative items are not used.
            representations: ID vectors of the users and items that the batch indexes, and content
                vectors of both, in this order.
            user: Final vectors of the users of the batch, :math:`(B, d)`.
            pos_item: Final vectors of the positive items of the batch, :math:`(B, d)`.
            features: Function that returns the features of items, int64 :math:`(n)`, from a
                trainable or frozen table. Their cosines are the targets of REG, without gradient.
        """
        id_user, id_item, content_user, content_item = representations
        users, user_counts = batch.user.unique(return_counts=True)
        items, item_counts = batch.pos_item.unique(return_counts=True)
        numbers = items if batch.nodes is None else batch.nodes.item[items]
        user_content, content = embedding(users, content_user), embedding(items, content_item)
        return {
            "cca": self._cca(content, embedding(items, id_item), item_counts)
            + self._cca(user_content, embedding(users, id_user), user_counts),
            "uia": cosine_alignment_loss(user, pos_item),
            "reg": self._reg(content, numbers, item_counts, features),
        }

    def _cca(self, content: Tensor, ids: Tensor, counts: Tensor) -> Tensor:
        def nce(x: Tensor, y: Tensor) -> Tensor:
            return info_nce_loss(
                x, y, self.temperature, counts=counts, normalize=self.cca_normalize
            )

        if self.cca_symmetric:
            return (nce(content, ids) + nce(ids, content)) / 2
        return nce(content, ids)

    def _reg(
        self, content: Tensor, items: Tensor, counts: Tensor, features: Callable[[Tensor], Tensor]
    ) -> Tensor:
        if self.has_features is not None:
            known = self.has_features[items].nonzero().squeeze(1)
            if known.numel() == 0:
                return content.new_zeros(())
            content, items, counts = embedding(known, content), items[known], counts[known]
        with torch.no_grad():
            target = normalize(features(items), dim=-1)
        if self.reg_similarity == "cosine":
            content = normalize(content, dim=-1)
        return similarity_loss(content, target, counts=counts, reduction=self.reg_reduction)

    def extra_repr(self) -> str:
        """The options, for the representation of the module."""
        names = ("temperature", "cca_normalize", "cca_symmetric", "reg_similarity", "reg_reduction")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
