import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg import BPR
from alignrec_pyg.graph import InteractionBatch
from alignrec_pyg.nn import embedding_norm_loss

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


def test_the_default_weight_draws_first_rows_alike_on_all_data():
    for num_users, num_links in ((50, 600), (900, 60_000)):
        generator = torch.Generator().manual_seed(0)
        data = HeteroData()
        data["user"].num_nodes, data["item"].num_nodes = num_users, 700
        ends = [torch.randint(n, (num_links,), generator=generator) for n in (num_users, 700)]
        data["user", "interacts", "item"].edge_index = torch.stack(ends).unique(dim=1)
        torch.manual_seed(0)
        model = BPR(data)
        size = BPR.complete_config(data).batch_size
        user = torch.randint(num_users, (size,), generator=generator)
        rows = model.user_embedding.weight.detach()[user].requires_grad_()
        item = model.item_embedding.weight.detach()[: len(rows) // 2].repeat(9, 1)[: len(rows)]
        reg = model.reg_weight * embedding_norm_loss(rows, item, item)
        (gradient,) = torch.autograd.grad(reg, rows)
        # The triple's own gradient is divided by the batch, too.
        share = size * gradient.norm(dim=1) / rows.norm(dim=1)
        torch.testing.assert_close(share, torch.full_like(share, 0.05), rtol=0.1, atol=0)
        assert model.hparams["reg_weight"] == model.reg_weight
        assert BPR(data, reg_weight=0.5).reg_weight == 0.5


def test_score_is_the_inner_product_of_the_tables(toy):
    model = BPR(toy)
    user, item = model(toy)
    assert user is model.user_embedding.weight
    assert item is model.item_embedding.weight


def test_parameter_count(published_sizes):
    assert published_sizes.count(BPR, published_sizes(19_445, 7_050, {})) == 1_695_680
