from __future__ import annotations

import importlib
import sys

import pytest

from alignrec_pyg.encoders import CLIPEncoder, SentenceTransformerEncoder
from alignrec_pyg.encoders.packages import require_package

ENCODERS = [(CLIPEncoder, "open_clip"), (SentenceTransformerEncoder, "sentence_transformers")]


@pytest.mark.parametrize(("make", "module"), ENCODERS)
def test_a_missing_package_gives_the_install_line(make, module, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    message = rf"{make.__name__} needs '{module}'.*pip install \"alignrec-pyg\[encoders\]\""
    with pytest.raises(ImportError, match=message):
        make()


@pytest.mark.parametrize(("make", "module"), ENCODERS)
def test_a_broken_package_gives_the_reason_too(make, module, monkeypatch):
    def broken(name):
        assert name == module
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("alignrec_pyg.encoders.packages.import_module", broken)
    with pytest.raises(ImportError, match=r"torchvision::nms does not exist.*builds that match"):
        make()


def test_a_package_that_is_there():
    assert require_package("json", "the test") is importlib.import_module("json")
