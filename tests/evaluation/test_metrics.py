import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from alignrec_pyg.evaluation import metrics, ranking
from alignrec_pyg.evaluation.metrics import evaluate, evaluate_users, user_metrics
from alignrec_pyg.evaluation.ranking import Ranking, rank
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import BPR, Recommender
from alignrec_pyg.train_config import METRICS


class Fixed(Recommender):
    """Scores given as a matrix."""

    def __init__(self, data: HeteroData, scores: Tensor) -> None:
        super().__init__(data, embedding_dim=1)
        self.scores = scores
        self.calls = 0

    def reset_parameters(self) -> None: ...

    def forward(self, data: HeteroData) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return self.scores, torch.eye(self.num_items)

    def loss_terms(self, data, batch):
        raise NotImplementedError

    @property
    def loss_weights(self) -> dict[str, float]:
        return {}


def graph(num_users: int, num_items: int, known: list, label: list) -> HeteroData:
    data = HeteroData()
    data["user"].num_nodes = num_users
    data["item"].num_nodes = num_items
    data[INTERACTS].edge_index = torch.tensor(known, dtype=torch.int64).reshape(-1, 2).t()
    data[INTERACTS].edge_label_index = torch.tensor(label, dtype=torch.int64).reshape(-1, 2).t()
    return data


def slow_metrics(scores: Tensor, data: HeteroData, k: int) -> dict[str, float]:
    """The definitions of the specification, one user and rank at a time."""
    known = set(map(tuple, data[INTERACTS].edge_index.t().tolist()))
    label: dict[int, set[int]] = {}
    for u, i in data[INTERACTS].edge_label_index.t().tolist():
        label.setdefault(u, set()).add(i)
    total = dict.fromkeys(METRICS, 0.0)
    for u, truth in label.items():
        order = sorted(range(scores.size(1)), key=lambda i: -float(scores[u, i]))
        ranked = [i for i in order if (u, i) not in known][:k]
        hits = [i in truth for i in ranked]
        total["recall"] += sum(hits) / len(truth)
        total["hit"] += any(hits)
        total["precision"] += sum(hits) / k
        dcg = sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits))
        total["ndcg"] += dcg / sum(1 / math.log2(r + 2) for r in range(min(k, len(truth))))
        total["map"] += sum(
            hit * sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits)
        ) / min(k, len(truth))
        total["mrr"] += next((1 / (rank + 1) for rank, hit in enumerate(hits) if hit), 0.0)
    return {f"{name}@{k}": value / len(label) for name, value in total.items()}


@pytest.fixture
def random_case() -> tuple[HeteroData, Tensor]:
    generator = torch.Generator().manual_seed(0)
    liked = (torch.rand(40, 30, generator=generator) < 0.4).nonzero()
    held_out = torch.rand(liked.size(0), generator=generator) < 0.4
    held_out &= liked[:, 0] % 3 != 1  # a third of the users has nothing to predict
    data = graph(40, 30, liked[~held_out].tolist(), liked[held_out].tolist())
    return data, torch.randn(40, 30, generator=generator)


def test_recall_and_ndcg_by_hand():
    # user 0: |T| = 3 > K = 2, hits at rank 1; user 1: |T| = 1 < K, hit at rank 2.
    data = graph(3, 5, [(0, 4)], [(0, 0), (0, 1), (0, 2), (1, 3)])
    scores = torch.tensor(
        [[4.0, 1.0, 1.5, 3.0, 9.0], [5.0, 1.0, 2.0, 4.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]]
    )
    result = evaluate(Fixed(data, scores), data, ks=(2,))
    assert result["recall@2"] == pytest.approx((1 / 3 + 1) / 2)
    ideal = 1 + 1 / math.log2(3)
    assert result["ndcg@2"] == pytest.approx((1 / ideal + 1 / math.log2(3)) / 2)
    assert result["num_users"] == 2  # user 2 has nothing to predict


@pytest.mark.parametrize("k", [1, 5, 20])
def test_all_metrics_equal_the_definitions(random_case, k):
    data, scores = random_case
    result = evaluate(Fixed(data, scores), data, ks=(k,))
    for name, value in slow_metrics(scores, data, k).items():
        assert result[name] == pytest.approx(value, abs=1e-6), name


def test_block_size_changes_nothing_and_the_graph_is_propagated_once(random_case, monkeypatch):
    data, scores = random_case
    whole = evaluate(Fixed(data, scores), data, ks=(5, 10))
    monkeypatch.setattr(ranking, "_BLOCK_SCORES", 7 * 30)
    model = Fixed(data, scores)
    blocks = evaluate(model, data, ks=(5, 10))
    assert model.calls == 1
    assert blocks == pytest.approx(whole, abs=1e-6)


def test_order_of_links_changes_nothing(random_case):
    data, scores = random_case
    before = evaluate(Fixed(data, scores), data, ks=(5,))
    for name in ("edge_index", "edge_label_index"):
        links = data[INTERACTS][name]
        data[INTERACTS][name] = links[:, torch.randperm(links.size(1))]
    assert evaluate(Fixed(data, scores), data, ks=(5,)) == pytest.approx(before, abs=1e-6)


def test_metrics_of_users_average_to_the_metrics(random_case):
    data, scores = random_case
    users = evaluate_users(Fixed(data, scores), data, k=5)
    whole = evaluate(Fixed(data, scores), data, ks=(5,))
    assert users.recall.mean() == pytest.approx(whole["recall@5"], abs=1e-6)
    assert users.ndcg.mean() == pytest.approx(whole["ndcg@5"], abs=1e-6)
    assert users.user.tolist() == sorted(set(data[INTERACTS].edge_label_index[0].tolist()))


def slow_user_metrics(lists: Ranking, links: Tensor, k: int) -> dict[int, tuple[float, float]]:
    truth: dict[int, set[int]] = {}
    for u, i in links.t().tolist():
        truth.setdefault(u, set()).add(i)
    result = {}
    for u, ranked in zip(lists.user.tolist(), lists.item.tolist(), strict=True):
        if u in truth:
            hits = [item in truth[u] for item in ranked[:k]]
            dcg = sum(hit / math.log2(place + 2) for place, hit in enumerate(hits))
            ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(truth[u]))))
            result[u] = (sum(hits) / len(truth[u]), dcg / ideal)
    return result


@pytest.mark.parametrize("k", [1, 5, 20, 50])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_metrics_of_users_from_a_stored_ranking(random_case, k, dtype, monkeypatch):
    data, scores = random_case
    lists = rank(Fixed(data, scores), data, 50)
    lists = Ranking(lists.user, lists.item.to(dtype))
    links = data[INTERACTS].edge_label_index
    links = links[:, torch.randperm(links.size(1), generator=torch.Generator().manual_seed(0))[:40]]
    for block in (1, 7 * k, 1 << 22):
        monkeypatch.setattr(metrics, "_BLOCK_ITEMS", block)
        result = user_metrics(lists, links, k)
        expected = slow_user_metrics(lists, links, k)
        assert 1 < len(expected) < lists.user.numel()  # users without these links are left out
        assert result.user.tolist() == sorted(expected)
        for u, recall, ndcg in zip(*(column.tolist() for column in result), strict=True):
            assert (recall, ndcg) == pytest.approx(expected[u], abs=1e-6)


def test_metrics_of_users_from_a_longer_ranking_are_those_of_the_model(random_case):
    data, scores = random_case
    model = Fixed(data, scores)
    links = data[INTERACTS].edge_label_index
    of_model, of_ranking = (
        evaluate_users(model, data, 10),
        user_metrics(rank(model, data), links, 10),
    )
    assert all(torch.equal(a, b) for a, b in zip(of_model, of_ranking, strict=True))
    whole = evaluate(model, data, 10)
    assert of_ranking.recall.mean() == pytest.approx(whole["recall@10"], abs=1e-6)
    assert of_ranking.ndcg.mean() == pytest.approx(whole["ndcg@10"], abs=1e-6)


def test_no_links_give_no_users():
    lists = Ranking(torch.tensor([3]), torch.tensor([[0, 1]]))
    result = user_metrics(lists, torch.empty(2, 0, dtype=torch.int64), 2)
    assert [column.shape for column in result] == [(0,)] * 3
    assert [column.dtype for column in result] == [torch.int64, torch.float32, torch.float32]


def test_metrics_of_users_need_their_lists():
    lists = Ranking(torch.tensor([3, 5]), torch.tensor([[0, 1], [1, 0]]))
    for user in (2, 4, 6):
        with pytest.raises(ValueError, match=rf"the ranking \(it has no user {user}\): rank with"):
            user_metrics(lists, torch.tensor([[3, user], [0, 0]]), 1)
    with pytest.raises(ValueError, match=r"'k' needs to be in \[1, 2\] \(got 3\)"):
        user_metrics(lists, torch.tensor([[3], [0]]), 3)


def test_cut_off_beyond_the_catalogue(random_case):
    data, scores = random_case
    result = evaluate(Fixed(data, scores), data, ks=(50,))
    assert result["recall@50"] == pytest.approx(1.0)
    for ours, theirs in zip(
        evaluate_users(Fixed(data, scores), data, 10**9),
        evaluate_users(Fixed(data, scores), data, 50),
        strict=True,
    ):
        assert ours.equal(theirs)
    assert result["precision@50"] == pytest.approx(slow_metrics(scores, data, 50)["precision@50"])


def test_known_links_never_count_even_if_also_to_predict():
    data = graph(1, 2, [(0, 0)], [(0, 0)])
    assert evaluate(Fixed(data, torch.tensor([[2.0, 1.0]])), data, ks=(2,))["recall@2"] == 0


def test_nan_scores_are_an_error(random_case):
    data, scores = random_case
    scores[3, 4] = math.nan
    with pytest.raises(FloatingPointError, match="NaN scores"):
        evaluate(Fixed(data, scores), data)


def test_training_mode_is_put_back(random_case):
    data, scores = random_case
    model = Fixed(data, scores).train()
    evaluate(model, data)
    assert model.training


def test_one_cut_off_and_numpy_cut_offs_will_do(random_case):
    data, scores = random_case
    both = evaluate(Fixed(data, scores), data, ks=np.array([5, 10]))
    assert evaluate(Fixed(data, scores), data, ks=5)["recall@5"] == both["recall@5"]


def test_data_of_another_size_is_an_error(random_case):
    data, scores = random_case
    model = Fixed(data, scores)
    data["item"].num_nodes = 31
    for call in (
        lambda: evaluate(model, data),
        lambda: evaluate_users(model, data),
    ):
        with pytest.raises(ValueError, match=r"'data' needs the 40 users and 30 items .* and 31\)"):
            call()


def test_nothing_to_predict_and_bad_cut_offs_are_errors(random_case):
    data, scores = random_case
    for ks in ((0,), (), 10.0, [5, 2.5], "10"):
        with pytest.raises(ValueError, match="'ks' needs to hold positive integers"):
            evaluate(Fixed(data, scores), data, ks=ks)
    del data[INTERACTS].edge_label_index
    with pytest.raises(ValueError, match="needs links to predict"):
        evaluate(Fixed(data, scores), data)


def test_negatives_are_no_links_to_predict_and_repeated_ones_count_once(random_case):
    data, scores = random_case
    label = data[INTERACTS].edge_label_index
    known = set(map(tuple, torch.cat([label, data[INTERACTS].edge_index], dim=1).t().tolist()))
    negative = [[u, i] for u in range(0, 40, 5) for i in range(30) if (u, i) not in known]
    stored = torch.cat([label, torch.tensor(negative).t(), label[:, :7]], dim=1)
    data[INTERACTS].edge_label = (torch.arange(stored.size(1)) < label.size(1)).long()
    data[INTERACTS].edge_label[-7:] = 1
    expected = slow_metrics(scores, data, 7)
    data[INTERACTS].edge_label_index = stored
    metrics = evaluate(Fixed(data, scores), data, 7)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-6), name
    of_users = evaluate_users(Fixed(data, scores), data, 7)
    assert float(of_users.recall.mean()) == pytest.approx(expected["recall@7"])
    ranking = rank(Fixed(data, scores), data, 7)
    twice = user_metrics(ranking, torch.cat([label, label], dim=1), 7)
    assert float(twice.recall.mean()) == pytest.approx(expected["recall@7"])
    assert float(twice.ndcg.mean()) == pytest.approx(expected["ndcg@7"])


def test_cut_offs_beyond_the_number_of_items(toy):
    """What lists of all items give, whatever the cut-off; precision divides by it."""
    torch.manual_seed(0)
    model = BPR(toy)
    toy[INTERACTS].edge_label_index = torch.tensor([[0, 1, 2], [3, 2, 0]])
    n = model.num_items
    found = evaluate(model, toy, ks=(10**9, 1, n))
    for name in ("recall", "ndcg", "hit", "map", "mrr"):
        assert found[f"{name}@{10**9}"] == found[f"{name}@{n}"]
    assert found[f"precision@{10**9}"] == pytest.approx(found[f"precision@{n}"] * n / 10**9)
