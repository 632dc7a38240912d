import copy

import numpy as np
import pytest
import torch
from torch_geometric.transforms import RandomLinkSplit

from alignrec_pyg.datasets import MMRecFolder, RecBoleFolder, from_frames, to_mmrec, to_recbole
from alignrec_pyg.graph import INTERACTS, KNOWS, known_pairs, links_to_predict
from alignrec_pyg.transforms import KCore, MinRating, SplitInteractions

pd = pytest.importorskip("pandas")


@pytest.fixture
def data():
    generator = np.random.default_rng(0)
    pairs = np.unique(generator.integers(0, 12, size=(150, 2)), axis=0)
    generator.shuffle(pairs)
    frame = pd.DataFrame(
        {
            "user": [f"u{user:02d}" for user, _ in pairs],
            "item": [f"i{item:02d}" for _, item in pairs],
            "rating": generator.integers(1, 11, size=len(pairs)) / 2,
            "time": 1_700_000_000 + np.arange(len(pairs)),
        }
    )
    items = pd.DataFrame({"item": sorted(set(frame["item"])), "title": "A tab\there"})
    table = generator.normal(size=(len(items), 3)).astype(np.float32)
    table[4] = 0
    features = {"clip": (items["item"].tolist(), table)}
    return from_frames(frame, items, features, rating="rating", time="time", text="title").data


def links(data):
    """(user id, item id, rating, time, label) of every link."""
    store = data[INTERACTS]
    user, item = store.edge_index.tolist()
    label = store.split.tolist() if "split" in store else [None] * len(user)
    return set(
        zip(
            (str(data["user"].id[row]) for row in user),
            (str(data["item"].id[row]) for row in item),
            store.rating.tolist(),
            store.time.tolist(),
            label,
            strict=True,
        )
    )


def predicted(part):
    return set(map(tuple, part[INTERACTS].edge_label_index.t().tolist()))


def labelled(data, split):
    """``data`` with the labels of a split, found one by one."""
    label_of = {}
    for label, part in enumerate(split):
        for pair in part[INTERACTS].edge_label_index.t().tolist():
            label_of[tuple(pair)] = label
    result = copy.copy(data)
    pairs = data[INTERACTS].edge_index.t().tolist()
    result[INTERACTS].split = torch.tensor([label_of[tuple(pair)] for pair in pairs])
    return result


def test_mmrec_and_back(data, tmp_path):
    split = SplitInteractions("random", seed=1)(data)
    notes = to_mmrec(data, tmp_path / "toy", split=split)
    assert notes == ["texts left out: MMRec's format has no place for them"]
    back = MMRecFolder(tmp_path / "toy").data
    assert links(back) == links(labelled(data, split))
    assert back["user"].id.tolist() == data["user"].id.tolist()
    assert torch.equal(back["item"].x_clip, data["item"].x_clip)
    assert back["item"].mask_clip.tolist() == data["item"].mask_clip.tolist()
    again = SplitInteractions("labels")(back)
    for ours, theirs in zip(split, again, strict=True):
        assert predicted(ours) == predicted(theirs)


def test_recbole_and_back(data, tmp_path):
    notes = to_recbole(data, tmp_path / "toy")
    assert notes == [f"{data['item'].num_nodes} texts with tabs or line breaks: they became blanks"]
    back = RecBoleFolder(tmp_path / "toy", text=["text"]).data
    assert links(back) == links(data)
    assert back["item"].id.tolist() == data["item"].id.tolist()
    assert back["item"].text[0] == "A tab here"
    assert torch.equal(back["item"].x_clip, data["item"].x_clip)
    assert back["item"].mask_clip.tolist() == data["item"].mask_clip.tolist()


def test_recbole_parts(data, tmp_path):
    split = SplitInteractions("random", seed=1)(data)
    to_recbole(data, tmp_path / "toy", split=split)
    header = (tmp_path / "toy" / "toy.valid.inter").read_text().split("\n")[0]
    assert header == "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    assert links(RecBoleFolder(tmp_path / "toy").data) == links(labelled(data, split))


def test_labels_of_the_data_themselves(data, tmp_path):
    with pytest.raises(ValueError, match="'split' is needed, or split labels"):
        to_mmrec(data, tmp_path / "a")
    split = SplitInteractions("random", seed=1)(data)
    own = labelled(data, split)
    to_mmrec(own, tmp_path / "b")
    assert links(MMRecFolder(tmp_path / "b").data) == links(own)


def test_links_in_no_part_are_counted(data, tmp_path):
    train, val, test = SplitInteractions("random", seed=1)(data)
    val = copy.copy(val)
    val[INTERACTS].edge_label_index = val[INTERACTS].edge_label_index[:, 2:]
    notes = to_mmrec(data, tmp_path / "a", split=(train, val, test))
    assert "2 interactions in no part of the split left out" in notes
    with pytest.raises(ValueError, match="hold every link of 'data' once at most .test does not"):
        to_mmrec(data, tmp_path / "c", split=(train, test, test))


@pytest.mark.parametrize("write", [to_mmrec, to_recbole])
def test_known_pairs_and_back(data, tmp_path, write):
    likes = KCore(2)(MinRating(3)(data))
    write(likes, tmp_path / "toy", split=SplitInteractions("random")(likes))
    back = {to_mmrec: MMRecFolder, to_recbole: RecBoleFolder}[write](tmp_path / "toy").data

    def known(graph):
        user, item = known_pairs(graph).tolist()
        ids = (graph["user"].id[user].tolist(), graph["item"].id[item].tolist())
        return set(zip(*ids, graph[KNOWS].rating.tolist(), graph[KNOWS].time.tolist(), strict=True))

    assert len(known(likes)) > 10
    assert known(back) == known(likes)


def test_a_split_of_pyg_is_written_without_its_negatives(data, tmp_path):
    torch.manual_seed(0)
    split = RandomLinkSplit(
        0.2, 0.2, edge_types=[INTERACTS], disjoint_train_ratio=0.5, neg_sampling_ratio=0.3
    )(data)
    to_mmrec(data, tmp_path / "toy", split=split)
    read = MMRecFolder(tmp_path / "toy").data[INTERACTS]
    for label, part in ((1, split[1]), (2, split[2])):
        rows = read.edge_index[:, read.split == label]
        assert set(map(tuple, rows.t().tolist())) == set(
            map(tuple, links_to_predict(part).t().tolist())
        )
    assert read.edge_index.size(1) == data[INTERACTS].edge_index.size(1)


def test_quotes_are_written_as_they_are(tmp_path):
    links = pd.DataFrame({"user": ['"u"', "v"], "item": ['19" rack', "cup"], "rating": [4.1, 0.1]})
    items = pd.DataFrame({"item": ["cup", '19" rack'], "title": ['"Great" Expectations', 'a "b"']})
    data = from_frames(links, items, text="title", rating="rating").data
    to_recbole(data, tmp_path / "toy")
    back = RecBoleFolder(tmp_path / "toy", text=["text"]).data
    assert back["user"].id.tolist() == ['"u"', "v"]
    assert back["item"].id.tolist() == ["cup", '19" rack']
    assert back["item"].text == ['"Great" Expectations', 'a "b"']
    assert torch.equal(back[INTERACTS].rating, data[INTERACTS].rating)
    assert "4.1\n" in (tmp_path / "toy" / "toy.inter").read_text()


@pytest.mark.parametrize(
    ("write", "step"), [(to_mmrec, "feature_table"), (to_recbole, "_write_plain")]
)
def test_a_folder_appears_when_it_is_complete(data, tmp_path, monkeypatch, write, step):
    split = SplitInteractions("random", seed=1)(data)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(f"alignrec_pyg.datasets.export.{step}", full)
        with pytest.raises(OSError, match="No space left"):
            write(data, tmp_path / "toy", split=split)
    assert list(tmp_path.iterdir()) == []
    write(data, tmp_path / "toy", split=split)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


@pytest.mark.parametrize(("ids", "back"), [([7, 20], [7, 20]), (["a", "7"], ["7", "a"])])
def test_ids_keep_their_type(tmp_path, ids, back):
    links = pd.DataFrame({"user": ids * 3, "item": [1, 2, 3, 4, 5, 6], "split": [0, 0, 0, 0, 1, 2]})
    to_mmrec(from_frames(links, split="split").data, tmp_path / "toy")
    data = MMRecFolder(tmp_path / "toy").data
    assert data["user"].id.tolist() == back
    assert data["item"].id.dtype == np.int64


def test_what_cannot_be_written_is_refused(data, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match="'folder' needs to be new or empty"):
            to_recbole(data, folder)
    data["user"].id[3] = "a\tb"
    with pytest.raises(ValueError, match="data.'user'..id row 3: .* no tab"):
        to_recbole(data, tmp_path / "a")
