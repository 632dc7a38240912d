"""AlignRec as one would write it first: the yardstick of ``benchmarks/speed.py``.

Written from the paper's equations, with plain torch and none of the package's code: COO matrices,
B x B losses on the batch as it comes, the whole graph propagated for every block of users at
evaluation, Python loops for negatives and metrics. It computes the very same values as the package,
which the tests check, so that a difference in time or memory is a difference in how, not in what.

Every item needs a non-zero feature row, and every user fewer links than there are items.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn
from torch.nn import functional

TERM_WEIGHTS = {"bpr": 1.0, "cca": 0.01, "uia": 0.1, "reg": 0.1, "l2": 1e-4}
"""The published weights: alpha for cca, beta for uia, lambda for reg."""

Batch = tuple[Tensor, Tensor, Tensor]
"""User, positive item and negative item of every row, each int64 ``[B]``."""


def dense_item_graph(features: Tensor, k: int = 10) -> Tensor:
    r"""The cosine kNN graph from the full items x items matrix.

    With :math:`c` the cosines kept (the ``k`` largest of each row, the item itself included) and
    :math:`d_i = \sum_j c_{ij}`, the entries are :math:`d_i^{-1/2} c_{ij} d_j^{-1/2}`.

    Shapes:
        - **input:** features :math:`(|I|, D)`
        - **output:** COO :math:`(|I|, |I|)`, row = item, column = neighbour
    """
    unit = features / features.norm(dim=1, keepdim=True)
    cosine = unit @ unit.t()
    value, column = cosine.topk(k, dim=1)
    row = torch.arange(features.size(0)).repeat_interleave(k)
    inverse_root = value.sum(dim=1).pow(-0.5)
    value = inverse_root[row] * value.flatten() * inverse_root[column.flatten()]
    index = torch.stack([row, column.flatten()])
    return torch.sparse_coo_tensor(index, value, cosine.shape).coalesce()


class PlainAlignRec(nn.Module):
    r"""AlignRec (https://arxiv.org/abs/2403.12384, CIKM 2024), all published defaults.

    .. math::
        Z = F W_f^\top + b_f, \quad H_0 = E_I \odot \sigma(Z W_g^\top + b_g), \quad
        M_I = S H_0, \quad M_U = \hat{R} M_I, \\
        C = \tfrac{1}{3} (X + \hat{A} X + \hat{A}^2 X), \; X = [E_U; E_I], \quad H = C + [M_U; M_I]

    Args:
        links: Training links, users in row 0.
        num_users: Number of users.
        num_items: Number of items.
        features: Initial feature table, trained along.
        dim: Width of the embeddings.
        batch_size: Divisor of the L2 term, also in a shorter last batch.

    Shapes:
        - **input:** links int64 :math:`(2, E)`, features :math:`(|I|, D)`
    """

    def __init__(
        self,
        links: Tensor,
        num_users: int,
        num_items: int,
        features: Tensor,
        *,
        dim: int = 64,
        batch_size: int = 2048,
    ) -> None:
        super().__init__()
        self.num_users, self.num_items, self.batch_size = num_users, num_items, batch_size
        self.user_table = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_users, dim)))
        self.item_table = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_items, dim)))
        self.features = nn.Parameter(features.clone())
        self.project = nn.Linear(features.size(1), dim)
        self.gate = nn.Linear(dim, dim)

        user, item = links
        size = num_users + num_items
        ones = torch.ones(links.size(1))
        degree = torch.zeros(size).index_add(0, user, ones).index_add(0, num_users + item, ones)
        value = degree[user].pow(-0.5) * degree[num_users + item].pow(-0.5)
        both = torch.stack(
            [torch.cat([user, num_users + item]), torch.cat([num_users + item, user])]
        )
        self.adjacency = torch.sparse_coo_tensor(both, value.repeat(2), (size, size)).coalesce()
        self.user_item = torch.sparse_coo_tensor(links, value, (num_users, num_items)).coalesce()
        self.item_graph = dense_item_graph(features)

    def propagate(self) -> tuple[Tensor, Tensor]:
        """The ID vectors C and the content vectors M of all users and items, users first."""
        gate = torch.sigmoid(self.gate(self.project(self.features)))
        item_content = torch.sparse.mm(self.item_graph, self.item_table * gate)
        user_content = torch.sparse.mm(self.user_item, item_content)
        layers = [torch.cat([self.user_table, self.item_table])]
        for _ in range(2):
            layers.append(torch.sparse.mm(self.adjacency, layers[-1]))
        return torch.stack(layers).mean(dim=0), torch.cat([user_content, item_content])

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss of a batch and its unweighted terms."""
        user, positive, negative = batch
        ids, content = self.propagate()
        final = ids + content
        positive_row, negative_row = self.num_users + positive, self.num_users + negative
        h_user, h_positive, h_negative = final[user], final[positive_row], final[negative_row]

        difference = (h_user * h_positive).sum(dim=1) - (h_user * h_negative).sum(dim=1)
        cosine = functional.cosine_similarity(h_user, h_positive, dim=1)
        squares = h_user.pow(2).sum() + h_positive.pow(2).sum() + h_negative.pow(2).sum()
        terms = {
            "bpr": -functional.logsigmoid(difference).mean(),
            "cca": _info_nce(content[positive_row], ids[positive_row])
            + _info_nce(content[user], ids[user]),
            "uia": 1 - cosine.mean(),
            "reg": self._similarity(content[positive_row], self.features[positive]),
            "l2": squares / 2 / self.batch_size,
        }
        total = torch.zeros(())
        for name, weight in TERM_WEIGHTS.items():
            total = total + weight * terms[name]
        return total, terms

    @staticmethod
    def _similarity(content: Tensor, features: Tensor) -> Tensor:
        unit = functional.normalize(features, dim=1)
        target = (unit @ unit.t()).detach()
        return (content @ content.t() - target).norm() / content.size(0)


def _info_nce(x: Tensor, y: Tensor, temperature: float = 0.2) -> Tensor:
    x, y = functional.normalize(x, dim=1), functional.normalize(y, dim=1)
    return functional.cross_entropy(x @ y.t() / temperature, torch.arange(x.size(0)))


def sample_epoch(
    links: Tensor, seen: list[set[int]], batch_size: int, rng: random.Random
) -> list[Batch]:
    """Shuffled positives in batches, each with a uniform item its user has not seen in training.

    Args:
        links: Training links, int64 ``[2, E]``.
        seen: The training items of every user.
        batch_size: Rows per batch.
        rng: Source of order and negatives.
    """
    pairs = links.t().tolist()
    candidates = sorted({item for _, item in pairs})
    rng.shuffle(pairs)
    batches = []
    for start in range(0, len(pairs), batch_size):
        rows = pairs[start : start + batch_size]
        negatives = []
        for user, _ in rows:
            item = rng.choice(candidates)
            while item in seen[user]:
                item = rng.choice(candidates)
            negatives.append(item)
        users, items = zip(*rows, strict=True)
        batches.append((torch.tensor(users), torch.tensor(items), torch.tensor(negatives)))
    return batches


def items_of_users(links: Tensor, num_users: int) -> list[set[int]]:
    """The set of linked items of every user."""
    items: list[set[int]] = [set() for _ in range(num_users)]
    for user, item in links.t().tolist():
        items[user].add(item)
    return items


@torch.no_grad()
def plain_evaluate(
    model: PlainAlignRec,
    seen: list[set[int]],
    held_out: list[set[int]],
    ks: tuple[int, ...] = (10, 20),
    block: int = 4096,
) -> dict[str, float]:
    """Recall, NDCG, precision, MAP and MRR over all items, averaged over users with held-out items.

    Args:
        model: The model to rank with.
        seen: Items of every user that are left out of the ranking.
        held_out: Items of every user to be found.
        ks: Lengths of the list.
        block: Users per block; every block propagates the graph anew.
    """
    users = [user for user, items in enumerate(held_out) if items]
    totals = {
        f"{name}@{k}": 0.0 for k in ks for name in ("recall", "ndcg", "precision", "map", "mrr")
    }
    for start in range(0, len(users), block):
        chosen = users[start : start + block]
        ids, content = model.propagate()
        user_vectors, item_vectors = (ids + content).split([model.num_users, model.num_items])
        scores = user_vectors[chosen] @ item_vectors.t()
        for row, user in enumerate(chosen):
            scores[row, list(seen[user])] = -math.inf
        ranking = scores.topk(max(ks), dim=1).indices.tolist()
        for user, ranked in zip(chosen, ranking, strict=True):
            for k in ks:
                for name, value in _user_metrics(ranked[:k], held_out[user], k).items():
                    totals[f"{name}@{k}"] += value
    return {name: total / len(users) for name, total in totals.items()}


def _user_metrics(ranked: list[int], relevant: set[int], k: int) -> dict[str, float]:
    hits, gain, precision_sum, reciprocal = 0, 0.0, 0.0, 0.0
    for rank, item in enumerate(ranked, start=1):
        if item in relevant:
            hits += 1
            gain += 1 / math.log2(rank + 1)
            precision_sum += hits / rank
            if hits == 1:
                reciprocal = 1 / rank
    most = min(k, len(relevant))
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, most + 1))
    return {
        "recall": hits / len(relevant),
        "ndcg": gain / ideal,
        "precision": hits / k,
        "map": precision_sum / most,
        "mrr": reciprocal,
    }
