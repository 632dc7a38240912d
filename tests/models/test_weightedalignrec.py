import pytest
import torch

from alignrec_pyg import AlignRec, WeightedAlignRec, load
from alignrec_pyg.graph import InteractionBatch
from alignrec_pyg.transforms import KNNItemGraph

BATCH = InteractionBatch(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3]), torch.tensor([2, 0, 1]))


@pytest.fixture
def data(toy):
    return KNNItemGraph(["image", "text"], k=2, name="mm")(toy)


def build(cls, data, **hparams):
    torch.manual_seed(0)
    return cls(data, item_graph="mm", embedding_dim=3, **hparams)


@pytest.mark.parametrize("hparams", [{}, {"num_layers": 1, "reg_weight": 0.3}])
def test_is_alignrec_on_a_frozen_table(data, hparams):
    ours = build(WeightedAlignRec, data, **hparams)
    theirs = build(AlignRec, data, freeze_features=True, **hparams)
    loss, terms = ours.loss(data, BATCH)
    expected, expected_terms = theirs.loss(data, BATCH)
    assert torch.equal(loss, expected)
    assert terms.keys() == expected_terms.keys()
    assert "feature_table.weight" not in dict(ours.named_parameters())
    for vectors, others in zip(ours(data), theirs(data), strict=True):
        assert torch.equal(vectors, others)


def test_can_be_told_otherwise_and_saved(data, tmp_path):
    model = build(WeightedAlignRec, data, freeze_features=False)
    reference = build(AlignRec, data)
    assert torch.equal(model.loss(data, BATCH)[0], reference.loss(data, BATCH)[0])
    model.save_pretrained(tmp_path / "model", data)
    loaded, graph = load(tmp_path / "model")
    assert type(loaded) is WeightedAlignRec
    assert loaded.hparams == model.hparams
    assert torch.equal(loaded(graph)[0], model(data)[0])
