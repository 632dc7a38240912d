from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer

from alignrec_pyg.cli import entry_points
from alignrec_pyg.cli.options import OptionError, positive_int
from alignrec_pyg.experiments.settings import SettingsError


@dataclass(frozen=True, kw_only=True)
class Base:
    path: Annotated[str | None, typer.Argument(metavar="PATH", help="A file.")] = None
    seeds: Annotated[
        int, typer.Option(parser=positive_int, metavar="N", help="Seeds.", rich_help_panel="Run")
    ] = 3


@dataclass(frozen=True, kw_only=True)
class Options(Base):
    seeds: Annotated[int, typer.Option(help="Seeds of this script.", rich_help_panel="Run")] = 5
    values: Annotated[
        tuple[float, ...],
        typer.Option(parser=float, metavar="X ...", help="Weights.", rich_help_panel="Weights"),
    ] = (0.1, 0.2)
    plain: Annotated[bool, typer.Option("--plain", help="Plainly.")] = False


DOC = "What it is.\n\n    python a.py\n    python b.py\n\nMore.\n"


def script(run):
    return entry_points.script(Options, run, DOC)


def test_options_are_the_fields_of_a_dataclass():
    got = []
    main = script(got.append)
    assert main([]) == 0
    assert main(["x", "--values", "1", "2", "--seeds", "7", "--plain"]) == 0
    assert main(["--values", "1", "--values", "2"]) == 0
    assert got == [
        Options(),
        Options(path="x", values=(1.0, 2.0), seeds=7, plain=True),
        Options(values=(1.0, 2.0)),
    ]
    assert got[0].values == (0.1, 0.2)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("'seeds' needs to be 1 or more", "--seeds needs to be 1 or more"),
        ("file.csv: 'seeds' needs x", "file.csv: --seeds needs x"),
        ("--seeds: 'seeds' needs x", "--seeds: needs x"),
        ("a column 'values' is needed (got 'seeds')", "a column 'values' is needed (got 'seeds')"),
        ("seeds=7 does, or plain=True", "--seeds 7 does, or --plain"),
        ("'path' needs to be there", "'path' needs to be there"),
        ("'out_dim' needs y; other=3", "'out_dim' needs y; other=3"),
    ],
)
def test_arguments_are_named_by_their_options(message, told, capsys):
    def run(_):
        raise ValueError(message)

    assert script(run)([]) == 1
    assert capsys.readouterr().err == f"error: {told}\n"


def test_what_a_script_returns_is_its_exit_code():
    assert script(lambda _: 1)([]) == 1
    assert script(lambda _: None)([]) == 0


def test_help_has_a_section_for_each_group(capsys):
    assert script(lambda _: pytest.fail("it ran"))(["--help"]) == 0
    text = capsys.readouterr().out
    assert "  What it is.\n\n      python a.py\n      python b.py\n" in text
    titles = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == ["Arguments:", "Run:", "Weights:", "Options:"]
    run = text[text.index("Run:") : text.index("Weights:")]
    assert "Seeds of this script.  [default: 5]" in run
    assert "--plain" in text[text.index("Options:") :]


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (SettingsError(["one", "two"]), 2, "error: one\nerror: two\n"),
        (OptionError("--k", "needs more"), 2, "error: --k: needs more\n"),
        (ValueError("one\ntwo"), 1, "error: one\nerror: two\n"),
        (OSError(28, "No space left"), 1, "error: [Errno 28] No space left\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; the same command continues"),
    ],
)
def test_errors_are_lines_and_a_code(error, code, told, capsys):
    def run(_):
        raise error

    assert script(run)([]) == code
    assert capsys.readouterr().err.startswith(told)


def spread(*arguments):
    return list(entry_points._repeated(arguments, {"--k", "--set"}))


def test_options_of_several_values_are_repeated():
    assert spread("x", "--k", "1", "2", "--all", "--set", "a=1") == [
        *("x", "--k", "1", "--k", "2", "--all", "--set", "a=1"),
    ]
    assert spread("--k", "1", "--k", "2") == ["--k", "1", "--k", "2"]  # as typer has it
    assert spread("--k=1", "x") == ["--k=1", "x"]
    assert spread("--k", "-1", "--lr", "-2") == ["--k", "-1", "--lr", "-2"]


@pytest.mark.parametrize("arguments", [["--k"], ["--k", "--all"], ["--all", "--set"]])
def test_an_option_needs_a_value(arguments):
    with pytest.raises(OptionError, match="needs at least one value"):
        spread(*arguments)
