import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from alignrec_pyg import BPR, GRCN, LATTICE, MMGCN, AlignRec, TrainConfig, fit
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.serving import grow, refit
from alignrec_pyg.transforms import KNNItemGraph
from alignrec_pyg.transforms.subset import select_rows

CONFIG = TrainConfig(lr=0.01, batch_size=256, max_epochs=6, seed=3)
USERS = [-1, *reversed(range(50)), -1]  # old rows in their new order, -1 for new ones
ITEMS = [*reversed(range(50)), -1]


@pytest.fixture
def data(checkerboard):
    """As many users as items, with ids of two types."""
    train, _ = checkerboard
    whole = copy.copy(train)
    del whole[INTERACTS].edge_label_index
    whole["user"].id = np.array([f"u{number}" for number in range(50)])
    whole["item"].id = np.arange(50, dtype=np.int32) * 10
    return whole


@pytest.fixture
def grown_data(data):
    """Two more users and one more item, which stand before and after the known ones."""
    new = copy.copy(data)
    order = {"user": torch.tensor(USERS), "item": torch.tensor(ITEMS)}
    for kind, rows in order.items():
        values = {name: value for name, value in data[kind].items() if name != "num_nodes"}
        new[kind].update(select_rows(values, rows.clamp(min=0), 50, kind))
        new[kind].num_nodes = rows.numel()
    new["user"].id = np.array([f"u{row}" if row >= 0 else f"new{n}" for n, row in enumerate(USERS)])
    new["item"].id = np.array([row * 10 if row >= 0 else 7 for row in ITEMS])
    places = [order[kind].argsort()[-50:] for kind in ("user", "item")]
    links = [place[end] for place, end in zip(places, data[INTERACTS].edge_index, strict=True)]
    more = torch.tensor([[0, 51, 51], [50, 50, 3]])
    new[INTERACTS].edge_index = torch.cat([torch.stack(links), more], dim=1)
    return KNNItemGraph("mm", k=3, name="mm")(new)


@pytest.mark.parametrize("model_cls", [BPR, AlignRec, GRCN])
def test_known_rows_and_weights_stay_when_users_and_items_come(data, grown_data, model_cls):
    torch.manual_seed(1)
    model = model_cls(data, embedding_dim=50)  # as wide as there are users and items
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    before = copy.deepcopy(model.state_dict())
    grown = grow(model, data, grown_data, seed=5)
    old = dict(model.named_parameters())
    for name, value in grown.named_parameters():
        rows = {52: USERS, 51: ITEMS}.get(value.size(0)) if value.dim() else None
        if rows is None:
            assert torch.equal(value, old[name])
            continue
        for row, source in zip(value, rows, strict=True):
            assert source < 0 or torch.equal(row, old[name][source])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    torch.manual_seed(5)
    drawn = model_cls(grown_data, embedding_dim=50)
    assert torch.equal(grown.user_embedding.weight[[0, 51]], drawn.user_embedding.weight[[0, 51]])
    if model_cls is AlignRec:  # the new item has the features of the data
        assert torch.equal(grown.feature_table.weight[50], grown_data["item"].x_mm[50])
    assert not grown.training


def test_training_goes_on_where_it_was(data, grown_data):
    torch.manual_seed(0)
    model = BPR(data, embedding_dim=8)
    fit(model, data, None, replace(CONFIG, max_epochs=30))
    first = fit(grow(model, data, grown_data), grown_data, None, CONFIG).history[0]["loss"]
    fresh = fit(BPR(grown_data, embedding_dim=8), grown_data, None, CONFIG).history[0]["loss"]
    assert first < 0.9 * fresh


def test_without_ids_users_and_items_are_matched_by_number(data):
    del data["user"].id, data["item"].id
    new = copy.copy(data)
    new["user"].num_nodes = 53
    model = BPR(data, embedding_dim=4)
    grown = grow(model, data, new)
    assert torch.equal(grown.user_embedding.weight[:50], model.user_embedding.weight)
    assert grown.user_embedding.weight.shape == (53, 4)
    assert torch.equal(grown.item_embedding.weight, model.item_embedding.weight)


def test_tables_that_stay_as_they_were_drawn_move_too(data, grown_data):
    model = MMGCN(data, embedding_dim=4, faithful=True)
    assert not any("user_embedding" in name for name, _ in model.named_parameters())
    grown = grow(model, data, grown_data)
    assert torch.equal(grown.user_embedding.weight[1:51], model.user_embedding.weight.flip(0))
    assert torch.equal(grown.item_embedding.weight[:50], model.item_embedding.weight.flip(0))


def test_a_graph_that_is_learned_anew_is_no_hindrance(data, grown_data):
    model = LATTICE(data, embedding_dim=4)
    fit(model, data, None, replace(CONFIG, max_epochs=1))
    grown = grow(model, data, grown_data)
    assert torch.equal(grown.item_embedding.weight[:50], model.item_embedding.weight.flip(0))


def test_graphs_without_a_common_user_are_refused(data):
    model, new = BPR(data, embedding_dim=4), copy.copy(data)
    new["item"].id = data["item"].id.astype(str)
    with pytest.raises(ValueError, match=r"some of the items of 'data' \(none of 50 .* '0', known"):
        grow(model, data, new)
    del new["item"].id
    with pytest.raises(ValueError, match="'new_data' needs ids of the items as 'data' has them"):
        grow(model, data, new)


def test_features_of_another_width_are_refused(data, grown_data):
    grown_data["item"].x_mm = grown_data["item"].x_mm[:, 1:]
    with pytest.raises(ValueError, match=r"'new_data' needs feature tables as wide as .*feature"):
        grow(AlignRec(data, embedding_dim=4), data, grown_data)


def test_refit_makes_the_passes_of_the_best_epoch_over_all_links(checkerboard, data):
    train, test = checkerboard
    links, positive = train[INTERACTS].edge_index, test[INTERACTS].edge_label_index
    data[INTERACTS].edge_index = torch.cat([links, positive], dim=1).unique(dim=1)
    torch.manual_seed(0)
    model = AlignRec(train, embedding_dim=8)
    result = replace(fit(model, train, test, CONFIG), best_epoch=4)
    weights = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    served = refit(model, data, result, CONFIG)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    torch.manual_seed(CONFIG.seed)
    expected = AlignRec(data, embedding_dim=8)
    fit(expected, data, None, replace(CONFIG, max_epochs=4))
    for name, value in expected.state_dict().items():
        assert torch.equal(served.state_dict()[name], value)


def test_refit_needs_the_links_without_a_split(checkerboard):
    train, test = checkerboard
    model = BPR(train, embedding_dim=4)
    result = fit(model, train, test, replace(CONFIG, max_epochs=1))
    with pytest.raises(ValueError, match="'data' needs all links, without a split"):
        refit(model, train, result)
