import csv

import pandas as pd
import pyarrow.parquet as pq
import pytest

from alignrec_pyg import EASE, Aligned, Server
from alignrec_pyg.cli import main
from alignrec_pyg.cli.recommend import checked_ids, read_items
from alignrec_pyg.cli.runs import load_run
from alignrec_pyg.graph import INTERACTS, known_pairs


@pytest.fixture(scope="module")
def loaded(run):
    return load_run(run, None, "cpu")


@pytest.fixture(scope="module")
def server(loaded):
    return Server(loaded.model, loaded.known)


@pytest.fixture(scope="module")
def saved(loaded, tmp_path_factory):
    """The same model with its graph, in a folder that needs no other."""
    folder = tmp_path_factory.mktemp("saved")
    loaded.model.save_pretrained(folder, loaded.known)
    return folder


def lines_of(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_users_in_their_own_ids(run, saved, server, capsys):
    expected = server.recommend(["u7", "u2", "u7"], 3)
    for folder in (run, saved):
        command = ["recommend", str(folder), "--users", "u7", "u2", "u7", "--k", "3"]
        assert main(command) == 0
        header, *lines = lines_of(capsys)
        assert header == ["user_id", "rank", "item_id", "score"]
        assert lines == [
            [user, str(rank), str(item), f"{score:.4f}"]
            for user, row in zip(["u7", "u2", "u7"], expected, strict=True)
            for rank, (item, score) in enumerate(zip(*row, strict=True), start=1)
        ]


def test_no_known_pair_is_recommended(run, loaded, tmp_path):
    out = tmp_path / "best.parquet"
    assert main(["recommend", str(run), "--all", "--k", "60", "--out", str(out)]) == 0
    table = pq.read_table(out)
    listed = set(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))
    user, item = known_pairs(loaded.known).tolist()
    ids = loaded.known["user"].id[user], loaded.known["item"].id[item]
    disliked = set(zip(*(part.tolist() for part in ids), strict=True))
    assert len(disliked) == 40
    assert not listed & disliked
    assert len(listed) == 40 * (60 - 12 - 1)


def test_titles_and_reasons(run, server, shop, tmp_path, capsys):
    command = ["recommend", str(run), "--users", "u1", "u0", "u1", "--k", "2", "--explain"]
    command += ["--items", str(shop.films), "--show", "title"]
    assert main(command) == 0
    titles = read_items(shop.films, None, ["title"])
    out = capsys.readouterr().out
    header, *lines = out.splitlines()
    assert header.split() == ["user_id", "rank", "item_id", "title", "score", "because_of"]
    expected = []
    for user in ("u1", "u0", "u1"):
        items = server.recommend([user], 2)[0].item
        for item, reason in zip(items, server.explain(user, items, 3), strict=True):
            named = zip(map(titles.name, reason.item), reason.score, strict=True)
            because = "; ".join(f"{own} ({cosine:.2f})" for own, cosine in named)
            expected.append((user, item, titles.name(item), because))
    for line, (user, item, title, because) in zip(lines, expected, strict=True):
        assert line.startswith(user)
        assert f"{item}      {title}" in line
        assert line.endswith(because)
    for ending in ("csv", "parquet"):
        path = tmp_path / f"best.{ending}"
        assert main([*command, "--out", str(path)]) == 0
        table = pd.read_csv(path) if ending == "csv" else pd.read_parquet(path)
        assert list(table.columns) == header.split()
        columns = (table[name] for name in ("user_id", "item_id", "title", "because_of"))
        assert list(zip(*columns, strict=True)) == expected


def test_each_column_to_show_is_one_of_the_table(run, shop, tmp_path, capsys):
    path = tmp_path / "best.csv"
    command = ["recommend", str(run), "--users", "u1", "--k", "2", "--out", str(path)]
    command += ["--items", str(shop.films), "--show", "plot", "title"]
    assert main(command) == 0
    films = {row["item_id"]: row for row in csv.DictReader(shop.films.read_text().splitlines())}
    text = path.read_text()
    assert text.startswith("user_id,rank,item_id,plot,title,score\n")
    for row in list(csv.reader(text.splitlines()))[1:]:
        film = films[row[2]]
        assert row[3:5] == [film["plot"], film["title"]]
    assert main([*command, "item_id"]) == 2
    assert "error: --show: item_id is a column of the result already" in capsys.readouterr().err
    assert main([*command, "plot"]) == 2
    assert "error: --show: plot is a column of the result already" in capsys.readouterr().err


def test_titles_of_other_items_are_an_error_or_a_note(run, shop, tmp_path, capsys):
    path = tmp_path / "films.csv"
    command = ["recommend", str(run), "--users", "u1", "--items", str(path), "--show", "title"]
    path.write_text("item_id,title\n0100,Heat\n0101,Up\n")
    assert main(command) == 2
    message = f"error: --items: {path} needs ids of the items: none of 2 is one (got '0100'"
    assert capsys.readouterr().err.startswith(message)
    path.write_text("item_id,title\n100.0,Heat\n101.0,Up\n7.0,X\n8.0,Y\n9.0,Z\n")
    assert main(command) == 0
    assert f"ATTENTION: {path}: only 2 of 5 ids are among the 60 items" in capsys.readouterr().err


def test_users_who_are_not_in_the_data(run, server, tmp_path, capsys):
    command = ["recommend", str(run), "--users", "u1", "zoe", "--k", "3", "--explain"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: --users: needs to hold ids of the data's 40 users")
    assert told.endswith("(unknown: 'zoe'): --unknown popular lists popular items\n")
    assert main([*command, "--unknown", "popular", "--out", str(tmp_path / "best.csv")]) == 0
    table = pd.read_csv(tmp_path / "best.csv", keep_default_na=False)
    (popular,) = server.recommend("zoe", 3, unknown="popular")
    assert table["item_id"].tolist()[3:] == popular.item.tolist()
    assert table["score"].tolist()[3:] == popular.score.tolist()
    assert [bool(text) for text in table["because_of"]] == [True] * 3 + [False] * 3


def test_a_saved_folder_needs_no_data(saved, loaded, tmp_path, capsys):
    """And what a folder of another kind cannot do is told in the words of the command."""
    known = loaded.known.clone()
    links = known[INTERACTS].edge_index
    known[INTERACTS].edge_index = links[:, links[0] > 0]
    if "time" in known[INTERACTS]:
        del known[INTERACTS]["time"]
    EASE(known).save_pretrained(tmp_path / "ease", known)
    assert main(["recommend", str(tmp_path / "ease"), "--all", "--k", "2"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1 + 2 * 39
    assert captured.err == (
        "1 of 40 users have no links and are left out: --unknown popular lists popular items\n"
    )
    assert main(["recommend", str(tmp_path / "ease"), "--users", "u1", "--explain"]) == 0
    assert "because_of" in capsys.readouterr().out
    assert main(["recommend", str(tmp_path / "ease"), "--similar", "101"]) == 0
    assert lines_of(capsys)[0] == ["similar_to", "rank", "item_id", "score"]
    assert main(["recommend", str(saved), "--all", "--data", str(tmp_path)]) == 2
    assert "error: --data: is for runs of alignrec train" in capsys.readouterr().err


def test_a_class_of_ones_own(loaded, run, tmp_path, monkeypatch, capsys):
    (tmp_path / "my_served_models.py").write_text(
        "from alignrec_pyg import BPR, VBPR\nclass Mine(BPR):\n    pass\n"
        "class Content(VBPR):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    from alignrec_pyg.experiments.settings import load_model

    load_model("my_served_models:Mine")(loaded.known).save_pretrained("mine", loaded.known)
    assert main(["recommend", "mine", "--all"]) == 2
    assert "error: --model: is needed, module:Mine: mine holds a Mine" in capsys.readouterr().err
    command = ["recommend", "mine", "--users", "u1", "--k", "2", "--model"]
    assert main([*command, "my_served_models:Mine"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main([*command, "nothing:Mine"]) == 2
    assert "error: --model: model 'nothing:Mine' cannot be imported" in capsys.readouterr().err
    backbone = load_model("my_served_models:Content")(loaded.known)
    Aligned(loaded.known, backbone).save_pretrained("aligned", loaded.known)
    assert main(["recommend", "aligned", "--all"]) == 2
    assert "error: --model: is needed, module:Content: aligned h" in capsys.readouterr().err
    command[1] = "aligned"
    assert main([*command, "my_served_models:Content"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["recommend", str(run), "--all", "--model", "BPR"]) == 2
    assert "error: --model: is for a saved model" in capsys.readouterr().err


def test_limits(run, server, tmp_path, capsys):
    stock = tmp_path / "stock.txt"
    stock.write_text("101\n103\n\n105\n107\n")
    command = ["recommend", str(run), "--users", "u1", "--candidates", str(stock)]
    assert main([*command, "--exclude", "103", "105"]) == 0
    _, *lines = lines_of(capsys)
    assert {line[2] for line in lines} <= {"101", "107"}  # numbers, as they came
    limits = {"candidates": [101, 103, 105, 107], "exclude": [103, 105]}
    (expected,) = server.recommend(["u1"], 10, **limits)
    assert [line[2] for line in lines] == [str(item) for item in expected.item]


def test_similar_items(run, server, shop, tmp_path, capsys):
    command = ["recommend", str(run), "--similar", "101", "--k", "2"]
    assert main(command) == 0
    (expected,) = server.similar([101], 2)
    header, *lines = lines_of(capsys)
    assert header == ["similar_to", "rank", "item_id", "cosine"]
    cosines = [f"{cosine:.4f}" for cosine in expected.score]
    assert lines == [
        ["101", str(rank), str(item), cosine]
        for rank, item, cosine in zip((1, 2), expected.item, cosines, strict=True)
    ]
    path = tmp_path / "similar.parquet"
    command += ["--items", str(shop.films), "--show", "title", "--out", str(path)]
    assert main(command) == 0
    table = pd.read_parquet(path)
    assert list(table.columns) == ["similar_to", "rank", "item_id", "title", "cosine"]
    assert table["similar_to"].tolist() == [101, 101]
    assert table["title"].str.startswith("blue film").all()


def test_all_users_as_parquet_and_csv(run, server, shop, tmp_path, capsys):
    table, text = tmp_path / "best.parquet", tmp_path / "best.csv"
    assert main(["recommend", str(run), "--all", "--k", "4", "--out", str(table)]) == 0
    assert main(["recommend", str(run), "--all", "--k", "4", "--out", str(text)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"written: {table} (160 rows)\nwritten: {text} (160 rows)\n"
    expected = server.recommend(server.users.ids, 4, as_frame=True)
    pd.testing.assert_frame_equal(pd.read_parquet(table), expected)
    read = pd.read_csv(text, dtype=dict(expected.dtypes[["rank", "item_id", "score"]]))
    pd.testing.assert_frame_equal(read, expected)  # the same columns, scores in full
    assert main(["recommend", str(run), "--users", "u3", "--out", str(table)]) == 0
    assert set(pq.read_table(table)["user_id"].to_pylist()) == {"u3"}


def test_numbers_as_ids(loaded):
    """Where a folder has no names for its users and items, they go by number."""
    plain = loaded.known.clone()
    del plain["user"].id, plain["item"].id
    server = Server(loaded.model, plain)
    assert checked_ids(server.users, "--users", ["3", "0"]) == [3, 0]
    assert checked_ids(server.items, "--exclude", []) == []
    with pytest.raises(Exception, match=r"--users: needs .* \(unknown: 'u3'\)"):
        checked_ids(server.users, "--users", ["u3"])


def test_titles_of_a_table(tmp_path):
    path = tmp_path / "films.csv"
    path.write_text("sku,title,year\n007,Heat,1995\n8,,\n")
    titles = read_items(path, "sku", ["title", "year"])
    assert titles.texts == {"007": ("Heat", "1995"), "8": ("", "")}
    assert (titles.name("007"), titles.name("8"), titles.name("9")) == ("Heat", "8", "9")
    with pytest.raises(Exception, match="--items: .* needs a column of items under a usual name"):
        read_items(path, None, ["title"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--users, --all, --similar: one of them is needed, and no more"),
        ("--all --users u1", "--users, --all, --similar: one of them is needed, and no more"),
        ("--users zz u1", "--users: needs to hold ids of the data's 40 users, which"),
        ("--users u1 --exclude 7", "--exclude: needs to hold ids of the data's 60 items"),
        ("--similar 7", "--similar: needs to hold ids of the data's 60 items"),
        ("--similar 101 --explain", "--explain: is for recommendations, not for --similar"),
        ("--all --show title", "--items, --show: need each other"),
        ("--all --items {films}", "--items, --show: need each other"),
        ("--all --items {films} --show titel", "--items: "),
        ("--all --items nix.csv --show title", "--items: 'nix.csv' needs to be a file"),
        ("--all --candidates nix", "--candidates: needs to be a text file of ids, one a line"),
        ("--all --out best.txt", "--out: needs a name that ends in .csv or .parquet (got best"),
        ("--similar 101 --unknown popular", "--unknown: is for recommendations, not for --simi"),
    ],
)
def test_errors(arguments, message, run, shop, capsys):
    assert main(["recommend", str(run), *arguments.format(films=shop.films).split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1


def test_an_empty_list_of_candidates(run, tmp_path, capsys):
    (tmp_path / "stock.txt").write_text("\n")
    command = ["recommend", str(run), "--all", "--candidates", str(tmp_path / "stock.txt")]
    assert main(command) == 2
    assert "error: --candidates: needs at least one id (got none" in capsys.readouterr().err
