from benchmarks.performance import speed_report


def side(**changes):
    values = {
        "loss": {"total": 1.0, "bpr": 0.5},
        "metrics": {"recall@10": 0.1, "num_users": 3000.0},
        "differing_edges": 1,
        "edge_weight_error": 1e-7,
    }
    return values | changes


def test_equal_sides_agree():
    assert speed_report.disagreements(side(), side()) == []


def test_each_disagreement_is_found():
    other = side(
        loss={"total": 1.001, "bpr": 0.5},
        metrics={"recall@10": 0.102},
        differing_edges=4,
        edge_weight_error=1e-3,
    )
    lines = speed_report.disagreements(side(), other)
    assert [line.split(":")[0] for line in lines] == [
        "loss total",
        "recall@10",
        "item graph",
        "item graph",
    ]


def test_values_that_are_no_numbers_never_agree():
    broken = side(loss={"total": float("nan"), "bpr": 0.5}, edge_weight_error=float("nan"))
    assert len(speed_report.disagreements(side(), broken)) == 2
