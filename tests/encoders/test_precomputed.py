from __future__ import annotations

import numpy as np
import pytest
import torch

from alignrec_pyg import tables as feature_tables
from alignrec_pyg.encoders import ItemContent, Precomputed

TABLE = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, -4.0]])


def rows(encoder, ids):
    encoder.fit(ItemContent(id=ids))
    return encoder(ItemContent(id=ids)).tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_in_item_order(tmp_path, monkeypatch, dtype, mapped):
    if mapped:
        monkeypatch.setattr(feature_tables, "MMAP_BYTES", 0)
    path = tmp_path / "image_feat.npy"
    np.save(path, TABLE.astype(dtype))
    encoder = Precomputed(path)
    assert isinstance(encoder._table, np.memmap) == mapped
    assert encoder.out_dim == 2
    assert rows(encoder, range(3)) == TABLE.tolist()
    part = encoder(ItemContent(id=[2, 0]))
    assert part.tolist() == [[3, -4], [1, 2]]
    assert part.dtype == torch.float32
    assert "image_feat.npy came without ids" in encoder.notes[0]
    assert rows(Precomputed(str(path)), range(3)) == TABLE.tolist()


def test_rows_in_another_order():
    encoder = Precomputed(TABLE, ids=["c", "other", "a"])
    assert rows(encoder, np.array(["a", "b", "c"], dtype=object)) == [[3, -4], [0, 0], [1, 2]]
    assert encoder.notes == ()
    numbers = Precomputed(TABLE, ids=torch.tensor([30, 20, 10]))
    assert rows(numbers, np.array([10, 20, 30])) == [[3, -4], [0, 0], [1, 2]]


def test_a_table_of_a_model_is_taken_without_its_gradient():
    table = torch.ones(2, 3, requires_grad=True)
    assert rows(Precomputed(table, torch.tensor([7, 8])), [8, 7]) == [[1, 1, 1]] * 2


def test_the_number_of_rows_has_to_fit():
    for items in (range(2), range(4)):
        with pytest.raises(ValueError, match=r"the shape \[[24], dim\].*got \[3, 2\]"):
            Precomputed(TABLE).fit(ItemContent(id=items))
    with pytest.raises(ValueError, match=r"the shape \[2, dim\].*got \[3, 2\]"):
        Precomputed(TABLE, ids=[1, 2])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE[0], "needs the shape"),
        (np.float64(3), "needs the shape"),
        (TABLE[:, :0], "dim >= 1"),
        (TABLE.astype(str), "real numbers"),
        (TABLE.astype(complex), "real numbers"),
        (TABLE * 1e300, r"2 of 3 rows hold NaN or infinity .first rows: 0, 2"),
        (np.where(TABLE == 3, np.nan, TABLE), r"1 of 3 rows.*first rows: 2"),
    ],
)
def test_bad_tables_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        Precomputed(table)


def test_pickles_are_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"o\.npy needs to be an intact \.npy array"):
        Precomputed(tmp_path / "o.npy")
    with pytest.raises(FileNotFoundError):
        Precomputed(tmp_path / "none.npy")


def test_rows_that_are_not_finite_may_count_as_missing():
    table = np.where(TABLE == 3, np.nan, TABLE)
    assert rows(Precomputed(table, nonfinite="missing"), range(3)) == [[1, 2], [0, 0], [0, 0]]
    assert np.isnan(table[2, 0])
    with pytest.raises(ValueError, match="'nonfinite' needs to be"):
        Precomputed(table, nonfinite="skip")


def test_bad_ids_are_refused():
    with pytest.raises(ValueError, match="'ids' row 1: each id needs to occur once .7"):
        Precomputed(TABLE, ids=[7, 7, 8]).fit(ItemContent(id=[7]))
    with pytest.raises(ValueError, match="none of 3 is one"):
        Precomputed(TABLE, ids=["1", "2", "3"]).fit(ItemContent(id=[1, 2]))
    encoder = Precomputed(TABLE)
    with pytest.raises(ValueError, match="needs to be fitted first"):
        encoder(ItemContent(id=[0]))
    encoder.fit(ItemContent(id=range(3)))
    with pytest.raises(ValueError, match="items that were fitted .got 9"):
        encoder(ItemContent(id=[0, 9]))
    with pytest.raises(ValueError, match="'items' needs ids"):
        encoder(ItemContent(text=["a"]))


def test_keys_follow_content():
    encoders = [
        Precomputed(TABLE),
        Precomputed(TABLE + 1),
        Precomputed(TABLE.astype(np.float32)),
        Precomputed(TABLE, ids=[1, 2, 3]),
        Precomputed(TABLE, ids=["1", "2", "3"]),
        Precomputed(TABLE, ids=[3, 2, 1]),
    ]
    assert len({encoder.arguments_key for encoder in encoders}) == 6
    assert Precomputed(TABLE.copy()).cache_key == encoders[0].cache_key
    before = encoders[0].cache_key
    encoders[0].fit(ItemContent(id=range(3)))
    assert encoders[0].cache_key != before
    assert encoders[0].arguments_key == Precomputed(TABLE).arguments_key
    assert repr(Precomputed(TABLE)) == "Precomputed(features, out_dim=2)"
