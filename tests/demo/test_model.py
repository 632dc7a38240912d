import csv
import re
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from alignrec_pyg import TrainConfig
from alignrec_pyg.demo import Showcase
from alignrec_pyg.demo.model import colors, load_or_train, stripes
from alignrec_pyg.models import AlignRec
from alignrec_pyg.storage import CheckpointError

BRIEF = TrainConfig(max_epochs=1)


def movielens(folder, *, posters=True, size=70):
    """Movies of two kinds, each liked by half of the users; the last one by next to nobody."""
    folder.mkdir()
    ratings = [(f"{u}", m, 4.5, 1_000 + u) for u in range(40) for m in range(size) if (u + m) % 2]
    ratings += [(str(u), 0, 3.5, 1_000) for u in range(40)]  # no like
    ratings += [("1", size, 5.0, 1_000)]
    with (folder / "ratings.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("userId", "movieId", "rating", "timestamp"), *ratings])
    movies = [(m, f"Film {m}, The (19{m:02})", f"Genre{m % 5}") for m in range(size + 1)]
    with (folder / "movies.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("movieId", "title", "genres"), *movies])
    plots = [(m, " ".join(f"word{m * step % 97}" for step in (3, 5, 7, 11))) for m in range(size)]
    with (folder / "overviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("movieId", "overview"), *plots])
    if posters:
        with zipfile.ZipFile(folder / "posters.zip", "w") as archive:
            for movie in range(1, size):
                noise = np.random.default_rng(movie).integers(0, 255, (30, 20, 3), dtype=np.uint8)
                with archive.open(f"{movie}.png", "w") as file:
                    Image.fromarray(noise).save(file, "PNG")
    return folder


def test_trains_once_and_loads_the_next_time(tmp_path):
    folder, run, lines = movielens(tmp_path / "ml"), tmp_path / "run", []
    first = load_or_train(folder, run, config=BRIEF, log=lines.append)
    assert any(line.startswith("epoch 1: validation recall@20 0.") for line in lines)
    again = load_or_train(folder, run, config=BRIEF, log=lines.append)
    assert lines[-1] == f"loading the model of {run}"
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])
    assert first.titles[1] == "Film 1, The (1901)"
    assert 70 not in first.data["item"].id  # in no 5-core
    showcase = Showcase(
        again.model,
        again.data,
        titles=again.titles,
        encode=again.encode,
        item_graphs=again.item_graphs,
    )
    assert showcase.reads == ("image", "text")
    assert showcase.for_user("1", 3).recommended[0].item.title.startswith("Film ")
    view = showcase.new_item(again.data["item"].image[5], "Genre3 word21", 3)
    assert view.used == ("image", "text")


def test_a_folder_without_posters_is_placed_by_texts(tmp_path):
    made = load_or_train(movielens(tmp_path / "ml", posters=False), tmp_path / "run", config=BRIEF)
    showcase = Showcase(made.model, made.data, encode=made.encode, item_graphs=made.item_graphs)
    assert showcase.reads == ("text",)


def test_a_run_of_other_data_is_refused(tmp_path):
    load_or_train(movielens(tmp_path / "ml"), tmp_path / "run", config=BRIEF)
    with pytest.raises(CheckpointError, match="does not fit|was trained"):
        load_or_train(movielens(tmp_path / "other", size=72), tmp_path / "run", config=BRIEF)


def test_training_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    folder, run, lines = movielens(tmp_path / "ml"), tmp_path / "run", []
    config = TrainConfig(max_epochs=3)

    def fail(self, folder):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(AlignRec, "save_pretrained", fail)
        with pytest.raises(OSError, match="full"):
            load_or_train(folder, run, config=config)
    load_or_train(folder, run, config=config, log=lines.append)
    assert not any(line.startswith("epoch") for line in lines)  # all were done
    assert (run / "config.json").is_file()


def test_embedded_data_by_default(tmp_path):
    made = load_or_train(None, tmp_path, config=BRIEF)
    assert len(made.titles) == made.model.num_items == 600
    assert re.fullmatch(r"\w+( and \w+)?, (upright|level|slanting) stripes \(3\)", made.titles[3])
    assert re.fullmatch(r"user 7 \(\w+( and \w+)?\)", made.user_names[7])
    showcase = Showcase(made.model, made.data, encode=made.encode, item_graphs=made.item_graphs)
    photo = np.random.default_rng(0).integers(0, 255, (90, 60, 3), dtype=np.uint8)  # of any size
    assert showcase.new_item(photo, None, 3).used == ("image",)


def striped(first, second, axis):
    """Eight stripes, that run along an axis of the image."""
    lines = torch.arange(32) // 4 % 2 == 0
    mask = lines[:, None].expand(32, 32) if axis == 1 else lines[None].expand(32, 32)
    colours = torch.tensor([first, second], dtype=torch.uint8)
    return torch.where(mask, colours[0, :, None, None], colours[1, :, None, None])


@pytest.mark.parametrize(
    ("first", "second", "axis", "expected"),
    [
        ((200, 40, 40), (40, 200, 200), 0, ("red and turquoise", "upright")),
        ((40, 200, 200), (200, 40, 40), 1, ("red and turquoise", "level")),
        ((90, 90, 90), (40, 40, 200), 0, ("blue and grey", "upright")),
        ((40, 200, 40), (40, 120, 40), 1, ("green", "level")),
    ],
)
def test_patterns_in_words(first, second, axis, expected):
    image = striped(first, second, axis)
    assert (colors(image), stripes(image)) == expected


def test_slanting_stripes():
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    image = (((x + y) // 5 % 2) * 200).byte().expand(3, 32, 32)
    assert stripes(image) == "slanting"
    assert colors(torch.full((3, 8, 8), 9, dtype=torch.uint8)) == "grey"  # without any


def test_a_folder_that_is_none_is_told(tmp_path):
    with pytest.raises(ValueError, match="'path' needs to be a folder"):
        load_or_train(tmp_path / "none", tmp_path / "run")


@pytest.mark.slow
def test_on_movielens(data_folder, tmp_path):
    made = load_or_train(data_folder / "ml-latest-small", tmp_path, config=BRIEF)
    assert (made.model.num_users, made.model.num_items) == (601, 1955)
    assert "Toy Story (1995)" in made.titles
