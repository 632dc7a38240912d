import pytest

from benchmarks.paper_results import PAPER_METRICS, paper_results

SIZES = {
    "baby": (19_445, 7_050, 160_792),
    "sports": (35_598, 18_357, 296_337),
    "elec": (192_403, 63_001, 1_689_188),
}


@pytest.mark.parametrize(
    ("dataset", "second", "gain"),
    [("baby", "FREEDOM", 6.19), ("sports", "MGCN", 4.88), ("elec", "BM3", 8.02)],
)
def test_gains_are_those_the_paper_claims(dataset, second, gain):
    table = paper_results(dataset, *SIZES[dataset])
    recall = {model: row["recall@20"] for model, row in table.items()}
    assert len(recall) == 10
    ours = recall.pop("AlignRec")
    assert max(recall, key=recall.get) == second
    assert round(100 * (ours / recall[second] - 1), 2) == gain
    for row in table.values():
        assert list(row) == list(PAPER_METRICS)
        assert row["recall@10"] < row["recall@20"]
        assert row["ndcg@10"] < row["ndcg@20"] < row["recall@20"]


def test_other_data_have_none():
    assert paper_results("lfm2k", *SIZES["baby"]) == {}


@pytest.mark.parametrize("dataset", SIZES)
@pytest.mark.parametrize("position", range(3))
def test_other_data_of_the_same_name_have_none(dataset, position):
    size = list(SIZES[dataset])
    size[position] -= 1
    assert paper_results(dataset, *size) == {}
