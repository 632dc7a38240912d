"""How fast stage 1 trains: pairs per second and memory, in float32 and bfloat16.

    python benchmarks/pretraining_speed.py --config tiny
    python benchmarks/pretraining_speed.py --num-workers 12 --micro-batch-size 128

``pretrain`` runs as a user runs it, loading and decoding included, on made-up photos of 500 x 500
pixels and texts of twenty words, with a k-means codebook of 512 visual tokens. The first step of
each run warms up; the time is that of the others. Loading processes are up to two micro-batches
each ahead: their own limit shows only in more steps than that. Peak memory is that of the process
above the objective; on a GPU, instead, the most that tensors took of its memory.

Exit status: 0, 2 if the arguments do not fit.
"""

# ruff: noqa: E402 (the path and a filter of warnings come before the imports)
from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository: no installed package
# PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated", FutureWarning)

import numpy as np
import torch
from PIL import Image

from alignrec_pyg.cli.arguments import device_named, positive_int
from alignrec_pyg.encoders import BEiT3Config, BEiT3Model, SentencePieceTokenizer
from alignrec_pyg.encoders.images import read_image, resize_square
from alignrec_pyg.experiments.memory import PeakMemory, memory_description
from alignrec_pyg.experiments.provenance import commit, hardware, versions
from alignrec_pyg.experiments.session import log
from alignrec_pyg.pretraining import (
    MaskedDataModelling,
    PairConfig,
    PairDataset,
    PatchCodebook,
    PretrainConfig,
    pretrain,
)

_CONFIGS = {"tiny": BEiT3Config.tiny, "base": BEiT3Config.base, "large": BEiT3Config.large}
_PHOTO = 500  # pixels a side, about what shops store
_NUM_PHOTOS = 64
_NUM_WORDS = 400
_CODES = 512
_MB = 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures both precisions.

    Returns:
        0, 2 if the arguments do not fit.
    """
    options = _parser().parse_args(arguments)
    problems: list[str] = []
    device = device_named(options.device, problems)
    if options.steps < 2:
        problems.append(f"--steps: needs 2 or more, the first warms up (got {options.steps})")
    if options.num_workers < 0:
        problems.append(f"--num-workers: needs 0 or more (got {options.num_workers})")
    for problem in problems:
        log(f"pretraining_speed.py: {problem}")
    if problems:
        return 2
    torch.set_num_threads(options.threads)
    lines = ["| precision | pairs a second | peak MB |", "| --- | ---: | ---: |"]
    with tempfile.TemporaryDirectory() as folder:
        photos = made_up_photos(Path(folder))
        for precision in options.precisions:
            rate, megabytes = measure(options, photos, precision, device)
            lines.append(f"| {precision} | {rate:,.1f} | {megabytes} |")
            log(lines[-1])
    print("\n".join(lines))
    print(
        f"\nBEiT3 {options.config}, batches of {options.batch_size}, {options.micro_batch_size} at "
        f"a time, {options.num_workers} loading processes, {options.steps} steps; "
        f"{memory_description(device)}; commit {commit()}, {hardware(device)}, "
        + ", ".join(f"{name} {version}" for name, version in versions().items())
    )
    return 0


def measure(
    options: argparse.Namespace,
    photos: Sequence[Path],
    precision: Literal["float32", "bfloat16"],
    device: torch.device,
) -> tuple[float, str]:
    """Pairs per second after the first step, and megabytes."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{number}" for number in range(_NUM_WORDS)])
    count = options.batch_size * options.steps
    texts = [" ".join(rng.choice(words, 20)) for _ in range(count)]
    tokenizer = SentencePieceTokenizer.train(texts, 300)
    sizes = _CONFIGS[options.config](vocab_size=tokenizer.vocab_size)
    square = [resize_square(read_image(photo), sizes.image_size) for photo in photos]
    codebook, _ = PatchCodebook.fit(square, sizes.patch_size, vocab_size=_CODES)
    objective = MaskedDataModelling(BEiT3Model(sizes, seed=0), codebook, tokenizer.mask_id, seed=0)
    settings = PairConfig(image_size=sizes.image_size, patch_size=sizes.patch_size)
    pairs = PairDataset(
        texts, [photos[number % len(photos)] for number in range(count)], tokenizer, settings
    )
    val = PairDataset(texts[:2], list(photos[:2]), tokenizer, settings)
    times: list[float] = []

    def report(step: int, entry: dict[str, float]) -> None:
        if "loss" in entry:
            times.append(perf_counter())

    with PeakMemory(device) as memory:
        pretrain(
            objective,
            pairs,
            val,
            PretrainConfig(
                epochs=1,
                batch_size=options.batch_size,
                micro_batch_size=options.micro_batch_size,
                precision=precision,
                log_every=1,
                num_workers=options.num_workers,
            ),
            device=device,
            report=report,
        )
    peak = "not measured" if memory.peak_bytes is None else f"{memory.peak_bytes / _MB:,.0f}"
    return (len(times) - 1) * options.batch_size / (times[-1] - times[0]), peak


def made_up_photos(folder: Path) -> list[Path]:
    """JPEG files, each of a coarse pattern of its own with noise."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(_NUM_PHOTOS):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        photo = np.asarray(coarse.resize((_PHOTO, _PHOTO), Image.Resampling.BICUBIC), np.float32)
        photo = (photo + rng.normal(0, 8, photo.shape)).clip(0, 255)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(photo.astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    both = ["float32", "bfloat16"]
    add("--config", choices=_CONFIGS, default="base", help="size of BEiT3 (base)")
    add("--precisions", nargs="+", choices=both, default=both, help="(both)")
    add("--batch-size", type=positive_int, default=256, metavar="N", help="pairs a step (256)")
    add("--micro-batch-size", type=positive_int, default=32, metavar="N", help="at a time (32)")
    add("--steps", type=positive_int, default=6, metavar="N", help="the first warms up (6)")
    add("--num-workers", type=int, default=0, metavar="N", help="loading processes (0)")
    add("--device", choices=("cpu", "cuda", "auto"), default="auto", help="where to run (auto)")
    add("--threads", type=positive_int, default=torch.get_num_threads(), metavar="N")
    return parser


if __name__ == "__main__":
    sys.exit(main())
