"""Tables of text: aligned columns for a terminal, Markdown, LaTeX and CSV.

A table is a sequence of rows of equal length; in Markdown and LaTeX the first row is the header. A
cell that is :class:`Bold` stands out in all of them but CSV.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_BOLD, _PLAIN = "\033[1m", "\033[0m"
_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "\n": " ",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


class Bold(str):
    """A cell that stands out, such as the best value of a column."""

    __slots__ = ()


def aligned_table(
    rows: Sequence[Sequence[str]],
    *,
    left: Sequence[int] = (0,),
    rule: bool = False,
    ansi: bool = False,
) -> str:
    """Rows with their columns aligned, two spaces apart: those of ``left`` to the left.

    With ``rule``, a line of dashes follows the first row. With ``ansi``, :class:`Bold` cells are
    printed in bold; otherwise they get a ``*`` in front.
    """
    starred = [
        [f"*{cell}" if isinstance(cell, Bold) and not ansi else cell for cell in row]
        for row in rows
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*starred, strict=True)]
    lines = []
    for row, texts in zip(rows, starred, strict=True):
        padded = [
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(texts, widths, strict=True))
        ]
        if ansi:
            padded = [
                f"{_BOLD}{text}{_PLAIN}" if isinstance(cell, Bold) else text
                for cell, text in zip(row, padded, strict=True)
            ]
        lines.append("  ".join(padded).rstrip())
    if rule:
        lines.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,)) -> str:
    """A Markdown table; vertical bars in cells are escaped."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def text(cell: str) -> str:
        escaped = cell.replace("|", r"\|").replace("\n", " ")
        return f"**{escaped}**" if isinstance(cell, Bold) else escaped

    header, *others = ([text(cell) for cell in row] for row in rows)
    rule = ["---" if column in left else "---:" for column in range(len(header))]
    return "\n".join(line(cells) for cells in (header, rule, *others))


def latex_table(rows: Sequence[Sequence[str]]) -> str:
    r"""A LaTeX ``tabular``, which needs no package; special characters in cells are escaped."""

    def text(cell: str) -> str:
        escaped = cell.translate(_LATEX)
        return f"\\textbf{{{escaped}}}" if isinstance(cell, Bold) else escaped

    header, *others = (f"{' & '.join(text(cell) for cell in row)} \\\\" for row in rows)
    columns = "l" + "r" * (len(rows[0]) - 1)
    start, end = f"\\begin{{tabular}}{{{columns}}}", "\\end{tabular}"
    return "\n".join([start, r"\hline", header, r"\hline", *others, r"\hline", end])


def csv_table(rows: Iterable[Sequence[object]]) -> str:
    """Comma-separated values: floats unrounded, ``None`` as an empty field."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
