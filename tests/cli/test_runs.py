import shutil

import numpy as np
import pytest
import torch

from alignrec_pyg import AlignRec, CheckpointError
from alignrec_pyg.cli import main
from alignrec_pyg.cli.runs import Settings, load_run
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.graph import INTERACTS, feature_table
from alignrec_pyg.storage import read_manifest, write_manifest

VERSION = 3


def change(run, **changes):
    told = read_manifest(run / "run.json", version=VERSION)
    write_manifest(run / "run.json", {**told, **changes}, version=VERSION)


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


def other_rows(folder, name, by):
    table = np.load(folder / f"{name}.npy")
    np.save(folder / f"{name}.npy", table * (1 + by * (-1) ** np.arange(table.shape[1])))


def test_data_made_again_may_differ_by_rounding(encoded, run, tmp_path):
    moved = shutil.copytree(encoded, tmp_path / encoded.name)
    was = load_run(run, None, "cpu")
    other_rows(moved, "tfidf", 1e-5)  # as another number of threads gives it
    with pytest.warns(UserWarning, match="differ by rounding.*features 'patch_pca.tfidf'"):
        now = load_run(run, moved, "cpu")
    for name, value in was.model.state_dict().items():
        assert now.model.state_dict()[name].equal(value)
    other_rows(moved, "tfidf", 0.1)
    with pytest.raises(CheckpointError, match=r"with other features .* of .*films .*: name the"):
        load_run(run, moved, "cpu")


def test_only_the_tables_that_a_model_reads_matter(encoded, train_command, tmp_path):
    folder = shutil.copytree(encoded, tmp_path / encoded.name)
    out = tmp_path / "run"
    command = ["train", str(folder), *train_command(out)[2:], "--epochs", "1"]
    assert main([*command, "--features", "tfidf"]) == 0
    other_rows(folder, "patch_pca", 0.1)
    load_run(out, None, "cpu")
    inter = folder / f"{folder.name}.inter"
    first, second, *rest = inter.read_text().splitlines()
    assert second.endswith("\t0")
    inter.write_text("\n".join([first, second[:-1] + "2", *rest]) + "\n")
    with pytest.raises(CheckpointError, match="is not what .* was trained on .split"):
        load_run(out, None, "cpu")


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
    change(tmp_path / "run", data=str(tmp_path / "gone"))
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
    copied = shutil.copytree(run, tmp_path / "run")
    stored = read_manifest(run / "run.json", version=VERSION)["settings"]
    change(copied, settings={**stored, "more": 1})
    with pytest.raises(CheckpointError, match=r"run.json holds something else .*'more'"):
        load_run(copied, None, "cpu")


def test_a_run_from_before_an_option_is_read(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    stored = read_manifest(run / "run.json", version=VERSION)["settings"]
    del stored["neighbor_recall"]
    change(copied, settings=stored)
    assert load_run(copied, None, "cpu").settings.neighbor_recall is None
    del stored["neighbors"]
    change(copied, settings=stored)
    with pytest.raises(CheckpointError, match="run.json holds something else"):
        load_run(copied, None, "cpu")


def test_a_run_of_another_version_is_refused_by_it(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    told = read_manifest(copied / "run.json", version=VERSION)
    write_manifest(copied / "run.json", told, version=VERSION - 1)
    with pytest.raises(CheckpointError, match=r"run.json is of format 2, .* reads format 3"):
        load_run(copied, None, "cpu")


def test_the_model_of_another_run_is_told(run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    other = load_run(copied, None, "cpu").model
    with torch.no_grad():
        other.user_embedding.weight.zero_()
    other.save_pretrained(copied / "model")
    with pytest.raises(CheckpointError, match=r"model does not hold the model that .*run\.json"):
        load_run(copied, None, "cpu")
    config = copied / "model" / "config.json"
    config.write_text(config.read_text().replace('"num_users": 40', '"num_users": 41'))
    with pytest.raises(CheckpointError, match=r"config\.json is damaged or was edited"):
        load_run(copied, None, "cpu")
