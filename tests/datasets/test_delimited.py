import gzip

import pytest

from alignrec_pyg.datasets.delimited import DelimitedFile
from alignrec_pyg.datasets.json_lines import JsonLines


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


def test_lines_past_quoted_line_breaks(tmp_path):
    text = 'id,text\n1,"two\nlines, here"\n\n2,plain\n3,x\n'
    notes = []
    table = DelimitedFile(write(tmp_path / "a.csv", text), ["id", "text"], notes)
    assert table.column("text").values.tolist() == ["two\nlines, here", "plain", "x"]
    assert [table.where(row).rsplit(",")[-1] for row in range(3)] == [
        " line 2",
        " line 5",
        " line 6",
    ]
    assert table.num_rows == 3
    cut = write(tmp_path / "cut.csv", 'id,text\n1,"two\nlines"\n2,x')
    assert DelimitedFile(cut, ["id"], []).where(1).endswith("line 4")
    assert notes == [
        "a.csv: 1 blank lines skipped",
        "ATTENTION: a.csv: 1 lines that look like rows are within double quotes, and no rows of "
        "their own (first below line 2); quoted=False takes double quotes as ordinary characters",
    ]
    ragged = write(tmp_path / "b.csv", text + "4\n")
    with pytest.raises(ValueError, match="line 7, column 2: 1 fields, yet the header names 2"):
        DelimitedFile(ragged, ["id"], [])


def test_a_stray_quote_is_told(tmp_path):
    rows = 'u\ti\tnote\na\tx\tgood\nb\tx\t"so so\nc\ty\tfine\n'
    notes = []
    closed = DelimitedFile(write(tmp_path / "a.tsv", rows + 'd\ty\t"\n'), ["u", "i"], notes)
    assert closed.column("u").values.tolist() == ["a", "b"]
    assert "2 lines that look like rows are within double quotes" in notes[0]
    assert "(first below line 3)" in notes[0]
    notes = []
    text = write(tmp_path / "b.tsv", 'u\ti\tnote\na\tx\t"two\nlines"\nb\ty\t-\n')
    assert DelimitedFile(text, ["u"], notes).num_rows == 2
    assert notes == []
    with pytest.raises(ValueError, match="line 3: a field begins with a double quote that nothing"):
        DelimitedFile(write(tmp_path / "c.tsv", rows + "d\ty\tfine\n"), ["u", "i"], [])
    assert DelimitedFile(tmp_path / "c.tsv", ["u"], [], quoted=False).num_rows == 4


@pytest.mark.parametrize("rows", ["u,i\ra,x\rb,y\r", "u,i\ra,x\nb,y\n"])
def test_lines_that_end_in_cr_alone_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="line 1: lines need to end in LF or CRLF"):
        DelimitedFile(write(tmp_path / "a.csv", rows), ["u", "i"], [])


def test_a_line_that_inflates_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("alignrec_pyg.datasets.delimited.MAX_LINE_BYTES", 1000)
    monkeypatch.setattr("alignrec_pyg.datasets.delimited._BLOCK_BYTES", 500)
    path = write(tmp_path / "a.csv.gz", gzip.compress(b"u,i\na,b\n" + b"x" * 5000 + b",y\n"))
    with pytest.raises(ValueError, match="line 3: a line needs to be below 1,000 bytes: break it"):
        DelimitedFile(path, ["u", "i"], [])
    rows = (b'{"u": "a"}\n', b'{"u": "' + b"x" * 5000 + b'"}\n')
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(b"".join(rows)))
    with pytest.raises(ValueError, match="line 2: a line needs to be below 1,000 bytes"):
        JsonLines(path, ["u"], [])


def test_quotes_may_be_characters_like_others(tmp_path):
    path = write(tmp_path / "a.tsv", 'id\ttext\n1\t"Great" Expectations\n2\t"open\n')
    table = DelimitedFile(path, ["id", "text"], [], quoted=False)
    assert table.column("text").values.tolist() == ['"Great" Expectations', '"open']
    assert table.where(1).endswith("line 3")


def test_ids_are_numbers_only_where_all_are_plain_ones(tmp_path):
    path = write(tmp_path / "a.csv", "a,b,c,d\n7,007,7.0,NA\n-3,3,1,3\n")
    table = DelimitedFile(path, [], [], text=["a", "b", "c", "d"])
    assert table.ids("a").values.tolist() == [7, -3]
    assert table.ids("b").values.tolist() == ["007", "3"]
    assert table.ids("c").values.tolist() == ["7.0", "1"]
    assert table.ids("d").values.tolist() == ["NA", "3"]
    table = DelimitedFile(write(path, "a,b\n7,x\n\n8,y\n\n"), [], [], text=["a", "b"])
    assert table.ids("a").values.tolist() == [7, 8]  # a blank line is no value


def test_only_what_is_asked_for_is_parsed(tmp_path):
    path = write(tmp_path / "a.csv", "a,b,c\n1,2,x\n,,3\n")
    table = DelimitedFile(path, ["a"], [], optional=["b"])
    assert table.column("a").values.tolist() == [1, None]  # the line is not blank: c holds 3
    with pytest.raises(KeyError):
        table.column("c")
    assert DelimitedFile(path, [], [], optional=()).columns == ["a", "b", "c"]


def test_files_without_a_header(tmp_path):
    path = write(tmp_path / "ratings.csv", "u1,i1,5.0\n\nu2,i2,x\n")
    table = DelimitedFile(path, [], [], names=["user", "item", "rating"])
    assert table.column("user").values.tolist() == ["u1", "u2"]
    assert table.where(1).endswith("line 3")
    with pytest.raises(ValueError, match="line 1: 2 fields .user, item. separated by tab or comma"):
        DelimitedFile(path, [], [], names=["user", "item"])


def test_dates_are_read(tmp_path):
    path = write(tmp_path / "a.csv", "t\n2024-01-02\n2024-01-03\n")
    assert DelimitedFile(path, ["t"], []).column("t").values.dtype.kind == "M"
