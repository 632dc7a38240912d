import pytest
import torch
from torch import nn

from alignrec_pyg import BPR
from alignrec_pyg.evaluation.ranking import embeddings
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.ids import UnknownItemError, UnknownUserError
from alignrec_pyg.serving import (
    ItemIndex,
    explain,
    export_onnx,
    export_recommendations,
    recommend_new_users,
    similar,
    similar_items,
)


@pytest.fixture
def model(toy):
    """Items 10 and 20 point one way, 30 another, 40 nowhere."""
    model = BPR(toy, embedding_dim=2)
    model.item_embedding.weight = nn.Parameter(
        torch.tensor([[1.0, 0.0], [4.0, 3.0], [0.0, 2.0], [0.0, 0.0]])
    )
    return model


def told(lists):
    return [(row.item.tolist(), row.similarity.tolist()) for row in lists]


def test_similar_items_by_cosine(toy, model):
    first, second, third = told(similar_items(model, toy, [20, 10, 40], k=2))
    assert first == ([10, 30], pytest.approx([0.8, 0.6]))
    assert second == ([20, 30], pytest.approx([0.8, 0.0]))
    assert third == ([], [])
    assert told(similar_items(model, toy, 20, k=1, exclude=10)) == [([30], pytest.approx([0.6]))]
    only = similar_items(model, toy, [20, 10], candidates=[10, 20, 40])
    assert [row.item.tolist() for row in only] == [[10], [20]]
    assert similar_items(model, toy, []) == []


def test_equal_items_are_similar_and_ties_go_by_number(toy, model):
    model.item_embedding.weight.data[:] = torch.tensor([1.0, 1.0])
    rows = similar_items(model, toy, [20, 40], k=2)
    assert [row.item.tolist() for row in rows] == [[10, 30], [10, 20]]


def test_explains_by_the_nearest_items_of_the_history(toy, model):
    assert toy[INTERACTS].edge_index[:, :2].tolist() == [[0, 0], [0, 1]]  # ann: 10 and 20
    near_30, near_20 = told(explain(model, toy, "ann", [30, 20]))
    assert near_30 == ([20, 10], pytest.approx([0.6, 0.0]))
    assert near_20 == ([10], pytest.approx([0.8]))  # not by itself
    assert told(explain(model, toy, "ann", 30, k=1)) == [([20], pytest.approx([0.6]))]
    assert told(explain(model, toy, "cy", [10])) == [([], [])]  # cy knows 40, which points nowhere


def test_explains_from_vectors_at_hand_without_propagating(toy, model, monkeypatch):
    _, item_x = embeddings(model, toy)
    expected = told(explain(model, toy, "ann", [30, 20]))
    monkeypatch.setattr(similar, "embeddings", lambda *_: pytest.fail("propagated"))
    assert told(explain(model, toy, "ann", [30, 20], item_x=item_x)) == expected
    turned = told(explain(model, toy, "ann", [30], item_x=-item_x.flip(0)))
    assert turned != expected[:1]
    with pytest.raises(ValueError, match=r"'item_x' needs a row for each of the 4 items"):
        explain(model, toy, "ann", [30], item_x=item_x[1:])


def test_unknown_ids_and_bad_lengths(toy, model):
    with pytest.raises(UnknownItemError, match="'item_ids'"):
        similar_items(model, toy, [11])
    with pytest.raises(UnknownItemError, match="'item_ids'"):
        explain(model, toy, "ann", [11])
    with pytest.raises(UnknownUserError, match="'user_id'"):
        explain(model, toy, "dan", [10])
    for call in (
        lambda: similar_items(model, toy, [10], k=0),
        lambda: explain(model, toy, "ann", [10], k=0),
    ):
        with pytest.raises(ValueError, match="'k' needs to be 1 or more"):
            call()


class Doubled(BPR):
    def scorer(self, data, items=None):
        scores = super().scorer(data, items)
        return lambda users: 2 * scores(users)


@pytest.mark.parametrize(
    "serve",
    [
        lambda model, data, path: similar_items(model, data, [10]),
        lambda model, data, path: explain(model, data, "ann", [10]),
        lambda model, data, path: recommend_new_users(model, data, [[10]]),
        lambda model, data, path: ItemIndex.build(model, data),
        lambda model, data, path: export_onnx(model, data, path, k=2),
    ],
)
def test_what_needs_vectors_refuses_other_models(toy, tmp_path, serve):
    pytest.importorskip("faiss")
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="'model' needs vectors .*Doubled .* overrides 'scorer'"):
        serve(Doubled(toy), toy, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_recommendations_of_models_that_score_otherwise_are_exported(toy, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    tables = []
    for model_class in (BPR, Doubled):
        torch.manual_seed(0)
        export_recommendations(model_class(toy), toy, tmp_path / "best.parquet")
        tables.append(parquet.read_table(tmp_path / "best.parquet").to_pandas())
    single, double = tables
    double["score"] /= 2
    assert double.equals(single)
