import zipfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from alignrec_pyg.datasets import MMRecFolder
from alignrec_pyg.encoders import BEiT3Config, BEiT3Encoder, ItemContent, SentencePieceTokenizer
from alignrec_pyg.graph import INTERACTS, feature_names, feature_table
from benchmarks import movielens_tables

NUM_USERS, NUM_MOVIES = 6, 7
WORDS = ("heat", "toys", "war", "love", "space", "train", "ship")


@pytest.fixture
def folder(tmp_path):
    """All like all movies but the last, which has no plot; one rating is too low to be a like."""
    source = tmp_path / "movielens"
    source.mkdir()
    ratings = [
        f"{user},{10 * movie},{3.5 if user == 1 and movie == 2 else 4.0},{1000 + 10 * user + movie}"
        for user in range(NUM_USERS)
        for movie in range(NUM_MOVIES)
    ]
    titles = [f'{10 * movie},"The {word}, {movie}",Drama' for movie, word in enumerate(WORDS)]
    plots = [
        f'{10 * movie},"{word}, and {WORDS[movie - 1]}"'
        for movie, word in enumerate(WORDS[: NUM_MOVIES - 1])
    ]
    for name, head, rows in (
        ("ratings", "userId,movieId,rating,timestamp", ratings),
        ("movies", "movieId,title,genres", titles),
        ("overviews", "movieId,overview", plots),
    ):
        (source / f"{name}.csv").write_text("\n".join([head, *rows]) + "\n")
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(source / "posters.zip", "w") as archive:
        for movie in range(NUM_MOVIES):
            image, file = rng.integers(0, 256, (70 + movie, 64, 3), dtype=np.uint8), BytesIO()
            Image.fromarray(image).save(file, "png")
            archive.writestr(f"posters/{10 * movie}.png", file.getvalue())
    return source


@pytest.fixture
def stage1(tmp_path):
    pytest.importorskip("torchscale")
    tokenizer = SentencePieceTokenizer.train([f"The {word} and" for word in WORDS], 40)
    sizes = BEiT3Config.tiny(vocab_size=tokenizer.vocab_size)
    # other weights than those that the comparison draws
    BEiT3Encoder(sizes, tokenizer, seed=1).save_pretrained(tmp_path / "encoder", {})
    return tmp_path / "encoder"


def run(*arguments):
    return movielens_tables.main([str(argument) for argument in arguments])


def test_folder_is_read_back_with_a_table_for_each_encoder(folder, stage1, tmp_path, monkeypatch):
    monkeypatch.setattr(movielens_tables, "WIDTH", 4)  # six movies have no 64 directions
    out = tmp_path / "likes"
    assert run("--data", folder, "--out", out, "--stage1", stage1) == 0
    data = MMRecFolder(out).data
    # the movie without a plot is left out with its likes, and the low rating
    assert data["item"].id.tolist() == [0, 10, 20, 30, 40, 50]
    assert data[INTERACTS].edge_index.size(1) == NUM_USERS * (NUM_MOVIES - 1) - 1
    user, item = data[INTERACTS].edge_index
    assert data[INTERACTS].time.tolist() == (1000 + 10 * user + item).tolist()
    beit3 = {name + end for name in ("beit3", "beit3_random") for end in ("", "_text", "_image")}
    tables = {name: feature_table(data, name) for name in feature_names(data)}
    assert set(tables) == {"tfidf", "patch_pca", *beit3}
    assert all(bool(table.any(dim=1).all()) for table in tables.values())
    encoder = BEiT3Encoder.from_pretrained(stage1)
    text = ItemContent(["The toys, 1 toys, and heat"], [None])
    np.testing.assert_allclose(tables["beit3_text"][1:2], encoder(text), atol=1e-5)
    assert not np.allclose(tables["beit3_random_text"], tables["beit3_text"], atol=1e-2)
    catalogue = (out / "catalogue.csv").read_text().splitlines()
    assert len(catalogue) == 1 + NUM_MOVIES
    assert catalogue[2] == '10,"The toys, 1","toys, and heat"'


def test_what_does_not_fit_is_told(folder, tmp_path, capsys):
    (folder / "overviews.csv").unlink()
    assert run("--data", folder, "--out", tmp_path / "out") == 1
    assert "overviews.csv" in capsys.readouterr().err
