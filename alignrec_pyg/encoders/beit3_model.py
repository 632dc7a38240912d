"""BEiT3's multiway transformer: sizes, construction and the forward pass."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, fields
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from alignrec_pyg.checks import check_integer, require_package

_INIT_STD = 0.02
RELEASED_VOCABULARY = 64_010
"""Rows of the text embedding of released weights."""

_ONE_AT_A_TIME = Lock()  # torchscale writes where the texts begin onto the layers
_UNUSED_POSITIONS = 2  # first rows of both position tables, as in fairseq
_RESCALED = ("fc1", "fc2", "out_proj", "v_proj")  # by Magneto's initialisation
_TORCHSCALE = "torchscale==0.3.0"


@dataclass(frozen=True, kw_only=True)
class BEiT3Config:
    """Sizes of a BEiT3 encoder; the defaults are those of base.

    Args:
        embed_dim: Width of the tokens and of the item vector.
        num_heads: Attention heads; ``embed_dim`` is a multiple.
        ffn_dim: Width inside the feed-forward networks.
        num_layers: Depth (paper: 12; 16 and 20 in Table 10).
        image_size: Height and width of images in pixels.
        patch_size: Side of a patch; ``image_size`` is a multiple.
        vocab_size: Rows of the text embedding; 64,010 for the released vocabulary.
        max_positions: Rows of the text's position table, two more than the longest text.

    Raises:
        ValueError: If a value is out of range.
    """

    embed_dim: int = 768
    num_heads: int = 12
    ffn_dim: int = 3072
    num_layers: int = 12
    image_size: int = 224
    patch_size: int = 16
    vocab_size: int = RELEASED_VOCABULARY
    max_positions: int = 1024

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_integer(name, value, _UNUSED_POSITIONS + 3 if name == "max_positions" else 1)
        for name, of in (("embed_dim", "num_heads"), ("image_size", "patch_size")):
            if getattr(self, name) % getattr(self, of):
                raise ValueError(
                    f"'{name}' needs to be a multiple of {of}={getattr(self, of)} "
                    f"(got {getattr(self, name)})"
                )

    @classmethod
    def base(cls, **changes: int) -> BEiT3Config:
        """The paper's encoder; ``base(num_layers=16)`` is one of Table 10."""
        return cls(**changes)

    @classmethod
    def large(cls, **changes: int) -> BEiT3Config:
        """BEiT3-large: 24 layers of width 1024."""
        sizes = {"embed_dim": 1024, "num_heads": 16, "ffn_dim": 4096, "num_layers": 24}
        return cls(**sizes | changes)

    @classmethod
    def tiny(cls, **changes: int) -> BEiT3Config:
        """For tests and trials on a laptop: 2 layers of width 64, images of 32 pixels."""
        sizes = {"embed_dim": 64, "num_heads": 4, "ffn_dim": 256, "num_layers": 2}
        images = {"image_size": 32, "patch_size": 8}
        return cls(**sizes | images | changes)

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return self.grid**2

    @property
    def longest_text(self) -> int:
        """Most tokens of a text."""
        return self.max_positions - _UNUSED_POSITIONS


class BEiT3Model(nn.Module):
    r"""BEiT3 as torchscale builds it.

    From `"Image as a Foreign Language: BEiT Pretraining for All Vision and Vision-Language Tasks"
    <https://arxiv.org/abs/2208.10442>`_ (CVPR 2023).

    Every layer normalises, attends over all tokens of the item and applies a feed-forward network.
    Norms, projections and feed-forward networks exist twice, for image and for text tokens; the
    attention is joint, which is how one modality sees the other. Initial weights: truncated normal
    of deviation 0.02, and Magneto's factor :math:`\sqrt{\log 2L}` on ``v_proj``, ``out_proj``,
    ``fc1`` and ``fc2`` (torchscale's own leave the CLS and mask tokens at zero).

    A forward pass stores on the layers where the text begins: use a model in one thread only.

    Args:
        config: Sizes.
        seed: Seed of the initial weights; ``None`` leaves the parameters on the meta device, to be
            filled with ``load_state_dict(..., assign=True)``.
        checkpoint_activations: Whether to compute activations again in the backward pass instead
            of keeping them: less memory, more time, the same values.

    Shapes:
        - **input:** images :math:`(B, 3, H, H)` float in [-1, 1], tokens int64
          :math:`(B, T)`, padding bool :math:`(B, T)`, image_mask bool :math:`(B, P)`
        - **output:** float :math:`(B, S, d)`: CLS and :math:`P` patches, then :math:`T` tokens; of
          a missing modality nothing. Row 0 is the item vector: the image's CLS, or the text's
          first token where there is no image.

    Raises:
        ImportError: If torchscale is missing or broken.
    """

    beit3: Any  # torchscale is untyped

    def __init__(
        self, config: BEiT3Config, *, seed: int | None = 0, checkpoint_activations: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        if seed is None:
            with torch.device("meta"):
                self.beit3 = _build(config, checkpoint_activations)
            return
        with torch.random.fork_rng(devices=[]):  # torchscale draws from the global generator
            self.beit3 = _build(config, checkpoint_activations)
        self._draw_weights(seed)

    def _draw_weights(self, seed: int) -> None:
        """Overwrites torchscale's initial weights, but for the norms, which start at 1 and 0."""
        generator = torch.Generator().manual_seed(seed)
        for module in self.beit3.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=_INIT_STD, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=_INIT_STD, generator=generator)
        for token in (self.beit3.vision_embed.cls_token, self.beit3.vision_embed.mask_token):
            nn.init.trunc_normal_(token, std=_INIT_STD, generator=generator)
        factor = math.sqrt(math.log(2 * self.config.num_layers))
        with torch.no_grad():
            for name, parameter in self.beit3.named_parameters():
                if any(part in name.split(".") for part in _RESCALED):
                    parameter.mul_(factor)

    def forward(
        self,
        images: Tensor | None = None,
        tokens: Tensor | None = None,
        padding: Tensor | None = None,
        image_mask: Tensor | None = None,
    ) -> Tensor:
        """Vectors of all tokens; patches at ``image_mask`` are replaced by the mask token."""
        with _ONE_AT_A_TIME:
            encoded = self.beit3(
                textual_tokens=tokens,
                visual_tokens=images,
                text_padding_position=padding,
                vision_masked_position=image_mask,
            )
        return encoded["encoder_out"]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.beit3.text_embed.weight.device

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return ", ".join(f"{f.name}={getattr(self.config, f.name)}" for f in fields(self.config))


def normalized_pixels(images: Tensor) -> Tensor:
    """uint8 pixels to [-1, 1], as BEiT3 was trained on, float32 of the same shape."""
    return images.float() / 127.5 - 1


def _build(config: BEiT3Config, checkpoint_activations: bool) -> nn.Module:
    """The module of torchscale."""
    encoder_config, beit3 = _torchscale()
    arguments: dict[str, Any] = {
        "encoder_embed_dim": config.embed_dim,
        "encoder_attention_heads": config.num_heads,
        "encoder_ffn_embed_dim": config.ffn_dim,
        "encoder_layers": config.num_layers,
        "encoder_normalize_before": True,
        "normalize_output": True,
        "subln": True,
        "activation_fn": "gelu",
        "layernorm_eps": 1e-5,
        "no_scale_embedding": True,
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "in_chans": 3,
        "max_source_positions": config.max_positions,
        "vocab_size": config.vocab_size,
        "multiway": True,
        "no_output_layer": True,  # else the output would be logits
        "share_encoder_input_output_embed": False,
        "checkpoint_activations": checkpoint_activations,
    }
    settings = encoder_config(**arguments)
    ignored = {name for name, value in arguments.items() if getattr(settings, name, None) != value}
    if ignored:  # torchscale silently drops settings that it does not know
        raise ImportError(
            f"torchscale ignores the settings {sorted(ignored)}: install {_TORCHSCALE}, which this "
            "package is written for"
        )
    return beit3(settings)


def _torchscale() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        # torchscale imports timm by a name that moved
        warnings.filterwarnings("ignore", "Importing from timm", FutureWarning)
        config, beit3 = (
            require_package(module, "BEiT3Model", "torchscale==0.3.0", extra="encoders")
            for module in ("torchscale.architecture.config", "torchscale.model.BEiT3")
        )
    return config.EncoderConfig, beit3.BEiT3
