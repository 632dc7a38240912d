"""The training loop of stage 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from alignrec_pyg.graph import content_hash
from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.pretraining.config import PretrainConfig
from alignrec_pyg.pretraining.objective import Objective
from alignrec_pyg.pretraining.pairs import PairBatch, PairDataset, check_failures, load
from alignrec_pyg.pretraining.step import PretrainState, Trainer, adamw, validate
from alignrec_pyg.storage import write_records
from alignrec_pyg.training.parallel import Workers
from alignrec_pyg.training.sampling import seeded_generator
from alignrec_pyg.training.state import RunClock, restore, run_lock, save

# Part of a saved run's identity: raise it with each change that makes training give other values.
_FORMAT = 3
_ORDER = 0  # stream of randomness within an epoch


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """Result of pre-training; the objective holds the weights of the last step.

    The paper does not select an epoch of stage 1, and at the end of the cosine schedule the
    learning rate is close to zero. If ``val_loss`` in the history rises again, train fewer epochs.

    Args:
        metrics: Validation metrics of the last epoch.
        num_steps: Number of steps.
        seconds: Time spent, including before interruptions.
        history: Entries with ``step`` and ``epoch`` (both counted from 1), ``lr``, ``loss``,
            ``grad_norm``, each term and its ``_accuracy``, the number of ``unreadable`` images;
            after every epoch one with the metrics of validation, ``val_...``.
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
    """Trains an objective's encoder on image-text pairs.

    All randomness comes from seeds, epoch and pair, so an interrupted run that is started again
    with the same arguments continues exactly; on the CPU results are equal to the last digit.
    Inside a process group (``torchrun``, Ray Train) the workers share every batch; gradients are
    those of one process up to rounding. An epoch leaves out the few pairs, fewer than there are
    workers, that cannot be divided evenly.

    Args:
        objective: The loss to minimise; left in evaluation mode.
        train: Pairs to train on.
        val: Pairs to validate on after every epoch.
        config: Settings of the optimisation.
        device: Where to train.
        report: Called with the number of steps done and every entry of the history.
        checkpoint_dir: Folder to save the state and ``history.jsonl`` in (and TensorBoard's events,
            if it is installed); with several machines, one that all of them see. A state of the
            same run found there is continued. With a folder, Ctrl-C and SIGTERM finish the step and
            save first.
        checkpoint_seconds: Time between saves.

    Raises:
        ValueError: If there are fewer pairs than workers, the workers cannot share a batch, or too
            many images cannot be read.
        TrainingDivergedError: If the loss or the gradient is not finite.
        CheckpointError: If ``checkpoint_dir`` is damaged or holds another run.
        LockedError: If another process trains in ``checkpoint_dir``.
        KeyboardInterrupt, SystemExit: After saving, when interrupted with ``checkpoint_dir``.
    """
    config = config or PretrainConfig()
    workers = Workers(torch.device(device))
    steps_per_epoch = steps_of_epoch(len(train), config, workers)
    num_steps = config.epochs * steps_per_epoch
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    run = {} if folder is None else _run_identity(objective, train, val, config, workers)
    objective.to(workers.device).train()
    fused = workers.device.type in ("cpu", "cuda")
    optimizer = adamw(objective, objective.is_decayed, config, fused=fused)
    state = PretrainState()
    first = workers.rank == 0
    with (
        run_lock(folder if first else None),
        StopRequest(active=folder is not None) as stop,
    ):
        if folder is not None:
            restore(folder, run, state, objective, optimizer)
        clock = RunClock(state, checkpoint_seconds)
        step = state.epoch * steps_per_epoch + state.step
        trainer = Trainer(objective, optimizer, config, workers, state)

        with (
            _curves(folder if first else None, step) as draw,
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
                draw(entry)
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
                        note({"step": step, "epoch": state.epoch + 1, "lr": lr, **trainer.means()})
                    if ended:
                        unreadable = sum(
                            int(entry.get("unreadable", 0))
                            for entry in state.history
                            if entry["epoch"] == state.epoch + 1
                        )
                        check_failures(unreadable, len(train), config.max_failures)
                        metrics = validate(objective, val, config, workers)
                        note({"step": step, "epoch": state.epoch + 1, **metrics})
                        progress.set_postfix(val_loss=f"{metrics['val_loss']:.3f}")
                        state.epoch, state.step = state.epoch + 1, 0
                        state.finished = state.epoch == config.epochs
                    if folder is not None and first and (ended or stopping or clock.save_is_due()):
                        clock.stamp()
                        write_records(folder / "history.jsonl", state.history)
                        with clock.saving():
                            save(folder, run, state, objective, optimizer)
                    if stopping:
                        workers.barrier()  # the others wait for the state to be saved
                        stop.exit_if_requested()
                        raise SystemExit(143)  # another worker was asked to stop
            stop.exit_if_requested()
            clock.stamp()

    objective.eval()
    return PretrainResult(
        metrics={name: value for name, value in state.history[-1].items() if name[:4] == "val_"},
        num_steps=num_steps,
        seconds=state.seconds,
        history=state.history,
    )


def _epoch(
    train: PairDataset, config: PretrainConfig, workers: Workers, state: PretrainState
) -> Iterator[list[PairBatch]]:
    """This worker's slices of every batch from ``state.step`` to the end of the epoch."""
    epoch = state.epoch
    order = torch.randperm(len(train), generator=seeded_generator(config.seed, epoch, _ORDER))
    shared = order[: len(order) - len(order) % workers.world_size]
    groups = [
        [
            (epoch, part.tolist())
            for part in batch[workers.rank :: workers.world_size].split(config.micro_batch_size)
        ]
        for batch in shared.split(config.batch_size)[state.step :]
    ]
    loaded = load(train, [key for group in groups for key in group], config, workers.device)
    for group in groups:
        yield [next(loaded) for _ in group]


def steps_of_epoch(num_pairs: int, config: PretrainConfig, workers: Workers) -> int:
    """Number of steps in an epoch; the last batch may be smaller.

    Raises:
        ValueError: If there are fewer pairs than workers, or the workers cannot share a batch.
    """
    if config.batch_size % workers.world_size:
        raise ValueError(
            f"'batch_size' needs to be a multiple of the {workers.world_size} workers "
            f"(got {config.batch_size})"
        )
    if num_pairs < workers.world_size:
        raise ValueError(
            f"'train' needs a pair for each of the {workers.world_size} workers (got {num_pairs})"
        )
    return -(-(num_pairs - num_pairs % workers.world_size) // config.batch_size)


def _run_identity(
    objective: Objective,
    train: PairDataset,
    val: PairDataset,
    config: PretrainConfig,
    workers: Workers,
) -> dict[str, Any]:
    """What needs to be the same for a saved state to be continued."""
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
        "workers": workers.world_size,
    }


@contextmanager
def _curves(folder: Path | None, step: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """Writes entries as curves to ``folder/tensorboard``, if there is a folder and TensorBoard.

    Points after the steps done, of steps lost to an interruption, are dropped.
    """
    if folder is None or find_spec("tensorboard") is None:
        yield lambda entry: None
        return
    from torch.utils.tensorboard import SummaryWriter

    def write(entry: dict[str, float]) -> None:
        for name, value in entry.items():
            if name != "step":
                writer.add_scalar(name, value, int(entry["step"]))

    with closing(SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)) as writer:
        yield write
