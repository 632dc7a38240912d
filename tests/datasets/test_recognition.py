import pytest

from alignrec_pyg.datasets import MMRecFolder, from_path
from alignrec_pyg.datasets.recognition import GUESSES, column_of, recognize
from alignrec_pyg.graph import INTERACTS


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
    with pytest.raises(ValueError, match="are for a file"):
        from_path(tmp_path, text=["x"])


def test_the_column_of_a_role():
    assert column_of("item", ["title", "asin", "movieId"]) == "movieId"  # in the order of GUESSES
    assert column_of("time", ["title"]) is None
    assert list(GUESSES) == ["user", "item", "rating", "time", "split"]
