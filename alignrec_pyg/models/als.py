"""ALS: matrix factorisation for implicit feedback by alternating least squares."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_integer, check_number
from alignrec_pyg.graph import Nodes
from alignrec_pyg.models.closed_form import ClosedFormRecommender, items_of_users
from alignrec_pyg.nn.csr import select_rows

_BLOCK_NUMBERS = 4_000_000  # of padded rows, and of their matrices, that are held at a time
_INITIAL_STD = 0.01


class ALS(ClosedFormRecommender):
    r"""Weighted matrix factorisation from `"Collaborative Filtering for Implicit Feedback Datasets"
    <https://doi.org/10.1109/ICDM.2008.22>`_ (ICDM 2008).

    Every pair of user and item is an example, with preference :math:`p_{ui}` 1 for links and 0
    otherwise, and confidence :math:`c_{ui} = 1 + \alpha p_{ui}`:

    .. math::
        \min_{x, y} \sum_{u,i} c_{ui} (p_{ui} - x_u^\top y_i)^2
        + \lambda \Big( \sum_u \lVert x_u \rVert^2 + \sum_i \lVert y_i \rVert^2 \Big)

    Given the items, the best user vectors are least squares in closed form, and the reverse (the
    paper's equations 4 and 5),

    .. math::
        x_u = \Big( Y^\top Y + \alpha \sum_{i \in \mathcal{N}_u} y_i y_i^\top
        + \lambda I \Big)^{-1} (1 + \alpha) \sum_{i \in \mathcal{N}_u} y_i,

    which :meth:`solve` repeats in turn, in blocks of users or items by Cholesky's method. A user or
    an item without links has the vector zero.

    Args:
        data: Training graph; reads the sizes.
        embedding_dim: Width :math:`d` of the vectors.
        alpha: What a link adds to the confidence :math:`\alpha` (positive; 40 in the paper, whose
            data count how often things were watched).
        reg_weight: Weight :math:`\lambda` of the squared norms (positive).
        num_iterations: Times that all vectors are solved for (10 in the paper).

    Shapes:
        - **output:** users :math:`(|U|, d)`, items :math:`(|I|, d)`

    Raises:
        ValueError: If an argument is out of range.
    """  # noqa: D205

    def __init__(
        self,
        data: HeteroData,
        *,
        embedding_dim: int = 64,
        alpha: float = 10.0,
        reg_weight: float = 30.0,
        num_iterations: int = 10,
    ) -> None:
        super().__init__(data, embedding_dim=embedding_dim, hparams=locals())
        check_number("alpha", alpha, above=0)
        check_number("reg_weight", reg_weight, above=0)
        check_integer("num_iterations", num_iterations, 1)
        self.add_id_tables()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws both tables anew (normal, deviation 0.01)."""
        for table in self.id_tables:
            nn.init.normal_(table, std=_INITIAL_STD)

    def forward(self, data: HeteroData, nodes: Nodes | None = None) -> tuple[Tensor, Tensor]:
        """The two tables."""
        return self.id_rows(nodes)

    @torch.no_grad()
    def solve(self, data: HeteroData) -> None:
        """Solves for the items and the users in turn, starting from the users' vectors."""
        users, items = self.id_tables
        of_users = self.known_items(data)
        of_items = self.link_graph(data, _users_of_items)
        for _ in range(self.num_iterations):
            self._solve_rows(items, users.double(), *of_items)
            self._solve_rows(users, items.double(), *of_users)

    def _solve_rows(self, x: Tensor, y: Tensor, row_pointer: Tensor, column: Tensor) -> None:
        """Sets the rows of ``x`` to the best vectors for the rows of ``y`` that they link to."""
        eye = torch.eye(y.size(1), dtype=y.dtype, device=y.device)
        shared = y.t() @ y + self.reg_weight * eye
        degree, order = row_pointer.diff().sort(descending=True, stable=True)
        order = order[degree > 0]
        x.zero_()
        start = 0
        while start < order.numel():
            # Rows of similar degree share a block, padded to the first one's.
            width = int(degree[start])
            rows = order[
                start : start + max(1, _BLOCK_NUMBERS // (y.size(1) * max(width, y.size(1))))
            ]
            pointer, position = select_rows(row_pointer, rows)
            count = pointer.diff()
            row = torch.arange(rows.numel(), device=y.device).repeat_interleave(count)
            place = torch.arange(row.numel(), device=y.device) - pointer[row]
            linked = y.new_zeros(rows.numel(), width, y.size(1))
            linked[row, place] = y[column[position]]
            matrix = torch.baddbmm(shared, linked.mT, linked, alpha=self.alpha)
            right = (1 + self.alpha) * linked.sum(dim=1)
            factor = torch.linalg.cholesky(matrix)
            x[rows] = torch.cholesky_solve(right.unsqueeze(2), factor).squeeze(2).to(x.dtype)
            start += rows.numel()


def _users_of_items(edge_index: Tensor, num_users: int, num_items: int) -> tuple[Tensor, Tensor]:
    return items_of_users(edge_index.flip(0), num_items, num_users)
