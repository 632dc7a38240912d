"""The user graph: who shares how many items with whom."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor
from tqdm import tqdm

from alignrec_pyg.checks import check_integer
from alignrec_pyg.graph import content_hash
from alignrec_pyg.nn.propagation import Adjacency

# Graphs of the last link sets asked for, by content: a comparison builds many models on one split,
# and the training, validation and test graph of a split often hold equal links in other tensors.
_NUM_KEPT = 3
_kept: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()


def common_item_neighbors(
    edge_index: Tensor, num_users: int, num_items: int, k: int, *, block_size: int = 4_000_000
) -> tuple[Tensor, Tensor]:
    r"""The ``k`` users who share most items with each user, ties by the lower index.

    The counts are :math:`C = R R^\top`, a sparse product in blocks of rows; the user itself and
    users with nothing in common do not count. A block is as many rows as have at most
    ``block_size`` paths user - item - user together (at least one row), so popular items cost time
    but no memory: about 70 bytes per path. Nothing of size users x users is held. The product is
    taken on the CPU, the answer is on the device of ``edge_index``.

    Args:
        edge_index: Links, users in row 0, each listed once.
        num_users: Number of users.
        num_items: Number of items.
        k: Neighbours to keep of each user.
        block_size: Paths per block.

    Shapes:
        - **input:** edge_index int64 :math:`(2, E)`
        - **output:** neighbours int32 :math:`(|U|, k)` by falling count, counts float32
          :math:`(|U|, k)`; users with fewer neighbours have 0 in both from there on

    Raises:
        ValueError: If ``k`` or ``block_size`` is not positive, or a link is listed twice.
    """
    check_integer("k", k, 1)
    check_integer("block_size", block_size, 1)
    user, item = _sorted_links(edge_index.cpu(), num_items)
    ones = torch.ones(user.numel())
    # coalesced: sorted and free of repeats by construction, so torch need not look again
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


def kept_common_item_neighbors(
    edge_index: Tensor, num_users: int, num_items: int, k: int
) -> tuple[Tensor, Tensor]:
    """:func:`common_item_neighbors`, computed once for the last few different link sets.

    The tensors are shared: do not write into them.
    """
    key = content_hash(edge_index, num_users, num_items, k, str(edge_index.device))
    if key not in _kept:
        _kept[key] = common_item_neighbors(edge_index, num_users, num_items, k)
    _kept.move_to_end(key)
    while len(_kept) > _NUM_KEPT:
        _kept.popitem(last=False)
    return _kept[key]


def urn_multiplicities(counts: Tensor, generator: torch.Generator) -> Tensor:
    r"""How often each neighbour is in a list filled up to ``k`` by random repetition.

    While the list of a user's neighbours is shorter than ``k``, one of its entries, drawn
    uniformly, is appended again: a Polya urn, so whoever was drawn before is more likely to be
    drawn again. All neighbours of a user are expected equally often.

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
    r"""The matrix :math:`S` that gathers users into users who share items with them.

    With the count :math:`c_{uv}` of common items and the multiplicity :math:`m_{uv}` of a
    neighbour in the list of its user,

    .. math::
        s_{uv} = \frac{m_{uv} \exp(c_{uv})}{\sum_{w} m_{uw} \exp(c_{uw})},

    the softmax over the list with its repeats summed. Rows of users without neighbours are 0.

    Args:
        neighbors: Of :func:`common_item_neighbors`, :math:`(|U|, k)`.
        counts: The same.
        multiplicity: Of :func:`urn_multiplicities` (default: every neighbour once).

    Shapes:
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
    """The ``k`` largest counts of a block of users, the first of them number ``start``."""
    num_rows, num_users = rows.size(0), by_item.size(1)
    product = torch.sparse.mm(rows, by_item).coalesce()
    row, other = product.indices()
    count = product.values().long()
    # Most pairs share one item only. Of these the first k of each row are enough, which spares
    # sorting the rest.
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
    """Where each row starts in a list of entries ordered by row."""
    length = torch.bincount(row, minlength=num_rows)
    return length.cumsum(0) - length
