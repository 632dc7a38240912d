from __future__ import annotations

import importlib
import sys

import pytest

from alignrec_pyg.checks import require_package


def test_gives_a_package_that_is_there():
    assert require_package("json", "the test", "json") is importlib.import_module("json")


def test_a_missing_package_gives_the_lines_that_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)  # as if it were not installed
    with pytest.raises(ImportError) as raised:
        require_package("faiss", "ItemIndex", "faiss-cpu", extra="serving")
    assert str(raised.value) == (
        "ItemIndex needs 'faiss', which cannot be imported (import of faiss halted; None in "
        "sys.modules): run `pip install faiss-cpu`, or in a checkout `uv sync --extra serving`"
    )


def test_without_an_extra_only_pip_is_named():
    with pytest.raises(ImportError, match=r"run `pip install no-such-package`$"):
        require_package("no_such_package", "the test", "no-such-package")


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, ImportError, OSError])
def test_a_broken_package_gives_its_reason_too(error, monkeypatch):
    def broken(asked):
        assert asked == "open_clip"
        raise error("operator torchvision::nms does not exist")

    monkeypatch.setattr("alignrec_pyg.checks.import_module", broken)
    with pytest.raises(ImportError, match=r"torchvision::nms does not exist.*builds that match"):
        require_package("open_clip", "CLIPEncoder", "open-clip-torch")
