"""Trains and compares models on one data set; prints and saves the table.

    python benchmarks/compare.py
    python benchmarks/compare.py --data FOLDER --models BPR LightGCN --seeds 3

Without arguments: all models on generated data, in a minute or two. ``--data`` names a folder in
MMRec format (``<name>.inter`` and ``.npy`` feature tables); then the published settings apply.
``<out>/compare.json``, ``.csv``, ``.md`` and ``.png`` hold the results. Finished cells (one model
with one seed each) stay in ``<out>/cells`` and are not run again; an interrupted one continues.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import torch

from alignrec_pyg.transforms.split_interactions import SplitRule
from benchmarks.cells import Cell, CellStore
from benchmarks.paper_results import paper_results
from benchmarks.prepare import SYNTHETIC, PreparedData, data_name, prepare
from benchmarks.presets import PAPER, SMALL, Preset
from benchmarks.results import (
    Experiment,
    chart_possible,
    footer,
    header,
    remove_results,
    table_text,
    write_results,
)
from benchmarks.runner import KS, run_cells
from benchmarks.settings import SettingsError, resolve
from benchmarks.summary import paired_test, rows

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison.

    Returns:
        0, or 1 if a cell failed, 2 if the arguments do not fit or a file cannot be read or written,
        130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        return _compare(options)
    except SettingsError as error:
        _say(f"compare.py: {len(error.problems)} problem(s):")
        for problem in error.problems:
            _say(f"  - {problem}")
        return 2
    except OSError as error:
        _say(f"compare.py: {error}; finished cells are kept: the same command continues")
        return 2
    except KeyboardInterrupt:
        _say("interrupted; finished cells are kept: the same command continues")
        return INTERRUPTED


def _compare(options: argparse.Namespace) -> int:
    problems: list[str] = []
    device = _device(options.device, problems)
    neighbors = _neighbors(options.neighbors, problems)
    presets = _presets(options, problems)
    out = _out(options, problems)
    if problems:
        raise SettingsError(problems)
    # Tensors as small as those of the synthetic data: more threads only wait for each other.
    threads = options.threads or (1 if options.data == SYNTHETIC else None)
    if threads is not None:
        torch.set_num_threads(threads)
    data = prepare(
        options.data, presets, features=options.features, neighbors=neighbors, split=options.split
    )
    if options.models and data.not_run:
        raise SettingsError([f"{name} {reason}" for name, reason in data.not_run.items()])
    presets = {name: preset for name, preset in presets.items() if name in data.inputs}
    cells = _cells(presets, data, range(options.seeds))
    print(header(data, presets), flush=True)

    outcome = run_cells(
        cells, (data.train, data.val, data.test), CellStore(out / "cells"), device, _say
    )
    seeds = range(options.seeds)
    table = rows(outcome.results, seeds)
    experiment = Experiment(
        title=f"{len(table)} models on {data.name}, test links",
        data=data,
        presets=presets,
        seeds=seeds,
        device=device,
        cells=outcome.results,
        table=table,
        test=paired_test(table),
        not_run=data.not_run
        | {f"{row} seed {seed}": reason for (row, seed), reason in outcome.failed.items()},
        paper=paper_results(
            data.name, data.report.users, data.report.items, data.report.interactions
        ),
    )
    if table:
        print(f"\n{table_text(experiment, bold=sys.stdout.isatty())}\n")
        print(footer(experiment))
        written = write_results(experiment, out, "compare")
        print("written: " + ", ".join(str(path) for path in written))
        if not chart_possible():
            print("no chart: it needs matplotlib (the 'benchmarks' extra)")
    else:
        remove_results(out, "compare")
        _say("no cell has a result: no files are written, those of an earlier run are removed")
    return 1 if outcome.failed else 0


def _presets(options: argparse.Namespace, problems: list[str]) -> dict[str, Preset]:
    try:
        return resolve(
            list(dict.fromkeys(options.models or PAPER)),
            SMALL if options.data == SYNTHETIC else PAPER,
            options.set,
            max_epochs=options.epochs,
            patience=options.patience,
            lr=options.lr,
            batch_size=options.batch_size,
        )
    except SettingsError as error:
        problems += error.problems
        return {}


def _cells(presets: dict[str, Preset], data: PreparedData, seeds: Sequence[int]) -> list[Cell]:
    """All cells, model by model; each model is built once here to check its settings."""
    problems = []
    cells = []
    for name, preset in presets.items():
        hparams = {**preset.hparams(), **data.inputs[name]}
        try:
            preset.model(data.train, **hparams)
        except ValueError as error:
            problems.append(f"{name}: {error}")
        for seed in seeds:
            config = preset.with_train(seed=seed, ks=KS).train
            cells.append(Cell(row=name, model=preset.model, hparams=hparams, config=config))
    if problems:
        raise SettingsError(problems)
    return cells


def _out(options: argparse.Namespace, problems: list[str]) -> Path:
    """The folder to write to; there, or possible to make."""
    out: Path = options.out or Path("results") / data_name(options.data)
    there = next((path for path in (out, *out.parents) if path.exists()), out)
    if not there.is_dir():
        problems.append(f"--out {out}: needs to be a folder ({there} is a file)")
    return out


def _neighbors(entries: Sequence[str], problems: list[str]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not (name and equals and path):
            problems.append(f"--neighbors {entry}: needs the form NAME=FILE.npz")
        elif name in paths:
            problems.append(f"--neighbors {entry}: {name!r} is given twice")
        else:
            paths[name] = Path(path)
    return paths


def _device(name: str, problems: list[str]) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        problems.append("--device cuda: torch finds no GPU (--device cpu runs anywhere)")
    return torch.device(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", default=SYNTHETIC, metavar="PATH", help="folder in MMRec format, or 'synthetic'")
    add("--models", nargs="+", metavar="NAME", help=f"of {', '.join(PAPER)} (all)")
    add("--features", nargs="+", metavar="NAME", help="feature tables to use (all)")
    add(
        "--neighbors",
        nargs="+",
        default=[],
        metavar="NAME=FILE.npz",
        help="ready item graphs: arrays 'neighbor' [items, k] and, for AlignRec, 'cosine'",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="MODEL.argument=value",
        help="other settings, e.g. LightGCN.num_layers=2 or AlignRec.lr=1e-3; may be repeated",
    )
    add("--seeds", type=_positive_int, default=3, metavar="N", help="seeds 0 to N-1 (3)")
    add("--epochs", type=_positive_int, metavar="N", help="most epochs to train")
    add("--patience", type=int, metavar="N", help="evaluations without improvement to bear")
    add("--lr", type=float, metavar="X", help="learning rate of all models")
    add("--batch-size", type=_positive_int, metavar="N", help="links per batch")
    add("--split", choices=get_args(SplitRule), help="rule (the file's labels, else random)")
    add("--device", choices=("cpu", "cuda", "auto"), default="auto", help="where to train (auto)")
    add(
        "--threads",
        type=_positive_int,
        metavar="N",
        help="CPU threads (synthetic data: 1, else as torch decides)",
    )
    add("--out", type=Path, metavar="DIR", help="where to write (results/<data name>)")
    return parser


def _positive_int(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs to be an integer (got {text!r})") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"needs to be 1 or more (got {value})")
    return value


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
