import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alignrec_pyg import MENTOR
from alignrec_pyg.graph import INTERACTS, InteractionBatch, knn_edge_type
from alignrec_pyg.models.mentor import _moments
from alignrec_pyg.training.sampling import seeded_generator

# user 0 and item 1 twice: the contrast over distinct rows has to count them twice
BATCH = InteractionBatch(
    torch.tensor([0, 2, 0, 1]), torch.tensor([1, 3, 0, 1]), torch.tensor([2, 0, 3, 3])
)


def with_tables(toy, number):
    """The toy graph with that many feature tables."""
    toy["item"].x_zoom = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    for name in ("zoom", "text", "image")[: 3 - number]:
        del toy["item"][f"x_{name}"]
    return toy


def scaled(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def dense_graphs(data) -> tuple[Tensor, Tensor]:
    num_users, num_items = data["user"].num_nodes, data["item"].num_nodes
    a = torch.zeros(num_users + num_items, num_users + num_items)
    for u, i in data[INTERACTS].edge_index.t().tolist():
        a[u, num_users + i] = a[num_users + i, u] = 1
    degree = a.sum(1)
    s = torch.zeros(num_items, num_items)
    edges = data[knn_edge_type("image")]
    s[edges.edge_index[1], edges.edge_index[0]] = edges.edge_weight
    return a / degree.sqrt().unsqueeze(1) / degree.sqrt(), s


def starts(model: MENTOR) -> list[Tensor]:
    d = model.embedding_dim
    inputs = [*(table.weight for table in model.tables), model.item_embedding.weight]
    out = []
    for m, (x, encoder) in enumerate(zip(inputs, model.encoders, strict=True)):
        first, _, second = encoder
        hidden = x @ first.weight.t() + first.bias
        z = torch.where(hidden > 0, hidden, 0.01 * hidden) @ second.weight.t() + second.bias
        out.append(scaled(torch.cat([model.user_embedding.weight[:, m * d : (m + 1) * d], z])))
    return out


def with_neighbors(x: Tensor, s: Tensor, num_users: int) -> Tensor:
    return torch.cat([x[:num_users], x[num_users:] + s @ x[num_users:]])


def dense(model: MENTOR, data) -> tuple[list[Tensor], Tensor, Tensor]:
    """Tables of the feature sets and the IDs, and the scores' users and items."""
    a, s = dense_graphs(data)
    tables = [with_neighbors(x + a @ x + a @ a @ x, s, model.num_users) for x in starts(model)]
    return tables, *fused(model, tables[:-1])


def fused(model: MENTOR, tables: list[Tensor]) -> tuple[Tensor, Tensor]:
    u, w = model.num_users, model.modality_weight
    users = [w[:, m : m + 1] * x[:u] for m, x in enumerate(tables)]
    return torch.cat(users, dim=1), torch.cat([x[u:] for x in tables], dim=1)


def dense_align(tables: list[Tensor], repeats: int) -> Tensor:
    """Tables of single feature sets are repeated side by side, as published code does."""
    *single, joint = [x.flatten() for x in tables]
    entries = [*(x.repeat(repeats) for x in single), joint]
    loss = torch.zeros(())
    for first in range(len(entries)):
        for second in range(first + 1, len(entries)):
            x, y = entries[first], entries[second]
            loss = loss + (x.var() - y.var()).abs() + (x.mean() - y.mean()).abs()
    return loss


def dense_terms(model: MENTOR, data) -> dict[str, Tensor]:
    tables, user_x, item_x = dense(model, data)
    u, i, j = user_x[BATCH.user], item_x[BATCH.pos_item], item_x[BATCH.neg_item]
    bpr = -torch.log(torch.sigmoid((u * i).sum(1) - (u * j).sum(1))).mean()
    num_sets, d = len(model.features), model.embedding_dim
    reg = model.modality_weight.square().mean()
    for m in range(num_sets):
        reg = reg + model.user_embedding.weight[BATCH.user, m * d : (m + 1) * d].square().mean()
    repeats = num_sets if model.faithful else 1
    align = dense_align([*tables, torch.cat([user_x, item_x])], repeats)
    return {"bpr": bpr / math.log(2) if model.faithful else bpr, "reg": reg, "align": align}


def dense_perturbed(model: MENTOR, data, generator: torch.Generator) -> dict[str, Tensor]:
    """The terms that are drawn, in the order of the model's draws."""
    _, user_x, item_x = dense(model, data)
    mask = torch.zeros(())
    for x in (user_x, item_x):
        kept = torch.rand(x.shape, generator=generator) >= model.dropout
        predicted = x @ model.predictor.weight.t() + model.predictor.bias
        mask = mask + 1 - (scaled(x.detach() * kept) * scaled(predicted)).sum(1).mean()
    a, s = dense_graphs(data)
    views = []
    for _ in range(2):
        h = out = torch.stack(starts(model)[:-1], dim=1)
        for _ in range(2):
            h = torch.einsum("nm,mkd->nkd", a, h)
            drawn = torch.rand(h.shape, generator=generator)
            h = h + 0.1 * h.sign() * drawn / drawn.norm(dim=-1, keepdim=True)
            out = out + h
        views.append(fused(model, [with_neighbors(x, s, model.num_users) for x in out.unbind(1)]))
    graph = torch.zeros(())
    for side, rows in ((0, BATCH.user), (1, BATCH.pos_item)):
        logits = scaled(views[0][side][rows]) @ scaled(views[1][side][rows]).t()
        graph = graph + functional.cross_entropy(logits / model.temperature, torch.arange(4))
    return {"mask": mask, "graph": graph}


@pytest.mark.parametrize("num_tables", [1, 2, 3])
@pytest.mark.parametrize("faithful", [False, True])
def test_values_and_gradients_equal_the_equations(toy, num_tables, faithful):
    data = with_tables(toy, num_tables)
    torch.manual_seed(0)
    model = MENTOR(
        data,
        embedding_dim=6,
        latent_dim=5,
        dropout=0.3,
        reg_weight=0.3,
        align_weight=0.4,
        mask_weight=0.5,
        graph_weight=0.6,
        temperature=0.3,
        faithful=faithful,
    )
    _, user_x, item_x = dense(model, data)
    for found, expected in zip(model(data), (user_x, item_x), strict=True):
        torch.testing.assert_close(found, expected)
    model.on_batch_start(seeded_generator(0, 0, 0))
    expected = dense_terms(model, data)
    if not faithful:
        expected |= dense_perturbed(model, data, seeded_generator(0, 0, 0))
    terms = model.loss_terms(data, BATCH)
    torch.testing.assert_close(terms, expected, rtol=1e-4, atol=1e-5)
    weights = {"bpr": 1.0, "reg": 0.3, "align": 0.4, "mask": 0.5, "graph": 0.6}
    assert model.loss_weights == {name: weights[name] for name in expected}
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(model.loss(data, BATCH)[0], parameters),
        torch.autograd.grad(sum(weights[n] * term for n, term in expected.items()), parameters),
        rtol=1e-3,
        atol=1e-5,
    )


def test_encoder_by_hand(toy):
    toy["item"].num_nodes = 3
    toy["item"].x_image = torch.tensor([[1.0, 0.0], [0.0, 5.0], [2.0, 0.0]])
    toy[INTERACTS].edge_index = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]])
    edges = toy[knn_edge_type("image")]
    edges.edge_index, edges.edge_weight = torch.tensor([[0], [0]]), torch.zeros(1)
    model = MENTOR(toy, features=["image"], embedding_dim=2, latent_dim=2)
    with torch.no_grad():
        preference = torch.tensor([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]])
        model.user_embedding.weight[:, :2] = preference
        model.modality_weight.fill_(1.0)
        for linear in (model.encoders[0][0], model.encoders[0][2]):
            linear.weight.copy_(torch.eye(2))
            linear.bias.zero_()
    user, item = model(toy)
    expected = [[1.75711, 2.25355], [0.21213, 2.48995], [3.0, 0.0]]
    torch.testing.assert_close(user, torch.tensor(expected), atol=1e-5, rtol=0)
    expected = [[1.92426, 0.91924], [0.65355, 2.85711], [3.0, 0.0]]
    torch.testing.assert_close(item, torch.tensor(expected), atol=1e-5, rtol=0)


def test_moments_by_hand():
    one, other = torch.tensor([0.0, 2.0, 0.0, 2.0]), torch.ones(4)
    torch.testing.assert_close(_moments(one, 1), torch.tensor([1.0, 4 / 3]))
    torch.testing.assert_close(_moments(one, 2), torch.tensor([1.0, 8 / 7]))
    torch.testing.assert_close(_moments(other, 1), torch.tensor([1.0, 0.0]))


def test_alignment_knows_no_order_and_is_zero_where_moments_are_equal(toy):
    model = MENTOR(toy, embedding_dim=4)
    tables = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(0))
    scored = torch.randn(7, 8, generator=torch.Generator().manual_seed(1))
    expected = model._alignment(tables, scored)
    assert expected > 0.01
    torch.testing.assert_close(model._alignment(tables.flip(0), scored.flip(0)), expected)
    same = tables[:, :1].expand(7, 3, 4)
    assert model._alignment(same, tables[:, 0].flip(0)).item() == pytest.approx(0, abs=1e-6)


def test_ids_train_by_alignment_only_and_enter_no_score(toy):
    torch.manual_seed(0)
    model = MENTOR(toy, embedding_dim=4, faithful=True)
    before = model(toy)
    terms = model.loss_terms(toy, BATCH)
    ids = [model.item_embedding.weight, *model.encoders[-1].parameters()]
    for name, term in terms.items():
        gradients = torch.autograd.grad(term, ids, retain_graph=True, allow_unused=True)
        assert all(g is not None and g.any() for g in gradients) is (name == "align"), name
    with torch.no_grad():
        model.item_embedding.weight.mul_(-3)
        model.user_embedding.weight[:, 8:] += 1
    torch.testing.assert_close(model(toy), before, rtol=0, atol=0)


def test_faithful_training_knows_neither_masking_nor_perturbation(toy):
    losses = []
    for options in ({}, {"mask_weight": 9.0, "dropout": 0.1, "graph_weight": 9.0}):
        torch.manual_seed(0)
        model = MENTOR(toy, faithful=True, **options)
        assert model.loss_weights.keys() == {"bpr", "reg", "align"}
        losses.append(model.loss(toy, BATCH)[0])
    assert torch.equal(*losses)


def test_needs_a_feature_table(toy):
    with pytest.raises(ValueError, match="MENTOR needs at least one item feature table"):
        MENTOR(toy, features=[])


@pytest.mark.parametrize(
    ("name", "value"), [("latent_dim", 0), ("dropout", 1.0), ("temperature", 0.0)]
)
def test_bad_options_are_named(toy, name, value):
    with pytest.raises(ValueError, match=rf"'{name}' needs to be .*\(got {value}"):
        MENTOR(toy, **{name: value})


@pytest.mark.parametrize(
    ("num_users", "num_items", "millions"),
    [(19_445, 7_050, 5.44), (35_598, 18_357, 9.29), (192_403, 63_001, 42.6)],
)
def test_live_parameters_of_the_published_code(published_sizes, num_users, num_items, millions):
    data = published_sizes(num_users, num_items, {"image": 4096, "text": 384})
    count = published_sizes.count(MENTOR, data, faithful=True)
    maps = sum(256 * width + 256 + 256 * 64 + 64 for width in (4096, 384, 64))
    assert count == 3 * num_users * 64 + num_items * 64 + maps + 2 * num_users
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if millions > 40 else 0.005)
