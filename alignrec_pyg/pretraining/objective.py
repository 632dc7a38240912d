"""What stage 1 minimises: masked image and masked language modelling of pairs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignrec_pyg.encoders.beit3_model import BEiT3Model, normalized_pixels
from alignrec_pyg.pretraining.pairs import PairBatch
from alignrec_pyg.pretraining.visual_tokens import VisualTokenizer

_INIT_STD = 0.02


class Objective(nn.Module, ABC):
    """A loss that is a sum of means, each over a count of its own.

    A large batch can so be worked on in parts: their sums are divided by the counts of the whole.
    """

    @abstractmethod
    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Sums of the terms over a batch, by name.

        Beside a term "x" there may be "x_correct", the number of its predictions that are right.
        """

    @abstractmethod
    def counts(self, batch: Any) -> dict[str, int]:
        """How many summands each term has; the keys are the terms."""

    @abstractmethod
    def control(self, batch: Any) -> Any:
        """The batch with partners exchanged, which shows in validation what they contribute."""

    @abstractmethod
    def alone(self, batch: Any) -> dict[str, Tensor]:
        """What calling it gives, each modality told from what is left of itself alone."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What makes up the loss, beside the weights; anything JSON can hold."""

    def is_decayed(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay applies to a parameter."""
        return parameter.dim() >= 2


class MaskedDataModelling(Objective):
    r"""AlignRec's inter-content alignment: what one modality hides is told from both.

    With hidden places :math:`\mathcal{P}^t`, :math:`\mathcal{P}^v`, corrupted text and image
    :math:`\hat{\mathcal{T}}, \hat{\mathcal{V}}`, text tokens :math:`z_i^t` and visual tokens
    :math:`z_j^v` (Eq. 9 and the appendix; the paper writes the likelihood that is maximised):

    .. math::
        \mathcal{L}_{MLM} &= -\frac{1}{|\mathcal{P}^t|} \sum_{i \in \mathcal{P}^t}
            \log p(z_i^t \mid \hat{\mathcal{T}} \cup \mathcal{V}) \\
        \mathcal{L}_{MIM} &= -\frac{1}{|\mathcal{P}^v|} \sum_{j \in \mathcal{P}^v}
            \log p(z_j^v \mid \hat{\mathcal{V}} \cup \mathcal{T}) \\
        \mathcal{L}_{ICA} &= \mathcal{L}_{MIM} + \mathcal{L}_{MLM}

    Places are those of the whole batch. A step is two passes, since the other modality is whole in
    each. A hidden text token becomes ``<mask>``, a hidden patch the model's mask token.

    Args:
        model: The encoder to train.
        visual_tokens: Gives the visual tokens of whole images; never trained.
        mask_id: Id of ``<mask>``.
        joint_masking: Whether both are hidden in one and the same pass: half the work, but neither
            is then told from the whole of the other.
        seed: Seed of the two heads.

    Raises:
        ValueError: If the patches of tokenizer and model differ, or the vocabulary lacks the mask.
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
        if not 0 <= mask_id < config.vocab_size:
            raise ValueError(f"'mask_id' needs to be in [0, {config.vocab_size}) (got {mask_id})")
        self.model = model
        self.mlm_head = nn.Linear(config.embed_dim, config.vocab_size)
        self.mim_head = nn.Linear(config.embed_dim, visual_tokens.vocab_size)
        self.mask_id = mask_id
        self.joint_masking = joint_masking
        self._visual_tokens = (visual_tokens,)  # a tuple: not a part, neither trained nor saved
        generator = torch.Generator().manual_seed(seed)
        for head in (self.mlm_head, self.mim_head):
            nn.init.trunc_normal_(head.weight, std=_INIT_STD, generator=generator)
            nn.init.zeros_(head.bias)

    @property
    def visual_tokens(self) -> VisualTokenizer:
        """What gives the visual tokens."""
        return self._visual_tokens[0]

    def counts(self, batch: PairBatch) -> dict[str, int]:
        """Hidden tokens and hidden patches."""
        return {"mlm": int(batch.token_mask.sum()), "mim": int(batch.image_mask.sum())}

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """Sums over the hidden places: ``mlm``, ``mim`` and their ``_correct`` predictions."""
        images, hidden_text = normalized_pixels(batch.images), self._hidden_text(batch)
        if self.joint_masking:
            about_text = about_image = self.model(
                images, hidden_text, batch.padding, batch.image_mask
            )
        else:
            about_text = self.model(images, hidden_text, batch.padding)
            about_image = self.model(images, batch.tokens, batch.padding, batch.image_mask)
        first_token = 1 + batch.image_mask.size(1)  # behind CLS and patches
        return self._sums(batch, about_text[:, first_token:], about_image[:, 1:first_token])

    def alone(self, batch: PairBatch) -> dict[str, Tensor]:
        """As :meth:`forward`, hidden text told without the image, hidden patches without text."""
        about_text = self.model(tokens=self._hidden_text(batch), padding=batch.padding)
        images = normalized_pixels(batch.images)
        about_image = self.model(images, image_mask=batch.image_mask)
        return self._sums(batch, about_text, about_image[:, 1:])

    def control(self, batch: PairBatch) -> PairBatch:
        """The same texts and images, each image beside the text of the next pair."""
        return batch._replace(
            images=batch.images.roll(1, 0), image_mask=batch.image_mask.roll(1, 0)
        )

    def description(self) -> dict[str, Any]:
        """Sizes, what hides, and the visual tokens."""
        return {
            "model": asdict(self.model.config),
            "mask_id": self.mask_id,
            "joint_masking": self.joint_masking,
            "visual_tokens": self.visual_tokens.fingerprint,
        }

    def _hidden_text(self, batch: PairBatch) -> Tensor:
        return torch.where(batch.token_mask, self.mask_id, batch.tokens)

    def _sums(self, batch: PairBatch, tokens: Tensor, patches: Tensor) -> dict[str, Tensor]:
        """Losses and hits of the hidden places from the vectors of all tokens and patches."""
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
        """Matrices, but neither positions nor CLS and mask token."""
        spared = "embed_positions" in name or name.endswith(("cls_token", "mask_token"))
        return super().is_decayed(name, parameter) and not spared
