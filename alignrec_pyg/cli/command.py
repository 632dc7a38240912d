"""From the command line to a running experiment, and from what goes wrong to an exit status."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.cli.arguments import ALL, device_named, named_files, results_folder
from alignrec_pyg.experiments.prepare import NUM_NEIGHBORS, SYNTHETIC, data_name, prepare
from alignrec_pyg.experiments.session import Session, log
from alignrec_pyg.experiments.settings import Kind, ModelSettings, SettingsError, resolve
from alignrec_pyg.models import model_names

INTERRUPTED = 130


def main(
    script: str,
    parser: argparse.ArgumentParser,
    run: Callable[[Session], int],
    arguments: Sequence[str] | None,
) -> int:
    """Reads the arguments, prepares the data and runs an experiment.

    Args:
        script: Name of the script, for messages.
        parser: That of ``make_parser``, with the script's own arguments.
        run: The experiment.
        arguments: The command line (default: that of the process).

    Returns:
        What ``run`` returns (0, or 1 if a cell failed); 2 if the arguments do not fit or a file
        cannot be read or written, 130 after Ctrl-C.
    """
    options = parser.parse_args(arguments)
    try:
        return run(_start(options))
    except SettingsError as error:
        log(f"{script}: {len(error.problems)} problem(s):")
        for problem in error.problems:
            log(f"  - {problem}")
        return 2
    except OSError as error:
        log(f"{script}: {error}; finished cells are kept: the same command continues")
        return 2
    except KeyboardInterrupt:
        log("interrupted; finished cells are kept: the same command continues")
        return INTERRUPTED


def _start(options: argparse.Namespace) -> Session:
    problems: list[str] = []
    device = device_named(options.device, problems)
    neighbors = named_files("--neighbors", "FILE.npz", options.neighbors, problems)
    tables = named_files("--tables", "FILE.npy", options.tables, problems)
    if neighbors and options.item_neighbors != NUM_NEIGHBORS:
        problems.append("--item-neighbors: the lists of --neighbors have their own number")
    threads = options.threads or 1
    jobs = options.jobs or (1 if device.type == "cuda" else max(1, num_cores() // threads))
    models = _settings(options, problems, None)
    out = results_folder(options, problems)
    if problems:
        raise SettingsError(problems)
    torch.set_num_threads(threads)
    data = prepare(
        options.data,
        features=options.features,
        tables=tables,
        neighbors=neighbors,
        split=options.split,
        scale=options.feature_scale,
        item_neighbors=options.item_neighbors,
    )
    if options.settings == "default":  # these depend on the data
        models = _settings(options, problems, data.train)
    return Session(
        options=options,
        device=device,
        models=models,
        data=data,
        tables=tables,
        neighbors=neighbors,
        seeds=range(options.seeds),
        out=out,
        jobs=jobs,
    )


def num_cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _settings(
    options: argparse.Namespace, problems: list[str], train: HeteroData | None
) -> dict[str, ModelSettings]:
    kind: Kind = options.settings or ("small" if options.data == SYNTHETIC else "published")
    try:
        return resolve(
            list(model_names())
            if options.models == [ALL]
            else list(dict.fromkeys(options.models or options.default_models)),
            kind,
            data_name(options.data),
            options.set,
            data=train,
            max_epochs=options.epochs,
            patience=options.patience,
            lr=options.lr,
            batch_size=options.batch_size,
        )
    except SettingsError as error:
        problems += error.problems
        return {}
