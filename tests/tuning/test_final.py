import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import compare
from benchmarks.arguments import make_parser
from benchmarks.presets import PAPER
from benchmarks.settings import resolve
from tuning.spaces import with_point

pytest.importorskip("ray", reason="needs Ray ('tune' extra)")

from tuning.final import by_hand

POINT = {"lr": 0.00123, "cca_weight": 1e-4, "num_layers": 3, "item_neighbors": 20}


def session(*words, out="here/out"):
    parser = make_parser("", models=["AlignRec"])
    options = parser.parse_args(["--models", "AlignRec", *words])
    presets = resolve(
        ["AlignRec"], PAPER, options.set, max_epochs=options.epochs, patience=options.patience,
        batch_size=options.batch_size, lr=options.lr,
    )  # fmt: skip
    return SimpleNamespace(
        options=options, presets=presets, device=torch.device("cpu"), out=Path(out)
    )


def parsed(line):
    program, script, *words = shlex.split(line)
    assert (program, script) == ("python", "benchmarks/compare.py")
    assert Path(compare.__file__).name == "compare.py"
    return make_parser("").parse_args(words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--epochs", "3", "--patience", "2", "--batch-size", "64", "--seeds", "5"],
        ["--features", "a", "b", "--tables", "a=x y.npy", "--feature-scale", "raw"],
        ["--split", "global_time", "--set", "AlignRec.reg_target=frozen", "--data", "some folder"],
    ],
)
def test_the_line_says_all_that_the_sweep_was_told(words):
    asked = session(*words)
    found = parsed(by_hand(asked, POINT))
    for name in ("data", "features", "tables", "neighbors", "feature_scale", "seeds", "split"):
        assert getattr(found, name) == getattr(asked.options, name), name
    assert found.item_neighbors == 20
    assert (found.device, found.threads) == ("cpu", torch.get_num_threads())
    assert found.out == Path("here/out/by_hand")
    (preset,) = resolve(
        found.models, PAPER, found.set, max_epochs=found.epochs, patience=found.patience,
        batch_size=found.batch_size, lr=found.lr,
    ).values()  # fmt: skip
    assert preset == with_point(asked.presets["AlignRec"], POINT)
    assert preset != asked.presets["AlignRec"]


def test_a_learning_rate_that_was_given_and_not_searched_stays():
    asked = session("--lr", "0.005")
    point = {"cca_weight": 0.1}
    found = parsed(by_hand(asked, point))
    (preset,) = resolve(found.models, PAPER, found.set, lr=found.lr).values()
    assert preset == with_point(replace(asked.presets["AlignRec"]), point)
    assert preset.train.lr == 0.005


def test_neighbor_lists_have_their_own_number():
    line = by_hand(session("--neighbors", "text=n.npz"), {"cca_weight": 0.1})
    assert parsed(line).neighbors == ["text=n.npz"]
    assert "--item-neighbors" not in line
