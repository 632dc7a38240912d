"""The user graph of DualGNN, which connects users by their number of common items."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from alignrec_pyg.checks import check_integer
from alignrec_pyg.nn.propagation import Adjacency


def common_item_neighbors(
    edge_index: Tensor, num_users: int, num_items: int, k: int, *, block_size: int = 4_000_000
) -> tuple[Tensor, Tensor]:
    r"""Finds the ``k`` users with the most common items for each user, ties by the lower index.

    The counts are :math:`C = R R^\top`, a sparse product that is computed in blocks of rows;
    neighbours are other users with at least one common item. A block has as many rows as have at
    most ``block_size`` paths user - item - user in total (at least one row), so that memory is
    about 70 bytes per path, and popular items cost time but no memory. No matrix of users x users
    is held in memory. The product is computed on the CPU, the result is on the device of
    ``edge_index``.

    Shapes:
        - **input:** edge_index int64 :math:`(2, E)`, distinct links with users in row 0
        - **output:** neighbours int32 :math:`(|U|, k)` by descending count, counts float32
          :math:`(|U|, k)`; both are padded with 0 for users with fewer neighbours

    Raises:
        ValueError: If ``k`` or ``block_size`` is not positive, or a link is repeated.
    """
    check_integer("k", k, 1)
    check_integer("block_size", block_size, 1)
    user, item = _sorted_links(edge_index.cpu(), num_items)
    ones = torch.ones(user.numel())
    # coalesced: sorted and without duplicates by construction, so that torch does not check again
    by_item = torch.sparse_coo_tensor(
        torch.stack([item, user]), ones, (num_items, num_users), check_invariants=False
    ).coalesce()
    first_link = torch.zeros(num_users + 1, dtype=torch.int64)
    first_link[1:] = torch.bincount(user, minlength=num_users).cumsum(0)
    paths = torch.zeros(user.numel() + 1, dtype=torch.int64)
    paths[1:] = torch.bincount(item, minlength=num_items)[item].cumsum(0)
    paths_before = paths[first_link]  # [|U| + 1]

    neighbors = torch.zeros(num_users, k, dtype=torch.int32)
    counts = torch.zeros(num_users, k)
    start = 0
    with tqdm(total=num_users, desc="user graph", unit="user", disable=None, delay=1) as progress:
        while start < num_users:
            limit = paths_before[start] + block_size
            stop = max(int(torch.searchsorted(paths_before, limit, right=True)) - 1, start + 1)
            links = slice(int(first_link[start]), int(first_link[stop]))
            rows = torch.sparse_coo_tensor(
                torch.stack([user[links] - start, item[links]]),
                ones[links],
                (stop - start, num_items),
                check_invariants=False,
                is_coalesced=True,
            )
            neighbors[start:stop], counts[start:stop] = _largest(rows, by_item, start, k)
            progress.update(stop - start)
            start = stop
    return neighbors.to(edge_index.device), counts.to(edge_index.device)


def polya_urn_counts(counts: Tensor, generator: torch.Generator) -> Tensor:
    r"""Counts the neighbours in lists that are extended to length ``k`` by a Polya urn.

    While the list of a user's neighbours is shorter than ``k``, a copy of one of its entries, drawn
    uniformly, is appended. Neighbours that were drawn before are therefore more likely to be drawn
    again, but the expected count of all neighbours of a user is the same.

    Shapes:
        - **input:** counts :math:`(|U|, k)` of :func:`common_item_neighbors`
        - **output:** int64 :math:`(|U|, k)`, rows sum to :math:`k` or, without neighbours, to 0
    """
    k = counts.size(1)
    num_neighbors = (counts > 0).sum(1)
    multiplicity = (counts > 0).long()
    short = ((num_neighbors > 0) & (num_neighbors < k)).nonzero()[:, 0]
    length = num_neighbors[short]
    entry = torch.arange(k, device=counts.device).repeat(short.numel(), 1)
    for position in range(1, k):
        drawn = torch.randint(
            position, (short.numel(), 1), generator=generator, device=counts.device
        )
        again = entry.gather(1, drawn)[:, 0]
        entry[:, position] = torch.where(position < length, position, again)
    multiplicity[short] = torch.zeros_like(entry).scatter_add_(1, entry, torch.ones_like(entry))
    return multiplicity


def user_adjacency(
    neighbors: Tensor, counts: Tensor, multiplicity: Tensor | None = None
) -> Adjacency:
    r"""The matrix :math:`S` that aggregates the neighbours of each user.

    With the number :math:`c_{uv}` of common items and the number of times :math:`m_{uv}` that a
    neighbour is in the list of its user,

    .. math::
        s_{uv} = \frac{m_{uv} \exp(c_{uv})}{\sum_{w} m_{uw} \exp(c_{uw})},

    the softmax over the list, summed over repeated neighbours. Rows of users without neighbours
    are 0.

    Shapes:
        - **input:** results of :func:`common_item_neighbors` and :func:`polya_urn_counts`, each
          :math:`(|U|, k)`
        - **output:** matrix CSR :math:`(|U|, |U|)`
    """
    valid = counts > 0
    logit = counts if multiplicity is None else counts + multiplicity.log()
    weight = logit.masked_fill(~valid, -torch.inf).softmax(dim=1)
    target = torch.arange(counts.size(0), device=counts.device).unsqueeze(1).expand_as(counts)
    edge_index = torch.stack([neighbors[valid].long(), target[valid]])
    return Adjacency.from_edges(edge_index, weight[valid], counts.size(0), counts.size(0))


def _sorted_links(edge_index: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    key = (edge_index[0] * num_items + edge_index[1]).sort().values
    repeated = key[1:][key[1:] == key[:-1]]
    if repeated.numel():
        user, item = divmod(int(repeated[0]), num_items)
        raise ValueError(
            f"'edge_index' needs to list every link once (user {user} and item {item} are linked "
            "twice): coalesce it, e.g. with torch_geometric.utils.coalesce"
        )
    return key.div(num_items, rounding_mode="floor"), key.remainder(num_items)


def _largest(rows: Tensor, by_item: Tensor, start: int, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest counts of a block of users, the first of which has index ``start``."""
    num_rows, num_users = rows.size(0), by_item.size(1)
    product = torch.sparse.mm(rows, by_item).coalesce()
    row, other = product.indices()
    count = product.values().long()
    # Most pairs have one common item. Of these, the first k of each row are sufficient, so that
    # the others do not need to be sorted.
    other_user = other != row + start
    single = (count == 1) & other_user
    singles_before = torch.nn.functional.pad(single.cumsum(0), (1, 0))
    row_start = _starts(row, num_rows)
    rank = singles_before[:-1] - singles_before[row_start][row]
    kept = ((count > 1) & other_user) | (single & (rank < k))
    row, other, count = row[kept], other[kept], count[kept]

    most = int(count.max()) if count.numel() else 0
    key = ((row * (most + 1) + (most - count)) * num_users + other).sort().values
    column = torch.arange(k)
    valid = column < torch.bincount(row, minlength=num_rows).unsqueeze(1)
    best = key[(_starts(row, num_rows).unsqueeze(1) + column)[valid]]
    neighbors = torch.zeros(num_rows, k, dtype=torch.int32)
    counts = torch.zeros(num_rows, k)
    neighbors[valid] = best.remainder(num_users).int()
    missed = best.div(num_users, rounding_mode="floor").remainder(most + 1)
    counts[valid] = (most - missed).float()
    return neighbors, counts


def _starts(row: Tensor, num_rows: int) -> Tensor:
    """The position at which each row starts in a list of entries sorted by row."""
    length = torch.bincount(row, minlength=num_rows)
    return length.cumsum(0) - length
