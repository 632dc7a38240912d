"""Tokenizer of texts: a sentencepiece model with XLM-RoBERTa's ids."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from alignrec_pyg.atomic import atomic_path
from alignrec_pyg.checks import check_integer, require_package

_UNK, _BOS, _EOS = 0, 1, 2  # ids of these pieces inside the sentencepiece model
_THREADS = 4  # fixed, as the trained model depends on it
_TEXTS_TO_TRAIN = 200_000
_CHARACTERS_TO_TRAIN = 2_000  # of a text; about 500 tokens
_LONGEST_SENTENCE = 4 * _CHARACTERS_TO_TRAIN + 1  # in bytes: longer ones would be left out


class TokenBatch(NamedTuple):
    """Token ids of some texts, padded to the longest of them.

    Shapes:
        - ids: int64 :math:`(B, T)`
        - padding: bool :math:`(B, T)`, true after the end of a text
    """

    ids: Tensor
    padding: Tensor


class SentencePieceTokenizer:
    r"""A sentencepiece model with the ids that BEiT3 and XLM-RoBERTa use.

    ``<s>`` = 0, ``<pad>`` = 1, ``</s>`` = 2, ``<unk>`` = 3, every other piece = its number in the
    model + 1, ``<mask>`` = number of pieces + 1. A text is ``<s>``, its pieces, ``</s>``.

    Args:
        model: A sentencepiece model file, or its bytes; ``beit3.spm`` for released BEiT3 weights.
            :meth:`train` makes one from texts.

    Raises:
        ValueError: If it is not a sentencepiece model, or its first pieces are not ``<unk>``,
            ``<s>`` and ``</s>``.
        ImportError: If sentencepiece is missing.
    """

    bos_id = 0
    pad_id = 1
    eos_id = 2
    unk_id = 3

    def __init__(self, model: str | Path | bytes) -> None:
        source = "the bytes given" if isinstance(model, bytes) else str(model)
        if not isinstance(model, bytes):
            if not Path(model).is_file():
                raise ValueError(f"'model' needs to be a sentencepiece model file (got {source})")
            model = Path(model).read_bytes()
        self.model = model
        try:
            self._processor = _package().SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise ValueError(
                f"'model' needs to be a sentencepiece model (got {source}, which is not one)"
            ) from error
        ids = (self._processor.unk_id(), self._processor.bos_id(), self._processor.eos_id())
        if ids != (_UNK, _BOS, _EOS):
            raise ValueError(
                "'model' needs <unk>, <s> and </s> as its pieces 0, 1 and 2 (got "
                f"{', '.join(map(str, ids))}): train it with sentencepiece's own defaults"
            )

    @classmethod
    def train(cls, texts: Sequence[str], vocab_size: int = 8_000) -> SentencePieceTokenizer:
        """Trains a unigram model on texts; the same texts give the same model.

        It is trained on the first 2,000 characters of a text, and on every n-th text if there are
        more than 200,000.

        Args:
            texts: The catalogue's texts; blank ones are left out.
            vocab_size: Most pieces; a small catalogue gives fewer.

        Raises:
            ValueError: If all texts are blank, or ``vocab_size`` is too small for the characters.
            ImportError: If sentencepiece is missing.
        """
        check_integer("vocab_size", vocab_size, 4)
        present = [text for text in texts if text and text.strip()]
        chosen = present[:: -(-len(present) // _TEXTS_TO_TRAIN) or 1]
        if not chosen:
            raise ValueError(f"'texts' needs a text that is not blank (got {len(texts)} texts)")
        written = io.BytesIO()
        try:
            _package().SentencePieceTrainer.train(
                sentence_iterator=(_encodable(text[:_CHARACTERS_TO_TRAIN]) for text in chosen),
                model_writer=written,
                model_type="unigram",
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                max_sentence_length=_LONGEST_SENTENCE,
                num_threads=_THREADS,
                minloglevel=2,  # errors only
            )
        except RuntimeError as error:
            raise ValueError(
                f"no sentencepiece model could be trained on {len(chosen)} 'texts' with "
                f"vocab_size={vocab_size} ({error})"
            ) from error
        return cls(written.getvalue())

    @property
    def mask_id(self) -> int:
        """Id of ``<mask>``, the last one."""
        return self._processor.get_piece_size() + 1

    @property
    def vocab_size(self) -> int:
        """Number of ids, the rows of an embedding."""
        return self.mask_id + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the model."""
        return hashlib.sha256(self.model).hexdigest()

    def __call__(self, texts: Sequence[str], max_tokens: int = 128) -> TokenBatch:
        """Tokenizes texts; a long text is truncated to ``max_tokens - 2`` pieces.

        Args:
            texts: Any strings; an empty one is ``<s> </s>``.
            max_tokens: Most ids of a text, ``<s>`` and ``</s>`` included.

        Raises:
            ValueError: If ``max_tokens`` is below 3.
        """
        check_integer("max_tokens", max_tokens, 3, hint=": <s>, a piece and </s>")
        rows = [
            [self.bos_id, *(_offset(piece) for piece in pieces[: max_tokens - 2]), self.eos_id]
            for pieces in self._processor.encode([_encodable(text) for text in texts])
        ]
        length = max((len(row) for row in rows), default=2)
        ids = torch.full((len(rows), length), self.pad_id)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        return TokenBatch(ids, ids == self.pad_id)

    def save(self, path: str | Path) -> None:
        """Writes the model, for this class or for sentencepiece itself."""
        with atomic_path(Path(path)) as file:
            file.write_bytes(self.model)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(vocab_size={self.vocab_size})"


def _offset(piece: int) -> int:
    return SentencePieceTokenizer.unk_id if piece == _UNK else piece + 1


def _encodable(text: str) -> str:
    """The text without lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _package() -> ModuleType:
    return require_package(
        "sentencepiece", "SentencePieceTokenizer", "sentencepiece", extra="encoders"
    )
