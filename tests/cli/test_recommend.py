import csv

import pyarrow.parquet as pq
import pytest

from alignrec_pyg import recommend
from alignrec_pyg.cli import main
from alignrec_pyg.cli.recommend import checked_ids, read_titles
from alignrec_pyg.cli.runs import load_run
from alignrec_pyg.serving import explain, similar, similar_items


@pytest.fixture(scope="module")
def loaded(run):
    return load_run(run, None, "cpu")


def lines_of(capsys):
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_users_in_their_own_ids(run, loaded, capsys):
    assert main(["recommend", str(run), "--users", "u7", "u2", "--k", "3"]) == 0
    expected = recommend(loaded.model, loaded.data.known, ["u7", "u2"], 3)
    header, *lines = lines_of(capsys)
    assert header == ["user", "rank", "item"]
    assert lines == [
        [user, str(rank), item]
        for user, items in zip(["u7", "u2"], expected, strict=True)
        for rank, item in enumerate(items, start=1)
    ]


def test_titles_and_reasons(run, loaded, shop, capsys):
    command = ["recommend", str(run), "--users", "u1", "--k", "2", "--explain"]
    assert main([*command, "--items", str(shop.films), "--show", "title"]) == 0
    (items,) = recommend(loaded.model, loaded.data.known, ["u1"], 2)
    titles = read_titles(shop.films, None, ["title"])
    reasons = explain(loaded.model, loaded.data.known, "u1", items, 3)
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["user", "rank", "item", "title", "because", "of"]
    for line, item, reason in zip(out.splitlines()[1:], items, reasons, strict=True):
        assert f"{item}   {titles[item]}" in line
        assert line.endswith("; ".join(titles[own] for own in reason.item))


def test_reasons_of_all_users_propagate_once(run, monkeypatch, capsys):
    monkeypatch.setattr(similar, "embeddings", lambda *_: pytest.fail("propagated for a user"))
    assert main(["recommend", str(run), "--all", "--k", "2", "--explain"]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 20


def test_limits(run, loaded, tmp_path, capsys):
    stock = tmp_path / "stock.txt"
    stock.write_text("101\n103\n\n105\n107\n")
    command = ["recommend", str(run), "--users", "u1", "--candidates", str(stock)]
    assert main([*command, "--exclude", "103", "105"]) == 0
    _, *lines = lines_of(capsys)
    assert {line[2] for line in lines} <= {"101", "107"}
    (expected,) = recommend(
        loaded.model,
        loaded.data.known,
        ["u1"],
        10,
        candidates=["101", "103", "105", "107"],
        exclude=["103", "105"],
    )
    assert [line[2] for line in lines] == expected.tolist()


def test_similar_items(run, loaded, shop, capsys):
    command = ["recommend", str(run), "--similar", "101", "--k", "2"]
    assert main(command) == 0
    (expected,) = similar_items(loaded.model, loaded.data.known, ["101"], 2)
    _, *lines = lines_of(capsys)
    cosines = [f"{cosine:.4f}" for cosine in expected.similarity]
    assert lines == [
        ["101", str(rank), item, cosine]
        for rank, item, cosine in zip((1, 2), expected.item, cosines, strict=True)
    ]
    assert main([*command, "--items", str(shop.films), "--show", "title"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("blue film 1     1  ")


def test_all_users_as_parquet_and_csv(run, loaded, shop, tmp_path, capsys):
    table, text = tmp_path / "best.parquet", tmp_path / "best.csv"
    assert main(["recommend", str(run), "--all", "--k", "4", "--out", str(table)]) == 0
    assert main(["recommend", str(run), "--all", "--k", "4", "--out", str(text)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"written: {table} (160 rows)\nwritten: {text} (160 rows)\n"
    rows = pq.read_table(table).to_pylist()
    users = loaded.data.known["user"].id.tolist()
    expected = recommend(loaded.model, loaded.data.known, users, 4)
    ordered = [
        (user, rank, item)
        for user, items in zip(users, expected, strict=True)
        for rank, item in enumerate(items.tolist(), start=1)
    ]
    assert [(row["user_id"], row["rank"], row["item_id"]) for row in rows] == ordered
    with text.open(newline="") as file:
        found = [(row["user"], int(row["rank"]), row["item"]) for row in csv.DictReader(file)]
    assert found == ordered
    assert main(["recommend", str(run), "--users", "u3", "--out", str(table)]) == 0
    assert set(pq.read_table(table)["user_id"].to_pylist()) == {"u3"}


def test_numbers_as_ids(loaded):
    """Where a folder has no names for its users and items, they go by number."""
    plain = loaded.data.known.clone()
    del plain["user"].id, plain["item"].id

    class Numbered:
        known = plain

    assert checked_ids(Numbered, "user", "--users", ["3", "0"]) == [3, 0]
    assert checked_ids(Numbered, "item", "--exclude", []) == []
    with pytest.raises(Exception, match=r"--users: 'ids' needs .* \(unknown: 'u3'\)"):
        checked_ids(Numbered, "user", "--users", ["u3"])


def test_titles_of_a_table(tmp_path):
    path = tmp_path / "films.csv"
    path.write_text("sku,title,year\n007,Heat,1995\n8,,\n")
    assert read_titles(path, "sku", ["title", "year"]) == {"007": "Heat 1995", "8": ""}
    with pytest.raises(Exception, match="--items: .* needs a column of items under a usual name"):
        read_titles(path, None, ["title"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "--users, --all, --similar: one of them is needed, and no more"),
        ("--all --users u1", "--users, --all, --similar: one of them is needed, and no more"),
        ("--users zz u1", "--users: 'ids' needs to hold ids of the data's 40 users, which are"),
        ("--users u1 --exclude 7", "--exclude: 'ids' needs to hold ids of the data's 60 items"),
        ("--similar 7", "--similar: 'ids' needs to hold ids of the data's 60 items"),
        ("--similar 101 --explain", "--explain: is for recommendations, not for --similar"),
        ("--all --show title", "--items, --show: need each other"),
        ("--all --items {films}", "--items, --show: need each other"),
        ("--all --items {films} --show titel", "--items: "),
        ("--all --items nix.csv --show title", "--items: 'nix.csv' needs to be a file"),
        ("--all --candidates nix", "--candidates: needs to be a text file of ids, one a line"),
        ("--all --out best.txt", "--out: needs a name that ends in .csv or .parquet (got best"),
        ("--all --explain --out best.parquet", "--out: best.parquet would hold ids and scores"),
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
