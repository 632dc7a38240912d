import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import tables as feature_tables
from alignrec_pyg.datasets.features import add_feature, aligned_rows, feature_name

TABLE = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, -4.0]])


def add(table, nonfinite="error", num_items=3):
    data = HeteroData()
    data["item"].num_nodes = num_items
    notes: list[str] = []
    add_feature(data, "t", table, nonfinite, notes)
    return data["item"].x_t, data["item"].mask_t, notes


def read_only(table):
    table = table.astype(np.float32)
    table.flags.writeable = False
    return table


@pytest.mark.parametrize("block", [1, 4, 1 << 24])
@pytest.mark.parametrize(
    "table",
    [
        *(TABLE.astype(t) for t in ("float16", "float32", "float64", "int64", "int8")),
        np.asfortranarray(TABLE),
        np.repeat(TABLE, 2, axis=1)[:, ::2],
        read_only(TABLE),
    ],
    ids=["f16", "f32", "f64", "i64", "i8", "fortran", "strided", "read-only"],
)
def test_any_real_table_becomes_float32_with_zero_rows_missing(table, block, monkeypatch):
    monkeypatch.setattr(feature_tables, "_BLOCK_ELEMENTS", block)
    values, mask, notes = add(table)
    assert values.dtype == torch.float32
    assert values.tolist() == TABLE.tolist()
    assert mask.tolist() == [False, True, False]
    assert notes == ["feature 't': 1 of 3 rows are zero: missing"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE[:2], r"shape \[3, dim\].*got \[2, 2\]"),
        (TABLE[:, 0], r"shape \[3, dim\].*got \[3\]"),
        (TABLE[:, :0], r"dim >= 1 .*got \[3, 0\]"),
        (TABLE.astype(complex), "real numbers.*complex"),
        (TABLE.astype(str), "real numbers"),
        (np.zeros((3, 2)), "at least one finite row that is not zero"),
        (TABLE * 1e300, r"finite float32.*2 of 3.*first rows: 0, 2"),
        (np.where(TABLE == 3, np.nan, TABLE), "1 of 3 rows.*first rows: 2.*nonfinite='missing'"),
        (np.where(TABLE == 3, -np.inf, TABLE), "1 of 3 rows"),
    ],
)
def test_bad_tables_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        add(table)


def test_nonfinite_rows_may_count_as_missing_and_the_source_stays():
    table = np.where(TABLE == 3, np.nan, TABLE).astype(np.float32)
    values, mask, notes = add(table, nonfinite="missing")
    assert values.tolist() == [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
    assert mask.tolist() == [False, True, True]
    assert "1 rows with NaN or infinity taken as missing" in notes[0]
    assert np.isnan(table[2, 0])
    with pytest.raises(ValueError, match="'nonfinite' needs to be"):
        add(table, nonfinite="skip")


def test_constant_and_repeated_rows_are_fine():
    _, mask, notes = add(np.ones((3, 2)))
    assert not mask.any()
    assert notes == []


def test_names_fit_attributes():
    assert feature_name("image_feat") == "image_feat"
    assert feature_name("all-MiniLM-L6-v2") == "all_MiniLM_L6_v2"
    assert feature_name("a. b") == "a_b"


def test_rows_are_aligned_by_id():
    notes = []
    item_id = np.array(["a", "b", "c", "d"], dtype=object)
    ids = np.array(["c", "zz", "a", "d"], dtype=object)
    rows = np.array([[3], [9], [1], [4]], dtype=np.float16)
    assert aligned_rows("t", ids, rows, item_id, notes).tolist() == [[1], [0], [3], [4]]
    assert notes == [
        "feature 't': 1 rows of unknown items left out",
        "feature 't': 1 of 4 items have no row",
    ]


@pytest.mark.parametrize(
    ("ids", "rows", "message"),
    [
        ([1, 2], 3, r"shape \[2, dim\].*got \[3, 1\]"),
        ([1, 1], 2, "row 1: each id needs to occur once"),
        (["1", "2"], 2, "none of 2 is one .got '1', the items are like"),
    ],
)
def test_bad_id_lists_are_refused(ids, rows, message):
    ids = np.array(ids, dtype=object if isinstance(ids[0], str) else None)
    with pytest.raises(ValueError, match=message):
        aligned_rows("t", ids, np.ones((rows, 1)), np.array([1, 2]), [])
