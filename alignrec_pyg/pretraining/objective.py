"""The loss of stage 1: masked image and masked language modelling of image-text pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignrec_pyg.checks import check_integer
from alignrec_pyg.encoders.beit3_model import BEiT3Model, normalized_pixels
from alignrec_pyg.pretraining.pairs import PairBatch
from alignrec_pyg.pretraining.visual_tokens import VisualTokenizer

_INIT_STD = 0.02


class Objective(nn.Module, ABC):
    """A loss that is the sum of several terms, each of them a mean.

    :meth:`forward` gives the sums and :meth:`counts` the numbers of summands, so that a large batch
    can be computed in parts: their sums are divided by the counts of the full batch.
    """

    @abstractmethod
    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Sums of the terms over a batch, by name.

        Beside a term "x" there may be "x_correct", the number of its correct predictions.
        """

    @abstractmethod
    def counts(self, batch: Any) -> dict[str, int]:
        """Number of summands of each term, by the term's name."""

    @abstractmethod
    def control(self, batch: Any) -> Any:
        """The batch with the images of its pairs exchanged, as a control in validation."""

    @abstractmethod
    def alone(self, batch: Any) -> dict[str, Tensor]:
        """As :meth:`forward`, but without the other modality."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Settings of the loss, beside the weights, as values for JSON."""

    def is_decayed(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies to a parameter."""
        return parameter.dim() >= 2


class MaskedDataModelling(Objective):
    r"""AlignRec's inter-content alignment: masked tokens and patches are predicted from both.

    With masked positions :math:`\mathcal{P}^t`, :math:`\mathcal{P}^v`, masked text and image
    :math:`\hat{\mathcal{T}}, \hat{\mathcal{V}}`, text tokens :math:`z_i^t` and visual tokens
    :math:`z_j^v` (Eq. 9 and the appendix; the paper writes the likelihood that is maximised):

    .. math::
        \mathcal{L}_{MLM} &= -\frac{1}{|\mathcal{P}^t|} \sum_{i \in \mathcal{P}^t}
            \log p(z_i^t \mid \hat{\mathcal{T}} \cup \mathcal{V}) \\
        \mathcal{L}_{MIM} &= -\frac{1}{|\mathcal{P}^v|} \sum_{j \in \mathcal{P}^v}
            \log p(z_j^v \mid \hat{\mathcal{V}} \cup \mathcal{T}) \\
        \mathcal{L}_{ICA} &= \mathcal{L}_{MIM} + \mathcal{L}_{MLM}

    The positions are those of the full batch. A step takes two passes, each with one modality
    masked and the other complete. A masked text token is replaced by ``<mask>``, a masked patch by
    the model's mask token.

    Args:
        model: The encoder to train.
        visual_tokens: Tokenizer of the unmasked images; never trained.
        mask_id: Id of ``<mask>``.
        joint_masking: Whether both modalities are masked in one pass. That is half the work, but no
            prediction then sees the complete other modality.
        seed: Seed of the initial weights of the two heads.

    Raises:
        ValueError: If tokenizer and model have different patches, or ``mask_id`` is not in the
            vocabulary.
    """

    def __init__(
        self,
        model: BEiT3Model,
        visual_tokens: VisualTokenizer,
        mask_id: int,
        *,
        joint_masking: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        config = model.config
        if visual_tokens.grid != config.grid:
            raise ValueError(
                f"'visual_tokens' needs the model's {config.grid} x {config.grid} patches "
                f"(got {visual_tokens.grid} x {visual_tokens.grid})"
            )
        check_integer("mask_id", mask_id, 0, config.vocab_size - 1)
        self.model = model
        self.mlm_head = nn.Linear(config.embed_dim, config.vocab_size)
        self.mim_head = nn.Linear(config.embed_dim, visual_tokens.vocab_size)
        self.mask_id = mask_id
        self.joint_masking = joint_masking
        # in a tuple, so that it is no submodule: it is neither trained nor saved
        self._visual_tokens = (visual_tokens,)
        generator = torch.Generator().manual_seed(seed)
        for head in (self.mlm_head, self.mim_head):
            nn.init.trunc_normal_(head.weight, std=_INIT_STD, generator=generator)
            nn.init.zeros_(head.bias)

    @property
    def visual_tokens(self) -> VisualTokenizer:
        """Tokenizer of the images."""
        return self._visual_tokens[0]

    def counts(self, batch: PairBatch) -> dict[str, int]:
        """Numbers of masked tokens and masked patches."""
        return {"mlm": int(batch.token_mask.sum()), "mim": int(batch.image_mask.sum())}

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """Sums over the masked positions: ``mlm``, ``mim`` and their ``_correct`` predictions."""
        images, masked_text = normalized_pixels(batch.images), self._masked_text(batch)
        if self.joint_masking:
            for_text = for_image = self.model(images, masked_text, batch.padding, batch.image_mask)
        else:
            for_text = self.model(images, masked_text, batch.padding)
            for_image = self.model(images, batch.tokens, batch.padding, batch.image_mask)
        first_token = 1 + batch.image_mask.size(1)  # after CLS and patches
        return self._sums(batch, for_text[:, first_token:], for_image[:, 1:first_token])

    def alone(self, batch: PairBatch) -> dict[str, Tensor]:
        """As :meth:`forward`, but without the other modality: text alone, and image alone."""
        for_text = self.model(tokens=self._masked_text(batch), padding=batch.padding)
        for_image = self.model(normalized_pixels(batch.images), image_mask=batch.image_mask)
        return self._sums(batch, for_text, for_image[:, 1:])

    def control(self, batch: PairBatch) -> PairBatch:
        """The same texts and images, with each image beside the text of the next pair."""
        return batch._replace(
            images=batch.images.roll(1, 0), image_mask=batch.image_mask.roll(1, 0)
        )

    def description(self) -> dict[str, Any]:
        """Sizes of the model, masking and visual tokens."""
        return {
            "model": asdict(self.model.config),
            "mask_id": self.mask_id,
            "joint_masking": self.joint_masking,
            "visual_tokens": self.visual_tokens.fingerprint,
        }

    def _masked_text(self, batch: PairBatch) -> Tensor:
        return torch.where(batch.token_mask, self.mask_id, batch.tokens)

    def _sums(self, batch: PairBatch, tokens: Tensor, patches: Tensor) -> dict[str, Tensor]:
        """Losses and correct predictions at the masked positions."""
        targets = self.visual_tokens(batch.images)
        sums: dict[str, Tensor] = {}
        for name, vectors, head, target, mask in (
            ("mlm", tokens, self.mlm_head, batch.tokens, batch.token_mask),
            ("mim", patches, self.mim_head, targets, batch.image_mask),
        ):
            logits = head(vectors[mask]).float()
            sums[name] = F.cross_entropy(logits, target[mask], reduction="sum")
            sums[f"{name}_correct"] = (logits.detach().argmax(dim=1) == target[mask]).sum()
        return sums

    def is_decayed(self, name: str, parameter: nn.Parameter) -> bool:
        """Matrices are decayed, but not positions, nor the CLS and mask tokens."""
        spared = "embed_positions" in name or name.endswith(("cls_token", "mask_token"))
        return super().is_decayed(name, parameter) and not spared
