import numpy as np
import pytest
import torch

from alignrec_pyg import ContentKNN
from alignrec_pyg.graph import INTERACTS


def unit(rows):
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


@pytest.mark.parametrize("k", [1, 2, 9])
def test_scores_are_those_of_all_cosines(toy, k):
    toy["item"].x_text[3] = float("nan")
    toy["item"].mask_text = torch.tensor([False, False, False, True])
    model = ContentKNN(toy, num_neighbors=k)
    model.solve(toy)
    text = toy["item"].x_text.double().numpy()
    text[3] = 0
    cosine = unit(np.hstack([unit(toy["item"].x_image.double().numpy()), unit(text)]))
    cosine = np.maximum(cosine @ cosine.T, 0)
    np.fill_diagonal(cosine, 0)
    for row in cosine:
        row[np.argsort(-row)[k:]] = 0
    x = np.zeros((3, 4))
    x[tuple(toy[INTERACTS].edge_index.numpy())] = 1
    np.testing.assert_allclose(model.scorer(toy)(torch.arange(3)), x @ cosine.T, rtol=1e-5)
    assert cosine.any()


def test_items_without_features_are_nobodys_neighbours(toy):
    toy["item"].x_text[1] = 0
    model = ContentKNN(toy, features=["text"])
    model.solve(toy)
    assert not model.similarity[1].any()
    near = model.neighbor[model.similarity > 0]
    assert near.numel()
    assert not (near == 1).any()
    toy["item"].x_text.zero_()
    model.solve(toy)
    assert not model.similarity.any()


def test_values_that_are_not_finite_are_refused(toy):
    model = ContentKNN(toy)
    toy["item"].x_image[2, 0] = float("nan")
    with pytest.raises(ValueError, match="feature 'image' needs finite values"):
        model.solve(toy)


def test_needs_a_feature_table(toy):
    del toy["item"].x_image, toy["item"].x_text
    with pytest.raises(ValueError, match="ContentKNN needs at least one item feature table"):
        ContentKNN(toy)
