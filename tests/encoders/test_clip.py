from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from alignrec_pyg.encoders import CLIPEncoder, ItemContent, ItemEncoder
from alignrec_pyg.encoders.images import to_pillow

GENERATOR = torch.Generator().manual_seed(0)


def photo(height=40, width=50):
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=GENERATOR)


PHOTOS = [photo(), photo(32, 32), photo(90, 20)]
TEXTS = ["a red car", "", "sofa " * 60]


@pytest.fixture(scope="module")
def encoder(tiny_clip):
    torch.manual_seed(0)
    return CLIPEncoder(tiny_clip)


@pytest.fixture(scope="module")
def reference(encoder):
    """transformers' CLIP, an implementation of its own, with the same weights."""
    from transformers import CLIPConfig, CLIPModel

    common = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_act": "gelu"}
    text = {"vocab_size": 49408, "hidden_size": 16, "intermediate_size": 64}
    text |= {"max_position_embeddings": 20, "bos_token_id": 49406, "eos_token_id": 49407}
    vision = {"hidden_size": 64, "intermediate_size": 256, "image_size": 32, "patch_size": 8}
    model = CLIPModel(
        CLIPConfig(text_config=text | common, vision_config=vision | common, projection_dim=16)
    )
    state = {}
    for name, value in encoder.model.state_dict().items():
        if name == "logit_scale":
            state[name] = value
        elif name in ("text_projection", "visual.proj"):
            tower = "text" if name == "text_projection" else "visual"
            state[f"{tower}_projection.weight"] = value.T
        else:
            tower = "vision_model" if name.startswith("visual.") else "text_model"
            for ours, theirs in RENAMED:
                name = name.replace(ours, theirs)
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                if "in_proj" in name:
                    state[f"{tower}.{name.replace('in_proj_', f'{part}_proj.')}"] = piece
            if "in_proj" not in name:
                state[f"{tower}.{name}"] = value
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("position_ids") for name in missing)
    return model.eval()


RENAMED = (
    ("visual.", ""),
    ("transformer.resblocks", "encoder.layers"),
    (".attn.", ".self_attn."),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
    ("token_embedding", "embeddings.token_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("class_embedding", "embeddings.class_embedding"),
    ("conv1", "embeddings.patch_embedding"),
    ("ln_pre", "pre_layrnorm"),  # sic
    ("ln_post", "post_layernorm"),
    ("ln_final", "final_layer_norm"),
)


def prepared(image):
    """CLIP's preprocessing by hand: shorter side to 32, the middle, mean and deviation."""
    picture = to_pillow(image)
    scale = 32 / min(picture.size)
    size = [int(side * scale) for side in picture.size]
    picture = picture.resize(size, resample=3)
    left, top = (round((side - 32) / 2) for side in size)
    picture = picture.crop((left, top, left + 32, top + 32))
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    deviation = np.array([0.26862954, 0.26130258, 0.27577711])
    values = (np.asarray(picture) / 255 - mean) / deviation
    return torch.from_numpy(values.transpose(2, 0, 1)).float()


def test_equals_transformers_clip(encoder, reference):
    assert isinstance(encoder, ItemEncoder)
    rows = encoder(ItemContent(text=TEXTS, image=PHOTOS))
    assert rows.shape == (3, encoder.out_dim) == (3, 32)
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    with torch.no_grad():
        pixels = torch.stack([prepared(image) for image in PHOTOS])
        vision = reference.visual_projection(reference.vision_model(pixels).pooler_output)
        tokens = encoder.tokens(TEXTS)
        text = reference.text_projection(reference.text_model(tokens).pooler_output)
    torch.testing.assert_close(
        rows[:, :16], torch.nn.functional.normalize(vision), atol=2e-6, rtol=0
    )
    expected = torch.nn.functional.normalize(text)
    expected[1] = 0  # an empty text is none
    torch.testing.assert_close(rows[:, 16:], expected, atol=2e-6, rtol=0)


def test_a_missing_modality_is_a_half_of_zeros(encoder):
    whole = encoder(ItemContent(text=["car", "sofa"], image=PHOTOS[:2]))
    rows = encoder(ItemContent(text=["car", None, None], image=[None, PHOTOS[1], None]))
    torch.testing.assert_close(rows[0], torch.cat([torch.zeros(16), whole[0, 16:]]))
    torch.testing.assert_close(rows[1], torch.cat([whole[1, :16], torch.zeros(16)]))
    assert not rows[2].any()
    torch.testing.assert_close(rows.norm(dim=1), torch.tensor([1.0, 1.0, 0.0]))


def test_one_modality_or_another_order(tiny_clip, encoder, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(encoder.model.state_dict(), path)
    items = ItemContent(text=TEXTS, image=PHOTOS)
    whole = encoder(items)
    image = CLIPEncoder(tiny_clip, path, modalities=("image",))
    assert torch.equal(image(ItemContent(image=PHOTOS)), whole[:, :16])
    turned = CLIPEncoder(tiny_clip, path, modalities=("text", "image"))
    assert torch.equal(turned(items), torch.cat([whole[:, 16:], whole[:, :16]], dim=1))
    assert len({image.cache_key, turned.cache_key, encoder.cache_key}) == 3


def test_rows_do_not_depend_on_the_batch(tiny_clip, encoder, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(encoder.model.state_dict(), path)
    single = CLIPEncoder(tiny_clip, path, batch_size=1)
    items = ItemContent(text=TEXTS, image=PHOTOS)
    torch.testing.assert_close(single(items), encoder(items), atol=1e-6, rtol=0)
    assert single.cache_key == encoder.cache_key


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_local_weights_come_back_exactly(tiny_clip, encoder, tmp_path, suffix):
    path = tmp_path / f"my weights{suffix}"
    state = {f"module.{name}": value for name, value in encoder.model.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    items = ItemContent(text=TEXTS, image=PHOTOS)
    for given in (path, str(path)):
        loaded = CLIPEncoder(tiny_clip, given)
        assert torch.equal(loaded(items), encoder(items))
        assert loaded.cache_key == encoder.cache_key


def test_key_follows_the_weights(tiny_clip):
    torch.manual_seed(1)
    encoder = CLIPEncoder(tiny_clip)
    before = encoder.cache_key
    assert encoder.cache_key == before
    with torch.no_grad():
        encoder.model.visual.proj[0, 0] += 1e-3
    assert encoder.cache_key != before


def test_weights_that_do_not_fit_are_refused(tiny_clip, encoder, tmp_path):
    class Malicious:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    state = dict(encoder.model.state_dict())
    lacking = {name: value for name, value in state.items() if name != "ln_final.bias"}
    files = {
        "lacking.pt": (lacking, "ln_final.bias"),
        "more.pt": ({**state, "extra": torch.zeros(1)}, "extra"),
        "wrong.pt": ({**state, "visual.proj": torch.zeros(64, 8)}, "visual.proj"),
    }
    for name, (content, message) in files.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=rf"(?s)weights of tiny-clip .*{message}"):
            CLIPEncoder(tiny_clip, tmp_path / name)
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"a": Malicious()}))
    (tmp_path / "cut.safetensors").write_bytes(b"1234")
    for name in ("evil.pt", "cut.safetensors"):
        with pytest.raises(ValueError, match="needs to be a file of weights") as caught:
            CLIPEncoder(tiny_clip, tmp_path / name)
        assert "weights_only" not in str(caught.value)  # no advice to run it
    assert not (tmp_path / "executed").exists()


def test_a_tag_without_a_network_fails_at_once(tiny_clip, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("tries again"))
    with pytest.raises(RuntimeError, match=r"ViT-B-32 cannot be downloaded.*'pretrained'"):
        CLIPEncoder("ViT-B-32", "laion2b_s34b_b79k")


def test_a_file_is_prepared_as_its_published_relatives(tiny_clip, tmp_path, monkeypatch):
    """Otherwise features of a local file are wrong in silence."""
    import open_clip

    from alignrec_pyg.encoders.clip import _published_preprocessing

    def prepared_as(*arguments):
        return _published_preprocessing(open_clip, *arguments)

    assert prepared_as("ViT-B-16-SigLIP", None)["image_mean"] == (0.5, 0.5, 0.5)
    assert prepared_as("ViT-B-16-SigLIP", None)["image_resize_mode"] == "squash"
    assert prepared_as("tiny-clip", None) == {}
    with pytest.raises(ValueError, match="needs to name the published weights.*ViT-L-14.*openai"):
        prepared_as("ViT-L-14", None)
    means = [prepared_as("ViT-L-14", tag)["image_mean"] for tag in ("openai", "laion2b_s32b_b82k")]
    assert means[0] != means[1]
    with pytest.raises(ValueError, match=r"'preprocess_as' needs to be one of the tags .*'mine'"):
        prepared_as("ViT-L-14", "mine")
    torch.manual_seed(0)
    encoder = CLIPEncoder(tiny_clip)
    save_file(encoder.model.state_dict(), tmp_path / "w.safetensors")
    way = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["a"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, tag: way)
    other = CLIPEncoder(tiny_clip, tmp_path / "w.safetensors")
    flat = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    assert other.pixels([flat]).unique().tolist() == [2.0]  # (1 - 0.5) / 0.25
    assert other.cache_key != encoder.cache_key


def test_rejects_arguments(tiny_clip):
    with pytest.raises(ValueError, match=r"'model_name' needs to be.*like .*tiny-clip.*tiny-clop"):
        CLIPEncoder("tiny-clop")
    with pytest.raises(ValueError, match=r"'pretrained' needs to be a file or one of the tags"):
        CLIPEncoder("ViT-B-32", "no/such/file.pt")
    for modalities in ((), ("image", "image"), ("sound",)):
        with pytest.raises(ValueError, match="'modalities' needs to hold"):
            CLIPEncoder(tiny_clip, modalities=modalities)
    with pytest.raises(ValueError, match="'batch_size'"):
        CLIPEncoder(tiny_clip, batch_size=0)
    assert repr(CLIPEncoder(tiny_clip)).startswith("CLIPEncoder('tiny-clip', None")


def test_bfloat16_is_near_and_has_a_key_of_its_own(tiny_clip, encoder, tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(encoder.model.state_dict(), path)
    items = ItemContent(text=TEXTS, image=PHOTOS)
    half = CLIPEncoder(tiny_clip, path, precision="bfloat16")
    rows, exact = half(items), encoder(items)
    assert rows.dtype == torch.float32
    for part in (slice(0, 16), slice(16, 32)):  # both towers
        assert not torch.equal(rows[:, part], exact[:, part])
    torch.testing.assert_close(rows, exact, atol=0.03, rtol=0)
    torch.testing.assert_close(rows[0, :16].norm(), torch.tensor(1.0))
    assert half.cache_key == f"{CLIPEncoder(tiny_clip, path).cache_key}, bfloat16"
    with pytest.raises(ValueError, match=r"'precision' needs to be one of"):
        CLIPEncoder(tiny_clip, path, precision="bf16")
