from __future__ import annotations

import sys

import pytest

from alignrec_pyg.encoders import (
    BEiT3Config,
    BEiT3Model,
    CLIPEncoder,
    ImageNetEncoder,
    SentencePieceTokenizer,
    SentenceTransformerEncoder,
)

NEEDED = [
    (CLIPEncoder, "CLIPEncoder", "open_clip"),
    (SentenceTransformerEncoder, "SentenceTransformerEncoder", "sentence_transformers"),
    (lambda: ImageNetEncoder.from_timm("a", None), "ImageNetEncoder.from_timm", "timm"),
    (lambda: ImageNetEncoder.from_torchvision("a", None), "from_torchvision", "torchvision"),
    (lambda: BEiT3Model(BEiT3Config.tiny()), "BEiT3Model", "torchscale.architecture.config"),
    (lambda: SentencePieceTokenizer(b""), "SentencePieceTokenizer", "sentencepiece"),
]


@pytest.mark.parametrize(("make", "name", "module"), NEEDED)
def test_a_missing_package_gives_the_install_line(make, name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(ImportError, match=rf"{name} needs '{module}'.*uv sync --extra encoders"):
        make()
