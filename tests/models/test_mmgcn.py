import pytest
import torch
from torch.nn import functional

from alignrec_pyg import MMGCN, TrainConfig, fit
from alignrec_pyg.graph import INTERACTS, InteractionBatch
from alignrec_pyg.models import mmgcn_functions

BATCH = InteractionBatch(torch.tensor([0, 2, 0]), torch.tensor([1, 3, 0]), torch.tensor([2, 0, 3]))


def with_tables(toy, number):
    """The toy graph with that many feature tables."""
    toy["item"].x_zoom = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    for name in ("zoom", "text", "image")[: 3 - number]:
        del toy["item"][f"x_{name}"]
    return toy


def dense_embeddings(model: MMGCN, data) -> tuple[torch.Tensor, torch.Tensor]:
    """Node by node as the equations say: one message per link, the mean, the concatenation."""
    num_users = model.num_users
    neighbors = [[] for _ in range(num_users + model.num_items)]
    for user, item in data[INTERACTS].edge_index.t().tolist():
        neighbors[user].append(num_users + item)
        neighbors[num_users + item].append(user)
    leaky = functional.leaky_relu
    ids = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    outputs = []
    for network in model.modalities:
        content = network.table.weight
        if network.projection is not None:
            content = content @ network.projection.weight.t() + network.projection.bias
        x = torch.cat([network.preference.weight, content])
        x = x / x.norm(dim=1, keepdim=True)
        for layer in network.layers:
            message = x @ layer.neighbors.weight.t()
            h = torch.stack(
                [message[n].mean(0) if n else torch.zeros_like(message[0]) for n in neighbors]
            )
            own = leaky(x @ layer.own.weight.t() + layer.own.bias) + ids
            both = torch.cat([leaky(h), own], dim=1)
            x = leaky(both @ layer.combine.weight.t() + layer.combine.bias)
        outputs.append(x)
    x = sum(outputs) / len(outputs)
    return x[:num_users], x[num_users:]


def dense_terms(model: MMGCN, data, batch) -> dict[str, torch.Tensor]:
    user_x, item_x = dense_embeddings(model, data)
    bpr, squares = [], []
    for u, i, j in zip(*(part.tolist() for part in batch), strict=True):
        bpr.append(-torch.sigmoid(user_x[u] @ item_x[i] - user_x[u] @ item_x[j]).log())
        for item in (i, j):
            squares.append(model.user_embedding.weight[u] ** 2)
            squares.append(model.item_embedding.weight[item] ** 2)
    reg = 2 * torch.stack(squares).mean()
    for network in model.modalities:
        reg = reg + (network.preference.weight**2).mean()
    return {"bpr": sum(bpr) / len(bpr), "reg": reg}


@pytest.mark.parametrize("num_tables", [1, 2, 3])
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize(("num_layers", "max_feature_dim"), [(1, 512), (2, 0), (3, 5)])
def test_values_and_gradients_equal_the_equations(
    toy, num_tables, freeze, num_layers, max_feature_dim
):
    data = with_tables(toy, num_tables)
    data[INTERACTS].edge_index = data[INTERACTS].edge_index[:, :4]  # a user and an item alone
    model = MMGCN(
        data,
        embedding_dim=4,
        num_layers=num_layers,
        latent_dim=3,
        max_feature_dim=max_feature_dim,
        reg_weight=0.3,
        freeze_features=freeze,
    )
    assert len(model.modalities) == num_tables
    for found, expected in zip(model(data), dense_embeddings(model, data), strict=True):
        torch.testing.assert_close(found, expected)
    terms, expected_terms = model.loss_terms(data, BATCH), dense_terms(model, data, BATCH)
    torch.testing.assert_close(terms, expected_terms)
    parameters = dict(model.named_parameters())
    assert any("table" in name for name in parameters) is not freeze
    total = expected_terms["bpr"] + 0.3 * expected_terms["reg"]
    torch.testing.assert_close(
        torch.autograd.grad(model.loss(data, BATCH)[0], list(parameters.values())),
        torch.autograd.grad(total, list(parameters.values())),
    )


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("block", [2, 5, 128])
def test_more_users_than_items_in_blocks_of_columns(toy, monkeypatch, freeze, num_layers, block):
    monkeypatch.setattr(mmgcn_functions, "_BLOCK", block)
    toy["user"].num_nodes = 6  # two of them without links
    toy["user"].id = torch.arange(6)
    toy[INTERACTS].edge_index = torch.tensor([[0, 0, 1, 2, 3, 3], [0, 1, 1, 2, 0, 2]])
    model = MMGCN(toy, embedding_dim=4, num_layers=num_layers, freeze_features=freeze)
    for found, expected in zip(model(toy), dense_embeddings(model, toy), strict=True):
        torch.testing.assert_close(found, expected)
    expected_terms = dense_terms(model, toy, BATCH)
    parameters = list(model.parameters())
    total = expected_terms["bpr"] + model.reg_weight * expected_terms["reg"]
    torch.testing.assert_close(
        torch.autograd.grad(model.loss(toy, BATCH)[0], parameters),
        torch.autograd.grad(total, parameters),
    )


def test_wide_tables_alone_are_projected(toy):
    # image has 6 columns, text 5
    model = MMGCN(toy, latent_dim=3, max_feature_dim=5)
    image, text = model.modalities
    assert image.projection.weight.shape == (3, 6)
    assert image.preference.weight.shape == (3, 3)
    assert text.projection is None
    assert text.preference.weight.shape == (3, 5)


def test_regulariser_by_hand(toy):
    model = MMGCN(toy, features=["text"], embedding_dim=2)
    with torch.no_grad():
        model.user_embedding.weight.copy_(torch.tensor([[1.0, 3.0], [9.0, 9.0], [2.0, 2.0]]))
        model.item_embedding.weight.copy_(torch.tensor([[0.0, 2.0]]).expand(4, 2))
        model.modalities[0].preference.weight.fill_(2.0)
    # users 0, 2, 0: squares 1 9, 4 4, 1 9, mean 28 / 6; every item: 0 4, mean 2; preferences: 4
    assert model.loss_terms(toy, BATCH)["reg"].item() == pytest.approx(28 / 6 + 2 + 4)


def test_faithful_tables_are_saved_but_fixed(toy, tmp_path):
    torch.manual_seed(0)
    model = MMGCN(toy, embedding_dim=4, faithful=True)
    names = {"user_embedding.weight", "item_embedding.weight"} | {
        f"modalities.{m}.preference.weight" for m in (0, 1)
    }
    assert names <= model.state_dict().keys()
    assert not names & {name for name, _ in model.named_parameters()}
    before = {name: model.state_dict()[name].clone() for name in names}
    other = model.modalities[0].layers[0].own.weight.detach().clone()
    fit(model, toy, toy, TrainConfig(lr=0.1, batch_size=2, max_epochs=3, ks=(1,), monitor="ndcg@1"))
    for name in names:
        assert torch.equal(model.state_dict()[name], before[name]), name
    assert not torch.equal(model.modalities[0].layers[0].own.weight, other)
    model.save_pretrained(tmp_path)
    torch.manual_seed(1)
    for a, b in zip(model(toy), MMGCN.from_pretrained(tmp_path, toy)(toy), strict=True):
        assert torch.equal(a, b)


def test_faithful_gradients_do_not_depend_on_the_regulariser(toy):
    def gradients(faithful, reg_weight):
        torch.manual_seed(0)
        model = MMGCN(toy, embedding_dim=4, faithful=faithful, reg_weight=reg_weight)
        return torch.autograd.grad(model.loss(toy, BATCH)[0], list(model.parameters()))

    assert all(map(torch.equal, gradients(True, 0.0), gradients(True, 10.0)))
    assert not all(map(torch.equal, gradients(False, 0.0), gradients(False, 10.0)))


def test_faithful_changes_what_is_trained_and_regularised_only(toy):
    torch.manual_seed(0)
    ours = MMGCN(toy, embedding_dim=4)
    theirs = MMGCN(toy, embedding_dim=4, faithful=True)
    theirs.load_state_dict(ours.state_dict())
    for a, b in zip(ours(toy), theirs(toy), strict=True):
        assert torch.equal(a, b)
    a, b = ours.loss_terms(toy, BATCH), theirs.loss_terms(toy, BATCH)
    assert torch.equal(a["bpr"], b["bpr"])
    second = ours.modalities[1].preference.weight.square().mean()
    torch.testing.assert_close(a["reg"] - second, b["reg"])


def test_needs_a_feature_table(toy):
    with pytest.raises(ValueError, match="MMGCN needs at least one item feature table"):
        MMGCN(toy, features=[])


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("num_layers", 0, "1 or more"),
        ("latent_dim", 0, "1 or more"),
        ("max_feature_dim", -1, r"in \[0, 65536\]"),
    ],
)
def test_arguments_are_checked(toy, name, value, rule):
    with pytest.raises(ValueError, match=f"'{name}' needs to be {rule}"):
        MMGCN(toy, **{name: value})


@pytest.mark.parametrize(
    ("num_users", "num_items", "fixed"),
    [(19_445, 7_050, 14_140_480), (35_598, 18_357, 26_235_840), (192_403, 63_001, 139_483_776)],
)
def test_parameter_counts_of_the_published_code(published_sizes, num_users, num_items, fixed):
    data = published_sizes(num_users, num_items, {"image": 4096, "text": 384})
    assert published_sizes.count(MMGCN, data, faithful=True) == 1_418_240
    assert published_sizes.count(MMGCN, data) == 1_418_240 + fixed
