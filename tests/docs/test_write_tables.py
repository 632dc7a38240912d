"""Tables in pages, from the results that experiments left."""

import pytest

from alignrec_pyg.experiments.cells import model_code
from alignrec_pyg.models import BPR, LightGCN
from alignrec_pyg.storage import write_manifest
from docs import write_tables
from docs.write_tables import PAGES, ROOT, table_text, with_tables


@pytest.fixture
def results():
    return {
        "table": [
            ["model", "recall@20", "p (Holm)"],
            ["LightGCN", "0.3000", "-"],
            ["BPR", "0.2000 ± 0.0100", ".03"],
            ["  paper (its own features and split)", "0.9000", ""],
        ],
        "rows": [
            {"name": "LightGCN", "mean": {"recall@20": 0.3}},
            {"name": "BPR", "mean": {"recall@20": 0.2}},
        ],
        "best": {"recall@20": 0.3},
        "metrics": ["recall@20"],
        "cells": [{"cpu_seconds": 1000.2}, {"cpu_seconds": 234.0}],
        "code": {"LightGCN": model_code(LightGCN), "BPR": model_code(BPR)},
        "legend": "mean over seeds",
        "outcome": "LightGCN is best.",
        "data": {"ranking": "all items", "split": {"fingerprint": "0123456789"}},
        "selection": "best epoch by validation",
        "commit": "abcdef0123",
        "hardware": "a machine",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_have_the_tables_of_the_kept_results(page):
    text = page.read_text("utf-8")
    assert with_tables(text) == text, "python docs/write_tables.py writes them anew"


def test_a_table_has_all_rows_and_its_caption(results):
    assert table_text(results) == (
        "| model | recall@20 | p (Holm) |\n"
        "| --- | ---: | ---: |\n"
        "| LightGCN | **0.3000** | - |\n"
        "| BPR | 0.2000 ± 0.0100 | .03 |\n"
        "|   paper (its own features and split) | 0.9000 |  |\n"
        "\n"
        "Mean over seeds. LightGCN is best. Bold: the best of all 2 rows. Ranked: all items; best "
        "epoch by validation. Split `01234567`, commit abcdef0, a machine; all training took 1,234 "
        "seconds of the processor.\n"
    )


def test_a_part_of_a_table_has_the_rows_asked_for_and_the_metrics(results):
    assert table_text(results, ["BPR"]).startswith(
        "| model | recall@20 |\n| --- | ---: |\n| BPR | 0.2000 ± 0.0100 |\n\n"
    )
    with pytest.raises(ValueError, match=r"rows of \['LightGCN', 'BPR'\] \(got \['GRCN'\]\)"):
        table_text(results, ["GRCN", "BPR"])


def test_a_caption_says_what_is_older_than_the_code(results):
    results["code"]["BPR"] = "another"
    assert table_text(results).endswith("**Older than the code, which has changed since: BPR.**\n")
    results["code"] = {"LightGCN": "another", "Gone": "another"}
    assert table_text(results).endswith("changed since: all rows.**\n")


def test_tables_are_written_between_their_marks(results, tmp_path, monkeypatch, capsys):
    write_manifest(tmp_path / "made_up.json", results)
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- table made_up: BPR -->\nold\n<!-- end of table -->\nbetween\n"
        "<!-- table made_up -->\n<!-- end of table -->\nafter\n"
    )
    monkeypatch.setattr(write_tables, "PAGES", [page])
    monkeypatch.setattr(write_tables, "TABLES", tmp_path)
    monkeypatch.setattr(write_tables, "ROOT", tmp_path)
    assert write_tables.main() == 0
    text = page.read_text("utf-8")
    part, whole = table_text(results, ["BPR"]), table_text(results)
    assert text == (
        f"before\n<!-- table made_up: BPR -->\n\n{part}\n<!-- end of table -->\nbetween\n"
        f"<!-- table made_up -->\n\n{whole}\n<!-- end of table -->\nafter\n"
    )
    assert capsys.readouterr().out == "written: page.md\n"
    write_tables.main()
    assert capsys.readouterr().out == ""
