import pytest

from alignrec_pyg.cli import encoder_specs
from alignrec_pyg.cli.encoder_specs import EncoderSpec, encoder_spec
from alignrec_pyg.encoders import (
    BEiT3Config,
    BEiT3Encoder,
    CLIPEncoder,
    PatchPCAEncoder,
    SentencePieceTokenizer,
    TfidfEncoder,
)
from alignrec_pyg.storage import write_tensors


def test_those_that_learn():
    tfidf, patch_pca = (encoder_spec(name) for name in encoder_specs.LEARNED)
    assert (tfidf.name, patch_pca.name) == ("tfidf", "patch_pca")
    assert isinstance(tfidf.build(width=5), TfidfEncoder)
    assert isinstance(patch_pca.build(), PatchPCAEncoder)
    assert (tfidf.build(width=5).out_dim, patch_pca.build().out_dim) == (5, 64)


def test_an_encoder_of_stage_1(tmp_path):
    pytest.importorskip("torchscale", exc_type=ImportError)
    tokenizer = SentencePieceTokenizer.train(["heat toys war love space train ship"] * 9, 30)
    sizes = BEiT3Config.tiny(vocab_size=tokenizer.vocab_size)
    BEiT3Encoder(sizes, tokenizer).save_pretrained(tmp_path)
    encoder = encoder_spec(f"mm={tmp_path}").build(modalities=["text"])
    assert isinstance(encoder, BEiT3Encoder)
    assert encoder.modalities == ("text",)


def test_clip(tiny_clip, tmp_path):
    weights = tmp_path / "weights.safetensors"
    write_tensors(weights, CLIPEncoder(tiny_clip).model.state_dict())
    spec = encoder_spec(f"clip=clip:{tiny_clip}:{weights}")
    assert spec.name == "clip"
    assert spec.build().out_dim == 32
    assert spec.build(modalities=["image"]).modalities == ("image",)


def test_sentence_transformers(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        encoder_specs,
        "SentenceTransformerEncoder",
        lambda model, device: made.append((str(model), device)),
    )
    encoder_spec(f"minilm={tmp_path}").build(device="cuda")
    encoder_spec("minilm=hub:all-MiniLM-L6-v2").build()
    assert made == [(str(tmp_path), "cuda"), ("all-MiniLM-L6-v2", "cpu")]
    assert encoder_spec("minilm=hub:x") == EncoderSpec("minilm", "hub:x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bert", r"of the form tfidf, patch_pca, NAME=FOLDER, .* \(got 'bert'\)"),
        ("a-b=x", r"of the form tfidf"),
        ("mm=", r"of the form tfidf"),
        ("mm=nowhere", r"nowhere is no folder \(a model of the hub is NAME=hub:MODEL\)"),
        ("clip=clip:ViT-B-32", r"of the form NAME=clip:MODEL:WEIGHTS \(got"),
    ],
)
def test_rejects(text, message):
    with pytest.raises(ValueError, match=message):
        encoder_spec(text)
