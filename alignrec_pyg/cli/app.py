"""All commands together."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from alignrec_pyg.cli.check import CheckOptions, check
from alignrec_pyg.cli.compare import CompareOptions, compare
from alignrec_pyg.cli.encode import EncodeOptions, encode
from alignrec_pyg.cli.entry_points import Command, command_of, new_app, run_app
from alignrec_pyg.cli.evaluate import evaluate
from alignrec_pyg.cli.features import FeaturesOptions, features
from alignrec_pyg.cli.pretrain import PretrainOptions, pretrain
from alignrec_pyg.cli.recommend import recommend
from alignrec_pyg.cli.serve import serve
from alignrec_pyg.cli.train import TrainOptions, train
from alignrec_pyg.cli.tune import TuneOptions, tune

app = new_app(
    name="alignrec",
    help="Multimodal recommendation: from interactions, texts and images to recommendations.",
    epilog="Exit codes: 0 done; 1 the data cannot be used, or the work failed; 2 the arguments do "
    "not fit; 130 Ctrl-C.",
)


def _print_version(asked: bool) -> None:
    if asked:
        print(metadata.version("alignrec-pyg"))
        raise typer.Exit


@app.callback()
def _alignrec(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    pass


for command in (evaluate, recommend, serve):
    app.command(cls=Command)(command)
app.command("check", cls=Command)(command_of(CheckOptions, check, check.__doc__))
app.command("compare", cls=Command)(
    command_of(CompareOptions, compare, compare.__doc__, CompareOptions.completed)
)
app.command("encode", cls=Command)(command_of(EncodeOptions, encode, encode.__doc__))
app.command("features", cls=Command)(command_of(FeaturesOptions, features, features.__doc__))
app.command("pretrain", cls=Command)(command_of(PretrainOptions, pretrain, pretrain.__doc__))
app.command("train", cls=Command)(command_of(TrainOptions, train, train.__doc__))
app.command("tune", cls=Command)(
    command_of(TuneOptions, tune, tune.__doc__, TuneOptions.with_those_stored)
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, as :func:`~alignrec_pyg.cli.entry_points.run_app` says."""
    return run_app(app, arguments, "alignrec")
