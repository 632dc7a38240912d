from __future__ import annotations

import pytest
import torch

from alignrec_pyg.pretraining import PretrainConfig
from alignrec_pyg.pretraining.validation import _parts, validate
from alignrec_pyg.training.parallel import Workers


@pytest.mark.parametrize("micro_batch_size", [1, 4, 100])
def test_means_over_all_pairs(stage1, micro_batch_size):
    """Against one batch of everything; the control depends on who is beside whom."""
    objective, pairs = stage1.objective(), stage1.pairs(9)
    config = PretrainConfig(micro_batch_size=micro_batch_size)
    metrics = validate(objective, pairs, config, Workers(torch.device("cpu")))
    batch = pairs[None, range(9)]
    with torch.no_grad():
        sums, counts = objective(batch), objective.counts(batch)
        control = objective(objective.control(batch))
        alone = objective.alone(batch)
    for term in ("mlm", "mim"):
        assert metrics[f"val_{term}"] == pytest.approx(float(sums[term]) / counts[term], rel=1e-4)
        correct = int(sums[f"{term}_correct"]) / counts[term]
        assert metrics[f"val_{term}_accuracy"] == pytest.approx(correct)
        expected = float(alone[term]) / counts[term]
        assert metrics[f"val_{term}_alone"] == pytest.approx(expected, rel=1e-4)
        if micro_batch_size == 100:
            expected = float(control[term]) / counts[term]
            assert metrics[f"val_{term}_control"] == pytest.approx(expected, rel=1e-4)
    assert metrics["val_loss"] == pytest.approx(metrics["val_mlm"] + metrics["val_mim"])
    assert {name.removesuffix("_accuracy") for name in metrics} == {
        "val_loss",
        "val_mlm",
        "val_mim",
        "val_mlm_control",
        "val_mim_control",
        "val_mlm_alone",
        "val_mim_alone",
    }
    assert objective.training


class OneOfThree(Workers):
    """A worker whose sums are noted instead of shared."""

    def __init__(self, rank):
        super().__init__(torch.device("cpu"))
        self.rank, self.size, self.seen = rank, 3, None

    def sums(self, values):
        self.seen = torch.tensor(values)
        return list(values)


@pytest.mark.parametrize("count", [4, 13])
def test_workers_share_the_pairs(stage1, count):
    """Also where there are fewer parts than workers: the sums add up to those of one."""
    objective, pairs = stage1.objective(), stage1.pairs(count)
    config = PretrainConfig(micro_batch_size=2)
    alone = OneOfThree(0)
    alone.size = 1
    validate(objective, pairs, config, alone)
    shared = [OneOfThree(rank) for rank in range(3)]
    for worker in shared:
        validate(objective, pairs, config, worker)
    torch.testing.assert_close(sum(worker.seen for worker in shared), alone.seen)


@pytest.mark.parametrize(("count", "size"), [(2, 1), (7, 3), (9, 4), (8, 4), (3, 2), (5, 100)])
def test_no_part_is_a_single_pair(count, size):
    parts = _parts(count, size)
    assert [pair for part in parts for pair in part] == list(range(count))
    assert all(2 <= len(part) <= max(2, size) + 1 for part in parts)


def test_one_pair_has_no_other_partner(stage1):
    with pytest.raises(ValueError, match="'val' needs two pairs or more"):
        validate(
            stage1.objective(), stage1.pairs(1), PretrainConfig(), Workers(torch.device("cpu"))
        )
