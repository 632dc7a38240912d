"""Random perturbations: links of an epoch, entries of a batch.

All draws come from the generators that are passed, which training seeds by epoch and batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from alignrec_pyg.graph import symmetric_norm
from alignrec_pyg.nn.propagation import Adjacency, user_item_adjacency


class LinkPruning(nn.Module):
    r"""Samples a share of the links for an epoch, and normalises their graph anew.

    Links are drawn by :func:`sample_links`. With a share of 1 no graph is made.

    Source: `FREEDOM <https://arxiv.org/abs/2211.06924>`_ (MM 2023).

    Args:
        share: Share of the links that is kept, above 0.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share
        self._kept: tuple[Tensor, Adjacency] | None = None  # all links, and the graph of some

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the graph, which torch cannot copy; the next epoch draws its own."""
        return {**self.__dict__, "_kept": None}

    def draw(
        self, edge_index: Tensor, num_users: int, num_items: int, generator: torch.Generator
    ) -> None:
        """Draws the links of an epoch, of all links int64 ``[2, E]``."""
        self._kept = None
        if self.share < 1:
            kept = sample_links(edge_index, num_users, num_items, self.share, generator)
            graph = user_item_adjacency(edge_index[:, kept], num_users, num_items)
            self._kept = edge_index, graph

    def forward(self, edge_index: Tensor) -> Adjacency | None:
        """The epoch's graph in training on the links that it was drawn from; ``None`` otherwise."""
        if self.training and self._kept is not None and self._kept[0] is edge_index:
            return self._kept[1]
        return None


def sample_links(
    edge_index: Tensor, num_users: int, num_items: int, share: float, generator: torch.Generator
) -> Tensor:
    r"""Columns of a share of the links, without replacement, weighted by :math:`1/\sqrt{d_u d_i}`.

    The first links of an exponential race are such a sample: link :math:`e` arrives after an
    exponential time of rate :math:`w_e`. Unlike ``torch.multinomial`` it has no size limit.

    Shapes:
        - **output:** int64 :math:`(\lfloor \text{share} \cdot E \rfloor)`, ascending
    """
    weight = symmetric_norm(edge_index, num_users, num_items).double()
    arrival = torch.empty_like(weight).exponential_(generator=generator) / weight
    num_kept = int(weight.numel() * share)
    return arrival.topk(num_kept, largest=False, sorted=False).indices.sort().values


def dropout(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    r"""Zeroes each entry with probability :math:`p` and divides the others by :math:`1 - p`.

    Args:
        x: Any tensor.
        p: Probability in [0, 1).
        generator: Where the draws come from (``None``: torch's global one).
    """
    kept = torch.rand(x.shape, generator=generator, device=x.device) >= p
    return x * kept / (1 - p)


def signed_noise(x: Tensor, scale: float, generator: torch.Generator | None) -> Tensor:
    r"""Moves every row by ``scale``, away from zero in each entry, in a direction drawn at random.

    .. math::
        x + \text{scale} \cdot \operatorname{sign}(x) \odot \frac{n}{\lVert n \rVert},
        \qquad n \sim U[0, 1)^d

    Source: `MENTOR <https://arxiv.org/abs/2402.19407>`_ (AAAI 2025), in the authors' code.

    Args:
        x: Rows, :math:`(*, d)`.
        scale: Length of the noise.
        generator: Where the draws come from (``None``: torch's global one).
    """
    drawn = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + scale * x.sign() * functional.normalize(drawn, dim=-1)
