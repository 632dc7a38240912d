import math
from dataclasses import replace

import pytest
import torch

from alignrec_pyg import SLMRec
from alignrec_pyg.graph import INTERACTS, InteractionBatch
from alignrec_pyg.nn import user_item_edges

# item 1 twice: a repeated row counts as often as it occurs
BATCH = InteractionBatch(
    torch.tensor([0, 2, 1, 0]), torch.tensor([1, 3, 1, 0]), torch.tensor([2, 0, 3, 3])
)


def with_tables(toy, number):
    """The toy graph with that many feature tables."""
    toy["item"].x_zoom = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    for name in ("zoom", "text", "image")[: 3 - number]:
        del toy["item"][f"x_{name}"]
    return toy


def dense_spaces(model: SLMRec, data) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Users and items of every space, each propagated by itself."""
    edge_index, weight = user_item_edges(data[INTERACTS].edge_index, 3, 4)
    a = torch.zeros(7, 7).index_put_((edge_index[1], edge_index[0]), weight)
    inputs = [model.item_embedding.weight]
    for modality in model.modalities:
        features = modality.table.weight
        features = features / features.norm(dim=1, keepdim=True)
        inputs.append(features @ modality.linear.weight.t() + modality.linear.bias)
    spaces = []
    for x in inputs:
        e = torch.cat([model.user_embedding.weight, x])
        e = sum(torch.linalg.matrix_power(a, k) @ e for k in range(model.num_layers + 1))
        e = e / (model.num_layers + 1)
        spaces.append((e[:3], e[3:]))
    return spaces


def dense_embeddings(model: SLMRec, data) -> tuple[torch.Tensor, torch.Tensor]:
    users, items = zip(*dense_spaces(model, data), strict=True)
    fused = []
    for linear, parts in ((model.user_fusion, users), (model.item_fusion, items)):
        fused.append(torch.cat(parts, dim=1) @ linear.weight.t() + linear.bias)
    return fused[0], fused[1]


def cross_entropy(x, y, temperature):
    total = 0
    for a in range(len(x)):
        others = sum(torch.exp(x[a] @ y[b] / temperature) for b in range(len(y)))
        total = total - torch.log(torch.exp(x[a] @ y[a] / temperature) / others)
    return total / len(x)


def dense_terms(model: SLMRec, data, batch) -> dict[str, torch.Tensor]:
    user_x, item_x = dense_embeddings(model, data)
    user, item = user_x[batch.user], item_x[batch.pos_item]
    user, item = user / user.norm(dim=1, keepdim=True), item / item.norm(dim=1, keepdim=True)
    (_, path), *others = dense_spaces(model, data)
    ssl = 0
    for modality, (_, x) in zip(model.modalities, others, strict=True):
        path = path @ modality.path_head.weight.t() + modality.path_head.bias
        y = x @ modality.head.weight.t()
        ssl = ssl + cross_entropy(path[batch.pos_item], y[batch.pos_item], model.ssl_temperature)
    return {"nce": cross_entropy(user, item, model.temperature), "ssl": ssl}


@pytest.mark.parametrize("num_tables", [1, 2, 3])
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_values_and_gradients_equal_the_equations(toy, num_tables, freeze, num_layers):
    data = with_tables(toy, num_tables)
    model = SLMRec(
        data,
        embedding_dim=4,
        num_layers=num_layers,
        temperature=0.3,
        ssl_temperature=0.7,
        ssl_weight=0.5,
        freeze_features=freeze,
    )
    assert len(model.modalities) == num_tables
    for found, expected in zip(model(data), dense_embeddings(model, data), strict=True):
        torch.testing.assert_close(found, expected)
    terms, expected_terms = model.loss_terms(data, BATCH), dense_terms(model, data, BATCH)
    torch.testing.assert_close(terms, expected_terms)
    parameters = dict(model.named_parameters())
    assert any("table" in name for name in parameters) is not freeze
    total = expected_terms["nce"] + 0.5 * expected_terms["ssl"]
    torch.testing.assert_close(
        torch.autograd.grad(model.loss(data, BATCH)[0], list(parameters.values())),
        torch.autograd.grad(total, list(parameters.values())),
        atol=1e-6,
        rtol=1e-5,
    )


def test_terms_by_hand(toy):
    model = SLMRec(
        toy, features=["text"], embedding_dim=1, num_layers=0, temperature=0.5, ssl_temperature=2.0
    )
    with torch.no_grad():
        model.user_embedding.weight.copy_(torch.tensor([[3.0], [1.0], [-1.0]]))
        model.item_embedding.weight.copy_(torch.tensor([[1.0], [2.0], [1.0], [-5.0]]))
        toy["item"].x_text[:] = torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0])  # of length 5
        toy["item"].x_text[3] *= -1
        modality = model.modalities[0]
        modality.linear.weight.copy_(torch.tensor([[5.0, 0.0, 0.0, 0.0, 0.0]]))
        modality.linear.bias.zero_()
        modality.path_head.weight.fill_(1.0)
        modality.path_head.bias.fill_(1.0)
        modality.head.weight.fill_(0.1)
        for fusion in (model.user_fusion, model.item_fusion):
            fusion.weight.copy_(torch.tensor([[1.0, 0.0]]))
            fusion.bias.zero_()
    batch = InteractionBatch(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([0, 0]))
    terms = model.loss_terms(toy, batch)
    # the directions of users and items are (1, -1): logits of 2 on the diagonal, else -2
    assert terms["nce"].item() == pytest.approx(math.log1p(math.exp(-4)), rel=1e-4)
    # a = 1 + (2, -5) = (3, -4) and 0.1 * (3, -3): logits 0.45 against -0.45, 0.6 against -0.6
    expected = (math.log1p(math.exp(-0.9)) + math.log1p(math.exp(-1.2))) / 2
    assert terms["ssl"].item() == pytest.approx(expected, rel=1e-5)


def test_path_leads_through_the_spaces_in_the_order_of_the_features(toy):
    model = SLMRec(toy, features=["text", "image"], embedding_dim=4)
    assert [modality.table.dim for modality in model.modalities] == [5, 6]
    torch.testing.assert_close(model.loss_terms(toy, BATCH), dense_terms(model, toy, BATCH))


def test_length_of_features_does_not_matter(toy):
    torch.manual_seed(0)
    model = SLMRec(toy, embedding_dim=4)
    before = [x.detach().clone() for x in model(toy)]
    toy["item"].x_text *= torch.tensor([[2.0], [0.5], [7.0], [1.0]])  # shared with the model
    for a, b in zip(before, model(toy), strict=True):
        torch.testing.assert_close(a, b)


def test_items_without_features_are_mapped_to_the_bias(toy):
    toy["item"].x_text[2] = 0
    for freeze in (True, False):
        model = SLMRec(toy, embedding_dim=4, freeze_features=freeze)
        modality = model.modalities[1]
        torch.testing.assert_close(modality()[2], modality.linear.bias)
        total = model.loss(toy, BATCH)[0]
        for gradient in torch.autograd.grad(total, list(model.parameters())):
            assert torch.isfinite(gradient).all()


def test_negatives_do_not_matter(toy):
    model = SLMRec(toy)
    other = replace(BATCH, neg_item=torch.tensor([3, 3, 3, 3]))
    assert torch.equal(model.loss(toy, BATCH)[0], model.loss(toy, other)[0])


def test_needs_a_feature_table(toy):
    with pytest.raises(ValueError, match="SLMRec needs at least one item feature table"):
        SLMRec(toy, features=[])


@pytest.mark.parametrize("name", ["temperature", "ssl_temperature"])
def test_temperatures_are_checked(toy, name):
    with pytest.raises(ValueError, match=f"'{name}' needs to be finite and positive \\(got 0\\)"):
        SLMRec(toy, **{name: 0})


def test_parameter_count(published_sizes):
    data = published_sizes(19_445, 7_050, {"image": 4096, "text": 384})
    tables = (19_445 + 7_050) * 64
    maps = (4096 + 384 + 2) * 64
    fusions = 2 * (192 + 1) * 64
    heads = 2 * (64 + 1 + 64) * 64
    assert published_sizes.count(SLMRec, data) == tables + maps + fusions + heads
    trainable = published_sizes.count(SLMRec, data, freeze_features=False)
    assert trainable == tables + maps + fusions + heads + 7_050 * (4096 + 384)
