"""Loss terms of the models, as pure functions of tensors.

Rows that are repeated in a batch can be passed once with their ``counts``, which gives the same
values and gradients with less computation. Under ``torch.autocast`` they compute in float32: they
subtract what is nearly equal, and sum squares.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from alignrec_pyg.checks import check_choice
from alignrec_pyg.graph import InteractionBatch
from alignrec_pyg.nn.precision import in_float32

_LOGITS_AT_A_TIME = 1 << 22


def batch_rows(
    batch: InteractionBatch, user_x: Tensor, item_x: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of the users, positive and negative items of a batch."""
    rows = functional.embedding
    return rows(batch.user, user_x), rows(batch.pos_item, item_x), rows(batch.neg_item, item_x)


@in_float32
def bpr_loss(pos_score: Tensor, neg_score: Tensor, eps: float = 0.0) -> Tensor:
    r"""Bayesian personalised ranking loss.

    .. math::
        -\frac{1}{B} \sum_b \log(\epsilon + \sigma(p_b - n_b))

    Source: `BPR <https://arxiv.org/abs/1205.2618>`_ (UAI 2009).

    Args:
        pos_score: Scores :math:`p` of observed pairs.
        neg_score: Scores :math:`n` of unobserved pairs.
        eps: :math:`\epsilon`, 0 (log-sigmoid) or the 1e-10 of some published code.

    Shapes:
        - **input:** :math:`(B)`, :math:`(B)`
        - **output:** scalar

    Example:
        >>> import torch
        >>> from alignrec_pyg.nn import bpr_loss
        >>> bpr_loss(torch.tensor([2.0]), torch.tensor([0.0]))
        tensor(0.1269)
    """
    difference = pos_score - neg_score
    if eps == 0.0:
        return -functional.logsigmoid(difference).mean()
    return -(eps + difference.sigmoid()).log().mean()


@in_float32
def embedding_norm_loss(*embeddings: Tensor) -> Tensor:
    r"""Sum of embedding norms, without squares, as in the code of published baselines.

    .. math::
        \frac{1}{\operatorname{rows}(X_k)} \sum_{j=1}^{k} \lVert X_j \rVert_F

    Shapes:
        - **input:** any number of :math:`(B_j, d)`; the last one determines the divisor
        - **output:** scalar
    """
    total = torch.stack([torch.linalg.vector_norm(x) for x in embeddings]).sum()
    return total / embeddings[-1].size(0)


@in_float32
def l2_loss(*embeddings: Tensor, batch_size: int) -> Tensor:
    r"""Half the squared norm of the rows of a batch, divided by the configured batch size.

    .. math::
        \frac{1}{2 B} \sum_j \lVert X_j \rVert_F^2

    Args:
        *embeddings: Row blocks of the batch, each :math:`(b, d)`.
        batch_size: The configured :math:`B`, also in a shorter last batch.
    """
    return torch.stack([x.square().sum() for x in embeddings]).sum() / (2 * batch_size)


@in_float32
def cosine_alignment_loss(x: Tensor, y: Tensor) -> Tensor:
    r"""One minus the mean cosine similarity of paired rows.

    .. math::
        1 - \frac{1}{B} \sum_b \cos(x_b, y_b)

    Source: `AlignRec <https://arxiv.org/abs/2403.12384>`_ (CIKM 2024), Eq. 12;
    `BM3 <https://arxiv.org/abs/2207.05969>`_ (WWW 2023), Eq. 9.

    Args:
        x: The first row of each pair.
        y: The second row of each pair.

    Shapes:
        - **input:** :math:`(B, d)`, :math:`(B, d)`
        - **output:** scalar
    """
    return 1 - functional.cosine_similarity(x, y, dim=-1).mean()


def unit_rows(x: Tensor) -> Tensor:
    """Scales the rows to length 1; rows of zeros remain zero and have no gradient.

    :func:`torch.nn.functional.normalize` multiplies the gradient of rows of zeros, which belong to
    items without features, by 1e12, which dominates the second moments of an optimiser.
    """
    present = x.detach().any(dim=-1, keepdim=True)
    return functional.normalize(torch.where(present, x, x.detach()), dim=-1)


@in_float32
def info_nce_loss(
    x: Tensor,
    y: Tensor,
    temperature: float = 0.2,
    *,
    counts: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    r"""In-batch contrastive loss from the rows of ``x`` to the rows of ``y``.

    .. math::
        \frac{1}{\sum_a n_a} \sum_a n_a \left[ -\log
        \frac{\exp(x_a \cdot y_a / \tau)}{\sum_b n_b \exp(x_a \cdot y_b / \tau)} \right]

    The forward pass computes the exponential of the B x B logits once, and the backward pass reuses
    it: both gradients are products of the same matrix, scaled by rows and columns.

    Source: `AlignRec <https://arxiv.org/abs/2403.12384>`_ (CIKM 2024), Eq. 10.

    Args:
        x: Anchors.
        y: Candidates; row :math:`a` is the positive of anchor :math:`a`.
        temperature: Temperature :math:`\tau`.
        counts: Number of occurrences :math:`n` of each candidate in the batch (default: one).
        normalize: Whether to L2-normalise the rows.

    Shapes:
        - **input:** :math:`(B, d)`, :math:`(B, d)`, counts :math:`(B)`
        - **output:** scalar

    Example:
        >>> import torch
        >>> from alignrec_pyg.nn import info_nce_loss
        >>> rows = torch.eye(2)
        >>> info_nce_loss(rows, rows, temperature=1.0)
        tensor(0.3133)
    """
    if normalize:
        x, y = unit_rows(x), unit_rows(y)
    if counts is None:
        counts = y.new_ones(y.size(0))
    loss: Tensor = _InfoNCE.apply(x, y, counts.to(x.dtype), temperature)
    return loss


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, counts: Tensor, temperature: float) -> Tensor:
        logits = (x / temperature) @ y.t()
        positive = logits.diagonal().clone()
        largest = logits.amax(dim=1)  # subtracted, so that no exponential overflows
        exponential = logits.sub_(largest.unsqueeze(1)).exp_()
        denominator = exponential @ counts
        ctx.save_for_backward(x, y, counts, exponential, denominator)
        ctx.temperature = temperature
        return (counts * (denominator.log() + largest - positive)).sum() / counts.sum()

    @staticmethod
    @once_differentiable
    @in_float32
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, y, counts, exponential, denominator = ctx.saved_tensors
        # d loss / d logits[a, b] = w_a (n_b exp[a, b] / denominator_a - [a = b])
        row = (grad * counts / (counts.sum() * ctx.temperature)).unsqueeze(1)
        scaled = row / denominator.unsqueeze(1)
        column = counts.unsqueeze(1)
        grad_x = scaled * (exponential @ (column * y)) - row * y
        grad_y = column * (exponential.t() @ (scaled * x))
        grad_y -= row * x
        return grad_x, grad_y, None, None


def node_info_nce_loss(nodes: Tensor, x: Tensor, y: Tensor, temperature: float = 0.2) -> Tensor:
    """:func:`info_nce_loss` of the rows ``nodes`` of two tables, each distinct row taken once.

    Shapes:
        - **input:** nodes int64 :math:`(B)`, x and y :math:`(N, d)`
        - **output:** scalar
    """
    nodes, counts = nodes.unique(return_counts=True)
    rows = functional.embedding(nodes, x), functional.embedding(nodes, y)
    return info_nce_loss(*rows, temperature, counts=counts)


@in_float32
def table_info_nce_loss(
    x: Tensor,
    table: Tensor,
    positive: Tensor,
    temperature: float = 0.2,
    *,
    counts: Tensor | None = None,
) -> Tensor:
    r"""Contrastive loss from some rows to all rows of a table, a sum over the former.

    .. math::
        \sum_a n_a \left[ -\log
        \frac{\exp(\cos(x_a, y_{p_a}) / \tau)}{\sum_b \exp(\cos(x_a, y_b) / \tau)} \right]

    The logits are made in blocks, in the forward and again in the backward pass, so that no matrix
    of anchors x table is held. A row of zeros has the cosine 0 with all others.

    Source: `LGMRec <https://arxiv.org/abs/2312.16400>`_ (AAAI 2024), section "Global Hypergraph
    Embedding".

    Args:
        x: Anchors.
        table: Candidates :math:`y`.
        positive: Row :math:`p_a` of the candidate that is the positive of anchor :math:`a`.
        temperature: Temperature :math:`\tau`.
        counts: Number of occurrences :math:`n_a` of each anchor (default: one).

    Shapes:
        - **input:** x :math:`(n, d)`, table :math:`(N, d)`, positive int64 :math:`(n)`, counts
          :math:`(n)`
        - **output:** scalar
    """
    x, table = unit_rows(x), unit_rows(table)
    counts = x.new_ones(x.size(0)) if counts is None else counts.to(x.dtype)
    loss: Tensor = _TableInfoNCE.apply(x, table, positive, counts, temperature)
    return loss


class _TableInfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, table: Tensor, positive: Tensor, counts: Tensor, temperature: float
    ) -> Tensor:
        scaled = x / temperature
        log_sum = torch.full_like(counts, -torch.inf)
        for block in table.split(_rows_at_a_time(x)):
            log_sum = torch.logaddexp(log_sum, (scaled @ block.t()).logsumexp(dim=1))
        ctx.save_for_backward(x, table, positive, counts, log_sum)
        ctx.temperature = temperature
        return (counts * (log_sum - (scaled * table[positive]).sum(1))).sum()

    @staticmethod
    @once_differentiable
    @in_float32
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, table, positive, counts, log_sum = ctx.saved_tensors
        # d loss / d logits[a, b] = n_a (softmax[a, b] - [b = p_a])
        weight = (grad * counts / ctx.temperature).unsqueeze(1)
        grad_x = -weight * table[positive]
        grad_table = torch.zeros_like(table).index_add_(0, positive, -weight * x)
        size = _rows_at_a_time(x)
        for rows, part in zip(table.split(size), grad_table.split(size), strict=True):
            logits = (x / ctx.temperature) @ rows.t()
            softmax = logits.sub_(log_sum.unsqueeze(1)).exp_().mul_(weight)
            grad_x += softmax @ rows
            part += softmax.t() @ x
        return grad_x, grad_table, None, None, None


def _rows_at_a_time(x: Tensor) -> int:
    return max(1, _LOGITS_AT_A_TIME // max(1, x.size(0)))


@in_float32
def similarity_loss(
    x: Tensor,
    target: Tensor,
    *,
    counts: Tensor | None = None,
    reduction: Literal["rms", "mse"] = "rms",
) -> Tensor:
    r"""Distance of the inner products of ``x`` from those of ``target`` (AlignRec's REG).

    .. math::
        \text{mse} = \frac{1}{B^2} \lVert X X^\top - F F^\top \rVert_F^2, \qquad
        \text{rms} = \sqrt{\text{mse}}

    No B x B matrix is built:
    :math:`\lVert XX^\top - FF^\top \rVert^2 = \lVert X^\top X \rVert^2 - 2 \lVert X^\top F
    \rVert^2 + \lVert F^\top F \rVert^2`, exactly. The three terms are subtracted in float64, since
    they may be much larger than their difference.

    Source: `AlignRec <https://arxiv.org/abs/2403.12384>`_ (CIKM 2024), Eq. 11.

    Args:
        x: Rows :math:`X` to train.
        target: Rows :math:`F`, L2-normalised for cosine targets; they receive no gradient.
        counts: Number of occurrences of each row in the batch (default: one), with sum :math:`B`.
        reduction: ``"rms"`` or ``"mse"``.

    Shapes:
        - **input:** :math:`(B, d)`, :math:`(B, D)`, counts :math:`(B)`
        - **output:** scalar

    Raises:
        ValueError: If ``reduction`` is neither.
    """
    check_choice("reduction", reduction, ("rms", "mse"))
    target = target.detach()
    size: float | Tensor = x.size(0)
    if counts is not None:
        size = counts.sum()
        root = counts.to(x.dtype).sqrt().unsqueeze(1)
        x, target = root * x, root * target
    error = (
        _squared_norm(x.t() @ x)
        - 2 * _squared_norm(x.t() @ target)
        # |F'F| = |FF'|: compute the smaller product
        + _squared_norm(
            target.t() @ target if target.size(1) < target.size(0) else target @ target.t()
        )
    )
    mse = (error / size**2).clamp(min=1e-16).to(x.dtype)  # the root has no gradient at 0
    return mse.sqrt() if reduction == "rms" else mse


def _squared_norm(matrix: Tensor) -> Tensor:
    return matrix.double().square().sum()
