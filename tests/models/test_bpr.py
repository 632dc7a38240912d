import pytest
import torch

from alignrec_pyg import BPR
from alignrec_pyg.graph import InteractionBatch

BATCH = InteractionBatch(torch.tensor([0, 2]), torch.tensor([1, 3]), torch.tensor([2, 0]))


def test_terms_by_hand(toy):
    model = BPR(toy, embedding_dim=2, reg_weight=0.5)
    with torch.no_grad():
        model.user_embedding.weight.copy_(torch.tensor([[1.0, 0.0], [9.0, 9.0], [0.0, 2.0]]))
        model.item_embedding.weight.copy_(
            torch.tensor([[0.0, 1.0], [3.0, 0.0], [1.0, 1.0], [0.0, 0.5]])
        )
    terms = model.loss_terms(toy, BATCH)
    # scores: user 0: 3 against 1; user 2: 1 against 2
    sigmoid = [1 / (1 + 2.718281828459045 ** -(3 - 1)), 1 / (1 + 2.718281828459045 ** -(1 - 2))]
    expected = -(torch.tensor(sigmoid).log().mean())
    torch.testing.assert_close(terms["bpr"], expected)
    norms = (1 + 4) ** 0.5 + (9 + 0.25) ** 0.5 + (1 + 1 + 1) ** 0.5
    assert terms["reg"].item() == pytest.approx(norms / 2)
    torch.testing.assert_close(model.loss(toy, BATCH)[0], terms["bpr"] + 0.5 * terms["reg"])


def test_score_is_the_inner_product_of_the_tables(toy):
    model = BPR(toy)
    user, item = model(toy)
    assert user is model.user_embedding.weight
    assert item is model.item_embedding.weight


def test_parameter_count(published_sizes):
    assert published_sizes.count(BPR, published_sizes(19_445, 7_050, {})) == 1_695_680
