"""``alignrec train``: a model on a folder's data."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alignrec_pyg.cli.options import (
    Device,
    OptionError,
    SplitRule,
    device_named,
    errors_about,
    log,
    natural,
    number,
    positive_int,
)
from alignrec_pyg.models import model_names

if TYPE_CHECKING:
    from alignrec_pyg import FitResult

_CHECKPOINT = "checkpoint"


def train(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What encode wrote, or any MMRec folder.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"The model: {', '.join(model_names())}, or module:Class of your own.",
        ),
    ] = "AlignRec",
    settings: Annotated[
        Literal["default", "published"],
        typer.Option(help="Settings of the library, or those behind the published figures."),
    ] = "default",
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME ...", help="Feature tables to use.", show_default="all"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE ...",
            help="Other settings: --set cca_weight=0.1 lr_decay=0.96",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(parser=positive_int, metavar="N", help="Most epochs.", show_default="1000"),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            parser=number, metavar="X", help="Learning rate of Adam.", show_default="by --settings"
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            parser=positive_int,
            metavar="N",
            help="Interactions per batch.",
            show_default="by --settings",
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            parser=natural,
            metavar="N",
            help="Epochs without a better recall@20 to bear.",
            show_default="by --settings",
        ),
    ] = None,
    neighbors: Annotated[
        int,
        typer.Option(
            parser=positive_int, metavar="K", help="Neighbours of an item in item graphs."
        ),
    ] = 10,
    feature_scale: Annotated[
        Literal["rows", "raw"],
        typer.Option(help="Feature rows at length 1, or as they are stored."),
    ] = "rows",
    split: Annotated[
        SplitRule | None,
        typer.Option(
            help="Rule of the split.", show_default="the folder's labels, else random, seed 0"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(parser=natural, metavar="N", help="Seed of weights and training.")
    ] = 0,
    threads: Annotated[
        int | None,
        typer.Option(
            parser=positive_int, metavar="N", help="CPU threads.", show_default="as torch decides"
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Train a model and keep the epoch that is best on validation.

    Builds the item graph where the model reads one, trains with early stopping, prints the
    validation metrics of the best epoch, and writes the model to RUN, for evaluate and recommend.
    Test links are not looked at. With the same settings, seed and threads the model is that of
    alignrec compare, to the last digit.

    Ctrl-C saves first: the same command goes on where it was, to the same result.
    """
    import torch

    from alignrec_pyg import CheckpointError, fit
    from alignrec_pyg.cli.runs import ITEM_GRAPHS, Settings, save_run
    from alignrec_pyg.datasets.features import feature_name
    from alignrec_pyg.experiments.cells import KS, Cell
    from alignrec_pyg.experiments.prepare import data_name, prepare
    from alignrec_pyg.experiments.settings import load_model, model_path, resolve
    from alignrec_pyg.graph import on_device

    place = device_named(device)
    with errors_about("--model"):
        model_class = load_model(model)
    given = {"max_epochs": epochs, "lr": lr, "batch_size": batch_size, "patience": patience}
    wanted = partial(resolve, [model], settings, data_name(str(folder)), set_ or [], **given)
    wanted()  # what does not fit is told before anything is read
    if threads is not None:
        torch.set_num_threads(threads)
    tables = None if features is None else [feature_name(name) for name in features]
    if model_class.inputs.tables == "none":
        tables = []
    prepared = prepare(
        str(folder),
        features=tables,
        split=split,
        scale=feature_scale,
        item_neighbors=neighbors,
        cache=out / ITEM_GRAPHS,
    )
    made = Settings(
        model=model_path(model_class),
        features=tuple(prepared.features),
        feature_scale=feature_scale,
        neighbors=neighbors,
        split=prepared.split_rule,
    )
    reason = prepared.why_not(model_class)
    if reason is not None:
        raise OptionError(f"--model {model}", f"{reason} (alignrec encode makes tables)")
    (chosen,) = wanted(data=prepared.train).values()
    cell = Cell(
        row=chosen.name,
        model=model_class,
        hparams={**chosen.hparams, **prepared.inputs(model_class)},
        config=chosen.with_changes(seed=seed, ks=KS).config,
    )
    train_graph, val_graph = on_device(prepared.train, place), on_device(prepared.val, place)
    with errors_about("--set" if set_ else "--model"):
        built = cell.build(train_graph).to(place)
    try:
        result = fit(built, train_graph, val_graph, cell.config, checkpoint_dir=out / _CHECKPOINT)
    except CheckpointError as error:
        raise CheckpointError(f"--out {out}: {error}") from error
    training = {
        "training": {**asdict(cell.config), "ks": list(cell.config.ks)},
        "seed": seed,
        "best_epoch": result.best_epoch,
        "num_epochs": result.num_epochs,
        "validation": result.best_metrics,
    }
    save_run(out, folder, made, prepared, built, training)
    print(_summary(chosen.name, result))
    log(f"written: {out}")


def _summary(model: str, result: FitResult) -> str:
    shown = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
    metrics = "  ".join(f"{name} {result.best_metrics[name]:.4f}" for name in shown)
    return (
        f"{model}: best epoch {result.best_epoch} of {result.num_epochs} "
        f"({result.seconds:.0f} s)\nvalidation: {metrics}"
    )
