from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from alignrec_pyg.checks import (
    check_choice,
    check_cut_offs,
    check_indices,
    check_integer,
    check_number,
    require_package,
    unknown_names,
)


def test_an_integer_comes_back_as_a_plain_one():
    for value in (5, np.int64(5), np.uint8(5)):
        checked = check_integer("k", value, 1, 5)
        assert type(checked) is int
        assert json.dumps(checked) == "5"


@pytest.mark.parametrize("value", [2.0, np.float64(2), "3", None, True, np.True_, [3], math.nan])
def test_what_is_no_integer_is_named(value):
    with pytest.raises(ValueError, match="'k' needs to be an integer") as raised:
        check_integer("k", value, 1)
    assert str(raised.value) == f"'k' needs to be an integer (got {value!r})"


def test_an_integer_out_of_range_is_told_the_range():
    with pytest.raises(ValueError, match=r"^'seed' needs to be 0 or more \(got -1\)$"):
        check_integer("seed", -1, 0)
    for value in (0, 100):
        with pytest.raises(ValueError, match=r"^'k' needs to be in \[1, 99\] \(got .*: lower"):
            check_integer("k", value, 1, 99, hint=": lower it")


def test_a_number_comes_back_as_a_plain_one():
    for value in (1, 1.0, np.float32(1), np.int64(1)):
        assert type(check_number("lr", value, above=0)) is float
    assert check_number("x", -3) == -3


@pytest.mark.parametrize("value", ["1", None, True, [1.0], torch.tensor(1.0)])
def test_what_is_no_number_is_named(value):
    with pytest.raises(ValueError, match="'lr' needs to be a number"):
        check_number("lr", value)


@pytest.mark.parametrize(
    ("interval", "rule", "outside", "inside"),
    [
        ({"above": 0}, "finite and positive", [0, -1], [1e-9]),
        ({"least": 0}, "finite and 0 or more", [-1e-9], [0, 7]),
        ({}, "finite", [], [-1e9]),
        ({"least": 0, "most": 1}, "in [0, 1]", [-0.1, 1.1], [0, 0.5, 1]),
        ({"least": 0, "below": 1}, "in [0, 1)", [-0.1, 1], [0, 0.999]),
        ({"above": 0, "most": 1}, "in (0, 1]", [0, 1.1], [1e-9, 1]),
        ({"above": 0, "below": 1}, "in (0, 1)", [0, 1], [0.5]),
        ({"above": 2}, "in (2, inf)", [2], [3]),
        ({"most": 2}, "in (-inf, 2]", [3], [2, -9]),
    ],
)
def test_a_number_out_of_its_interval_is_told_the_interval(interval, rule, outside, inside):
    for value in inside:
        assert check_number("lr", value, **interval) == value
    for value in [*outside, math.inf, -math.inf, math.nan]:
        with pytest.raises(ValueError, match="'lr' needs to be") as raised:
            check_number("lr", value, **interval)
        assert str(raised.value) == f"'lr' needs to be {rule} (got {value})"


def test_a_choice_is_told_the_others():
    check_choice("by", "time", ("time", "random"))
    with pytest.raises(
        ValueError, match=r"'by' needs to be one of \('time', 'random'\) \(got None"
    ):
        check_choice("by", None, ("time", "random"))


@pytest.mark.parametrize("ks", [(), 0, (10, -1), (2.5,), "20", None, True, (True,), 10.0])
def test_wrong_cut_offs_are_named(ks):
    with pytest.raises(ValueError, match="'ks' needs to hold positive integers"):
        check_cut_offs(ks)


def test_cut_offs_of_any_integers():
    assert check_cut_offs(20) == (20,)
    assert check_cut_offs([np.int64(10), 5]) == (10, 5)
    assert check_cut_offs(np.array([10, 5])) == (10, 5)


def test_indices_are_integers_in_one_dimension():
    for kind in (torch.int64, torch.int32, torch.uint8):
        index = torch.tensor([0, 3, 3], dtype=kind)
        assert check_indices("users", index, 4) is index
    for other in (torch.tensor([True]), torch.tensor([0.0]), torch.tensor([[0]]), [0], None):
        with pytest.raises(ValueError, match="'users' needs to be a 1-D tensor of integers"):
            check_indices("users", other, 4)
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=rf"'users' needs to be in \[0, 3\] \(got {wrong}\)"):
            check_indices("users", torch.tensor([0, wrong]), 4)


def test_importing_the_checks_loads_no_torch():
    spec = "import importlib.util as u; s = u.spec_from_file_location('c', sys.argv[1]); "
    code = f"import sys; {spec}m = u.module_from_spec(s); s.loader.exec_module(m); "
    code += "sys.exit('torch' in sys.modules)"
    path = sys.modules["alignrec_pyg.checks"].__file__
    assert subprocess.run([sys.executable, "-c", code, path], check=False).returncode == 0


def test_gives_a_package_that_is_there():
    assert require_package("json", "the test", "json") is importlib.import_module("json")


def test_a_missing_package_gives_the_lines_that_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # as if it were not installed
    with pytest.raises(ImportError) as raised:
        require_package("faiss", "ItemIndex", "faiss-cpu", extra="serving")
    assert str(raised.value) == (
        "ItemIndex needs 'faiss', which cannot be imported (import of faiss halted; None in "
        "sys.modules): run `pip install faiss-cpu`, or in a checkout `uv sync --extra serving`"
    )


def test_without_an_extra_only_pip_is_named():
    with pytest.raises(ImportError, match=r"run `pip install no-such-package`$"):
        require_package("no_such_package", "the test", "no-such-package")


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, ImportError, OSError])
def test_a_broken_package_gives_its_reason_too(error, monkeypatch):
    def broken(asked):
        assert asked == "open_clip"
        raise error("operator torchvision::nms does not exist")

    monkeypatch.setattr("alignrec_pyg.checks.import_module", broken)
    with pytest.raises(ImportError, match=r"torchvision::nms does not exist.*builds that match"):
        require_package("open_clip", "CLIPEncoder", "open-clip-torch")


def test_only_a_near_name_is_suggested():
    assert unknown_names("model", ["zzz"], ["BPR"]) == ["model 'zzz' is unknown: (there are BPR)"]
    (problem,) = unknown_names("model", ["lightgcn"], ["BPR", "LightGCN"])
    assert "did you mean 'LightGCN'?" in problem


def test_names_joined_by_commas_are_explained():
    (problem,) = unknown_names("model", ["BPR,LightGCN"], ["BPR", "LightGCN"])
    assert problem == "model 'BPR,LightGCN' is unknown: separate names by spaces"


def test_unknown_names_keep_silent_about_known_ones():
    assert unknown_names("feature", ["text"], ["text"]) == []
    assert unknown_names("feature", ["text"], []) == ["feature 'text' is unknown: (there are none)"]
