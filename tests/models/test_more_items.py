import copy

import pytest
import torch

from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import BPR, FREEDOM, VBPR
from alignrec_pyg.models.more_items import with_more_items


@pytest.fixture
def larger(toy):
    """Two items more."""
    data = copy.copy(toy)
    data["item"].num_nodes = 6
    del data["item"].id
    for name in ("image", "text"):
        table = toy["item"][f"x_{name}"]
        data["item"][f"x_{name}"] = torch.cat([table, torch.ones(2, table.size(1))])
    return data


def test_keeps_what_was_trained_and_adds_zeros_and_features(toy, larger):
    model = VBPR(toy, embedding_dim=5, freeze_features=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    grown = with_more_items(model.train(), larger)
    assert torch.equal(torch.get_rng_state(), state)
    assert (grown.num_items, grown.training, model.training) == (6, False, True)
    for name, value in grown.state_dict().items():
        old = before[name]
        assert torch.equal(value[: old.size(0)], old)
        assert torch.equal(model.state_dict()[name], old)
        assert value.data_ptr() != model.state_dict()[name].data_ptr()
    assert torch.equal(grown.item_embedding.weight[4:], torch.zeros(2, 5))
    assert torch.equal(grown.feature_table.weight[4:], torch.ones(2, 11))


def test_means_over_weighted_neighbours(toy, larger):
    model = BPR(toy, embedding_dim=5)
    edges = torch.tensor([[0, 2, 2], [4, 4, 5]])
    grown = with_more_items(model, larger, (edges, torch.tensor([1.0, 3.0, 0.2])))
    table = model.item_embedding.weight
    expected = torch.stack([(table[0] + 3 * table[2]) / 4, table[2]])
    torch.testing.assert_close(grown.item_embedding.weight[4:], expected)


def test_saved_and_loaded_with_the_larger_graph(toy, larger, tmp_path):
    grown = with_more_items(FREEDOM(toy, embedding_dim=5), larger)
    grown.save_pretrained(tmp_path)
    loaded = FREEDOM.from_pretrained(tmp_path, larger)
    for a, b in zip(grown(larger), loaded(larger), strict=True):
        assert torch.equal(a, b)
    assert loaded(larger)[0].shape == (3, 5)
    assert larger[INTERACTS].edge_index.max() < 4
