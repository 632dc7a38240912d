from dataclasses import replace

import pytest
import torch

from alignrec_pyg.evaluation.ranking import Ranking
from alignrec_pyg.experiments.cells import Cell
from alignrec_pyg.experiments.provenance import Origin
from alignrec_pyg.experiments.store import CellResult, CellStore
from alignrec_pyg.models import BPR, VBPR, Aligned
from alignrec_pyg.train_config import TrainConfig

CELL = Cell(
    row="BPR",
    model=BPR,
    hparams={"embedding_dim": 8, "reg_weight": 0.1},
    config=TrainConfig(seed=3),
)


def make_result(key):
    return CellResult(
        row="BPR",
        model="BPR",
        seed=3,
        key=key,
        settings=CELL.settings(),
        metrics={"recall@20": 0.1 + 0.2},
        val_metrics={"recall@20": 1 / 3},
        best_epoch=4,
        num_epochs=9,
        stopped_early=True,
        seconds=1.5,
        peak_bytes=None,
        content_bytes=5,
        num_parameters=12,
        rankings={
            "test": Ranking(torch.tensor([0, 4]), torch.tensor([[3, 1], [0, 2]]).int()),
            "another test": Ranking(torch.tensor([4]), torch.tensor([[2, 5]]).int()),
        },
        origin=Origin(commit="abc", hardware="8 threads", versions={"torch": "2.0"}),
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


def test_store_gives_back_what_it_was_given(tmp_path):
    store = CellStore(tmp_path / "cells")
    key = CELL.key("data")
    assert store.load(CELL, key) is None
    result = make_result(key)
    unfinished = store.checkpoint_dir(CELL, key)
    unfinished.mkdir(parents=True)
    store.save(CELL, result)
    assert not unfinished.exists()
    loaded = store.load(replace(CELL, row="renamed"), key)
    assert loaded.stored
    assert loaded.row == "renamed"
    assert not result.stored
    assert loaded.summary() | {"row": "BPR", "stored": False} == result.summary()
    assert loaded.summary()["stored"]  # in what is told, too
    assert loaded.origin == result.origin  # not that of the machine that reads it
    assert loaded.rankings.keys() == result.rankings.keys()
    for name, ranking in result.rankings.items():
        for ours, theirs in zip(loaded.rankings[name], ranking, strict=True):
            assert torch.equal(ours, theirs)
    assert not list(tmp_path.glob("**/*.part"))


def test_a_cell_under_another_ones_name_is_not_taken(tmp_path):
    store = CellStore(tmp_path)
    key = CELL.key("data")
    store.save(CELL, make_result(key))
    other = key[:16] + "0" * 16  # the same file name
    with pytest.warns(UserWarning, match="holds another cell"):
        assert store.load(CELL, other) is None


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
    with pytest.raises(ValueError, match="tells content from ID"):
        replace(cell, model=BPR, hparams={}).build(toy)
