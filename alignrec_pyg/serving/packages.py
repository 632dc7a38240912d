"""Packages that only some ways of serving need."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(package: str, purpose: str, extra: str = "serving") -> ModuleType:
    """The package, imported.

    Args:
        package: Name to import.
        purpose: What needs it, for the message.
        extra: The extra of this package that installs it.

    Raises:
        ImportError: If it cannot be imported; says what to install.
    """
    try:
        return importlib.import_module(package)
    except (ImportError, RuntimeError, OSError) as error:
        raise ImportError(
            f"{purpose} needs {package}, which cannot be imported ({error}): run `uv sync --extra "
            f'{extra}` (or `pip install "alignrec-pyg[{extra}]"`)'
        ) from error
