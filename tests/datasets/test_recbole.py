import pytest

from alignrec_pyg.datasets import RecBoleFolder
from alignrec_pyg.graph import INTERACTS, feature_names

INTER = (
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu1\t7\t4.5\t100\nu2\t8\t3\t99\n"
)
ITEM = (
    "item_id:token\ttitle:token_seq\tyear:float\temb:float_seq\n"
    '8\t"Great" Expectations\t1998\t0.5 1e-3\n9\tHeat\t1995\t\n7\tCasino\t1995\t1 2\n'
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "toy.inter").write_text(INTER)
    (folder / "toy.item").write_text(ITEM)
    (folder / "toy.user").write_text("user_id:token\tage:token\nu1\t20\n")
    return folder


def test_reads_interactions_texts_and_vectors(folder):
    dataset = RecBoleFolder(folder, text=["title"])
    data = dataset.data
    assert data["user"].id.tolist() == ["u1", "u2"]
    assert data["item"].id.tolist() == [8, 9, 7]
    assert data[INTERACTS].edge_index.tolist() == [[0, 1], [2, 0]]
    assert data[INTERACTS].rating.tolist() == [4.5, 3]
    assert data[INTERACTS].time.tolist() == [100, 99]
    assert "split" not in data[INTERACTS]
    assert data["item"].text == ['"Great" Expectations', "Heat", "Casino"]
    assert data["item"].x_emb[2].tolist() == [1, 2]
    assert data["item"].mask_emb.tolist() == [False, True, False]
    notes = "\n".join(dataset.report.notes)
    assert "toy.item: fields left unread: year" in notes
    assert "1 other files not read: toy.user" in notes
    assert feature_names(RecBoleFolder(folder, features=[]).data) == []


def test_parts_are_the_split(folder):
    (folder / "toy.inter").unlink()
    (folder / "toy.item").unlink()
    header = "user_id:token\titem_id:token\n"
    (folder / "toy.test.inter").write_text(header + "u1\tx\n")
    (folder / "toy.train.inter").write_text(header + "u1\t7\nu2\t8\n")
    (folder / "toy.valid.inter").write_text(header + "u2\t7\n")
    data = RecBoleFolder(folder).data
    assert data["item"].id.tolist() == ["7", "8", "x"]
    assert data[INTERACTS].edge_index.tolist() == [[0, 1, 1, 0], [0, 1, 0, 2]]
    assert data[INTERACTS].split.tolist() == [0, 0, 1, 2]
    (folder / "toy.test.inter").write_text(header + "u1\t7\nu1\t\n")
    with pytest.raises(ValueError, match="toy.test.inter, line 3, column 'item_id'"):
        RecBoleFolder(folder)
    (folder / "toy.test.inter").write_text("user_id:token\titem_id:token\trating:float\n1\t1\t1\n")
    with pytest.raises(ValueError, match="all parts need the field 'rating', or none"):
        RecBoleFolder(folder)


def test_fields_of_other_names(folder):
    (folder / "toy.inter").write_text("uid:token\tiid:token\twhen:float\n1\t7\t5\n")
    (folder / "toy.item").unlink()
    data = RecBoleFolder(folder, user="uid", item="iid", time="when").data
    assert data["user"].id.tolist() == [1]
    assert data[INTERACTS].time.tolist() == [5]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("toy.inter", "user_id\titem_id:token\n1\t2\n", "line 1, column 1: a field needs its type"),
        ("toy.inter", "u:token\titem_id:token\n1\t2\n", "line 1: the fields 'user_id', 'item_id'"),
        ("toy.inter", INTER + "u3\t7\thigh\t1\n", "line 4, column 'rating:?.*finite number"),
        ("toy.inter", INTER + "u3\t7\n", "line 4, column 3: 2 fields"),
        ("toy.item", ITEM + "6\tx\t1\t1 2 3\n", "line 5, column 'emb': 2 numbers separated"),
        ("toy.item", ITEM + "6\tx\t1\t1 b\n", "line 5, column 'emb': 2 numbers separated"),
        ("toy.item", ITEM + "7\tx\t1\t\n", "line 5, column 'item_id': each item"),
    ],
)
def test_places_of_mistakes_are_named(folder, file, text, message):
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        RecBoleFolder(folder)


def test_arguments_are_checked(folder):
    for arguments, message in (
        ({"text": "title"}, "need to be lists"),
        ({"text": ["plot"]}, "the fields 'item_id', 'plot' are needed"),
        ({"features": ["title"]}, "'features' needs fields of type float_seq"),
        ({"name": "other"}, "'name' needs to be one of .'toy'."),
    ):
        with pytest.raises(ValueError, match=message):
            RecBoleFolder(folder, **arguments)
    (folder / "toy.item").unlink()
    with pytest.raises(ValueError, match="need the file .*toy.item"):
        RecBoleFolder(folder, text=["title"])
    (folder / "toy.inter").rename(folder / "a.inter")
    (folder / "b.inter").write_text(INTER)
    with pytest.raises(ValueError, match="'name' needs to be one of .'a', 'b'."):
        RecBoleFolder(folder)
    with pytest.raises(ValueError, match="'path' needs to be a folder"):
        RecBoleFolder(folder / "nowhere")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="needs to contain a file <name>.inter"):
        RecBoleFolder(folder / "empty")
