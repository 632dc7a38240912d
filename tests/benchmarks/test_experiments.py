"""The experiments' scripts on tiny data sets: rows, columns, and values found another way.

The expected values come from the cells' stored rankings by slow code that follows the definitions,
or from training the same model here.
"""

import json
import math
from collections import Counter
from itertools import combinations, product
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
import pytest
import torch

from alignrec_pyg import models
from alignrec_pyg.evaluation.metrics import evaluate
from alignrec_pyg.evaluation.ranking import rank
from alignrec_pyg.experiments import cells, charts
from alignrec_pyg.experiments.cells import Cell
from alignrec_pyg.experiments.prepare import prepare
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.experiments.settings import (
    SEARCH_GRIDS,
    default_settings,
    load_model,
    published_settings,
)
from alignrec_pyg.experiments.statistics import Measurement
from alignrec_pyg.experiments.store import CellResult, CellStore
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.train_config import CompleteTrainConfig
from alignrec_pyg.training.loop import fit
from benchmarks import alignment_map, feature_sets, tuned_comparison
from benchmarks.alignment_map import cosine_summary, joint_map
from benchmarks.sampled_neighbors import links_read

METRICS = ["recall@10", "recall@20", "ndcg@10", "ndcg@20"]
KNOWN = "validation known"


class Finished(NamedTuple):
    """What a script wrote, by the names of the rows, and the cells behind it by row and seed."""

    rows: dict
    saved: dict
    cells: dict


def stored_cells(summaries, out):
    """The cells with their rankings, by row and seed."""
    found = {}
    for told in summaries:
        settings = told["settings"]
        config = settings["config"]
        cell = Cell(
            row=told["row"],
            model=getattr(models, settings["model"]),
            hparams=settings["hparams"],
            config=CompleteTrainConfig(**{**config, "ks": tuple(config["ks"])}),
            alignment=settings.get("alignment"),
        )
        found[told["row"], told["seed"]] = CellStore(out / "cells").load(cell, told["key"])
    return found


@pytest.fixture(scope="module")
def finished(run_script, tmp_path_factory):
    """Runs a script whose cells all succeed; scripts share the cells of a data set."""
    root = tmp_path_factory.mktemp("experiments")

    def run(script, folder, *arguments, seeds=1, out=None):
        out = out or root / folder.name
        status, text, problems = run_script(
            script, "--data", folder, "--out", out, "--seeds", seeds, *arguments
        )
        assert status == 0, problems
        saved = json.loads((out / f"{script}.json").read_text())
        assert (out / f"{script}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{script}.md").read_text().startswith("# ")
        printed = [line.split("  ")[0].strip() for line in text.splitlines()]
        assert {row["name"] for row in saved["rows"]} <= set(printed)
        rows = {row["name"]: row for row in saved["rows"]}
        return Finished(rows, saved, stored_cells(saved["cells"], out))

    return run


def links_at_test(folder, split="labels"):
    return prepare(str(folder), split=split).test[INTERACTS].edge_label_index


def train_degrees(data):
    """Train links of every user, and of every item."""
    users, items = data.train[INTERACTS].edge_index.tolist()
    return Counter(users), Counter(items)


def slow_metrics(ranking, links, k=20):
    """Mean recall@k and ndcg@k of the users with links, by the definitions."""
    lists = dict(zip(ranking.user.tolist(), ranking.item[:, :k].tolist(), strict=True))
    wanted = {}
    for user, item in torch.as_tensor(links).t().tolist():
        wanted.setdefault(user, set()).add(item)
    recall, ndcg = [], []
    for user, items in wanted.items():
        places = [place for place, item in enumerate(lists[user], start=2) if item in items]
        ideal = sum(1 / math.log2(place) for place in range(2, 2 + min(k, len(items))))
        recall.append(len(places) / len(items))
        ndcg.append(sum(1 / math.log2(place) for place in places) / ideal)
    return fmean(recall), fmean(ndcg)


def assert_test_metrics(done, links):
    """The rows hold the means over seeds of the test metrics of the stored rankings."""
    for name, row in done.rows.items():
        rankings = [done.cells[name, seed].rankings["test"] for seed in row["seeds"]]
        for k in (10, 20):
            recall, ndcg = zip(*(slow_metrics(r, links, k) for r in rankings), strict=True)
            assert row["mean"][f"recall@{k}"] == pytest.approx(fmean(recall)), name
            assert row["mean"][f"ndcg@{k}"] == pytest.approx(fmean(ndcg)), name


def hparams_of(done):
    return {row: cell.settings["hparams"] for (row, _), cell in done.cells.items()}


def trained(folder, name):
    """A model trained with seed 0 as the scripts do, and its data."""
    data = prepare(str(folder))
    settings = default_settings(load_model(name), data.train)
    settings = settings.with_changes(max_epochs=2, batch_size=64)
    torch.manual_seed(0)
    model = settings.model(data.train, **settings.hparams, **data.inputs(settings.model))
    fit(model, data.train, data.val, settings.config)
    return model, data


def test_all_models_run_and_each_is_compared(tiny_folder, finished):
    done = finished("compare", tiny_folder, "--models", "all")
    assert set(done.rows) == set(models.model_names())
    assert done.saved["not_run"] == {}
    assert len(done.saved["comparisons"]) == len(models.model_names()) - 1
    assert done.saved["metrics"] == METRICS
    assert_test_metrics(done, links_at_test(tiny_folder))


def test_a_cell_is_what_training_and_ranking_give(tiny_folder, finished):
    done = finished("compare", tiny_folder, "--models", "BPR", "FREEDOM")
    for name in ("BPR", "FREEDOM"):
        model, data = trained(tiny_folder, name)
        cell = done.cells[name, 0]
        assert torch.equal(rank(model, data.test, 50).item, cell.rankings["test"].item)
        scores = evaluate(model, data.test)
        assert cell.metrics == pytest.approx({metric: scores[metric] for metric in METRICS})
        assert cell.val_metrics["recall@20"] == evaluate(model, data.val)["recall@20"]


def test_a_model_with_alignment_stands_beside_itself(tiny_folder, finished):
    done = finished("compare", tiny_folder, "--models", "BPR", "MGCN", "--aligned", "MGCN")
    assert set(done.rows) == {"BPR", "MGCN", "MGCN + alignment"}
    assert "alignment" not in done.cells["MGCN", 0].settings
    alignrec = published_settings(models.AlignRec, "").hparams
    worn = done.cells["MGCN + alignment", 0]
    assert worn.model == "AlignedMGCN"
    assert worn.settings["alignment"] == {
        "features": ["image", "text"],
        **{f"{name}_weight": alignrec[f"{name}_weight"] for name in ("cca", "uia", "reg")},
    }
    assert_test_metrics(done, links_at_test(tiny_folder))


def test_ablation_leaves_out_one_part_each(timed_folder, finished):
    done = finished("ablation", timed_folder)
    paper_reg = "REG of the paper's equation"
    hparams = hparams_of(done)
    full = hparams["AlignRec"]
    changed = {
        row: {name: value for name, value in found.items() if value != full[name]}
        for row, found in hparams.items()
    }
    assert changed == {
        "AlignRec": {},
        "w/o CCA": {"cca_weight": 0.0},
        "w/o UIA": {"uia_weight": 0.0},
        "w/o REG": {"reg_weight": 0.0},
        paper_reg: {"reg_similarity": "cosine", "reg_target": "frozen"},
        "w/o audio": {"features": ["image+text"], "item_graph": "cosine+image+text"},
        "w/o image": {"features": ["audio+text"], "item_graph": "cosine+audio+text"},
        "w/o text": {"features": ["audio+image"], "item_graph": "cosine+audio+image"},
    }
    assert list(done.rows) == list(changed)
    assert {c["reference"] for c in done.saved["comparisons"]} == {"AlignRec"}
    assert_test_metrics(done, links_at_test(timed_folder))


def test_alignment_is_worn_by_each_model(tiny_folder, finished, run_script):
    done = finished(
        "baseline_alignment", tiny_folder, "--cca", "0.5", "--uia", "0.3", "--reg", "0.2"
    )
    alignable = ("ContentLightGCN", "VBPR", "MGCN")
    assert list(done.rows) == [
        name for model in alignable for name in (model, f"{model} + alignment")
    ]
    for comparison, model in zip(done.saved["comparisons"], alignable, strict=True):
        alone, worn = done.cells[model, 0], done.cells[f"{model} + alignment", 0]
        assert alone.settings["hparams"] == worn.settings["hparams"]
        assert worn.settings["alignment"] == {
            "features": ["image", "text"],
            "cca_weight": 0.5,
            "uia_weight": 0.3,
            "reg_weight": 0.2,
        }
        assert (comparison["reference"], comparison["other"]) == (f"{model} + alignment", model)
        gain = worn.metrics["recall@20"] - alone.metrics["recall@20"]
        assert comparison["difference"]["mean"] == pytest.approx(gain)
    assert done.rows["VBPR"]["mean"] != done.rows["VBPR + alignment"]["mean"]
    assert_test_metrics(done, links_at_test(tiny_folder))
    status, _, problems = run_script("baseline_alignment", "--data", tiny_folder, "--models", "BPR")
    assert status == 2
    assert "BPR has no separate content and ID vectors" in problems


def test_feature_sets_are_swapped(tiny_folder, finished, run_script):
    done = finished("feature_sets", tiny_folder)
    assert list(done.rows) == [
        f"{model} on {names}"
        for model in ("VBPR", "BM3", "FREEDOM")
        for names in ("image", "text", "image+text")
    ]
    hparams = hparams_of(done)
    assert hparams["BM3 on text"]["freeze_features"] is True
    assert hparams["FREEDOM on text"]["freeze_features"] is None
    assert hparams["VBPR on image+text"]["features"] == ["image", "text"]
    memory = {row: cell.peak_bytes + cell.content_bytes for (row, _), cell in done.cells.items()}
    for row, found in done.rows.items():
        base = memory[f"{row.split(' on ')[0]} on image"]
        expected = 100 * (1 - memory[row] / base)
        assert found["mean"]["memory saved %"] == pytest.approx(expected)
    assert_test_metrics(done, links_at_test(tiny_folder))
    status, _, problems = run_script("feature_sets", "--data", tiny_folder, "--sets", "image+txt")
    assert status == 2
    assert "did you mean 'text'" in problems


def test_sampled_neighbourhoods_are_compared_with_whole_ones(tiny_folder, finished, run_script):
    done = finished(
        "sampled_neighbors", tiny_folder, "--models", "LightGCN", "--fan-out", "2", "1", "-1"
    )
    assert list(done.rows) == ["LightGCN", "LightGCN sampled"]
    fan_outs = [done.cells[row, 0].settings["config"]["fan_out"] for row in done.rows]
    assert fan_outs == [None, [2, 1, -1]]
    (comparison,) = done.saved["comparisons"]
    exact = done.rows["LightGCN"]["mean"]["recall@20"]
    low, high = (100 * comparison["difference"][end] / exact for end in ("low", "high"))
    note = next(note for note in done.saved["notes"] if note.startswith("LightGCN sampled: "))
    assert f"({low:+.1f} % to {high:+.1f} %, 95 % interval); links read " in note
    assert_test_metrics(done, links_at_test(tiny_folder))
    status, _, problems = run_script("sampled_neighbors", "--data", tiny_folder)
    assert status == 2
    assert "--fan-out: is needed" in problems


def test_the_share_of_links_that_is_read_counts_the_entries_drawn(tiny_folder):
    data = prepare(str(tiny_folder), split="labels")
    num_links = data.train[INTERACTS].edge_index.size(1)
    whole = published_settings(models.LightGCN, "").with_changes(num_layers=1, batch_size=10**6)
    # A batch of all links reads each entry in both directions, but for nodes of no training link.
    assert links_read(data.train, whole.with_changes(fan_out=(-1,))) == 1
    ends = torch.cat([end.unique() for end in data.train[INTERACTS].edge_index]).numel()
    one = links_read(data.train, whole.with_changes(fan_out=(1,)))
    assert one == pytest.approx(ends / (2 * num_links))


def test_a_feature_set_named_twice_is_one_row(tiny_folder, finished):
    done = finished("feature_sets", tiny_folder, "--models", "VBPR", "--sets", "image", "image")
    assert [(row["name"], row["seeds"]) for row in done.saved["rows"]] == [("VBPR on image", [0])]
    assert len(done.saved["cells"]) == 1
    assert done.saved["comparisons"] == []


def test_memory_is_compared_with_the_first_set_of_the_same_seed():
    first = {"A": "A", "B": "A", "C": "C"}
    found = {
        ("A", 0): result("A", seed=0, peak=70, content=30),
        ("A", 1): result("A", seed=1, peak=150, content=50),
        ("B", 0): result("B", seed=0, peak=20, content=5),
        ("B", 1): result("B", seed=1, peak=110, content=40),
        ("B", 2): result("B", seed=2, peak=110, content=40),  # the first set's cell failed
        ("C", 0): result("C", seed=0, peak=1, content=1),
        ("C", 1): result("C", seed=1, peak=None, content=1),
    }

    def plain(cell):
        return Measurement({"recall@20": 0.25}, torch.arange(1), torch.ones(1))

    measure = feature_sets.with_memory(plain, list(found.values()), first)
    saved = {key: measure(cell).values[feature_sets.SAVED] for key, cell in found.items()}
    expected = [0, 0, 75, 25, math.nan, 0, math.nan]
    assert list(saved.values()) == pytest.approx(expected, nan_ok=True)
    assert measure(found["A", 0]).values["recall@20"] == 0.25


def test_memory_is_unknown_where_the_first_set_failed(
    tiny_folder, tmp_path, run_script, monkeypatch
):
    original = cells.fit

    def failing(model, *parts, **arguments):
        if model.features == ["image"]:
            raise FloatingPointError("the loss is not finite in epoch 0")
        return original(model, *parts, **arguments)

    monkeypatch.setattr(cells, "fit", failing)
    status, text, _ = run_script(
        *("feature_sets", "--data", tiny_folder, "--out", tmp_path),
        *("--models", "VBPR", "--seeds", 1),
    )
    assert status == 1
    assert "Not run: VBPR on image seed 0: the loss is not finite" in text
    saved = json.loads((tmp_path / "feature_sets.json").read_text())
    assert [row["name"] for row in saved["rows"]] == ["VBPR on text", "VBPR on image+text"]
    assert [row["mean"]["memory saved %"] for row in saved["rows"]] == [None, None]


def test_modalities_are_left_out(timed_folder, finished):
    done = finished("without_modality", timed_folder, "--models", "FREEDOM")
    parts = {
        row: (found["features"], found["item_graph"]) for row, found in hparams_of(done).items()
    }
    assert parts == {
        "FREEDOM": (["audio", "image", "text"], "binary+audio+image+text"),
        "FREEDOM w/o audio": (["image", "text"], "binary+image+text"),
        "FREEDOM w/o image": (["audio", "text"], "binary+audio+text"),
        "FREEDOM w/o text": (["audio", "image"], "binary+audio+image"),
    }
    assert list(done.rows) == list(parts)
    assert_test_metrics(done, links_at_test(timed_folder))


def test_sensitivity_varies_one_weight_at_a_time(tiny_folder, finished, monkeypatch):
    drawn = {}
    original = charts.write_curves

    def write_curves(path, title, panels, label):
        drawn.update(panels)
        original(path, title, panels, label)

    monkeypatch.setattr(charts, "write_curves", write_curves)
    done = finished("sensitivity", tiny_folder, "--values", "0.5", "0.01", seeds=2)
    weights = {"alpha": "cca_weight", "beta": "uia_weight", "lambda": "reg_weight"}
    values = (0.01, 0.5)
    assert list(done.rows) == [f"{symbol} = {value}" for symbol, value in product(weights, values)]
    usual = {
        name: published_settings(models.AlignRec, "").hparams[name] for name in weights.values()
    }
    assert list(drawn) == [f"{symbol} ({name})" for symbol, name in weights.items()]
    different = False
    for symbol, name in weights.items():
        panel = drawn[f"{symbol} ({name})"]
        for place, value in enumerate(values):
            row = f"{symbol} = {value}"
            cells = [done.cells[row, seed] for seed in (0, 1)]
            for cell in cells:
                assert {n: cell.settings["hparams"][n] for n in usual} == {**usual, name: value}
            test = [cell.metrics["recall@20"] for cell in cells]
            validation = [cell.val_metrics["recall@20"] for cell in cells]
            mean = done.rows[row]["mean"]
            assert mean["validation recall@20"] == pytest.approx(fmean(validation))
            for curve, seen in ((panel["test"], test), (panel["validation"], validation)):
                assert curve.x[place] == value
                assert curve.mean[place] == pytest.approx(fmean(seen))
                assert curve.std[place] == pytest.approx(stdev(seen))
            different |= fmean(test) != fmean(validation)
    assert different
    assert_test_metrics(done, links_at_test(tiny_folder))


def test_long_tail_counts_the_links_of_rare_items_and_users(timed_folder, finished, run_script):
    done = finished(
        *("long_tail", timed_folder, "--split", "global_time", "--below", "6"),
        *("--models", "BPR", "LightGCN"),
    )
    data = prepare(str(timed_folder), split="global_time")
    links = links_at_test(timed_folder, "global_time")
    tails = {}
    for end, (of, degree) in enumerate(zip(("user", "item"), train_degrees(data), strict=True)):
        rare = [link for link in links.t().tolist() if degree[link[end]] < 6]
        tails[of] = torch.tensor(rare).t()
        assert 0 < len(rare) < links.size(1)
    assert {tuple(link) for link in tails["item"].t().tolist()} != {
        tuple(link) for link in tails["user"].t().tolist()
    }
    for name in ("BPR", "LightGCN"):
        expected = {}
        for of, tail in tails.items():
            recall, ndcg = slow_metrics(done.cells[name, 0].rankings["test"], tail)
            expected |= {f"recall@20, {of}s < 6": recall, f"ndcg@20, {of}s < 6": ndcg}
        assert done.rows[name]["mean"] == pytest.approx(expected)
    status, _, problems = run_script("long_tail", "--data", timed_folder, "--below", "1")
    assert status == 2
    assert "no test link" in problems


def test_long_tail_and_others_train_nothing_anew(tiny_folder, finished, monkeypatch):
    finished("compare", tiny_folder)
    monkeypatch.setattr(cells, "fit", lambda *_, **__: pytest.fail("something was trained"))
    finished("long_tail", tiny_folder, "--below", "7")
    finished("groups", tiny_folder)
    finished("beyond_accuracy", tiny_folder)


def test_groups_are_of_users_by_activity_and_links_by_popularity(timed_folder, finished):
    done = finished(
        *("groups", timed_folder, "--split", "global_time", "--num-groups", "2"),
        *("--models", "BPR", "LightGCN"),
    )
    data = prepare(str(timed_folder), split="global_time")
    links = links_at_test(timed_folder, "global_time").t().tolist()
    of_user, of_item = train_degrees(data)
    degrees = sorted(of_user[user] for user in {user for user, _ in links})
    middle = degrees[math.ceil(len(degrees) / 2) - 1]
    members = {
        f"users {degrees[0]}-{middle}": [link for link in links if of_user[link[0]] <= middle],
        f"users {middle + 1}-{degrees[-1]}": [link for link in links if of_user[link[0]] > middle],
    }
    total = sum(of_item.values())
    for user, item in links:
        before = sum(count for count in of_item.values() if count > of_item[item]) / total
        place = "head" if before < 0.2 else "middle" if before < 0.8 else "tail"
        members.setdefault(f"items: {place}", []).append([user, item])
    assert len(members) == 5
    for name in ("BPR", "LightGCN"):
        ranking = done.cells[name, 0].rankings["test"]
        expected = {
            group: slow_metrics(ranking, torch.tensor(inside).t())[0]
            for group, inside in members.items()
        }
        assert done.rows[name]["mean"] == pytest.approx(expected)
    notes = "\n".join(done.saved["notes"])
    for group, inside in members.items():
        users = len({user for user, _ in inside})
        if group.startswith("users"):
            assert f"{group}: {users} users" in notes
        else:
            told = next(line for line in done.saved["notes"] if line.startswith(group))
            assert told.endswith(f"{len(inside)} test links of {users} users")


def test_beyond_accuracy_follows_the_definitions(tiny_folder, finished, run_script):
    done = finished("beyond_accuracy", tiny_folder, "--models", "BPR", "LightGCN", "--k", "5")
    data = prepare(str(tiny_folder))
    links = links_at_test(tiny_folder)
    _, degree = train_degrees(data)
    num_users, num_items = 24, 30
    tables = {
        name: np.load(tiny_folder / f"{name}.npy").astype(float) for name in ("image", "text")
    }

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    for name in ("BPR", "LightGCN"):
        ranking = done.cells[name, 0].rankings["test"]
        lists = ranking.item[:, :5].tolist()
        count = Counter(item for items in lists for item in items)
        often = sorted(count[item] for item in range(num_items))
        spread = sum((2 * j - num_items - 1) * f for j, f in enumerate(often, start=1))
        entries = [item for items in lists for item in items]  # all lists have five
        expected = {
            "recall@5": slow_metrics(ranking, links, 5)[0],
            "coverage": len(count) / num_items,
            "Gini": spread / (num_items * len(entries)),
            "average popularity": fmean(degree[item] for item in entries),
            "long-tail share": fmean(degree[item] < 4 for item in entries),
            "novelty (bits)": fmean(-math.log2(max(degree[i], 1) / num_users) for i in entries),
            "personalization": fmean(1 - len({*a} & {*b}) / 5 for a, b in combinations(lists, 2)),
        }
        for feature, table in tables.items():
            pairs = (pair for items in lists for pair in combinations(items, 2))
            diversity = fmean(1 - cosine(table[a], table[b]) for a, b in pairs)
            expected[f"diversity ({feature})"] = diversity
        assert list(done.rows[name]["mean"]) == list(expected)
        assert done.rows[name]["mean"] == pytest.approx(expected, rel=1e-5)
    status, _, problems = run_script("beyond_accuracy", "--data", tiny_folder, "--k", "51")
    assert status == 2
    assert "--k 51: needs to be 50 or less" in problems


def test_protocols_run_all_splits(timed_folder, finished):
    done = finished("protocols", timed_folder, "--models", "LightGCN")
    file = np.loadtxt(timed_folder / "timed.inter", skiprows=1, dtype=int)
    user, item, time, label = file.T
    at_test = {
        "labels": np.stack([user, item])[:, label == 2],
        "random": links_at_test(timed_folder, "random"),
        "leave_last_out": np.array(
            [(one, item[user == one][time[user == one].argmax()]) for one in range(24)]
        ).T,
        "global_time": links_at_test(timed_folder, "global_time"),
    }
    assert list(done.rows) == [f"LightGCN, {rule}" for rule in at_test]
    different = 0
    for rule, links in at_test.items():
        row, cell = f"LightGCN, {rule}", done.cells[f"LightGCN, {rule}", 0]
        plain, known = (slow_metrics(cell.rankings[test], links) for test in ("test", KNOWN))
        assert done.rows[row]["mean"] == pytest.approx(
            {
                "recall@20": plain[0],
                "ndcg@20": plain[1],
                f"recall@20, {KNOWN}": known[0],
                f"ndcg@20, {KNOWN}": known[1],
            }
        )
        different += plain != known
        validation = prepare(str(timed_folder), split=rule).val[INTERACTS].edge_label_index
        assert slow_metrics(cell.rankings["test"], validation_of(cell, validation), 50)[0] == 1
        assert slow_metrics(cell.rankings[KNOWN], validation_of(cell, validation), 50)[0] == 0
    assert different >= 3
    notes = "\n".join(done.saved["notes"])
    assert all(f"split: {rule}\n" in notes for rule in at_test)


def validation_of(cell, links):
    """The validation links of those users who have a ranking."""
    return links[:, torch.isin(links[0], cell.rankings["test"].user)]


def test_protocols_say_what_they_cannot_do(tiny_folder, finished):
    done = finished("protocols", tiny_folder, "--models", "LightGCN")
    assert list(done.rows) == ["LightGCN, labels", "LightGCN, random"]
    notes = "\n".join(done.saved["notes"])
    assert "no leave_last_out split" in notes
    assert "no global_time split" in notes


def test_alignment_map_of_two_models(tiny_folder, tmp_path, run_script, monkeypatch):
    drawn = []

    def recorded(content, ids):
        drawn.append((content, ids))
        return joint_map(content, ids)

    monkeypatch.setattr(alignment_map, "joint_map", recorded)
    arguments = ("alignment_map", "--data", tiny_folder, "--out", tmp_path)
    status, text, problems = run_script(*arguments)
    assert status == 0, problems
    saved = json.loads((tmp_path / "alignment_map.json").read_text())["cosine"]
    assert list(saved) == ["VBPR", "AlignRec"]
    assert f"AlignRec {saved['AlignRec']['mean']:.4f} " in " ".join(text.split())
    assert (tmp_path / "alignment_map.png").read_bytes().startswith(b"\x89PNG")
    for name, pair in zip(saved, drawn, strict=True):
        model, data = trained(tiny_folder, name)
        with torch.no_grad():
            x = model.representations(data.train)
        vectors = (x.content_item.numpy(), x.id_item.detach().numpy())
        for ours, theirs in zip(pair, vectors, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs)
        content, ids = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in vectors)
        cosine = (content * ids).sum(1)
        assert saved[name]["mean"] == pytest.approx(cosine.mean(), abs=1e-5)
        assert saved[name]["quartile 1"] == pytest.approx(np.quantile(cosine, 0.25), abs=1e-5)
    assert run_script(*arguments)[0] == 0
    assert json.loads((tmp_path / "alignment_map.json").read_text())["cosine"] == saved


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


def trials(out, name):
    """The cells of a model with seed 0 in a folder, by their settings."""
    found = [json.loads(path.read_text()) for path in (out / "cells").glob(f"{name}-seed0-*.json")]
    return [manifest["result"] for manifest in found]


def test_tuned_comparison_runs_the_chosen_settings_with_all_seeds(tiny_folder, finished, tmp_path):
    names = ("BPR", "LightGCN")
    done = finished(
        *("tuned_comparison", tiny_folder, "--models", *names, "--with-test-selected"),
        seeds=2,
        out=tmp_path,
    )
    assert set(done.rows) == set(names)
    assert all(row["seeds"] == [0, 1] for row in done.rows.values())
    assert "an optimistic figure" in "\n".join(done.saved["notes"])
    places = []
    for name in names:
        axes = list(SEARCH_GRIDS[load_model(name)])
        by_point = {}
        for cell in trials(tmp_path, name):
            settings = cell["settings"]["hparams"] | cell["settings"]["config"]
            by_point[tuple(settings[axis] for axis in axes)] = cell
        grid = list(product(*SEARCH_GRIDS[load_model(name)].values()))
        assert by_point.keys() == set(grid)
        validation = [by_point[point]["val_metrics"]["recall@20"] for point in grid]
        places.append(validation.index(max(validation)))
        chosen = grid[places[-1]]
        for seed in (0, 1):
            final = done.cells[name, seed].settings
            assert tuple((final["hparams"] | final["config"])[axis] for axis in axes) == chosen
        told = "; ".join(
            ", ".join(f"{axis} {value}" for axis, value in zip(axes, point, strict=True))
            + f": {value:.4f}{' (chosen)' if point == chosen else ''}"
            for point, value in zip(grid, validation, strict=True)
        )
        assert f"  {name}: {told}" in done.saved["notes"]
        mean = done.rows[name]["mean"]
        assert list(mean) == [*METRICS, tuned_comparison.TEST_SELECTED]
        best = max(cell["metrics"]["recall@20"] for cell in by_point.values())
        assert mean[tuned_comparison.TEST_SELECTED] == best
    assert min(places) < len(grid) - 1  # not the last point of both: another choice would show
    assert_test_metrics(done, links_at_test(tiny_folder))


def test_the_published_grid_is_of_another_size(tiny_folder, finished, tmp_path):
    done = finished(
        *("tuned_comparison", tiny_folder, "--models", "MGCN", "--grid", "published"), out=tmp_path
    )
    weights = {cell["settings"]["hparams"]["cl_weight"] for cell in trials(tmp_path, "MGCN")}
    assert weights == {1e-3, 1e-2, 1e-1}
    assert list(done.rows) == ["MGCN"]
    assert "of the published grid" in done.saved["notes"][0]
    assert done.saved["notes"][1].count("cl_weight") == 3


def result(row, *, val=0.0, test=0.0, seed=0, peak=None, content=0):
    return CellResult(
        row=row,
        model="BPR",
        seed=seed,
        key="",
        settings={},
        metrics={"recall@20": test},
        val_metrics={"recall@20": val},
        best_epoch=1,
        num_epochs=1,
        stopped_early=True,
        still_rising=False,
        seconds=0,
        cpu_seconds=2.5,
        peak_bytes=peak,
        content_bytes=content,
        num_parameters=0,
        rankings={},
        history=[],
        origin=Origin(commit=None, hardware="", versions={}),
    )


def test_settings_are_chosen_on_validation():
    found = published_settings(models.BPR, "").points(SEARCH_GRIDS[models.BPR])
    results = [
        result("BPR, point 1", val=0.1, test=0.9),  # best on test
        result("BPR, point 2", val=0.3, test=0.2),
        result("BPR, point 4", val=0.3, test=0.5),  # as good on validation, but later
    ]
    chosen, best_on_test = tuned_comparison.choose({"BPR": found, "VBPR": found}, results)
    assert chosen == {"BPR": found[1]}
    assert best_on_test == {"BPR": 0.9}
