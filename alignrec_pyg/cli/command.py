"""From the command line to a running experiment, and from what goes wrong to an exit status."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch

from alignrec_pyg.cli.arguments import ALL, device_named, named_files, results_folder
from alignrec_pyg.experiments.grids import published
from alignrec_pyg.experiments.prepare import NUM_NEIGHBORS, SYNTHETIC, data_name, prepare
from alignrec_pyg.experiments.presets import PAPER, SMALL, Preset
from alignrec_pyg.experiments.session import Session, log
from alignrec_pyg.experiments.settings import SettingsError, resolve

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
    presets = _presets(options, problems)
    out = results_folder(options, problems)
    if problems:
        raise SettingsError(problems)
    # Tensors as small as those of the synthetic data: more threads only wait for each other.
    threads = options.threads or (1 if options.data == SYNTHETIC else None)
    if threads is not None:
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
    return Session(
        options=options,
        device=device,
        presets=presets,
        data=data,
        tables=tables,
        neighbors=neighbors,
        seeds=range(options.seeds),
        out=out,
    )


def _presets(options: argparse.Namespace, problems: list[str]) -> dict[str, Preset]:
    try:
        return resolve(
            list(PAPER)
            if options.models == [ALL]
            else list(dict.fromkeys(options.models or options.default_models)),
            SMALL if options.data == SYNTHETIC else published(data_name(options.data)),
            options.set,
            max_epochs=options.epochs,
            patience=options.patience,
            lr=options.lr,
            batch_size=options.batch_size,
        )
    except SettingsError as error:
        problems += error.problems
        return {}
