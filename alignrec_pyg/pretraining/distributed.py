"""Stage 1 on several GPUs or machines, by Ray Train."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from alignrec_pyg.pretraining.job import PretrainJob, run_job


def run_with_ray(job: PretrainJob, num_workers: int, *, use_gpu: bool) -> Path:
    """Runs a job on workers of Ray Train, which may be on several machines.

    All of them need to see ``job.out`` and the data under the same paths. A worker that fails is
    started again, up to three times, and the run goes on from its last save.

    Args:
        job: What to do.
        num_workers: Processes that train together; ``job.config.batch_size`` is a multiple.
        use_gpu: Whether each of them takes a GPU.

    Returns:
        The folder of the encoder.

    Raises:
        ImportError: If Ray is missing.
        RuntimeError: If a worker failed more often.
    """
    try:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise ImportError(
            "several workers need Ray Train: pip install 'alignrec-pyg[tune]', or start the same "
            "command with torchrun"
        ) from error
    job = _absolute(job)
    TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name="stage1",
            storage_path=str(job.out / "ray"),
            failure_config=FailureConfig(max_failures=3),
        ),
    ).fit()
    return job.out / "encoder"


def _worker(config: dict[str, Any]) -> None:
    from ray.train.torch import get_device

    run_job(config["job"], device=get_device(), tell=lambda line: print(line, flush=True))  # noqa: T201


def _absolute(job: PretrainJob) -> PretrainJob:
    """Workers have another working directory."""
    names = ("out", "data", "images", "weights", "spm", "vqkd")
    paths = {name: getattr(job, name) for name in names}
    return replace(job, **{name: path.resolve() for name, path in paths.items() if path})
