"""How fast data are read: generated files of a size, rows per second, peak memory.

    python -m benchmarks.performance.import_speed
    python -m benchmarks.performance.import_speed --rows 1000000 --users 100000 --items 100000

Writes 10 million interactions and 1 million items into a temporary folder (about 0.7 GB), reads
them as a user would, and prints a row for each format.
"""

from __future__ import annotations

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

from alignrec_pyg.datasets import InteractionDataset, MMRecFolder, from_files
from alignrec_pyg.experiments.memory import PeakMemory
from alignrec_pyg.text_tables import markdown_table
from benchmarks.performance.measuring import log, make_parser, megabytes, origin, positive_int

FORMATS = ("csv", "parquet", "jsonl", "mmrec")
_BLOCK = 1_000_000


def generated(num_rows: int, num_users: int, num_items: int) -> pa.Table:
    """Interactions with ids as Amazon's: strings of 14 and 10 characters, popular items first."""
    generator = np.random.default_rng(0)
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
) -> tuple[InteractionDataset, float, float, int | None]:
    """What ``work`` gives, its seconds (of the clock, of the processor), its peak in bytes."""
    with PeakMemory(torch.device("cpu")) as memory:
        clock, processor = time.perf_counter(), time.process_time()
        dataset = work()
        spent = time.perf_counter() - clock, time.process_time() - processor
    return dataset, *spent, memory.peak_bytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = make_parser(__doc__, threads=1)
    add = parser.add_argument
    add("--rows", type=positive_int, default=10_000_000, metavar="N", help="(10000000)")
    add("--users", type=positive_int, default=1_000_000, metavar="N", help="(1000000)")
    add("--items", type=positive_int, default=1_000_000, metavar="N", help="(1000000)")
    add("--formats", nargs="+", choices=FORMATS, default=FORMATS, help="(all)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = [["format", "rows", "items", "MB", "clock s", "processor s", "rows/s", "peak MB"]]
    for kind in options.formats:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            table = generated(options.rows, options.users, options.items)
            write(folder, kind, table, catalogue(options.items))
            del table
            size = sum(file.stat().st_size for file in folder.iterdir())
            dataset, clock, processor, peak = measured(partial(read, folder, kind))
        report = dataset.report
        count = report.interactions + report.duplicates
        sizes = f"{count:,}", f"{report.items:,}", f"{size / 1e6:,.0f}"
        speed = f"{clock:.1f}", f"{processor:.1f}", f"{count / processor:,.0f}"
        rows.append([kind, *sizes, *speed, megabytes(peak)])
        log("  ".join(rows[-1]))
    print(markdown_table(rows))
    print(f"\n{origin(torch.device('cpu'))}")
    return 0


def _ids(letter: str, digits: int, count: int) -> pa.Array:
    return pa.array([f"{letter}{number:0{digits}d}" for number in range(count)])


if __name__ == "__main__":
    sys.exit(main())
