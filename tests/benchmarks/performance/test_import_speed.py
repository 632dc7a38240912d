import pytest

from benchmarks.performance import import_speed


@pytest.mark.parametrize("kind", import_speed.FORMATS)
def test_every_format_holds_the_same(tmp_path, kind):
    table = import_speed.generated(500, 60, 40)
    import_speed.write(tmp_path, kind, table, import_speed.catalogue(40))
    dataset, clock, processor, peak = import_speed.measured(
        lambda: import_speed.read(tmp_path, kind)
    )
    report = dataset.report
    assert report.interactions + report.duplicates == 500
    assert report.users <= 60
    assert report.items == (40 if kind != "mmrec" else len(set(table["item"].to_pylist())))
    assert clock > 0 < processor
    assert peak is None or peak >= 0


def test_a_row_is_printed_for_each_format(capsys):
    words = ["--rows", "200", "--users", "20", "--items", "30", "--formats", "csv"]
    assert import_speed.main(words) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[2].startswith("| csv | 200 | 30 |")
    assert len(rows) == 3
