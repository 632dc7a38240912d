"""``alignrec pretrain``: an encoder of the items' images and texts (stage 1)."""

from __future__ import annotations

import dataclasses
import os
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from alignrec_pyg.cli.options import (
    DATA,
    OUTPUT,
    RUN,
    TRAINING,
    Device,
    ImageColumn,
    ImageFiles,
    OptionError,
    device_named,
    errors_about,
    fraction,
    log,
    natural,
    number,
    option,
    positive_int,
    share,
)
from alignrec_pyg.pretraining.config import PretrainConfig

if TYPE_CHECKING:
    from alignrec_pyg.pretraining.job import PretrainJob

_ENCODER = "Encoder"
_count = partial(option, metavar="N", parser=positive_int)
_share = partial(option, metavar="X", parser=fraction)

# Without --items: settings for the embedded synthetic items.
_JOB: dict[str, Any] = {"size": "tiny", "vocab_size": 600, "num_codes": 64, "val_share": 0.1}
_CONFIG: dict[str, Any] = {"epochs": 12, "lr": 2e-3, "batch_size": 64, "micro_batch_size": 64}


def _default(name: str, default: object = None) -> str:
    """Text for the default of an option that depends on ``--items``."""
    if name in _CONFIG:
        return f"{getattr(PretrainConfig, name)}; {_CONFIG[name]} without --items"
    return f"{default}; {_JOB[name]} without --items"


@dataclass(frozen=True, kw_only=True)
class PretrainOptions:
    """The options of stage 1; those of the job and its configuration are called as there."""

    data: Annotated[
        Path | None,
        option(
            DATA,
            "A table of items: .csv, .tsv or .parquet.",
            "FILE",
            name="--items",
            show_default="synthetic items",
        ),
    ] = None
    id: Annotated[
        str | None,
        option(
            DATA,
            "The item column of --items, if its name is no usual one.",
            "COLUMN",
            name="--items-id",
        ),
    ] = None
    fields: Annotated[
        tuple[str, ...],
        option(
            DATA,
            "Text columns of --items, joined in this order.",
            "COLUMN ...",
            name="--text",
            show_default="title brand description",
        ),
    ] = ()
    image: ImageColumn = None
    images: ImageFiles = None
    max_failures: Annotated[float, _share(DATA, "Share of images that may be unreadable.")] = (
        PretrainConfig.max_failures
    )
    size: Annotated[
        Literal["base", "large", "tiny"] | None,
        option(
            _ENCODER,
            "Size of the encoder.",
            name="--config",
            show_default=_default("size", "base"),
        ),
    ] = None
    num_layers: Annotated[
        int | None,
        _count(
            _ENCODER,
            "Number of layers, such as 16.",
            name="--layers",
            show_default="that of --config",
        ),
    ] = None
    image_size: Annotated[
        int | None,
        _count(_ENCODER, "Height and width of images in pixels.", show_default="224; tiny: 32"),
    ] = None
    weights: Annotated[
        Path | None,
        option(_ENCODER, "Released BEiT3 weights to start from.", "FILE", show_default="random"),
    ] = None
    spm: Annotated[
        Path | None,
        option(
            _ENCODER,
            "A sentencepiece model (beit3.spm).",
            "FILE",
            show_default="trained on the texts",
        ),
    ] = None
    vocab_size: Annotated[
        int | None,
        _count(
            _ENCODER,
            "Most pieces of a trained sentencepiece model.",
            show_default=_default("vocab_size", 8000),
        ),
    ] = None
    vqkd: Annotated[
        Path | None,
        option(
            _ENCODER,
            "Released VQ-KD weights, for the visual tokens.",
            "FILE",
            show_default="a codebook learned from the images",
        ),
    ] = None
    num_codes: Annotated[
        int | None,
        _count(
            _ENCODER,
            "Size of a learned codebook.",
            name="--codes",
            show_default=_default("num_codes", "by the number of images"),
        ),
    ] = None
    max_tokens: Annotated[int, _count(_ENCODER, "Most tokens of a text.")] = 128
    mask_image: Annotated[float, _share(TRAINING, "Share of patches to mask.")] = 0.4
    mask_text: Annotated[float, _share(TRAINING, "Share of tokens to mask.")] = 0.15
    joint_masking: Annotated[
        bool,
        option(TRAINING, "Mask both in one pass: half the work.", name="--joint-masking"),
    ] = False
    val_share: Annotated[
        float | None,
        _share(
            TRAINING,
            "Share of pairs for validation.",
            parser=share,
            show_default=_default("val_share", 0.02),
        ),
    ] = None
    epochs: Annotated[
        int | None, _count(TRAINING, "Number of epochs.", show_default=_default("epochs"))
    ] = None
    lr: Annotated[
        float | None,
        option(
            TRAINING,
            "Highest learning rate of AdamW.",
            "X",
            parser=number,
            show_default=_default("lr"),
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        _count(TRAINING, "Pairs per batch, over all workers.", show_default=_default("batch_size")),
    ] = None
    micro_batch_size: Annotated[
        int | None,
        _count(
            TRAINING,
            "Pairs in one pass; lower it if memory is short.",
            show_default=_default("micro_batch_size"),
        ),
    ] = None
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        option(TRAINING, "Of computations; auto takes bfloat16 on a GPU that supports it."),
    ] = PretrainConfig.precision
    seed: Annotated[int, option(RUN, "Seed of weights and training.", "N", parser=natural)] = (
        PretrainConfig.seed
    )
    device: Device = "auto"
    num_workers: Annotated[
        int, option(RUN, "Processes that load images.", "N", name="--loaders", parser=natural)
    ] = PretrainConfig.num_workers
    workers: Annotated[
        int, _count(RUN, "Workers of Ray Train that share every batch; torchrun works as well.")
    ] = 1
    out: Annotated[Path, option(OUTPUT, "Folder of the run.", "FOLDER")] = Path("stage1")
    encode: Annotated[
        bool,
        option(OUTPUT, "Write feature tables too, a row for each item.", name="--encode"),
    ] = False


def pretrain(options: PretrainOptions) -> None:
    """Pre-train a BEiT3 encoder on the items' images and texts (stage 1).

    AlignRec's inter-content alignment: predicts masked patches and tokens. Without --items it
    trains a tiny encoder on embedded synthetic items, in a minute. For several GPUs start
    python -m alignrec_pyg.pretraining, which takes the same options, with torchrun.

    An interrupted run goes on when it is started again with the same options.
    """
    import torch

    from alignrec_pyg.pretraining.catalogue import TABLES
    from alignrec_pyg.pretraining.job import PretrainJob, run_job, run_job_with_ray

    synthetic = options.data is None
    of_items = (options.id, options.fields or None, options.image, options.images)
    if synthetic and any(value is not None for value in of_items):
        raise OptionError(
            "--items-id, --text, --image, --images", "name the table of items with --items"
        )
    given = {name: value for name, value in vars(options).items() if value not in (None, ())}

    def taken_by(kind: type, without_items: dict[str, Any]) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(kind)}
        values = {name: value for name, value in given.items() if name in names}
        return {**without_items, **values} if synthetic else values

    with errors_about("--lr"):
        config = PretrainConfig(**taken_by(PretrainConfig, _CONFIG))
    job = PretrainJob(**taken_by(PretrainJob, _JOB), config=config)
    device = options.device
    if options.workers > 1:  # the machines of a cluster may have the GPUs that this one lacks
        use_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        folder = run_job_with_ray(job, options.workers, use_gpu=use_gpu)
    else:
        folder = run_job(job, device=device_named(device), log=log)
    if os.environ.get("RANK", "0") != "0":  # one of several processes that torchrun started
        return
    print(f"The encoder is in {folder}; in Python: BEiT3Encoder.from_pretrained({str(folder)!r})")
    if not synthetic:
        print("Encode the items of your interactions with it:")
        print(f"  alignrec encode RATINGS {_items_options(job)} --encoder mm={folder} --out NEW")
    if job.encode:
        both, *single = (
            f"{name.replace('features', 'mm')}={job.out / name}.npy" for name in TABLES
        )
        replace = "--replace mm:image=mm_of_text mm:text=mm_of_image"
        print(
            "Its feature tables, in the order of the items, train or evaluate a folder like this:"
        )
        print(f"  alignrec compare FOLDER --tables {both}")
        print(f"  alignrec features FOLDER --tables {both} {' '.join(single)} {replace}")


def _items_options(job: PretrainJob) -> str:
    """The options that name the items of a job, for the command that encodes them."""
    images = None if job.image else job.images  # that command takes one of them
    words = ["--items", job.data, "--items-id", job.id, "--image", job.image, "--images", images]
    pairs = zip(words[::2], words[1::2], strict=True)
    given = [word for option, value in pairs if value is not None for word in (option, str(value))]
    return shlex.join([*map(str, given), "--text", *job.fields])
