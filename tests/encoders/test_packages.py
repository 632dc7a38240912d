from __future__ import annotations

import importlib
import sys

import pytest

from alignrec_pyg.encoders import (
    BEiT3Config,
    BEiT3Model,
    CLIPEncoder,
    SentencePieceTokenizer,
    SentenceTransformerEncoder,
)
from alignrec_pyg.encoders.packages import require_package

NEEDED = [
    (CLIPEncoder, "CLIPEncoder", "open_clip"),
    (SentenceTransformerEncoder, "SentenceTransformerEncoder", "sentence_transformers"),
    (lambda: BEiT3Model(BEiT3Config.tiny()), "BEiT3Model", "torchscale.architecture.config"),
    (lambda: SentencePieceTokenizer(b""), "SentencePieceTokenizer", "sentencepiece"),
]


@pytest.mark.parametrize(("make", "name", "module"), NEEDED)
def test_a_missing_package_gives_the_install_line(make, name, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    message = rf"{name} needs '{module}'.*pip install \"alignrec-pyg\[encoders\]\""
    with pytest.raises(ImportError, match=message):
        make()


@pytest.mark.parametrize(("make", "name", "module"), NEEDED)
@pytest.mark.parametrize("error", [RuntimeError, AttributeError])
def test_a_broken_package_gives_the_reason_too(make, name, module, error, monkeypatch):
    def broken(asked):
        assert asked == module
        raise error("operator torchvision::nms does not exist")

    monkeypatch.setattr("alignrec_pyg.encoders.packages.import_module", broken)
    with pytest.raises(ImportError, match=r"torchvision::nms does not exist.*builds that match"):
        make()


def test_a_package_that_is_there():
    assert require_package("json", "the test") is importlib.import_module("json")
