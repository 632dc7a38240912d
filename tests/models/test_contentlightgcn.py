import copy

import pytest
import torch

from alignrec_pyg import ContentLightGCN, TrainConfig, evaluate, fit
from alignrec_pyg.graph import INTERACTS, InteractionBatch

BATCH = InteractionBatch(torch.tensor([0, 2, 0]), torch.tensor([1, 3, 0]), torch.tensor([2, 0, 3]))


def dense(model: ContentLightGCN, data) -> tuple[torch.Tensor, ...]:
    """ID and content vectors by dense matrices, layer by layer."""
    r = torch.zeros(3, 4)
    for u, i in data[INTERACTS].edge_index.t().tolist():
        r[u, i] = 1
    r_hat = r / r.sum(1, keepdim=True).sqrt() / r.sum(0, keepdim=True).sqrt()
    user, item = model.user_embedding.weight, model.item_embedding.weight
    users, items = [user], [item]
    for _ in range(model.num_layers):
        user, item = r_hat @ item, r_hat.t() @ user
        users.append(user)
        items.append(item)
    f = torch.cat([data["item"][f"x_{name}"] for name in model.features], dim=1)
    content = f @ model.projection.weight.t() + model.projection.bias
    return torch.stack(users).mean(0), torch.stack(items).mean(0), r_hat @ content, content


@pytest.mark.parametrize("features", [["text"], ["image", "text"], ["text", "audio", "image"]])
@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_equals_the_dense_equations_in_value_and_gradient(toy, features, num_layers):
    toy["item"].x_audio = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    model = ContentLightGCN(toy, features=features, embedding_dim=3, num_layers=num_layers)
    x = dense(model, toy)
    torch.testing.assert_close(tuple(model.representations(toy)), x)
    user_x, item_x = x[0] + x[2], x[1] + x[3]
    torch.testing.assert_close(model(toy), (user_x, item_x))
    u, i, j = user_x[BATCH.user], item_x[BATCH.pos_item], item_x[BATCH.neg_item]
    bpr = -torch.log(1e-10 + torch.sigmoid((u * i).sum(1) - (u * j).sum(1))).mean()
    e_u, e_i = model.user_embedding.weight, model.item_embedding.weight
    reg = (e_u[BATCH.user].norm() + e_i[BATCH.pos_item].norm() + e_i[BATCH.neg_item].norm()) / 3
    terms = model.loss_terms(toy, BATCH)
    torch.testing.assert_close(terms["bpr"], bpr)
    torch.testing.assert_close(terms["reg"], reg)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(model.loss(toy, BATCH)[0], parameters),
        torch.autograd.grad(bpr + 1e-4 * reg, parameters),
    )


def test_features_are_frozen_by_default(toy):
    assert "feature_table.weight" not in ContentLightGCN(toy).state_dict()
    model = ContentLightGCN(toy, freeze_features=False)
    model.loss(toy, BATCH)[0].backward()
    assert model.feature_table.weight.grad.any()


def test_learns_where_features_tell_nothing(checkerboard):
    parts = [copy.copy(part) for part in checkerboard]
    for part in parts:
        part["item"].x_mm = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    train, test = parts
    torch.manual_seed(0)
    model = ContentLightGCN(train, num_layers=1)
    assert evaluate(model, test, ks=(1,))["recall@1"] < 0.6
    config = TrainConfig(lr=0.01, batch_size=128, max_epochs=8, ks=(1,), monitor="recall@1")
    fit(model, train, test, config)
    assert evaluate(model, test, ks=(1,))["recall@1"] > 0.9


def test_needs_features(toy):
    del toy["item"].x_image, toy["item"].x_text
    with pytest.raises(ValueError, match="ContentLightGCN needs at least one item feature table"):
        ContentLightGCN(toy)


def test_parameter_count(published_sizes):
    data = published_sizes(19_445, 7_050, {"mm": 768})
    expected = (19_445 + 7_050) * 64 + 768 * 64 + 64
    assert published_sizes.count(ContentLightGCN, data) == expected
