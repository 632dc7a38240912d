"""Entry points of commands and scripts: options, help, and how errors are printed."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from alignrec_pyg.cli.options import OptionError

FAILED = 1
"""Exit code: the data cannot be used, or the work failed."""

USAGE = 2
"""Exit code: the arguments do not fit."""

INTERRUPTED = 130
"""Exit code: Ctrl-C."""

_ARGUMENT = re.compile(
    r"--[\w-]+ \S+=\S*"  # an option with what was given for it, which stays
    r"|(?:^|(?<=: ))'(?P<first>\w+)'"  # within a sentence words in quotes may be columns
    r"|'(?P<long>[a-z]+_\w+)'"
    r"|\b(?P<set>[a-z]\w*)=(?P<value>True|False|-?[\w.]+)",
    re.MULTILINE,
)

_TWICE = re.compile(r"(--[\w-]+): \1 ")  # an option in front of a message that begins with it

_RUNNING: ContextVar[Sequence[Any]] = ContextVar("parameters of the command", default=())

OptionsT = TypeVar("OptionsT")


class Command(TyperCommand):
    """A command that groups its options in ``--help`` and reads several values in one go.

    ``--k 10 20`` is what typer wants as ``--k 10 --k 20``; both work.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeats the option before each of its values, as typer expects."""
        several = {
            name for option in self.params if getattr(option, "multiple", False)
            for name in option.opts
        }  # fmt: skip
        return super().parse_args(ctx, list(_repeated(args, several)))

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; errors of the library name the options instead of the arguments."""
        before = _RUNNING.set(self.params)
        try:
            return super().invoke(ctx)
        except OptionError as error:
            error.message = in_options(error.message)
            raise
        except (ValueError, FloatingPointError) as error:
            error.args = (in_options(str(error)),)
            raise
        finally:
            _RUNNING.reset(before)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes arguments and options under the title of their ``rich_help_panel``.

        Typer would import rich for it, which takes longer than all else that ``--help`` does.
        """
        sections: dict[str, list[tuple[str, str]]] = {}
        arguments_first = sorted(self.get_params(ctx), key=lambda one: one.param_type_name)
        for parameter in arguments_first:
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = f"{parameter.param_type_name}s".capitalize()
                title = getattr(parameter, "rich_help_panel", None) or usual
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def in_options(message: str) -> str:
    """Replaces arguments in a message of the library by the options of the command that runs.

    ``'max_failures' needs ...`` becomes ``--max-failures needs ...`` and ``quoted=False`` becomes
    ``--unquoted``, where the command has such options.
    """
    options = {p.name: p for p in _RUNNING.get() if p.param_type_name == "option"}

    def word(match: re.Match[str]) -> str:
        option = options.get(match["first"] or match["long"] or match["set"])
        if option is None:
            return match[0]
        if match["value"] == "False" and option.secondary_opts:
            return str(option.secondary_opts[0])
        given = "" if match["value"] in (None, "True") else f" {match['value']}"
        return f"{option.opts[0]}{given}"

    return _TWICE.sub(r"\1: ", _ARGUMENT.sub(word, message))


def _repeated(args: Iterable[str], several: set[str]) -> Iterator[str]:
    option, num_values = None, 0
    for argument in args:
        if argument.startswith("--"):
            _check_values(option, num_values)
            option, num_values = (argument if argument in several else None), 0
            if option is None:
                yield argument
        elif option is None:
            yield argument
        else:
            num_values += 1
            yield from (option, argument)
    _check_values(option, num_values)


def _check_values(option: str | None, num_values: int) -> None:
    if option is not None and num_values == 0:
        raise OptionError(option, "needs at least one value (got none)")


def command_of(
    options: type[OptionsT],
    run: Callable[[OptionsT], int | None],
    doc: str | None,
    complete: Callable[[OptionsT, set[str]], OptionsT] = lambda options, given: options,
) -> Callable[..., int]:
    """A function that typer makes a command of, with the fields of a dataclass as its options.

    The fields are ``Annotated[..., typer.Option(...)]``, with defaults; several values are a
    ``tuple[..., ...]``. ``doc`` is what ``--help`` says; its indented paragraphs keep their lines.
    ``complete`` receives the names of the options that were given, also those given with their
    default, and returns the options to run with.
    """
    hints = get_type_hints(options, include_extras=True)
    signature = inspect.signature(options)

    def command(context: typer.Context, **values: Any) -> int:
        taken = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        sources = {name: context.get_parameter_source(name) for name in taken}
        given = {n for n, source in sources.items() if source and source.name == "COMMANDLINE"}
        return run(complete(options(**taken), given)) or 0

    command.__doc__ = _help_text(doc)
    kinds = {name: _for_typer(hints[name]) for name in signature.parameters}
    command.__annotations__ = {"context": typer.Context, **kinds}
    parameters = [signature.parameters[name].replace(annotation=kinds[name]) for name in kinds]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[context, *parameters], return_annotation=int
    )
    return command


def _for_typer(hint: Any) -> Any:
    """Typer accepts several values only as a list."""
    kind, *extras = get_args(hint)
    if get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
    return Annotated[(kind, *extras)]


def _help_text(doc: str | None) -> str:
    """A docstring whose indented paragraphs typer leaves as they are."""
    paragraphs = inspect.cleandoc(doc or "").split("\n\n")
    return "\n\n".join(f"\b\n{p}" if p.startswith("    ") else p for p in paragraphs)


def script(
    options: type[OptionsT],
    run: Callable[[OptionsT], int | None],
    doc: str | None,
    complete: Callable[[OptionsT, set[str]], OptionsT] = lambda options, given: options,
) -> Callable[..., int]:
    """The ``main`` of a script, a function of the command line (default: that of the process).

    The arguments are those of :func:`command_of`.
    """

    def main(arguments: Sequence[str] | None = None) -> int:
        app = new_app()
        app.command(cls=Command)(command_of(options, run, doc, complete))
        return run_app(app, arguments)

    return main


def new_app(**settings: Any) -> typer.Typer:
    """An application without rich, completion and coloured tracebacks."""
    return typer.Typer(
        add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, **settings
    )


def run_app(
    app: typer.Typer, arguments: Sequence[str] | None = None, name: str | None = None
) -> int:
    """Runs an application on a command line (default: that of the process).

    The exit code is 0, 1 (unusable data, failed work), 2 (arguments that do not fit) or 130
    (Ctrl-C). Results are on stdout; errors, each a line, and progress on stderr.
    """
    try:
        code = app(args=arguments, prog_name=name, standalone_mode=False)
    except typer.TyperException as error:
        return _told(_with_way_out(error), error.exit_code)
    except ValueError as error:
        from alignrec_pyg.experiments.settings import SettingsError

        return _told(str(error), USAGE if isinstance(error, SettingsError) else FAILED)
    except (OSError, ImportError, FloatingPointError, MemoryError) as error:
        return _told(str(error) or type(error).__name__, FAILED)
    except RuntimeError as error:
        from alignrec_pyg import CheckpointError, LockedError

        if not isinstance(error, CheckpointError | LockedError):
            raise
        return _told(str(error), FAILED)
    if code == INTERRUPTED:  # typer has caught the KeyboardInterrupt
        return _told("interrupted; the same command continues from what it saved", code)
    return int(code or 0)


def _told(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    return code


def _with_way_out(error: typer.TyperException) -> str:
    """Points errors of typer itself to ``--help``; an :class:`OptionError` is complete."""
    context = getattr(error, "ctx", None)
    if context is None:
        return error.format_message()
    return f"{error.format_message()} ({context.command_path} --help says what there is)"
