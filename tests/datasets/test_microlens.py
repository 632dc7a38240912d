import numpy as np
import pytest

from alignrec_pyg.datasets import MicroLens, MMRecFolder
from alignrec_pyg.graph import INTERACTS, feature_names

PAIRS = "user,item,timestamp\n3,20,1583378629552\n1,10,1583378629553\n3,10,1583378629554\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "MicroLens-100k_pairs.csv").write_text(PAIRS)
    return tmp_path


def test_pairs_alone(folder):
    data = MicroLens(folder).data
    assert data["user"].id.tolist() == [1, 3]
    assert data["item"].id.tolist() == [10, 20]
    assert data[INTERACTS].edge_index.tolist() == [[1, 0, 1], [1, 0, 0]]
    assert data[INTERACTS].time[0] == 1583378629552
    assert "text" not in data["item"]


@pytest.mark.parametrize("header", ["", "item,title\n"])
def test_titles_and_covers(folder, header):
    text = "\ufeff" + header + '20,"One, ""two"""\n\n10,a, b, "c"\n30,unused\n'
    (folder / "MicroLens-100k_title_en.csv").write_text(text, encoding="utf-8")
    covers = folder / "MicroLens-100k_covers"
    covers.mkdir()
    (covers / "20.jpg").write_bytes(b"x")
    dataset = MicroLens(folder)
    assert dataset.data["item"].text == ['a, b, "c"', 'One, "two"']
    assert dataset.data["item"].image_path == [None, covers / "20.jpg"]
    assert any("1 of 2 items have no cover" in note for note in dataset.report.notes)


def test_titles_and_covers_of_other_items_are_refused(folder):
    titles = folder / "x_titles.csv"
    titles.write_text("0010,a\n0020,b\n")
    with pytest.raises(ValueError, match="x_titles.csv needs ids .*got '0010', the items are like"):
        MicroLens(folder)
    titles.unlink()
    (folder / "covers").mkdir()
    (folder / "covers" / "0010.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="covers needs ids of the items: none of 1 is one"):
        MicroLens(folder)


def test_mistakes_are_named(folder):
    titles = folder / "x_titles.csv"
    titles.write_text("10 no comma\n")
    with pytest.raises(ValueError, match="line 1: an item, a comma and a title"):
        MicroLens(folder)
    titles.write_bytes(b"10,x\n\xff,y\n")
    with pytest.raises(ValueError, match="line 2: the file needs to be UTF-8"):
        MicroLens(folder)
    (folder / "y_title_cn.csv").write_text("1,x\n")
    with pytest.raises(ValueError, match="several .*_title.*: keep one"):
        MicroLens(folder)
    (folder / "MicroLens-100k_pairs.csv").unlink()
    with pytest.raises(ValueError, match="needs to be a folder with .*_pairs.csv"):
        MicroLens(folder)


def test_the_copy_in_mmrec_format_as_it_comes(tmp_path):
    (tmp_path / "microlens.inter").write_text(
        "userID\titemID\ttimestamp\tx_label\n0\t0\t1583378629552\t0\n1\t1\t1583378629553\t1\n"
    )
    for what, index in (("u", "userID"), ("i", "itemID")):
        mapping = f"id\t{index}\n77\t0\n78\t1\n"
        (tmp_path / f"{what}_id_mapping.csv").write_text(mapping)
    (tmp_path / "i_id_mapping.tsv").write_text("id\titemID\n77\t0\n78\t1\n")
    for name in ("image_feat", "text_feat"):
        np.save(tmp_path / f"{name}.npy", np.ones((2, 3), dtype=np.float32))
    dataset = MMRecFolder(tmp_path)
    assert feature_names(dataset.data) == ["image_feat", "text_feat"]
    assert dataset.data["item"].id.tolist() == [77, 78]
    assert any("not read: i_id_mapping.tsv" in note for note in dataset.report.notes)
