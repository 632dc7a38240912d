"""Fine-tuning of CLIP on the image-text pairs of a catalogue."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from alignrec_pyg.encoders.base import ItemContent
from alignrec_pyg.encoders.clip import CLIPEncoder
from alignrec_pyg.encoders.images import (
    ImageError,
    ImageSource,
    image_source,
    quiet_pillow,
    read_image,
)
from alignrec_pyg.encoders.texts import clean_text
from alignrec_pyg.graph import content_hash
from alignrec_pyg.interrupt import StopRequest
from alignrec_pyg.pretraining.config import CLIPFinetuneConfig
from alignrec_pyg.pretraining.pairs import check_failures, image_identity
from alignrec_pyg.pretraining.step import adamw
from alignrec_pyg.training.run import TrainingDivergedError
from alignrec_pyg.training.sampling import seeded_generator
from alignrec_pyg.training.state import RunClock, RunState, restore, run_lock, save

_Map: TypeAlias = Callable[..., Iterator[Any]]
"""``map``, or that of a pool of threads."""

# Streams of randomness.
_SPLIT, _ORDER, _STEP = range(3)
# Part of a saved run's identity: raise it with each change that makes training give other values.
_FORMAT = 3
_MAX_LOGIT_SCALE = math.log(100)


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor | float) -> Tensor:
    r"""CLIP's loss: cross-entropy of each image's own text among all, and the other way round.

    .. math:: \mathcal{L} = -\frac{1}{2B} \sum_{b=1}^{B} \left(
        \log \frac{e^{s\, v_b^\top t_b}}{\sum_c e^{s\, v_b^\top t_c}} +
        \log \frac{e^{s\, v_b^\top t_b}}{\sum_c e^{s\, v_c^\top t_b}} \right)

    `"Learning Transferable Visual Models From Natural Language Supervision"
    <https://arxiv.org/abs/2103.00020>`_ (ICML 2021), section 2.3.

    Args:
        image: Rows :math:`v_b` of length 1.
        text: Rows :math:`t_b` of length 1; row b belongs to image b.
        scale: :math:`s`, the inverse temperature.

    Shapes:
        - **input:** image and text :math:`(B, d)`
        - **output:** scalar
    """
    logits = scale * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@dataclass
class _State(RunState):
    """Progress of fine-tuning, with the sum of the epoch's losses and the best validation loss."""

    loss_sum: float = 0.0
    best_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class CLIPFinetuneResult:
    """Result of fine-tuning; the encoder's model holds the weights of the best epoch.

    Args:
        best_epoch: That epoch, counted from 1.
        num_train: Pairs trained on.
        num_val: Pairs validated on.
        unreadable: Why an image cannot be read, by the row of its item; items without a text are
            not counted.
        history: One entry per epoch: ``epoch``, ``loss``, ``logit_scale`` and ``val_loss``.
    """

    best_epoch: int
    num_train: int
    num_val: int
    unreadable: dict[int, str]
    history: list[dict[str, float]] = field(repr=False)


def finetune_clip(
    encoder: CLIPEncoder,
    items: ItemContent,
    config: CLIPFinetuneConfig | None = None,
    *,
    checkpoint_dir: str | Path | None = None,
    checkpoint_seconds: float = 300.0,
    num_workers: int = 0,
) -> CLIPFinetuneResult:
    """Fine-tunes an encoder's model on the items that have both image and text.

    Images are prepared as for encoding, without augmentation. After each step the temperature's
    logarithm is clamped to [0, ln 100]. To keep the weights, write
    ``write_tensors(path, encoder.model.state_dict())``: ``CLIPEncoder(name, path)`` loads them.

    All randomness comes from the seed, epoch and step, so an interrupted run that is started again
    with the same arguments, on an encoder with the same first weights, continues exactly.

    Args:
        encoder: Its model is trained, on its device, and left in evaluation mode.
        items: The catalogue; images in files are read in every epoch.
        config: Settings of the optimisation.
        checkpoint_dir: Folder to save the state in. A state of the same run found there is
            continued. With a folder, Ctrl-C and SIGTERM finish the batch and save first.
        checkpoint_seconds: Time between saves within an epoch.
        num_workers: Threads that read and prepare images; with 0 the calling thread does.

    Raises:
        ValueError: If there are too few pairs, or too many images cannot be read.
        TrainingDivergedError: If a loss or a weight is not finite.
        CheckpointError: If ``checkpoint_dir`` is damaged or holds another run.
        LockedError: If another process trains in ``checkpoint_dir``.
        KeyboardInterrupt, SystemExit: After saving, when interrupted with ``checkpoint_dir``.
    """
    config = config or CLIPFinetuneConfig()
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    with (
        quiet_pillow(),
        ThreadPoolExecutor(num_workers) if num_workers else nullcontext() as pool,
        run_lock(folder),
        StopRequest(active=folder is not None) as stop,
    ):
        map_images: _Map = map if pool is None else pool.map
        return _Finetuning(encoder, items, config, map_images).run(folder, checkpoint_seconds, stop)


class _Finetuning:
    def __init__(
        self, encoder: CLIPEncoder, items: ItemContent, config: CLIPFinetuneConfig, map_images: _Map
    ) -> None:
        self._encoder = encoder
        self._model: Any = encoder.model
        self._config = config
        self._map = map_images
        self._pairs = _find_pairs(items, map_images, max_failures=config.max_failures)
        count = len(self._pairs.texts)
        num_val = max(2, round(config.val_share * count)) if config.val_share else 0
        if count - num_val < 2:
            raise ValueError(
                f"'items' needs at least {num_val + 2} items with image and text for "
                f"val_share={config.val_share} (got {count})"
            )
        drawn = torch.randperm(count, generator=seeded_generator(config.seed, _SPLIT))
        self._val, self._train = drawn[:num_val].sort().values, drawn[num_val:].sort().values
        self._optimizer = adamw(self._model, _is_decayed, config)
        self._state = _State()

    def run(
        self, folder: Path | None, checkpoint_seconds: float, stop: StopRequest
    ) -> CLIPFinetuneResult:
        """Trains to the end, from a saved state if there is one."""
        state, config = self._state, self._config
        identity = {} if folder is None else self._identity()
        if folder is not None:
            restore(folder, identity, state, self._model, self._optimizer)
        num_batches = -(-len(self._train) // config.batch_size)
        clock = RunClock(state, checkpoint_seconds)
        with tqdm(
            total=config.epochs * num_batches,
            initial=state.epoch * num_batches + state.step,
            desc=f"fine-tuning {self._encoder.model_name}",
            unit="batch",
            disable=None,
        ) as progress:

            def save_if(due: bool) -> None:
                if folder is not None and (due or clock.save_is_due()):
                    self._check_weights()
                    clock.stamp()
                    with clock.saving():
                        save(folder, identity, state, self._model, self._optimizer)
                stop.exit_if_requested()

            while not state.finished:
                for _ in self._train_epoch(num_batches):
                    progress.update()
                    save_if(stop.requested)
                self._end_epoch(num_batches)
                save_if(True)
        if state.best_weights:
            self._model.load_state_dict(state.best_weights)
        self._model.eval()
        return CLIPFinetuneResult(
            best_epoch=state.best_epoch,
            num_train=len(self._train),
            num_val=len(self._val),
            unreadable=self._pairs.unreadable,
            history=state.history,
        )

    def _train_epoch(self, num_batches: int) -> Iterator[None]:
        """Trains from the state's step to the end of its epoch; yields after each batch."""
        state, config = self._state, self._config
        self._model.train()
        generator = seeded_generator(config.seed, _ORDER, state.epoch)
        order = self._train[torch.randperm(len(self._train), generator=generator)]
        for step, rows in enumerate(order.tensor_split(num_batches)):
            if step < state.step:
                continue
            done = state.epoch * num_batches + step
            for group in self._optimizer.param_groups:
                group["lr"] = config.lr_at(done, config.epochs * num_batches)
            self._optimizer.zero_grad(set_to_none=True)
            device = self._encoder.device
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                # for dropout and the like
                torch.manual_seed(seeded_generator(config.seed, _STEP, done).initial_seed())
                loss = self._loss(rows)
            self._check_finite(loss, "the loss")
            loss.backward()
            self._optimizer.step()
            with torch.no_grad():
                self._model.logit_scale.clamp_(0.0, _MAX_LOGIT_SCALE)
            state.loss_sum += float(loss.detach())
            state.step = step + 1
            yield

    def _check_finite(self, value: Tensor, what: str) -> None:
        if not bool(value.isfinite().all()):
            raise TrainingDivergedError(
                f"{what} is not finite in epoch {self._state.epoch + 1}, after {self._state.step} "
                "of its batches: lower 'lr'"
            )

    def _check_weights(self) -> None:
        """A state with a weight that is not finite is never saved."""
        for name, parameter in self._model.named_parameters():
            self._check_finite(parameter.detach(), name)

    def _end_epoch(self, num_batches: int) -> None:
        state = self._state
        self._check_weights()
        entry = {"epoch": state.epoch + 1, "loss": state.loss_sum / num_batches}
        entry["logit_scale"] = float(self._model.logit_scale.detach().exp().mean())
        if len(self._val):
            entry["val_loss"] = self._val_loss()
            if state.best_loss is None or entry["val_loss"] < state.best_loss:
                state.best_epoch, state.best_loss = state.epoch + 1, entry["val_loss"]
                state.best_weights = {
                    name: value.detach().cpu().clone()
                    for name, value in self._model.state_dict().items()
                }
        else:
            state.best_epoch = state.epoch + 1
        state.history.append(entry)
        state.epoch += 1
        state.step, state.loss_sum = 0, 0.0
        state.finished = state.epoch == self._config.epochs

    @torch.no_grad()
    def _val_loss(self) -> float:
        """Mean over the validation pairs, in batches of at most ``batch_size``."""
        self._model.eval()
        parts = self._val.tensor_split(-(-len(self._val) // self._config.batch_size))
        return sum(float(self._loss(rows)) * len(rows) for rows in parts) / len(self._val)

    def _loss(self, rows: Tensor) -> Tensor:
        numbers = rows.tolist()
        sources = [self._pairs.images[number] for number in numbers]
        pixels = torch.cat(list(self._map(lambda source: self._encoder.pixels([source]), sources)))
        tokens = self._encoder.tokens([self._pairs.texts[number] for number in numbers])
        device = self._encoder.device
        image = self._model.encode_image(pixels.to(device), normalize=True)
        text = self._model.encode_text(tokens.to(device), normalize=True)
        return contrastive_loss(image, text, self._model.logit_scale.exp())

    def _identity(self) -> dict[str, Any]:
        """What needs to be the same for a saved state to be continued."""
        return {
            "format": _FORMAT,
            "config": {**asdict(self._config), "betas": list(self._config.betas)},
            "encoder": self._encoder.cache_key,  # architecture, first weights, preprocessing
            "content": self._pairs.content,
        }


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() >= 2 and not name.endswith(("bias", "logit_scale"))


@dataclass(frozen=True)
class _Pairs:
    """The pairs of a catalogue, whose images were all read once."""

    images: list[ImageSource]
    texts: list[str]
    content: str  # a hash of all images and texts
    unreadable: dict[int, str]  # reasons, by the row of the item


def _find_pairs(items: ItemContent, map_images: _Map, *, max_failures: float) -> _Pairs:
    """The items with a text and a readable image."""
    if items.text is None or items.image is None:
        raise ValueError("'items' needs texts and images (got only one of them)")
    texts = [clean_text(text).text for text in items.text]
    rows = [row for row, text in enumerate(texts) if text is not None]
    probes = list(map_images(_probe, [items.image[row] for row in rows]))
    unreadable = {
        row: str(probe)
        for row, probe in zip(rows, probes, strict=True)
        if isinstance(probe, ImageError)
    }
    found = [
        (row, *probe) for row, probe in zip(rows, probes, strict=True) if isinstance(probe, tuple)
    ]
    failures = [f"item {row}: {reason}" for row, reason in unreadable.items()]
    check_failures(len(failures), len(found) + len(failures), max_failures, failures)
    if len(found) < 2:
        raise ValueError(f"'items' needs at least two items with image and text (got {len(found)})")
    kept = [str(texts[row]) for row, _, _ in found]
    content = content_hash(kept, [digest for _, _, digest in found])
    return _Pairs([source for _, source, _ in found], kept, content, unreadable)


def _probe(value: object) -> tuple[ImageSource, str] | ImageError | None:
    """An image's source and a hash of its pixels, if it can be read."""
    try:
        source = image_source(value)
        if source is None:
            return None
        pixels = read_image(source)
    except ImageError as error:
        return error
    return source, image_identity(pixels)
