"""CLIP and its relatives, through open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignrec_pyg.checks import check_integer, require_package
from alignrec_pyg.encoders.base import (
    ItemContent,
    check_modalities,
    check_precision,
    in_precision,
    precision_key,
)
from alignrec_pyg.encoders.cache_keys import weights_hash
from alignrec_pyg.encoders.images import ImageSource, read_image, to_pillow
from alignrec_pyg.encoders.weights import reading_failure

_SETTINGS = ("mean", "std", "interpolation", "resize_mode")


class CLIPEncoder:
    r"""Image and text of an item by CLIP, side by side.

    With the model's image and text features :math:`v_i` and :math:`t_i`,

    .. math:: x_i = \left[\frac{v_i}{\|v_i\|} \;\middle\|\; \frac{t_i}{\|t_i\|}\right]

    as the AlignRec paper's CLIP rows ("fused via concatenation"). An item without image or text has
    zeros in that half. The paper's features are those of a model fine-tuned on the catalogue:
    :func:`~alignrec_pyg.pretraining.finetune_clip`.

    Texts are truncated to the model's context length, images go through the model's own
    preprocessing for evaluation.

    Args:
        model_name: Architecture, one of ``open_clip.list_models()`` (the paper names none).
        pretrained: File of its weights (.pt, .bin, .safetensors; pickles with code are refused), or
            one of open_clip's tags, which is downloaded; ``None`` gives random weights.
        modalities: Parts to encode, in this order; ``("image",)`` or ``("text",)`` alone give a
            table of one modality.
        preprocess_as: Tag of the published weights whose preprocessing goes with the weights of a
            file; required if the published weights of the architecture differ in it. (Weights of
            OpenAI belong to the architectures named ``...-quickgelu``. Their own files, such as
            ``ViT-B-32.pt``, are TorchScript archives with code in them, and refused; the tag
            ``"openai"``, or the state dict of a model loaded from it, has the same weights.)
        device: Where the model runs.
        batch_size: Items per forward pass.
        precision: ``"bfloat16"`` computes with 8 significant bits where
            :class:`torch.autocast` allows: in about half the time on processors that have
            instructions for it, more slowly on others.

    Raises:
        ValueError: If an argument is out of range, or file and architecture do not fit.
        RuntimeError: If the weights of a tag cannot be downloaded.
        ImportError: If open_clip is missing or broken.
    """

    def __init__(
        self,
        model_name: str = "ViT-B-32",
        pretrained: str | Path | None = None,
        *,
        modalities: tuple[str, ...] = ("image", "text"),
        preprocess_as: str | None = None,
        device: str | torch.device = "cpu",
        batch_size: int = 64,
        precision: str = "float32",
    ) -> None:
        self.modalities = check_modalities(modalities)
        self.precision = check_precision(precision)
        check_integer("batch_size", batch_size, 1)
        open_clip = require_package("open_clip", "CLIPEncoder", "open-clip-torch", extra="encoders")
        self.model_name = model_name
        self.pretrained = pretrained
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.model: Any
        self.model, self._preprocess = _load(open_clip, model_name, pretrained, preprocess_as)
        self.model.to(self.device).eval()
        try:
            self._tokenizer = open_clip.get_tokenizer(model_name)
        except (OSError, RuntimeError) as error:  # some are fetched
            raise _not_fetched(model_name, error) from error
        self._settings = open_clip.get_model_preprocess_cfg(self.model)
        self._version = open_clip.__version__
        self._half = self.encode_texts([""]).size(1)

    @property
    def out_dim(self) -> int:
        """Width of a row, the model's for each modality."""
        return self._half * len(self.modalities)

    @property
    def cache_key(self) -> str:
        """Architecture, hash of the weights, preprocessing, open_clip's version and precision."""
        settings = sorted(self._settings.items())
        return (
            f"clip {self.model_name} {self.modalities} {weights_hash(self.model.state_dict())} "
            f"{settings}, open_clip {self._version}{precision_key(self.precision)}"
        )

    def __call__(self, items: ItemContent) -> Tensor:
        """Feature rows, float32 ``[len(items), out_dim]``, without gradient."""
        return torch.cat([self._part(items, part) for part in self.modalities], dim=1)

    def pixels(self, images: Sequence[ImageSource]) -> Tensor:
        """Preprocessed images, float32 ``[len(images), 3, H, W]``."""
        return torch.stack([self._preprocess(to_pillow(read_image(image))) for image in images])

    def tokens(self, texts: Sequence[str]) -> Tensor:
        """Tokens of texts, int64 ``[len(texts), context_length]``."""
        return self._tokenizer(list(texts))

    @torch.no_grad()
    def encode_images(self, images: Sequence[ImageSource]) -> Tensor:
        """Rows of length 1, float32 ``[len(images), width]``."""
        pixels = self.pixels(images).to(self.device)
        with in_precision(self.precision, self.device):
            encoded = self.model.encode_image(pixels)
        return nn.functional.normalize(encoded.float(), dim=-1).cpu()

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Rows of length 1, float32 ``[len(texts), width]``."""
        tokens = self.tokens(texts).to(self.device)
        with in_precision(self.precision, self.device):
            encoded = self.model.encode_text(tokens)
        return nn.functional.normalize(encoded.float(), dim=-1).cpu()

    def _part(self, items: ItemContent, part: str) -> Tensor:
        rows = torch.zeros(len(items), self._half)
        content: Any = items.image if part == "image" else items.text
        encode = self.encode_images if part == "image" else self.encode_texts
        for batch in items.has(part).nonzero()[:, 0].split(self.batch_size):
            if batch.numel():
                rows[batch] = encode([content[row] for row in batch.tolist()])
        return rows

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}('{self.model_name}', {self.pretrained!r}, "
            f"modalities={self.modalities})"
        )


def _load(
    open_clip: Any, model_name: str, pretrained: str | Path | None, preprocess_as: str | None
) -> tuple[nn.Module, Any]:
    """The model and its preprocessing for evaluation."""
    source = None if pretrained is None else str(pretrained)
    is_file = source is not None and Path(source).is_file()
    settings: dict[str, Any] = {}
    if ":" not in model_name:  # with such a prefix a folder or repository describes the model
        if model_name not in open_clip.list_models():
            close = get_close_matches(model_name, open_clip.list_models(), n=5, cutoff=0.4)
            raise ValueError(
                f"'model_name' needs to be one of open_clip.list_models(), like {close} "
                f"(got {model_name!r})"
            )
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        if source is not None and not is_file and source not in tags:
            raise ValueError(
                f"'pretrained' needs to be a file or one of the tags {tags} (got {source!r})"
            )
        if is_file:
            settings = _published_preprocessing(open_clip, model_name, preprocess_as)
    try:
        model, _, preprocess = open_clip.create_model_and_transforms(
            model_name, pretrained=source, **settings
        )
    except Exception as error:  # the reader of a file raises whatever it meets in it
        if is_file:
            raise ValueError(
                f"'pretrained' needs to be a file of weights of {model_name} (got {source!r}: "
                f"{reading_failure(error)})"
            ) from error
        raise _not_fetched(model_name, error) from error
    return model, preprocess


def _published_preprocessing(
    open_clip: Any, model_name: str, preprocess_as: str | None
) -> dict[str, Any]:
    """Preprocessing of the published weights of an architecture; a file does not contain it."""
    ways = {
        tag: {key: value for key, value in config.items() if key in _SETTINGS}
        for tag in open_clip.list_pretrained_tags_by_model(model_name)
        if (config := open_clip.get_pretrained_cfg(model_name, tag))
    }
    if preprocess_as is not None and preprocess_as not in ways:
        raise ValueError(
            f"'preprocess_as' needs to be one of the tags {[*ways]} of {model_name} "
            f"(got {preprocess_as!r})"
        )
    if preprocess_as is None and any(way != next(iter(ways.values())) for way in ways.values()):
        raise ValueError(
            f"'preprocess_as' needs to name the published weights of {model_name} that the file "
            f"stems from, as their preprocessing differs: one of {[*ways]}"
        )
    way = next(iter(ways.values()), {}) if preprocess_as is None else ways[preprocess_as]
    return {f"image_{key}": value for key, value in way.items()}


def _not_fetched(model_name: str, error: Exception) -> RuntimeError:
    return RuntimeError(
        f"the files of {model_name} cannot be downloaded ({error}): download them where there is "
        "a network, and give the file of the weights as 'pretrained'"
    )
