import pytest
import torch
from torch_geometric.nn import LightGCN as PyGLightGCN

from alignrec_pyg import LightGCN
from alignrec_pyg.graph import INTERACTS, InteractionBatch
from alignrec_pyg.nn import bpr_loss, embedding_norm_loss

BATCH = InteractionBatch(torch.tensor([0, 2, 0]), torch.tensor([1, 3, 0]), torch.tensor([2, 0, 3]))


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_embeddings_equal_those_of_pyg(toy, num_layers):
    model = LightGCN(toy, num_layers=num_layers, embedding_dim=8)
    reference = PyGLightGCN(num_nodes=7, embedding_dim=8, num_layers=num_layers)
    with torch.no_grad():
        reference.embedding.weight.copy_(
            torch.cat([model.user_embedding.weight, model.item_embedding.weight])
        )
    user, item = toy[INTERACTS].edge_index
    both = torch.stack([torch.cat([user, item + 3]), torch.cat([item + 3, user])])
    torch.testing.assert_close(torch.cat(model(toy)), reference.get_embedding(both))


def test_loss_ranks_propagated_rows_and_regularises_unpropagated_ones(toy):
    model = LightGCN(toy, embedding_dim=4, reg_weight=0.1)
    user_x, item_x = model(toy)
    u, i, j = user_x[BATCH.user], item_x[BATCH.pos_item], item_x[BATCH.neg_item]
    bpr = bpr_loss((u * i).sum(1), (u * j).sum(1), eps=1e-10)
    ego_user, ego_item = model.user_embedding.weight, model.item_embedding.weight
    reg = embedding_norm_loss(
        ego_user[BATCH.user], ego_item[BATCH.pos_item], ego_item[BATCH.neg_item]
    )
    terms = model.loss_terms(toy, BATCH)
    torch.testing.assert_close(terms["bpr"], bpr)
    torch.testing.assert_close(terms["reg"], reg)
    torch.testing.assert_close(model.loss(toy, BATCH)[0], bpr + 0.1 * reg)


def test_parameter_count(published_sizes):
    assert published_sizes.count(LightGCN, published_sizes(35_598, 18_357, {})) == 3_453_120
