"""A run of stage 1: from a catalogue on disk to an encoder on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed

from alignrec_pyg.datasets.synthetic import Synthetic
from alignrec_pyg.encoders import (
    BEiT3Config,
    BEiT3Encoder,
    BEiT3Model,
    SentencePieceTokenizer,
)
from alignrec_pyg.encoders.beit3_checkpoint import load_official
from alignrec_pyg.encoders.images import ImageError, ImageSource, read_image, resize_square
from alignrec_pyg.encoders.texts import FIELDS
from alignrec_pyg.graph import ITEM, content_hash
from alignrec_pyg.pretraining.catalogue import Catalogue, read_catalogue, write_features
from alignrec_pyg.pretraining.config import PretrainConfig
from alignrec_pyg.pretraining.fit import pretrain, steps_of_epoch
from alignrec_pyg.pretraining.objective import MaskedDataModelling
from alignrec_pyg.pretraining.pairs import PairConfig, PairDataset, check_failures, image_identity
from alignrec_pyg.pretraining.visual_tokens import PatchCodebook, VisualTokenizer
from alignrec_pyg.pretraining.vqkd import VQKDTokenizer
from alignrec_pyg.training.parallel import Workers
from alignrec_pyg.training.ray import run_with_ray

_IMAGES_TO_FIT = 4_000
_SIZES = {"base": BEiT3Config.base, "large": BEiT3Config.large, "tiny": BEiT3Config.tiny}


@dataclass(frozen=True, kw_only=True)
class PretrainJob:
    """Data, encoder and settings of a run of stage 1, as the options of ``alignrec pretrain``.

    The state is saved in ``out/run``, the encoder in ``out/encoder``. Without ``data``, the items
    are the embedded synthetic ones. ``num_layers`` (paper: 16 and 20 in Table 10) and
    ``image_size`` change those of ``size``. Without ``spm`` a sentencepiece model is trained,
    without ``vqkd`` a codebook is learned. ``encode`` writes
    :data:`~alignrec_pyg.pretraining.catalogue.TABLES` as well.
    """

    out: Path
    data: Path | None = None
    fields: tuple[str, ...] = FIELDS
    id: str | None = None
    image: str | None = None
    images: Path | None = None
    size: Literal["base", "large", "tiny"] = "base"
    num_layers: int | None = None
    image_size: int | None = None
    weights: Path | None = None
    spm: Path | None = None
    vocab_size: int = 8_000
    vqkd: Path | None = None
    num_codes: int | None = None
    max_tokens: int = 128
    mask_image: float = 0.4
    mask_text: float = 0.15
    joint_masking: bool = False
    val_share: float = 0.02
    config: PretrainConfig = field(default_factory=PretrainConfig)
    encode: bool = False

    def sizes(self, vocab_size: int) -> BEiT3Config:
        """Sizes of the encoder with a vocabulary of ``vocab_size``."""
        wanted = {"num_layers": self.num_layers, "image_size": self.image_size}
        changes = {name: value for name, value in wanted.items() if value is not None}
        return _SIZES[self.size](vocab_size=vocab_size, **changes)


def run_job(
    job: PretrainJob,
    *,
    device: torch.device | str | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """Runs a job and returns the encoder's folder; one that was interrupted continues.

    Under ``torchrun`` or Ray Train every worker calls it, and the first one writes the files.
    The device is, by default, the GPU of this process, else the CPU.
    """
    device = _join_group(device)
    workers = Workers(device)
    if workers.rank:
        log = lambda line: None  # noqa: E731
    catalogue = _catalogue(job)
    log(catalogue.report)
    chosen = catalogue.pairs()
    if len(chosen) < 3:
        raise ValueError(f"'data' needs 3 items or more with text and image (got {len(chosen)})")
    texts = [catalogue.text[row] or "" for row in chosen]
    images = [image for row in chosen if (image := catalogue.image[row]) is not None]

    if job.spm is not None:
        tokenizer = SentencePieceTokenizer(job.spm)
    else:  # takes seconds, so every worker trains the same
        tokenizer = SentencePieceTokenizer.train(texts, job.vocab_size)
    made_by = "trained on these texts" if job.spm is None else f"of {job.spm.name}"
    log(f"text tokens: a vocabulary of {tokenizer.vocab_size:,}, {made_by}")
    # The released text embedding has more rows than the released vocabulary has ids.
    released = job.weights is not None and job.spm is not None
    sizes = job.sizes(BEiT3Config().vocab_size if released else tokenizer.vocab_size)
    visual_tokens = _visual_tokens(job, sizes, images, workers, log)
    made_by = "a codebook of these images" if job.vqkd is None else f"the codes of {job.vqkd.name}"
    log(
        f"visual tokens: {made_by}, {visual_tokens.vocab_size:,} codes for {visual_tokens.grid} x "
        f"{visual_tokens.grid} patches"
    )
    objective = _objective(job, sizes, tokenizer, visual_tokens, released, log)
    # Before training: an encoder that cannot be built is an error now, not after hours.
    encoder = BEiT3Encoder(objective.model, tokenizer, max_tokens=job.max_tokens)
    settings = PairConfig(
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        max_tokens=job.max_tokens,
        mask_image=job.mask_image,
        mask_text=job.mask_text,
    )
    pairs = PairDataset(texts, images, tokenizer, settings, seed=job.config.seed)
    train, val = pairs.split(job.val_share)
    epoch_steps, num_epochs = steps_of_epoch(len(train), job.config, workers), job.config.epochs
    log(
        f"{len(train):,} pairs to train on, {len(val):,} to validate on: {num_epochs} epochs of "
        f"{epoch_steps} steps, each of at most {job.config.batch_size} pairs, over "
        f"{workers.world_size} worker{'' if workers.world_size == 1 else 's'}"
    )

    def report(step: int, entry: dict[str, float]) -> None:
        values = ", ".join(f"{k} {v:.4g}" for k, v in entry.items() if k not in ("epoch", "step"))
        epoch = f"epoch {entry['epoch']:.0f} of {num_epochs}"
        log(f"{epoch}, step {step} of {num_epochs * epoch_steps}: {values}")

    result = pretrain(
        objective, train, val, job.config,
        device=device, report=report, checkpoint_dir=job.out / "run",
    )  # fmt: skip
    folder = job.out / "encoder"
    if workers.rank == 0:
        notes = {
            "stage": "inter-content alignment",
            "data": catalogue.report,
            "pairs": pairs.fingerprint,
            "objective": objective.description(),
            "config": asdict(job.config),
            "started_from": None if job.weights is None else job.weights.name,
            "metrics": result.metrics,
        }
        encoder.save_pretrained(folder, notes)
    workers.barrier()
    if workers.rank == 0 and job.encode:  # may take hours: the other workers do not wait
        write_features(
            job.out,
            encoder,
            catalogue,
            device=device,
            num_workers=job.config.num_workers,
            max_failures=job.config.max_failures,
            log=log,
        )
    return folder


def _join_group(device: torch.device | str | None) -> torch.device:
    """The device of this process, which joins the process group if ``torchrun`` started it."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if "TORCHELASTIC_RUN_ID" in os.environ and not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def _catalogue(job: PretrainJob) -> Catalogue:
    if job.data is not None:
        return read_catalogue(
            job.data, fields=job.fields, id=job.id, image=job.image, images=job.images
        )
    items = Synthetic(seed=job.config.seed).data[ITEM]
    return Catalogue(
        [str(item) for item in items.id],
        list(items.text),
        list(items.image),
        f"{len(items.text)} synthetic items, all with text and image",
    )


def _visual_tokens(
    job: PretrainJob,
    sizes: BEiT3Config,
    images: list[ImageSource],
    workers: Workers,
    log: Callable[[str], None],
) -> VisualTokenizer:
    """The visual tokenizer; a learned codebook is saved under a hash of its data and settings."""
    if job.vqkd is not None:
        return VQKDTokenizer(job.vqkd)
    sample = images[:: -(-len(images) // _IMAGES_TO_FIT)]
    key = content_hash(
        [image_identity(image) for image in sample],
        sizes.image_size,
        sizes.patch_size,
        job.num_codes,
        job.config.seed,
    )
    folder = job.out / f"codebook-{key[:16]}"
    if workers.rank == 0 and not (folder / "codebook.json").exists():
        readable, failures = [], []
        for image in sample:
            try:
                readable.append(resize_square(read_image(image), sizes.image_size))
            except ImageError as error:
                failures.append(str(error))
                log(f"left out of the codebook: {error}")
        check_failures(len(failures), len(sample), job.config.max_failures, failures)
        codebook, report = PatchCodebook.fit(
            readable, sizes.patch_size, vocab_size=job.num_codes, seed=job.config.seed
        )
        codebook.save(folder)
        log(f"codebook: {report}")
    workers.barrier()
    return PatchCodebook.load(folder)


def _objective(
    job: PretrainJob,
    sizes: BEiT3Config,
    tokenizer: SentencePieceTokenizer,
    visual_tokens: VisualTokenizer,
    released: bool,
    log: Callable[[str], None],
) -> MaskedDataModelling:
    seed = job.config.seed
    if job.weights is None:
        model, heads = BEiT3Model(sizes, seed=seed), {}
    else:
        official = load_official(
            job.weights,
            sizes,
            new_vocabulary=not released,
            partial=job.num_layers is not None,
            seed=seed,
        )
        model, heads = official.model, official.heads
        for note in official.notes:
            log(f"{job.weights.name}: {note}")
    objective = MaskedDataModelling(
        model, visual_tokens, tokenizer.mask_id, joint_masking=job.joint_masking, seed=seed
    )
    mlm = {name.removeprefix("mlm_head."): v for name, v in heads.items() if "mlm_head" in name}
    if released and mlm:
        objective.mlm_head.load_state_dict(mlm)
        log("the head for text tokens starts from the released weights")
    return objective


def run_job_with_ray(job: PretrainJob, num_workers: int, *, use_gpu: bool) -> Path:
    """Runs a job on workers of Ray Train, which may be on several machines; as :func:`run_job`.

    All of them need to see ``job.out`` and the data under the same paths. A worker that fails is
    started again, up to three times, and the run continues from its last saved state.
    ``job.config.batch_size`` is a multiple of ``num_workers``, each of which may take a GPU.
    """
    paths: dict[str, Any] = {  # workers have another working directory
        part.name: value.resolve()
        for part in fields(job)
        if isinstance(value := getattr(job, part.name), Path)
    }
    job = replace(job, **paths)
    run_with_ray(_run_in_worker, job, job.out, num_workers=num_workers, use_gpu=use_gpu)
    return job.out / "encoder"


def _run_in_worker(job: PretrainJob, device: torch.device) -> None:
    run_job(job, device=device, log=lambda line: print(line, flush=True))  # noqa: T201
