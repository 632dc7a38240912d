import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alignrec_pyg import SMORE
from alignrec_pyg.graph import INTERACTS, InteractionBatch, knn_edge_type
from alignrec_pyg.models.mgcn import mgcn_terms
from alignrec_pyg.training.sampling import seeded_generator
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
    """The toy graph with a third table and an item graph for each, of other sizes."""
    toy["item"].x_audio = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    toy = KNNItemGraph("text", k=3, weighting="cosine")(toy)
    return KNNItemGraph("audio", k=2, weighting="cosine")(toy)


def build(data, **hparams) -> SMORE:
    torch.manual_seed(0)
    model = SMORE(data, **{"embedding_dim": 3, "num_layers": 2, **hparams})
    with torch.no_grad():  # the initial rows are tiny; larger ones make every part count
        model.user_embedding.weight.mul_(3)
        model.item_embedding.weight.mul_(3)
    return model


def linear(layer: torch.nn.Module, x: Tensor) -> Tensor:
    return x @ layer.weight.t() + (0 if layer.bias is None else layer.bias)


def sigmoid_gate(gate: torch.nn.Module, x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-linear(gate[0], x)))


def circular(x: Tensor, weight: Tensor) -> Tensor:
    """Rows of ``x`` filtered by a product with a d x d matrix, the slow way."""
    d = x.size(1)
    basis = torch.fft.irfft(torch.complex(*weight.unbind(-1)), n=d)
    return x @ torch.stack([basis.roll(n) for n in range(d)])


def dense(model: SMORE, data, features: list[str]) -> tuple[Tensor, Tensor]:
    """IDs and content of users and items, by section 2 of the specification, row by row."""
    d = model.embedding_dim
    r = torch.zeros(3, 4)
    for u, i in data[INTERACTS].edge_index.t().tolist():
        r[u, i] = 1
    r_hat = r / r.sum(1, keepdim=True).sqrt() / r.sum(0, keepdim=True).sqrt()
    a_hat = torch.zeros(7, 7)
    a_hat[:3, 3:], a_hat[3:, :3] = r_hat, r_hat.t()
    e = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    c = (e + a_hat @ e + a_hat @ a_hat @ e) / 3
    projected = [linear(modality.linear, modality.table.weight) for modality in model.modalities]
    filtered = [circular(x, w) for x, w in zip(projected, model.filters[:-1], strict=True)]
    # a product of spectra is a circular convolution; "ortho" divides by sqrt(d) for each factor
    joint = projected[0]
    for x in projected[1:]:
        rows = [sum(joint[:, k] * x[:, (n - k) % d] for k in range(d)) for n in range(d)]
        joint = torch.stack(rows, dim=1) / d**0.5
    filtered.append(circular(joint, model.filters[-1]))
    graphs, union = [], {}
    for name in features:
        s = torch.zeros(4, 4)
        edges = data[knn_edge_type(name)]
        for (j, i), w in zip(
            edges.edge_index.t().tolist(), edges.edge_weight.tolist(), strict=True
        ):
            s[i, j] = w
            union[i, j] = max(w, union.get((i, j), -9))
        graphs.append(s)
    graphs.append(torch.zeros(4, 4))
    for place, w in union.items():
        graphs[-1][place] = w
    views = []
    for s, y, gate in zip(graphs, filtered, model.gates, strict=True):
        k = e[3:] * sigmoid_gate(gate, y)
        views.append(torch.cat([r_hat @ s @ k, s @ k]))
    *own, fusion = views
    z = sigmoid_gate(model.preferences[-1], c) * fusion
    for view, attention, preference in zip(own, model.attentions, model.preferences, strict=False):
        alpha = torch.exp(linear(attention[2], torch.tanh(linear(attention[0], fusion))))
        alpha = alpha / alpha.sum(1, keepdim=True)
        z = z + sigmoid_gate(preference, c) * alpha * view
    return c, z / len(views)


def dense_terms(c: Tensor, z: Tensor) -> dict[str, Tensor]:
    h = c + z
    u, i, j = h[BATCH.user], h[3 + BATCH.pos_item], h[3 + BATCH.neg_item]

    def nce(rows: Tensor) -> Tensor:
        logits = functional.normalize(z[rows]) @ functional.normalize(c[rows]).t() / 0.2
        return functional.cross_entropy(logits, torch.arange(4))

    return {
        "bpr": -torch.log(torch.sigmoid((u * i).sum(1) - (u * j).sum(1))).mean(),
        "cl": nce(3 + BATCH.pos_item) + nce(BATCH.user),
        "l2": (u.square().sum() + i.square().sum() + j.square().sum()) / (2 * 2048),
    }


@pytest.mark.parametrize("freeze", [False, True], ids=["trainable", "frozen"])
@pytest.mark.parametrize("features", FEATURES, ids=len)
@pytest.mark.parametrize("embedding_dim", [3, 4])
def test_equals_the_dense_equations_in_value_and_gradient(data, features, freeze, embedding_dim):
    model = build(data, features=features, freeze_features=freeze, embedding_dim=embedding_dim)
    c, z = dense(model, data, features)
    x = model.representations(data)
    torch.testing.assert_close(torch.cat([x.id_user, x.id_item]), c)
    torch.testing.assert_close(torch.cat([x.content_user, x.content_item]), z)
    torch.testing.assert_close(torch.cat(model(data)), c + z)
    found, expected = model.loss_terms(data, BATCH), dense_terms(c, z)
    torch.testing.assert_close(found, expected)
    parameters = list(model.parameters())
    for name in expected:
        torch.testing.assert_close(
            torch.autograd.grad(found[name], parameters, retain_graph=True),
            torch.autograd.grad(expected[name], parameters, retain_graph=True),
            rtol=1e-4,
            atol=1e-6,
        )
    total = model.loss(data, BATCH)[0]
    torch.testing.assert_close(
        total, expected["bpr"] + 0.01 * expected["cl"] + 1e-4 * expected["l2"]
    )


def views(data, rows: dict[str, list[float]], filters: Tensor) -> tuple[SMORE, list[Tensor]]:
    """A model whose projected features are ``rows`` for all items, and what its gates read."""
    for name, row in rows.items():
        data["item"][f"x_{name}"] = torch.tensor([row] * 4)
    model = build(data, features=list(rows), embedding_dim=4)
    read = []
    with torch.no_grad():
        for modality in model.modalities:
            modality.linear.weight.copy_(torch.eye(4))
            modality.linear.bias.zero_()
        model.filters.copy_(torch.view_as_real(filters))
    for gate in model.gates:
        gate.register_forward_pre_hook(lambda _, given: read.append(given[0][0]))
    model(data)
    return model, read


def test_filters_by_hand(data):
    x, g = [1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, 0.0]
    one = torch.ones(3, dtype=torch.complex64)
    other = torch.tensor([1 + 5j, 1j, 1 - 3j])
    model, read = views(data, {"image": x, "text": x}, torch.stack([one, other, one]))
    torch.testing.assert_close(read[0], torch.tensor(x))  # a filter of ones changes nothing
    torch.testing.assert_close(read[1], torch.tensor([1.0, 4.0, 3.0, 2.0]))
    spectrum = torch.fft.rfft(torch.tensor(x), norm="ortho")
    torch.testing.assert_close(spectrum, torch.tensor([5, -1 + 1j, -1]))
    # imaginary parts of the first and the last bin have no effect
    model.loss(data, BATCH)[0].backward()
    assert model.filters.grad[:, [0, 2], 1].eq(0).all()
    assert model.filters.grad[:, 1].ne(0).all()
    real = torch.tensor([1, 1j, 1])
    _, read = views(data, {"image": x, "text": g}, torch.stack([real, one, one]))
    torch.testing.assert_close(read[0], torch.tensor([1.0, 4.0, 3.0, 2.0]))
    # the fusion view: the unfiltered spectra, a circular convolution over sqrt(d)
    torch.testing.assert_close(read[2], torch.tensor([2.0, 0.5, 1.0, 1.5]))


def test_union_has_the_larger_weight_of_each_edge(data):
    for name, edges, weight in (
        ("image", [[0, 1, 1], [0, 0, 2]], [0.6, 0.4, -0.1]),
        ("text", [[0, 2], [0, 0]], [0.5, 0.5]),
    ):
        store = data[knn_edge_type(name)]
        store.edge_index, store.edge_weight = torch.tensor(edges), torch.tensor(weight)
    model = build(data, features=["image", "text"])
    union = model._item_graphs(data)[-1].matrix.to_dense()
    expected = torch.zeros(4, 4)
    expected[0] = torch.tensor([0.6, 0.4, 0.5, 0.0])
    expected[2, 1] = -0.1
    torch.testing.assert_close(union, expected)


def test_side_by_hand(data):
    """Even attention and gates of a half."""
    model = build(data, features=["image", "text"])
    with torch.no_grad():
        for part in (*model.attentions, *model.preferences):
            for parameter in part.parameters():
                parameter.zero_()
    views, ids = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)), torch.ones(5, 3)
    image, text, fusion = views.split(3, dim=1)
    expected = (image / 3 + text / 3 + fusion) / 6
    torch.testing.assert_close(model._fused_views(views, ids, None), expected)


def test_loss_is_that_of_mgcn_on_the_same_vectors(data):
    model = build(data, features=["image", "text"], temperature=0.3)
    x = model.representations(data)
    expected = mgcn_terms(BATCH, x, model.fuse(x), 0.3)
    torch.testing.assert_close(model.loss_terms(data, BATCH), expected)


def test_dropout_of_gates_is_in_training_only_and_seeded_by_the_batch(data):
    features = ["image", "text"]
    model = build(data, features=features, dropout=0.5)
    exact = build(data, features=features)(data)
    model.on_batch_start(seeded_generator(0, 0, 0))
    first, again = model(data), model(data)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first[0], exact[0])
    model.on_batch_start(seeded_generator(0, 0, 1))
    assert not torch.allclose(first[0], model(data)[0])
    torch.testing.assert_close(model.eval()(data), exact)
    # every gate is dropped or doubled
    views = torch.ones(1000, 9)
    dropped = model.train()._fused_views(views, torch.zeros(1000, 3), seeded_generator(0))
    kept = model.eval()._fused_views(views, torch.zeros(1000, 3), None)
    assert dropped.min() == 0
    assert abs((dropped / kept).mean().item() - 1) < 0.05


@pytest.mark.parametrize(
    ("argument", "value"), [("temperature", 0.0), ("dropout", 1.0), ("num_layers", -1)]
)
def test_bad_options_are_named(data, argument, value):
    with pytest.raises(ValueError, match=rf"'{argument}' needs to be .*\(got {value}"):
        build(data, **{argument: value})


def test_published_settings_are_those_of_table_2():
    assert SMORE.published_hparams("baby") == {"num_layers": 4, "dropout": 0.1}
    assert SMORE.published_hparams("films") == {}


@pytest.mark.parametrize(
    ("num_users", "num_items", "millions"),
    [(19_445, 7_050, 33.61), (35_598, 18_357, 86.02), (192_403, 63_001, 298.9)],
)
def test_parameter_counts_of_the_published_code(published_sizes, num_users, num_items, millions):
    data = published_sizes(num_users, num_items, {"image": 4096, "text": 384})
    count = published_sizes.count(SMORE, data, item_graphs=["mm", "mm"])
    assert count == (
        (num_users + num_items) * 64
        + num_items * 4480
        + (4480 + 2) * 64
        + 2 * (2 * 64**2 + 64)
        + 6 * (64**2 + 64)
        + 6 * 33
    )
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if millions > 100 else 0.005)
