import inspect
from dataclasses import replace
from typing import get_type_hints

import pytest

from alignrec_pyg import models
from alignrec_pyg.experiments.presets import PAPER, SMALL, TRAIN_ARGUMENTS
from alignrec_pyg.training.loop import TrainConfig

FROM_DATA = {"features", "item_graph", "item_graphs"}


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("presets", [PAPER, SMALL], ids=["paper", "small"])
def test_presets_hold_exactly_the_arguments_of_the_constructor(presets, name):
    preset = presets[name]
    arguments = list(inspect.signature(preset.model.__init__).parameters)[2:]
    assert set(preset.hparams()) == set(arguments) - FROM_DATA
    assert (preset.tables != "none") == ("features" in arguments)
    assert (preset.item_graph is not None) == ("item_graph" in arguments)
    assert preset.table_graphs == ("item_graphs" in arguments)
    constructor, settings = get_type_hints(preset.model.__init__), get_type_hints(type(preset))
    for argument in preset.hparams():
        assert settings[argument] == constructor[argument]


@pytest.mark.parametrize("name", PAPER)
def test_paper_presets_are_the_defaults_of_the_constructor(name):
    parameters = inspect.signature(PAPER[name].model.__init__).parameters
    for argument, value in PAPER[name].hparams().items():
        assert value == parameters[argument].default


def test_every_exported_model_has_its_presets():
    parts = {"Aligned", "ContentRecommender", "Recommender", "Representations"}
    exported = set(models.__all__) - parts
    assert set(PAPER) == set(SMALL) == exported
    assert all(PAPER[name].model is getattr(models, name) for name in exported)


def test_paper_training_is_that_of_the_papers():
    for name, preset in PAPER.items():
        expected = TrainConfig(lr=1e-3, batch_size=2048, max_epochs=1000, patience=20)
        if name in ("AlignRec", "MGCN", "LATTICE"):
            expected = replace(expected, lr_decay=0.96, lr_decay_epochs=50)
        if name == "AlignRec":
            expected = replace(expected, lr=3e-4, patience=30)
        if name == "SLMRec":
            expected = replace(expected, weight_decay=1e-4)
        assert preset.train == expected


def test_selection_and_seed_are_not_a_models_setting():
    everything = set(TrainConfig.__dataclass_fields__)
    assert everything - set(TRAIN_ARGUMENTS) == {"monitor", "ks", "seed"}


def test_differences_are_named():
    changed = replace(PAPER["BPR"].with_train(lr=0.5), reg_weight=0.2)
    assert changed.differences(PAPER["BPR"]) == ["reg_weight 0.2 (0.01)", "lr 0.5 (0.001)"]
    assert PAPER["BPR"].differences(PAPER["BPR"]) == []


@pytest.mark.parametrize("name", ["AlignRec", "MGCN", "LATTICE"])
def test_divisor_of_the_l2_term_follows_the_batch_size(name):
    assert PAPER[name].with_train(batch_size=100).hparams()["l2_batch_size"] == 100
    assert SMALL[name].hparams()["l2_batch_size"] == SMALL[name].train.batch_size
