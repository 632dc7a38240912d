"""``alignrec compare`` on files: from tables and images to a model to serve."""

import contextlib
import io
import json
import re
import shlex

import pandas as pd
import pytest

import alignrec_pyg
from alignrec_pyg import recommend
from alignrec_pyg.cli import compare, main
from alignrec_pyg.cli.compare import OF_FILES, CompareOptions
from alignrec_pyg.experiments import cells, served
from alignrec_pyg.experiments.settings import BASELINES, TABLE_2
from alignrec_pyg.transforms import encoding_run

QUICK = ["--epochs", "2", "--batch-size", "128", "--jobs", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def command(shop):
    """From the folder of the results, the whole way on the shop's files."""
    return lambda out: [
        *("compare", str(shop.ratings), "--items", str(shop.films), "--text", "title", "plot"),
        *("--images", str(shop.posters), "--min-rating", "4", "--k-core", "3", "--width", "4"),
        *("--models", "VBPR", "BPR", "Popularity", "--lr", "0.01", *QUICK, "--out", str(out)),
    ]


@pytest.fixture(scope="module")
def whole_way(command, tmp_path_factory):
    """The folder, standard output and standard error of a run."""
    out, err = io.StringIO(), io.StringIO()
    folder = tmp_path_factory.mktemp("finished") / "out"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert main(command(folder)) == 0
    return folder, out.getvalue(), err.getvalue()


@pytest.fixture
def finished(whole_way):
    return whole_way[0]


def result(out):
    return json.loads((out / "compare.json").read_text())


def test_it_says_what_it_read_what_it_will_take_and_what_comes_next(whole_way):
    folder, out, err = whole_way
    places = [
        out.index(text)
        for text in (
            "read as: table of interactions",
            "column 'user_id' taken as the user, by its name",
            "kept: 40 users, 60 items, 480 interactions, 40 known pairs",
            "feature 'tfidf': 60 of 60 items have a row (0 from the cache)",
            "feature 'patch_pca': 60 of 60 items have a row (0 from the cache)",
            "data: ratings, 40 users, 60 items, 480 interactions; features: patch_pca, tfidf",
            "split: random, ",
            "p (Holm)",
            " is best on recall@20",
            "\nto serve: ",
            "\ntrained anew on all 480 links in ",
            "\nnext:\n  alignrec recommend ",
        )
    ]
    assert places == sorted(places)
    assert "estimate: about 1 s for 3 runs, 1 at a time" in err
    assert re.search(r"\n  memory: about \d+ MB beside ", err)
    assert [row["seeds"] for row in result(folder)["rows"]] == [[0], [0], [0]]


@pytest.mark.usefixtures("plain_runs")
def test_data_are_those_that_encode_writes(encoded, finished, command, tmp_path):
    """One way to read and to encode: the same links, labels apart, and the same tables."""
    out, folder = tmp_path / "out", tmp_path / "folder"
    assert main([*command(out), "--split", "leave_last_out"]) == 0
    of_folder = ["compare", str(encoded), "--models", "VBPR", "--seeds", "1", "--lr", "0.01"]
    assert main([*of_folder, "--settings", "default", *QUICK, "--out", str(folder)]) == 0
    ours, theirs = result(out), result(folder)
    assert ours["data"]["split"]["fingerprint"] == theirs["data"]["split"]["fingerprint"]
    tables = [
        {table["name"]: table["content_hash"] for table in saved["data"]["report"]["features"]}
        for saved in (ours, theirs)
    ]
    assert tables[0] == tables[1]
    assert ours["cells"][0]["metrics"] == theirs["cells"][0]["metrics"]
    assert not (folder / "model").exists()  # of a folder none is kept


def test_nothing_that_was_rated_is_recommended(shop, finished):
    model, data = alignrec_pyg.load(finished / "model")
    rated = pd.read_csv(shop.ratings).groupby("user_id").item_id.apply(set)
    users = data["user"].id.tolist()
    for user, items in zip(users, recommend(model, data, users, k=60), strict=True):
        assert set(items.tolist()) == set(range(100, 160)) - rated[user]


def test_the_next_command_recommends(shop, finished, command, capsys):
    assert main(command(finished)) == 0
    recommend, serve = map(shlex.split, capsys.readouterr().out.splitlines()[-2:])
    assert serve == ["alignrec", "serve", str(finished / "model")]
    assert recommend[:3] == ["alignrec", "recommend", str(finished / "model")]
    assert main([*recommend[1:], "--k", "60"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    rated = pd.read_csv(shop.ratings).groupby("user_id").item_id.apply(set)["u0"]
    assert {int(row[2]) for row in rows[1:]} == set(range(100, 160)) - rated
    assert all(f"film {int(row[2]) - 100}" == " ".join(row[4:6]) for row in rows[1:])


def test_a_second_call_trains_and_encodes_nothing(finished, command, monkeypatch, capsys):
    def fail(*_, **__):
        pytest.fail("trained again")

    monkeypatch.setattr(cells, "fit", fail)
    monkeypatch.setattr(served, "refit", fail)
    assert main(command(finished)) == 0
    printed = capsys.readouterr()
    assert "(60 from the cache)" in printed.out
    assert "estimate" not in printed.err


@pytest.mark.usefixtures("plain_runs")
def test_interactions_alone_leave_out_what_needs_content(shop, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", str(shop.ratings), *QUICK, "--epochs", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "note: the items have neither texts nor images" in printed.err
    left_out = [name for name in OF_FILES if name not in ("BPR", "LightGCN")]
    for name in left_out:
        assert f"Not run: {name}: needs a" in printed.out
    saved = result(out)
    expected = {"BPR", "LightGCN", *(model.__name__ for model in BASELINES)}
    assert {row["name"] for row in saved["rows"]} == expected
    line = printed.out.splitlines()[-2]
    assert line == f"  alignrec recommend {out / 'model'} --users u0"


def test_defaults_of_files_and_of_folders(shop, encoded):
    of_files = CompareOptions(path=str(shop.ratings)).completed(set())
    assert (of_files.seeds, of_files.settings) == (1, "default")
    baselines = [model.__name__ for model in BASELINES]
    assert list(of_files.usual_models()) == [*OF_FILES, *baselines]
    of_folder = CompareOptions(path=str(encoded)).completed(set())
    assert (of_folder.seeds, of_folder.settings) == (3, "default")
    paper = [model.__name__ for model in TABLE_2]
    assert list(of_folder.usual_models()) == [*paper, *baselines]
    assert list(CompareOptions().completed(set()).usual_models()) == [*paper, *baselines]
    asked = CompareOptions(path=str(shop.ratings), seeds=3, settings="published")
    assert asked.completed({"seeds", "settings"}) == asked
    assert set(OF_FILES) < {*paper, "WeightedAlignRec"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("{films} --min-rating 4", "--min-rating: is for files that are yet to be encoded"),
        ("--images x --text y", "--text, --images: are for files that are yet to be encoded"),
        ("{ratings} --tables x=x.npy", "--tables: is for a folder in MMRec's format"),
        ("{ratings} --features tfidf", "--features: is for a folder in MMRec's format"),
        ("{ratings} --items x.csv", "--items: name its text columns with --text"),
        ("{ratings} --images a --image b", "--image, --images: give one of them (got both)"),
        ("{ratings} --encoder bert", "--encoder: needs to be of the form tfidf"),
        ("{ratings} --models Bpr", "model 'Bpr' is unknown: did you mean 'BPR'?"),
        ("{ratings} --k-core 99", "--k-core: 'k' leaves no interactions (got 99"),
    ],
)
def test_errors(more, message, shop, encoded, tmp_path, capsys):
    words = more.format(films=encoded, ratings=shop.ratings).split()
    assert compare.main([*words, "--out", str(tmp_path / "out"), "--jobs", "1"]) == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_options_are_checked_before_anything_is_read(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "alignrec_pyg.datasets.recognition._read_table", lambda *_, **__: pytest.fail("it read")
    )
    (tmp_path / "file").write_text("mine")
    command = [str(shop.ratings), "--out", str(tmp_path / "file"), "--jobs", "1"]
    assert compare.main(command) == 2
    assert "needs to be a folder" in capsys.readouterr().err


@pytest.mark.usefixtures("plain_runs")
def test_an_interrupted_encoding_goes_on(command, tmp_path, monkeypatch, capsys):
    original = encoding_run.EncodingRun.batches

    def interrupted(self):
        yield from original(self)
        raise KeyboardInterrupt

    words = command(tmp_path / "out")
    first, last = words.index("--models"), words.index("--lr")
    words[first + 1 : last] = ["Popularity"]
    with monkeypatch.context() as patch:
        patch.setattr(encoding_run.EncodingRun, "batches", interrupted)
        assert main(words) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert main(words) == 0
    assert "feature 'tfidf': 60 of 60 items have a row (60 from the cache)" in (
        capsys.readouterr().out
    )
