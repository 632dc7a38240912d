"""The cold-item table against rankings made here, with models trained the same way."""

import json

import pytest
import torch

from alignrec_pyg import FREEDOM, user_metrics
from alignrec_pyg.evaluation.ranking import rank
from alignrec_pyg.experiments.prepare import prepare
from alignrec_pyg.experiments.settings import default_settings
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.serving import add_items
from alignrec_pyg.training.loop import fit
from alignrec_pyg.transforms import HoldOutItems

COLD = "held-out items only"


@pytest.fixture(scope="module")
def finished(run_script, tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("cold")
    status, text, problems = run_script(
        "cold_items",
        "--data",
        tiny_folder,
        "--out",
        out,
        "--seeds",
        1,
        "--held-out",
        "0.3",
        "--split",
        "random",
    )
    assert status == 0, problems
    saved = json.loads((out / "cold_items.json").read_text())
    return {row["name"]: row["mean"] for row in saved["rows"]}, saved, text, out


def test_rows_and_columns(finished):
    rows, saved, *_ = finished
    models = [f"{name}{ids}" for name in ("AlignRec", "VBPR", "FREEDOM") for ids in ("", IDS)]
    assert sorted(rows) == sorted([*models, "popularity", "content"])
    columns = list(rows["VBPR"])
    assert columns[:3] == [f"recall@20, {COLD}", f"ndcg@20, {COLD}", "recall@20, 0 train links"]
    assert "held out: 9 items of 30 (share 0.3 of those with links, seed 0)" in saved["notes"][0]
    assert all(0 <= value <= 1 for row in rows.values() for value in row.values())
    assert "Holm" in json.dumps(saved["comparisons"])


IDS = ", IDs of neighbours"


def test_values_are_those_of_a_model_trained_here(finished, tiny_folder):
    rows, *_ = finished
    data = prepare(str(tiny_folder), split="random", held_out=HoldOutItems(0.3, seed=0))
    settings = default_settings(FREEDOM, data.train).with_changes(max_epochs=2, batch_size=64)
    torch.manual_seed(0)
    model = settings.model(data.train, **settings.hparams, **data.inputs(settings.model))
    fit(model, data.train, data.val, settings.config)
    (graph,) = data.graph_transforms.values()
    warm = data.train["item"].num_nodes
    user, item = data.cold[INTERACTS].edge_index
    trained = torch.isin(user, data.train[INTERACTS].edge_index[0])
    links = torch.stack([user, item + warm])[:, trained]
    for name, id_vectors in (("FREEDOM", "none"), (f"FREEDOM{IDS}", "neighbors")):
        served, larger = add_items(
            model, data.test, data.cold, item_graphs=[graph], id_vectors=id_vectors
        )
        assert larger["item"].num_nodes == 30
        users = links[0].unique()
        alone = rank(served, larger, 20, users, items=torch.arange(warm, 30))
        among_all = rank(served, larger, 20, users)
        for column, ranking in ((COLD, alone), ("0 train links", among_all)):
            expected = user_metrics(ranking, links, 20).recall.double().mean().item()
            assert rows[name][f"recall@20, {column}"] == pytest.approx(expected)
    degree = torch.bincount(data.train[INTERACTS].edge_index[1], minlength=warm)
    label = data.test[INTERACTS].edge_label_index
    some = label[:, (degree[label[1]] >= 1) & (degree[label[1]] <= 4)]
    ranking = rank(served, larger, 50, some[0].unique())
    expected = user_metrics(ranking, some, 20).recall.double().mean().item()
    assert rows[f"FREEDOM{IDS}"]["recall@20, 1-4 train links"] == pytest.approx(expected)


def test_cells_are_stored_and_follow_the_draw(finished, tiny_folder, run_script):
    *_, out = finished
    cells = sorted((out / "cells").glob("*.json"))
    arguments = ("--data", tiny_folder, "--out", out, "--seeds", 1, "--held-out", "0.3")
    arguments += ("--split", "random")
    assert run_script("cold_items", *arguments)[0] == 0
    assert sorted((out / "cells").glob("*.json")) == cells
    assert run_script("cold_items", *arguments, "--models", "VBPR", "--item-seed", "1")[0] == 0
    assert len(list((out / "cells").glob("*.json"))) == len(cells) + 1


def test_what_cannot_run_is_told(tiny_folder, run_script, tmp_path):
    arguments = ("--data", tiny_folder, "--out", tmp_path)
    for more, message in (
        (("--models", "VBPR", "BPR", "BM3"), "--models BPR: has only ID vectors"),
        (("--item-seed", "-1"), "needs to be a whole number of 0 or more (got '-1')"),
        (("--neighbors", "x=y.npz"), "--neighbors"),
    ):
        status, _, problems = run_script("cold_items", *arguments, *more)
        assert status == 2
        assert message in problems
