"""Stage 1 as a module, for ``torchrun``: ``python -m alignrec_pyg.pretraining``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from alignrec_pyg.pretraining.config import PretrainConfig
from alignrec_pyg.pretraining.distributed import run_with_ray
from alignrec_pyg.pretraining.features import TABLES
from alignrec_pyg.pretraining.job import PretrainJob, run_job

_PROG = "python -m alignrec_pyg.pretraining"
_SYNTHETIC = {"size": "tiny", "epochs": 12, "lr": 2e-3, "batch_size": 64, "micro_batch_size": 64}
_SYNTHETIC_JOB = {"vocab_size": 600, "num_codes": 64, "val_share": 0.1}


def parser(prog: str = _PROG) -> argparse.ArgumentParser:
    """The command line of the program ``prog``."""
    job, config = PretrainJob(out=Path("stage1")), PretrainConfig()
    made = argparse.ArgumentParser(
        prog=prog,
        description="Pre-trains BEiT3 on image-text pairs (AlignRec's inter-content alignment) and "
        "saves the encoder. Started again with the same arguments it goes on where it was. Without "
        "--data it trains a tiny encoder on embedded synthetic items.",
    )
    add = made.add_argument
    add("--data", type=Path, help="table of items: .csv, .tsv or .parquet")
    add("--id", default=job.id, help="column of ids (default: %(default)s)")
    add("--fields", nargs="+", default=list(job.fields), help="columns of the text, in order")
    add("--image", help="column of image paths, or bytes in a parquet file")
    add("--images", type=Path, help="folder or zip file of images; without --image named by id")
    add("--out", type=Path, default=job.out, help="folder of the run (default: %(default)s)")
    add("--config", dest="size", choices=("base", "large", "tiny"), help="encoder (default: base)")
    add("--layers", dest="num_layers", type=int, help="another depth, such as 16 or 20")
    add("--image-size", type=int, help="another image size than 224 (tiny: 32)")
    add("--weights", type=Path, help="released BEiT3 weights to start from, your file")
    add("--spm", type=Path, help="sentencepiece model (beit3.spm); else one is trained")
    add("--vocab-size", type=int, help=f"pieces of a trained one (default: {job.vocab_size})")
    add("--vqkd", type=Path, help="released VQ-KD weights; else a codebook is learned")
    add("--codes", dest="num_codes", type=int, help="codes of a learned one (default: by data)")
    add("--max-tokens", type=int, default=job.max_tokens, help="of a text (default: %(default)s)")
    add("--mask-image", type=float, default=job.mask_image, help="(default: %(default)s)")
    add("--mask-text", type=float, default=job.mask_text, help="(default: %(default)s)")
    add("--joint-masking", action="store_true", help="hide both in one pass: half the work")
    add("--val-share", type=float, help=f"share of pairs held out (default: {job.val_share})")
    add("--epochs", type=int, help=f"(default: {config.epochs})")
    add("--lr", type=float, help=f"(default: {config.lr})")
    add("--batch-size", type=int, help=f"over all workers (default: {config.batch_size})")
    add("--micro-batch-size", type=int, help=f"at a time (default: {config.micro_batch_size})")
    add("--precision", choices=("auto", "float32", "bfloat16"), default=config.precision)
    add("--loaders", dest="num_workers", type=int, default=0, help="processes that load images")
    add("--seed", type=int, default=config.seed)
    add("--device", help="such as cpu or cuda (default: a GPU if there is one)")
    add("--workers", type=int, default=1, help="workers of Ray Train; torchrun works as well")
    add("--max-failures", type=float, help=f"share of bad images (default: {config.max_failures})")
    add("--encode", action="store_true", help="also write features.npy, a row for each item")
    return made


def job_of(
    arguments: Sequence[str] | None = None, prog: str = _PROG
) -> tuple[PretrainJob, argparse.Namespace]:
    """The job that a command line asks for; what was not given has its default."""
    given = parser(prog).parse_args(arguments)
    values = {name: value for name, value in vars(given).items() if value is not None}
    if given.data is None:
        values = {**_SYNTHETIC, **_SYNTHETIC_JOB, **values}
    values["fields"] = tuple(values["fields"])
    settings = {n: values.pop(n) for n in list(values) if n in PretrainConfig.__dataclass_fields__}
    kept = {n: value for n, value in values.items() if n in PretrainJob.__dataclass_fields__}
    return PretrainJob(**kept, config=PretrainConfig(**settings)), given


def main(arguments: Sequence[str] | None = None, prog: str = _PROG) -> None:
    """Runs the command under the name ``prog``."""
    job, given = job_of(arguments, prog)
    if given.workers > 1:
        device = torch.device(given.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.index is not None:
            raise ValueError(
                f"'--device' needs to be cuda or cpu with --workers (got {device}): every worker "
                "has a GPU of its own"
            )
        folder = run_with_ray(job, given.workers, use_gpu=device.type == "cuda")
    else:
        folder = run_job(job, device=given.device, tell=lambda line: print(line, flush=True))
    if os.environ.get("RANK", "0") != "0":  # one of several that torchrun started
        return
    print(f"encoder: BEiT3Encoder.from_pretrained({str(folder)!r})")
    if job.encode:
        tables = " ".join(
            f"{name.replace('features', 'mm')}={job.out / name}.npy" for name in TABLES
        )
        replace = "--replace mm:image=mm_of_text mm:text=mm_of_image"
        print(f"features: --tables mm={job.out / 'features.npy'} for benchmarks/compare.py")
        print(f"          --tables {tables} {replace} for benchmarks/features.py")


if __name__ == "__main__":
    main()
