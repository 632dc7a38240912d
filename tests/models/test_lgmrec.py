import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alignrec_pyg import LGMRec
from alignrec_pyg.graph import INTERACTS, InteractionBatch
from alignrec_pyg.models.lgmrec import _assignments
from alignrec_pyg.training.sampling import seeded_generator

# user 0 and item 1 twice: HCL is a sum over the rows of the batch
BATCH = InteractionBatch(
    torch.tensor([0, 2, 0, 1]), torch.tensor([1, 3, 0, 1]), torch.tensor([2, 0, 3, 3])
)
LN3 = math.log(3)


def with_tables(toy, number):
    """The toy graph with that many feature tables."""
    toy["item"].x_zoom = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    for name in ("zoom", "text", "image")[: 3 - number]:
        del toy["item"][f"x_{name}"]
    return toy


def scaled(x: Tensor) -> Tensor:
    return torch.stack([row / row.norm() if row.any() else row for row in x])


def dense(model: LGMRec, data) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Final vectors, and the global ones of each feature set, without noise and dropout."""
    num_users, num_items = model.num_users, model.num_items
    r = torch.zeros(num_users, num_items)
    for u, i in data[INTERACTS].edge_index.t().tolist():
        r[u, i] = 1
    a = torch.zeros(num_users + num_items, num_users + num_items)
    a[:num_users, num_users:], a[num_users:, :num_users] = r, r.t()
    degree = a.sum(1)
    a = a / degree.sqrt().unsqueeze(1) / degree.sqrt()
    e = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    c = sum(torch.linalg.matrix_power(a, n) @ e for n in range(model.num_layers + 1))
    c = c / (model.num_layers + 1)
    h, joined, parts = c, 0, []
    for modality in model.modalities:
        t = modality.table.weight @ modality.content.weight.t()
        g = torch.cat([r / r.sum(1, keepdim=True) @ t, t])
        h = h + scaled(torch.linalg.matrix_power(a, model.num_content_layers) @ g)
        logits = modality.table.weight @ modality.hyperedges.weight.t()
        item_edges = torch.softmax(logits / 0.2, dim=1)
        user_edges = torch.softmax(r @ logits / 0.2, dim=1)
        q = c[num_users:]
        for _ in range(model.num_hyper_layers):
            m = item_edges.t() @ q
            p, q = user_edges @ m, item_edges @ m
        parts.append((p, q))
        joined = joined + torch.cat([p, q])
    h = h + model.global_scale * scaled(joined)
    return h[:num_users], h[num_users:], parts


def dense_hcl(parts: list[tuple[Tensor, Tensor]], temperature: float) -> Tensor:
    loss = torch.zeros(())
    for first in range(len(parts)):
        for second in range(first + 1, len(parts)):
            for side, rows in ((0, BATCH.user), (1, BATCH.pos_item)):
                x, y = scaled(parts[first][side]), scaled(parts[second][side])
                loss = loss + functional.cross_entropy(
                    x[rows] @ y.t() / temperature, rows, reduction="sum"
                )
    return loss


def oracle(toy, num_hyper_layers: int, num_content_layers: int = 1) -> LGMRec:
    """The model of the hand-computed values: 3 users and items, a table that tells the item."""
    toy["item"].num_nodes = 3
    toy["item"].x_image = torch.eye(3)
    toy[INTERACTS].edge_index = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]])
    model = LGMRec(
        toy,
        features=["image"],
        embedding_dim=2,
        num_layers=0,
        num_content_layers=num_content_layers,
        num_hyper_layers=num_hyper_layers,
        num_hyperedges=2,
    ).eval()
    t = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    with torch.no_grad():
        model.item_embedding.weight.copy_(t)
        model.user_embedding.weight.zero_()
        model.modalities[0].content.weight.copy_(t.t())
        model.modalities[0].hyperedges.weight.copy_(
            torch.tensor([[0.0, 0.0], [0.2 * LN3, 0.0], [0.0, 0.2 * LN3]]).t()
        )
    return model


@pytest.mark.parametrize(
    ("num_layers", "users", "items"),
    [
        (0, [[0.5, 0.5], [0, 1], [1, 1]], [[1, 0], [0, 1], [1, 1]]),
        (
            1,
            [[0.70711, 0.5], [0, 0.70711], [1, 1]],
            [[0.35355, 0.35355], [0.25, 0.95711], [1, 1]],
        ),
        (
            2,
            [[0.375, 0.72855], [0.17678, 0.67678], [1, 1]],
            [[0.5, 0.35355], [0.35355, 0.75], [1, 1]],
        ),
    ],
)
def test_local_content_by_hand(toy, num_layers, users, items):
    model = oracle(toy, 1, num_layers)
    model.global_scale = 0.0
    user, item = model(toy)
    torch.testing.assert_close(user, scaled(torch.tensor(users).float()), atol=1e-5, rtol=0)
    own = model.item_embedding.weight
    torch.testing.assert_close(item - own, scaled(torch.tensor(items).float()), atol=1e-5, rtol=0)


def test_hyperedges_by_hand(toy):
    vectors = oracle(toy, 1)._vectors(toy, None)
    (q,), (p,) = vectors.global_item, vectors.global_user
    torch.testing.assert_close(q, torch.tensor([[1.0, 1.0], [0.875, 1.0], [1.125, 1.0]]))
    torch.testing.assert_close(p, torch.tensor([[0.875, 1.0], [0.875, 1.0], [1.125, 1.0]]))
    vectors = oracle(toy, 2)._vectors(toy, None)
    (q,), (p,) = vectors.global_item, vectors.global_user
    torch.testing.assert_close(q, torch.tensor([[1.5, 1.5], [1.46875, 1.5], [1.53125, 1.5]]))
    torch.testing.assert_close(p[0], torch.tensor([1.46875, 1.5]))


@pytest.mark.parametrize("num_tables", [1, 2, 3])
@pytest.mark.parametrize(
    ("num_layers", "num_content_layers", "num_hyper_layers"), [(2, 2, 1), (1, 0, 3)]
)
def test_values_and_gradients_equal_the_equations(
    toy, num_tables, num_layers, num_content_layers, num_hyper_layers
):
    data = with_tables(toy, num_tables)
    model = LGMRec(
        data,
        embedding_dim=4,
        num_layers=num_layers,
        num_content_layers=num_content_layers,
        num_hyper_layers=num_hyper_layers,
        num_hyperedges=3,
        dropout=0.0,
        temperature=0.3,
        hcl_weight=0.5,
        reg_weight=0.7,
    ).eval()
    user_x, item_x, parts = dense(model, data)
    for found, expected in zip(model(data), (user_x, item_x), strict=True):
        torch.testing.assert_close(found, expected)
    u, i, j = user_x[BATCH.user], item_x[BATCH.pos_item], item_x[BATCH.neg_item]
    expected = {
        "bpr": -torch.log(torch.sigmoid((u * i).sum(1) - (u * j).sum(1))).mean(),
        "reg": (u.norm() + i.norm() + j.norm()) / 4,
    }
    total = expected["bpr"] + 0.7 * expected["reg"]
    if num_tables > 1:
        expected["hcl"] = dense_hcl(parts, 0.3)
        total = total + 0.5 * expected["hcl"]
    terms = model.loss_terms(data, BATCH)
    torch.testing.assert_close(terms, expected)
    assert terms.keys() == model.loss_weights.keys()
    parameters = list(model.parameters())
    assert len(parameters) == 2 + 2 * num_tables
    torch.testing.assert_close(
        torch.autograd.grad(model.loss(data, BATCH)[0], parameters),
        torch.autograd.grad(total, parameters),
        rtol=1e-4,
        atol=1e-5,
    )


def test_contrast_with_the_batch_is_among_its_own_users_and_items(toy):
    model = LGMRec(toy, embedding_dim=4, candidates="batch").eval()
    parts = dense(model, toy)[2]
    expected = torch.zeros(())
    for side, rows in ((0, BATCH.user), (1, BATCH.pos_item)):
        distinct, place = rows.unique(return_inverse=True)
        x, y = scaled(parts[0][side]), scaled(parts[1][side])[distinct]
        expected = expected + functional.cross_entropy(
            x[rows] @ y.t() / 0.2, place, reduction="sum"
        )
    torch.testing.assert_close(model.loss_terms(toy, BATCH)["hcl"], expected)


def test_noise_and_dropout_are_those_of_the_batch(toy):
    model = LGMRec(toy, embedding_dim=4)
    exact = model.eval()(toy)
    torch.testing.assert_close(exact, dense(model, toy)[:2])
    model.train().on_batch_start(seeded_generator(0, 0, 0))
    first = model(toy)
    torch.testing.assert_close(first, model(toy), rtol=0, atol=0)
    assert not torch.allclose(first[1], exact[1])
    model.on_batch_start(seeded_generator(0, 0, 1))
    assert not torch.allclose(first[1], model(toy)[1])
    torch.testing.assert_close(model.eval()(toy), exact, rtol=0, atol=0)


def test_assignments_are_noisy_by_gumbels_law_and_dropped():
    """The largest of three noisy logits is the first with the probability of a softmax."""
    logits = torch.tensor([[LN3, 0.0, 0.0]]).expand(20_000, 3)
    shares = _assignments(logits, 0.05, 0.0, True, seeded_generator(0))
    torch.testing.assert_close(shares.sum(1), torch.ones(20_000))
    first = (shares.argmax(1) == 0).float().mean().item()
    assert abs(first - 0.6) < 0.0115  # 3.3 standard deviations; noise of the other sign: 0.643
    dropped = _assignments(logits, 0.05, 0.8, False, seeded_generator(0))
    assert abs((dropped == 0).float().mean().item() - 0.8) < 0.01
    exact = torch.softmax(logits[:1] / 0.05, dim=1)
    torch.testing.assert_close(dropped.max(0).values, 5 * exact[0])


def test_faithful_inference_is_noisy_without_dropout(toy):
    torch.manual_seed(0)
    model = LGMRec(toy, embedding_dim=4, dropout=0.5, faithful=True)
    plain = LGMRec(toy, embedding_dim=4, dropout=0.0)
    plain.load_state_dict(model.state_dict())
    for each in (model, plain):
        each.on_batch_start(seeded_generator(0, 0, 0))
    noisy = plain.train()(toy)  # noise, no dropout
    torch.testing.assert_close(model.eval()(toy), noisy)
    assert not torch.allclose(noisy[1], plain.eval()(toy)[1])


def test_new_items_make_no_hyperedges(toy):
    model = LGMRec(toy, embedding_dim=4, num_hyper_layers=3).eval()
    before = model(toy)
    larger = LGMRec(toy, embedding_dim=4, num_hyper_layers=3).eval()
    larger.load_state_dict(model.state_dict())
    with torch.no_grad():
        larger.item_embedding.weight[3] += 1.0  # would be heard by all, through the hyperedges
    toy["item"].added = torch.tensor([False, False, False, True])
    toy[INTERACTS].edge_index = toy[INTERACTS].edge_index[:, :4].clone()
    with_vector, without = larger(toy)[1], model(toy)[1]
    torch.testing.assert_close(with_vector[:3], without[:3])
    assert not torch.allclose(before[1][:3], without[:3])


def test_published_settings_are_those_of_the_logs():
    assert LGMRec.published_hparams("baby") == {"faithful": True}
    assert LGMRec.published_hparams("sports")["num_hyper_layers"] == 4
    assert LGMRec.published_hparams("films") == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_hyper_layers", 0), ("num_hyperedges", 0), ("dropout", 1.0), ("temperature", 0.0)],
)
def test_bad_options_are_named(toy, name, value):
    with pytest.raises(ValueError, match=rf"'{name}' needs to be .*\(got {value}"):
        LGMRec(toy, **{name: value})


def test_needs_a_feature_table(toy):
    with pytest.raises(ValueError, match="LGMRec needs at least one item feature table"):
        LGMRec(toy, features=[])


def test_parameter_counts_of_the_published_code(published_sizes):
    data = published_sizes(19_445, 7_050, {"image": 4096, "text": 384})
    # the authors' log counts the frozen tables, too
    assert published_sizes.count(LGMRec, data) == 33_584_320 - 7_050 * 4480
    data = published_sizes(35_598, 18_357, {"image": 4096, "text": 384})
    count = published_sizes.count(LGMRec, data)
    assert count / 1e6 == pytest.approx(3.76, abs=0.005)
