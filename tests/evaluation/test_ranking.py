import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from alignrec_pyg import evaluate, evaluate_users, recommend
from alignrec_pyg.evaluation import ranking as module
from alignrec_pyg.evaluation.ranking import embeddings, rank, rank_blocks, top_items
from alignrec_pyg.graph import INTERACTS, links_to_predict, with_known_pairs
from alignrec_pyg.models import BPR, Recommender
from alignrec_pyg.models.base import inner_products

USERS, ITEMS = 40, 30


class Counted(BPR):
    """Scores given as a matrix."""

    def __init__(self, data, scores):
        super().__init__(data, embedding_dim=scores.size(1))
        self.user_embedding.weight = nn.Parameter(scores)
        self.item_embedding.weight = nn.Parameter(torch.eye(scores.size(1)))
        self.calls = 0

    def forward(self, data):
        self.calls += 1
        assert not self.training
        assert not torch.is_grad_enabled()
        return super().forward(data)


class Popularity(Recommender):
    """The number of links of an item, without any vectors."""

    def __init__(self, data):
        super().__init__(data, embedding_dim=1)
        self.calls = 0

    def reset_parameters(self):
        pass

    def forward(self, data):
        return torch.empty(0), torch.empty(0)

    def loss_terms(self, data, batch):
        return {}

    def scorer(self, data, items=None):
        assert not self.training
        assert not torch.is_grad_enabled()
        self.calls += 1
        count = torch.bincount(data[INTERACTS].edge_index[1], minlength=self.num_items).float()
        count += torch.arange(self.num_items) / self.num_items  # no ties
        count = count if items is None else count[items]
        return lambda users: count.repeat(users.numel(), 1)


def slow_list(scores, known, user, k):
    order = sorted(range(scores.size(1)), key=lambda i: -float(scores[user, i]))
    new = [i for i in order if (user, i) not in known][:k]
    return new + [scores.size(1)] * (k - len(new))


@pytest.fixture
def case():
    """User 7 knows all but two items, user 8 every item."""
    generator = torch.Generator().manual_seed(0)
    liked = torch.rand(USERS, ITEMS, generator=generator) < 0.4
    held_out = liked & (torch.rand(USERS, ITEMS, generator=generator) < 0.1)
    known = liked & ~held_out
    known[7, 2:], known[8] = True, True
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = USERS, ITEMS
    edges = known.nonzero().t()
    data[INTERACTS].edge_index = edges[:, torch.randperm(edges.size(1), generator=generator)]
    label = held_out.nonzero().t()
    data[INTERACTS].edge_label_index = label[:, torch.randperm(label.size(1), generator=generator)]
    return data, Counted(data, torch.randn(USERS, ITEMS, generator=generator)).train()


def expected(case, users, k):
    data, model = case
    known = set(map(tuple, data[INTERACTS].edge_index.t().tolist()))
    return [slow_list(model.user_embedding.weight.detach(), known, user, k) for user in users]


@pytest.mark.parametrize("k", [1, 5, ITEMS, ITEMS + 3])
@pytest.mark.parametrize("block", [1, 7 * ITEMS, 1 << 22])
def test_lists_are_those_of_a_loop_over_users(case, k, block, monkeypatch):
    data, model = case
    monkeypatch.setattr(module, "_BLOCK_SCORES", block)
    result = rank(model, data, k, users=torch.arange(USERS))
    assert result.user.tolist() == list(range(USERS))
    assert result.item.tolist() == expected(case, range(USERS), k)
    assert (result.user.dtype, result.item.dtype) == (torch.int64, torch.int32)
    assert model.calls == 1
    assert model.training


def test_lists_are_the_same_in_inference_mode(case):
    data, model = case
    with torch.inference_mode():
        result = rank(model, data, 5, users=torch.arange(USERS))
    assert result.item.tolist() == expected(case, range(USERS), 5)


def test_users_are_those_with_links_to_predict_unless_named(case):
    data, model = case
    users = sorted(set(data[INTERACTS].edge_label_index[0].tolist()))
    assert 1 < len(users) < USERS
    result = rank(model, data)
    assert result.user.tolist() == users
    assert result.item.shape == (len(users), 50)
    assert result.item.tolist() == expected(case, users, 50)
    for named in (torch.tensor([9, 3, 8, 3]), torch.tensor([9, 3, 8], dtype=torch.int32)):
        result = rank(model, data, 4, users=named)
        assert result.user.tolist() == [3, 8, 9]
        assert result.user.dtype == torch.int64
        assert result.item.tolist() == expected(case, [3, 8, 9], 4)
    assert result.item[1].tolist() == [ITEMS] * 4  # user 8 knows everything


def test_nobody_to_rank_for(case):
    data, model = case
    result = rank(model, data, 4, users=torch.tensor([], dtype=torch.int64))
    assert (result.user.shape, result.item.shape) == ((0,), (0, 4))
    assert result.item.dtype == torch.int32


def test_blocks_cover_the_users_in_order(case, monkeypatch):
    data, model = case
    monkeypatch.setattr(module, "_BLOCK_SCORES", 9 * ITEMS)
    blocks = list(rank_blocks(model, data, torch.arange(5, 35), 3, data[INTERACTS].edge_index))
    assert [user.numel() for user, _, _ in blocks] == [9, 9, 9, 3]
    assert torch.cat([user for user, _, _ in blocks]).tolist() == list(range(5, 35))
    assert torch.cat([item for _, item, _ in blocks]).tolist() == expected(case, range(5, 35), 3)


@pytest.mark.parametrize("items", [None, torch.tensor([1, 2, 5, 8, 13, 21, 29])])
def test_a_model_may_score_otherwise(case, items, monkeypatch):
    data, _ = case
    monkeypatch.setattr(module, "_BLOCK_SCORES", 9 * ITEMS)
    links = data[INTERACTS].edge_index
    known = set(map(tuple, links.t().tolist()))
    others = set() if items is None else set(range(ITEMS)) - set(items.tolist())
    masked = known | {(user, item) for user in range(USERS) for item in others}
    count = torch.bincount(links[1], minlength=ITEMS) + torch.arange(ITEMS) / ITEMS
    lists = [slow_list(count.expand(USERS, -1), masked, user, 5) for user in range(USERS)]
    model = Popularity(data).train()
    assert rank(model, data, 5, torch.arange(USERS), items=items).item.tolist() == lists
    assert model.calls == 1
    assert model.training
    candidates = None if items is None else items.numpy()
    recommended = recommend(model, data, range(USERS), 5, candidates=candidates)
    masked |= set(map(tuple, links_to_predict(data).t().tolist()))
    lists = [slow_list(count.expand(USERS, -1), masked, user, 5) for user in range(USERS)]
    assert [row.tolist() for row in recommended] == [
        [item for item in row if item < ITEMS] for row in lists
    ]


def test_known_pairs_are_ranked_unless_they_are_left_out(case):
    data, model = case
    scores = model.user_embedding.weight.detach()
    links = set(map(tuple, data[INTERACTS].edge_index.t().tolist()))
    asked = set(map(tuple, links_to_predict(data).t().tolist()))
    generator = torch.Generator().manual_seed(1)
    drawn = (torch.rand(USERS, ITEMS, generator=generator) < 0.2).nonzero()
    data = with_known_pairs(data, drawn.t())
    pairs = set(map(tuple, drawn.tolist())) - links - asked
    users = sorted({user for user, _ in asked})
    for exclude, masked in ((False, links), (True, links | pairs)):
        ranking = rank(model, data, 4, exclude_known_pairs=exclude)
        assert ranking.item.tolist() == [slow_list(scores, masked, user, 4) for user in users]
        recalls = [
            len(asked & {(user, item) for item in row}) / sum(other == user for other, _ in asked)
            for user, row in zip(users, ranking.item.tolist(), strict=True)
        ]
        metrics = evaluate(model, data, 4, exclude_known_pairs=exclude)
        assert metrics["recall@4"] == pytest.approx(sum(recalls) / len(users))
        of_users = evaluate_users(model, data, 4, exclude_known_pairs=exclude)
        assert of_users.recall.tolist() == pytest.approx(recalls)
    everybody = range(USERS)
    masked = links | pairs | asked
    assert [row.tolist() for row in recommend(model, data, everybody, 4)] == [
        [item for item in slow_list(scores, masked, user, 4) if item < ITEMS] for user in everybody
    ]


def test_a_model_that_scores_otherwise_is_evaluated(case):
    data, _ = case
    count = torch.bincount(data[INTERACTS].edge_index[1]) + torch.arange(ITEMS) / ITEMS
    same = BPR(data, embedding_dim=1)
    same.user_embedding.weight = nn.Parameter(torch.ones(USERS, 1))
    same.item_embedding.weight = nn.Parameter(count.unsqueeze(1))
    assert evaluate(Popularity(data), data) == evaluate(same, data)


def test_scores_have_a_column_for_each_item(case):
    data, _ = case
    model = Popularity(data)
    model.scorer = lambda data, items: Popularity.scorer(model, data)
    with pytest.raises(ValueError, match=r"Popularity\.scorer needs .* \[40, 2\] .*got \[40, 30\]"):
        rank(model, data, 1, torch.arange(USERS), items=torch.tensor([3, 4]))


def test_vectors_are_those_whose_products_are_the_scores(case):
    data, model = case
    user_x, item_x = embeddings(model, data)
    assert torch.equal(user_x @ item_x.t(), model.user_embedding.weight)
    assert not user_x.requires_grad
    with pytest.raises(ValueError, match="Popularity has none, since it overrides 'scorer'.: rec"):
        embeddings(Popularity(data), data)


@pytest.mark.parametrize("k", [1, 4, 12])
def test_only_some_items_and_known_ones_too(case, k, monkeypatch):
    data, model = case
    monkeypatch.setattr(module, "_BLOCK_SCORES", 50)
    allowed = [2, 3, 5, 8, 13, 21, 29]
    scores = model.user_embedding.weight.detach()
    known = set(map(tuple, data[INTERACTS].edge_index.t().tolist()))
    for exclude_known, masked in ((True, known), (False, set())):
        others = {(u, i) for u in range(USERS) for i in range(ITEMS) if i not in allowed}
        result = rank(
            model,
            data,
            k,
            torch.arange(USERS),
            items=torch.tensor([*allowed[::-1], 5]),
            exclude_known=exclude_known,
        )
        assert result.item.tolist() == [
            slow_list(scores, masked | others, user, k) for user in range(USERS)
        ]
    assert rank(model, data, 2, torch.tensor([3]), items=torch.tensor([]).long()).item.tolist() == [
        [ITEMS, ITEMS]
    ]
    with pytest.raises(ValueError, match=r"'items' needs to be in \[0, 29\] \(got 30\)"):
        rank(model, data, items=torch.tensor([30]))


def test_blocks_tell_the_scores(case):
    data, model = case
    (block,) = rank_blocks(model, data, torch.tensor([7, 8]), 3, data[INTERACTS].edge_index)
    weight = model.user_embedding.weight.detach()
    assert block.score[0, :2].tolist() == weight[7, block.item[0, :2]].tolist()
    assert block.score[0, 2] == block.score[1].max() == -math.inf


def test_places_that_no_item_takes_are_no_item_and_score_nothing():
    none = torch.empty(2, 0, dtype=torch.int64)
    scores = inner_products(torch.tensor([[1.0]]), torch.tensor([[-2.0], [-1.0]]))
    (block,) = top_items(scores, torch.tensor([0]), none, 4, num_items=2, of="a model")
    assert block.item.tolist() == [[1, 0, 2, 2]]
    assert block.score.tolist() == [[-1.0, -2.0, -math.inf, -math.inf]]


@pytest.mark.parametrize("num_columns", [1001, 1007, 1008])
@pytest.mark.parametrize("k", [1, 2, 31])
def test_the_best_of_many_items_by_groups(num_columns, k, monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 1000)
    generator = torch.Generator().manual_seed(k)
    score = torch.randn(50, num_columns, generator=generator)
    score[0] = -math.inf
    score[1, 1:] = -math.inf
    score[2] = torch.arange(num_columns)
    score[3] = -score[2]
    score[4, num_columns - 2] = math.nan
    full_rows = []
    monkeypatch.setattr(
        Tensor, "topk", lambda x, *a, topk=Tensor.topk, **b: full_rows.append(x) or topk(x, *a, **b)
    )
    value, item = module._topk(score, k)
    assert all(x.size(1) < num_columns // 2 for x in full_rows)
    monkeypatch.undo()
    expected = score.topk(k)
    torch.testing.assert_close(value, expected.values, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(item[2:4], expected.indices[2:4])
    assert torch.equal(item[5:], expected.indices[5:])
    assert item[4, 0] == num_columns - 2


def test_equal_scores_of_many_items_are_distinct_items(monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 1000)
    score = torch.randint(4, (50, 1003), generator=torch.Generator().manual_seed(0)).float()
    value, item = module._topk(score, 30)
    assert torch.equal(value, score.topk(30).values)
    assert torch.equal(value, score.gather(1, item))
    assert all(row.unique().numel() == 30 for row in item)


def test_nan_scores_are_an_error_and_training_goes_on(case):
    data, model = case
    with torch.no_grad():
        model.user_embedding.weight[3, 4] = math.nan
    with pytest.raises(FloatingPointError, match="Counted gives NaN scores"):
        rank(model, data, users=torch.arange(USERS))
    assert model.training


def test_users_need_to_be_numbers_of_users(case):
    data, model = case
    for users in (torch.tensor([True, False]), torch.tensor([0.0]), torch.tensor([[0]]), [0]):
        with pytest.raises(ValueError, match="'users' needs to be a 1-D tensor of integers"):
            rank(model, data, users=users)
    for wrong in (-1, USERS):
        with pytest.raises(ValueError, match=rf"'users' needs to be in \[0, 39\] \(got {wrong}\)"):
            rank(model, data, users=torch.tensor([0, wrong]))


def test_cut_offs_are_positive_integers(case):
    data, model = case
    for k in (0, 2.0):
        with pytest.raises(ValueError, match="'k' needs to be"):
            rank(model, data, k)
    ranking = rank(model, data, 5)
    assert ranking.check_k(np.int64(5)) == 5
    with pytest.raises(ValueError, match=r"'k' needs to be in \[1, 5\] \(got 6\): .* rank with"):
        ranking.check_k(6)


def test_lists_are_hardly_longer_than_there_are_items(case):
    data, model = case
    assert rank(model, data, 10**9).item.equal(rank(model, data, 1000).item)


def test_data_need_to_fit(case):
    data, model = case
    with pytest.raises(ValueError, match="'k' needs"):
        rank(model, data, 0)
    del data[INTERACTS].edge_label_index
    with pytest.raises(ValueError, match="needs links to predict"):
        rank(model, data)
    data["item"].num_nodes = ITEMS + 1
    with pytest.raises(ValueError, match="'data' needs the 40 users and 30 items"):
        rank(model, data, users=torch.tensor([0]))


def test_inner_products_of_two_precisions_are_of_the_higher_one():
    """As a model may give them under autocast."""
    one, other = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.3, 0.7], [0.1, 0.9]])
    for user, item in ((one.bfloat16(), other), (one, other.bfloat16())):
        expected = user.float() @ item.float().t()
        torch.testing.assert_close(inner_products(user, item)(torch.tensor([0])), expected)
