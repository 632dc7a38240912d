import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch_geometric.data import HeteroData

from alignrec_pyg.cli import encoder_specs
from alignrec_pyg.cli.encoder_specs import EncoderSpec, add_encoded, encoder_spec
from alignrec_pyg.encoders import (
    BEiT3Config,
    BEiT3Encoder,
    CLIPEncoder,
    ItemContent,
    PatchPCAEncoder,
    SentencePieceTokenizer,
    TfidfEncoder,
)
from alignrec_pyg.experiments import features_report
from alignrec_pyg.graph import feature_table
from alignrec_pyg.storage import write_tensors
from benchmarks import features


def test_those_that_learn():
    tfidf, characters, patch_pca = (encoder_spec(name) for name in encoder_specs.LEARNED)
    assert (tfidf.name, patch_pca.name) == ("tfidf", "patch_pca")
    for spec, analyzer in ((tfidf, "word"), (characters, "char")):
        encoder = spec.build(width=5)
        assert isinstance(encoder, TfidfEncoder)
        assert encoder.pipeline[0].analyzer == analyzer
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


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_networks_of_imagenet(package, monkeypatch):
    made = []
    monkeypatch.setattr(
        encoder_specs.ImageNetEncoder,
        f"from_{package}",
        lambda model, weights, device: made.append((model, weights, device)),
    )
    spec = encoder_spec(f"resnet={package}:resnet50.a1_in1k:weights/resnet.pth")
    assert spec.name == "resnet"
    spec.build(device="cuda")
    assert made == [("resnet50.a1_in1k", "weights/resnet.pth", "cuda")]


OWN = """
import torch

class Length:
    modalities = ("text",)
    out_dim = 1

    def __init__(self, device="cpu"):
        self.device = device

    @property
    def cache_key(self):
        raise AssertionError("not asked for")

    def __call__(self, items):
        return torch.tensor([[float(len(text or ""))] for text in items.text])

def plain():
    encoder = Length()
    encoder.device = "its own"
    return encoder

def with_arguments(size):
    return Length()

class NoEncoder:
    out_dim = 1

    def __call__(self, items):
        return None

def nothing():
    return None

name = "a word"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module beside the folder that commands run in."""
    (tmp_path / "own_encoders.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_encoders", None)


@pytest.mark.usefixtures("own")
def test_an_encoder_of_ones_own():
    spec = encoder_spec("length=own_encoders:Length")
    assert spec == EncoderSpec("length", "own_encoders:Length")
    encoder = spec.build(device="cuda")
    assert encoder.device == "cuda"
    assert encoder(ItemContent(text=["abc"])).tolist() == [[3.0]]
    assert encoder_spec("x=own_encoders:plain").build(device="cuda").device == "its own"


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("own_encoders:Missing", r"'own_encoders:Missing' cannot be imported .*module:Class"),
        ("no_such_module:X", r"'no_such_module:X' cannot be imported"),
        ("own_encoders:with_arguments", r"called without arguments, or with 'device' .*'size'"),
        ("own_encoders:name", r"needs to be a class or function"),
        ("own_encoders:NoEncoder", r"without \['modalities', 'cache_key'\]"),
        ("own_encoders:nothing", r"\(got None without"),
    ],
)
def test_what_is_no_encoder_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        encoder_spec(f"x={source}").build()


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
        ("bert", r"of the form tfidf, tfidf_char, patch_pca, NAME=FOLDER, .* \(got 'bert'\)"),
        ("a-b=x", r"of the form tfidf"),
        ("mm=", r"of the form tfidf"),
        ("mm=nowhere", r"nowhere is no folder \(a model of the hub is NAME=hub:MODEL\)"),
        ("clip=clip:ViT-B-32", r"of the form NAME=clip:MODEL:WEIGHTS \(got"),
        ("x=timm:resnet18", r"of the form NAME=timm:MODEL:WEIGHTS \(got"),
        ("x=torchvision::w.pth", r"of the form NAME=torchvision:MODEL:WEIGHTS \(got"),
    ],
)
def test_rejects(text, message):
    with pytest.raises(ValueError, match=message):
        encoder_spec(text)


WORDS = ("heat", "toys", "war", "love", "space", "train", "ship")


@pytest.fixture
def stage1(tmp_path):
    pytest.importorskip("torchscale", exc_type=ImportError)
    tokenizer = SentencePieceTokenizer.train([f"the {word} and" for word in WORDS], 40)
    sizes = BEiT3Config.tiny(vocab_size=tokenizer.vocab_size)
    BEiT3Encoder(sizes, tokenizer, seed=1).save_pretrained(tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def catalogue(tmp_path):
    """Writes a table, its last item first, and an image for each; gives both paths."""

    def write(num_items):
        (tmp_path / "images").mkdir()
        rng = np.random.default_rng(0)
        lines = ["id,title,plot"]
        for item in reversed(range(num_items)):
            lines.append(f"{item},{WORDS[item % 7]},and {WORDS[item % 5]}")
            pixels = rng.integers(0, 256, (40, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"{item}.png")
        (tmp_path / "items.csv").write_text("\n".join(lines) + "\n")
        return tmp_path / "items.csv", tmp_path / "images"

    return write


CPU = torch.device("cpu")


def items(num_items):
    data = HeteroData()
    data["item"].num_nodes = num_items
    data["item"].id = np.array([str(item) for item in range(num_items)])
    return data


def test_rows_belong_to_the_items_of_their_ids(stage1, catalogue, capsys):
    table, images = catalogue(4)
    problems: list[str] = []
    data, names = add_encoded(
        items(5),
        [f"mm={stage1}"],
        problems,
        items=table,
        text=["title", "plot"],
        images=images,
        device=CPU,
    )
    assert (names, problems) == (["mm"], [])
    photos = [
        torch.from_numpy(np.array(Image.open(images / f"{item}.png"))).permute(2, 0, 1)
        for item in range(4)
    ]
    texts = [f"{WORDS[item % 7]} and {WORDS[item % 5]}" for item in range(4)]
    expected = BEiT3Encoder.from_pretrained(stage1)(ItemContent(texts, photos))
    torch.testing.assert_close(feature_table(data, "mm")[:4], expected, atol=1e-5, rtol=1e-5)
    assert not feature_table(data, "mm")[4].any()  # the catalogue lacks it
    assert "4 of 5 items are in items.csv" in capsys.readouterr().out
    assert not {"text", "image"} & set(data["item"].keys())


def test_what_does_not_fit_is_told(catalogue, tmp_path):
    table, images = catalogue(3)
    problems: list[str] = []

    def add(data, *entries, **changes):
        given = {"items": table, "text": ["title"], "images": images, "device": CPU, **changes}
        add_encoded(data, entries, problems, **given)

    add(items(3), images=None)
    add(items(3), "tfidf", items=None)
    add(items(3), "tfidf", images=None)
    add(items(3), "tfidf", text=["name"])
    add(items(3), "tfidf", items_id="sku")
    add(items(3), "clip")
    other = items(3)
    other["item"].id = np.array(["x", "y", "z"], dtype=object)
    add(other, "tfidf")
    known = items(3)
    known["item"].x_tfidf = torch.ones(3, 2)
    add(known, "tfidf")
    parts = (
        "nothing reads them without --encoder",
        "needs --items, with --image or --images",
        "needs --items, with --image or --images",
        "items.csv: items.csv needs columns ['name']",
        "needs columns ['sku']",
        "--encoder clip",
        "none of 3 is one",
        "of this name",
    )
    assert len(problems) == len(parts)
    for problem, part in zip(problems, parts, strict=True):
        assert part in problem


def test_features_judges_what_encoders_make(stage1, catalogue, tmp_path, monkeypatch):
    monkeypatch.setattr(features_report, "feature_maps", lambda *_: {})
    table, images = catalogue(12)
    folder = tmp_path / "bare"
    folder.mkdir()
    links = [f"{user}\t{(user + step) % 12}\t{step % 3}" for user in range(12) for step in range(6)]
    (folder / "bare.inter").write_text("\n".join(["userID\titemID\tx_label", *links]) + "\n")
    status = features.main(
        [
            *("--data", str(folder), "--out", str(tmp_path / "out"), "--threads", "1"),
            *("--items", str(table), "--text", "title", "plot", "--images", str(images)),
            *("--encoder", f"mm={stage1}"),
        ]
    )
    assert status == 0
    saved = json.loads((tmp_path / "out" / "features.json").read_text())
    assert list(saved["sets"]) == ["mm"]
    assert saved["sets"]["mm"]["width"] == 64
    assert all(list(block) == ["mm"] for block in saved["protocols"].values() if block)


def test_encoders_run_on_the_device_asked_for(catalogue, monkeypatch):
    table, images = catalogue(3)
    asked = []

    class Spec:
        name = "made"

        def build(self, *, device):
            asked.append(device)
            return TfidfEncoder(2)

    monkeypatch.setattr(encoder_specs, "encoder_spec", lambda entry: Spec())
    device = torch.device("cuda", 1)
    add_encoded(items(3), ["made"], [], items=table, text=["title"], images=images, device=device)
    assert asked == ["cuda:1"]
