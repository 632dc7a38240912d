import pytest

from alignrec_pyg.datasets.delimited import DelimitedFile
from alignrec_pyg.datasets.folders import ids_by_row, single_path


def mapped_ids(folder, text, count, notes):
    path = folder / "i_id_mapping.csv"
    path.write_text(text, encoding="utf-8")
    table = DelimitedFile(path, ["itemID"], notes, as_text=True)
    return ids_by_row(path, table.column("itemID"), table.column("asin"), count, notes)


def test_original_ids_are_strings_by_row(tmp_path):
    text = "asin\titemID\nB2\t1\nNA\t0\n001\t2\nзнак\t3\n"
    assert mapped_ids(tmp_path, text, 4, []).tolist() == ["NA", "B2", "001", "знак"]
    notes = []
    assert mapped_ids(tmp_path, text, 2, notes).tolist() == ["NA", "B2"]
    assert "2 rows after the 2 in use" in notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("asin\titemID\nA\t0\nB\t0\n", "line 3, column 'itemID': .* occur once"),
        ("asin\titemID\nA\t0\nA\t1\n", "line 3, column 'asin': .* occur once"),
        ("asin\titemID\nA\t0\nB\t2\n", "each 'itemID' from 0 to 1 .1 are missing, the first is 1"),
        ("asin\titemID\nA\t0\n\t1\n", "line 3, column 'asin': an id needs a value"),
        ("asin\titemID\nA\tx\nB\t1\n", "line 2, column 'itemID': .* whole number"),
    ],
)
def test_bad_mappings_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        mapped_ids(tmp_path, content, 2, [])


def test_a_single_path(tmp_path):
    assert single_path([], tmp_path, "titles") is None
    assert single_path([tmp_path / "a"], tmp_path, "titles") == tmp_path / "a"
    with pytest.raises(ValueError, match=r"several titles \(a, b\): keep one of them"):
        single_path([tmp_path / "b", tmp_path / "a"], tmp_path, "titles")
