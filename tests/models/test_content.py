import pytest
import torch
from torch import nn

from alignrec_pyg import Recommender
from alignrec_pyg.graph import InteractionBatch
from alignrec_pyg.models import ContentRecommender, Representations
from alignrec_pyg.models.content import items_with_features
from alignrec_pyg.nn import item_to_user_adjacency, rows_of

BATCH = InteractionBatch(torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))


class Plain(ContentRecommender):
    """The least a subclass has to give."""

    def __init__(self, data, *, embedding_dim=2):
        super().__init__(data, embedding_dim=embedding_dim)
        self.features = ["image"]
        self.rows = nn.Parameter(torch.arange(28.0).view(14, 2))
        self.calls = 0

    def reset_parameters(self):
        nn.init.zeros_(self.rows)

    def representations(self, data, nodes=None):
        self.calls += 1
        users, items = (None, None) if nodes is None else (nodes.user, nodes.item)
        parts = zip(self.rows.split([3, 4, 3, 4]), [users, items] * 2, strict=True)
        return Representations(*(rows_of(part, rows) for part, rows in parts))

    def terms(self, batch, x):
        return {"sum": sum(part.sum() for part in x), "user": batch.user.sum().float()}

    @property
    def loss_weights(self):
        return {"sum": 2.0, "user": 1.0}


def test_forward_and_loss_follow_from_representations_and_terms(toy):
    model = Plain(toy)
    user, item = model(toy)
    rows = model.rows.detach()
    assert torch.equal(user, rows[:3] + rows[7:10])
    assert torch.equal(item, rows[3:7] + rows[10:])
    model.calls = 0
    total, terms = model.loss(toy, BATCH)
    assert model.calls == 1
    read = torch.tensor([0, 3 + 1, 3 + 2, 7, 10 + 1, 10 + 2])  # user 0, items 1 and 2
    assert terms["sum"] == model.rows[read].sum()
    assert total == 2 * terms["sum"]


@pytest.mark.parametrize("missing", ["representations", "terms"])
def test_what_a_subclass_has_to_give(toy, missing):
    left_out = type("LeftOut", (Plain,), {missing: getattr(ContentRecommender, missing)})
    with pytest.raises(TypeError, match=missing):
        left_out(toy)
    assert issubclass(ContentRecommender, Recommender)


@pytest.mark.parametrize("normalization", ["symmetric", "row"])
def test_item_to_user_graph_is_prepared_once(toy, normalization):
    model = Plain(toy)
    graph = model.item_to_user_graph(toy, normalization)
    links = toy["user", "interacts", "item"].edge_index
    expected = item_to_user_adjacency(links, 3, 4, normalization).matrix.to_dense()
    assert torch.equal(graph.matrix.to_dense(), expected)
    assert model.item_to_user_graph(toy, normalization) is graph


def test_items_have_features_unless_they_lack_all_of_them(toy):
    assert items_with_features(toy, ["image", "text"]) is None
    toy["item"].mask_image = torch.tensor([True, True, False, False])
    assert items_with_features(toy, ["image", "text"]) is None
    assert items_with_features(toy, ["image"]).tolist() == [False, False, True, True]
    toy["item"].mask_text = torch.tensor([False, True, True, False])
    assert items_with_features(toy, ["image", "text"]).tolist() == [True, False, True, True]
