"""Writes tables into README and results from the files that experiments left.

python docs/write_tables.py

``docs/tables/NAME.json`` is the ``compare.json`` of an experiment. Its table stands between
``<!-- table NAME -->`` and ``<!-- end of table -->``; ``<!-- table NAME: AlignRec, BPR -->`` takes
these rows, and the metrics only. A caption says what the table rests on, and of which models the
code has changed since.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alignrec_pyg import models
from alignrec_pyg.experiments.cells import model_code
from alignrec_pyg.storage import read_manifest
from alignrec_pyg.text_tables import Bold, markdown_table

ROOT = Path(__file__).parents[1]
TABLES = Path(__file__).parent / "tables"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")

_MARKS = re.compile(
    r"(<!-- table (\w+)(?:: ([\w, ]+))? -->\n).*?(<!-- end of table -->)", re.DOTALL
)


def with_tables(text: str) -> str:
    """A page with what belongs between its marks.

    Raises:
        CheckpointError: If there are no intact results of that name.
        ValueError: If a row is asked for that they do not have.
    """

    def between(found: re.Match[str]) -> str:
        start, name, rows, end = found.groups()
        results = read_manifest(TABLES / f"{name}.json", {"table": list, "code": dict})
        return f"{start}\n{table_text(results, rows.split(', ') if rows else None)}\n{end}"

    return _MARKS.sub(between, text)


def table_text(results: dict[str, Any], rows: Sequence[str] | None = None) -> str:
    """The table and its caption in Markdown; with ``rows``, these and the metrics alone."""
    metrics = results["metrics"]
    means = {row["name"]: row["mean"] for row in results["rows"]}
    unknown = [name for name in rows or () if name not in means]
    if unknown:
        raise ValueError(f"a table needs rows of {list(means)} (got {unknown})")
    header, *lines = results["table"]
    columns = [place for place, name in enumerate(header) if rows is None or name in metrics]
    if rows is not None:
        columns, lines = [0, *columns], [line for line in lines if line[0] in rows]
    table = [[header[column] for column in columns]]
    for line in lines:
        mean = means.get(line[0], {})
        best = [mean.get(name, line) == results["best"].get(name) for name in header]
        cells = [Bold(cell) if mark else cell for cell, mark in zip(line, best, strict=True)]
        table.append([cells[column] for column in columns])
    return f"{markdown_table(table)}\n\n{caption(results)}\n"


def caption(results: dict[str, Any]) -> str:
    """What the figures rest on, their outcome, and what is older than the code."""
    data = results["data"]
    seconds = sum(cell["cpu_seconds"] for cell in results["cells"])
    sentences = [
        f"{results['legend'][0].upper()}{results['legend'][1:]}.",
        results["outcome"],
        f"Bold: the best of all {len(results['rows'])} rows. Ranked: {data['ranking']};",
        f"{results['selection']}. Split `{data['split']['fingerprint'][:8]}`,",
        f"commit {results['commit'][:7]}, {results['hardware']};",
        f"all training took {seconds:,.0f} seconds of the processor.",
    ]
    if older := older_than_the_code(results):
        which = "all rows" if len(older) == len(results["code"]) else ", ".join(older)
        sentences.append(f"**Older than the code, which has changed since: {which}.**")
    return " ".join(sentences)


def older_than_the_code(results: dict[str, Any]) -> list[str]:
    """The models whose code is not the one that made the results."""
    return [
        name
        for name, code in results["code"].items()
        if (model := getattr(models, name, None)) is None or model_code(model) != code
    ]


def main() -> int:
    """Writes all tables; says which pages have changed."""
    for page in PAGES:
        text = page.read_text("utf-8")
        if (new := with_tables(text)) != text:
            page.write_text(new, "utf-8")
            print(f"written: {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
