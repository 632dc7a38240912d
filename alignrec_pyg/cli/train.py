"""``alignrec train``: a model on a folder's data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alignrec_pyg.cli.experiment_options import ExperimentOptions, num_cores
from alignrec_pyg.cli.options import (
    MODELS,
    OUTPUT,
    RUN,
    SYNTHETIC,
    OptionError,
    log,
    natural,
    option,
    positive_int,
)
from alignrec_pyg.models import model_names

if TYPE_CHECKING:
    from alignrec_pyg import FitResult

_CHECKPOINT = "checkpoint"
_LOCK_SECONDS = 2.0  # that a killed process may take to end


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ExperimentOptions):
    """The options of a single run: those of a comparison, for one model and one seed."""

    out: Annotated[Path, option(OUTPUT, "Folder of the run.", "RUN")] = field()  # no default
    model: Annotated[
        str, option(MODELS, f"Of {', '.join(model_names())}, or MODULE:CLASS of your own.", "NAME")
    ] = "AlignRec"
    seed: Annotated[int, option(RUN, "Seed of weights and training.", "N", parser=natural)] = 0
    threads: Annotated[
        int | None,
        option(RUN, "CPU threads.", "N", parser=positive_int, show_default="all processors"),
    ] = None
    models: tuple[str, ...] = field(default=(), init=False)
    tables: tuple[str, ...] = field(default=(), init=False)
    neighbors: tuple[str, ...] = field(default=(), init=False)
    exclude_known_pairs: bool = field(default=False, init=False)
    seeds: int = field(default=1, init=False)
    jobs: int | None = field(default=1, init=False)

    def __post_init__(self) -> None:
        """Takes the one model for the models, and all processors for the threads."""
        super().__post_init__()
        if self.data == SYNTHETIC:
            raise OptionError("PATH", "is needed: what encode wrote, or any folder in MMRec's form")
        object.__setattr__(self, "models", (self.model,))
        object.__setattr__(self, "threads", self.threads or num_cores())


def train(options: TrainOptions) -> None:
    """Train a model and keep the epoch that is best on validation.

    Builds the item graph where the model reads one, trains with early stopping, prints the
    validation metrics of the best epoch, and writes the model to RUN, for evaluate and recommend,
    with its learning curves (curves.csv, curves.png). Test links are not looked at. With the same
    settings, seed and threads the model is that of alignrec compare, to the last digit.

    Ctrl-C saves first: the same command goes on where it was, to the same result. A run that ended
    goes on with a larger --epochs or --patience.
    """
    from alignrec_pyg.atomic import folder_lock

    with folder_lock(options.out, wait=_LOCK_SECONDS):
        _train(options, options.out)


def _train(options: TrainOptions, out: Path) -> None:
    from alignrec_pyg import CheckpointError, fit
    from alignrec_pyg.cli.runs import ITEM_GRAPHS, Settings, check_replaceable, save_run
    from alignrec_pyg.experiments.charts import chart_problem
    from alignrec_pyg.experiments.learning_curves import CURVES, curves_csv, write_run_curves
    from alignrec_pyg.experiments.results import write_files
    from alignrec_pyg.experiments.settings import model_path
    from alignrec_pyg.graph import on_device

    check_replaceable(out)
    session = options.session(cache=out / ITEM_GRAPHS)
    (name,) = session.models
    for note in session.data.report.notes:
        if note.startswith("ATTENTION"):
            log(note)
    settings, data = session.required(name), session.data
    (cell,) = session.cells(name, settings, seeds=[options.seed])
    session.check([cell])
    if data.neighbor_recall is not None:
        for graph, text in data.item_graphs.items():
            log(f"item graph '{graph}': {text}")
    train_graph, val_graph = (on_device(part, session.device) for part in (data.train, data.val))
    model = cell.build(train_graph).to(session.device)
    try:
        result = fit(model, train_graph, val_graph, cell.config, checkpoint_dir=out / _CHECKPOINT)
    except CheckpointError as error:
        message = str(error).replace("'checkpoint_dir'", "--out")
        raise CheckpointError(f"--out {out}: {message}") from error
    made = Settings(
        model=model_path(settings.model),
        features=tuple(data.features) if settings.model.inputs.tables != "none" else (),
        feature_scale=data.scale,
        neighbors=data.item_neighbors,
        split=data.split_rule,
        val_from_train=data.val_from_train,
        neighbor_recall=data.neighbor_recall,
    )
    training = {
        "training": {**asdict(cell.config), "ks": list(cell.config.ks)},
        "seed": options.seed,
        "best_epoch": result.best_epoch,
        "num_epochs": result.num_epochs,
        "stopped_early": result.stopped_early,
        "still_rising": result.still_rising,
        "seconds": result.seconds,
        "cpu_seconds": result.cpu_seconds,
        "validation": result.best_metrics,
    }
    save_run(out, Path(options.data), made, data, model, training)
    title = f"{name} on {data.name}"
    draw = partial(
        write_run_curves, title=title, history=result.history, best_epoch=result.best_epoch
    )
    texts = {".csv": curves_csv([({}, result.history)])}
    write_files(out, CURVES, {"title": title}, texts, draw)
    if (problem := chart_problem()) is not None:
        log(problem)
    print(_summary(name, result))
    if result.way_on is not None:
        evaluations = result.config.patience_evaluations(int(result.history[0]["step"]))
        more = {
            "max_epochs": f"--epochs above {result.num_epochs}",
            "patience": f"--patience above {evaluations} (evaluations)",
        }
        log(f"{more[result.way_on]} goes on from here")
    log(f"written: {out}")


def _summary(model: str, result: FitResult) -> str:
    shown = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
    metrics = "  ".join(f"{name} {result.best_metrics[name]:.4f}" for name in shown)
    return (
        f"{model}: {result} ({result.seconds:.0f} s, {result.cpu_seconds:.0f} s of the processor)"
        f"\nvalidation: {metrics}"
    )
