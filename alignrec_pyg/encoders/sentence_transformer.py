"""Sentence transformers: texts by a pre-trained language model."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignrec_pyg.checks import check_integer, require_package
from alignrec_pyg.encoders.base import ItemContent, check_precision, in_precision, precision_key
from alignrec_pyg.encoders.cache_keys import weights_hash


class SentenceTransformerEncoder:
    """Texts as embeddings of a sentence transformer, with its pooling and normalisation.

    The text features of most multimodal recommendation papers (384-d on Amazon data) are those of
    ``all-MiniLM-L6-v2``. Items without a text get a zero row.

    Args:
        model: Folder of the model, or its name on the Hugging Face hub, to download it.
        max_tokens: Most tokens of a text, longer texts are truncated; ``None`` takes the model's
            own limit (256 for ``all-MiniLM-L6-v2``).
        device: Where the model runs.
        batch_size: Texts per forward pass.
        precision: ``"bfloat16"`` computes with 8 significant bits where
            :class:`torch.autocast` allows: in about half the time on processors that have
            instructions for it, more slowly on others.

    Raises:
        ValueError: If an argument is out of range, or ``model`` is a folder without a model.
        RuntimeError: If the model cannot be downloaded.
        ImportError: If sentence_transformers is missing or broken.
    """

    modalities = ("text",)

    def __init__(
        self,
        model: str | Path = "all-MiniLM-L6-v2",
        *,
        max_tokens: int | None = None,
        device: str | torch.device = "cpu",
        batch_size: int = 64,
        precision: str = "float32",
    ) -> None:
        check_integer("batch_size", batch_size, 1)
        self.precision = check_precision(precision)
        if max_tokens is not None:
            check_integer("max_tokens", max_tokens, 1)
        package = require_package(
            "sentence_transformers",
            "SentenceTransformerEncoder",
            "sentence-transformers",
            extra="encoders",
        )
        self.source = model
        self.batch_size = batch_size
        self.model = _load(package, model, torch.device(device))
        self._version = package.__version__
        if max_tokens is not None:
            most = _most_tokens(self.model)
            if most is not None and max_tokens > most:
                raise ValueError(
                    f"'max_tokens' needs to be in [1, {most}], the positions of the model "
                    f"(got {max_tokens})"
                )
            self.model.max_seq_length = max_tokens
        self._out_dim = self._rows([""]).size(1)

    @property
    def out_dim(self) -> int:
        """Width of a row, the model's."""
        return self._out_dim

    @property
    def cache_key(self) -> str:
        """Modules, weights, tokenizer, prompt, length limit, library version and precision."""
        prompt = self.model.prompts.get(self.model.default_prompt_name, "")
        tokenizer = blake2b(_tokenizer_state(self.model.tokenizer).encode(), digest_size=16)
        return (
            f"{self.model!r} {weights_hash(self.model.state_dict())} {tokenizer.hexdigest()} "
            f"{prompt!r} {self.model.max_seq_length}, sentence_transformers {self._version}"
            f"{precision_key(self.precision)}"
        )

    def __call__(self, items: ItemContent) -> Tensor:
        """Feature rows, float32 ``[len(items), out_dim]``, without gradient."""
        if items.text is None:
            raise ValueError("'items' needs texts (got none)")
        rows = torch.zeros(len(items), self._out_dim)
        present = items.has("text").nonzero()[:, 0]
        if present.numel():
            rows[present] = self._rows([str(items.text[row]) for row in present.tolist()])
        return rows

    def _rows(self, texts: list[str]) -> Tensor:
        with in_precision(self.precision, torch.device(self.model.device)):
            encoded: Tensor = self.model.encode(
                texts, batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False
            )
        return encoded.float().cpu()

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}('{self.source}', out_dim={self._out_dim})"


def _load(package: Any, model: str | Path, device: torch.device) -> Any:
    try:
        return package.SentenceTransformer(str(model), device=str(device))
    except (OSError, ValueError) as error:
        if Path(model).exists():
            raise ValueError(
                f"'model' needs to be the folder of a sentence transformer (got '{model}': {error})"
            ) from error
        raise RuntimeError(
            f"the model '{model}' cannot be downloaded ({error}): download it where there is a "
            "network, and give its folder as 'model'"
        ) from error


def _most_tokens(model: Any) -> int | None:
    """Number of positions of the model, if its configuration has it."""
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    return getattr(config, "max_position_embeddings", None)


def _tokenizer_state(tokenizer: Any) -> str:
    """The state of a fast tokenizer, or the vocabulary of a slow one, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        return str(backend.to_str())
    return repr(sorted(tokenizer.get_vocab().items()))
