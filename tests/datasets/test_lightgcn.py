import pytest

from alignrec_pyg.datasets import LightGCNFolder
from alignrec_pyg.graph import INTERACTS


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.txt").write_text("0 1 2\n1 0\n\n2\n")
    (tmp_path / "test.txt").write_text("1 3 \n0 1\n")
    return tmp_path


def test_lines_are_users_and_their_items(folder):
    dataset = LightGCNFolder(folder)
    data = dataset.data
    assert data["user"].id.tolist() == [0, 1]
    assert data["item"].id.tolist() == [0, 1, 2, 3]
    assert data[INTERACTS].edge_index.tolist() == [[0, 0, 1, 1], [1, 2, 0, 3]]
    assert data[INTERACTS].split.tolist() == [0, 0, 0, 2]
    notes = "\n".join(dataset.report.notes)
    assert "train.txt: 1 blank lines skipped" in notes
    assert "train.txt: 1 users without items" in notes
    assert f"(left out first: {folder / 'test.txt'}, line 2)" in notes
    assert f"items without any for training (first: {folder / 'test.txt'}, line 1)" in notes


def test_outside_ids_and_a_validation_part(folder):
    (folder / "valid.txt").write_text("0 3\n")
    (folder / "user_list.txt").write_text("org_id remap_id\nann b 1\nann 0\nzoe 2\n\n")
    (folder / "item_list.txt").write_text(
        "org_id remap_id\n" + "".join(f"B00{row} {row}\n" for row in (3, 2, 1, 0))
    )
    (folder / "README.md").write_text("x")
    dataset = LightGCNFolder(folder)
    assert dataset.data["user"].id.tolist() == ["ann", "ann b"]
    assert dataset.data["item"].id.tolist() == ["B000", "B001", "B002", "B003"]
    assert dataset.data[INTERACTS].split.tolist() == [0, 0, 0, 1, 2]
    notes = "\n".join(dataset.report.notes)
    assert "user_list.txt: 1 rows after the 2 in use" in notes
    assert "1 other files not read: README.md" in notes


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("train.txt", "0 1\n1 x 2\n", "train.txt, line 2, column 2: row numbers.*'x'"),
        ("train.txt", "0 1\n1 2.5\n", "train.txt, line 2, column 2: row numbers"),
        ("train.txt", "0 1\n1 -2\n", "train.txt, line 2, column 'item': .*from 0.*-2"),
        ("train.txt", "0 1\n1 " + "9" * 30 + "\n", "train.txt, line 2, column 2: row numbers"),
        ("train.txt", "0 1\n1 99999999999\n", "train.txt, line 2, column 'item': .*in use"),
        ("train.txt", "0\n\n", "train.txt, line 1: at least one user"),
        ("test.txt", "", "test.txt, line 1: at least one user"),
        ("user_list.txt", "ann 0\n", "line 1: the header 'org_id remap_id'"),
        ("user_list.txt", "org_id remap_id\n", "line 2: at least one id"),
        ("user_list.txt", "org_id remap_id\na 0\na 1\n", "line 3, column 'org_id': .* once"),
        ("user_list.txt", "org_id remap_id\nann\n", "line 2: an id and a row index"),
        (
            "user_list.txt",
            "org_id remap_id\na 0\nb 0\n",
            "line 3, column 'remap_id': .* once",
        ),
        ("user_list.txt", "org_id remap_id\na 0\n", "from 0 to 1 .1 are missing, the first is 1"),
    ],
)
def test_places_of_mistakes_are_named(folder, file, text, message):
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        LightGCNFolder(folder)


def test_a_folder_is_needed(tmp_path):
    with pytest.raises(ValueError, match="needs to be a folder with train.txt"):
        LightGCNFolder(tmp_path)
