import torch

from alignrec_pyg.graph import InteractionBatch


def test_a_compact_batch_numbers_the_same_triplets_among_what_occurs():
    batch = InteractionBatch(*torch.tensor([[7, 2, 7], [4, 9, 4], [9, 0, 5]]), full_size=8)
    compact = batch.compact()
    assert compact.nodes.user.tolist() == [2, 7]
    assert compact.nodes.item.tolist() == [0, 4, 5, 9]
    assert torch.equal(compact.nodes.user[compact.user], batch.user)
    assert torch.equal(compact.nodes.item[compact.pos_item], batch.pos_item)
    assert torch.equal(compact.nodes.item[compact.neg_item], batch.neg_item)
    assert (batch.nodes, batch.full_size, compact.full_size) == (None, 8, 8)
