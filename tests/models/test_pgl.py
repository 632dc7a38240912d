import math

import pytest
import torch
from torch.nn import functional

from alignrec_pyg import PGL
from alignrec_pyg.graph import INTERACTS, InteractionBatch, knn_edge_type
from alignrec_pyg.nn import bpr_loss, sample_links, user_item_edges
from alignrec_pyg.training.sampling import seeded_generator

# user 0 twice: each time with masks of its own
BATCH = InteractionBatch(torch.tensor([0, 2, 0]), torch.tensor([1, 3, 0]), torch.tensor([2, 0, 3]))


def dense_embeddings(model: PGL, data, links) -> tuple[torch.Tensor, torch.Tensor]:
    edge_index, weight = user_item_edges(links, 3, 4)
    a = torch.zeros(7, 7).index_put_((edge_index[1], edge_index[0]), weight)
    content = []
    for modality in model.modalities:
        x = modality.table.weight @ modality.linear.weight.t() + modality.linear.bias
        content.append(x / x.norm(dim=1, keepdim=True))
    e = torch.cat([model.user_embedding.weight, torch.cat(content, dim=1)])
    x = (e + a @ e + a @ a @ e) / 3
    edges = data[knn_edge_type("image")]
    s = torch.zeros(4, 4).index_put_((edges.edge_index[1], edges.edge_index[0]), edges.edge_weight)
    return x[:3], x[3:] + s @ e[3:]


def oracle(toy) -> PGL:
    """The model of the hand-computed values: 3 users and items, one table of width 2."""
    toy["item"].num_nodes = 3
    toy["item"].x_image = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    toy[INTERACTS].edge_index = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]])
    edges = toy[knn_edge_type("image")]
    edges.edge_index = torch.tensor([[0, 1, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2]])
    edges.edge_weight = torch.full((6,), 0.5)
    model = PGL(toy, features=["image"], embedding_dim=2)
    with torch.no_grad():
        model.user_embedding.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        model.modalities[0].linear.weight.copy_(torch.eye(2))
        model.modalities[0].linear.bias.zero_()
    return model


def test_vectors_by_hand(toy):
    user, item = oracle(toy)(toy)
    expected = [[0.89142, 0.30641], [0.35355, 0.5], [0.66667, 1.0]]
    torch.testing.assert_close(user, torch.tensor(expected), atol=1e-5, rtol=0)
    expected = [[1.45355, 0.8], [1.62071, 0.72998], [0.83333, 1.5]]
    torch.testing.assert_close(item, torch.tensor(expected), atol=1e-5, rtol=0)


def test_terms_by_hand(toy):
    model = oracle(toy)
    model.dropout = 0.0
    with torch.no_grad():  # users and items of the batch are far from each other
        model.user_embedding.weight.copy_(torch.tensor([[0.0, 0.0], [9e6, 0.0], [0.0, 9e6]]))
    batch = InteractionBatch(*torch.tensor([[1, 2], [1, 2], [0, 0]]))
    # two orthogonal rows against themselves, for users and for items
    expected = math.log1p(math.exp(-5))
    assert expected == pytest.approx(0.006715, abs=1e-6)
    assert model.loss_terms(toy, batch)["cl"].item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("freeze", [True, False])
def test_values_and_gradients_equal_the_equations(toy, freeze):
    model = PGL(toy, embedding_dim=4, dropout=0.0, cl_weight=0.7, freeze_features=freeze)
    assert model.user_embedding.weight.shape == (3, 8)
    user_x, item_x = dense_embeddings(model, toy, toy[INTERACTS].edge_index)
    for found, expected in zip(model(toy), (user_x, item_x), strict=True):
        torch.testing.assert_close(found, expected)
    u, i, j = user_x[BATCH.user], item_x[BATCH.pos_item], item_x[BATCH.neg_item]

    def nce(x):
        x = functional.normalize(x)
        return functional.cross_entropy(x @ x.t() / 0.2, torch.arange(3))

    expected = {"bpr": bpr_loss((u * i).sum(1), (u * j).sum(1)), "cl": (nce(u) + nce(i)) / 2}
    torch.testing.assert_close(model.loss_terms(toy, BATCH), expected)
    total = model.loss(toy, BATCH)[0]
    torch.testing.assert_close(total, expected["bpr"] + 0.7 * expected["cl"])
    parameters = list(model.parameters())
    assert len(parameters) == (5 if freeze else 7)
    torch.testing.assert_close(
        torch.autograd.grad(total, parameters),
        torch.autograd.grad(expected["bpr"] + 0.7 * expected["cl"], parameters),
    )


def test_each_row_of_a_batch_has_two_masks_of_its_own(toy):
    model = PGL(toy, embedding_dim=16, dropout=0.5)
    model.on_batch_start(seeded_generator(0, 0, 0))
    users, items = model(toy)
    generator = seeded_generator(0, 0, 0)
    expected = torch.zeros(())
    for x in (users[BATCH.user], items[BATCH.pos_item]):
        masks = [torch.rand(x.shape, generator=generator) >= 0.5 for _ in range(2)]
        first, second = (functional.normalize(x * mask) for mask in masks)
        logits = first @ second.t() / 0.2
        expected = expected + functional.cross_entropy(logits, torch.arange(3)) / 2
    torch.testing.assert_close(model.loss_terms(toy, BATCH)["cl"], expected)


def test_training_uses_the_links_of_the_epoch_inference_all(toy):
    model = PGL(toy, embedding_dim=4, link_share=0.6)
    links = toy[INTERACTS].edge_index
    vectors = []
    for epoch in (3, 4):
        model.on_epoch_start(toy, seeded_generator(0, epoch))
        kept = links[:, sample_links(links, 3, 4, 0.6, seeded_generator(0, epoch))]
        assert kept.size(1) == 3
        vectors.append(model.train()(toy)[0])
        torch.testing.assert_close(vectors[-1], dense_embeddings(model, toy, kept)[0])
        torch.testing.assert_close(model.eval()(toy)[0], dense_embeddings(model, toy, links)[0])
    assert not torch.equal(*vectors)


def test_needs_a_feature_table(toy):
    with pytest.raises(ValueError, match="PGL needs at least one item feature table"):
        PGL(toy, features=[])


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [("link_share", 0, r"\(0, 1\]"), ("link_share", 1.1, r"\(0, 1\]"), ("dropout", 1, r"\[0, 1\)")],
)
def test_shares_are_checked(toy, name, value, allowed):
    with pytest.raises(ValueError, match=f"'{name}' needs to be in {allowed} .got {value}"):
        PGL(toy, **{name: value})


def test_published_settings_are_those_of_the_logs():
    assert PGL.published_hparams("sports") == {"dropout": 0.05, "cl_weight": 0.1}
    assert PGL.published_hparams("films") == {}


@pytest.mark.parametrize(
    ("num_users", "num_items", "expected"),
    [(19_445, 7_050, 34_359_808), (35_598, 18_357, 87_082_752)],
)
def test_parameter_counts_of_the_published_code(published_sizes, num_users, num_items, expected):
    data = published_sizes(num_users, num_items, {"image": 4096, "text": 384})
    assert published_sizes.count(PGL, data) == expected
