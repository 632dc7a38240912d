"""What every model in closed form has to do, and the neighbours that some of them share."""

import copy
import inspect
import pickle

import numpy as np
import pytest
import torch

import alignrec_pyg.models
from alignrec_pyg import (
    ALS,
    EASE,
    ContentKNN,
    ItemKNN,
    Popularity,
    Server,
    TrainConfig,
    evaluate,
    fit,
    load,
    recommend,
)
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.models import ClosedFormRecommender
from alignrec_pyg.models import closed_form as module
from alignrec_pyg.models.closed_form import common_users, items_of_users, user_item_matrix
from alignrec_pyg.serving import grow, refit
from alignrec_pyg.training.sampling import TripletSampler

EXPORTED = [getattr(alignrec_pyg.models, name) for name in alignrec_pyg.models.model_names()]
MODELS = [model for model in EXPORTED if issubclass(model, ClosedFormRecommender)]
WITHOUT_VECTORS = [model for model in MODELS if model is not ALS]
each_model = pytest.mark.parametrize("model_cls", MODELS, ids=lambda cls: cls.__name__)
each_without_vectors = pytest.mark.parametrize(
    "model_cls", WITHOUT_VECTORS, ids=lambda cls: cls.__name__
)
# one user's links say little: a weak prior tells the items apart
OPTIONS = {EASE: {"reg_weight": 1.0}, ALS: {"embedding_dim": 2, "reg_weight": 0.5}}


def built(model_cls, data):
    torch.manual_seed(0)
    model = model_cls(data, **OPTIONS.get(model_cls, {}))
    return model.to(data[INTERACTS].edge_index.device)


def solved(model_cls, data):
    model = built(model_cls, data)
    model.solve(data)
    return model.eval()


def all_scores(model, data, items=None):
    device = data[INTERACTS].edge_index.device
    with torch.no_grad():
        users = torch.arange(model.num_users, device=device)
        return model.scorer(data, items)(users).clone()


def test_there_are_five():
    assert set(MODELS) == {ALS, EASE, ContentKNN, ItemKNN, Popularity}


@each_model
def test_constructor_takes_data_and_keywords_with_defaults(model_cls, toy):
    _, data, *rest = inspect.signature(model_cls.__init__).parameters.values()
    assert data.name == "data"
    for parameter in rest:
        assert parameter.kind is parameter.KEYWORD_ONLY, parameter.name
        assert parameter.default is not parameter.empty, parameter.name
    model = solved(model_cls, toy)
    again = model_cls(toy, **model.hparams)
    assert again.hparams == model.hparams
    assert {n: v.shape for n, v in again.state_dict().items()} == {
        n: v.shape for n, v in model.state_dict().items()
    }


@each_model
def test_scores_blocks_of_users_and_some_of_the_items(model_cls, checkerboard, device):
    train = checkerboard[0].to(str(device))
    model = solved(model_cls, train)
    scores = all_scores(model, train)
    assert scores.shape == (50, 50)
    assert scores.isfinite().all()
    assert scores.any()
    items, users = torch.tensor([3, 4, 40], device=device), torch.tensor([7, 21], device=device)
    with torch.no_grad():
        part = model.scorer(train, items)(users)
        torch.testing.assert_close(part, scores[users][:, items])
        part.fill_(-1)  # the caller may overwrite it
        again = model.scorer(train, items)(users)
    torch.testing.assert_close(again, scores[users][:, items])


@each_model
def test_fit_solves_once_and_evaluates_once(model_cls, checkerboard, device, monkeypatch):
    train, test = (graph.to(str(device)) for graph in checkerboard)
    model, calls, reports = built(model_cls, train), [], []
    solve = model_cls.solve
    monkeypatch.setattr(model_cls, "solve", lambda self, data: calls.append(solve(self, data)))
    config = TrainConfig(ks=(1,), monitor="recall@1", eval_every=3, fan_out=(5, 5), lr=7.0)
    result = fit(model, train, test, config, report=lambda *report: reports.append(report))
    assert len(calls) == len(reports) == 1
    assert (result.best_epoch, result.num_epochs, len(result.history)) == (1, 1, 1)
    assert result.way_on is None
    assert str(result) == "solved in closed form"
    assert result.best_metrics == evaluate(model, test, ks=1)
    assert result.history[0].keys() == {"epoch", "step", *result.best_metrics}
    assert not model.training
    if model_cls is not Popularity:
        assert result.best_metrics["recall@1"] > 0.9
    without = fit(built(model_cls, train), train, None)
    assert (without.best_epoch, without.best_metrics) == (1, {})
    with pytest.raises(ValueError, match=f"'optimizer' needs to be None for {model_cls.__name__}"):
        fit(model, train, test, optimizer=torch.optim.AdamW)


@each_model
def test_a_finished_run_is_not_solved_again(model_cls, checkerboard, tmp_path, monkeypatch):
    train, test = checkerboard
    model = built(model_cls, train)
    first = fit(model, train, test, checkpoint_dir=tmp_path)
    monkeypatch.setattr(model_cls, "solve", lambda *_: pytest.fail("solved again"))
    other = built(model_cls, train)
    again = fit(other, train, test, checkpoint_dir=tmp_path)
    assert (again.history, again.best_metrics) == (first.history, first.best_metrics)
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


@each_model
def test_two_runs_are_equal_to_the_last_bit_and_reset_forgets(model_cls, checkerboard):
    train, _ = checkerboard
    first, second = solved(model_cls, train), solved(model_cls, train)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    fresh = built(model_cls, train).state_dict()
    for model in (first, second):
        torch.manual_seed(0)
        model.reset_parameters()
    if model_cls is not ALS:  # which draws its vectors
        torch.testing.assert_close(first.state_dict(), fresh, rtol=0, atol=0)
    torch.testing.assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)


@each_model
def test_saves_and_loads_to_the_same_scores(model_cls, toy, tmp_path):
    model = solved(model_cls, toy)
    model.save_pretrained(tmp_path, toy)
    loaded, graph = load(tmp_path)
    assert loaded.hparams == model.hparams
    assert torch.equal(all_scores(loaded, graph), all_scores(model, toy))
    loaded = model_cls.from_pretrained(tmp_path, toy)
    assert torch.equal(all_scores(loaded, toy), all_scores(model, toy))


@each_model
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_can_be_copied_and_pickled_after_use(model_cls, toy, duplicate):
    model = solved(model_cls, toy)
    expected = all_scores(model, toy)
    assert torch.equal(all_scores(duplicate(model), toy), expected)


@each_model
def test_does_not_change_or_keep_the_data(model_cls, toy):
    before = copy.deepcopy(toy)
    model = solved(model_cls, toy)
    all_scores(model, toy)
    for store, expected in zip(toy.stores, before.stores, strict=True):
        assert list(store.keys()) == list(expected.keys())
        for key, value in expected.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(store[key], value), key
    assert not any(value is toy for value in vars(model).values())


@each_model
def test_recommends_unknown_items_under_autocast_too(model_cls, toy, tmp_path):
    model = solved(model_cls, toy)
    lists = recommend(model, toy, ["ann", "bob", "cy"], k=4)
    assert [sorted(row.tolist()) for row in lists] == [[30, 40], [10, 40], [10, 20, 30]]
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        assert evaluate(model, toy, ks=1)["num_users"] == 3
    pytest.importorskip("pyarrow")
    Server(model, toy).to_parquet(tmp_path / "best.parquet")
    assert (tmp_path / "best.parquet").is_file()


@each_model
def test_is_solved_anew_on_all_links(model_cls, checkerboard):
    train, test = checkerboard
    model = built(model_cls, train)
    result = fit(model, train, test)
    data = copy.copy(train)
    data[INTERACTS].edge_index = torch.cat(
        [train[INTERACTS].edge_index, test[INTERACTS].edge_label_index], dim=1
    )
    del data[INTERACTS].edge_label_index
    served = refit(model, data, result)
    expected = built(model_cls, data)
    expected.solve(data)
    torch.testing.assert_close(all_scores(served, data), all_scores(expected, data))
    with pytest.raises(
        ValueError, match=f"'model' needs to be trained by steps .*{model_cls.__name__}"
    ):
        grow(model, train, train)


@each_without_vectors
def test_has_neither_vectors_nor_a_loss(model_cls, toy, tmp_path):
    model = solved(model_cls, toy)
    with pytest.raises(ValueError, match=f"{model_cls.__name__} has none, since it overrides"):
        Server(model, toy).to_faiss(tmp_path)
    with pytest.raises(TypeError, match=f"{model_cls.__name__} has no vectors"):
        model(toy)
    with pytest.raises(TypeError, match=f"{model_cls.__name__} has no training loss"):
        model.loss(toy, TripletSampler(toy).batch(0, 0))


def test_vectors_of_als_serve(toy):
    assert Server(solved(ALS, toy), toy).similar([10], k=2)[0].item.size == 2


@each_without_vectors
def test_follows_the_links_it_is_given(model_cls, toy):
    """What users like now; neighbours, weights and counts stay those of the solution."""
    model = solved(model_cls, toy)
    before = all_scores(model, toy)
    other = copy.copy(toy)
    other[INTERACTS].edge_index = toy[INTERACTS].edge_index.clone()
    other[INTERACTS].edge_index[0] = 2 - other[INTERACTS].edge_index[0]
    expected = before if model_cls is Popularity else before.flip(0)
    torch.testing.assert_close(all_scores(model, other), expected)


@pytest.mark.parametrize("model_cls", [ItemKNN, ContentKNN], ids=lambda cls: cls.__name__)
def test_neighbour_scores_are_sums_over_the_users_items(model_cls, checkerboard):
    train, _ = checkerboard
    model = model_cls(train, num_neighbors=7)
    model.solve(train)
    user, item = train[INTERACTS].edge_index.tolist()
    expected = np.zeros((50, 50))
    for u, j in zip(user, item, strict=True):
        for i in range(50):
            for near, similarity in zip(
                model.neighbor[i].tolist(), model.similarity[i].tolist(), strict=True
            ):
                if near == j:
                    expected[u, i] += similarity
    np.testing.assert_allclose(all_scores(model, train), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="'num_neighbors' needs to be 1 or more"):
        model_cls(train, num_neighbors=0)


def test_an_only_item_has_no_neighbours(toy):
    toy["item"].num_nodes = 1
    del toy["item"].id
    toy[INTERACTS].edge_index = toy[INTERACTS].edge_label_index = torch.tensor([[0], [0]])
    model = ItemKNN(toy)
    model.solve(toy)
    assert all_scores(model, toy).tolist() == [[0.0], [0.0], [0.0]]


def test_items_of_users_are_sorted_and_distinct():
    links = torch.tensor([[3, 0, 3, 0, 0], [1, 4, 0, 2, 4]])
    pointer, item = items_of_users(links, 4, 5)
    assert (pointer.tolist(), item.tolist()) == ([0, 2, 2, 2, 4], [2, 4, 0, 1])
    assert pointer.dtype == item.dtype == torch.int32


@pytest.mark.parametrize("paths", [1, 40, 10**6])
def test_common_users_are_those_of_the_dense_product(paths, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_PATHS", paths)
    dense = (torch.rand(30, 12, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    dense[:, 5] = 0
    matrix = user_item_matrix(dense.nonzero().t(), 30, 12)
    np.testing.assert_array_equal(matrix.toarray(), dense)
    blocks = list(common_users(matrix))
    assert len(blocks) == 1 if paths == 10**6 else len(blocks) > 1
    assert [start for start, _ in blocks] == list(
        np.cumsum([0, *(rows.shape[0] for _, rows in blocks[:-1])])
    )
    found = np.concatenate([rows.toarray() for _, rows in blocks])
    np.testing.assert_array_equal(found, dense.t() @ dense)
