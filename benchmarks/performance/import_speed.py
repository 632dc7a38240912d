"""How fast data are read: generated files of a size, rows per second, peak memory.

``python benchmarks/import_speed.py`` writes 10 million interactions and 1 million items into a
temporary folder (about 0.7 GB), reads them as a user would, and prints a row for each format.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository: no installed package

from alignrec_pyg.datasets import InteractionDataset, MMRecFolder, from_files
from alignrec_pyg.experiments.memory import PeakMemory

FORMATS = ("csv", "parquet", "jsonl", "mmrec")
_BLOCK = 1_000_000


def generated(num_rows: int, num_users: int, num_items: int, seed: int = 0) -> pa.Table:
    """Interactions with ids as Amazon's: strings of 14 and 10 characters, popular items first."""
    generator = np.random.default_rng(seed)
    user = generator.integers(num_users, size=num_rows)
    item = (num_items * generator.random(num_rows) ** 2).astype(np.int64)
    return pa.table(
        {
            "user": _ids("A", 13, num_users).take(pa.array(user)),
            "item": _ids("B", 9, num_items).take(pa.array(item)),
            "rating": generator.integers(1, 6, size=num_rows).astype(np.float64),
            "timestamp": generator.integers(1_300_000_000, 1_700_000_000, size=num_rows),
        }
    )


def catalogue(num_items: int) -> pa.Table:
    """Items with a title and a description."""
    ids = _ids("B", 9, num_items)
    words = ["a soft thing", "a warm thing", "a thing for the road", "a thing for the bath"]
    title = pa.array([words[row % len(words)] for row in range(num_items)])
    return pa.table({"item": ids, "title": title, "description": title})


def write(folder: Path, kind: str, table: pa.Table, items: pa.Table) -> None:
    """Files of one format: ``links.*`` and ``items.csv``, or a folder in MMRec's format."""
    if kind == "mmrec":
        numbers = {
            "userID": table["user"].dictionary_encode().combine_chunks().indices,
            "itemID": table["item"].dictionary_encode().combine_chunks().indices,
            "rating": table["rating"],
            "timestamp": table["timestamp"],
            "x_label": pa.array(np.arange(len(table)) % 10 // 8),
        }
        tabs = pa_csv.WriteOptions(delimiter="\t")
        pa_csv.write_csv(pa.table(numbers), folder / "links.inter", tabs)
        return
    pa_csv.write_csv(items, folder / "items.csv")
    if kind == "csv":
        pa_csv.write_csv(table, folder / "links.csv")
    elif kind == "parquet":
        pa_parquet.write_table(table, folder / "links.parquet")
    else:
        with (folder / "links.jsonl").open("w", encoding="utf-8") as file:
            for start in range(0, len(table), _BLOCK):
                columns = table.slice(start, _BLOCK).to_pydict()
                for user, item, rating, when in zip(*columns.values(), strict=True):
                    file.write(
                        f'{{"user": "{user}", "item": "{item}", "rating": {rating}, '
                        f'"timestamp": {when}, "review": "{"so good " * 8}"}}\n'
                    )


def read(folder: Path, kind: str) -> InteractionDataset:
    """The data, as a user reads them."""
    if kind == "mmrec":
        return MMRecFolder(folder)
    return from_files(
        folder / f"links.{kind}",
        folder / "items.csv",
        rating="rating",
        time="timestamp",
        text=["title", "description"],
    )


def measured(
    work: Callable[[], InteractionDataset],
) -> tuple[InteractionDataset, float, float, int]:
    """What ``work`` gives, its seconds (of the clock, of the processor), its peak in bytes."""
    with PeakMemory(torch.device("cpu")) as memory:
        clock, processor = time.perf_counter(), time.process_time()
        dataset = work()
        spent = time.perf_counter() - clock, time.process_time() - processor
    return dataset, *spent, memory.peak_bytes or 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000, help="(default: %(default)s)")
    parser.add_argument("--users", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--items", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parsed = parser.parse_args(arguments)
    print("| format | rows | items | MB | s (clock) | s (processor) | rows/s | peak MB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for kind in parsed.formats:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            items = catalogue(parsed.items)
            write(folder, kind, generated(parsed.rows, parsed.users, parsed.items), items)
            del items
            size = sum(file.stat().st_size for file in folder.iterdir())
            dataset, clock, processor, peak = measured(partial(read, folder, kind))
            report = dataset.report
            rows = report.interactions + report.duplicates
            print(
                f"| {kind} | {rows:,} | {report.items:,} | {size / 1e6:,.0f} | {clock:.1f} | "
                f"{processor:.1f} | {rows / processor:,.0f} | {peak / 1e6:,.0f} |",
                flush=True,
            )


def _ids(letter: str, digits: int, count: int) -> pa.Array:
    return pa.array([f"{letter}{number:0{digits}d}" for number in range(count)])


if __name__ == "__main__":
    main()
