"""Heavy packages that only some encoders need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

_ENCODERS = 'pip install "alignrec-pyg[encoders]"'


def require_package(module: str, needed_by: str) -> ModuleType:
    """A package of the ``encoders`` extra, imported now.

    Args:
        module: Name to import.
        needed_by: What needs it, for the message.

    Raises:
        ImportError: If it is missing, or breaks while it is imported.
    """
    try:
        return import_module(module)
    except Exception as error:  # of a broken one anything, such as a torchvision of another torch
        raise ImportError(
            f"{needed_by} needs '{module}', which cannot be imported ({error}): install it with "
            f"`{_ENCODERS}` (with uv: `uv sync --extra encoders`); torch and torchvision need to "
            "be builds that match"
        ) from error
