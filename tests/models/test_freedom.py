import pytest
import torch

from alignrec_pyg import FREEDOM
from alignrec_pyg.graph import INTERACTS, InteractionBatch, knn_edge_type
from alignrec_pyg.nn import bpr_loss, sample_links, user_item_edges
from alignrec_pyg.training.sampling import seeded_generator

BATCH = InteractionBatch(torch.tensor([0, 2, 0]), torch.tensor([1, 3, 0]), torch.tensor([2, 0, 3]))


def dense_embeddings(model: FREEDOM, data, links) -> tuple[torch.Tensor, torch.Tensor]:
    edge_index, weight = user_item_edges(links, 3, 4)
    a = torch.zeros(7, 7).index_put_((edge_index[1], edge_index[0]), weight)
    e = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    x = (e + a @ e + a @ a @ e) / 3
    edges = data[knn_edge_type("image")]
    s = torch.zeros(4, 4).index_put_((edges.edge_index[1], edges.edge_index[0]), edges.edge_weight)
    return x[:3], x[3:] + s @ e[3:]


def test_embeddings_and_terms_equal_the_equations(toy):
    model = FREEDOM(toy, embedding_dim=4, dropout=0.0, reg_weight=0.5)
    user_x, item_x = dense_embeddings(model, toy, toy[INTERACTS].edge_index)
    for found, expected in zip(model(toy), (user_x, item_x), strict=True):
        torch.testing.assert_close(found, expected)
    u, i, j = user_x[BATCH.user], item_x[BATCH.pos_item], item_x[BATCH.neg_item]
    bpr = bpr_loss((u * i).sum(1), (u * j).sum(1))
    reg = 0
    for m, name in enumerate(("image", "text")):
        z = model.modalities[m].linear(toy["item"][f"x_{name}"])
        reg = reg + bpr_loss((u * z[BATCH.pos_item]).sum(1), (u * z[BATCH.neg_item]).sum(1))
    terms = model.loss_terms(toy, BATCH)
    torch.testing.assert_close(terms["bpr"], bpr)
    torch.testing.assert_close(terms["reg"], reg)
    torch.testing.assert_close(model.loss(toy, BATCH)[0], bpr + 0.5 * reg)


def test_training_uses_the_links_of_the_epoch_inference_all(toy):
    model = FREEDOM(toy, embedding_dim=4, dropout=0.2)
    links = toy[INTERACTS].edge_index
    model.on_epoch_start(toy, seeded_generator(0, 3))
    kept = links[:, sample_links(links, 3, 4, 0.8, seeded_generator(0, 3))]
    assert kept.size(1) == 4
    torch.testing.assert_close(model.train()(toy)[0], dense_embeddings(model, toy, kept)[0])
    torch.testing.assert_close(model.eval()(toy)[0], dense_embeddings(model, toy, links)[0])


def test_other_data_in_training_have_all_their_links(toy):
    other = toy.clone()
    other[INTERACTS].edge_index = toy[INTERACTS].edge_index[:, 1:]
    model = FREEDOM(toy, embedding_dim=4, dropout=0.5).train()
    model.on_epoch_start(toy, seeded_generator(0, 3))
    expected = dense_embeddings(model, other, other[INTERACTS].edge_index)
    torch.testing.assert_close(model(other), expected)


def test_runs_without_feature_tables(toy):
    model = FREEDOM(toy, features=[])
    assert model.loss_weights == {"bpr": 1.0}
    assert model.loss(toy, BATCH)[1].keys() == {"bpr"}


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_is_checked(toy, dropout):
    with pytest.raises(ValueError, match=r"'dropout' needs to be in \[0, 1\)"):
        FREEDOM(toy, dropout=dropout)


@pytest.mark.parametrize(
    ("num_users", "num_items", "expected"),
    [(19_445, 7_050, 33_566_528), (35_598, 18_357, 85_979_328)],
)
def test_parameter_counts_of_the_published_code(published_sizes, num_users, num_items, expected):
    data = published_sizes(num_users, num_items, {"image": 4096, "text": 384})
    assert published_sizes.count(FREEDOM, data) == expected
