"""A whole run of stage 1: from a catalogue on disk to an encoder on disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

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
from alignrec_pyg.pretraining.catalogue import Catalogue, read_catalogue
from alignrec_pyg.pretraining.config import PretrainConfig
from alignrec_pyg.pretraining.features import write_features
from alignrec_pyg.pretraining.fit import pretrain
from alignrec_pyg.pretraining.objective import MaskedDataModelling
from alignrec_pyg.pretraining.pairs import PairConfig, PairDataset, image_identity
from alignrec_pyg.pretraining.visual_tokens import PatchCodebook, VisualTokenizer
from alignrec_pyg.pretraining.vqkd import VQKDTokenizer
from alignrec_pyg.training.parallel import Workers

_IMAGES_TO_FIT = 4_000
_SIZES = {"base": BEiT3Config.base, "large": BEiT3Config.large, "tiny": BEiT3Config.tiny}


@dataclass(frozen=True, kw_only=True)
class PretrainJob:
    """What to train on, what to train, and where to put it.

    Args:
        out: Folder of the run: its state in ``run``, the encoder in ``encoder``.
        data: Table of items, as of :func:`~alignrec_pyg.pretraining.catalogue.read_catalogue`;
            ``None`` takes the embedded synthetic items.
        fields: Columns of the text.
        id: Column of the ids.
        image: Column of the images.
        images: Folder or zip file of the images.
        size: Sizes of the encoder.
        num_layers: Another depth (paper: 16 and 20 in Table 10).
        image_size: Another size of images.
        weights: Released BEiT3 weights to start from.
        spm: A sentencepiece model (``beit3.spm`` with released weights); ``None`` trains one.
        vocab_size: Most pieces of a trained one.
        vqkd: Released VQ-KD weights for the visual tokens; ``None`` learns a codebook.
        num_codes: Codes of a learned one (``None``: from the number of patches).
        max_tokens: Most tokens of a text.
        mask_image: Share of patches hidden.
        mask_text: Share of tokens hidden.
        joint_masking: Whether both are hidden in one pass.
        val_share: Share of pairs held out.
        config: How to train.
        encode: Whether to write feature tables too, one row for each item of the table
            (:data:`~alignrec_pyg.pretraining.features.TABLES`).
    """

    out: Path
    data: Path | None = None
    fields: tuple[str, ...] = FIELDS
    id: str = "id"
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
        """The encoder's sizes for a vocabulary."""
        changes = {"num_layers": self.num_layers, "image_size": self.image_size}
        given = {name: value for name, value in changes.items() if value is not None}
        return _SIZES[self.size](vocab_size=vocab_size, **given)


def run_job(
    job: PretrainJob,
    *,
    device: torch.device | str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Runs a job, or goes on with it where it was.

    Under ``torchrun`` or Ray Train every worker calls it; the first one writes.

    Args:
        job: What to do.
        device: Where to train (default: this process's GPU, else the CPU).
        tell: Called with lines for people.

    Returns:
        The folder of the encoder, for ``BEiT3Encoder.from_pretrained``.

    Raises:
        ValueError: If the catalogue or a setting does not fit, or too many images cannot be read.
        CheckpointError: If weights or ``out`` are damaged or hold something else.
    """
    device = _join_group(device)
    workers = Workers(device)
    if workers.rank:
        tell = lambda line: None  # noqa: E731
    catalogue = _catalogue(job)
    tell(catalogue.report)
    chosen = catalogue.pairs()
    if len(chosen) < 3:
        raise ValueError(f"'data' needs 3 items or more with text and image (got {len(chosen)})")
    texts = [catalogue.text[row] or "" for row in chosen]
    images = [image for row in chosen if (image := catalogue.image[row]) is not None]

    tokenizer = _tokenizer(job, texts)
    tell(f"text tokens: {tokenizer!r}")
    # The released embedding has more rows than the vocabulary has ids.
    released = job.weights is not None and job.spm is not None
    sizes = job.sizes(BEiT3Config().vocab_size if released else tokenizer.vocab_size)
    visual_tokens = _visual_tokens(job, sizes, images, workers, tell)
    tell(f"visual tokens: {visual_tokens!r}")
    objective = _objective(job, sizes, tokenizer, visual_tokens, released, tell)
    # Before training: what does not fit is to be told now.
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
    tell(f"{len(train)} pairs to train on, {len(val)} to validate on, {workers.size} worker(s)")

    def report(step: int, entry: dict[str, float]) -> None:
        tell(" ".join(f"{k}={v:.4g}" for k, v in entry.items()))

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
    if workers.rank == 0 and job.encode:  # for hours, maybe: the others do not wait
        write_features(
            job.out,
            encoder,
            catalogue,
            device=device,
            num_workers=job.config.num_workers,
            max_failures=job.config.max_failures,
            tell=tell,
        )
    return folder


def _join_group(device: torch.device | str | None) -> torch.device:
    """This process's device; joins the others if ``torchrun`` started it."""
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


def _tokenizer(job: PretrainJob, texts: list[str]) -> SentencePieceTokenizer:
    """Every worker trains the same one; it takes seconds."""
    if job.spm is not None:
        return SentencePieceTokenizer(job.spm)
    return SentencePieceTokenizer.train(texts, job.vocab_size)


def _visual_tokens(
    job: PretrainJob,
    sizes: BEiT3Config,
    images: list[ImageSource],
    workers: Workers,
    tell: Callable[[str], None],
) -> VisualTokenizer:
    """A learned codebook is kept under the hash of what it was learned from."""
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
        shown, failures = [], []
        for image in sample:
            try:
                shown.append(resize_square(read_image(image), sizes.image_size))
            except ImageError as error:
                failures.append(str(error))
                tell(f"left out of the codebook: {error}")
        if len(failures) > job.config.max_failures * len(sample):
            raise ValueError(
                f"'max_failures' needs to be larger than {job.config.max_failures:.2%} for these "
                f"images: of {len(sample):,} looked at, {len(failures):,} cannot be read (such as "
                f"{'; '.join(failures[:5])})"
            )
        codebook, report = PatchCodebook.fit(
            shown, sizes.patch_size, vocab_size=job.num_codes, seed=job.config.seed
        )
        codebook.save(folder)
        tell(f"codebook: {report}")
    workers.barrier()
    return PatchCodebook.load(folder)


def _objective(
    job: PretrainJob,
    sizes: BEiT3Config,
    tokenizer: SentencePieceTokenizer,
    visual_tokens: VisualTokenizer,
    released: bool,
    tell: Callable[[str], None],
) -> MaskedDataModelling:
    seed = job.config.seed
    if job.weights is None:
        model, heads = BEiT3Model(sizes, seed=seed), {}
    else:
        found = load_official(
            job.weights,
            sizes,
            new_vocabulary=not released,
            partial=job.num_layers is not None,
            seed=seed,
        )
        model, heads = found.model, found.heads
        for note in found.notes:
            tell(f"{job.weights.name}: {note}")
    objective = MaskedDataModelling(
        model, visual_tokens, tokenizer.mask_id, joint_masking=job.joint_masking, seed=seed
    )
    mlm = {name.removeprefix("mlm_head."): v for name, v in heads.items() if "mlm_head" in name}
    if released and mlm:
        objective.mlm_head.load_state_dict(mlm)
        tell("the released head for text tokens is taken over")
    return objective
