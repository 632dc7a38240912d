"""The checks of arguments and of optional packages: what is wrong, what was given, the way out."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

_BROKEN = "; torch and compiled packages beside it, such as torchvision, need builds that match"


def require_package(
    module: str, needed_by: str, install: str, extra: str | None = None
) -> ModuleType:
    """Imports a package that only some uses need.

    Args:
        module: Name to import.
        needed_by: What needs it, for the message.
        install: What to hand to ``pip install``.
        extra: The extra that installs it in a checkout of the repository.

    Returns:
        The imported module.

    Raises:
        ImportError: If it is missing or fails while it is imported.

    Example:
        >>> from alignrec_pyg.checks import require_package
        >>> require_package("json", "this example", "json").dumps([1])
        '[1]'
    """
    try:
        return import_module(module)
    except Exception as error:  # of a broken one anything, such as a torchvision of another torch
        checkout = f", or in a checkout `uv sync --extra {extra}`" if extra else ""
        broken = "" if isinstance(error, ModuleNotFoundError) else _BROKEN
        raise ImportError(
            f"{needed_by} needs '{module}', which cannot be imported ({error}): run "
            f"`pip install {install}`{checkout}{broken}"
        ) from error
