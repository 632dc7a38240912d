import pytest
import torch

from alignrec_pyg.feature_eval import feature_rows as module
from alignrec_pyg.feature_eval.feature_rows import FeatureRows, unit_length


@pytest.mark.parametrize("normalize_parts", [False, True])
def test_tables_stand_side_by_side_with_zeros_where_missing(case, normalize_parts):
    rows = FeatureRows(case, ["text", "image"], normalize_parts=normalize_parts)
    assert (rows.num_items, rows.dim) == (25, 10)
    text = case["item"].x_text.double()
    text[[2, 17]] = 0
    parts = [text, case["item"].x_image.double()]
    if normalize_parts:
        parts = [part / part.norm(dim=1, keepdim=True).clamp(min=1e-30) for part in parts]
    expected = torch.cat(parts, dim=1)
    assert torch.allclose(rows[:], expected, rtol=1e-14, atol=0)
    assert torch.equal(rows[torch.tensor([2, 0, 2])], rows[:][[2, 0, 2]])
    assert rows[:].dtype == torch.float64
    assert case["item"].x_text[2].isnan().all()  # the table itself stays


def test_one_name_is_one_table(case):
    table = case["item"].x_image.double()
    assert torch.equal(FeatureRows(case, "image")[:], unit_length(table))
    assert torch.equal(FeatureRows(case, "image", normalize_parts=False)[:], table)


def test_rows_ten_times_as_long_are_told_where_they_rule(case, recwarn):
    item = case["item"]
    item.x_image = unit_length(item.x_image)
    item.x_text = 9.9 * unit_length(item.x_text)  # missing items count for nothing
    item.x_text[2] = torch.nan
    FeatureRows(case, ["image", "text"], normalize_parts=False)
    item.x_text *= 1.1
    FeatureRows(case, ["image", "text"])
    FeatureRows(case, "text", normalize_parts=False)
    assert not recwarn.list
    told = "rows of 'text' are 11 times as long as those of 'image': concatenated, they dominate"
    with pytest.warns(UserWarning, match=told):
        FeatureRows(case, ["image", "text"], normalize_parts=False)


def test_blocks_cover_all_items_once(case, monkeypatch):
    monkeypatch.setattr(module, "_CAST_ELEMENTS", 18)  # three rows of six
    rows = FeatureRows(case, "image")
    blocks = list(rows.blocks())
    assert [block.stop - block.start for block in blocks] == [3] * 8 + [1]
    assert torch.equal(torch.cat([rows[block] for block in blocks]), rows[:])


def test_rows_of_zeros_keep_their_length():
    unit = unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 0.0]], dtype=torch.float64))
    assert torch.equal(unit, torch.tensor([[0.6, 0.8], [0, 0], [1, 0]], dtype=torch.float64))


def test_a_trainable_table_is_read_without_gradient(case):
    case["item"].x_image.requires_grad_()
    assert not FeatureRows(case, "image")[:].requires_grad


def test_wrong_features_are_named(case, monkeypatch):
    monkeypatch.setattr(module, "_CAST_ELEMENTS", 18)
    for features in ([], ["text", "text"]):
        with pytest.raises(ValueError, match="'features' needs the name of a feature table, or"):
            FeatureRows(case, features)
    with pytest.raises(ValueError, match=r"'audio' needs to be one of the feature tables \['image"):
        FeatureRows(case, "audio")
    case["item"].x_image[19, 1] = torch.inf
    with pytest.raises(ValueError, match=r"'image' needs finite values .*: \[19\]"):
        FeatureRows(case, ["text", "image"])
    case["item"].x_image = torch.ones(24, 2)
    with pytest.raises(ValueError, match=r"'image' needs the shape \[25, dim\].*\[24, 2\]"):
        FeatureRows(case, "image")
