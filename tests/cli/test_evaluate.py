import json

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
    assert json.loads(file.read_text()) == {
        "model": "AlignRec",
        "metrics": expected,
        "exclude_known_pairs": False,
    }
    captured = capsys.readouterr()
    title, header, *lines = captured.out.splitlines()
    assert title == "AlignRec on the test links of 40 users (films, split labels)"
    assert header.split() == ["@5", "@10"]
    assert [line.split() for line in lines] == [
        [name, f"{expected[f'{name}@5']:.4f}", f"{expected[f'{name}@10']:.4f}"]
        for name in ("recall", "ndcg", "hit", "precision", "map", "mrr")
    ]
    assert captured.err == f"written: {file}\n"


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
    assert lines[-3].split()[:2] == ["items:", "head"]
    assert lines[-3].split()[-2:] == [f"{popular[0].recall:.4f}", f"{popular[0].ndcg:.4f}"]
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
