from dataclasses import asdict

import pytest

from alignrec_pyg.experiments.grids import PUBLISHED, SEARCH, points, published
from alignrec_pyg.experiments.presets import PAPER


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_grids_name_settings_of_their_model(name):
    found = points(PAPER[name], PUBLISHED[name])
    sizes = [len(values) for values in PUBLISHED[name].values()]
    expected = 1
    for size in sizes:
        expected *= size
    assert len(found) == len({repr(point) for point in found}) == expected


def test_published_grids_are_the_papers():
    assert PUBLISHED["AlignRec"] == {"lr": (3e-4, 1e-4), "reg_weight": (0.1, 0.2, 0.3)}
    assert PUBLISHED["MGCN"] == {"cl_weight": (1e-3, 1e-2, 1e-1)}
    assert PUBLISHED["BM3"]["dropout"] == (0.3, 0.5)
    assert PUBLISHED["FREEDOM"] == {"dropout": (0.8, 0.9), "reg_weight": (0.0, 1e-5, 1e-4, 1e-3)}
    sizes = {name: len(points(PAPER[name], grid)) for name, grid in PUBLISHED.items()}
    assert sizes == {
        "AlignRec": 6,
        "BPR": 7,
        "LightGCN": 20,
        "VBPR": 7,
        "MMGCN": 5,
        "GRCN": 25,
        "DualGNN": 25,
        "BM3": 8,
        "MGCN": 3,
        "FREEDOM": 8,
        "LATTICE": 16,
        "SLMRec": 80,
    }


def test_every_model_is_searched_with_the_same_budget():
    assert set(SEARCH) == set(PAPER)
    assert {len(points(PAPER[name], SEARCH[name])) for name in SEARCH} == {4}


@pytest.mark.parametrize("name", sorted(set(PUBLISHED) & set(SEARCH)))
def test_values_have_the_type_of_the_setting(name):
    preset = PAPER[name]
    settings = asdict(preset.train) | preset.hparams()
    for grid in (PUBLISHED[name], SEARCH[name]):
        for argument, values in grid.items():
            assert all(type(value) is type(settings[argument]) for value in values), argument


@pytest.mark.parametrize("name", PAPER)
def test_points_can_be_built(name, toy):
    preset = PAPER[name]
    inputs = {"features": ["image"]} if preset.tables != "none" else {}
    if preset.table_graphs:
        inputs["item_graphs"] = ["image"]
    for point in points(preset, SEARCH[name]):
        model = preset.model(toy, **point.hparams(), **inputs)
        assert {**model.hparams, **point.hparams()} == model.hparams


def test_points_are_all_combinations():
    found = points(PAPER["BPR"], {"lr": (0.1, 0.2), "reg_weight": (1.0, 2.0)})
    assert [(p.train.lr, p.reg_weight) for p in found] == [
        (0.1, 1.0),
        (0.1, 2.0),
        (0.2, 1.0),
        (0.2, 2.0),
    ]
    assert all(p.train.patience == PAPER["BPR"].train.patience for p in found)


def test_grid_of_no_setting_is_refused():
    with pytest.raises(ValueError, match=r"settings of the preset \(got \['dropout'\]"):
        points(PAPER["BPR"], {"dropout": (0.1,)})


def test_published_settings_of_a_data_set():
    assert published("elec")["BM3"].num_layers == 2
    assert published("sports")["BM3"].reg_weight == 0.01
    assert published("baby")["BM3"] == PAPER["BM3"]
    for name in ("MMGCN", "GRCN", "DualGNN"):
        assert published("baby")[name].faithful
        assert not published("lfm2k")[name].faithful
    assert published("lfm2k") == PAPER
    assert published("elec")["AlignRec"] == PAPER["AlignRec"]
