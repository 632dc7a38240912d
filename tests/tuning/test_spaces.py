from dataclasses import asdict
from inspect import signature
from math import log

import pytest

from alignrec_pyg.experiments.settings import PAPER, TRAIN_ARGUMENTS, points
from alignrec_pyg.graph import knn_edge_type
from alignrec_pyg.tuning.spaces import (
    ITEM_NEIGHBORS,
    PAPER_GRIDS,
    TRIAL,
    WIDE,
    Choice,
    Interval,
    grid_points,
    random_points,
    suggested,
    with_point,
)

SEARCHED = ("temperature", "ssl_temperature", "num_layers", "num_item_layers", "dropout")
"""Settings of a constructor that a wide space has to have, beside weights of the loss."""
SPACES = [(name, space) for spaces in (WIDE, PAPER_GRIDS) for name, space in spaces.items()]


def values_of(axis):
    return axis.values if isinstance(axis, Choice) else (axis.low, axis.high)


def test_every_model_has_a_wide_space():
    assert set(WIDE) == set(PAPER)


@pytest.mark.parametrize("name", WIDE)
def test_wide_spaces_have_what_the_constructor_offers(name):
    settings = PAPER[name]
    arguments = signature(settings.model.__init__).parameters
    expected = {"lr"} | {
        argument for argument in arguments if argument.endswith("_weight") or argument in SEARCHED
    }
    if settings.item_graph is not None or settings.table_graphs:
        expected.add(ITEM_NEIGHBORS)
    assert expected <= set(WIDE[name])
    assert set(WIDE[name]) - {ITEM_NEIGHBORS} <= set(arguments) | set(TRAIN_ARGUMENTS)
    assert (ITEM_NEIGHBORS in WIDE[name]) == (ITEM_NEIGHBORS in expected)


@pytest.mark.parametrize(("name", "space"), SPACES)
def test_values_have_the_type_of_the_setting_and_are_ordered(name, space):
    settings = {**asdict(PAPER[name].train), **PAPER[name].hparams(), ITEM_NEIGHBORS: 10}
    for argument, axis in space.items():
        values = values_of(axis)
        assert {type(value) for value in values} == {type(settings[argument])}, argument
        assert list(values) == sorted(set(values)), argument


@pytest.mark.parametrize("name", WIDE)
def test_published_settings_lie_in_the_wide_space(name):
    settings = {**asdict(PAPER[name].train), **PAPER[name].hparams(), ITEM_NEIGHBORS: 10}
    for argument, axis in WIDE[name].items():
        if isinstance(axis, Choice):
            assert settings[argument] in axis.values, argument
        else:
            assert axis.low <= settings[argument] <= axis.high, argument


@pytest.mark.parametrize("name", WIDE)
def test_models_can_be_built_at_both_ends(name, toy):
    settings = PAPER[name]
    inputs = {"features": ["image"]} if settings.tables != "none" else {}
    if settings.table_graphs:
        inputs["item_graphs"] = ["image"]
    assert knn_edge_type("image") in toy.edge_types
    for end in (0, -1):
        point = {argument: values_of(axis)[end] for argument, axis in WIDE[name].items()}
        changed = with_point(settings, point)
        model = settings.model(toy, **changed.hparams(), **inputs)
        told = {**model.hparams, **asdict(changed.train), ITEM_NEIGHBORS: point.get(ITEM_NEIGHBORS)}
        assert {argument: told[argument] for argument in point} == point


def test_the_paper_has_six_points():
    found = grid_points(PAPER_GRIDS["AlignRec"])
    assert len(found) == 6
    assert {(p["lr"], p["reg_weight"]) for p in found} == {
        (lr, weight) for lr in (3e-4, 1e-4) for weight in (0.1, 0.2, 0.3)
    }


def test_another_batch_size_divides_l2_terms_as_in_grids():
    (expected,) = points(PAPER["AlignRec"], {"batch_size": (64,)})
    assert with_point(PAPER["AlignRec"], {"batch_size": 64, ITEM_NEIGHBORS: 5}) == expected


def test_a_grid_needs_lists():
    space = {"lr": Interval(0.1, 1.0), "num_layers": Choice((1, 2)), "dropout": Interval(0.1, 0.2)}
    with pytest.raises(ValueError, match="needs lists of values, and lr, dropout have intervals"):
        grid_points(space)


def test_random_points_are_distinct_short_and_the_same_for_a_seed():
    space = WIDE["AlignRec"]
    found = random_points(space, 30, seed=0)
    assert len({repr(point) for point in found}) == len(found) == 30
    assert random_points(space, 10, seed=0) == found[:10]
    assert random_points(space, 10, seed=1) != found[:10]
    for point in found:
        assert list(point) == list(space)
        for name, axis in space.items():
            if isinstance(axis, Choice):
                assert point[name] in axis.values
            else:
                assert axis.low <= point[name] <= axis.high
                assert float(f"{point[name]:.3g}") == point[name]


def test_intervals_are_drawn_evenly_in_their_own_scale():
    space = {"lr": Interval(1e-4, 1.0), "dropout": Interval(0.0, 1.0, log=False)}
    found = random_points(space, 400, seed=0)
    assert sum(log(p["lr"]) < log(1e-2) for p in found) == pytest.approx(200, abs=40)
    assert sum(p["dropout"] < 0.5 for p in found) == pytest.approx(200, abs=40)


def test_no_more_random_points_than_there_are():
    found = random_points({"num_layers": Choice((1, 2)), "k": Choice((5, 10))}, 20, seed=0)
    assert sorted((p["num_layers"], p["k"]) for p in found) == [(1, 5), (1, 10), (2, 5), (2, 10)]


@pytest.mark.tune_extra
@pytest.mark.parametrize("name", WIDE)
def test_optuna_proposes_from_the_same_space(name):
    import optuna

    space = WIDE[name]
    study = optuna.create_study()
    study.ask()
    trial = study.ask()
    found = suggested(space, trial)
    assert found.pop(f"{TRIAL}/number") == 1
    assert found.pop(f"{TRIAL}/seed") == 0
    assert list(found) == [f"{TRIAL}/point/{argument}" for argument in space]
    for argument, axis in space.items():
        value = found[f"{TRIAL}/point/{argument}"]
        low, *_, high = values_of(axis)
        assert low <= value <= high
        assert trial.distributions[f"{TRIAL}/point/{argument}"] == axis.distribution()
        if isinstance(axis, Interval):
            assert float(f"{value:.3g}") == value
