import json

import numpy as np
import pytest

from alignrec_pyg import activity_groups, evaluate, popularity_groups, rank, user_metrics
from alignrec_pyg.cli import main
from alignrec_pyg.cli.runs import load_run
from alignrec_pyg.graph import INTERACTS


def test_figures_are_the_librarys(run, tmp_path, capsys):
    file = tmp_path / "test.json"
    assert main(["evaluate", str(run), "--k", "10", "5", "--json", str(file)]) == 0
    loaded = load_run(run, None, "cpu")
    expected = evaluate(loaded.model, loaded.data.test, (5, 10))
    saved = json.loads(file.read_text())
    baselines = saved.pop("baselines")
    assert saved == {"model": "AlignRec", "metrics": expected, "exclude_known_pairs": False}
    captured = capsys.readouterr()
    title, header, *lines = captured.out.splitlines()
    assert title == "AlignRec on the test links of 40 users (films, split labels)"
    assert header.split() == ["@5", "@10"]
    assert [line.split() for line in lines] == [
        [label, f"{figures[f'{name}@5']:.4f}", f"{figures[f'{name}@10']:.4f}"]
        for name in ("recall", "ndcg", "hit", "precision", "map", "mrr")
        for label, figures in ((name, expected), *baselines.items())
    ]
    assert captured.err == f"written: {file}\n"


def recall_by(score, data, k):
    """Mean recall@k by a full sort of every user's unknown items; ties by number."""
    known = [set() for _ in range(data.train["user"].num_nodes)]
    wanted = [set() for _ in known]
    for user, item in data.train[INTERACTS].edge_index.T.tolist():
        known[user].add(item)
    for user, item in data.test[INTERACTS].edge_label_index.T.tolist():
        wanted[user].add(item)
    found = []
    for user, own in enumerate(known):
        if wanted[user]:
            scores = score(sorted(own))
            best = sorted(set(range(len(scores))) - own, key=lambda item: (-scores[item], item))
            found.append(len(wanted[user] & set(best[:k])) / len(wanted[user]))
    return np.mean(found)


def test_baselines_stand_under_every_figure(run, tmp_path, capsys):
    """Against counts and cosines of a dense matrix."""
    file = tmp_path / "test.json"
    assert main(["evaluate", str(run), "--k", "7", "--groups", "--json", str(file)]) == 0
    saved = json.loads(file.read_text())
    data = load_run(run, None, "cpu").data
    links = np.zeros((data.train["user"].num_nodes, data.train["item"].num_nodes))
    links[tuple(data.train[INTERACTS].edge_index.numpy())] = 1
    count = links.sum(axis=0)
    cosine = links.T @ links / (np.sqrt(np.outer(count, count)) + 10)
    np.fill_diagonal(cosine, 0)
    expected = {
        "Popularity": recall_by(lambda own: count, data, 7),
        "ItemKNN": recall_by(lambda own: cosine[own].sum(axis=0), data, 7),
    }
    assert {name: b["recall@7"] for name, b in saved["baselines"].items()} == pytest.approx(
        expected, abs=1e-6
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    head = next(number for number, line in enumerate(lines) if line[:2] == ["items:", "head"])
    for number, name in enumerate(expected, start=1):
        of_head = saved["baseline_groups"][name]["popularity"][0]
        shown = [f"{of_head['recall']:.4f}", f"{of_head['ndcg']:.4f}"]
        assert lines[head + number] == [name, *shown]
    assert sum(line[:1] == ["Popularity"] for line in lines) == 6 + 3 + len(
        saved["groups"]["activity"]
    )


def test_a_baseline_does_not_stand_under_itself(encoded, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", str(encoded), "--model", "Popularity", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Popularity on the test links")
    assert (out.count("\n  Popularity"), out.count("\n  ItemKNN")) == (0, 6)


def test_known_pairs_are_left_out_where_that_is_asked_for(run, tmp_path, capsys):
    file = tmp_path / "test.json"
    command = ["evaluate", str(run), "--exclude-known-pairs", "--groups", "--json", str(file)]
    assert main(command) == 0
    loaded = load_run(run, None, "cpu")
    expected = evaluate(loaded.model, loaded.test, (10, 20), exclude_known_pairs=True)
    assert expected != evaluate(loaded.model, loaded.test, (10, 20))
    figures = json.loads(file.read_text())
    assert (figures["metrics"], figures["exclude_known_pairs"]) == (expected, True)
    assert "known pairs and validation links not ranked" in capsys.readouterr().out


def test_groups(run, tmp_path, capsys):
    file = tmp_path / "test.json"
    assert main(["evaluate", str(run), "--k", "5", "--groups", "--json", str(file)]) == 0
    loaded = load_run(run, None, "cpu")
    links = loaded.data.test[INTERACTS].edge_label_index
    ranking = rank(loaded.model, loaded.data.test, 5)
    popular = popularity_groups(ranking, loaded.data.train, links, 5)
    active = activity_groups(user_metrics(ranking, links, 5), loaded.data.train)
    groups = json.loads(file.read_text())["groups"]
    assert [group["recall"] for group in groups["popularity"]] == [g.recall for g in popular]
    assert groups["activity"][0]["recall"] == active[0].recall
    assert groups["activity"][1]["recall"] is None  # all users have 10 train links
    lines = capsys.readouterr().out.splitlines()
    assert lines[-9].split()[:2] == ["items:", "head"]
    assert lines[-9].split()[-2:] == [f"{popular[0].recall:.4f}", f"{popular[0].ndcg:.4f}"]
    assert ["users", "none", "0"] in [line.split() for line in lines]


def test_default_cut_offs(run, capsys):
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["@10", "@20"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{tmp}"], 1, "holds no trained model: alignrec train --out writes one"),
        (["{run}", "--data", "{tmp}"], 2, "'path' needs to contain a file <name>.inter"),
        (["{run}", "--data", "{tmp}/nix"], 1, "nix, the data of "),
    ],
)
def test_errors(arguments, code, message, run, tmp_path, capsys):
    arguments = [argument.format(tmp=tmp_path, run=run) for argument in arguments]
    assert main(["evaluate", *arguments]) == code
    assert message in capsys.readouterr().err
