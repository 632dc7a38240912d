import gzip

import numpy as np
import pytest

from alignrec_pyg.datasets import MMRecFolder, mmrec
from alignrec_pyg.graph import INTERACTS, KNOWS, feature_names, known_pairs

INTER = (
    "userID\titemID\trating\ttimestamp\tx_label\n0\t1\t5.0\t9\t0\n0\t0\t4.5\t8\t1\n2\t3\t1\t9\t2\n"
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "toy set ü"
    folder.mkdir()
    (folder / "toy set ü.inter").write_text(INTER)
    np.save(folder / "image_feat.npy", np.arange(8, dtype=np.float64).reshape(4, 2) + 1)
    np.save(folder / "all-MiniLM-L6-v2.npy", np.eye(4, dtype=np.float16))
    return folder


def inter(folder, text):
    (folder / "toy set ü.inter").write_text(text)
    return folder


def test_reads_everything(folder):
    dataset = MMRecFolder(folder)
    data, report = dataset.data, dataset.report
    links = data[INTERACTS]
    assert links.edge_index.tolist() == [[0, 0, 2], [1, 0, 3]]
    assert links.rating.tolist() == [5.0, 4.5, 1.0]
    assert links.time.tolist() == [9, 8, 9]
    assert links.split.tolist() == [0, 1, 2]
    assert data["user"].id.tolist() == [0, 1, 2]
    assert feature_names(data) == ["all_MiniLM_L6_v2", "image_feat"]
    assert data["item"].x_image_feat.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]
    assert [f.dtype for f in report.features] == ["float16", "float64"]
    assert (report.users, report.items, report.interactions) == (3, 4, 3)
    notes = "\n".join(report.notes)
    assert "1 of 3 users have no interaction" in notes  # the gap in the ids
    assert "1 of 4 items have no interaction" in notes
    assert "1 of 2 steps go back" in notes
    assert "no id list to check them by" in notes
    assert repr(dataset) == "MMRecFolder(users=3, items=4, interactions=3)"


@pytest.mark.parametrize(
    ("text", "present"),
    [
        ("userID\titemID\n0\t1\n2\t3\n", set()),
        ("itemID,userID\n1,0\n3,2\n", set()),
        ("x_label\titemID\tuserID\n0\t1\t0\n2\t3\t2\n", {"split"}),
        ("userID,rating,itemID\n0,5,1\n2,4,3\n", {"rating"}),
        ("timestamp\tuserID\titemID\n5\t0\t1\n6\t2\t3\n", {"time"}),
    ],
)
def test_columns_in_any_subset_and_order(folder, text, present):
    links = MMRecFolder(inter(folder, text)).data[INTERACTS]
    assert links.edge_index.tolist() == [[0, 2], [1, 3]]
    assert {"split", "rating", "time"} & set(links.keys()) == present


def test_repeated_pairs_and_ignored_columns(folder):
    text = "userID\titemID\tx_label\textra\n0\t3\t0\ta\n0\t3\t2\tb\n1\t1\t0\tc\n"
    dataset = MMRecFolder(inter(folder, text), ignore=["x_label"])
    assert dataset.report.duplicates == 1
    assert "split" not in dataset.data[INTERACTS]
    notes = "\n".join(dataset.report.notes)
    assert "column 'extra' left unread" in notes
    assert "column 'x_label' left unread" in notes
    last = MMRecFolder(folder, keep="last")
    assert last.data[INTERACTS].split.tolist() == [2, 0]
    assert any("another split label than the last row" in note for note in last.report.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("userID\titemID\n", "line 2: at least one row"),
        ("0\t1\n", "line 1: a header"),
        ("userID\titemID\n0\t3\n0\t-1\n", "line 3, column 'itemID': .*row number from 0.*-1"),
        (
            "userID\titemID\n0\t3\nx\t1\n",
            "line 3, column 'userID': .*whole number.*from_frames.*'x'",
        ),
        ("userID\titemID\n0\t3\n1.5\t1\n", "line 3, column 'userID': .*whole number.*1.5"),
        ("userID\titemID\n0\t3\n\t1\n", "line 3, column 'userID': an id needs a value"),
        ("userID\titemID\n0\t3\n1\n", "line 3, column 2: 1 fields, yet the header names 2"),
        ("userID\titemID\n0,3\n1,2\n", "line 2, column 2: 1 fields.*'0,3'"),
        (
            "userID\titemID\n0\t3\n\n99999999999\t1\n",
            "line 4, column 'userID': .*only 2 are in use",
        ),
        ("userID\titemID\n0\t3\n1\t" + "9" * 10_000_000 + "\n", "line 3, column 'itemID'"),
        ("userID\titemID\tx_label\n0\t3\t0\n1\t3\t3\n", "line 3, column 'x_label': .*0, 1, 2"),
        ("userID\titemID\tx_label\n0\t3\t0\n1\t3\t\n", "line 3, column 'x_label': .*every row"),
        ("userID\titemID\ttimestamp\n0\t3\t5\n1\t3\t\n", "line 3, column 'timestamp': .*every row"),
        ("userID\titemID\ttimestamp\n0\t3\t1e9\n1\t3\t1e12\n", "column 'timestamp': .*one unit"),
        ("userID\titemID\trating\n0\t3\tgood\n", "line 2, column 'rating': a finite number"),
    ],
)
def test_bad_interactions_are_refused_by_line_and_column(folder, text, message):
    with pytest.raises(ValueError, match=message) as caught:
        MMRecFolder(inter(folder, text))
    assert len(str(caught.value)) < 600


def test_one_user_and_one_item_are_accepted_with_notes(tmp_path):
    (tmp_path / "a.inter").write_text("userID\titemID\n0\t0\n")
    report = MMRecFolder(tmp_path).report
    assert report.notes[:2] == (
        "only 1 user: nothing to compare it with",
        "only 1 item: nothing to compare it with",
    )


def test_gzip_and_name(folder):
    (folder / "other.inter.gz").write_bytes(gzip.compress(b"userID\titemID\n0\t3\n"))
    assert MMRecFolder(folder).report.interactions == 3  # the one named like the folder
    assert MMRecFolder(folder, name="other").report.interactions == 1
    with pytest.raises(ValueError, match=r"'name' needs to be one of \['other', 'toy set ü'\]"):
        MMRecFolder(folder, name="third")


def test_several_files_need_a_name(folder, tmp_path):
    moved = folder.rename(tmp_path / "moved")
    assert MMRecFolder(moved).report.interactions == 3  # the only one
    (moved / "b.inter").write_text(INTER)
    with pytest.raises(ValueError, match=r"'name' needs to be one of \['b', 'toy set ü'\]"):
        MMRecFolder(moved)


def test_folder_is_needed(tmp_path):
    with pytest.raises(ValueError, match="'path' needs to be a folder"):
        MMRecFolder(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"a file <name>\.inter"):
        MMRecFolder(tmp_path)


def test_mappings_give_outside_ids(folder):
    (folder / "i_id_mapping.csv").write_text("asin\titemID\nB\t1\nA\t0\nC\t2\nD\t3\n")
    (folder / "u_id_mapping.csv").write_text("user_id,userID\nu0,0\nu1,1\nu2,2\n")
    dataset = MMRecFolder(folder)
    assert dataset.data["item"].id.tolist() == ["A", "B", "C", "D"]
    assert dataset.data["user"].id.tolist() == ["u0", "u1", "u2"]
    assert not any("no id list" in note for note in dataset.report.notes)


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "all_MiniLM_L6_v2"])
def test_features_are_chosen(folder, name):
    dataset = MMRecFolder(folder, features=[name])
    assert feature_names(dataset.data) == ["all_MiniLM_L6_v2"]
    assert any("not read: image_feat.npy" in note for note in dataset.report.notes)
    assert feature_names(MMRecFolder(folder, features=[]).data) == []


def test_bad_choices_are_refused(folder):
    message = r"\['all-MiniLM-L6-v2', 'image_feat'\] are there \(got \['audio'\]\)"
    with pytest.raises(ValueError, match=message):
        MMRecFolder(folder, features=["audio"])
    with pytest.raises(ValueError, match="list of names"):
        MMRecFolder(folder, features="image_feat")
    with pytest.raises(ValueError, match="'ignore' needs to be of"):
        MMRecFolder(folder, ignore=["label"])
    np.save(folder / "image-feat.npy", np.eye(4))
    with pytest.raises(ValueError, match="both be named 'image_feat'"):
        MMRecFolder(folder)
    assert MMRecFolder(folder, features=["image-feat"]).data["item"].x_image_feat.shape == (4, 4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 2), r"audio\.npy needs the shape \[4, dim\].*got \[3, 2\]"),
        ((5, 2), r"shape \[4, dim\].*got \[5, 2\].*move it out of the folder"),
        ((4,), r"audio\.npy needs the shape \[4, dim\].*got \[4\]"),
        ((4, 0), r"got \[4, 0\]"),
    ],
)
def test_feature_of_another_shape_is_refused(folder, shape, message):
    np.save(folder / "audio.npy", np.ones(shape))
    with pytest.raises(ValueError, match=message):
        MMRecFolder(folder)


def test_longer_tables_that_agree_tell_of_items_without_interactions(folder):
    np.save(folder / "image_feat.npy", np.ones((6, 3)))
    np.save(folder / "all-MiniLM-L6-v2.npy", np.eye(6))
    dataset = MMRecFolder(folder)
    assert dataset.report.items == 6
    note = "ATTENTION: 4 items have interactions and the tables 6 rows: the last 2 are taken as"
    assert any(entry.startswith(note) for entry in dataset.report.notes)


def test_num_items_tells_of_items_without_interactions(folder):
    np.save(folder / "audio.npy", np.ones((6, 2)))
    data = MMRecFolder(folder, features=["audio"], num_items=6).data
    assert data["item"].num_nodes == len(data["item"].id) == 6
    with pytest.raises(ValueError, match=r"line 4, column 'itemID': .*below num_items=3"):
        MMRecFolder(folder, num_items=3)


def test_pickled_tables_are_refused_but_the_known_dictionary_is_left_alone(folder):
    np.save(folder / "user_graph_dict.npy", np.array({0: [1]}, dtype=object))
    assert any("user_graph_dict.npy" in note for note in MMRecFolder(folder).report.notes)
    np.save(folder / "evil.npy", np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"evil\.npy needs to be an intact"):
        MMRecFolder(folder)


def test_nonfinite_option_reaches_the_tables(folder):
    np.save(folder / "audio.npy", np.array([[1.0], [np.nan], [2.0], [3.0]]))
    with pytest.raises(ValueError, match="feature 'audio' needs finite"):
        MMRecFolder(folder)
    report = MMRecFolder(folder, nonfinite="missing").report
    assert {f.name: f.missing for f in report.features}["audio"] == 1


def test_optional_columns_are_the_documented_ones():
    assert all(column in (MMRecFolder.__doc__ or "") for column in mmrec._OPTIONAL)


def test_real_baby(data_folder):
    report = MMRecFolder(data_folder / "baby").report
    assert (report.users, report.items, report.interactions) == (19_445, 7_050, 160_792)
    assert [part.interactions for part in report.parts] == [118_551, 20_559, 21_682]
    assert report.duplicates == 0


def test_real_lfm2k(data_folder):
    dataset = MMRecFolder(data_folder / "lfm2k")
    report = dataset.report
    assert (report.users, report.items, report.interactions) == (1_858, 1_425, 56_345)
    assert [part.interactions for part in report.parts] == [44_327, 4_799, 7_219]
    assert feature_names(dataset.data) == ["all_MiniLM_L6_v2", "vggish", "whisper"]


def test_plain_file_wins_over_its_compressed_copy(tmp_path):
    (tmp_path / "a.inter").write_text("userID\titemID\n0\t0\n1\t1\n")
    (tmp_path / "a.inter.gz").write_bytes(gzip.compress(b"userID\titemID\n0\t0\n"))
    assert MMRecFolder(tmp_path).data["user"].num_nodes == 2


def test_a_mapping_needs_a_column_of_ids(folder):
    (folder / "i_id_mapping.csv").write_text("itemID\n0\n1\n")
    with pytest.raises(ValueError, match="line 1: a column with ids is needed"):
        MMRecFolder(folder)


def test_known_pairs_are_in_a_file_beside(folder):
    (folder / f"{folder.name}.inter").write_text("userID\titemID\tx_label\n0\t0\t0\n1\t1\t0\n")
    beside = folder / f"{folder.name}.known"
    beside.write_text("userID\titemID\trating\n1\t0\t2.5\n0\t0\t1\n0\t3\t3\n")
    dataset = MMRecFolder(folder, features=[])
    assert known_pairs(dataset.data).tolist() == [[1, 0], [0, 3]]
    assert dataset.data[KNOWS].rating.tolist() == [2.5, 3.0]
    assert (dataset.report.items, dataset.report.known_pairs) == (4, 2)
    with pytest.raises(ValueError, match=r"known: ids need to be below num_items=3"):
        MMRecFolder(folder, features=[], num_items=3)
    beside.write_text("userID\titemID\n1\tx\n")
    with pytest.raises(ValueError, match=r"\.known, line 2, column 'itemID'"):
        MMRecFolder(folder, features=[])
