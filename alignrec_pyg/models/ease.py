"""EASE: a linear autoencoder in closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_number
from alignrec_pyg.graph import INTERACTS, ITEM
from alignrec_pyg.memory import available_memory
from alignrec_pyg.models.closed_form import ClosedFormRecommender, common_users, user_item_matrix
from alignrec_pyg.nn.csr import csr_matmul, select_rows

# Of each pair of items: the weights in single precision, and beside them at the peak of solving
# three matrices in double precision and what LAPACK works in (measured: 25.3).
_KEPT_BYTES = 4
_SOLVING_BYTES = 26


class EASE(ClosedFormRecommender):
    r"""Linear autoencoder from `"Embarrassingly Shallow Autoencoders for Sparse Data"
    <https://arxiv.org/abs/1905.03375>`_ (WWW 2019).

    With the binary interaction matrix :math:`X` (users x items), the paper's equations 1 and 8 are

    .. math::
        \hat{Y} = X B, \qquad P = (X^\top X + \lambda I)^{-1}, \qquad
        B_{ij} = \begin{cases} 0 & i = j \\ -P_{ij} / P_{jj} & \text{otherwise.} \end{cases}

    The matrix is solved for in double precision. The model is a matrix of items x items: it keeps 4
    bytes for each pair of items (the buffer ``item_weights`` ``[num_items, num_items]``, float32)
    and takes 30 at the peak of solving, 12 GB for 20,000 items.

    Args:
        data: Training graph; reads the sizes.
        reg_weight: Weight :math:`\lambda` of the squared norm (positive). It should be larger where
            items have more links; the paper has 200 to 1,000 on data of millions of them.

    Raises:
        ValueError: If ``reg_weight`` is not positive, or the weights do not fit the free memory.
    """  # noqa: D205

    item_weights: Tensor

    def __init__(self, data: HeteroData, *, reg_weight: float = 100.0) -> None:
        super().__init__(data, hparams=locals())
        check_number("reg_weight", reg_weight, above=0)
        device = torch.empty(0).device
        problem = _too_large(self.num_items, _KEPT_BYTES, device)
        if problem is not None:
            raise ValueError(f"EASE {problem}")
        self.register_buffer("item_weights", torch.zeros(self.num_items, self.num_items))

    @classmethod
    def why_not(cls, data: HeteroData) -> str | None:
        """Why the model cannot be solved here: too little memory for items x items."""
        num_items = int(data[ITEM].num_nodes)
        device = data[INTERACTS].edge_index.device
        return _too_large(num_items, _KEPT_BYTES + _SOLVING_BYTES, device)

    def solve(self, data: HeteroData) -> None:
        """Computes the weights from the links of ``data``.

        Raises:
            ValueError: If solving takes more memory than is free.
        """
        device = data[INTERACTS].edge_index.device
        problem = _too_large(self.num_items, _SOLVING_BYTES, device)
        if problem is not None:
            raise ValueError(f"EASE {problem}")
        shape = self.num_items, self.num_items
        gram = torch.zeros(shape, dtype=torch.float64, device=device)
        for start, rows in common_users(self.link_graph(data, user_item_matrix)):
            gram[start : start + rows.shape[0]] = torch.from_numpy(rows.toarray())
        gram.diagonal().add_(self.reg_weight)
        factor = torch.linalg.cholesky(gram)
        inverse = torch.cholesky_inverse(factor, out=gram)
        del factor
        inverse.div_(-inverse.diagonal().clone())
        inverse.fill_diagonal_(0)
        self.item_weights.copy_(inverse)

    def scorer(self, data: HeteroData, items: Tensor | None = None) -> Callable[[Tensor], Tensor]:
        """Sums the weights of the items of ``data`` that a user is linked to."""
        weights = self.item_weights if items is None else self.item_weights[:, items]
        row_pointer, item = self.known_items(data)

        def scores(users: Tensor) -> Tensor:
            pointer, position = select_rows(row_pointer, users)
            known = item[position]
            return csr_matmul(pointer, known, weights.new_ones(known.numel()), weights)

        return scores


def _too_large(num_items: int, bytes_each: int, device: torch.device) -> str | None:
    """The message if a device has too little free memory for a matrix of items x items."""
    if device.type == "meta":
        return None
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else available_memory()
    needed = bytes_each * num_items**2
    if needed <= free:
        return None
    return (
        f"needs about {needed / 1e9:,.1f} GB for {num_items:,} x {num_items:,} items (got "
        f"{free / 1e9:,.1f} GB of free memory): leave out rare items, e.g. with KCore, or take "
        "ItemKNN, whose memory grows with the items alone"
    )
