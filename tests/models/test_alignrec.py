import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from alignrec_pyg import AlignRec
from alignrec_pyg.graph import INTERACTS, InteractionBatch, knn_edge_type
from alignrec_pyg.transforms import KNNItemGraph

# user 0 and item 1 occur twice: the terms over distinct rows have to count them twice
BATCH = InteractionBatch(
    torch.tensor([0, 0, 1, 2]),
    torch.tensor([0, 1, 1, 3]),
    torch.tensor([2, 3, 0, 1]),
    full_size=2048,
)


@pytest.fixture
def data(toy):
    return KNNItemGraph(["image", "text"], k=2, name="mm")(toy)


def build(data, **hparams) -> AlignRec:
    torch.manual_seed(0)
    model = AlignRec(data, item_graph="mm", embedding_dim=3, **hparams)
    with torch.no_grad():  # the initial rows are tiny; larger ones make the terms count
        model.user_embedding.weight.mul_(3)
        model.item_embedding.weight.mul_(3)
    return model


def dense_parts(model: AlignRec, data) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Section 2.2 of the specification with dense matrices."""
    r = torch.zeros(3, 4)
    for u, i in data[INTERACTS].edge_index.t().tolist():
        r[u, i] = 1
    r_hat = r / r.sum(1, keepdim=True).sqrt() / r.sum(0, keepdim=True).sqrt()
    a_hat = torch.zeros(7, 7)
    a_hat[:3, 3:], a_hat[3:, :3] = r_hat, r_hat.t()
    e = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    c = (e + a_hat @ e + a_hat @ a_hat @ e) / 3
    s = torch.zeros(4, 4)
    edges = data[knn_edge_type("mm")]
    for (j, i), w in zip(edges.edge_index.t().tolist(), edges.edge_weight.tolist(), strict=True):
        s[i, j] = w
    f = torch.cat([data["item"].x_image, data["item"].x_text], dim=1)
    z = f @ model.projection.weight.t() + model.projection.bias
    g = torch.sigmoid(z @ model.gate.weight.t() + model.gate.bias)
    m_item = s @ (model.item_embedding.weight * g)
    return c[:3], c[3:], r_hat @ m_item, m_item


def slow_terms(model: AlignRec, data) -> dict[str, Tensor]:
    """Section 2.3 of the specification, pair by pair."""
    c_user, c_item, m_user, m_item = dense_parts(model, data)
    h_user, h_item = c_user + m_user, c_item + m_item
    triples = list(zip(*(column.tolist() for column in BATCH), strict=True))

    def nce(x: Tensor, y: Tensor, rows: list[int]) -> Tensor:
        def similarity(a: int, b: int) -> Tensor:
            return functional.cosine_similarity(x[a], y[b], dim=0) / 0.2

        return sum(
            -torch.log(torch.exp(similarity(a, a)) / sum(torch.exp(similarity(a, b)) for b in rows))
            for a in rows
        ) / len(rows)

    users, items = BATCH.user.tolist(), BATCH.pos_item.tolist()
    f = torch.cat([data["item"].x_image, data["item"].x_text], dim=1)
    error = sum(
        (m_item[a] @ m_item[b] - functional.cosine_similarity(f[a], f[b], dim=0)) ** 2
        for a in items
        for b in items
    )
    return {
        "bpr": sum(
            -torch.log(torch.sigmoid(h_user[u] @ h_item[i] - h_user[u] @ h_item[j]))
            for u, i, j in triples
        )
        / 4,
        "cca": nce(m_item, c_item, items) + nce(m_user, c_user, users),
        "uia": 1
        - sum(functional.cosine_similarity(h_user[u], h_item[i], dim=0) for u, i, _ in triples) / 4,
        "reg": torch.sqrt(error) / 4,
        "l2": sum(
            h_user[u].square().sum() + h_item[i].square().sum() + h_item[j].square().sum()
            for u, i, j in triples
        )
        / (2 * 2048),
    }


def test_representations_equal_the_dense_equations(data):
    model = build(data)
    for found, expected in zip(model.representations(data), (0, 1, 2, 3), strict=True):
        torch.testing.assert_close(found, dense_parts(model, data)[expected])
    c_user, c_item, m_user, m_item = dense_parts(model, data)
    user, item = model(data)
    torch.testing.assert_close(user, c_user + m_user)
    torch.testing.assert_close(item, c_item + m_item)


@pytest.mark.parametrize("term", ["bpr", "cca", "uia", "reg", "l2"])
def test_each_term_equals_the_slow_reference_in_value_and_gradient(data, term):
    model = build(data)
    # the reference uses the data's features, as the live table still equals them
    parameters = [
        model.user_embedding.weight,
        model.item_embedding.weight,
        model.projection.weight,
        model.gate.bias,
    ]
    found, expected = model.loss_terms(data, BATCH)[term], slow_terms(model, data)[term]
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found, parameters, materialize_grads=True, allow_unused=True),
        torch.autograd.grad(expected, parameters, materialize_grads=True, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_total_loss_is_the_sum_of_section_2_3(data):
    model = build(data, cca_weight=0.01, uia_weight=0.1, reg_weight=0.2)
    terms = slow_terms(model, data)
    expected = (
        terms["bpr"]
        + 1e-4 * terms["l2"]
        + 0.01 * terms["cca"]
        + 0.1 * terms["uia"]
        + 0.2 * terms["reg"]
    )
    torch.testing.assert_close(model.loss(data, BATCH)[0], expected)


def step(model: AlignRec, data) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model.loss(data, BATCH)[0].backward()
    optimizer.step()


@pytest.mark.parametrize(("target", "moves"), [("live", True), ("frozen", False)])
def test_reg_target_follows_training_or_not(data, target, moves, monkeypatch):
    seen = []

    def spy(content, target, **kwargs):
        seen.append(target.clone())
        return content.sum() * 0

    monkeypatch.setattr("alignrec_pyg.nn.alignment.similarity_loss", spy)
    model = build(data, reg_target=target)
    step(model, data)
    model.loss(data, BATCH)
    assert torch.equal(seen[0], seen[1]) is not moves


@pytest.mark.parametrize(("freeze", "moves"), [(False, True), (True, False)])
def test_features_train_unless_frozen(data, freeze, moves):
    model = build(data, freeze_features=freeze)
    before = model.feature_table.weight.detach().clone()
    step(model, data)
    assert torch.equal(model.feature_table.weight, before) is not moves
    data_features = torch.cat([data["item"].x_image, data["item"].x_text], dim=1)
    assert torch.equal(before, data_features)


def test_paper_equations_are_those_of_the_paper(data):
    torch.manual_seed(0)
    model = AlignRec.paper_equations(data, item_graph="mm", embedding_dim=3, reg_weight=0.3)
    assert model.loss_weights == {"bpr": 1.0, "cca": 0.01, "uia": 0.1, "reg": 0.3, "l2": 0.0}
    with torch.no_grad():
        model.feature_table.weight.mul_(-2)  # in training, which is no target of REG
    x = model.representations(data)
    cca = torch.zeros(())
    for rows, content, ids in (
        (BATCH.pos_item, x.content_item, x.id_item),
        (BATCH.user, x.content_user, x.id_user),
    ):  # Eq. 10: inner products, not cosines
        logits = content[rows] @ ids[rows].t() / 0.2
        cca = cca + functional.cross_entropy(logits, torch.arange(4))
    torch.testing.assert_close(model.loss_terms(data, BATCH)["cca"], cca)
    content = functional.normalize(x.content_item[BATCH.pos_item])  # Eq. 11: cosines
    f = torch.cat([data["item"].x_image, data["item"].x_text], dim=1)[BATCH.pos_item]
    f = functional.normalize(f)
    expected = torch.linalg.matrix_norm(content @ content.t() - f @ f.t()) / 4
    torch.testing.assert_close(model.loss_terms(data, BATCH)["reg"], expected)


def changed(data, **hparams) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    plain = build(data)
    other = build(data, **hparams)
    other.load_state_dict(plain.state_dict(), strict=False)
    return plain.loss_terms(data, BATCH), other.loss_terms(data, BATCH)


def test_reg_reduction_mse_is_the_square(data):
    before, after = changed(data, reg_reduction="mse")
    torch.testing.assert_close(after["reg"], before["reg"] ** 2)


def test_cca_symmetric_averages_both_directions(data):
    model = build(data, cca_symmetric=True)
    x = model.representations(data)
    users, items = BATCH.user, BATCH.pos_item

    def nce(a: Tensor, b: Tensor) -> Tensor:
        logits = functional.normalize(a) @ functional.normalize(b).t() / 0.2
        return functional.cross_entropy(logits, torch.arange(4))

    expected = sum(
        (nce(a, b) + nce(b, a)) / 2
        for a, b in (
            (x.content_item[items], x.id_item[items]),
            (x.content_user[users], x.id_user[users]),
        )
    )
    torch.testing.assert_close(model.loss_terms(data, BATCH)["cca"], expected)


def test_cca_without_normalisation_uses_inner_products(data):
    model = build(data, cca_normalize=False)
    x = model.representations(data)
    expected = sum(
        functional.cross_entropy(a[rows] @ b[rows].t() / 0.2, torch.arange(4))
        for a, b, rows in (
            (x.content_item, x.id_item, BATCH.pos_item),
            (x.content_user, x.id_user, BATCH.user),
        )
    )
    torch.testing.assert_close(model.loss_terms(data, BATCH)["cca"], expected)


def test_user_aggregation_by_row_is_the_mean_of_the_items(data):
    model = build(data, user_aggregation="row")
    x = model.representations(data)
    torch.testing.assert_close(x.content_user[0], (x.content_item[0] + x.content_item[1]) / 2)


def test_options_of_the_content_mlp(data):
    f = torch.cat([data["item"].x_image, data["item"].x_text], dim=1)
    model = build(data, mlp_relu=True, feature_norm=True, num_item_layers=0)
    hidden = model.projection(functional.layer_norm(f, (11,))).relu()
    expected = model.item_embedding.weight * torch.sigmoid(model.gate(hidden))
    torch.testing.assert_close(model.representations(data).content_item, expected)


def test_items_without_features_take_no_part_in_reg(data):
    data["item"].x_image[1] = data["item"].x_text[1] = 0
    data["item"].mask_image = data["item"].mask_text = torch.tensor([False, True, False, False])
    model = build(data)
    content = model.representations(data).content_item[[0, 3]]
    f = functional.normalize(torch.cat([data["item"].x_image, data["item"].x_text], 1)[[0, 3]])
    expected = torch.linalg.matrix_norm(content @ content.t() - f @ f.t()) / 2
    terms = model.loss_terms(data, BATCH)
    torch.testing.assert_close(terms["reg"], expected)
    nobody = copy.copy(data)
    nobody["item"].mask_image = nobody["item"].mask_text = torch.ones(4, dtype=torch.bool)
    assert build(nobody).loss_terms(nobody, BATCH)["reg"] == 0


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("reg_similarity", "euclid"),
        ("reg_reduction", "sum"),
        ("reg_target", "drift"),
        ("user_aggregation", "max"),
        ("temperature", 0.0),
        ("num_layers", -1),
    ],
)
def test_bad_options_are_named(data, argument, value):
    with pytest.raises(ValueError, match=f"'{argument}' needs to be"):
        build(data, **{argument: value})


@pytest.mark.parametrize(
    ("num_users", "num_items", "expected"),
    [(19_445, 7_050, 7_171_840), (35_598, 18_357, 17_613_056), (192_403, 63_001, 64_792_384)],
)
def test_parameter_counts_of_the_published_code(published_sizes, num_users, num_items, expected):
    data = published_sizes(num_users, num_items, {"mm": 768})
    unused = 2 * (64 * 64 + 64) + 64  # two gates that the published code creates and never uses
    assert published_sizes.count(AlignRec, data) == expected - unused
