from __future__ import annotations

import hashlib
import io

import pytest
import torch

from alignrec_pyg.encoders.sentencepiece_tokenizer import SentencePieceTokenizer

sentencepiece = pytest.importorskip("sentencepiece")

WORDS = ["red", "blue", "cotton", "shirt", "running", "shoe", "lamp", "baby", "bottle", "chair"]
TEXTS = [f"{a} {b} {a}{b}" for a in WORDS for b in WORDS]


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(TEXTS, vocab_size=100)


def test_ids_are_xlm_robertas(tokenizer):
    """<s> 0, <pad> 1, </s> 2, <unk> 3, other pieces one up, <mask> behind them all."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    text = "red shirt ж"
    pieces = processor.encode(text)
    assert 0 in pieces  # an unknown character
    expected = [0, *(3 if piece == 0 else piece + 1 for piece in pieces), 2]
    assert tokenizer([text]).ids[0].tolist() == expected
    assert tokenizer.mask_id == processor.get_piece_size() + 1
    assert tokenizer.vocab_size == tokenizer.mask_id + 1
    every = [processor.id_to_piece(piece) for piece in range(processor.get_piece_size())]
    assert tokenizer(every).ids.max() < tokenizer.mask_id


def test_padding_and_truncation(tokenizer):
    batch = tokenizer(["red", "red blue cotton shirt running shoe", ""], max_tokens=5)
    assert batch.ids.shape == (3, 5)
    assert batch.ids[:, 0].tolist() == [0, 0, 0]
    assert batch.ids[1, -1] == 2
    assert batch.ids[2].tolist() == [0, 2, 1, 1, 1]
    assert torch.equal(batch.padding, batch.ids == 1)
    long = tokenizer(["red blue cotton shirt running shoe"], max_tokens=100).ids
    assert torch.equal(batch.ids[1, :4], long[0, :4])
    assert tokenizer(["red"], max_tokens=100).ids.size(1) < 10  # padded to the longest only
    assert tokenizer([]).ids.shape == (0, 2)


def test_control_pieces_cannot_be_written_in_a_text(tokenizer):
    ids = tokenizer(["<s> </s> <pad> <mask> red"]).ids[0, 1:-1]
    assert not torch.isin(ids, torch.tensor([0, 1, 2, tokenizer.mask_id])).any()


@pytest.mark.parametrize("text", ["\ud800 red", "\x00", "\n\n", "🍐" * 50, "a" * 100_000])
def test_any_string_has_ids(tokenizer, text):
    ids = tokenizer([text], max_tokens=16).ids
    assert ids[0, 0] == 0
    assert ids[0, -1] == 2
    assert ids.size(1) <= 16


def test_training_gives_the_same_bytes_again(tokenizer, tmp_path):
    again = SentencePieceTokenizer.train(TEXTS, vocab_size=100)
    assert again.model == tokenizer.model
    assert again.fingerprint == hashlib.sha256(tokenizer.model).hexdigest()
    assert SentencePieceTokenizer.train(TEXTS[:50], 100).fingerprint != tokenizer.fingerprint
    tokenizer.save(tmp_path / "tokenizer.spm")
    loaded = SentencePieceTokenizer(tmp_path / "tokenizer.spm")
    assert torch.equal(loaded(TEXTS).ids, tokenizer(TEXTS).ids)


def test_training_takes_blank_long_and_odd_texts(tokenizer):
    odd = ["", "  ", None, "\ud800", "red " * 100_000]
    trained = SentencePieceTokenizer.train([*TEXTS, *odd], vocab_size=100)
    assert trained(["red"]).ids.size(1) == tokenizer(["red"]).ids.size(1)


def test_training_on_many_texts_takes_every_nth(monkeypatch):
    monkeypatch.setattr("alignrec_pyg.encoders.sentencepiece_tokenizer._TEXTS_TO_TRAIN", 50)
    assert (
        SentencePieceTokenizer.train(TEXTS, 100).model
        == SentencePieceTokenizer.train(TEXTS[::2], 100).model
    )


@pytest.mark.parametrize("texts", [[], ["", " ", None]])
def test_training_needs_words(texts):
    with pytest.raises(ValueError, match="'texts' needs a text"):
        SentencePieceTokenizer.train(texts)


@pytest.mark.parametrize("vocab_size", [3, True, 10.0])
def test_training_needs_a_vocabulary(vocab_size):
    with pytest.raises(ValueError, match="'vocab_size' needs to be"):
        SentencePieceTokenizer.train(TEXTS, vocab_size)


def test_vocabulary_smaller_than_the_alphabet():
    with pytest.raises(ValueError, match="with vocab_size=5"):
        SentencePieceTokenizer.train(TEXTS, vocab_size=5)


def test_rejects_what_is_no_such_model(tmp_path):
    (tmp_path / "no.spm").write_bytes(b"no model")
    with pytest.raises(ValueError, match="no.spm, which is not one"):
        SentencePieceTokenizer(tmp_path / "no.spm")
    with pytest.raises(ValueError, match="the bytes given, which is not one"):
        SentencePieceTokenizer(b"no model")
    with pytest.raises(ValueError, match="needs to be a sentencepiece model file"):
        SentencePieceTokenizer(tmp_path / "missing.spm")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_writer=written,
        vocab_size=40,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        minloglevel=2,
    )
    with pytest.raises(ValueError, match=r"as its pieces 0, 1 and 2 \(got 1, 2, 3\)"):
        SentencePieceTokenizer(written.getvalue())


@pytest.mark.parametrize("max_tokens", [2, True, 8.0])
def test_rejects_lengths(tokenizer, max_tokens):
    with pytest.raises(ValueError, match="'max_tokens' needs to be"):
        tokenizer(["red"], max_tokens)
