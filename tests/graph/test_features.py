import pytest
import torch

from alignrec_pyg.graph import (
    feature_mask,
    feature_names,
    feature_table,
    item_graph_names,
    knn_edge_type,
)


def test_names_of_features_and_item_graphs(toy):
    assert feature_names(toy) == ["image", "text"]
    assert item_graph_names(toy) == ["image"]
    assert knn_edge_type("image") in toy.edge_types


def test_unknown_feature_names_those_there(toy):
    with pytest.raises(ValueError, match=r"'audio' needs to be one of .*\['image', 'text'\]"):
        feature_table(toy, "audio")


def test_mask_is_false_where_none_is_given(toy):
    assert not feature_mask(toy, "text").any()
    toy["item"].mask_text = torch.tensor([True, False, False, False])
    assert feature_mask(toy, "text").tolist() == [True, False, False, False]
