"""Looking at data before using it: what it is, what is in it, what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignrec_pyg.datasets.recognition import recognize
from alignrec_pyg.report import DataReport


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Args:
        kind: What the data were read as, such as ``"MMRec folder"``.
        report: Sizes and notes; ``None`` if the data cannot be used as they are.
        problems: What has to be mended, each with its place.
    """

    kind: str
    report: DataReport | None
    problems: tuple[str, ...]

    def __str__(self) -> str:
        """The result as text."""
        lines = [f"read as: {self.kind}"]
        if self.report is not None:
            lines.append(str(self.report))
        if self.problems:
            lines.append(f"problems ({len(self.problems)}):")
            lines += [f"  - {problem}" for problem in self.problems]
        return "\n".join(lines)


def check(
    path: str | Path,
    *,
    items: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    text: Sequence[str] = (),
    image: str | None = None,
) -> CheckResult:
    """Read data as :func:`~alignrec_pyg.datasets.from_path` does, and say what it met.

    Nothing is written. Every column of interactions is checked, so one problem does not hide
    another column's.

    Args:
        path: The folder or file.
        items: A table of items, where ``path`` is a file.
        columns: Where ``path`` is a file: columns by their role, of ``"user"``, ``"item"``,
            ``"rating"``, ``"time"``, ``"split"``; roles not given are told by the usual names
            (``user_id``, ``parent_asin``, ``timestamp``, ...), and the notes say so.
        text: Columns of ``items`` with text.
        image: Column of ``items`` with paths of images.

    Raises:
        ValueError: If there is nothing at ``path``, or it is no data that any importer knows.
    """
    found = recognize(path, items=items, columns=columns, text=text, image=image)
    try:
        return CheckResult(found.kind, found.read().report, ())
    except ValueError as error:
        return CheckResult(found.kind, None, tuple(str(error).split("\n")))
