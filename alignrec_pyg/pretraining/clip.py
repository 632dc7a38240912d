"""Fine-tuning of CLIP on the pairs of image and text of a catalogue."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from alignrec_pyg.encoders.base import ItemContent
from alignrec_pyg.encoders.clip import CLIPEncoder
from alignrec_pyg.encoders.images import ImageSource, quiet_pillow
from alignrec_pyg.pretraining.clip_config import CLIPFinetuneConfig
from alignrec_pyg.pretraining.clip_pairs import Mapped, find_pairs
from alignrec_pyg.training.loop import RunClock, StopRequest, TrainingDivergedError
from alignrec_pyg.training.sampling import seeded_generator
from alignrec_pyg.training.state import RunState, restore, save

# Streams of randomness.
_SPLIT, _ORDER, _STEP = range(3)
# Part of a saved run's identity: raise it with each change that makes training give other values.
_FORMAT = 2
_MAX_LOGIT_SCALE = math.log(100)


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor | float) -> Tensor:
    r"""CLIP's loss: each image is to find its text among all, and each text its image.

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
    """Where fine-tuning stands: sum of the epoch's losses, validation loss of the best epoch."""

    loss_sum: float = 0.0
    best_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class CLIPFinetuneResult:
    """What fine-tuning gave; the encoder's model holds the weights of the best epoch.

    Args:
        best_epoch: That epoch, from 0.
        num_train: Pairs trained on.
        num_val: Pairs validated on.
        unreadable: Items with a text whose image cannot be read, and why.
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
        items: The catalogue; images as files are read in every epoch.
        config: How to train.
        checkpoint_dir: Where to save the state. If a state of the same run is there, training
            continues from it. With it, Ctrl-C and SIGTERM finish the batch and save first.
        checkpoint_seconds: Time between saves within an epoch.
        num_workers: Threads that read and prepare images; 0 does it in the calling one.

    Raises:
        ValueError: If there are too few pairs, or too many images cannot be read.
        TrainingDivergedError: If a loss or a weight is not finite, naming epoch and batch.
        CheckpointError: If ``checkpoint_dir`` is damaged or holds another run.
        KeyboardInterrupt, SystemExit: After saving, when interrupted with ``checkpoint_dir``.
    """
    config = config or CLIPFinetuneConfig()
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    with (
        quiet_pillow(),
        ThreadPoolExecutor(num_workers) if num_workers else nullcontext() as pool,
        StopRequest(active=folder is not None) as stop,
    ):
        mapped: Mapped = map if pool is None else pool.map
        tuning = _Tuning(encoder, items, config, mapped)
        return tuning.run(folder, checkpoint_seconds, stop)


class _Tuning:
    """One run of fine-tuning."""

    def __init__(
        self, encoder: CLIPEncoder, items: ItemContent, config: CLIPFinetuneConfig, mapped: Mapped
    ) -> None:
        self._encoder = encoder
        self._model: Any = encoder.model
        self._config = config
        self._mapped = mapped
        self._pairs = find_pairs(items, mapped, max_failures=config.max_failures)
        count = len(self._pairs.texts)
        num_val = max(2, round(config.val_share * count)) if config.val_share else 0
        if count - num_val < 2:
            raise ValueError(
                f"'items' needs at least {num_val + 2} items with image and text for "
                f"val_share={config.val_share} (got {count})"
            )
        drawn = torch.randperm(count, generator=seeded_generator(config.seed, _SPLIT))
        self._val, self._train = drawn[:num_val].sort().values, drawn[num_val:].sort().values
        decayed: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self._model.named_parameters():
            plain = parameter.dim() < 2 or name.endswith(("bias", "logit_scale"))
            (others if plain else decayed).append(parameter)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
        )
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
        clock = RunClock(state.seconds, checkpoint_seconds)
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
                    state.seconds = clock.elapsed()
                    save(folder, identity, state, self._model, self._optimizer)
                    clock.saved()
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
            with _seeded(config.seed, done, self._encoder.device):
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
                f"{what} is not finite in epoch {self._state.epoch}, batch {self._state.step}: "
                "lower 'lr'"
            )

    def _check_weights(self) -> None:
        """Nothing is saved, nor the best, that could not be continued."""
        for name, parameter in self._model.named_parameters():
            self._check_finite(parameter.detach(), name)

    def _end_epoch(self, num_batches: int) -> None:
        state = self._state
        self._check_weights()
        entry = {"epoch": float(state.epoch), "loss": state.loss_sum / num_batches}
        entry["logit_scale"] = float(self._model.logit_scale.detach().exp().mean())
        if len(self._val):
            entry["val_loss"] = self._val_loss()
            if state.best_loss is None or entry["val_loss"] < state.best_loss:
                state.best_epoch, state.best_loss = state.epoch, entry["val_loss"]
                state.best_weights = {
                    name: value.detach().cpu().clone()
                    for name, value in self._model.state_dict().items()
                }
        else:
            state.best_epoch = state.epoch
        state.history.append(entry)
        state.epoch += 1
        state.step, state.loss_sum = 0, 0.0
        state.finished = state.epoch == self._config.epochs

    @torch.no_grad()
    def _val_loss(self) -> float:
        """Mean over the validation pairs, in batches of training's size."""
        self._model.eval()
        parts = self._val.tensor_split(-(-len(self._val) // self._config.batch_size))
        return sum(float(self._loss(rows)) * len(rows) for rows in parts) / len(self._val)

    def _loss(self, rows: Tensor) -> Tensor:
        numbers = rows.tolist()
        sources = [self._pairs.images[number] for number in numbers]
        pixels = torch.cat(list(self._mapped(self._pixels, sources)))
        tokens = self._encoder.tokens([self._pairs.texts[number] for number in numbers])
        device = self._encoder.device
        image = self._model.encode_image(pixels.to(device), normalize=True)
        text = self._model.encode_text(tokens.to(device), normalize=True)
        return contrastive_loss(image, text, self._model.logit_scale.exp())

    def _pixels(self, source: ImageSource) -> Tensor:
        return self._encoder.pixels([source])

    def _identity(self) -> dict[str, Any]:
        """What has to be the same for a saved state to be continued."""
        return {
            "format": _FORMAT,
            "config": {**asdict(self._config), "betas": list(self._config.betas)},
            "encoder": self._encoder.cache_key,  # architecture, first weights, preprocessing
            "content": self._pairs.content,
        }


@contextmanager
def _seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Fixes what dropout and the like draw, and leaves the global generators as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seeded_generator(seed, _STEP, step).initial_seed())
        yield
