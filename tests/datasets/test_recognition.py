import gzip

import pytest

from alignrec_pyg.datasets import MMRecFolder, check, from_path
from alignrec_pyg.datasets.recognition import GUESSES, column_of, recognize
from alignrec_pyg.graph import INTERACTS, content_hash


def test_a_table_by_its_usual_names(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("userId,movieId,rating,timestamp\n7,a,5,1\n8,b,4,2\n")
    (tmp_path / "items.csv").write_text("movieId,title\na,One\nb,\n")
    dataset = from_path(path, items=tmp_path / "items.csv", text=["title"])
    assert dataset.data["user"].id.tolist() == [7, 8]
    assert dataset.data["item"].text == ["One", None]
    assert dataset.data[INTERACTS].rating.tolist() == [5, 4]
    assert dataset.report.notes[:2] == (
        "column 'userId' taken as the user, by its name",
        "column 'movieId' taken as the item, by its name",
    )


def test_named_columns_win(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("user,other,item\nu,v,1\n")
    assert from_path(path, columns={"user": "other"}).data["user"].id.tolist() == ["v"]


def test_a_folder_by_its_files(tmp_path):
    (tmp_path / "a.inter").write_text("userID\titemID\n0\t0\n0\t1\n")
    assert isinstance(from_path(tmp_path), MMRecFolder)
    found = recognize(tmp_path)
    assert found.kind == "MMRec folder"
    assert found.read().report.items == 2


def test_what_is_wrong_is_told_when_it_is_read(tmp_path):
    (tmp_path / "a.csv").write_text("user,price\nu,1\n")
    found = recognize(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="line 1: a column of items is needed, under a usual"):
        found.read()
    with pytest.raises(ValueError, match="there is none at"):
        from_path(tmp_path / "b.csv")
    with pytest.raises(ValueError, match=".text. is for a table"):
        from_path(tmp_path, text=["x"])


def test_the_column_of_a_role():
    assert column_of("item", ["title", "asin", "movieId"]) == "movieId"  # in the order of GUESSES
    assert column_of("time", ["title"]) is None
    assert list(GUESSES) == ["user", "item", "rating", "time", "split"]


HEADER = "user,item,rating,timestamp,split\n"
GOOD = HEADER + "u1,i1,5,1700000001,train\nu2,i1,4,1700000002,train\nu2,i2,3,1700000003,test\n"


@pytest.fixture
def table(tmp_path):
    def write(content):
        path = tmp_path / "links.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return check(path)

    return write


def test_usable_data(table, tmp_path):
    result = table(GOOD)
    assert result.kind == "table of interactions"
    assert result.problems == ()
    assert (result.report.users, result.report.items, result.report.interactions) == (2, 2, 3)
    assert "column 'timestamp' taken as the time, by its name" in result.report.notes
    assert "read as: table of interactions" in str(result)
    assert [entry.name for entry in tmp_path.iterdir()] == ["links.csv"]  # nothing was written


def rows(*lines):
    return HEADER + "".join(line + "\n" for line in lines)


# rows 15 and 16 of what can be wrong with interactions: counted, or refused with line and column
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "links.csv, line 1: a column of users is needed"),
        (HEADER, "links.csv, line 2: at least one row"),
        ("u1,i1,5\nu2,i2,4\n", "links.csv, line 1: a column of users is needed"),
        (GOOD.replace(",", ";"), "line 1: a column of users is needed"),
        (rows("u1,i1,5,1,train", ",i1,4,1,train"), "line 3, column 'user': an id needs a value"),
        (rows("u1,i1,5,1,train", "  ,i1,4,1,train"), "line 3, column 'user': an id needs a"),
        (rows("u1,i1,5,1,train", "u2,,4,1,train"), "line 3, column 'item': an id needs a value"),
        (rows("u1,i1,x,1,train"), "line 2, column 'rating': a finite number"),
        (rows("u1,i1,5,1,train", "u2,i1,,1,train"), "line 3, column 'rating': a value is needed"),
        (rows("u1,i1,5,1,train", "u2,i1,5,,train"), "line 3, column 'timestamp': a value is"),
        (
            rows("u1,i1,5,1700000000,train", "u2,i1,5,1700000000000,train"),
            "line 3, column 'timestamp': times need to share one unit",
        ),
        (rows("u1,i1,5,1,dev"), "line 2, column 'split': a split label"),
        (rows("u1,i1,5,1,train", "u2,i1,5"), "line 3, column 4: 3 fields, yet the header names 5"),
        (rows("u1,i1,5,1,train,9"), "line 2, column 6: 6 fields"),
        (GOOD.encode().replace(b"u2", b"\xff", 1), "line 3, byte 1: the file needs to be UTF-8"),
        (b"\x00\x01\x02\x03", "line 1"),
    ],
)
def test_what_is_wrong_has_a_place(table, content, problem):
    result = table(content)
    assert result.report is None
    assert len(result.problems) == 1
    assert problem in result.problems[0]


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (rows("u1,i1,5,1,train", "u1,i1,4,2,train"), "1 rows repeat a (user, item) pair"),
        (rows("u1,i1,5,1,train"), "only 1 user"),
        (rows("u1,i1,5,1,train"), "only 1 item"),
        (rows("7,i1,5,1,train", "-9,i1,5,1,train"), "1 user ids are negative"),
        (rows("u1,i1,5,2,train", "u2,i1,5,1,train"), "rows are not in order of time"),
        (rows("u1,i1,5,,train", "u2,i1,5,,train"), "no value in any of 2 rows: unused"),
        (rows("u1,i1,5,1700000000000,train"), "times look like milliseconds"),
        (rows(" u1,i1,5,1,train", "u2,i1,5,1,train"), "1 ids begin or end with white space"),
        (GOOD.replace("\n", "\r\n"), "lines end in CRLF"),
        ("\ufeff" + GOOD, "byte-order mark skipped"),
        (GOOD + "\n\n", "2 blank lines skipped"),
        (GOOD + "u2,i1,5,9,test\n", "1 repeated pairs carry another split label"),
        (GOOD, "1 held-out interactions are of items without any for training (first: "),
        (rows("u1,i1,5,1,train", "u2,i1,5,1,test"), "of users without any for training (first: "),
    ],
)
def test_what_is_odd_is_counted(table, content, note):
    result = table(content)
    assert result.problems == ()
    assert any(note in entry for entry in result.report.notes)


def test_ids_of_all_kinds_are_read(table):
    huge = "9" * 30
    result = table(f"user,item\nзнак,{huge}\n🙂,007\n{'x' * 10_000},7\n")
    assert (result.report.users, result.report.items) == (3, 3)
    long = table(f"user,item\na,{'x' * 10_000_000}\nb,c\n")
    assert long.report.items == 2


def test_one_problem_does_not_hide_another(table):
    result = table(rows("u1,i1,5,1,train", ",i1,x,1,dev"))
    assert [problem.split("'")[1] for problem in result.problems] == ["user", "rating", "split"]
    assert "problems (3):" in str(result)


def test_columns_may_be_named_and_items_added(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"who,item,at\nu1,1,5\nu2,2,6\n"))
    (tmp_path / "items.csv").write_text("item,name\n1,One\n2,\n")
    columns = {"user": "who", "time": "at"}
    result = check(
        tmp_path / "a.csv.gz", items=tmp_path / "items.csv", columns=columns, text=["name"]
    )
    assert result.problems == ()
    assert "1 of 2 items have nothing in name" in result.report.notes
    result = check(tmp_path / "a.csv.gz", columns={"user": "whom"})
    assert "a header with 'whom', 'item' is needed" in result.problems[0]


def test_folders_are_told_by_their_files(tmp_path):
    files = {
        "MMRec folder": {"a.inter": "userID\titemID\n0\t0\n0\t1\n"},
        "RecBole folder": {"a.inter": "user_id:token\titem_id:token\nx\ty\n"},
        "LightGCN folder": {"train.txt": "0 1\n", "test.txt": "0 0\n"},
        "MicroLens folder": {"x_pairs.csv": "user,item,timestamp\n1,2,3\n"},
        "MovieLens folder": {
            "ratings.csv": "userId,movieId,rating,timestamp\n1,2,3,4\n",
            "movies.csv": "movieId,title,genres\n2,x,y\n",
        },
    }
    for number, (kind, contents) in enumerate(files.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, text in contents.items():
            (folder / name).write_text(text)
        result = check(folder)
        assert (result.kind, result.problems) == (kind, ())
        with pytest.raises(ValueError, match=".text. is for a table"):
            check(folder, text=["x"])
    (tmp_path / "0" / "a.inter").write_text("userID\titemID\n0\tx\n")
    assert "a.inter, line 2, column 'itemID'" in check(tmp_path / "0").problems[0]


def test_what_no_importer_knows(tmp_path):
    with pytest.raises(ValueError, match="needs to be a folder with .* holds ..."):
        check(tmp_path)
    with pytest.raises(ValueError, match="there is none at"):
        check(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="'columns' needs to be of"):
        check(tmp_path, columns={"price": "p"})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("baby", "dd0f507e3f0d2ab5ec4015d4dc13c2e5"),
        ("lfm2k", "74a63e416c1f6af04f37e147ad0145cb"),
        ("ml-features", "a7ea2dd0f853c40ba010c056c1ec0f05"),
        ("ml-latest-small", "bfc62833ab7794452b2f95962c5d6f73"),
    ],
)
def test_real_sets_are_read_as_ever(data_folder, name, expected):
    """Links, their values and order, and ids, as at commit 547886c: what is stored stays right."""
    data = from_path(data_folder / name).data
    links = data[INTERACTS]
    values = [links.get(key) for key in ("rating", "time", "split")]
    ids = data["user"].id.tolist(), data["item"].id.tolist()
    assert content_hash(links.edge_index, *values, *ids) == expected
