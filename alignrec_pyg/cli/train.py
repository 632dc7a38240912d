"""``alignrec train``: a model on a folder's data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    unknown_names,
)
from alignrec_pyg.cli.settings import model_settings

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

    from alignrec_pyg import FitResult

Model = Literal[
    "AlignRec",
    "BM3",
    "BPR",
    "ContentLightGCN",
    "DualGNN",
    "FREEDOM",
    "GRCN",
    "LATTICE",
    "LightGCN",
    "MGCN",
    "MMGCN",
    "SLMRec",
    "VBPR",
]

_CHECKPOINT = "checkpoint"


def train(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What encode wrote, or any MMRec folder.")
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    model: Annotated[Model, typer.Option(help="The model.")] = "AlignRec",
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME ...", help="Feature tables to use.", show_default="all"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE ...", help="Arguments of the model: --set cca_weight=0.1"
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option(parser=positive_int, metavar="N", help="Most epochs.")
    ] = 1000,
    lr: Annotated[
        float, typer.Option(parser=number, metavar="X", help="Learning rate of Adam.")
    ] = 1e-3,
    batch_size: Annotated[
        int, typer.Option(parser=positive_int, metavar="N", help="Interactions per batch.")
    ] = 2048,
    patience: Annotated[
        int,
        typer.Option(
            parser=natural, metavar="N", help="Epochs without a better recall@20 to bear."
        ),
    ] = 20,
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
    device: Device = "auto",
) -> None:
    """Train a model and keep the epoch that is best on validation.

    Builds the item graph where the model reads one, trains with early stopping, prints the
    validation metrics of the best epoch, and writes the model to RUN, for evaluate and recommend.
    Options not given are the library's defaults; test links are not looked at.

    Ctrl-C saves first: the same command goes on where it was, to the same result.
    """
    import torch

    from alignrec_pyg import CheckpointError, TrainConfig, fit, models
    from alignrec_pyg.cli.runs import ITEM_GRAPHS, Settings, make_data, parameters_of, save_run
    from alignrec_pyg.datasets import MMRecFolder
    from alignrec_pyg.graph import INTERACTS

    place = device_named(device)
    model_class = getattr(models, model)
    arguments = model_settings(model_class, set_ or [])
    with errors_about("--lr"):
        config = TrainConfig(
            lr=lr, batch_size=batch_size, max_epochs=epochs, patience=patience, seed=seed
        )
    if "l2_batch_size" in parameters_of(model_class):  # the L2 term is that of the batches
        arguments.setdefault("l2_batch_size", batch_size)
    data = MMRecFolder(folder).data
    reads_features = "features" in parameters_of(model_class)
    settings = Settings(
        model=model,
        features=_chosen(data, features) if reads_features else (),
        feature_scale=feature_scale,
        neighbors=neighbors,
        split=split or ("labels" if "split" in data[INTERACTS] else "random"),
    )
    made = make_data(data, settings, out / ITEM_GRAPHS).to(place)
    torch.manual_seed(seed)
    with errors_about("--set" if set_ else "--model"):
        built = model_class(made.train, **made.inputs, **arguments).to(place)
    try:
        result = fit(built, made.train, made.val, config, checkpoint_dir=out / _CHECKPOINT)
    except CheckpointError as error:
        raise CheckpointError(f"--out {out}: {error}") from error
    told: dict[str, Any] = {
        "training": {"lr": lr, "batch_size": batch_size, "epochs": epochs, "patience": patience},
        "seed": seed,
        "best_epoch": result.best_epoch,
        "num_epochs": result.num_epochs,
        "validation": result.best_metrics,
    }
    save_run(out, folder, settings, made, built, told)
    print(_summary(model, result))
    log(f"written: {out}")


def _chosen(data: HeteroData, asked: list[str] | None) -> tuple[str, ...]:
    """The tables asked for, by the names they have in the data."""
    from alignrec_pyg.datasets.features import feature_name
    from alignrec_pyg.graph import feature_names

    there = feature_names(data)
    if asked is None:
        return tuple(there)
    names = [feature_name(name) for name in asked]
    problems = unknown_names("feature", names, there)
    if len(set(names)) < len(names):
        problems.append(f"needs each table once (got {' '.join(asked)})")
    if problems:
        raise OptionError("--features", "\n".join(problems))
    return tuple(names)


def _summary(model: str, result: FitResult) -> str:
    shown = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
    metrics = "  ".join(f"{name} {result.best_metrics[name]:.4f}" for name in shown)
    return (
        f"{model}: best epoch {result.best_epoch} of {result.num_epochs} "
        f"({result.seconds:.0f} s)\nvalidation: {metrics}"
    )
