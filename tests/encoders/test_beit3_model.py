from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alignrec_pyg.encoders import BEiT3Config, BEiT3Model
from alignrec_pyg.encoders.beit3_model import normalized_pixels
from alignrec_pyg.encoders.cache_keys import weights_hash

pytest.importorskip("torchscale", exc_type=ImportError)

CONFIG = BEiT3Config(
    embed_dim=24,
    num_heads=3,
    ffn_dim=40,
    num_layers=3,
    image_size=12,
    patch_size=4,
    vocab_size=50,
    max_positions=20,
)


@pytest.fixture(scope="module")
def model():
    """With weights far from their initial values, norms and biases too."""
    model = BEiT3Model(CONFIG)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(2)
    return {
        "images": torch.randn(4, 3, 12, 12, generator=generator),
        "tokens": torch.randint(0, 50, (4, 7), generator=generator),
        "padding": torch.arange(7) >= torch.tensor([[7], [3], [5], [6]]),
        "image_mask": torch.rand(4, 9, generator=generator) < 0.4,
    }


def reference(weights, images=None, tokens=None, padding=None, image_mask=None):
    """BEiT3 from the description of its layers, in plain functions of torch."""
    parts, split = [], 0
    if images is not None:
        patches = F.unfold(images, kernel_size=4, stride=4).transpose(1, 2)
        kernel = weights["vision_embed.proj.weight"].flatten(1)
        embedded = patches @ kernel.T + weights["vision_embed.proj.bias"]
        if image_mask is not None:
            embedded = torch.where(
                image_mask.unsqueeze(-1), weights["vision_embed.mask_token"], embedded
            )
        cls = weights["vision_embed.cls_token"].expand(len(images), 1, -1)
        embedded = torch.cat([cls, embedded], dim=1)
        split = embedded.size(1)
        parts.append(embedded + weights["encoder.embed_positions.A.weight"][2 : 2 + split])
    if tokens is not None:
        embedded = weights["text_embed.weight"][tokens]
        positions = weights["encoder.embed_positions.B.weight"][2 : 2 + tokens.size(1)]
        parts.append((embedded + positions) * ~padding.unsqueeze(-1))
    x = torch.cat(parts, dim=1)
    hidden = torch.zeros(x.shape[:2], dtype=torch.bool)
    if tokens is not None:
        hidden[:, split:] = padding

    def ways(x, name, function):
        """The image's weights up to ``split``, the text's from there on."""
        both = (x[:, :split], f"{name}.A"), (x[:, split:], f"{name}.B")
        return torch.cat([function(part, way) for part, way in both if part.size(1)], dim=1)

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def ffn(x, name):
        inner = F.gelu(linear(x, f"{name}.fc1"))
        return linear(norm(inner, f"{name}.ffn_layernorm"), f"{name}.fc2")

    def heads(x):
        return x.unflatten(-1, (3, 8)).transpose(1, 2)

    for layer in range(3):
        name = f"encoder.layers.{layer}"
        normed = ways(x, f"{name}.self_attn_layer_norm", norm)
        q, k, v = (heads(ways(normed, f"{name}.self_attn.{p}_proj", linear)) for p in "qkv")
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden[:, None, None])
        attended = attended.transpose(1, 2).flatten(2)
        attended = ways(attended, f"{name}.self_attn.inner_attn_ln", norm)
        x = x + ways(attended, f"{name}.self_attn.out_proj", linear)
        normed = ways(x, f"{name}.final_layer_norm", norm)
        x = x + ways(normed, f"{name}.ffn", ffn)
    return ways(x, "encoder.layer_norm", norm)


@pytest.mark.parametrize(
    "given",
    [
        ("images", "tokens", "padding", "image_mask"),
        ("images", "tokens", "padding"),
        ("images", "image_mask"),
        ("images",),
        ("tokens", "padding"),
    ],
    ids=" ".join,
)
def test_equals_the_plain_reference(model, batch, given):
    inputs = {name: batch[name] for name in given}
    with torch.no_grad():
        found = model(**inputs)
        expected = reference(model.beit3.state_dict(), **inputs)
    length = 10 * ("images" in given) + 7 * ("tokens" in given)
    assert found.shape == (4, length, 24)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(model, batch):
    with torch.no_grad():
        whole = model(batch["images"], batch["tokens"], batch["padding"])
        other_ids = torch.where(batch["padding"], 3, batch["tokens"])
        torch.testing.assert_close(
            model(batch["images"], other_ids, batch["padding"]), whole, atol=0, rtol=0
        )
        alone = model(batch["images"][1:2], batch["tokens"][1:2, :3], batch["padding"][1:2, :3])
    torch.testing.assert_close(alone[0], whole[1, :13], atol=1e-5, rtol=1e-5)


def test_each_modality_sees_the_other(model, batch):
    """The CLS vector changes with the text, and the text's vectors with the image."""
    with torch.no_grad():
        whole = model(batch["images"], batch["tokens"], batch["padding"])
        text = model(batch["images"], (batch["tokens"] + 1) % 50, batch["padding"])
        image = model(batch["images"] + 1, batch["tokens"], batch["padding"])
    assert (text[:, 0] - whole[:, 0]).abs().max() > 0.01
    assert (image[:, 10:] - whole[:, 10:])[~batch["padding"]].abs().max() > 0.01


@pytest.mark.parametrize(
    ("config", "millions"),
    [(BEiT3Config.base(), 220_987_392), (BEiT3Config.base(num_layers=16), None)],
)
def test_parameter_counts(config, millions):
    model = BEiT3Model(config, seed=None)  # on the meta device: no memory
    count = sum(parameter.numel() for parameter in model.parameters())
    per_layer = sum(p.numel() for n, p in model.named_parameters() if ".layers.3." in n)
    assert count == (millions or 220_987_392 + 4 * per_layer)
    if millions:
        mlm = 768 * 64_010 + 64_010
        assert count + mlm == 270_211_082
        assert count + mlm + 768 * 8192 + 8192 == 276_510_730


def test_sizes():
    assert (BEiT3Config.base().grid, BEiT3Config.base().num_patches) == (14, 196)
    assert BEiT3Config.base().longest_text == 1022
    assert BEiT3Config.large(vocab_size=9).embed_dim == 1024
    assert BEiT3Config.large().num_layers == 24
    assert BEiT3Config.tiny(num_layers=4).num_layers == 4
    assert BEiT3Config.tiny().embed_dim == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, "'num_layers' needs to be 1 or more"),
        ({"embed_dim": 64.0}, "'embed_dim' needs to be an integer"),
        ({"num_heads": 5}, "'embed_dim' needs to be a multiple of num_heads=5"),
        ({"patch_size": 15}, "'image_size' needs to be a multiple of patch_size=15"),
        ({"max_positions": 4}, "'max_positions' needs to be 5 or more"),
    ],
)
def test_rejects_sizes(changes, message):
    with pytest.raises(ValueError, match=message):
        BEiT3Config(**changes)


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = [BEiT3Model(CONFIG, seed=seed).state_dict() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = map(weights_hash, drawn)
    assert first == again != other


def test_initial_weights():
    """0.02 everywhere, times sqrt(log(2 L)) where Magneto has it; both ways are drawn apart."""
    config = BEiT3Config.tiny(vocab_size=500, num_layers=3)
    weights = dict(BEiT3Model(config).beit3.named_parameters())
    factor = torch.tensor(6.0).log().sqrt()
    for name, expected in {
        "text_embed.weight": 0.02,
        "vision_embed.proj.weight": 0.02,
        "encoder.embed_positions.B.weight": 0.02,
        "encoder.layers.2.self_attn.q_proj.A.weight": 0.02,
        "encoder.layers.2.self_attn.v_proj.B.weight": 0.02 * factor,
        "encoder.layers.1.self_attn.out_proj.A.weight": 0.02 * factor,
        "encoder.layers.0.ffn.A.fc1.weight": 0.02 * factor,
        "encoder.layers.0.ffn.B.fc2.weight": 0.02 * factor,
    }.items():
        assert weights[name].detach().std() == pytest.approx(float(expected), rel=0.05)
    for token in ("cls_token", "mask_token"):
        deviation = weights[f"vision_embed.{token}"].detach().std()
        assert deviation == pytest.approx(0.02, rel=0.3)
    assert not weights["encoder.layers.0.ffn.A.fc1.bias"].any()
    assert bool((weights["encoder.layers.0.ffn.A.ffn_layernorm.weight"] == 1).all())
    a, b = (weights[f"encoder.layers.0.ffn.{way}.fc1.weight"] for way in "AB")
    assert not torch.equal(a, b)


def test_activations_computed_again_give_the_same_gradients(batch):
    losses = []
    for again in (False, True):
        model = BEiT3Model(CONFIG, checkpoint_activations=again)
        model(batch["images"], batch["tokens"], batch["padding"]).square().mean().backward()
        losses.append([parameter.grad for parameter in model.parameters()])
        assert set(model.state_dict()) == set(BEiT3Model(CONFIG, seed=None).state_dict())
    for plain, again in zip(*losses, strict=True):
        assert (plain is None) == (again is None)
        if plain is not None:
            torch.testing.assert_close(plain, again)


def test_pixels_go_to_minus_one_to_one():
    pixels = torch.tensor([[[[0, 255, 51]]]], dtype=torch.uint8)
    torch.testing.assert_close(normalized_pixels(pixels), torch.tensor([[[[-1.0, 1.0, -0.6]]]]))


def test_a_torchscale_that_ignores_a_size_is_refused(monkeypatch):
    class Forgetful:
        def __init__(self, **kwargs):
            vars(self).update(kwargs, img_size=224)

    monkeypatch.setattr(
        "alignrec_pyg.encoders.beit3_model._torchscale", lambda: (Forgetful, nn.Identity)
    )
    with pytest.raises(ImportError, match=r"ignores the settings \['img_size'\]"):
        BEiT3Model(CONFIG)
