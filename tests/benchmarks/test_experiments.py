"""The experiments' scripts on a tiny data set: rows, columns, files, and what they rest on."""

import contextlib
import importlib
import io
import json

import pytest
import torch

from alignrec_pyg.evaluate import user_metrics
from alignrec_pyg.groups import long_tail_links
from benchmarks import tuned_comparison
from benchmarks.alignment_map import cosine_summary, joint_map
from benchmarks.cells import CellResult
from benchmarks.grids import SEARCH, points
from benchmarks.presets import PAPER
from benchmarks.provenance import Origin

QUICK = ["--epochs", "2", "--batch-size", "64", "--threads", "1", "--device", "cpu"]
METRICS = ["recall@10", "recall@20", "ndcg@10", "ndcg@20"]
SCRIPTS = [
    "ablation",
    "alignment_map",
    "beyond_accuracy",
    "compare",
    "feature_sets",
    "groups",
    "long_tail",
    "protocols",
    "sensitivity",
    "tuned_comparison",
    "without_modality",
    "worn_alignment",
]


def run(script, *arguments):
    """Exit status, standard output and standard error."""
    module = importlib.import_module(f"benchmarks.{script}")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = module.main([str(argument) for argument in (*arguments, *QUICK)])
    return status, out.getvalue(), err.getvalue()


def finished(script, folder, out, *arguments, seeds=1):
    """The results a script wrote, by the names of their rows; all models' cells are shared."""
    status, text, problems = run(
        script, "--data", folder, "--out", out, "--seeds", seeds, *arguments
    )
    assert status == 0, problems
    saved = json.loads((out / f"{script}.json").read_text())
    assert (out / f"{script}.png").read_bytes().startswith(b"\x89PNG")
    assert (out / f"{script}.md").read_text().startswith("# ")
    assert {row["name"] for row in saved["rows"]} <= set(text.replace("|", " ").split("  ")) | {
        line.split("  ")[0].strip() for line in text.splitlines()
    }
    return {row["name"]: row for row in saved["rows"]}, saved


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("experiments")


def test_all_models_run_and_each_is_compared(tiny_folder, out):
    rows, saved = finished("compare", tiny_folder, out, "--models", *PAPER)
    assert list(rows) == list(PAPER)
    assert saved["not_run"] == {}
    assert len(saved["comparisons"]) == len(PAPER) - 1
    assert saved["metrics"] == METRICS


def test_ablation_leaves_out_one_part_each(tiny_folder, out):
    rows, saved = finished("ablation", tiny_folder, out)
    paper_reg = "REG of the paper's equation"
    parts = ["AlignRec", "w/o CCA", "w/o UIA", "w/o REG", paper_reg, "w/o image", "w/o text"]
    assert list(rows) == parts
    hparams = {cell["row"]: cell["settings"]["hparams"] for cell in saved["cells"]}
    full = hparams.pop("AlignRec")
    changed = {
        row: {name: value for name, value in found.items() if value != full[name]}
        for row, found in hparams.items()
    }
    assert changed == {
        "w/o CCA": {"cca_weight": 0.0},
        "w/o UIA": {"uia_weight": 0.0},
        "w/o REG": {"reg_weight": 0.0},
        paper_reg: {"reg_similarity": "cosine", "reg_target": "frozen"},
        "w/o image": {"features": ["text"], "item_graph": "cosine+text"},
        "w/o text": {"features": ["image"], "item_graph": "cosine+image"},
    }
    assert {c["reference"] for c in saved["comparisons"]} == {"AlignRec"}


def test_alignment_is_worn_by_each_model(tiny_folder, out):
    rows, saved = finished("worn_alignment", tiny_folder, out, "--cca", "0.5")
    assert list(rows) == [
        name
        for model in ("ContentLightGCN", "VBPR", "MGCN")
        for name in (model, f"{model} + alignment")
    ]
    settings = {cell["row"]: cell["settings"] for cell in saved["cells"]}
    assert settings["MGCN"]["hparams"] == settings["MGCN + alignment"]["hparams"]
    assert settings["MGCN + alignment"]["alignment"]["cca_weight"] == 0.5
    assert [(c["reference"], c["other"]) for c in saved["comparisons"]] == [
        (f"{model} + alignment", model) for model in ("ContentLightGCN", "VBPR", "MGCN")
    ]
    assert rows["VBPR"]["mean"] != rows["VBPR + alignment"]["mean"]
    status, _, problems = run("worn_alignment", "--data", tiny_folder, "--models", "BPR")
    assert status == 2
    assert "BPR does not tell content from ID vectors" in problems


def test_feature_sets_are_swapped(tiny_folder, out):
    rows, saved = finished("feature_sets", tiny_folder, out)
    assert list(rows) == [
        f"{model} on {names}"
        for model in ("VBPR", "BM3", "FREEDOM")
        for names in ("image", "text", "image+text")
    ]
    hparams = {cell["row"]: cell["settings"]["hparams"] for cell in saved["cells"]}
    assert hparams["BM3 on text"]["freeze_features"] is True
    assert hparams["FREEDOM on text"]["freeze_features"] is False
    assert hparams["VBPR on image+text"]["features"] == ["image", "text"]
    peak = {cell["row"]: cell["peak_bytes"] + cell["content_bytes"] for cell in saved["cells"]}
    for row, found in rows.items():
        base = peak[f"{row.split(' on ')[0]} on image"]
        expected = 100 * (1 - peak[row] / base)
        assert found["mean"]["memory saved %"] == pytest.approx(expected)
    status, _, problems = run("feature_sets", "--data", tiny_folder, "--sets", "image+txt")
    assert status == 2
    assert "did you mean 'text'" in problems


def test_modalities_are_left_out(tiny_folder, out, tmp_path, write_folder):
    rows, saved = finished("without_modality", tiny_folder, out, "--models", "FREEDOM")
    assert list(rows) == ["FREEDOM", "FREEDOM w/o image", "FREEDOM w/o text"]
    hparams = {cell["row"]: cell["settings"]["hparams"] for cell in saved["cells"]}
    assert hparams["FREEDOM w/o image"]["features"] == ["text"]
    assert hparams["FREEDOM w/o image"]["item_graph"] == "binary+text"
    folder = write_folder(tmp_path / "one", features=("text",))
    status, _, problems = run("without_modality", "--data", folder)
    assert status == 2
    assert "needs two feature sets" in problems


def test_sensitivity_varies_one_weight_at_a_time(tiny_folder, out):
    rows, saved = finished("sensitivity", tiny_folder, out, "--values", "0.5", "0.01", seeds=2)
    assert list(rows) == [
        f"{symbol} = {value}" for symbol in ("alpha", "beta", "lambda") for value in ("0.01", "0.5")
    ]
    cells = {(cell["row"], cell["seed"]): cell for cell in saved["cells"]}
    assert cells["lambda = 0.5", 0]["settings"]["hparams"]["reg_weight"] == 0.5
    assert cells["lambda = 0.5", 0]["settings"]["hparams"]["cca_weight"] == 0.01
    # lambda's and beta's curves meet in the default point of alpha
    for row, found in rows.items():
        expected = sum(cells[row, seed]["val_metrics"]["recall@20"] for seed in (0, 1)) / 2
        assert found["mean"]["validation recall@20"] == pytest.approx(expected)


def test_long_tail_counts_the_links_of_rare_items_and_users(tiny_folder, out):
    from alignrec_pyg.graph import links_to_predict
    from benchmarks.cells import Cell, CellStore
    from benchmarks.prepare import prepare

    rows, saved = finished(
        "long_tail", tiny_folder, out, "--models", "BPR", "LightGCN", "--below", "7"
    )
    assert list(rows) == ["BPR", "LightGCN"]
    data = prepare(str(tiny_folder))
    links = links_to_predict(data.test)
    rare = long_tail_links(data.train, links, below=7)
    assert 0 < rare.size(1) < links.size(1)
    (stored,) = (cell for cell in saved["cells"] if cell["row"] == "BPR")
    settings = stored["settings"]
    config = PAPER["BPR"].with_train(max_epochs=2, batch_size=64).train
    cell = Cell(row="BPR", model=PAPER["BPR"].model, hparams=settings["hparams"], config=config)
    ranking = CellStore(out / "cells").load(cell, stored["key"]).rankings["test"]
    expected = user_metrics(ranking, rare, 20).recall.mean().item()
    assert rows["BPR"]["mean"]["recall@20, items < 7"] == pytest.approx(expected)
    assert "recall@20, users < 7" in rows["BPR"]["mean"]  # every user has six train links
    status, _, problems = run("long_tail", "--data", tiny_folder, "--below", "1")
    assert status == 2
    assert "no test link" in problems


def test_long_tail_and_others_train_nothing_anew(tiny_folder, out, monkeypatch):
    from benchmarks import runner

    run("compare", "--data", tiny_folder, "--out", out, "--seeds", 1)
    monkeypatch.setattr(runner, "fit", lambda *_, **__: pytest.fail("something was trained"))
    for script in ("long_tail", "groups", "beyond_accuracy"):
        arguments = ["--below", "7"] if script == "long_tail" else []
        status, _, problems = run(
            script, "--data", tiny_folder, "--out", out, "--seeds", 1, *arguments
        )
        assert status == 0, problems


def test_groups_hold_all_users_and_links(tiny_folder, out):
    rows, saved = finished("groups", tiny_folder, out, "--models", "BPR", "AlignRec")
    columns = list(rows["BPR"]["mean"])
    assert columns[0] == "users 6-6"  # every user has six train links: one group
    assert columns[1:] == ["items: head", "items: middle", "items: tail"]
    notes = "\n".join(saved["notes"])
    assert "users 6-6: 24 users" in notes
    assert rows["BPR"]["mean"]["users 6-6"] == pytest.approx(
        next(c for c in saved["cells"] if c["row"] == "BPR")["metrics"]["recall@20"]
    )


def test_beyond_accuracy_has_a_diversity_for_each_table(tiny_folder, out):
    rows, _ = finished("beyond_accuracy", tiny_folder, out, "--models", "BPR", "--k", "5")
    values = rows["BPR"]["mean"]
    assert next(iter(values)) == "recall@5"
    assert {"coverage", "Gini", "novelty (bits)", "diversity (image)", "diversity (text)"} <= set(
        values
    )
    assert 0 < values["coverage"] <= 1
    status, _, problems = run("beyond_accuracy", "--data", tiny_folder, "--k", "51")
    assert status == 2
    assert "--k 51: needs to be 50 or less" in problems


def test_protocols_say_what_they_cannot_do(tiny_folder, out):
    rows, saved = finished("protocols", tiny_folder, out, "--models", "LightGCN")
    assert list(rows) == ["LightGCN, labels", "LightGCN, random"]
    assert list(rows["LightGCN, random"]["mean"]) == [
        "recall@20",
        "ndcg@20",
        "recall@20, validation known",
        "ndcg@20, validation known",
    ]
    notes = "\n".join(saved["notes"])
    assert "no leave_last_out split" in notes
    assert "no global_time split" in notes


def test_alignment_map_of_two_models(tiny_folder, out):
    arguments = ("--data", tiny_folder, "--out", out)
    status, text, problems = run("alignment_map", *arguments)
    assert status == 0, problems
    saved = json.loads((out / "alignment_map.json").read_text())["cosine"]
    assert list(saved) == ["VBPR", "AlignRec"]
    assert f"| AlignRec | {saved['AlignRec']['mean']:.4f} |" in text
    assert (out / "alignment_map.png").read_bytes().startswith(b"\x89PNG")
    again = run("alignment_map", *arguments)[0]
    assert again == 0
    assert json.loads((out / "alignment_map.json").read_text())["cosine"] == saved


def test_cosines_are_of_paired_rows():
    content = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [3.0, 0.0]])
    ids = torch.tensor([[2.0, 0.0], [0.0, -1.0], [1.0, -1.0], [0.6, 0.8]])
    found = cosine_summary(content, ids)
    assert found["mean"] == pytest.approx((1 - 1 + 0 + 0.6) / 4)
    assert found["median"] == pytest.approx(0.3)


def test_map_is_of_a_sample_and_always_the_same():
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randn(40, 8, generator=generator) for _ in range(2)]
    content, ids = joint_map(*pair, sample=15)
    assert content.shape == ids.shape == (15, 2)
    assert (joint_map(*pair, sample=15)[0] == content).all()


def test_tuned_comparison_runs_the_chosen_settings_with_all_seeds(tiny_folder, out):
    rows, saved = finished(
        "tuned_comparison",
        tiny_folder,
        out,
        *("--models", "BPR", "LightGCN", "--with-test-selected"),
        seeds=2,
    )
    assert list(rows) == ["BPR", "LightGCN"]
    assert all(row["seeds"] == [0, 1] for row in rows.values())
    assert list(rows["BPR"]["mean"])[-1] == tuned_comparison.TEST_SELECTED
    assert "an optimistic figure" in "\n".join(saved["notes"])
    lr = {cell["settings"]["config"]["lr"] for cell in saved["cells"] if cell["row"] == "BPR"}
    assert len(lr) == 1
    assert lr <= set(SEARCH["BPR"]["lr"])


def trial(row, val, test):
    return CellResult(
        row=row,
        model="BPR",
        seed=0,
        key="",
        settings={},
        metrics={"recall@20": test},
        val_metrics={"recall@20": val},
        best_epoch=1,
        num_epochs=1,
        stopped_early=True,
        seconds=0,
        peak_bytes=None,
        content_bytes=0,
        num_parameters=0,
        rankings={},
        origin=Origin(commit=None, hardware="", versions={}),
    )


def test_settings_are_chosen_on_validation():
    found = points(PAPER["BPR"], SEARCH["BPR"])
    results = [
        trial("BPR, point 1", 0.1, 0.9),  # best on test
        trial("BPR, point 2", 0.3, 0.2),
        trial("BPR, point 4", 0.3, 0.5),  # as good on validation, but later
    ]
    chosen, best_on_test = tuned_comparison.choose({"BPR": found, "VBPR": found}, results)
    assert chosen == {"BPR": found[1]}
    assert best_on_test == {"BPR": 0.9}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_is_asked(script, capsys):
    module = importlib.import_module(f"benchmarks.{script}")
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    text = capsys.readouterr().out
    assert f"python benchmarks/{script}.py" in text
    assert "--neighbors" in text
