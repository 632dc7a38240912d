"""What a sweep is, written down when it starts and compared when it resumes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from alignrec_pyg.experiments.session import Session
from alignrec_pyg.experiments.settings import SettingsError
from alignrec_pyg.storage import read_manifest, write_manifest

DEFINITION = "sweep.json"
_OF_THE_PLACE = ("address", "data", "given", "out", "resume")
"""Arguments that may differ when a sweep resumes: data and results may have been moved."""


def required() -> None:
    """Makes sure that Ray and Optuna are there.

    Raises:
        SettingsError: If not, with what to install.
    """
    missing = [name for name in ("ray", "optuna", "filelock") if find_spec(name) is None]
    if missing:
        raise SettingsError(
            [
                f"sweeps need {' and '.join(missing)}: run `pip install 'ray[tune]' optuna "
                "filelock`, or in a checkout `uv sync --extra tune`"
            ]
        )


def agree(session: Session, context: Mapping[str, str]) -> None:
    """Writes the sweep's definition, or makes sure that it is the one being resumed.

    Args:
        session: The script at work.
        context: What trials depend on beside the arguments: hashes of data and code, and so on.

    Raises:
        SettingsError: If there is a sweep and it is not to be resumed, none to resume, or another.
    """
    path = session.out / DEFINITION
    asked = {"options": defining(session.options), "context": dict(context)}
    if not session.options.resume:
        if path.exists():
            raise SettingsError(
                [
                    f"--out {session.out}: holds a sweep; --resume continues it, another folder "
                    "starts a new one"
                ]
            )
        write_manifest(path, {"arguments": session.options.given, **asked})
        return
    if not path.exists():
        raise SettingsError([f"--resume: {session.out} holds no sweep ({DEFINITION} is missing)"])
    stored = read_manifest(path, ("options", "context"))
    problems = [
        f"--resume: the sweep was started with {name} {stored[part].get(name)!r} "
        f"(got {value!r}); another --out starts a new one"
        for part, values in asked.items()
        for name, value in values.items()
        if stored[part].get(name) != value
    ]
    if problems:
        raise SettingsError(problems)


def defining(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments that make a sweep what it is, as JSON knows them."""
    return {name: value for name, value in vars(options).items() if name not in _OF_THE_PLACE}
