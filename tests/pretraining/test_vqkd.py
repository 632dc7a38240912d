from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn import functional as F

from alignrec_pyg.pretraining.vqkd import VQKDTokenizer
from alignrec_pyg.storage import CheckpointError

WIDTH, DEPTH, CODES = 128, 2, 40  # as of the fixture 'vqkd_weights'


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory, vqkd_weights):
    path = tmp_path_factory.mktemp("vqkd") / "vqkd.pth"
    torch.save({"model": vqkd_weights()}, path)
    return VQKDTokenizer(path)


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(1)).byte()


def test_equals_timms_beit_and_the_nearest_code(tokenizer, images, vqkd_weights):
    """The vision transformer by an independent implementation, the code by brute force."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from timm.models.beit import Beit
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs timm >= 1.0: {error}")
    beit = Beit(
        img_size=32, patch_size=8, embed_dim=WIDTH, depth=DEPTH, num_heads=2, num_classes=0,
        use_abs_pos_emb=True, init_values=None, global_pool="avg",
    ).eval()  # fmt: skip
    tensors = vqkd_weights()
    encoder = {
        name.removeprefix("encoder."): value
        for name, value in tensors.items()
        if name.startswith("encoder.")
    }
    found = beit.load_state_dict(encoder, strict=False)
    assert not found.unexpected_keys
    with torch.no_grad():
        patches = beit.fc_norm(beit.forward_features(images / 127.5 - 1)[:, 1:])
        torch.testing.assert_close(
            tokenizer.encoder(images / 127.5 - 1), patches, atol=1e-4, rtol=1e-4
        )
        hidden = torch.tanh(
            patches @ tensors["encode_task_layer.0.weight"].T + tensors["encode_task_layer.0.bias"]
        )
        coded = hidden @ tensors["encode_task_layer.2.weight"].T
        coded = F.normalize(coded + tensors["encode_task_layer.2.bias"], dim=-1)
    codes = F.normalize(tensors["quantize.embedding.weight"], dim=-1)
    distances = (coded.unsqueeze(2) - codes).square().sum(dim=-1)  # [B, P, K]
    assert torch.equal(tokenizer(images), distances.argmin(dim=-1))
    assert len(tokenizer(images).unique()) > 3


def test_sizes_come_from_the_file(tokenizer, images):
    assert (tokenizer.grid, tokenizer.vocab_size, tokenizer.image_size) == (4, CODES, 32)
    assert tokenizer(images).shape == (5, 16)
    assert tokenizer(images).dtype == torch.int64
    assert not any(parameter.requires_grad for parameter in tokenizer.parameters())


def test_tokens_are_single_precision_within_autocast(tokenizer, images):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tokenizer(images), tokenizer(images[:5]))
        inside = tokenizer(images)
    assert torch.equal(inside, tokenizer(images))


def test_fingerprint_tells_weights(tokenizer, tmp_path, vqkd_weights):
    torch.save({"model": vqkd_weights()}, tmp_path / "same.pth")
    torch.save({"state_dict": vqkd_weights(1)}, tmp_path / "other.pth")
    assert VQKDTokenizer(tmp_path / "same.pth").fingerprint == tokenizer.fingerprint
    assert VQKDTokenizer(tmp_path / "other.pth").fingerprint != tokenizer.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("quantize.embedding.weight"), "holds no VQ-KD tokenizer"),
        (lambda t: t.pop("encoder.fc_norm.bias"), r"such as \['encoder.fc_norm.bias'\]"),
        (lambda t: t.update({"encoder.extra": torch.ones(2)}), r"such as \['encoder.extra'\]"),
        (lambda t: t.update({"beit3.extra": torch.ones(2)}), r"\['beit3.extra'\] are unknown"),
        (lambda t: t.update({"encoder.fc_norm.bias": torch.ones(2)}), "of another shape"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message, vqkd_weights):
    tensors = vqkd_weights()
    change(tensors)
    torch.save({"model": tensors}, tmp_path / "vqkd.pth")
    with pytest.raises(CheckpointError, match=message):
        VQKDTokenizer(tmp_path / "vqkd.pth")


def test_rejects_images(tokenizer):
    for images in (torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 16, 16).byte()):
        with pytest.raises(ValueError, match=r"'images' needs to be uint8 \[B, 3, 32, 32\]"):
            tokenizer(images)
