"""A shop as a new user has it: a folder of posters, a csv of ratings, a csv of texts."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from alignrec_pyg.cli import main

NUM_USERS, NUM_ITEMS, RATINGS = 40, 60, 12
TASTES = ("red", "blue")
WORDS = {"red": ("war", "battle", "soldier", "tank"), "blue": ("love", "kiss", "wedding", "rose")}


class Shop(NamedTuple):
    """Paths of raw data with a known right answer.

    Odd users like blue films, even ones red films: poster, text and title tell. Items are called
    100 to 159, users u0 to u39.
    """

    ratings: Path
    films: Path
    posters: Path


def taste(number: int) -> str:
    """Of a user or an item."""
    return TASTES[number % 2]


def write_shop(folder: Path) -> Shop:
    """Writes the files."""
    rng = np.random.default_rng(0)
    shop = Shop(folder / "ratings.csv", folder / "films.csv", folder / "posters")
    shop.posters.mkdir(parents=True)
    with shop.films.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "title", "plot"])
        for item in range(NUM_ITEMS):
            plot = " ".join(rng.choice(WORDS[taste(item)], size=3))
            writer.writerow([100 + item, f"{taste(item)} film {item}", plot])
            pixels = rng.integers(0, 60, (24, 20, 3), dtype=np.uint8)
            pixels[..., 0 if taste(item) == "red" else 2] += 150
            ending = "png" if item % 3 else "jpg"
            Image.fromarray(pixels).save(shop.posters / f"{100 + item}.{ending}")
    with shop.ratings.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "rating", "timestamp"])
        for user in range(NUM_USERS):
            liked = rng.permutation(np.arange(user % 2, NUM_ITEMS, 2))[:RATINGS]
            for time, item in enumerate(liked):
                writer.writerow([f"u{user}", 100 + item, 5, 1000 * time + user])
            disliked = (user + 1) % 2 + 2 * (user % 30)
            writer.writerow([f"u{user}", 100 + disliked, 1, 99])
    return shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The raw data; not to be changed."""
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def encode_command(shop: Shop) -> Callable[[Path], list[str]]:
    """From the folder to write to, the command that encodes the shop's items."""
    return lambda out: [
        *("encode", str(shop.ratings), "--items", str(shop.films), "--text", "title", "plot"),
        *("--images", str(shop.posters), "--min-rating", "4", "--width", "4"),
        *("--split", "leave_last_out", "--device", "cpu", "--out", str(out)),
    ]


@pytest.fixture(scope="session")
def encoded(
    encode_command: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What encode wrote; not to be changed."""
    out = tmp_path_factory.mktemp("encoded") / "films"
    assert main(encode_command(out)) == 0
    return out


@pytest.fixture(scope="session")
def train_command(encoded: Path) -> Callable[[Path], list[str]]:
    """From the folder of the run, the command that trains AlignRec briefly."""
    return lambda out: [
        *("train", str(encoded), "--out", str(out), "--epochs", "8", "--lr", "0.01"),
        *("--batch-size", "128", "--item-neighbors", "5", "--device", "cpu"),
        *("--set", "eval_every=1"),
    ]


@pytest.fixture(scope="session")
def run(
    train_command: Callable[[Path], list[str]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What train wrote; not to be changed."""
    out = tmp_path_factory.mktemp("run") / "alignrec"
    assert main(train_command(out)) == 0
    return out
