"""Packages that only some exports need."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(package: str, purpose: str) -> ModuleType:
    """The package, imported.

    Raises:
        ImportError: If it cannot be imported; says what to install.
    """
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError, OSError) as error:
        raise ImportError(
            f"{purpose} needs {package}, which cannot be imported ({error}): run `uv sync --extra "
            'serving` (or `pip install "alignrec-pyg[serving]"`)'
        ) from error
