"""A tiny data set in MMRec's format, and a way to run a script on it."""

from __future__ import annotations

import contextlib
import importlib
import io

import numpy as np
import pytest

USERS, ITEMS, PER_USER = 24, 30, 8
_QUICK = ("--epochs", "2", "--batch-size", "64", "--threads", "1", "--device", "cpu")


def _write_folder(folder, features=("image", "text"), labels=True, times=False):
    """Two tastes: users like the items of their own parity, more or less; features show it."""
    generator = np.random.default_rng(0)
    moments = np.random.default_rng(1).permutation(USERS * PER_USER)
    columns = ["userID", "itemID", *["timestamp"] * times, *["x_label"] * labels]
    rows = ["\t".join(columns)]
    last = 0
    for user in range(USERS):
        weight = np.where(np.arange(ITEMS) % 2 == user % 2, 5.0, 1.0)
        items = generator.choice(ITEMS, PER_USER, replace=False, p=weight / weight.sum())
        if user == 0 and ITEMS - 1 not in items:
            items[0] = ITEMS - 1  # the largest id says how many items there are
        for position, item in enumerate(items):
            label = max(0, position - PER_USER + 3)
            time = 1_500_000_000 + moments[user * PER_USER + position]
            values = [user, item, *[time] * times, *[label] * labels]
            rows.append("\t".join(str(value) for value in values))
            last = max(last, item)
    assert last == ITEMS - 1
    folder.mkdir(parents=True)
    (folder / f"{folder.name}.inter").write_text("\n".join(rows) + "\n")
    for number, name in enumerate(features):
        table = generator.normal(size=(ITEMS, 6 + number)).astype(np.float32)
        table[:, 0] += 3.0 * (np.arange(ITEMS) % 2)
        np.save(folder / f"{name}.npy", table)
    return folder


def _write_neighbors(path, k=10, cosine=True, shift=1):
    """Every item's neighbours are itself and the next ones."""
    neighbor = (np.arange(ITEMS)[:, None] + shift * np.arange(k)) % ITEMS
    arrays = {"neighbor": neighbor.astype(np.int32)}
    if cosine:
        arrays["cosine"] = np.tile(np.linspace(1, 0.5, k, dtype=np.float32), (ITEMS, 1))
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """Labels and two feature tables."""
    return _write_folder(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def timed_folder(tmp_path_factory):
    """Labels, times and three feature tables."""
    folder = tmp_path_factory.mktemp("data") / "timed"
    return _write_folder(folder, features=("audio", "image", "text"), times=True)


@pytest.fixture(scope="session")
def bare_folder(tmp_path_factory):
    """Labels and no feature table."""
    return _write_folder(tmp_path_factory.mktemp("data") / "bare", features=())


@pytest.fixture(scope="session")
def run_script(tmp_path_factory):
    """Runs a script for two epochs, unless told otherwise; gives status, output and errors."""
    elsewhere = tmp_path_factory.mktemp("out")

    def run(script, *arguments):
        module = importlib.import_module(f"benchmarks.{script}")
        arguments = (*_QUICK, "--out", elsewhere, *arguments)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = module.main([str(argument) for argument in arguments])
        return status, out.getvalue(), err.getvalue()

    return run


@pytest.fixture(scope="session")
def write_folder():
    """Writes a folder like ``tiny_folder`` with other tables, without labels or with times."""
    return _write_folder


@pytest.fixture(scope="session")
def write_neighbors():
    """Writes neighbour lists for the items of ``tiny_folder``."""
    return _write_neighbors
