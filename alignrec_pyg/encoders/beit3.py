"""BEiT3 as an encoder of items: one vector for image and text together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignrec_pyg.checks import check_integer
from alignrec_pyg.encoders.base import (
    ItemContent,
    check_modalities,
    check_precision,
    in_precision,
    precision_key,
)
from alignrec_pyg.encoders.beit3_checkpoint import load_official, read_beit3, write_beit3
from alignrec_pyg.encoders.beit3_model import (
    RELEASED_VOCABULARY,
    BEiT3Config,
    BEiT3Model,
    normalized_pixels,
)
from alignrec_pyg.encoders.cache_keys import weights_hash
from alignrec_pyg.encoders.images import read_image, resize_square
from alignrec_pyg.encoders.sentencepiece_tokenizer import SentencePieceTokenizer

_RELEASED_IDS = 64_002  # of beit3.spm: 64,000 pieces, <pad> and <mask>
_PREPROCESSING = "bicubic square, [-1, 1]"


class BEiT3Encoder:
    r"""Items as BEiT3's CLS vectors, AlignRec's multimodal encoder.

    .. math:: h_{enc}^i = \mathrm{MMEnc}(i_v, i_t) \quad \text{(Eq. 2)}

    Image and text go through the transformer together and attend to each other. An item with only
    one of them is encoded from it alone; an item with neither gets a zero row. Images are resized
    to the square size of the model, texts truncated to ``max_tokens``.

    Args:
        model: A model, or the sizes of one with random weights. Pre-trained ones come from
            :meth:`from_pretrained` (stage 1 of this package) and :meth:`from_official`.
        tokenizer: The tokenizer that the model was, or will be, trained with.
        modalities: Modalities to read. With one of them every item is encoded from it alone.
        max_tokens: Most tokens of a text (128 in the features that AlignRec's authors published).
        device: Where to encode.
        seed: Seed of random weights.
        precision: ``"bfloat16"`` computes with 8 significant bits where
            :class:`torch.autocast` allows: in about half the time on processors that have
            instructions for it, more slowly on others.

    Raises:
        ValueError: If an argument is out of range, or the vocabulary exceeds the model's.
        ImportError: If torchscale or sentencepiece is missing or broken.
    """

    def __init__(
        self,
        model: BEiT3Config | BEiT3Model,
        tokenizer: SentencePieceTokenizer,
        *,
        modalities: Sequence[str] = ("image", "text"),
        max_tokens: int = 128,
        device: torch.device | str = "cpu",
        seed: int = 0,
        precision: str = "float32",
    ) -> None:
        if isinstance(model, BEiT3Config):
            model = BEiT3Model(model, seed=seed)
        config = model.config
        if tokenizer.vocab_size > config.vocab_size:
            raise ValueError(
                f"'tokenizer' needs at most the {config.vocab_size} ids of the model (got "
                f"{tokenizer.vocab_size}): use the one the model was trained with, or build the "
                f"model with vocab_size={tokenizer.vocab_size}"
            )
        self.notes: tuple[str, ...] = ()
        self.modalities = check_modalities(modalities)
        self.precision = check_precision(precision)
        self.max_tokens = check_integer("max_tokens", max_tokens, 3, config.longest_text)
        self.tokenizer = tokenizer
        self.model = model.to(device).eval()

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        modalities: Sequence[str] = ("image", "text"),
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> BEiT3Encoder:
        """Loads an encoder that :meth:`save_pretrained` or stage 1 has saved.

        Raises:
            CheckpointError: If files are missing or damaged, or hold something else.
        """
        model, tokenizer, max_tokens = read_beit3(Path(folder))
        return cls(
            model,
            tokenizer,
            modalities=modalities,
            max_tokens=max_tokens,
            device=device,
            precision=precision,
        )

    @classmethod
    def from_official(
        cls,
        path: str | Path,
        tokenizer: SentencePieceTokenizer,
        config: BEiT3Config | None = None,
        *,
        modalities: Sequence[str] = ("image", "text"),
        max_tokens: int = 128,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> BEiT3Encoder:
        """Loads weights released by BEiT3's authors from a local file.

        The released pre-trained, captioning and retrieval files can be loaded; that of NLVR2 has
        another head, and those of VQA and ImageNet lack the last norm. The rows are the CLS vectors
        as they are, also of retrieval weights, whose official vectors are ``normalize(head(CLS))``.
        What was not loaded as it is stored (positions of another size, heads) is in the attribute
        ``notes``, and in the report of :class:`~alignrec_pyg.transforms.EncodeItems`.

        Args:
            path: Such as ``beit3_base_patch16_224.pth``.
            tokenizer: ``SentencePieceTokenizer("beit3.spm")``, the file released beside it.
            config: Sizes of the released model (default: base).
            modalities: As above.
            max_tokens: As above.
            device: As above.
            precision: As above.

        Raises:
            CheckpointError: If the file is missing, damaged or does not fit the model.
            ValueError: If a model of the released vocabulary gets another tokenizer.
        """
        config = config or BEiT3Config.base()
        if config.vocab_size == RELEASED_VOCABULARY and tokenizer.vocab_size != _RELEASED_IDS:
            raise ValueError(
                f"'tokenizer' needs the {_RELEASED_IDS:,} ids of beit3.spm, the file released "
                f"beside the weights (got {tokenizer.vocab_size:,}): with another one, or a part "
                "of the file, every word would mean another; stage 1 trains the weights for a "
                "tokenizer of your own"
            )
        found = load_official(Path(path), config)
        encoder = cls(
            found.model,
            tokenizer,
            modalities=modalities,
            max_tokens=max_tokens,
            device=device,
            precision=precision,
        )
        encoder.notes = tuple(found.notes)
        return encoder

    def save_pretrained(self, folder: str | Path, notes: dict[str, Any] | None = None) -> None:
        """Saves weights, tokenizer and ``beit3.json``, which names and describes them.

        Args:
            folder: Folder to write to; a model that is there is replaced in the last step.
            notes: Where the weights come from, as values for JSON.
        """
        write_beit3(Path(folder), self.model, self.tokenizer, self.max_tokens, notes or {})

    @property
    def out_dim(self) -> int:
        """Width of a feature row."""
        return self.model.config.embed_dim

    @property
    def cache_key(self) -> str:
        """Sizes, weights, tokenizer, preprocessing and precision."""
        sizes = json.dumps(asdict(self.model.config))
        return (
            f"beit3 {sizes}, weights {weights_hash(self.model.state_dict())}, tokenizer "
            f"{self.tokenizer.fingerprint}, {'+'.join(sorted(self.modalities))}, "
            f"{self.max_tokens} tokens, {_PREPROCESSING}{precision_key(self.precision)}"
        )

    @torch.no_grad()
    def __call__(self, items: ItemContent) -> Tensor:
        """Feature rows, float32 ``[len(items), out_dim]``; zero without image and text.

        Raises:
            ImageError: If an image is a file that cannot be read.
        """
        rows = torch.zeros(len(items), self.out_dim)
        nothing = torch.zeros(len(items), dtype=torch.bool)
        image = items.has("image") if "image" in self.modalities else nothing
        text = items.has("text") if "text" in self.modalities else nothing
        for wanted in ((True, True), (True, False), (False, True)):
            chosen = ((image == wanted[0]) & (text == wanted[1])).nonzero()[:, 0]
            if chosen.numel():
                rows[chosen] = self._encode(items.select(chosen.tolist()), *wanted)
        return rows

    def _encode(self, items: ItemContent, image: bool, text: bool) -> Tensor:
        """Rows of items that all have the same modalities."""
        device = self.model.device
        inputs: dict[str, Tensor] = {}
        if image:
            size = self.model.config.image_size
            present = [e for e in (items.image if items.image is not None else ()) if e is not None]
            pixels = torch.stack([resize_square(read_image(entry), size) for entry in present])
            inputs["images"] = normalized_pixels(pixels.to(device))
        if text:
            batch = self.tokenizer([text or "" for text in items.text or ()], self.max_tokens)
            inputs |= {"tokens": batch.ids.to(device), "padding": batch.padding.to(device)}
        with in_precision(self.precision, device):
            encoded = self.model(**inputs)
        return encoded[:, 0].float().cpu()

    def __repr__(self) -> str:
        config = self.model.config
        return (
            f"{self.__class__.__name__}(num_layers={config.num_layers}, out_dim={self.out_dim}, "
            f"modalities={self.modalities})"
        )
