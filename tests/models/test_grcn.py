import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, logsigmoid, normalize

from alignrec_pyg import GRCN, TrainConfig, evaluate, fit
from alignrec_pyg.graph import INTERACTS, InteractionBatch

BATCH = InteractionBatch(torch.tensor([0, 2, 0]), torch.tensor([1, 3, 0]), torch.tensor([2, 0, 3]))


def dense_embeddings(model: GRCN, data, num_routings: int) -> tuple[Tensor, Tensor]:
    """Node by node over dense matrices."""
    num_users, num_items = model.num_users, model.num_items
    known = torch.zeros(num_users, num_items, dtype=torch.bool)
    known[tuple(data[INTERACTS].edge_index)] = True

    def attention(logits: Tensor, mask: Tensor) -> Tensor:
        rows = []
        for row, allowed in zip(logits, mask, strict=True):
            places = allowed.nonzero()[:, 0]
            share = torch.zeros_like(row)
            if len(places):
                share = share.index_put((places,), row[places].softmax(0))
            rows.append(share)
        return torch.stack(rows)

    contents, to_user, to_item = [], [], []
    for m, name in enumerate(model.features):
        linear = model.modalities[m].linear
        table = model.modalities[m].table.weight
        assert table.shape == data["item"][f"x_{name}"].shape
        t = normalize(leaky_relu(table @ linear.weight.t() + linear.bias))
        p = normalize(model.preferences[m].weight)
        for _ in range(num_routings):
            p = normalize(p + attention(p @ t.t(), known) @ t)
        a_user, a_item = attention(p @ t.t(), known), attention(t @ p.t(), known.t())
        contents.append((p + a_user @ t, t + a_item @ p))
        to_user.append(a_user * model.item_confidence[:, m])
        to_item.append(a_item * model.user_confidence[:, m])
    w_user = torch.stack(to_user).max(0).values.relu() * known
    w_item = torch.stack(to_item).max(0).values.relu() * known.t()
    size = num_users + num_items
    w = torch.zeros(size, size)
    w = torch.cat(
        [
            torch.cat([w[:num_users, :num_users], w_user], dim=1),
            torch.cat([w_item, w[num_users:, num_users:]], dim=1),
        ]
    )
    x = normalize(torch.cat([model.user_embedding.weight, model.item_embedding.weight]))
    ids = x + w @ x + w @ (w @ x)
    user = torch.cat([ids[:num_users], *(c[0] for c in contents)], dim=1)
    item = torch.cat([ids[num_users:], *(c[1] for c in contents)], dim=1)
    return user, item


def scored(user: Tensor, item: Tensor) -> Tensor:
    u, i, j = user[BATCH.user], item[BATCH.pos_item], item[BATCH.neg_item]
    return -logsigmoid((u * i).sum(1) - (u * j).sum(1)).mean()


@pytest.mark.parametrize("names", [["text"], ["text", "image"], ["image", "text", "audio"]])
@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("freeze_features", [False, True])
def test_embeddings_and_gradients_equal_the_equations(toy, names, faithful, freeze_features):
    torch.manual_seed(1)
    toy["item"].x_audio = torch.randn(4, 3)
    toy["user"].num_nodes = 4  # one without links
    toy[INTERACTS].edge_index = torch.tensor([[0, 2, 1, 0, 1, 2], [3, 0, 1, 1, 2, 3]])
    model = GRCN(
        toy, features=names, embedding_dim=4, faithful=faithful, freeze_features=freeze_features
    )
    found, expected = model(toy), dense_embeddings(model, toy, 0 if faithful else 3)
    for a, b in zip(found, expected, strict=True):
        assert a.shape[1] == 4 * (1 + len(names))
        torch.testing.assert_close(a, b)
    parameters = dict(model.named_parameters())
    assert ("modalities.0.table.weight" in parameters) is not freeze_features
    for (name, _), a, b in zip(
        parameters.items(),
        torch.autograd.grad(scored(*found), parameters.values()),
        torch.autograd.grad(scored(*expected), parameters.values()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_terms_equal_the_equations(toy):
    model = GRCN(toy, embedding_dim=4, reg_weight=0.5)
    terms = model.loss_terms(toy, BATCH)
    torch.testing.assert_close(terms["bpr"], scored(*model(toy)))
    user, item = model.user_embedding.weight, model.item_embedding.weight
    reg = 0.0
    for row in (0, 2, 0):  # the batch's users
        reg = reg + (user[row] ** 2).sum() / 12
        for preference in model.preferences:
            reg = reg + (preference.weight[row] ** 2).sum() / 12
    for row in (1, 3, 0, 2, 0, 3):  # its items
        reg = reg + (item[row] ** 2).sum() / 24
    torch.testing.assert_close(terms["reg"], reg)
    torch.testing.assert_close(model.loss(toy, BATCH)[0], terms["bpr"] + 0.5 * reg)


def test_published_regulariser_adds_all_preferences_of_the_first_set(toy):
    torch.manual_seed(0)
    published = GRCN(toy, features=["text", "image"], faithful=True)
    torch.manual_seed(0)
    intended = GRCN(toy, features=["text", "image"])
    extra = published.loss_terms(toy, BATCH)["reg"] - intended.loss_terms(toy, BATCH)["reg"]
    torch.testing.assert_close(extra, published.preferences[0].weight.square().mean())


def test_published_routing_changes_nothing_the_intended_does(toy):
    def users(num_routings: int, faithful: bool) -> Tensor:
        torch.manual_seed(0)
        return GRCN(toy, num_routings=num_routings, faithful=faithful)(toy)[0]

    assert torch.equal(users(0, True), users(3, True))
    assert torch.equal(users(0, False), users(3, True))
    assert not torch.allclose(users(0, False), users(3, False), atol=1e-3)
    assert not torch.allclose(users(1, False), users(3, False), atol=1e-3)


def test_learns_the_checkerboard_from_features_that_know_nothing(checkerboard):
    train, test = checkerboard
    torch.manual_seed(0)
    train["item"].x_mm = torch.randn(50, 6)
    model = GRCN(train, embedding_dim=16)
    assert evaluate(model, test, ks=(1,))["recall@1"] < 0.7
    config = TrainConfig(lr=0.01, batch_size=256, max_epochs=8, ks=(1,), monitor="recall@1")
    assert fit(model, train, test, config).best_metrics["recall@1"] > 0.9


@pytest.mark.parametrize("argument", ["num_layers", "num_routings"])
def test_numbers_of_rounds_are_checked(toy, argument):
    with pytest.raises(ValueError, match=f"'{argument}' needs to be 0 or more \\(got -1\\)"):
        GRCN(toy, **{argument: -1})


def test_needs_features(toy):
    with pytest.raises(ValueError, match="GRCN needs at least one item feature table"):
        GRCN(toy, features=[])


@pytest.mark.parametrize(
    ("num_users", "num_items", "expected"),
    [(19_445, 7_050, 4_524_478), (35_598, 18_357, 8_404_422), (192_403, 63_001, 41_771_096)],
)
def test_parameter_counts_of_the_published_code(published_sizes, num_users, num_items, expected):
    data = published_sizes(num_users, num_items, {"image": 4096, "text": 384})
    assert published_sizes.count(GRCN, data) == expected
