"""All commands together, and what becomes of errors: a line on stderr and an exit code."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

import typer

from alignrec_pyg.cli.check import check
from alignrec_pyg.cli.encode import encode
from alignrec_pyg.cli.evaluate import evaluate
from alignrec_pyg.cli.features import features
from alignrec_pyg.cli.options import SeveralValues
from alignrec_pyg.cli.pretrain import pretrain
from alignrec_pyg.cli.recommend import recommend
from alignrec_pyg.cli.train import train

FAILED = 1
"""Exit code: the data cannot be used, or the work failed."""

INTERRUPTED = 130
"""Exit code: Ctrl-C."""

app = typer.Typer(
    name="alignrec",
    help="Multimodal recommendation: from interactions, texts and images to recommendations.",
    epilog="Exit codes: 0 done; 1 the data cannot be used, or the work failed; 2 the arguments do "
    "not fit; 130 Ctrl-C.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command(cls=SeveralValues)(check)
app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(pretrain)
for command in (encode, train, evaluate, recommend, features):
    app.command(cls=SeveralValues)(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: The command line (default: that of the process).

    Returns:
        The exit code: 0, 1 (unusable data, failed work), 2 (arguments that do not fit) or 130
        (Ctrl-C). Results are on stdout; errors, each a line, and progress on stderr.
    """
    # PyG scripts its pooling when imported, which torch deprecates: nothing the user could act on.
    warnings.filterwarnings("ignore", r"`torch\.jit\.script` is deprecated")
    try:
        code = app(args=arguments, prog_name="alignrec", standalone_mode=False)
    except typer.TyperException as error:
        return _told(_with_way_out(error), error.exit_code)
    except (ValueError, OSError, ImportError, FloatingPointError, MemoryError) as error:
        return _told(str(error) or type(error).__name__, FAILED)
    except RuntimeError as error:
        from alignrec_pyg import CheckpointError

        if not isinstance(error, CheckpointError):
            raise
        return _told(str(error), FAILED)
    if code == INTERRUPTED:  # typer has caught the KeyboardInterrupt
        return _told("interrupted; pretrain, encode and train go on from what they saved", code)
    return int(code or 0)


def _told(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return code


def _with_way_out(error: typer.TyperException) -> str:
    """What typer itself met says where to look; an :class:`OptionError` says it all."""
    context = getattr(error, "ctx", None)
    if context is None:
        return error.format_message()
    return f"{error.format_message()} ({context.command_path} --help says what there is)"
