from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch_geometric.data import HeteroData

from alignrec_pyg.encoders import (
    BEiT3Config,
    BEiT3Encoder,
    BEiT3Model,
    FittedItemEncoder,
    ItemContent,
    ItemEncoder,
    SentencePieceTokenizer,
)
from alignrec_pyg.encoders.images import ImageError, resize_square
from alignrec_pyg.transforms import EncodeItems

pytest.importorskip("torchscale", exc_type=ImportError)
pytest.importorskip("sentencepiece")

TEXTS = ["red cotton shirt", "blue shoe", None, " ", "lamp for a baby", "chair"]


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train([text for text in TEXTS if text] * 5, 60)


@pytest.fixture(scope="module")
def model(tokenizer):
    """Weights so large that every token tells."""
    model = BEiT3Model(BEiT3Config.tiny(vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    return model


@pytest.fixture
def encoder(model, tokenizer):
    return BEiT3Encoder(model, tokenizer)


@pytest.fixture(scope="module")
def items():
    generator = torch.Generator().manual_seed(0)
    sizes = [(32, 32), None, (40, 50), None, (32, 32), None]
    images = [
        None if size is None else torch.randint(0, 256, (3, *size), generator=generator).byte()
        for size in sizes
    ]
    return ItemContent(TEXTS, images)


def test_is_an_encoder(encoder, items):
    assert isinstance(encoder, ItemEncoder)
    assert not isinstance(encoder, FittedItemEncoder)
    rows = encoder(items)
    assert rows.shape == (6, 64) == (len(items), encoder.out_dim)
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    assert rows.isfinite().all()


def test_items_of_any_modalities_are_encoded_as_if_alone(encoder, items):
    """0, 4: both; 1, 5: text; 2: image; 3: neither, a zero row."""
    rows = encoder(items)
    for row in range(6):
        alone = encoder(items.select([row]))
        torch.testing.assert_close(alone[0], rows[row], atol=1e-5, rtol=1e-5)
    assert not rows[3].any()
    assert rows[[0, 1, 2, 4, 5]].any(dim=1).all()


def test_rows_are_the_cls_vectors_of_the_model(encoder, items, model, tokenizer):
    rows = encoder(items)
    pixels = resize_square(items.image[2], 32).unsqueeze(0) / 255 * 2 - 1
    tokens = tokenizer([TEXTS[1]])
    with torch.no_grad():
        torch.testing.assert_close(rows[2], model(pixels)[0, 0])
        text = model(tokens=tokens.ids, padding=tokens.padding)
    torch.testing.assert_close(rows[1], text[0, 0])


def test_one_modality_leaves_the_other_unread(model, tokenizer, items):
    text = BEiT3Encoder(model, tokenizer, modalities=["text"])
    assert text.modalities == ("text",)
    assert torch.equal(text(items), text(ItemContent(text=items.text)))
    assert text(items).any(dim=1).tolist() == [True, True, False, False, True, True]
    image = BEiT3Encoder(model, tokenizer, modalities=["image"])
    assert image(items).any(dim=1).tolist() == [True, False, True, False, True, False]
    both = BEiT3Encoder(model, tokenizer)
    torch.testing.assert_close(both(ItemContent(text=items.text)), text(items))
    assert (both(items)[0] - text(items)[0]).abs().max() > 0.01
    assert (both(items)[0] - image(items)[0]).abs().max() > 0.01


def test_images_of_one_size_may_come_as_one_tensor(encoder):
    pixels = torch.randint(0, 256, (3, 3, 32, 32)).byte()
    whole = encoder(ItemContent(image=pixels))
    torch.testing.assert_close(whole, encoder(ItemContent(image=list(pixels))))


def test_texts_are_cut(model, tokenizer):
    encoder = BEiT3Encoder(model, tokenizer, max_tokens=4)
    long = encoder(ItemContent(text=["red cotton shirt", "red cotton chair lamp"]))
    torch.testing.assert_close(long[0], long[1])


def test_cache_key_tells_what_changes_rows(model, tokenizer):
    config = BEiT3Config.tiny(vocab_size=tokenizer.vocab_size)
    other = SentencePieceTokenizer.train([text for text in TEXTS if text], 40)
    keys = [
        BEiT3Encoder(model, tokenizer).cache_key,
        BEiT3Encoder(config, tokenizer).cache_key,
        BEiT3Encoder(config, tokenizer, seed=1).cache_key,
        BEiT3Encoder(model, tokenizer, modalities=["text"]).cache_key,
        BEiT3Encoder(model, tokenizer, max_tokens=64).cache_key,
        BEiT3Encoder(model, other).cache_key,
    ]
    assert len(set(keys)) == 6
    swapped = BEiT3Encoder(model, tokenizer, modalities=["text", "image"])
    assert swapped.cache_key == keys[0]


def test_save_and_load(encoder, items, tmp_path):
    encoder.save_pretrained(tmp_path, notes={"from": "a test"})
    loaded = BEiT3Encoder.from_pretrained(tmp_path)
    assert loaded.cache_key == encoder.cache_key
    assert torch.equal(loaded(items), encoder(items))
    text = BEiT3Encoder.from_pretrained(tmp_path, modalities=["text"])
    assert text.modalities == ("text",)


def test_loads_released_weights(encoder, items, tokenizer, tmp_path):
    torch.save({"model": encoder.model.state_dict()}, tmp_path / "released.pth")
    loaded = BEiT3Encoder.from_official(
        tmp_path / "released.pth", tokenizer, encoder.model.config, max_tokens=64
    )
    assert loaded.max_tokens == 64
    assert torch.equal(loaded(items), encoder(items))


def test_an_unreadable_file_is_an_error(encoder):
    with pytest.raises(ImageError):
        encoder(ItemContent(image=[Path("missing.jpg")]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modalities": []}, "'modalities' needs to hold"),
        ({"modalities": ["text", "audio"]}, "'modalities' needs to hold"),
        ({"modalities": ["id"]}, r"'modalities' .* \(got \('id',\)\)"),
        ({"max_tokens": 2}, r"'max_tokens' needs to be in \[3, 1022\]"),
        ({"max_tokens": 1023}, r"'max_tokens' needs to be in \[3, 1022\]"),
    ],
)
def test_rejects_arguments(model, tokenizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        BEiT3Encoder(model, tokenizer, **arguments)


def test_rejects_a_larger_vocabulary(tokenizer):
    with pytest.raises(ValueError, match="'tokenizer' needs at most the 10 ids of the model"):
        BEiT3Encoder(BEiT3Config.tiny(vocab_size=10), tokenizer)
    assert "modalities=('image', 'text')" in repr(
        BEiT3Encoder(BEiT3Config.tiny(vocab_size=tokenizer.vocab_size), tokenizer)
    )


def test_two_threads_do_not_disturb_each_other(encoder, items):
    """One with images and texts, one with texts alone: each keeps its own rows."""
    texts = ItemContent(items.text)
    expected = [encoder(items), encoder(texts)]
    with ThreadPoolExecutor(4) as pool:
        for both, alone in zip(
            pool.map(encoder, [items] * 30), pool.map(encoder, [texts] * 30), strict=True
        ):
            torch.testing.assert_close(both, expected[0])
            torch.testing.assert_close(alone, expected[1])


def test_released_weights_take_the_released_tokenizer_alone(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=f"64,002 ids of beit3.spm.*got {tokenizer.vocab_size}"):
        BEiT3Encoder.from_official(tmp_path / "beit3.pth", tokenizer)


def test_what_was_not_loaded_as_stored_is_told(model, tokenizer, tmp_path):
    tensors = {**model.state_dict(), "mlm_head.bias": torch.ones(3)}
    torch.save({"model": tensors}, tmp_path / "beit3.pth")
    larger = BEiT3Config.tiny(vocab_size=tokenizer.vocab_size, image_size=48)
    encoder = BEiT3Encoder.from_official(tmp_path / "beit3.pth", tokenizer, larger)
    assert len(encoder.notes) == 2
    assert "mlm_head.bias" in encoder.notes[0]
    assert "resized to a grid of 6" in encoder.notes[1]
    data = HeteroData()
    data["item"].num_nodes = 1
    data["item"].text = ["red shirt"]
    data["item"].image = [None]
    encode = EncodeItems(encoder, "mm")
    encode(data)
    assert "resized to a grid of 6" in str(encode.report)


def test_bfloat16_is_near_and_has_a_key_of_its_own(encoder, items, model, tokenizer):
    half = BEiT3Encoder(model, tokenizer, precision="bfloat16")
    rows, exact = half(items), encoder(items)
    assert rows.dtype == torch.float32
    assert not torch.equal(rows, exact)
    cosine = torch.nn.functional.cosine_similarity(rows, exact)
    assert (cosine[[0, 1, 2, 4, 5]] > 0.99).all()
    assert half.cache_key == f"{encoder.cache_key}, bfloat16"


def test_saved_weights_are_read_in_bfloat16(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    half = BEiT3Encoder.from_pretrained(tmp_path, precision="bfloat16")
    assert half.cache_key == f"{encoder.cache_key}, bfloat16"
