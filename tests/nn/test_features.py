import pytest
import torch

from alignrec_pyg.nn import FeatureProjection, FeatureProjections, FeatureTable
from alignrec_pyg.nn.features import check_feature_table


def test_trainable_table_is_a_copy_that_can_be_put_back():
    features = torch.arange(6.0).reshape(3, 2)
    table = FeatureTable(features, trainable=True)
    with torch.no_grad():
        table.weight.add_(1)
    assert torch.equal(features, torch.arange(6.0).reshape(3, 2))
    table.reset_parameters()
    assert torch.equal(table.weight, features)


def test_frozen_table_shares_memory_and_is_neither_parameter_nor_state():
    features = torch.arange(6.0).reshape(3, 2)
    table = FeatureTable(features, trainable=False)
    assert table.weight.data_ptr() == features.data_ptr()
    assert list(table.parameters()) == []
    assert table.state_dict() == {}


def test_several_tables_are_concatenated_and_put_back():
    left, right = torch.arange(6.0).reshape(3, 2), torch.ones(3, 1)
    table = FeatureTable(left, right, trainable=True)
    assert table.dim == 3
    whole = torch.cat([left, right], dim=1)
    assert torch.equal(table.weight, whole)
    with torch.no_grad():
        table.weight.mul_(2)
    table.reset_parameters()
    assert torch.equal(table.weight, whole)


def test_rows_and_their_gradients():
    table = FeatureTable(torch.arange(6.0).reshape(3, 2), trainable=True)
    rows = table(torch.tensor([2, 0, 2]))
    assert rows.tolist() == [[4.0, 5.0], [0.0, 1.0], [4.0, 5.0]]
    rows.sum().backward()
    assert table.weight.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [2.0, 2.0]]
    assert table() is table.weight


def test_projection_maps_the_rows_asked_for():
    features = torch.arange(6.0).reshape(3, 2)
    projection = FeatureProjection(features, 4, trainable=False)
    weight, bias = projection.linear.weight, projection.linear.bias
    expected = features[[2, 0]] @ weight.t() + bias
    torch.testing.assert_close(projection(torch.tensor([2, 0])), expected)
    assert [name for name, _ in projection.named_parameters()] == ["linear.weight", "linear.bias"]


def test_projection_resets_features_and_map():
    projection = FeatureProjection(torch.ones(3, 2), 4, trainable=True)
    before = projection.linear.weight.detach().clone()
    with torch.no_grad():
        projection.table.weight.zero_()
    projection.reset_parameters()
    assert torch.equal(projection.table.weight, torch.ones(3, 2))
    assert not torch.equal(projection.linear.weight, before)


def test_projections_of_several_tables():
    tables = torch.arange(6.0).reshape(3, 2), torch.ones(3, 4)
    projections = FeatureProjections(iter(tables), 5, trainable=True)
    assert [projection.linear.in_features for projection in projections] == [2, 4]
    assert set(projections.state_dict()) == {
        f"{m}.{name}" for m in (0, 1) for name in ("table.weight", "linear.weight", "linear.bias")
    }
    for projection, table in zip(projections, tables, strict=True):
        expected = table @ projection.linear.weight.t() + projection.linear.bias
        torch.testing.assert_close(projection(), expected)
        torch.testing.assert_close(projection(torch.tensor([2, 0])), expected[[2, 0]])
    before = [projection.linear.weight.detach().clone() for projection in projections]
    with torch.no_grad():
        for projection in projections:
            projection.table.weight.add_(1)
    projections.reset_parameters()
    for projection, table, weight in zip(projections, tables, before, strict=True):
        assert torch.equal(projection.table.weight, table)
        assert not torch.equal(projection.linear.weight, weight)


def test_tables_are_checked():
    table, mask = torch.ones(3, 2), torch.tensor([False, True, False])
    table[1] = torch.nan
    check_feature_table("text", table, mask, 3)
    for broken, lacking, message in (
        (table, torch.zeros(3, dtype=torch.bool), r"NaN or infinity in 1 rows, the first: \[1\]"),
        (table[:2], mask, r"'text' needs the shape \[3, dim\], one row per item \(got \[2, 2\]"),
        (table[:, :0], mask, r"needs the shape \[3, dim\]"),
        (table, mask.int(), r"mask of feature 'text' needs to be boolean, of shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            check_feature_table("text", broken, lacking, 3)
