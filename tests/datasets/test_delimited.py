import gzip

import pytest

from alignrec_pyg.datasets.delimited import DelimitedFile, outside_ids


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("userID\titemID\n0\t1\n2\t3\n", None),
        ("userID,itemID\n0,1\n2,3\n", None),
        ("userID\titemID\n0\t1\n2\t3", None),
        ("userID\titemID\r\n0\t1\r\n2\t3\r\n", "lines end in CRLF"),
        (b"\xef\xbb\xbfuserID\titemID\n0\t1\n2\t3\n", "byte-order mark skipped"),
        (" userID \t itemID\n 0\t1\n2\t 3\n", None),
        ("userID\titemID\n0\t1\n\n\n2\t3\n\n", "3 blank lines skipped"),
    ],
)
def test_variants_read_the_same(tmp_path, content, note):
    notes = []
    table = DelimitedFile(write(tmp_path / "a.inter", content), ["userID", "itemID"], notes)
    assert table.column("userID").values.astype(int).tolist() == [0, 2]
    assert table.column("itemID").values.astype(int).tolist() == [1, 3]
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_gzip(tmp_path):
    path = write(tmp_path / "a.inter.gz", gzip.compress(b"userID\titemID\n0\t1\n"))
    notes = []
    table = DelimitedFile(path, ["userID", "itemID"], notes)
    assert table.column("itemID").values.tolist() == [1]
    assert "gzip" in notes[0]


@pytest.mark.parametrize("keep", [5, 60])
def test_damaged_gzip_is_refused(tmp_path, keep):
    content = "userID\titemID\n" + "".join(f"{row}\t{row * row}\n" for row in range(300))
    path = write(tmp_path / "a.inter.gz", gzip.compress(content.encode())[:keep])
    with pytest.raises(ValueError, match="cannot be read"):
        DelimitedFile(path, ["userID", "itemID"], [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: a header with 'userID', 'itemID' is needed"),
        ("userID\titemID\n", "line 2: at least one row"),
        ("userID\titemID\n\n\n", "line 2: at least one row"),
        ("0\t1\n2\t3\n", "line 1: a header .* is needed"),
        ("user\titem\n2\t3\n", "line 1: a header .* is needed"),
        ("userID;itemID\n2;3\n", "line 1: fields need to be separated by tab or comma"),
        ("userID\titemID\tuserID\n2\t3\t4\n", "line 1: column names need to be distinct"),
        ("userID\titemID\n0\t1\n2\t3\t4\n", "line 3, column 3: 3 fields"),
        ("userID\titemID\n0\t1\t7\n2\t3\t4\n", "line 2, column 3: 3 fields"),
        (b"userID\titemID\n0\t1\n\xff\t3\n", "line 3, byte 1: the file needs to be UTF-8"),
        (b"\xff\xfeu\x00s\x00", "line 1: the file needs to be UTF-8"),
        ("u" * 10_000_000 + "\n1\t2\n", "line 1: a header"),
        ("userID\titemID\n0\t1\n" + "\t" * 10_000_000 + "\n", "line 3, column 3: 10,000,001 f"),
    ],
)
def test_bad_files_are_refused_by_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        DelimitedFile(write(tmp_path / "a.inter", content), ["userID", "itemID"], [])
    assert len(str(caught.value)) < 500


def test_rows_know_their_line_past_blank_lines(tmp_path):
    path = write(tmp_path / "a.inter", "userID\titemID\n0\t1\n\n2\tx\n")
    column = DelimitedFile(path, ["userID", "itemID"], []).column("itemID")
    with pytest.raises(ValueError, match=r"a\.inter, line 4, column 'itemID': wrong \(got 'x'\)"):
        column.refuse(1, "wrong")


def test_outside_ids_are_strings_by_row_number(tmp_path):
    text = "asin\titemID\nB2\t1\nNA\t0\n001\t2\nзнак\t3\n"
    path = write(tmp_path / "i_id_mapping.csv", text)
    assert outside_ids(path, "itemID", 4, []).tolist() == ["NA", "B2", "001", "знак"]
    notes = []
    assert outside_ids(path, "itemID", 2, notes).tolist() == ["NA", "B2"]
    assert "2 rows beyond the 2 in use" in notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("asin\titemID\nA\t0\nB\t0\n", "line 3, column 'itemID': .* occur once"),
        ("asin\titemID\nA\t0\nA\t1\n", "line 3, column 'asin': .* occur once"),
        ("asin\titemID\nA\t0\nB\t2\n", "every 'itemID' from 0 to 1 .1 are missing, the first is 1"),
        ("asin\titemID\nA\t0\n\t1\n", "line 3, column 'asin': an id needs a value"),
        ("asin\titemID\nA\tx\nB\t1\n", "line 2, column 'itemID': .* whole number"),
        ("itemID\n0\n1\n", "line 1: a column with ids is needed"),
    ],
)
def test_bad_mappings_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        outside_ids(write(tmp_path / "i_id_mapping.csv", content), "itemID", 2, [])
