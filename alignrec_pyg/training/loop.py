"""The training loop: one for all models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch_geometric.data import HeteroData

from alignrec_pyg.checks import check_number
from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.models import ClosedFormRecommender, Recommender
from alignrec_pyg.nn.features import sparse_gradients
from alignrec_pyg.train_config import CompleteTrainConfig, TrainConfig
from alignrec_pyg.training.progress import Progress
from alignrec_pyg.training.run import OptimizerFactory, Report, Run
from alignrec_pyg.training.state import RunClock, TrainState, run_lock


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Result of training; the model holds the weights of the best epoch.

    Args:
        best_epoch: Epoch with the best validation value; epochs count from 1.
        best_metrics: Validation metrics of that epoch; none without validation, whose best epoch
            is the last one.
        num_epochs: Epochs run.
        stopped_early: Whether patience ended training; otherwise the limit of epochs did. Always
            true for a model in closed form.
        still_rising: Whether validation was still rising at the end: the best evaluation is among
            the last tenth of them, rounded up. Then a larger limit (or, if ``stopped_early``,
            patience) may well give a better model.
        seconds: Time spent by the clock, including before interruptions.
        cpu_seconds: Time spent by the processor, all threads of the process together; of several
            workers that of the first. Unlike ``seconds`` it does not count what else the machine
            did, nor waiting for a GPU.
        config: How the model was trained, including the settings that follow from model and data.
        history: One entry per epoch: ``epoch``, ``step`` (batches done in all), ``lr``, mean
            ``loss`` and ``loss/<term>``, and the validation metrics where it was evaluated. Of a
            model in closed form there is one without ``lr`` and losses.

    ``str(result)`` says it in a sentence. A run with a ``checkpoint_dir`` goes on where it ended
    with a larger limit, ``TrainConfig(max_epochs=...)``, or a larger ``patience``.
    """

    best_epoch: int
    best_metrics: dict[str, float]
    num_epochs: int
    stopped_early: bool
    still_rising: bool
    seconds: float
    cpu_seconds: float
    config: CompleteTrainConfig
    history: list[dict[str, float]] = field(repr=False)

    @property
    def way_on(self) -> Literal["max_epochs", "patience"] | None:
        """The setting to raise to continue a saved run; ``None`` if it stopped as it should."""
        if not self.stopped_early:
            return "max_epochs"
        return "patience" if self.still_rising else None

    def __str__(self) -> str:
        if self.stopped_early and self.num_epochs == 1:  # patience ends no run before the second
            return "solved in closed form"
        end = "stopped early" if self.stopped_early else "at the limit of epochs"
        rising = ", validation still rising" if self.still_rising else ""
        return f"best epoch {self.best_epoch} of {self.num_epochs}, {end}{rising}"


def fit(
    model: Recommender,
    train: HeteroData,
    val: HeteroData | None,
    config: TrainConfig | None = None,
    *,
    optimizer: OptimizerFactory | None = None,
    report: Report | Sequence[Report] | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    worker_timeout: float = 600.0,
    progress: bool = True,
) -> FitResult:
    """Trains a model with early stopping on validation.

    A :class:`~alignrec_pyg.models.ClosedFormRecommender` is solved instead, in a single epoch.

    All randomness in an epoch comes from ``(config.seed, epoch)``, so an interrupted run that is
    started again with the same arguments continues exactly; with the same seed, results on CPU are
    equal to the last digit. (The initial weights are drawn when the model is built.)

    A saved run, also one that has ended, can be continued with other ``max_epochs``, ``patience``,
    ``eval_every`` (or these in steps) or ``ks``, which hold from there on: it is trained further if
    neither the limit nor the patience ends it any longer, and otherwise the result is that of the
    epochs done. An evaluation of the last epoch that ``eval_every`` did not ask for may be the best
    one, but does not count against the patience.

    Inside a process group (``torchrun``, Ray Train: :func:`~alignrec_pyg.fit_with_ray`) its workers
    train one model, given the same arguments: each has the full graph, takes every
    ``world_size``-th batch of ``config.batch_size`` links and its part of the users to evaluate,
    and all step along the mean of their gradients, as with
    :class:`~torch.nn.parallel.DistributedDataParallel`. So a step reads ``world_size`` batches, an
    epoch has so many fewer steps, and losses within a batch contrast a worker's own links. The
    initial weights are the first worker's.

    Args:
        model: Model on the device to train on; ends with the weights of the best epoch, in
            evaluation mode.
        train: Graph to train on (on the same device).
        val: Graph with the links to predict for validation. ``None``: nothing is evaluated, and
            the model ends with the weights of the last of ``config.max_epochs`` epochs.
        config: How to train (default: ``model.train_config(train)``, which also fills in the fields
            that are ``None``).
        optimizer: Makes the optimiser from the model's parameters, e.g. ``torch.optim.AdamW`` or
            ``partial(torch.optim.SGD, momentum=0.9)`` (default: Adam with ``config.weight_decay``).
            All its learning rates are set to ``config``'s before every epoch. Of several workers
            with ``config.fan_out`` it needs to change those rows of a table alone that have a
            gradient, as :class:`torch.optim.SGD` without momentum and ``Adagrad`` do.
        report: One function or several, called after every evaluation with the epoch (from 1) and
            its entry of the result's ``history``, to which the best epoch so far is added with its
            metrics: ``best_epoch``, ``best_recall@20`` and so on. ``best_<monitor>`` never falls,
            in a resumed run neither: it is what a tuner should maximise. Of several workers it is
            called by each, with the same values.
        checkpoint_dir: Where to save the state; of several machines a folder that all see. If a
            state of the same run, with as many workers, is there, training continues from
            it. With it, Ctrl-C and SIGTERM finish the batch and save first.
        checkpoint_seconds: Time from one save to the next, also within an epoch, and more where a
            save takes longer than a twentieth of it; 0 saves after every batch. What was not saved
            when the process is killed is trained again, to the same values.
        worker_timeout: Seconds after which a worker that does not answer the others is given up;
            longer than the first one takes to save, when the others wait. (With the backend
            ``nccl`` torch then ends the process.)
        progress: Whether to show the progress on standard error: a bar on a terminal, a line a
            minute elsewhere.

    Returns:
        The best epoch, its metrics and the history.

    Raises:
        ValueError: If a graph is not that of the model, has no links, or is on another device; if
            the model cannot draw neighbourhoods and ``config.fan_out`` is given; if
            ``config.weight_decay`` is given beside ``optimizer``, whose own it should be; if
            ``optimizer`` is given for a model in closed form, or that is too large to solve; if it
            has momentum and several workers draw neighbours; if workers were given different
            arguments.
        TrainingDivergedError: If the loss is not finite, naming epoch, batch and term.
        CheckpointError: If ``checkpoint_dir`` is damaged or holds another run.
        LockedError: If another process trains in ``checkpoint_dir``.
        WorkerLostError: If another worker died or did not answer for ``worker_timeout``.
        KeyboardInterrupt, SystemExit: After saving, when interrupted with ``checkpoint_dir``.
    """
    check_number("worker_timeout", worker_timeout, above=0)
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    run = Run(model, train, val, config, optimizer, worker_timeout)
    reports = [report] if callable(report) else report or []
    with (
        closing(run.workers),
        run_lock(folder if run.first else None),
        StopRequest(active=folder is not None) as stop,
        Progress(type(model).__name__, shown=progress and run.first) as bar,
        nullcontext() if run.config.fan_out is None else sparse_gradients(model),
    ):
        run.begin(folder)
        clock = RunClock(run.state, checkpoint_seconds)

        def save_if(due: bool) -> None:
            if folder is None:
                return
            due = due or (run.first and clock.save_is_due())
            stopping, saving = run.workers.all_reduce([stop.requested, due or stop.requested])
            if saving:
                with clock.saving():
                    run.workers.gather_rows(run.optimizer)
                    if run.first:
                        clock.stamp()
                        run.save(folder)
            if stopping:
                run.workers.barrier()  # the others wait for the state to be saved
                stop.exit_if_requested()
                raise SystemExit(143)  # another worker was asked to stop

        while not run.state.finished:
            for _ in run.train_epoch():
                run.show(bar)
                save_if(due=False)
            run.end_epoch(reports)
            save_if(due=run.state.finished)
        stop.exit_if_requested()
        clock.stamp()

    return take_best(model, run.state, run.config)


def take_best(model: Recommender, state: TrainState, config: CompleteTrainConfig) -> FitResult:
    """Gives the model the weights of the best epoch of a run that has ended."""
    model.load_state_dict(state.best_weights)
    model.eval()
    evaluated = [entry["epoch"] for entry in state.history if config.monitor in entry]
    closed_form = isinstance(model, ClosedFormRecommender)
    last_tenth = evaluated[-max(1, math.ceil(len(evaluated) / 10)) :]
    return FitResult(
        best_epoch=state.best_epoch,
        best_metrics=state.best_metrics,
        num_epochs=state.epoch,
        stopped_early=state.stopped_early or closed_form,
        still_rising=state.best_epoch in last_tenth and not closed_form,
        seconds=state.seconds,
        cpu_seconds=state.cpu_seconds,
        config=config,
        history=state.history,
    )
