import pytest
import torch

from alignrec_pyg import VBPR
from alignrec_pyg.graph import InteractionBatch
from alignrec_pyg.nn import bpr_loss, embedding_norm_loss

BATCH = InteractionBatch(torch.tensor([0, 2, 0]), torch.tensor([1, 3, 0]), torch.tensor([2, 0, 3]))


def test_items_are_their_own_vector_beside_the_projected_features(toy):
    model = VBPR(toy, embedding_dim=3, features=["text", "image"])
    features = torch.cat([toy["item"].x_text, toy["item"].x_image], dim=1)
    projected = features @ model.projection.weight.t() + model.projection.bias
    user, item = model(toy)
    torch.testing.assert_close(item, torch.cat([model.item_embedding.weight, projected], dim=1))
    assert user.shape == (3, 6)


def test_loss_of_the_batch_rows_equals_that_of_the_full_tables(toy):
    model = VBPR(toy, embedding_dim=3, reg_weight=0.2)
    user_x, item_x = model(toy)
    u, i, j = user_x[BATCH.user], item_x[BATCH.pos_item], item_x[BATCH.neg_item]
    expected = bpr_loss((u * i).sum(1), (u * j).sum(1), eps=1e-10)
    expected = expected + 0.2 * embedding_norm_loss(u, i, j)
    found = model.loss(toy, BATCH)[0]
    torch.testing.assert_close(found, expected)
    parameters = list(model.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(found, parameters), torch.autograd.grad(expected, parameters)
    )


def test_ids_and_content_are_the_two_halves(toy):
    model = VBPR(toy, embedding_dim=3)
    x = model.representations(toy)
    user, item = model(toy)
    assert torch.equal(torch.cat([x.id_user, x.content_user], dim=1), user)
    assert torch.equal(torch.cat([x.id_item, x.content_item], dim=1), item)
    assert torch.equal(x.id_item, model.item_embedding.weight)
    assert x.content_user.shape == (3, 3)


def test_terms_from_all_items_equal_those_from_the_batchs(toy):
    model = VBPR(toy, embedding_dim=3, freeze_features=False)
    whole, part = model.terms(BATCH, model.representations(toy)), model.loss_terms(toy, BATCH)
    torch.testing.assert_close(whole, part)
    for name in part:
        torch.testing.assert_close(
            torch.autograd.grad(whole[name], list(model.parameters()), retain_graph=True),
            torch.autograd.grad(part[name], list(model.parameters()), retain_graph=True),
        )


def test_features_are_frozen_by_default(toy):
    assert "feature_table.weight" not in dict(VBPR(toy).named_parameters())
    assert "feature_table.weight" in dict(VBPR(toy, freeze_features=False).named_parameters())


@pytest.mark.parametrize(
    ("num_users", "num_items", "expected"),
    [(19_445, 7_050, 3_226_944), (35_598, 18_357, 6_018_176), (192_403, 63_001, 28_946_432)],
)
def test_parameter_counts_of_the_published_code(published_sizes, num_users, num_items, expected):
    data = published_sizes(num_users, num_items, {"image": 4096, "text": 384})
    assert published_sizes.count(VBPR, data) == expected
