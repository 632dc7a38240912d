import pytest
import torch
from torch import nn
from torch.nn.functional import embedding

from alignrec_pyg.training.row_adam import RowAdam

OPTIONS = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3}


def steps(optimizer_cls, batches, *, sparse, **options):
    """A table whose rows are read by batches, beside a dense parameter."""
    torch.manual_seed(0)
    table, factor = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.ones(3))
    optimizer = optimizer_cls([table, factor], **OPTIONS, **options)
    for rows in batches:
        optimizer.zero_grad()
        x = embedding(torch.tensor(rows), table, sparse=sparse)
        (x * factor).pow(3).sum().backward()
        optimizer.step()
    return table.detach(), factor.detach()


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"fused": True}])
def test_is_adam_where_every_row_is_read(options, monkeypatch):
    """Also where the rows of a step are more than a block."""
    monkeypatch.setattr("alignrec_pyg.training.row_adam._BLOCK", 4 * 3)
    batches = [[0, 1, 2, 3, 4, 5, 3], [5, 4, 3, 2, 1, 0, 0]] * 3
    found = steps(RowAdam, batches, sparse=True, **options)
    torch.testing.assert_close(found, steps(torch.optim.Adam, batches, sparse=False, **options))
    dense = steps(RowAdam, batches, sparse=False, **options)
    torch.testing.assert_close(dense, found)


def test_is_torchs_sparse_adam_on_a_table(monkeypatch):
    monkeypatch.setitem(OPTIONS, "eps", 1e-9)  # which torch does not correct for the first steps
    batches = [[0, 1, 1], [1, 4], [0, 4, 4], [1]]
    torch.manual_seed(0)
    table, factor = nn.Parameter(torch.randn(6, 3)), nn.Parameter(torch.ones(3))
    expected = table.detach().clone()
    optimizers = torch.optim.SparseAdam([table], **OPTIONS), torch.optim.Adam([factor], **OPTIONS)
    for rows in batches:
        for optimizer in optimizers:
            optimizer.zero_grad()
        x = embedding(torch.tensor(rows), table, sparse=True)
        (x * factor).pow(3).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
    found = steps(RowAdam, batches, sparse=True)
    torch.testing.assert_close(found, (table.detach(), factor.detach()))
    untouched = [2, 3, 5]
    assert torch.equal(found[0][untouched], expected[untouched])


def test_weight_decay_is_that_of_the_rows_read():
    table = steps(RowAdam, [[1]], sparse=True, weight_decay=10.0)[0]
    plain = steps(RowAdam, [[1]], sparse=True)[0]
    assert torch.equal(table[[0, 2, 3, 4, 5]], plain[[0, 2, 3, 4, 5]])
    assert not torch.equal(table[1], plain[1])


def test_a_stored_state_goes_on(tmp_path):
    torch.manual_seed(0)
    tables = [nn.Parameter(torch.randn(4, 2)) for _ in range(2)]
    with torch.no_grad():
        tables[1].copy_(tables[0])
    first, second = (RowAdam([table], **OPTIONS) for table in tables)
    for rows in ([0, 1], [1, 2], [3]):
        for table, optimizer in zip(tables, (first, second), strict=True):
            optimizer.zero_grad()
            embedding(torch.tensor(rows), table, sparse=True).pow(2).sum().backward()
            optimizer.step()
        other = RowAdam([tables[1]], **OPTIONS)
        other.load_state_dict(second.state_dict())
        second = other
    assert torch.equal(*tables)


def test_a_gradient_scaler_unscales_rows_and_passes_over_infinite_ones():
    start = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    found = []
    for enabled in (False, True):
        table = nn.Parameter(start.clone())
        optimizer = RowAdam([table], **OPTIONS, fused=True)
        scaler = torch.amp.GradScaler("cpu", enabled=enabled)
        for rows, factor in (([0, 1], 1.0), ([1, 2], torch.inf), ([2, 3], 1.0)):
            if enabled or factor == 1.0:
                optimizer.zero_grad()
                loss = (factor * embedding(torch.tensor(rows), table, sparse=True)).pow(2).sum()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
        found.append(table.detach())
    torch.testing.assert_close(*found)
    assert not torch.equal(found[0], start)
