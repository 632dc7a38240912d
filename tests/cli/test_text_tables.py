from alignrec_pyg.cli.text_tables import aligned


def test_columns_stand_under_each_other():
    rows = [["", "@5", "title"], ["recall", "0.1", "a"], ["x", "0.1234", "bc"]]
    assert aligned(rows).splitlines() == [
        "            @5  title",
        "recall     0.1      a",
        "x       0.1234     bc",
    ]
    assert aligned(rows, left=(0, 2)).splitlines()[1] == "recall     0.1  a"
    assert aligned([["only"]]) == "only"
