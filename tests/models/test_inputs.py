import pytest
import torch

from alignrec_pyg import FREEDOM, VBPR
from alignrec_pyg.models import inputs
from alignrec_pyg.models.inputs import (
    select_features,
    select_item_graph,
    select_item_graphs,
    trains_features,
)
from alignrec_pyg.transforms import KNNItemGraph


def test_features_default_to_all_and_are_checked(toy):
    assert select_features(toy, None) == ["image", "text"]
    assert select_features(toy, ["text"]) == ["text"]
    with pytest.raises(ValueError, match="'audio' needs to be one of"):
        select_features(toy, ["audio"])
    with pytest.raises(ValueError, match="list of names \\(got the string 'text'\\)"):
        select_features(toy, "text")
    with pytest.raises(ValueError, match="every feature set once"):
        select_features(toy, ["text", "text"])


def test_item_graph_defaults_to_the_only_one(toy):
    assert select_item_graph(toy, None) == "image"
    both = KNNItemGraph("text", k=2)(toy)
    with pytest.raises(ValueError, match=r"one of .* \['image', 'text'\] \(got None\)"):
        select_item_graph(both, None)
    assert select_item_graph(both, "text") == "text"


def test_item_graphs_default_to_those_named_like_the_features(toy):
    both = KNNItemGraph("text", k=2)(toy)
    assert select_item_graphs(both, None, ["text", "image"]) == ["text", "image"]
    assert select_item_graphs(both, ("image", "image"), ["text", "image"]) == ["image", "image"]
    with pytest.raises(ValueError, match=r"among .* \['image', 'text'\] \(got \['audio'\]\)"):
        select_item_graphs(both, None, ["audio"])
    with pytest.raises(ValueError, match=r"for each of .* \['text'\] \(got \['text', 'image'\]\)"):
        select_item_graphs(both, ["text", "image"], ["text"])
    with pytest.raises(ValueError, match="list of names \\(got the string 'text'\\)"):
        select_item_graphs(both, "text", ["text"])


def test_models_that_need_features_say_so(toy):
    del toy["item"].x_image, toy["item"].x_text
    with pytest.raises(ValueError, match="VBPR needs at least one item feature table"):
        VBPR(toy)


@pytest.mark.parametrize(
    "table", [torch.ones(4, 3, dtype=torch.float64), torch.ones(8, 3), torch.ones(4)]
)
def test_tables_that_are_none_are_refused(toy, table):
    toy["item"].x_text = table
    with pytest.raises(ValueError, match=r"'text' needs to be float32 of shape \[4, dim\]"):
        select_features(toy, ["image", "text"])


def test_feature_tables_are_trained_up_to_a_million_items_unless_someone_says_so(toy, monkeypatch):
    assert trains_features(None, 1_000_000)
    assert trains_features(False, 1_000_001)
    assert not trains_features(True, 5)
    with pytest.warns(
        UserWarning, match=r"tables of 1,000,001 items stay .* freeze_features=False"
    ):
        assert not trains_features(None, 1_000_001)
    monkeypatch.setattr(inputs, "MAX_TRAINED_ITEMS", 3)
    with pytest.warns(UserWarning, match="of 4 items stay as they are"):
        model = FREEDOM(toy, embedding_dim=4)
    assert not any("table" in name for name, _ in model.named_parameters())
    assert model.modalities[0].table.weight.data_ptr() == toy["item"].x_image.data_ptr()
