import copy
from dataclasses import replace

import pytest
import torch

from alignrec_pyg.experiments.cells import Cell, Parts
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import BPR, VBPR, Aligned
from alignrec_pyg.train_config import TrainConfig

CELL = Cell(
    row="BPR",
    model=BPR,
    hparams={"embedding_dim": 8, "reg_weight": 0.1},
    config=TrainConfig(seed=3),
)


@pytest.mark.parametrize(
    "other",
    [
        replace(CELL, hparams={**CELL.hparams, "reg_weight": 0.2}),
        replace(CELL, config=TrainConfig(seed=4)),
        replace(CELL, config=TrainConfig(seed=3, patience=21)),
        replace(CELL, alignment={"cca_weight": 0.01}),
    ],
)
def test_key_changes_with_the_settings(other):
    assert other.key("data", "code") != CELL.key("data", "code")


def test_key_changes_with_the_context_and_with_nothing_else():
    key = CELL.key("data", "code", "cpu")
    assert CELL.key("other data", "code", "cpu") != key
    assert CELL.key("data", "other code", "cpu") != key
    assert CELL.key("data", "code", "cuda") != key
    renamed = replace(CELL, row="another row", hparams=dict(reversed(CELL.hparams.items())))
    assert renamed.key("data", "code", "cpu") == key


def test_a_cell_builds_its_model_from_its_seed(toy):
    cell = Cell(row="VBPR", model=VBPR, hparams={"features": ["image"]}, config=TrainConfig(seed=3))
    first, second = cell.build(toy), cell.build(toy)
    assert type(first) is VBPR
    assert torch.equal(first.user_embedding.weight, second.user_embedding.weight)
    other = replace(cell, config=TrainConfig(seed=4)).build(toy)
    assert not torch.equal(first.user_embedding.weight, other.user_embedding.weight)


def test_a_model_wears_the_alignment(toy):
    cell = Cell(
        row="VBPR",
        model=VBPR,
        hparams={"features": ["image"]},
        config=TrainConfig(),
        alignment={"cca_weight": 0.5, "features": ["image"]},
    )
    model = cell.build(toy)
    assert isinstance(model, Aligned)
    assert isinstance(model.backbone, VBPR)
    assert model.cca_weight == 0.5
    assert cell.name == "AlignedVBPR"
    with pytest.raises(ValueError, match="a model with separate content and ID"):
        replace(cell, model=BPR, hparams={}).build(toy)


def test_parts_are_copied_to_a_device_one_with_several_names_once(checkerboard):
    """Results are on the CPU, and so stay the graphs they are scored by."""
    train, test = checkerboard
    parts = Parts(train, test, {"test": test, "cold": test, "other": copy.copy(test)})
    moved = parts.to(torch.device("meta"))
    assert all(graph[INTERACTS].edge_index.is_meta for graph in (moved.train, moved.val))
    assert all(graph["item"].x_mm.is_meta for graph in moved.tests.values())
    assert list(moved.tests) == ["test", "cold", "other"]
    assert moved.tests["test"] is moved.tests["cold"]
    assert moved.tests["test"] is not moved.tests["other"]
    for graph in (train, test, *parts.tests.values()):
        assert not graph[INTERACTS].edge_index.is_meta
        assert not graph["item"].x_mm.is_meta
