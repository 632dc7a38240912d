"""The loop of stage 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from alignrec_pyg.graph import content_hash
from alignrec_pyg.pretraining.config import PretrainConfig
from alignrec_pyg.pretraining.loading import load
from alignrec_pyg.pretraining.log import RunLog
from alignrec_pyg.pretraining.objective import Objective
from alignrec_pyg.pretraining.pairs import PairBatch, PairDataset
from alignrec_pyg.pretraining.state import PretrainState
from alignrec_pyg.pretraining.step import Trainer
from alignrec_pyg.pretraining.validation import validate
from alignrec_pyg.storage import write_records
from alignrec_pyg.training.loop import RunClock, StopRequest
from alignrec_pyg.training.parallel import Workers
from alignrec_pyg.training.sampling import seeded_generator
from alignrec_pyg.training.state import restore, save

# Part of a saved run's identity: raise it with each change that makes training give other values.
_FORMAT = 2
_ORDER = 0  # stream of randomness within an epoch


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """What pre-training gave; the objective holds the weights of the last step.

    The paper chooses no epoch of stage 1, and at the end of the cosine the learning rate is next to
    zero. Where ``val_loss`` in the history has risen again, fewer epochs are the way out.

    Args:
        metrics: Validation metrics of the last epoch.
        num_steps: Steps done.
        seconds: Time spent, including before interruptions.
        history: Entries with ``step``, ``epoch``, ``lr``, ``loss``, ``grad_norm``, each term and
            its ``_accuracy``, number of ``unreadable`` images; after an epoch those of
            validation, ``val_...``.
    """

    metrics: dict[str, float]
    num_steps: int
    seconds: float
    history: list[dict[str, float]] = field(repr=False)


def pretrain(
    objective: Objective,
    train: PairDataset,
    val: PairDataset,
    config: PretrainConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    report: Callable[[int, dict[str, float]], None] | None = None,
    checkpoint_dir: str | Path | None = None,
    checkpoint_seconds: float = 600.0,
) -> PretrainResult:
    """Trains an objective's encoder on pairs.

    All randomness comes from seeds, epoch and pair, so an interrupted run that is started again
    with the same arguments continues exactly; on the CPU results are equal to the last digit.
    Inside a process group (``torchrun``, Ray Train) the workers share every batch; gradients are
    those of one process up to rounding. Pairs of an epoch that cannot be shared out evenly, fewer
    than there are workers, are left out of it.

    Args:
        objective: A module with a loss; ends in evaluation mode.
        train: Pairs to train on.
        val: Pairs to validate on after every epoch.
        config: How to train.
        device: Where to train.
        report: Called with the number of steps done and every entry of the history.
        checkpoint_dir: Where to save the state and ``history.jsonl`` (and TensorBoard's events,
            where it is installed); of several machines a folder that all see. A state of the same
            run found there is continued. With it, Ctrl-C and SIGTERM finish the step and save
            first.
        checkpoint_seconds: Time between saves.

    Raises:
        ValueError: If there are fewer pairs than workers, the workers cannot share a batch, or too
            many images cannot be read.
        TrainingDivergedError: If the loss or the gradient is not finite.
        CheckpointError: If ``checkpoint_dir`` is damaged or holds another run.
        KeyboardInterrupt, SystemExit: After saving, when interrupted with ``checkpoint_dir``.
    """
    config = config or PretrainConfig()
    workers = Workers(torch.device(device))
    steps_per_epoch = _steps_per_epoch(len(train), config, workers)
    num_steps = config.epochs * steps_per_epoch
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    run = {} if folder is None else _run_identity(objective, train, val, config, workers)
    objective.to(workers.device).train()
    optimizer = _optimizer(objective, config)
    state = PretrainState()
    if folder is not None:
        restore(folder, run, state, objective, optimizer)
    clock = RunClock(state.seconds, checkpoint_seconds)
    first = workers.rank == 0
    step = state.epoch * steps_per_epoch + state.step
    trainer = Trainer(objective, optimizer, config, workers, state)

    with (
        StopRequest(active=folder is not None) as stop,
        RunLog(folder if first else None, step) as log,
        tqdm(
            total=num_steps,
            initial=step,
            desc="stage 1",
            unit="step",
            disable=None if first else True,  # None: no bar where the output is no terminal
        ) as progress,
    ):

        def note(entry: dict[str, float]) -> None:
            state.history.append(entry)
            log.write(entry)
            if report is not None and first:
                report(step, entry)

        while not state.finished:
            for parts in _epoch(train, config, workers, state):
                lr = config.lr_at(step, num_steps)
                stopping = trainer.step(parts, lr, stop)
                step, state.step = step + 1, state.step + 1
                progress.update()
                ended = state.step == steps_per_epoch
                if ended or step % config.log_every == 0:
                    note({"step": step, "epoch": state.epoch, "lr": lr, **trainer.means()})
                if ended:
                    _check_images(state, config, len(train))
                    metrics = validate(objective, val, config, workers)
                    note({"step": step, "epoch": state.epoch, **metrics})
                    progress.set_postfix(val_loss=f"{metrics['val_loss']:.3f}")
                    state.epoch, state.step = state.epoch + 1, 0
                    state.finished = state.epoch == config.epochs
                if folder is not None and first and (ended or stopping or clock.save_is_due()):
                    state.seconds = clock.elapsed()
                    write_records(folder / "history.jsonl", state.history)
                    save(folder, run, state, objective, optimizer)
                    clock.saved()
                if stopping:
                    workers.barrier()  # the others wait for the state to be saved
                    stop.exit_if_requested()
                    raise SystemExit(143)  # another worker was asked to stop
        stop.exit_if_requested()

    objective.eval()
    return PretrainResult(
        metrics={name: value for name, value in state.history[-1].items() if name[:4] == "val_"},
        num_steps=num_steps,
        seconds=clock.elapsed(),
        history=state.history,
    )


def _epoch(
    train: PairDataset, config: PretrainConfig, workers: Workers, state: PretrainState
) -> Iterator[list[PairBatch]]:
    """This worker's parts of every batch from ``state.step`` to the end of the epoch."""
    epoch = state.epoch
    order = torch.randperm(len(train), generator=seeded_generator(config.seed, epoch, _ORDER))
    shared = order[: len(order) - len(order) % workers.size]
    groups = [
        [
            (epoch, part.tolist())
            for part in batch[workers.rank :: workers.size].split(config.micro_batch_size)
        ]
        for batch in shared.split(config.batch_size)[state.step :]
    ]
    loaded = load(train, [key for group in groups for key in group], config, workers.device)
    for group in groups:
        yield [next(loaded) for _ in group]


def _check_images(state: PretrainState, config: PretrainConfig, num_pairs: int) -> None:
    """Over a whole epoch, in which every pair was asked for once."""
    unreadable = sum(
        entry.get("unreadable", 0) for entry in state.history if entry["epoch"] == state.epoch
    )
    if unreadable > config.max_failures * num_pairs:
        raise ValueError(
            f"'max_failures' needs to be larger than {config.max_failures:.2%} for these images: "
            f"of {num_pairs:,}, {unreadable:,.0f} cannot be read"
        )


def _steps_per_epoch(num_pairs: int, config: PretrainConfig, workers: Workers) -> int:
    if config.batch_size % workers.size:
        raise ValueError(
            f"'batch_size' needs to be a multiple of the {workers.size} workers "
            f"(got {config.batch_size})"
        )
    if num_pairs < workers.size:
        raise ValueError(
            f"'train' needs a pair for each of the {workers.size} workers (got {num_pairs})"
        )
    return -(-(num_pairs - num_pairs % workers.size) // config.batch_size)


def _optimizer(objective: Objective, config: PretrainConfig) -> torch.optim.AdamW:
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in objective.named_parameters():
        groups[objective.is_decayed(name, parameter)].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": config.weight_decay if decayed else 0.0}
            for decayed, parameters in groups.items()
        ],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=next(objective.parameters()).device.type in ("cpu", "cuda"),
    )


def _run_identity(
    objective: Objective,
    train: PairDataset,
    val: PairDataset,
    config: PretrainConfig,
    workers: Workers,
) -> dict[str, Any]:
    """What has to be the same for a saved state to be continued."""
    weights = objective.state_dict()
    settings = {**asdict(config), "betas": list(config.betas)}
    del settings["num_workers"], settings["max_failures"]  # change no value
    return {
        "format": _FORMAT,
        "config": settings,
        "objective": objective.description(),
        "initial_weights": content_hash(*weights, *weights.values()),
        "train": train.fingerprint,
        "val": val.fingerprint,
        "workers": workers.size,
    }
