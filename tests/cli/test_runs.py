import json
import shutil

import pytest
import torch

from alignrec_pyg import AlignRec, CheckpointError
from alignrec_pyg.cli.options import OptionError
from alignrec_pyg.cli.runs import Settings, load_run, make_data, parameters_of
from alignrec_pyg.datasets import MMRecFolder
from alignrec_pyg.experiments.prepare import prepare
from alignrec_pyg.experiments.settings import PAPER
from alignrec_pyg.graph import INTERACTS, feature_table, knn_edge_type


def settings(**changes):
    made = {
        "model": "AlignRec",
        "features": ("patch_pca", "tfidf"),
        "feature_scale": "rows",
        "neighbors": 5,
        "split": "labels",
    }
    return Settings(**{**made, **changes})


@pytest.mark.parametrize("model", ["AlignRec", "FREEDOM", "MGCN", "VBPR", "BPR"])
@pytest.mark.parametrize("features", [("patch_pca", "tfidf"), ("image", "text")])
def test_models_read_what_compare_gives_them(model, features, encoded, tmp_path):
    """The scripts' data, made by other code."""
    folder = shutil.copytree(encoded, tmp_path / encoded.name)
    for old, new in zip(("patch_pca", "tfidf"), features, strict=True):
        (folder / f"{old}.npy").rename(folder / f"{new}.npy")
    made = settings(model=model, features=features, neighbors=10)
    ours = make_data(MMRecFolder(folder).data, made, tmp_path)
    theirs = prepare(str(folder))
    assert ours.inputs == theirs.inputs(PAPER[model])
    for name in ours.inputs.get("features", ()):
        assert feature_table(ours.train, name).equal(feature_table(theirs.train, name))
    graphs = ours.inputs.get("item_graphs", [])
    graphs = [ours.inputs["item_graph"]] if "item_graph" in ours.inputs else graphs
    for name in graphs:
        found, expected = (data.train[knn_edge_type(name)] for data in (ours, theirs))
        assert found.edge_index.equal(expected.edge_index)
        assert found.edge_weight.equal(expected.edge_weight)
    for part in ("train", "val", "test"):
        found, expected = (getattr(data, part)[INTERACTS] for data in (ours, theirs))
        assert found.edge_index.equal(expected.edge_index)
        assert found.edge_label_index.equal(expected.edge_label_index)


def test_all_links_are_known_when_recommending(encoded, run):
    loaded = load_run(run, None, "cpu")
    assert isinstance(loaded.model, AlignRec)
    assert not loaded.model.training
    known = loaded.data.known[INTERACTS].edge_index
    parts = [loaded.data.train[INTERACTS].edge_index]
    parts += [part[INTERACTS].edge_label_index for part in (loaded.data.val, loaded.data.test)]
    assert known.size(1) == sum(part.size(1) for part in parts) == 480
    assert {tuple(link) for link in known.T.tolist()} == {
        tuple(link) for part in parts for link in part.T.tolist()
    }


def test_rows_at_length_1_or_as_they_are(encoded, tmp_path):
    data = MMRecFolder(encoded).data
    data["item"].x_tfidf = data["item"].x_tfidf * 3
    raw = make_data(data, settings(feature_scale="raw", features=("tfidf",)), tmp_path)
    assert feature_table(raw.train, "tfidf").norm(dim=1).allclose(torch.tensor(3.0))
    rows = make_data(data, settings(features=("tfidf",)), tmp_path)
    assert feature_table(rows.train, "tfidf").norm(dim=1).allclose(torch.tensor(1.0))
    assert raw.fingerprint == rows.fingerprint  # of what is in the folder


def test_only_what_a_model_reads_changes_the_fingerprint(encoded, tmp_path):
    def fingerprint(change):
        data = MMRecFolder(encoded).data
        change(data)
        return make_data(data, settings(features=("tfidf",)), tmp_path).fingerprint

    def other_label(data):
        data[INTERACTS].split[0] = 2

    def other_row(data):
        data["item"].x_tfidf[0] += 0.1

    def other_id(data):
        data["user"].id[0] = "somebody"

    def other_table(data):
        data["item"].x_patch_pca[0] += 0.1

    same = fingerprint(lambda data: None)
    assert fingerprint(other_table) == same
    others = [fingerprint(change) for change in (other_label, other_row, other_id)]
    assert len({same, *others}) == 4


def test_impossible_data(encoded, tmp_path):
    data = MMRecFolder(encoded).data
    with pytest.raises(OptionError, match="--neighbors: 'k' needs to be in"):
        make_data(data, settings(neighbors=61), tmp_path)
    del data[INTERACTS].split
    with pytest.raises(OptionError, match="--split: 'split' needs to be known"):
        make_data(data, settings(), tmp_path)


def test_moved_data_are_named(encoded, run, tmp_path):
    moved = tmp_path / "elsewhere" / "films"
    shutil.copytree(encoded, moved)
    shutil.copytree(run, tmp_path / "run")
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    told["data"] = str(tmp_path / "gone")
    (tmp_path / "run" / "run.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="gone, the data of .*, is not there: name it with"):
        load_run(tmp_path / "run", None, "cpu")
    assert load_run(tmp_path / "run", moved, "cpu").data_folder == moved
    inter = moved / "films.inter"
    first, *lines = inter.read_text().splitlines()
    inter.write_text("\n".join([first, *lines[1:]]) + "\n")
    with pytest.raises(CheckpointError, match="is not what .* was trained on .*--data"):
        load_run(tmp_path / "run", moved, "cpu")


def test_a_damaged_run(run, tmp_path):
    with pytest.raises(CheckpointError, match="holds no trained model: alignrec train"):
        load_run(tmp_path, None, "cpu")
    shutil.copy(run / "run.json", tmp_path)
    told = json.loads((tmp_path / "run.json").read_text())
    told["settings"]["more"] = 1
    (tmp_path / "run.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=r"run.json is damaged or of another version"):
        load_run(tmp_path, None, "cpu")


def test_the_parameters_of_a_model():
    assert parameters_of(AlignRec)[:3] == ["features", "item_graph", "embedding_dim"]
