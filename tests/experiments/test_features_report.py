import json

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.experiments import features_report
from alignrec_pyg.experiments.features import ANY_TIED, ITEM_CF, ZERO_SHOT, FeatureSet
from alignrec_pyg.experiments.features_report import FeaturesReport, choice, feature_maps
from alignrec_pyg.feature_eval import CosineStatistics, FeatureRecall, bootstrap_interval
from alignrec_pyg.graph import INTERACTS
from alignrec_pyg.text_tables import Bold

MASK = "mask 50 % image"

KS = (10, 20, 50)


def recall(*ranks, num_unranked=0):
    count = len(ranks)
    return FeatureRecall(
        ks=KS,
        query=torch.arange(count),
        row=torch.arange(count),
        rank=torch.tensor(ranks),
        popularity_rank=torch.tensor(ranks) + 5,
        num_candidates=torch.full((count,), 100),
        num_unranked=num_unranked,
    )


def feature_set(*tables, mean=0.25):
    cosine = CosineStatistics(mean=mean, std=0.125, num_items=1200, num_missing=34)
    return FeatureSet(
        tables=tables, normalize_parts=False, width=5000, cosine=cosine, content_hash="abc"
    )


@pytest.fixture
def report():
    weak, strong = recall(*[0, 15, 60, 99] * 10), recall(*[0, 3, 15, 99] * 10, num_unranked=2)
    tied = {"a": weak, "a+b": strong}
    return FeaturesReport(
        blocks={
            ZERO_SHOT: {"a": weak, "a+b": strong},
            MASK: {"a+b": weak},
            ITEM_CF: {"a": weak, "a+b": weak},
            ANY_TIED: tied,
        },
        sets={"a": feature_set("a"), "a+b": feature_set("a", "b", mean=float("nan"))},
        paper={ITEM_CF: {"CLIP's features": {10: 0.1, 20: 0.2, 50: 0.3}}},
        about={"data": "some", "commit": None},
        source="users 4",
    )


def test_the_best_of_a_column_is_bold_and_lines_of_scale_follow(report):
    rows = report.recall_rows()
    interval = bootstrap_interval(report.blocks[ZERO_SHOT]["a+b"].hits(10))
    by_name = {(row[0], row[1]): row[2:] for row in rows}
    best = by_name[ZERO_SHOT, "a+b"][0]
    assert best == f"0.5000 [{interval.low:.4f}, {interval.high:.4f}]"
    assert isinstance(best, Bold)
    assert not isinstance(by_name[ZERO_SHOT, "a"][0], Bold)
    # one row is not the best of anything; equal rows both are
    assert not any(isinstance(cell, Bold) for cell in by_name[MASK, "a+b"])
    assert all(isinstance(cell, Bold) for name in ("a", "a+b") for cell in by_name[ITEM_CF, name])
    assert by_name[ZERO_SHOT, "(random)"] == ["0.1000", "0.2000", "0.5000"]
    assert by_name[ZERO_SHOT, "(popularity)"] == ["0.2500", "0.2500", "0.5000"]
    assert (MASK, "(random)") not in by_name
    published = [row for row in rows if row[1].startswith("paper (its own features and split)")]
    assert published == [[ITEM_CF, published[0][1], "0.1000", "0.2000", "0.3000"]]


def test_sets_are_told_with_their_cosines(report):
    assert report.set_rows()[1:] == [
        ["a", "5,000", "34", "0.2500", "0.1250", "abc"],
        ["a+b", "5,000", "34", "nan", "0.1250", "abc"],
    ]


def test_the_best_set_is_that_of_zero_shot_and_its_lead_is_tested():
    weak, strong = recall(*[0, 15, 60, 99] * 30), recall(*[0, 3, 15, 99] * 30)
    text = choice({"weak": weak, "strong": strong})
    assert text.startswith("best set by zero-shot recall@20: strong; against weak, the second: ")
    assert "+0.2500 per user" in text
    assert "paired bootstrap over 120 users), so these users tell them apart" in text
    near = choice({"x": recall(*[0] * 9, 30), "y": recall(*[0] * 8, 30, 30)})
    assert near.startswith("best set by zero-shot recall@20: x; against y")
    assert near.endswith("so these users do not tell them apart")
    equal = choice({"first": weak, "second": weak})
    assert equal.startswith("best set by zero-shot recall@20: first; against second")
    assert choice({"alone": weak}) == "best set by zero-shot recall@20: alone (the only one)"


def test_what_masking_costs_and_what_is_missing_is_told(report):
    lines = report.notes()
    (loss,) = (line for line in lines if line.startswith(f"{MASK} on a+b"))
    assert "-0.2500 recall@20 against all of its features (95 % interval -0." in loss
    assert f"{ZERO_SHOT} on a+b: 2 without features, which find nothing" in lines
    assert any("item-CF: 40 items; 0 have several" in line for line in lines)
    assert any(line.startswith("paper: Table 3") for line in lines)


def test_files_appear_together_and_an_old_picture_goes(report, tmp_path):
    points = torch.rand(7, 2), torch.arange(7)
    first, written = report.write(tmp_path, lambda sets: dict.fromkeys(sets, points))
    assert [path.suffix for path in first] == [".csv", ".json", ".md"]  # without waiting
    assert [path.name for path in written] == [
        f"features.{suffix}" for suffix in ("csv", "json", "md", "png")
    ]
    assert (tmp_path / "features.png").read_bytes().startswith(b"\x89PNG")
    saved = json.loads((tmp_path / "features.json").read_text())
    assert saved["sets"]["a+b"]["cosine"]["mean"] is None
    assert saved["protocols"][MASK]["a+b"]["recall"]["20"]["mean"] == 0.5
    assert (
        "CLIP's features,paper (its own features and split),,0.1,,,0.2,,,0.3,,"
        in (tmp_path / "features.csv").read_text()
    )
    assert "```text\nusers 4\n```" in (tmp_path / "features.md").read_text()
    ((*_, last),) = report.write(tmp_path, None)
    assert last.suffix == ".md"
    assert sorted(path.suffix for path in tmp_path.glob("[!.]*")) == [".csv", ".json", ".md"]


def test_maps_show_the_same_items_coloured_by_their_links(monkeypatch):
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = 3, 60
    item = torch.arange(60).repeat_interleave(torch.arange(60) % 4)
    data[INTERACTS].edge_index = torch.stack([torch.zeros_like(item), item])
    generator = torch.Generator().manual_seed(0)
    data["item"].x_a = torch.randn(60, 5, generator=generator)
    data["item"].x_b = torch.randn(60, 8, generator=generator)
    drawn = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:20]
    data["item"].x_b[drawn[3]] = 0
    sets = {"a": feature_set("a"), "b": feature_set("b")}
    maps = feature_maps(data, sets, sample=20)
    assert maps["a"][1].tolist() == (drawn % 4).tolist()
    kept = [number for number in range(20) if number != 3]
    assert maps["b"][1].tolist() == (drawn[kept] % 4).tolist()
    assert maps["a"][0].shape == (20, 2)
    assert maps["b"][0].shape == (19, 2)
    again = feature_maps(data, sets, sample=20)
    assert np.array_equal(again["a"][0], maps["a"][0])
    monkeypatch.setattr(features_report, "chart_problem", lambda: "no")
    assert feature_maps(data, sets) == {}
