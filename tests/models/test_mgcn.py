import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alignrec_pyg import MGCN
from alignrec_pyg.graph import INTERACTS, InteractionBatch, knn_edge_type
from alignrec_pyg.transforms import KNNItemGraph

# user 0 and item 1 occur twice: the contrast over distinct rows has to count them twice
BATCH = InteractionBatch(
    torch.tensor([0, 0, 1, 2]),
    torch.tensor([0, 1, 1, 3]),
    torch.tensor([2, 3, 0, 1]),
    full_size=2048,
)
FEATURES = [["text"], ["image", "text"], ["text", "audio", "image"]]


@pytest.fixture
def data(toy):
    """The toy graph with a third table and an item graph for each."""
    toy["item"].x_audio = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    for name in ("text", "audio"):
        toy = KNNItemGraph(name, k=2, weighting="cosine")(toy)
    return toy


def build(data, **hparams) -> MGCN:
    torch.manual_seed(0)
    model = MGCN(data, **{"embedding_dim": 3, **hparams})
    with torch.no_grad():  # the initial rows are tiny; larger ones make every part count
        model.user_embedding.weight.mul_(3)
        model.item_embedding.weight.mul_(3)
    return model


def sigmoid_gate(gate: torch.nn.Module, x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-(x @ gate[0].weight.t() + gate[0].bias)))


def dense(model: MGCN, data, features: list[str], graphs: list[str]) -> tuple[Tensor, Tensor]:
    """IDs and content of users and items, by section 4.8 of the specification, node by node."""
    r = torch.zeros(3, 4)
    for u, i in data[INTERACTS].edge_index.t().tolist():
        r[u, i] = 1
    r_hat = r / r.sum(1, keepdim=True).sqrt() / r.sum(0, keepdim=True).sqrt()
    a_hat = torch.zeros(7, 7)
    a_hat[:3, 3:], a_hat[3:, :3] = r_hat, r_hat.t()
    e = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    c = (e + a_hat @ e + a_hat @ a_hat @ e) / 3
    views = []
    for name, graph, modality, gate in zip(
        features, graphs, model.modalities, model.gates, strict=True
    ):
        s = torch.zeros(4, 4)
        edges = data[knn_edge_type(graph)]
        for (j, i), w in zip(
            edges.edge_index.t().tolist(), edges.edge_weight.tolist(), strict=True
        ):
            s[i, j] = w
        f = modality.table.weight
        assert torch.equal(f, data["item"][f"x_{name}"])
        h = e[3:] * sigmoid_gate(gate, f @ modality.linear.weight.t() + modality.linear.bias)
        views.append(torch.cat([r_hat @ s @ h, s @ h]))
    side = []
    for n in range(7):
        rows = [view[n] for view in views]
        if len(rows) == 1:
            side.append(rows[0] / 2)
            continue
        inner, outer = model.fusion.attention[0], model.fusion.attention[2]
        logits = torch.stack(
            [outer.weight[0] @ torch.tanh(inner.weight @ row + inner.bias) for row in rows]
        )
        omega = torch.exp(logits) / torch.exp(logits).sum()
        common = sum(w * row for w, row in zip(omega, rows, strict=True))
        own = sum(
            sigmoid_gate(q, c[n]) * (row - common)
            for q, row in zip(model.fusion.preferences, rows, strict=True)
        )
        side.append((own + common) / (len(rows) + 1))
    return c, torch.stack(side)


def dense_terms(c: Tensor, side: Tensor) -> dict[str, Tensor]:
    h = c + side
    u, i, j = h[BATCH.user], h[3 + BATCH.pos_item], h[3 + BATCH.neg_item]

    def nce(rows: Tensor) -> Tensor:
        logits = functional.normalize(side[rows]) @ functional.normalize(c[rows]).t() / 0.2
        return functional.cross_entropy(logits, torch.arange(4))

    return {
        "bpr": -torch.log(torch.sigmoid((u * i).sum(1) - (u * j).sum(1))).mean(),
        "cl": nce(3 + BATCH.pos_item) + nce(BATCH.user),
        "l2": (u.square().sum() + i.square().sum() + j.square().sum()) / (2 * 2048),
    }


@pytest.mark.parametrize("freeze", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("features", FEATURES, ids=len)
def test_equals_the_dense_equations_in_value_and_gradient(data, features, freeze):
    model = build(data, features=features, freeze_features=freeze)
    c, side = dense(model, data, features, features)
    x = model.representations(data)
    torch.testing.assert_close(torch.cat([x.id_user, x.id_item]), c)
    torch.testing.assert_close(torch.cat([x.content_user, x.content_item]), side)
    torch.testing.assert_close(torch.cat(model(data)), c + side)
    parameters = list(model.parameters())
    found, expected = model.loss_terms(data, BATCH), dense_terms(c, side)
    assert found.keys() == expected.keys() == model.loss_weights.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])
        for a, b in zip(
            torch.autograd.grad(found[name], parameters, retain_graph=True),
            torch.autograd.grad(expected[name], parameters, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    total = model.loss(data, BATCH)[0]
    torch.testing.assert_close(
        total, expected["bpr"] + 0.01 * expected["cl"] + 1e-4 * expected["l2"]
    )


def test_item_graphs_can_be_named(data):
    features, graphs = ["image", "text"], ["audio", "audio"]
    model = build(data, features=features, item_graphs=graphs)
    assert model.hparams["item_graphs"] == graphs
    torch.testing.assert_close(torch.cat(model(data)), sum(dense(model, data, features, graphs)))


def test_a_missing_item_graph_is_named(toy):
    with pytest.raises(ValueError, match=r"'item_graphs' needs .*\['image'\] \(got \['image', 't"):
        MGCN(toy)
    assert MGCN(toy, features=["image"]).item_graphs == ["image"]


def test_one_modality_is_half_the_view_beside_the_ids(data):
    model = build(data, features=["image"], num_item_layers=0)
    x = model.representations(data)
    modality, gate = model.modalities[0], model.gates[0]
    view = model.item_embedding.weight * gate(modality.linear(modality.table.weight))
    torch.testing.assert_close(x.content_item, view / 2)
    assert not list(model.fusion.parameters())  # they would get no gradient


def test_features_train_unless_frozen(data):
    names = {f"modalities.{m}.table.weight" for m in range(3)}
    assert names <= dict(build(data).named_parameters()).keys()
    assert not names & build(data, freeze_features=True).state_dict().keys()
    before = data["item"].x_text.clone()
    model = build(data)
    model.loss(data, BATCH)[0].backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert not torch.equal(model.modalities[2].table.weight, before)
    assert torch.equal(data["item"].x_text, before)
    model.reset_parameters()
    assert torch.equal(model.modalities[2].table.weight, before)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("temperature", 0.0), ("num_layers", -1), ("embedding_dim", 0)],
)
def test_bad_options_are_named(data, argument, value):
    with pytest.raises(ValueError, match=rf"'{argument}' needs to be .*\(got {value}"):
        build(data, **{argument: value})


def test_needs_features(data):
    with pytest.raises(ValueError, match="MGCN needs at least one item feature table"):
        MGCN(data, features=[])


@pytest.mark.parametrize(
    ("num_users", "num_items", "expected"),
    [(19_445, 7_050, 33_587_392), (35_598, 18_357, 86_000_192), (192_403, 63_001, 298_898_048)],
)
def test_parameter_counts_of_the_published_code(published_sizes, num_users, num_items, expected):
    data = published_sizes(num_users, num_items, {"image": 4096, "text": 384})
    assert published_sizes.count(MGCN, data, item_graphs=["mm", "mm"]) == expected
