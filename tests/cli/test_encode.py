import shutil

import numpy as np
import pandas as pd
import pytest

from alignrec_pyg.cli import main
from alignrec_pyg.cli.runs import load_run
from alignrec_pyg.datasets import MMRecFolder, from_files
from alignrec_pyg.encoders import PatchPCAEncoder, TfidfEncoder, images_by_id
from alignrec_pyg.graph import INTERACTS, feature_names, feature_table, known_pairs
from alignrec_pyg.transforms import EncodeItems, KCore, MinRating, SplitInteractions


def test_equals_the_library_called_by_hand(shop, encoded):
    folder = MMRecFolder(encoded)
    data = from_files(
        shop.ratings,
        shop.films,
        user="user_id",
        item="item_id",
        rating="rating",
        time="timestamp",
        text=["title", "plot"],
    ).data
    data = KCore(1)(MinRating(4)(data))
    by_id = images_by_id(shop.posters)
    data["item"].image = [by_id[str(item)] for item in data["item"].id]
    data = EncodeItems(TfidfEncoder(4), "tfidf")(data)
    data = EncodeItems(PatchPCAEncoder(4, image_size=64), "patch_pca")(data)
    assert feature_names(folder.data) == ["patch_pca", "tfidf"]
    for name in ("tfidf", "patch_pca"):
        assert feature_table(folder.data, name).equal(feature_table(data, name))
    assert folder.data["item"].id.tolist() == data["item"].id.tolist()
    expected = SplitInteractions("leave_last_out")(data)
    found = SplitInteractions("labels")(folder.data)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[INTERACTS].edge_label_index.equal(theirs[INTERACTS].edge_label_index)
    assert folder.report.interactions == 40 * 12  # without those rated 1
    assert known_pairs(folder.data).equal(known_pairs(data))
    assert folder.report.known_pairs == 40
    assert (encoded / "films.known").is_file()
    assert [path.name for path in encoded.parent.iterdir()] == ["films"]  # no cache, no half


def test_says_what_it_read_and_made(encode_command, tmp_path, capsys):
    command = encode_command(tmp_path / "films")
    assert main([*command, "--k-core", "3", "--encoder", "tfidf"]) == 0
    captured = capsys.readouterr()
    for line in (
        "read as: table of interactions",
        "column 'user_id' taken as the user, by its name",
        "kept: 40 users, 60 items, 480 interactions, 40 known pairs",
        "feature 'tfidf': 60 of 60 items have a row (0 from the cache)",
        "split: leave_last_out",
        "fingerprint: ",
    ):
        assert line in captured.out
    assert captured.err.endswith(f"written: {tmp_path / 'films'}\n")
    assert feature_names(MMRecFolder(tmp_path / "films").data) == ["tfidf"]


def test_goes_on_after_an_interruption(encode_command, encoded, tmp_path, monkeypatch, capsys):
    out = tmp_path / "films"
    command = encode_command(out)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PatchPCAEncoder, "__call__", interrupted)
        assert main(command) == 130
    assert "error: interrupted; " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".films.cache"]
    assert main(command) == 0
    assert "feature 'tfidf': 60 of 60 items have a row (60 from the cache)" in (
        capsys.readouterr().out
    )
    assert [path.name for path in tmp_path.iterdir()] == ["films"]
    for file in encoded.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()


def test_a_run_killed_when_its_folder_was_there_leaves_no_cache(
    encode_command, tmp_path, monkeypatch, capsys
):
    command = [*encode_command(tmp_path / "films"), "--encoder", "tfidf"]
    with monkeypatch.context() as patch:
        patch.setattr("alignrec_pyg.storage.remove_cache", lambda *_: None)
        assert main(command) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [".films.cache", "films"]
    assert main(command) == 2
    assert "--out: needs to be new or empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["films"]


def test_a_cache_of_ones_own_stays(encode_command, tmp_path):
    command = encode_command(tmp_path / "films")
    assert main([*command, "--encoder", "tfidf", "--cache", str(tmp_path / "cache")]) == 0
    assert any((tmp_path / "cache").iterdir())


def test_a_folder_of_a_known_kind(tmp_path):
    """MovieLens has texts and no posters here: only what reads texts is run."""
    source = tmp_path / "ml"
    source.mkdir()
    ratings = [(user, 1 + (user + step) % 8, 4, step) for user in range(6) for step in range(4)]
    columns = ["userId", "movieId", "rating", "timestamp"]
    pd.DataFrame(ratings, columns=columns).to_csv(source / "ratings.csv", index=False)
    words = ["war", "love", "space", "train", "ship", "dog", "cat", "king"]
    pd.DataFrame(
        {"movieId": range(1, 9), "title": [f"{word} film" for word in words], "genres": "Drama"}
    ).to_csv(source / "movies.csv", index=False)
    out = tmp_path / "out"
    assert main(["encode", str(source), "--out", str(out), "--width", "3"]) == 0
    assert feature_names(MMRecFolder(out).data) == ["tfidf"]
    assert MMRecFolder(out).report.parts[0].interactions == 12  # random: of 4, 2 are held out
    again = ["encode", str(out), "--out", str(tmp_path / "again")]
    assert main(again) == 0  # its texts are gone, its table stays
    assert feature_names(MMRecFolder(tmp_path / "again").data) == ["tfidf"]


def test_a_published_split_without_validation_gets_one(tmp_path, capsys):
    source, out = tmp_path / "split", tmp_path / "out"
    source.mkdir()
    rows = [(user, (user + step) % 9) for user in range(6) for step in range(5)]
    lines = [f"{user}\t{item}\t{2 * (row % 5 == 4)}" for row, (user, item) in enumerate(rows)]
    (source / "split.inter").write_text("\n".join(["userID\titemID\tx_label", *lines]) + "\n")
    np.save(source / "text.npy", np.eye(9, dtype=np.float32))
    command = ["train", str(source), "--model", "BPR", "--epochs", "1", "--out", str(out)]
    assert main(command) == 2
    assert "--split: by='labels' leaves no validation links" in (told := capsys.readouterr().err)
    assert "--val-from-train 0.1" in told
    assert main([*command, "--val-from-train", "0.25"]) == 0
    assert main(["evaluate", str(out)]) == 0
    assert load_run(out, None, "cpu").data.split.parts[1].interactions == 6
    assert main([*command, "--val-from-train", "1"]) == 2
    assert "needs to be between 0 and 1" in capsys.readouterr().err


def test_views_are_known_pairs_of_their_own_file(shop, encode_command, tmp_path):
    views = tmp_path / "views.csv"
    views.write_text("user_id,item_id,rating\nu0,101,3\nu1,100,2\nnobody,100,1\n")
    out = tmp_path / "films"
    assert main([*encode_command(out), "--encoder", "tfidf", "--known", str(views)]) == 0
    data = MMRecFolder(out).data
    user, item = known_pairs(data).tolist()
    pairs = set(zip(data["user"].id[user], data["item"].id[item], strict=True))
    assert len(pairs) in (41, 42)  # a pair may be rated low too
    assert {("u0", 101), ("u1", 100)} <= pairs


def test_a_column_of_image_paths(shop, tmp_path):
    films = pd.read_csv(shop.films)
    films["poster"] = [
        f"posters/{item}.{'png' if (item - 100) % 3 else 'jpg'}" for item in films.item_id
    ]
    films.to_csv(tmp_path / "films.csv", index=False)
    shutil.copytree(shop.posters, tmp_path / "posters")
    command = ["encode", str(shop.ratings), "--items", str(tmp_path / "films.csv")]
    out = tmp_path / "out"
    command += ["--image", "poster", "--width", "4", "--out", str(out)]
    assert main(command) == 0
    data = MMRecFolder(out).data
    assert feature_names(data) == ["patch_pca"]
    assert not data["item"].mask_patch_pca.any()


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        ("--encoder bert", 2, "--encoder: needs to be of the form tfidf, tfidf_char, patch_pca,"),
        ("--encoder tfidf tfidf", 2, "--encoder: needs each name once ('tfidf' is repeated)"),
        ("--k-core 99", 2, "--k-core: 'k' leaves no interactions (got 99"),
        ("--min-rating 9", 2, "--min-rating: leaves no interactions (got 9, the"),
        ("--images nowhere", 2, "--images: needs to be a folder or a zip file"),
        ("--image x", 2, "--image, --images: give one of them (got both)"),
        ("--encoder tfidf --width 400", 1, "(got 400): lower it"),
        ("--text titel", 1, "a header with 'item_id', 'title', 'plot', 'titel' is needed (got"),
        ("--out {films}", 2, "--out: needs to be new or empty (got"),
    ],
)
def test_errors(more, code, message, encode_command, encoded, tmp_path, capsys):
    command = encode_command(tmp_path / "out")
    assert main([*command, *more.format(films=encoded).split()]) == code
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told
    assert not (tmp_path / "out").exists()


def test_nothing_to_encode(shop, tmp_path, capsys):
    command = ["encode", str(shop.ratings), "--out", str(tmp_path / "out"), "--encoder", "tfidf"]
    assert main(command) == 2
    assert "error: --encoder: there is nothing to encode: give --items" in capsys.readouterr().err
    command = ["encode", str(shop.ratings), "--out", str(tmp_path / "out"), "--items"]
    assert main([*command, str(shop.films)]) == 2
    assert "error: --items: name its text columns with --text" in capsys.readouterr().err
    assert main(["encode", "nowhere", "--out", str(tmp_path / "out")]) == 2
    assert "error: PATH: 'path' needs to be a folder or a file" in capsys.readouterr().err
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "x.png").write_bytes(b"")
    command[-1:] = ["--images", str(tmp_path / "others")]
    assert main(command) == 2
    assert "none of 1 is one (got 'x', the items are like '100')" in capsys.readouterr().err


def test_interactions_alone_are_enough_for_models_that_read_nothing_else(tmp_path, capsys):
    """From a csv, and from a folder in LightGCN's format, to BPR."""
    links = [(user, (user + step) % 8) for user in range(8) for step in range(5)]
    pd.DataFrame(links, columns=["user", "item"]).to_csv(tmp_path / "links.csv", index=False)
    (tmp_path / "gcn").mkdir()
    for part, steps in (("train", (0, 1, 2)), ("valid", (3,)), ("test", (4,))):
        rows = [f"{u} {' '.join(str((u + s) % 8) for s in steps)}\n" for u in range(8)]
        (tmp_path / "gcn" / f"{part}.txt").write_text("".join(rows))
    for source in ("links.csv", "gcn"):
        out, run = tmp_path / f"{source}-data", tmp_path / f"{source}-run"
        assert main(["encode", str(tmp_path / source), "--out", str(out)]) == 0
        note = "neither texts nor images (--items with --text, or --images): for models that read "
        assert (
            f"{note}interactions alone: ALS, BPR, EASE, ItemKNN, LightGCN, Popularity\n"
            in capsys.readouterr().err
        )
        train = ["train", str(out), "--out", str(run), "--epochs", "1"]
        assert main(train) == 2
        told = "error: AlignRec needs a feature table, and the data has none: ALS, BPR, EASE, "
        assert told in capsys.readouterr().err
        assert main([*train, "--model", "BPR"]) == 0


def test_defaults_that_nobody_gave_fit_small_data(tmp_path, capsys):
    """Six items with texts: no 64 dimensions and no 10 neighbours."""
    words = ["war", "love", "space", "train", "ship", "dog"]
    links = [(user, (user + step) % 6) for user in range(8) for step in range(4)]
    pd.DataFrame(links, columns=["user", "item"]).to_csv(tmp_path / "links.csv", index=False)
    items = pd.DataFrame({"sku": range(6), "title": [f"{word} film" for word in words]})
    items.to_csv(tmp_path / "items.csv", index=False)
    out, run = tmp_path / "out", tmp_path / "run"
    command = ["encode", str(tmp_path / "links.csv"), "--items", str(tmp_path / "items.csv")]
    command += ["--items-id", "sku", "--text", "title", "--out", str(out)]
    assert main(command) == 0
    assert "note: 'tfidf' is 5 wide instead of 64: the items are few\n" in capsys.readouterr().err
    assert MMRecFolder(out).data["item"].x_tfidf.shape == (6, 5)
    assert main(["train", str(out), "--out", str(run), "--epochs", "1"]) == 0
    note = "ATTENTION: item graphs have 6 neighbours instead of 10: no more items have features\n"
    assert note in capsys.readouterr().err
    assert main(["evaluate", str(run), "--k", "3"]) == 0


def test_messages_name_options(shop, tmp_path, capsys):
    """Where the library names its arguments, the command line names its own words."""
    command = ["encode", str(shop.ratings), "--items", str(shop.films), "--image", "title"]
    assert main([*command, "--out", str(tmp_path / "out"), "--max-failures", "0.1"]) == 1
    told = capsys.readouterr().err
    assert "--max-failures needs to be larger than 10.00%" in told
    assert "or increase --max-failures" in told
    (tmp_path / "a.tsv").write_text('user\titem\tx\na\tx\t"so so\nb\ty\tz\n')
    assert main(["encode", str(tmp_path / "a.tsv"), "--out", str(tmp_path / "out")]) == 1
    assert "; --unquoted takes double quotes as ordinary" in capsys.readouterr().err


def test_a_cache_is_for_the_next_time_and_cleared_when_asked(encode_command, tmp_path, capsys):
    cache = tmp_path / "cache"
    command = [*encode_command(tmp_path / "one"), "--encoder", "tfidf", "--cache", str(cache)]
    assert main(command) == 0
    assert "--clear-cache" not in capsys.readouterr().err
    old = {path.name for path in cache.glob("encoded_*")}
    again = [*encode_command(tmp_path / "two"), "--encoder", "tfidf", "--cache", str(cache)]
    assert main([*again, "--width", "5"]) == 0
    assert f"MB in {cache} were not used" in capsys.readouterr().err
    third = [*encode_command(tmp_path / "three"), "--encoder", "tfidf", "--cache", str(cache)]
    assert main([*third, "--width", "5", "--clear-cache"]) == 0
    output = capsys.readouterr()
    assert "(60 from the cache)" in output.out
    assert "were not used" not in output.err
    left = {path.name for path in cache.glob("encoded_*")}
    assert left
    assert not left & old
    assert main([*encode_command(tmp_path / "four"), "--clear-cache"]) == 2
    assert "--clear-cache: needs --cache" in capsys.readouterr().err


def test_titles_without_blanks_and_an_encoder_of_ones_own(tmp_path, monkeypatch, capsys):
    signs = [chr(0x4E00 + number) for number in range(30)]
    titles = ["".join(signs[(n + k * k) % 30] for k in range(5)) + str(n) for n in range(25)]
    items = pd.DataFrame({"item": range(25), "title": titles})
    items.to_csv(tmp_path / "items.csv", index=False)
    likes = [(user, (user + 3 * step) % 25) for user in range(13) for step in range(5)]
    pd.DataFrame(likes, columns=["user", "item"]).to_csv(tmp_path / "likes.csv", index=False)
    (tmp_path / "own_characters.py").write_text(
        "from sklearn.feature_extraction.text import CountVectorizer\n"
        "from alignrec_pyg.encoders import SklearnEncoder\n"
        "def signs():\n"
        "    return SklearnEncoder(CountVectorizer(analyzer='char'), 'text')\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["encode", "likes.csv", "--items", "items.csv", "--text", "title", "--out", "out"]
    words += ["--encoder", "tfidf", "own=own_characters:signs", "--split", "random"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert told.out.count("ATTENTION: only 0 of 25 terms occur") == 1
    assert "'tfidf_char' on the command line" in told.out
    assert "ATTENTION" not in told.err  # it is said once
    own = feature_table(MMRecFolder(tmp_path / "out").data, "own")
    assert own.shape == (25, len(set("".join(titles))))
