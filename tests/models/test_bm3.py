from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from alignrec_pyg import BM3
from alignrec_pyg.graph import INTERACTS, InteractionBatch
from alignrec_pyg.nn import user_item_edges

BATCH = InteractionBatch(torch.tensor([0, 2, 0]), torch.tensor([1, 3, 0]), torch.tensor([2, 0, 3]))


def online(model: BM3, data) -> tuple[torch.Tensor, torch.Tensor]:
    edge_index, weight = user_item_edges(data[INTERACTS].edge_index, 3, 4)
    a = torch.zeros(7, 7).index_put_((edge_index[1], edge_index[0]), weight)
    e = torch.cat([model.user_embedding.weight, model.item_embedding.weight])
    x = (e + a @ e) / 2
    return x[:3], x[3:] + e[3:]


def test_terms_equal_the_equations_without_dropout(toy):
    model = BM3(toy, embedding_dim=4, dropout=0.0, reg_weight=0.3, cl_weight=2.0)
    user_x, item_x = online(model, toy)

    def c(x, y):
        return sum(
            functional.cosine_similarity(a, b, dim=0) for a, b in zip(x, y, strict=True)
        ) / len(x)

    p = model.predictor
    u, i = user_x[BATCH.user], item_x[BATCH.pos_item]
    ui = (1 - c(p(u), i.detach())) + (1 - c(p(i), u.detach()))
    modality = 0
    for m, name in enumerate(("image", "text")):
        z = model.modalities[m].linear(toy["item"][f"x_{name}"][BATCH.pos_item])
        modality = modality + (1 - c(p(z), i.detach())) + (1 - c(p(z), z.detach()))
    reg = (user_x.norm() + item_x.norm()) / 4  # divided by the number of items
    terms = model.loss_terms(toy, BATCH)
    torch.testing.assert_close(terms["ui"], ui)
    torch.testing.assert_close(terms["modality"], modality)
    torch.testing.assert_close(terms["reg"], reg)
    total = model.loss(toy, BATCH)[0]
    expected = ui + 2.0 * modality + 0.3 * reg
    torch.testing.assert_close(total, expected)
    parameters = [model.user_embedding.weight, model.modalities[1].linear.weight, p.weight]
    torch.testing.assert_close(
        torch.autograd.grad(total, parameters), torch.autograd.grad(expected, parameters)
    )


def test_scores_pass_the_predictor(toy):
    model = BM3(toy, embedding_dim=4)
    user_x, item_x = online(model, toy)
    user, item = model(toy)
    torch.testing.assert_close(user, model.predictor(user_x))
    torch.testing.assert_close(item, model.predictor(item_x))


def test_dropout_of_targets_is_inverted_seeded_and_without_gradient(toy):
    model = BM3(toy, dropout=0.3)
    x = torch.ones(200, 64, requires_grad=True)
    generator = torch.Generator().manual_seed(1)
    first = model._target(x, generator)
    assert not first.requires_grad
    torch.testing.assert_close(first.unique(), torch.tensor([0.0, 1 / 0.7]))
    assert (first == 0).float().mean() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(model._target(x, generator.manual_seed(1)), first)
    assert not torch.equal(model._target(x, generator), first)
    model.on_batch_start(torch.Generator().manual_seed(1))
    terms = model.loss_terms(toy, BATCH)
    assert torch.equal(model.loss_terms(toy, BATCH)["ui"], terms["ui"])
    model.on_batch_start(torch.Generator().manual_seed(2))
    assert not torch.equal(model.loss_terms(toy, BATCH)["ui"], terms["ui"])


def test_negatives_do_not_matter(toy):
    model = BM3(toy, dropout=0.0)
    other = replace(BATCH, neg_item=torch.tensor([3, 3, 3]))
    assert torch.equal(model.loss(toy, BATCH)[0], model.loss(toy, other)[0])


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_dropout_is_checked(toy, dropout):
    with pytest.raises(ValueError, match=r"'dropout' needs to be in \[0, 1\)"):
        BM3(toy, dropout=dropout)


@pytest.mark.parametrize(
    ("num_users", "num_items", "expected"),
    [(19_445, 7_050, 33_570_688), (35_598, 18_357, 85_983_488)],
)
def test_parameter_counts_of_the_published_code(published_sizes, num_users, num_items, expected):
    data = published_sizes(num_users, num_items, {"image": 4096, "text": 384})
    assert published_sizes.count(BM3, data) == expected


def test_norms_are_those_of_all_vectors_or_estimates_of_them(toy):
    """From one of three users and two of four items: lengths grow with the root of the number."""
    model = BM3(toy, embedding_dim=4)
    user, item = torch.full((3, 4), 2.0), torch.full((4, 4), 3.0)
    expected = (user.norm() + item.norm()) / 4
    torch.testing.assert_close(model._norms(user, item), expected)
    torch.testing.assert_close(model._norms(user[:1], item[:2]), expected)
