from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

from alignrec_pyg.encoders import BEiT3Config, BEiT3Model, SentencePieceTokenizer
from alignrec_pyg.encoders.beit3_checkpoint import (
    load_official,
    read_beit3,
    resized_positions,
    write_beit3,
)
from alignrec_pyg.encoders.cache_keys import weights_hash
from alignrec_pyg.storage import CheckpointError, read_manifest, write_manifest

pytest.importorskip("torchscale", exc_type=ImportError)
pytest.importorskip("sentencepiece")

CONFIG = BEiT3Config.tiny(vocab_size=120, max_positions=40)


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train([f"word number {n}" for n in range(50)], 60)


@pytest.fixture(scope="module")
def released():
    """Tensors as the authors of BEiT3 store them, heads included."""
    tensors = {
        name: value.clone() for name, value in BEiT3Model(CONFIG, seed=5).state_dict().items()
    }
    heads = {"mlm_head.weight": (120, 64), "mlm_head.bias": (120,), "mim_head.weight": (8, 64)}
    return tensors | {name: torch.ones(shape) for name, shape in heads.items()}


def same(model, tensors, *, but=()):
    return [
        name
        for name, value in model.state_dict().items()
        if name not in but and not torch.equal(value, tensors[name])
    ] == []


def test_reads_the_released_layout(released, tmp_path):
    torch.save({"model": released}, tmp_path / "beit3.pth")
    found = load_official(tmp_path / "beit3.pth", CONFIG)
    assert same(found.model, released)
    assert set(found.heads) == {"mlm_head.weight", "mlm_head.bias", "mim_head.weight"}
    assert len(found.notes) == 1
    assert "mim_head.weight" in found.notes[0]


def test_another_image_size_resizes_positions(released, tmp_path):
    torch.save({"model": released}, tmp_path / "beit3.pth")
    larger = BEiT3Config.tiny(vocab_size=120, max_positions=30, image_size=48)
    found = load_official(tmp_path / "beit3.pth", larger)
    changed = ("beit3.encoder.embed_positions.A.weight", "beit3.encoder.embed_positions.B.weight")
    assert same(found.model, released, but=changed)
    weights = found.model.state_dict()
    assert torch.equal(weights[changed[0]], resized_positions(released[changed[0]], 6))
    assert torch.equal(weights[changed[1]], released[changed[1]][:30])
    assert len(found.notes) == 3


def test_resized_positions():
    """The three first rows stay; the grid is resized as a picture of its values would be."""
    rows = torch.arange(3 + 16.0).unsqueeze(1).repeat(1, 2)
    assert torch.equal(resized_positions(rows, 4), rows)
    larger = resized_positions(rows, 6)
    assert larger.shape == (3 + 36, 2)
    assert torch.equal(larger[:3], rows[:3])
    picture = torch.arange(3, 19.0).reshape(4, 4)
    expected = F.interpolate(picture[None, None], size=6, mode="bicubic")[0, 0]
    torch.testing.assert_close(larger[3:, 1].reshape(6, 6), expected)
    with pytest.raises(CheckpointError, match=r"square grid \(got 18\)"):
        resized_positions(rows[:18], 4)


@pytest.mark.parametrize("depth", [1, 3])
def test_another_depth_only_when_asked_for(released, tmp_path, depth):
    torch.save({"model": released}, tmp_path / "beit3.pth")
    config = BEiT3Config.tiny(vocab_size=120, max_positions=40, num_layers=depth)
    with pytest.raises(CheckpointError, match=r"40 tensors are missing, .*'partial'"):
        load_official(tmp_path / "beit3.pth", config)
    found = load_official(tmp_path / "beit3.pth", config, partial=True, seed=7)
    fresh = BEiT3Model(config, seed=7).state_dict()
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, released.get(name, fresh[name])), name
    assert f"2 layers are stored, {depth} are built" in found.notes


def test_another_vocabulary_only_when_asked_for(released, tmp_path):
    torch.save({"model": released}, tmp_path / "beit3.pth")
    config = BEiT3Config.tiny(vocab_size=70, max_positions=40)
    with pytest.raises(CheckpointError, match=r"text_embed.weight.*'new_vocabulary'"):
        load_official(tmp_path / "beit3.pth", config)
    for size in (70, 120):  # also where the sizes happen to agree
        config = BEiT3Config.tiny(vocab_size=size, max_positions=40)
        found = load_official(tmp_path / "beit3.pth", config, new_vocabulary=True, seed=7)
        assert same(found.model, released, but=("beit3.text_embed.weight",))
        drawn = BEiT3Model(config, seed=7).beit3.text_embed.weight
        assert torch.equal(found.model.beit3.text_embed.weight, drawn)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("beit3.vision_embed.cls_token"), "cls_token"),
        (lambda t: t.update({"beit3.encoder.extra": torch.ones(1)}), "encoder.extra"),
        (lambda t: t.update({"beit3.vision_embed.proj.bias": torch.ones(3)}), "proj.bias"),
        (lambda t: t.update({"decoder.weight": torch.ones(1)}), r"got \['decoder.weight'\]"),
        (lambda t: [t.pop(n) for n in list(t) if n.startswith("beit3.")], "needs to hold BEiT3"),
    ],
)
def test_what_does_not_fit_is_refused(released, tmp_path, change, message):
    tensors = dict(released)
    change(tensors)
    torch.save({"model": tensors}, tmp_path / "beit3.pth")
    with pytest.raises(CheckpointError, match=message):
        load_official(tmp_path / "beit3.pth", CONFIG)


def test_our_own_round_trip(tokenizer, tmp_path):
    model = BEiT3Model(CONFIG, seed=2)
    write_beit3(tmp_path / "run", BEiT3Model(CONFIG, seed=1), tokenizer, 12, {})
    write_beit3(tmp_path / "run", model, tokenizer, 16, {"trained on": ["toys"]})
    assert len(list((tmp_path / "run").glob("[!.]*"))) == 2  # the first model is gone
    stored, its_tokenizer, max_tokens = read_beit3(tmp_path / "run")
    assert weights_hash(stored.state_dict()) == weights_hash(model.state_dict())
    assert stored.config == CONFIG
    assert its_tokenizer.fingerprint == tokenizer.fingerprint
    assert max_tokens == 16
    manifest = json.loads((tmp_path / "run" / "beit3.json").read_text())
    assert manifest["notes"] == {"trained on": ["toys"]}
    assert all(parameter.requires_grad for parameter in stored.parameters())
    assert not any(parameter.is_meta for parameter in stored.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"layers": 3}}, "is not a BEiT3 checkpoint"),
        ({"config": {"num_layers": 3, "vocab_size": 120}}, "does not fit"),
        ({"max_tokens": "16"}, "'max_tokens' needs to be a int"),
        ({"files": {}}, "it lists no beit3.safetensors"),
    ],
)
def test_our_own_damage_is_named(tokenizer, tmp_path, change, message):
    write_beit3(tmp_path, BEiT3Model(CONFIG), tokenizer, 16, {})
    write_manifest(tmp_path / "beit3.json", read_manifest(tmp_path / "beit3.json") | change)
    with pytest.raises(CheckpointError, match=message):
        read_beit3(tmp_path)
