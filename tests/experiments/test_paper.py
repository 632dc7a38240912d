from dataclasses import replace

import pytest

from alignrec_pyg.experiments.paper import (
    PAPER_METRICS,
    table_2,
    table_3,
    table_4,
    table_5,
    table_8,
)
from alignrec_pyg.report import DataReport

SIZES = {
    "baby": (19_445, 7_050, 160_792),
    "sports": (35_598, 18_357, 296_337),
    "elec": (192_403, 63_001, 1_689_188),
}


def report(name):
    users, items, interactions = SIZES[name]
    empty = dict.fromkeys(DataReport.__dataclass_fields__, 0) | {"features": (), "notes": ()}
    return DataReport(**{**empty, "users": users, "items": items, "interactions": interactions})


@pytest.mark.parametrize(
    ("dataset", "second", "gain"),
    [("baby", "FREEDOM", 6.19), ("sports", "MGCN", 4.88), ("elec", "BM3", 8.02)],
)
def test_gains_are_those_the_paper_claims(dataset, second, gain):
    table = table_2(dataset, report(dataset))
    recall = {model: row["recall@20"] for model, row in table.items()}
    assert len(recall) == 10
    ours = recall.pop("AlignRec")
    assert max(recall, key=recall.get) == second
    assert round(100 * (ours / recall[second] - 1), 2) == gain
    for row in table.values():
        assert list(row) == list(PAPER_METRICS)
        assert row["recall@10"] < row["recall@20"]
        assert row["ndcg@10"] < row["ndcg@20"] < row["recall@20"]


@pytest.mark.parametrize("dataset", ["baby", "sports"])
def test_table_3_shows_what_the_paper_says_of_it(dataset):
    table = table_3(dataset, report(dataset))
    recall = {block: {name: r[20] for name, r in rows.items()} for block, rows in table.items()}
    assert list(table) == ["zero-shot", "mask 50 % image", "mask 50 % text", "item-CF"]
    for rows in recall.values():
        # CLIP's and AlignRec's are better than Amazon's
        assert list(rows) == ["Amazon's features", "CLIP's features", "AlignRec's features"]
        assert list(rows.values()) == sorted(rows.values())
    for name, full in recall["zero-shot"].items():
        # masking text costs more than masking images
        assert recall["mask 50 % text"][name] < min(full, recall["mask 50 % image"][name])
    if dataset == "baby":
        gain = recall["mask 50 % image"]["Amazon's features"] / 0.0058 - 1
        assert round(100 * gain, 1) == 12.1
    for rows in table.values():
        for values in rows.values():
            assert values[10] < values[20] < values[50]


@pytest.mark.parametrize("dataset", ["baby", "sports"])
def test_tables_of_one_model_agree_with_each_other(dataset):
    main = table_2(dataset, report(dataset))
    of_features = table_4(dataset, report(dataset))
    models = [line.split(", ")[1].split(" on ")[0] for line in of_features]
    assert models == [model for model in ("VBPR", "BM3", "FREEDOM") for _ in range(3)]
    # VBPR and FREEDOM on Amazon's features are those of Table 2
    for model in ("VBPR", "FREEDOM"):
        (line,) = (line for line in of_features if f", {model} on Amazon" in line)
        assert f"{main[model]['recall@20']:.4f}" in line
    ablation = table_8(dataset, report(dataset))
    assert ablation["AlignRec"]["recall@20"] == pytest.approx(
        main["AlignRec"]["recall@20"], abs=0.001
    )
    assert max(ablation, key=lambda row: ablation[row]["recall@20"]) == "AlignRec"


def test_full_rows_of_table_5_are_those_of_table_2():
    main, table = table_2("baby", report("baby")), table_5("baby", report("baby"))
    for model in ("VBPR", "BM3", "FREEDOM"):
        assert table[model] == main[model]
        assert f"{model} w/o image" in table
    assert table_5("sports", report("sports")) == {}


def test_other_data_have_none():
    for table in (table_2, table_3, table_4, table_5, table_8):
        assert not table("lfm2k", report("baby"))


@pytest.mark.parametrize("dataset", SIZES)
@pytest.mark.parametrize("field", ["users", "items", "interactions"])
def test_other_data_of_the_same_name_have_none(dataset, field):
    other = report(dataset)
    assert table_2(dataset, other)
    assert table_2(dataset, replace(other, **{field: getattr(other, field) - 1})) == {}
