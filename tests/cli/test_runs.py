import shutil

import numpy as np
import pytest
import torch

from alignrec_pyg import AlignRec, CheckpointError
from alignrec_pyg.cli.runs import Settings, load_run
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.graph import INTERACTS, feature_table
from alignrec_pyg.storage import read_manifest, write_manifest


def settings(**changes):
    made = {
        "model": "AlignRec",
        "features": ("patch_pca", "tfidf"),
        "feature_scale": "rows",
        "neighbors": 5,
        "split": "labels",
    }
    return Settings(**{**made, **changes})


def test_all_links_are_known_when_recommending(encoded, run):
    loaded = load_run(run, None, "cpu")
    assert isinstance(loaded.model, AlignRec)
    assert not loaded.model.training
    known = loaded.known[INTERACTS].edge_index
    parts = [loaded.train[INTERACTS].edge_index]
    parts += [part[INTERACTS].edge_label_index for part in (loaded.data.val, loaded.test)]
    assert known.size(1) == sum(part.size(1) for part in parts) == 480
    assert {tuple(link) for link in known.T.tolist()} == {
        tuple(link) for part in parts for link in part.T.tolist()
    }


def test_rows_at_length_1_or_as_they_are(encoded, tmp_path):
    folder = shutil.copytree(encoded, tmp_path / encoded.name)
    np.save(folder / "tfidf.npy", np.load(folder / "tfidf.npy") * 3)
    raw = settings(feature_scale="raw", features=("tfidf",)).prepare(folder, tmp_path)
    assert feature_table(raw.train, "tfidf").norm(dim=1).allclose(torch.tensor(3.0))
    rows = settings(features=("tfidf",)).prepare(folder, tmp_path)
    assert feature_table(rows.train, "tfidf").norm(dim=1).allclose(torch.tensor(1.0))
    assert raw.fingerprint(["tfidf"]) == rows.fingerprint(["tfidf"])  # of what is in the folder


def test_only_what_a_model_reads_changes_the_fingerprint(encoded, tmp_path):
    def fingerprint(change):
        folder = shutil.copytree(encoded, tmp_path / "copy" / encoded.name)
        change(folder)
        made = settings(features=("tfidf",)).prepare(folder, tmp_path)
        shutil.rmtree(folder)
        return made.fingerprint(["tfidf"])

    def other_label(folder):
        inter = folder / f"{folder.name}.inter"
        first, second, *rest = inter.read_text().splitlines()
        assert second.endswith("\t0")
        inter.write_text("\n".join([first, second[:-1] + "2", *rest]) + "\n")

    def other_row(name):
        def change(folder):
            table = np.load(folder / f"{name}.npy")
            table[0] += 0.1
            np.save(folder / f"{name}.npy", table)

        return change

    same = fingerprint(lambda folder: None)
    assert fingerprint(other_row("patch_pca")) == same
    others = [fingerprint(change) for change in (other_label, other_row("tfidf"))]
    assert len({same, *others}) == 3


def test_item_graphs_are_kept_with_the_run(encoded, tmp_path):
    data = settings().prepare(encoded, tmp_path)
    data.inputs(AlignRec)
    (kept,) = (tmp_path / "item_graphs").glob("*.safetensors")
    made = kept.stat().st_mtime_ns
    again = settings().prepare(encoded, tmp_path)
    again.inputs(AlignRec)
    assert kept.stat().st_mtime_ns == made
    assert again.item_graphs == data.item_graphs


def test_impossible_data(encoded, tmp_path):
    with pytest.raises(SettingsError, match="--item-neighbors: 'k' needs to be in"):
        settings(neighbors=61).prepare(encoded, tmp_path).inputs(AlignRec)
    folder = shutil.copytree(encoded, tmp_path / encoded.name)
    inter = folder / f"{folder.name}.inter"
    lines = [line.rpartition("\t")[0] for line in inter.read_text().splitlines()]
    inter.write_text("\n".join(lines) + "\n")
    with pytest.raises(SettingsError, match="--split: 'split' needs to be known"):
        settings().prepare(folder, tmp_path)


def test_moved_data_are_named(encoded, run, tmp_path):
    moved = tmp_path / "elsewhere" / "films"
    shutil.copytree(encoded, moved)
    shutil.copytree(run, tmp_path / "run")
    told = read_manifest(tmp_path / "run" / "run.json")
    told["data"] = str(tmp_path / "gone")
    write_manifest(tmp_path / "run" / "run.json", told)
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
    told = read_manifest(tmp_path / "run.json")
    told["settings"]["more"] = 1
    write_manifest(tmp_path / "run.json", told)
    with pytest.raises(CheckpointError, match=r"run.json is damaged or of another version"):
        load_run(tmp_path, None, "cpu")
