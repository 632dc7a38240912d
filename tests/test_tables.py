import numpy as np
import pytest

from alignrec_pyg import tables as feature_tables
from alignrec_pyg.tables import (
    as_float32,
    check_finite,
    check_nonfinite,
    check_table,
    match_rows,
    nonfinite_and_zero_rows,
    read_npy,
    repr_short,
)

TABLE = np.array([[1.0, 2.0], [0.0, 0.0], [3.0, -4.0]])


def test_large_files_are_mapped_and_never_written(tmp_path, monkeypatch):
    path = tmp_path / "t.npy"
    np.save(path, np.array([[1.0, np.nan], [2.0, 1.0]], dtype=np.float32))
    before = path.read_bytes()
    assert not isinstance(read_npy(path), np.memmap)
    monkeypatch.setattr(feature_tables, "MMAP_BYTES", 1)
    mapped = read_npy(path)
    assert isinstance(mapped, np.memmap)
    assert as_float32(mapped) is mapped
    mapped[0] = 0.0
    assert path.read_bytes() == before


@pytest.mark.parametrize("limit", [1, 1 << 30])
def test_pickles_and_damaged_files_are_refused(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(feature_tables, "MMAP_BYTES", limit)
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "t.npy", TABLE)
    whole = (tmp_path / "t.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(whole[:-5])
    (tmp_path / "text.npy").write_bytes(b"hello world, no array")
    for name in ("o", "short", "text"):
        with pytest.raises(ValueError, match=rf"{name}\.npy needs to be an intact"):
            read_npy(tmp_path / f"{name}.npy")


@pytest.mark.parametrize("block", [1, 5, 1 << 24])
@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "float32"])
def test_nonfinite_and_zero_rows_are_found_whatever_block_and_type(block, dtype, monkeypatch):
    monkeypatch.setattr(feature_tables, "_BLOCK_ELEMENTS", block)
    broken, zero = nonfinite_and_zero_rows(TABLE.astype(dtype))
    assert broken.tolist() == [False, False, False]
    assert zero.tolist() == [False, True, False]
    assert as_float32(TABLE.astype(dtype)).tolist() == TABLE.tolist()


def test_what_float32_cannot_hold_is_not_finite():
    table = np.array([[1e300, 1.0], [np.nan, 1.0], [1.0, 1.0], [-np.inf, 0.0]])
    broken, zero = nonfinite_and_zero_rows(table)
    assert broken.tolist() == [True, True, False, True]
    assert not zero.any()
    with pytest.raises(ValueError, match="3 of 4 rows.*first rows: 0, 1, 3.*nonfinite='missing'"):
        check_finite("t", broken)
    check_finite("t", np.zeros(4, dtype=bool))


def test_npy_files_that_are_something_else_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.savez(tmp_path / "a.npz", x=np.ones(3))
    whole = (tmp_path / "a.npz").read_bytes()
    np.save(path, np.ones((3, 4)))
    array = path.read_bytes()
    larger = array.replace(b"(3, 4), }    ", b"(3000000, 400000), }"[:13])
    others = (whole, b"", b"x", array[:50], array[:-1], array.replace(b"descr", b"desxr"), larger)
    for content in (*others, array.replace(b"(3, 4)", b"(3,4e9"), array.replace(b"3, 4", b"9**9")):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a.npy needs to be an intact .npy array of numbers"):
            read_npy(path)
    for shape in ((3, 4), (0, 4), (5,)):
        np.save(path, np.ones(shape))
        read = read_npy(path)
        assert np.array_equal(read, np.ones(shape))
        assert not isinstance(read, np.memmap)


def test_rows_are_found_by_id():
    ids = np.array(["c", "zz", "a"], dtype=object)
    items = np.array(["a", "b", "c"], dtype=object)
    assert match_rows("ids", ids, items).tolist() == [2, -1, 0]
    with pytest.raises(ValueError, match="'ids' row 1: each id needs to occur once .3"):
        match_rows("ids", np.array([3, 3]), np.array([3]))
    with pytest.raises(ValueError, match="none of 3 is one .got 'c', the items are like 7"):
        match_rows("ids", ids, np.array([7]))


def test_bad_tables_are_refused():
    for table in (TABLE[0], TABLE[:2], TABLE[:, :0]):
        with pytest.raises(ValueError, match=r"feature 't' needs the shape \[3, dim\]"):
            check_table("t", table, 3)
    with pytest.raises(ValueError, match="real numbers"):
        check_table("t", TABLE.astype(str), 3)
    with pytest.raises(ValueError, match="'nonfinite' needs to be"):
        check_nonfinite("skip")


def test_values_are_shown_short():
    assert repr_short(np.int64(3)) == "3"
    assert repr_short("x" * 70) == "'" + "x" * 59 + "... (72 characters)"
