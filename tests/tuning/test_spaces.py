from dataclasses import asdict
from math import log

import pytest

from alignrec_pyg.experiments.settings import (
    TRAIN_ARGUMENTS,
    ModelSettings,
    default_settings,
    package_models,
    published_settings,
)
from alignrec_pyg.graph import knn_edge_type
from alignrec_pyg.models import BPR, EASE, AlignRec, ClosedFormRecommender
from alignrec_pyg.train_config import TrainConfig
from alignrec_pyg.tuning.spaces import (
    ITEM_NEIGHBORS,
    TRIAL,
    WIDE,
    Choice,
    Interval,
    default_point,
    grid_points,
    holding,
    random_points,
    search_space,
    suggested,
    with_point,
)

MODELS = package_models()
PUBLISHED = {name: published_settings(model, "") for name, model in MODELS.items()}
SEARCHED = ("temperature", "ssl_temperature", "num_layers", "num_item_layers", "dropout")
"""Settings of a constructor that a wide space has to have, beside weights of the loss."""
SPACES = [
    (name, space)
    for name, settings in PUBLISHED.items()
    for kind in ("wide", "paper")
    if (space := search_space(settings, kind)) is not None
]


def values_of(axis):
    return axis.values if isinstance(axis, Choice) else (axis.low, axis.high)


def all_settings(settings):
    return {**asdict(settings.config), **settings.hparams, ITEM_NEIGHBORS: 10}


def test_every_model_has_a_space_of_its_own_and_most_a_published_one():
    assert set(WIDE) == set(MODELS.values())
    assert search_space(PUBLISHED["AlignRec"], "wide") == WIDE[AlignRec]
    paper = {name for name, settings in PUBLISHED.items() if search_space(settings, "paper")}
    closed_form = {n for n, m in MODELS.items() if issubclass(m, ClosedFormRecommender)}
    assert (
        paper
        == set(MODELS) - {"ContentLightGCN", "LGMRec", "PGL", "WeightedAlignRec"} - closed_form
    )


@pytest.mark.parametrize("name", MODELS)
def test_wide_spaces_have_what_the_constructor_offers(name):
    model = MODELS[name]
    arguments = model.hparam_parameters()
    by_steps = not issubclass(model, ClosedFormRecommender)
    expected = ({"lr", "batch_size"} if by_steps else set()) | {
        argument for argument in arguments if argument.endswith("_weight") or argument in SEARCHED
    }
    if model.inputs.item_graph != "none":
        expected.add(ITEM_NEIGHBORS)
    assert expected <= set(WIDE[model])
    assert by_steps or not set(WIDE[model]) & set(TRAIN_ARGUMENTS)
    assert set(WIDE[model]) - {ITEM_NEIGHBORS} <= set(arguments) | set(TRAIN_ARGUMENTS)
    assert (ITEM_NEIGHBORS in WIDE[model]) == (ITEM_NEIGHBORS in expected)


@pytest.mark.parametrize(("name", "space"), SPACES)
def test_values_have_the_type_of_the_setting_and_are_ordered(name, space):
    settings = all_settings(PUBLISHED[name])
    for argument, axis in space.items():
        values = values_of(axis)
        assert {type(value) for value in values} == {type(settings[argument])}, argument
        assert list(values) == sorted(set(values)), argument


@pytest.mark.parametrize("name", MODELS)
def test_wide_spaces_hold_published_and_default_values_with_room_on_both_sides(name, toy):
    """But no fewer layers than one, nor less than none; a factor of three, or a tenth."""
    model = MODELS[name]
    known = [published_settings(model, data) for data in ("", "baby", "sports", "elec")]
    for settings in (*known, default_settings(model, toy).completed(toy)):
        for argument, axis in WIDE[model].items():
            value = all_settings(settings)[argument]
            if isinstance(axis, Choice):
                assert value in axis.values, argument
                assert axis.values[0] < value or value in (0, 1), argument
                assert value < axis.values[-1], argument
            elif axis.log:
                assert 2.99 * axis.low < value < axis.high / 2.99, argument
            else:
                room = (axis.high - axis.low) / 10
                assert axis.low + room < value < axis.high - room, argument


def test_the_default_settings_are_a_point_that_changes_nothing():
    for name, settings in PUBLISHED.items():
        space = WIDE[MODELS[name]]
        point = default_point(space, settings, 7)
        assert list(point) == list(space)
        assert with_point(settings, point) == settings
        assert point.get(ITEM_NEIGHBORS, 7) == 7


def test_a_space_holds_the_default_settings_where_they_lie_outside():
    space = {"lr": Interval(0.1, 1.0), "share": Interval(0, 1, log=False), "k": Choice((1, 5))}
    assert holding(space, {"lr": 0.2, "share": 0.5, "k": 5}) == space
    assert holding(space, {"lr": 0.01, "share": 2.0, "k": 3}) == {
        "lr": Interval(0.01, 1.0),
        "share": Interval(0, 2.0, log=False),
        "k": Choice((1, 3, 5)),
    }


@pytest.mark.parametrize("name", MODELS)
def test_models_can_be_built_at_both_ends(name, toy):
    settings = PUBLISHED[name]
    inputs = {"features": ["image"]} if settings.model.inputs.tables != "none" else {}
    if settings.model.inputs.item_graph == "per_table":
        inputs["item_graphs"] = ["image"]
    assert knn_edge_type("image") in toy.edge_types
    for end in (0, -1):
        point = {a: values_of(axis)[end] for a, axis in WIDE[settings.model].items()}
        changed = with_point(settings, point)
        model = settings.model(toy, **changed.hparams, **inputs)
        used = {**model.hparams, **asdict(changed.config)}
        point.pop(ITEM_NEIGHBORS, None)
        assert {argument: used[argument] for argument in point} == point


class OwnModel(AlignRec):
    """A model that the package does not list."""

    def __init__(self, data, *, cca_weight=0.01, num_layers=2, off_weight=0.0, **rest):
        super().__init__(data, cca_weight=cca_weight, num_layers=num_layers, **rest)


def test_a_model_of_ones_own_is_searched_around_its_defaults():
    hparams = {"cca_weight": 0.3, "num_layers": 2, "off_weight": 0.0, "weight": 1.0, "width": 8}
    settings = ModelSettings(model=OwnModel, hparams=hparams, config=TrainConfig(lr=0.5))
    assert search_space(settings, "wide") == {
        "lr": Interval(1e-4, 3e-2),
        "batch_size": Choice((128, 256, 512, 1024, 2048, 4096)),
        "cca_weight": Interval(0.01, 9.0),
        "num_layers": Choice((1, 2, 3, 4)),
        ITEM_NEIGHBORS: Choice((5, 10, 20)),
    }
    assert search_space(settings, "paper") is None
    own = type("Own", (EASE,), {})
    solved = ModelSettings(model=own, hparams={"reg_weight": 10.0}, config=TrainConfig())
    assert search_space(solved, "wide").keys() == {"reg_weight"}
    flat = ModelSettings(model=type("Flat", (BPR,), {}), hparams={}, config=TrainConfig())
    assert search_space(flat, "wide").keys() == {"lr", "batch_size"}


def test_the_paper_has_six_points():
    found = grid_points(search_space(PUBLISHED["AlignRec"], "paper"))
    assert len(found) == 6
    assert {(p["lr"], p["reg_weight"]) for p in found} == {
        (lr, weight) for lr in (3e-4, 1e-4) for weight in (0.1, 0.2, 0.3)
    }


def test_a_grid_needs_lists():
    space = {"lr": Interval(0.1, 1.0), "num_layers": Choice((1, 2)), "dropout": Interval(0.1, 0.2)}
    with pytest.raises(ValueError, match="needs lists of values, and lr, dropout have intervals"):
        grid_points(space)


def test_random_points_are_distinct_short_and_the_same_for_a_seed():
    space = WIDE[AlignRec]
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
@pytest.mark.parametrize("model", WIDE)
def test_optuna_proposes_from_the_same_space(model):
    import optuna

    space = WIDE[model]
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
