import csv

import pyarrow.parquet as pq
import pytest

from alignrec_pyg import recommend
from alignrec_pyg.cli import main
from alignrec_pyg.cli.recommend import checked_ids, read_items
from alignrec_pyg.cli.runs import load_run
from alignrec_pyg.graph import known_pairs
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
    assert header == ["user_id", "rank", "item_id", "score"]
    assert [line[:3] for line in lines] == [
        [user, str(rank), str(item)]
        for user, items in zip(["u7", "u2"], expected, strict=True)
        for rank, item in enumerate(items, start=1)
    ]


def test_no_known_pair_is_recommended(run, loaded, tmp_path):
    out = tmp_path / "best.parquet"
    assert main(["recommend", str(run), "--all", "--k", "60", "--out", str(out)]) == 0
    table = pq.read_table(out)
    listed = set(zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True))
    user, item = known_pairs(loaded.data.known).tolist()
    ids = loaded.data.known["user"].id[user], loaded.data.known["item"].id[item]
    disliked = set(zip(*(part.tolist() for part in ids), strict=True))
    assert len(disliked) == 40
    assert not listed & disliked
    assert len(listed) == 40 * (60 - 12 - 1)


def test_titles_and_reasons(run, loaded, shop, capsys):
    command = ["recommend", str(run), "--users", "u1", "--k", "2", "--explain"]
    assert main([*command, "--items", str(shop.films), "--show", "title"]) == 0
    (items,) = recommend(loaded.model, loaded.data.known, ["u1"], 2)
    titles = read_items(shop.films, None, ["title"])
    reasons = explain(loaded.model, loaded.data.known, "u1", items, 3)
    out = capsys.readouterr().out
    header = ["user_id", "rank", "item_id", "title", "score", "because", "of"]
    assert out.splitlines()[0].split() == header
    for line, item, reason in zip(out.splitlines()[1:], items, reasons, strict=True):
        assert f"{item}      {titles.name(item)}" in line
        named = zip(map(titles.name, reason.item), reason.similarity, strict=True)
        assert line.endswith("; ".join(f"{own} ({cosine:.2f})" for own, cosine in named))


def test_each_column_to_show_is_one_of_the_table(run, shop, tmp_path):
    path = tmp_path / "best.csv"
    command = ["recommend", str(run), "--users", "u1", "--k", "2", "--out", str(path)]
    assert main([*command, "--items", str(shop.films), "--show", "plot", "title", "item_id"]) == 0
    films = {row["item_id"]: row for row in csv.DictReader(shop.films.read_text().splitlines())}
    text = path.read_text()
    assert text.startswith("user_id,rank,item_id,plot,title,item_id,score\n")
    for row in list(csv.reader(text.splitlines()))[1:]:
        film = films[row[2]]
        assert row[3:6] == [film["plot"], film["title"], film["item_id"]]


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
    assert {line[2] for line in lines} <= {"101", "107"}  # numbers, as they came
    (expected,) = recommend(
        loaded.model,
        loaded.data.known,
        ["u1"],
        10,
        candidates=[101, 103, 105, 107],
        exclude=[103, 105],
    )
    assert [line[2] for line in lines] == [str(item) for item in expected]


def test_similar_items(run, loaded, shop, capsys):
    command = ["recommend", str(run), "--similar", "101", "--k", "2"]
    assert main(command) == 0
    (expected,) = similar_items(loaded.model, loaded.data.known, [101], 2)
    _, *lines = lines_of(capsys)
    cosines = [f"{cosine:.4f}" for cosine in expected.similarity]
    assert lines == [
        ["101", str(rank), str(item), cosine]
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
        found = list(csv.DictReader(file))
    assert list(found[0]) == list(rows[0])  # one name for a thing in both
    assert [(r["user_id"], int(r["rank"]), int(r["item_id"])) for r in found] == ordered
    scores = [float(row["score"]) for row in found]
    assert scores == pytest.approx([row["score"] for row in rows], abs=1e-6)
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
