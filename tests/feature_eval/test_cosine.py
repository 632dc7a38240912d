import math
from itertools import combinations

import numpy as np
import pytest
import torch

from alignrec_pyg.feature_eval import feature_rows
from alignrec_pyg.feature_eval.cosine import CosineStatistics, cosine_statistics
from alignrec_pyg.report import describe


@pytest.mark.parametrize("features", ["text", "image", ["text", "image"]])
@pytest.mark.parametrize("normalize_parts", [False, True])
@pytest.mark.parametrize("cast", [1 << 22, 30])
def test_statistics_are_those_of_all_pairs(case, features, normalize_parts, cast, monkeypatch):
    monkeypatch.setattr(feature_rows, "_CAST_ELEMENTS", cast)
    table = feature_rows.FeatureRows(case, features, normalize_parts=normalize_parts)[:].numpy()
    present = [row / np.linalg.norm(row) for row in table if row.any()]
    cosines = [a @ b for a, b in combinations(present, 2)]
    found = cosine_statistics(case, features, normalize_parts=normalize_parts)
    assert found.mean == pytest.approx(np.mean(cosines), abs=1e-12)
    assert found.std == pytest.approx(np.std(cosines), abs=1e-9)
    missing = 2 if features == "text" else 0
    assert (found.num_items, found.num_missing) == (25 - missing, missing)


def test_they_agree_with_the_sample_of_the_report(graph):
    data = graph(1, 1000, [(0, 0)])
    generator = torch.Generator().manual_seed(0)
    data["item"].x_text = torch.randn(1000, 20, generator=generator) + 1
    (reported,) = describe(data).features
    found = cosine_statistics(data, "text")
    assert found.mean == pytest.approx(reported.cosine_mean, abs=0.01)
    assert found.std == pytest.approx(reported.cosine_std, abs=0.01)


def test_equal_rows_have_no_spread(graph):
    data = graph(1, 50, [(0, 0)])
    data["item"].x_text = torch.full((50, 7), 0.1)
    found = cosine_statistics(data, "text")
    assert found.mean == pytest.approx(1)
    assert found.std == pytest.approx(0, abs=1e-7)


def test_one_row_has_nobody_to_be_like(graph):
    data = graph(1, 3, [(0, 0)])
    data["item"].x_text = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
    found = cosine_statistics(data, "text")
    assert isinstance(found, CosineStatistics)
    assert (found.num_items, found.num_missing) == (1, 2)
    assert math.isnan(found.mean)
    assert math.isnan(found.std)
