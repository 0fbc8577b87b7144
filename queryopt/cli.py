"""What every command shares: exit codes, errors in one line, output, progress.

A command is a `Command` (or a `Group` of them); its callback takes `out: Output` as its first argument through
`common_options`, calls the library, and returns the ExitCode (None means done).
"""

import functools
import inspect
import io
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import click

from queryopt import __version__
from queryopt.errors import ExitCode, QueryOptError
from queryopt.progress import Advance, no_advance
from queryopt.text import from_here, json_line, json_text, relative_paths

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = [
    "Command",
    "Group",
    "Output",
    "batch_option",
    "common_options",
    "device_option",
    "main_argument",
    "option_group",
    "threads_option",
]


_MAX_THREADS = 1024
_MAX_BATCH = 1 << 16
"""More of either is a slip of the finger, and some libraries crash over it."""

_SILENCE = 30.0
"""Seconds after which work that draws no bar says how far it is."""


@dataclass
class Output:
    """Where a command writes: results on stdout (JSON alone with --json), everything else on stderr.

    Paths below the current folder are said relative to it, except in JSON.
    """

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    _drawing: "Console | None" = field(default=None, init=False, repr=False)
    """The console of the progress bar, while there is one."""
    _said: float = field(default_factory=time.monotonic, init=False, repr=False)
    """When the last line was written to stderr."""

    def print(self, *renderables: "RenderableType") -> None:
        """Print the result (text or rich renderables) to stdout; nothing with --json."""
        if self.json:
            return
        renderables = tuple(relative_paths(part) if isinstance(part, str) else part for part in renderables)
        console = self._console(sys.stdout)
        if sys.stdout.isatty():
            console.print(*renderables, soft_wrap=True)
            return
        # Tables fill their cells with spaces, which are of no use in a pipe where each line ends as it will.
        with console.capture() as printed:
            console.print(*renderables, soft_wrap=True)
        sys.stdout.write("\n".join(line.rstrip(" ") for line in printed.get().split("\n")))

    def result(self, value: Any) -> None:
        """With --json, print the result (JSON-serialisable; NaN and infinities become null) to stdout."""
        if self.json:
            click.echo(json_text(value))

    def line(self, value: Any) -> None:
        """With --json, print one of several results as one line of JSON, at once: of a command that goes on."""
        if self.json:
            click.echo(json_line(value))
            sys.stdout.flush()

    def log(self, message: str) -> None:
        """A line for the person at the terminal, on stderr; nothing with -q."""
        if not self.quiet:
            self._say(message)

    def warn(self, message: str) -> None:
        """A warning on stderr, also with -q."""
        self._say(f"warning: {message}")

    def _say(self, message: str) -> None:
        """One line on stderr, whatever names it holds; above the progress bar, if there is one."""
        self._said = time.monotonic()
        if self._drawing is None:
            click.echo(from_here(message), err=True)
        else:
            self._drawing.print(from_here(message), soft_wrap=True)

    @contextmanager
    def progress(self, description: str, total: int | None, unit: str = "images") -> Iterator[Advance]:
        """A bar with rate and time left on stderr, where that is a terminal; elsewhere a line after every half minute
        in which nothing else was said. Nothing with -q.
        """
        if self.quiet:
            yield no_advance
            return
        if not sys.stderr.isatty():
            yield self._lines(description, total, unit)
            return
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text(f"{speed:,.1f} {unit}/s" if speed else "", style="dim")

        columns: list[ProgressColumn] = [
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False, style="dim"),
        ]
        console = self._console(sys.stderr)
        # Not redirected: what is written to stdout meanwhile may be going to a file.
        with Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False) as bar:
            task = bar.add_task(description, total=total, note="")

            def advance(count: int = 1, note: str | None = None) -> None:
                if note is None:
                    bar.advance(task, count)
                else:
                    bar.update(task, advance=count, note=note)

            self._drawing = console
            try:
                yield advance
            finally:
                self._drawing = None

    def _lines(self, description: str, total: int | None, unit: str) -> Advance:
        done = 0

        def advance(count: int = 1, note: str | None = None) -> None:
            nonlocal done
            done += count
            if time.monotonic() - self._said >= _SILENCE:
                of = f" of {total:,}" if total is not None else ""
                self.log(f"{description}: {done:,}{of} {unit}" + (f", {note}" if note else ""))

        return advance

    @staticmethod
    def _console(file: IO[str]) -> "Console":
        from rich.console import Console

        return Console(
            file=file,
            # Piped output is never cut or wrapped to a guessed width: paths stay whole.
            width=None if file.isatty() else 100_000,
            # Nor is a file's name ever taken for markup (or ":bird:" for a picture of one).
            markup=False,
            emoji=False,
            highlight=False,
            legacy_windows=False,
        )


class _Main:
    """Runs a command and turns whatever happens into an exit code and, at most, one line on stderr."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:
        if not extra.pop("standalone_mode", True):
            return super().main(args, prog_name, standalone_mode=False, **extra)  # type: ignore[misc]
        sys.exit(self._run(args, prog_name, extra))

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _reader_gone():  # --help and --version are printed here
            context: click.Context = super().make_context(*args, **extra)  # type: ignore[misc]
            return context

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for before, argument in zip(["", *args], args, strict=False):
            if not argument:
                where = f"after {before}" if before else "at the start"
                raise click.UsageError(f"An argument ({where}) is empty: a variable that is not set?", ctx)
            if argument.startswith("--") and argument.endswith("="):
                raise click.UsageError(f"{argument} is empty: a variable that is not set?", ctx)
        rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        with _reader_gone():
            return super().invoke(ctx)  # type: ignore[misc]

    def _run(self, args: Sequence[str] | None, prog_name: str | None, extra: dict[str, Any]) -> int:
        name: str = prog_name or getattr(self, "name", None) or "queryopt"
        _open_standard_streams()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A class or file name that the terminal's encoding has not is shown with escapes, as on stderr.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            code = super().main(args, name, standalone_mode=False, **extra)  # type: ignore[misc]
            sys.stdout.flush()
            return int(code or ExitCode.DONE)
        except Exception as error:
            return self.end_with(error, name)

    def end_with(self, error: Exception, name: str) -> int:
        """Say why the command `name` ends, in one line on stderr, and return its exit code; a bug's traceback too."""
        try:
            raise error
        except click.Abort:
            click.echo("interrupted", err=True)
            return ExitCode.INTERRUPTED
        except click.ClickException as error:
            _in_words(error).show()
            return ExitCode.USAGE
        except QueryOptError as error:
            click.echo(from_here(f"{name}: error: {error}"), err=True)
            return error.exit_code
        except (_ReaderGoneError, BrokenPipeError):
            # The reader (head, say) had enough. Python would complain again when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.DONE
        except OSError as error:
            if error.filename is None and error.errno is None:
                return _bug(name)
            where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
            click.echo(from_here(f"{name}: error: {where}{error.strerror or error}"), err=True)
            return ExitCode.INPUT
        except MemoryError as error:
            reason = " ".join(str(error).split()) or "there is none left"
            click.echo(
                from_here(f"{name}: error: not enough memory ({reason}): try a smaller --batch, or less at once"),
                err=True,
            )
            return ExitCode.INPUT
        except Exception:
            return _bug(name)


def _in_words(error: click.ClickException) -> click.ClickException:
    """What click says of a wrong number, without its mathematics; other errors as they are."""
    kind = error.param.type if type(error) is click.BadParameter and error.param is not None else None
    whole = kind is click.INT or isinstance(kind, click.IntRange)
    value, _, reason = error.message.partition(" is not ")
    if not (whole or kind is click.FLOAT or isinstance(kind, click.FloatRange)) or not reason:
        return error
    low, high = getattr(kind, "min", None), getattr(kind, "max", None)
    if low is not None and high is not None:
        limits = f" from {low} to {high}"
    elif low is not None:
        limits = f" {'above' if getattr(kind, 'min_open', False) else 'of at least'} {low}"
    else:
        limits = "" if high is None else f" of at most {high}"
    assert isinstance(error, click.BadParameter)
    what = f"{value} is not a {'whole ' if whole else ''}number{limits}."
    return click.BadParameter(what, error.ctx, error.param, error.param_hint)


class _ReaderGoneError(Exception):
    """Whoever read stdout closed it."""


@contextmanager
def _reader_gone() -> Iterator[None]:
    """Click itself would exit with 1 on a broken pipe."""
    try:
        yield
    except BrokenPipeError as error:
        raise _ReaderGoneError from error


def _open_standard_streams() -> None:
    """Where a caller closed stdin, stdout or stderr (`>&-`), have what goes there go nowhere.

    Without this, Python has no such stream, and the next file to be opened (an index, say) gets its number, and with it
    whatever a library of C prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


class Command(_Main, click.Command):  # type: ignore[misc]
    """A click command that ends with queryopt's exit codes."""


class Group(_Main, click.Group):  # type: ignore[misc]
    """A click group whose sub-commands end with queryopt's exit codes."""

    command_class = Command
    group_class = type


def option_group(
    name: str, make: Callable[..., Any], *options: Callable[..., Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add options that travel together: the callback gets them as one argument, `name`.

    make: takes them by the names of their values, as a rule a dataclass; what it raises is raised. options: decorators,
    such as `click.option(…)`, in the order of --help.
    """
    names = list(inspect.signature(make).parameters)

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrap(*args: Any, **values: Any) -> Any:
            own = {option: values.pop(option) for option in names}
            return function(*args, **{name: make(**own)}, **values)

        for option in reversed(options):
            wrap = option(wrap)
        return wrap

    return add


class _MainArgument(click.Argument):
    """See main_argument."""

    def __init__(self, declarations: Sequence[str], choose: Callable[[str], str | None], **settings: Any) -> None:
        super().__init__(declarations, **settings)
        self._choose = choose

    def handle_parse_result(  # type: ignore[override]
        self, ctx: click.Context, opts: dict[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        given = opts.pop(self.name, None)
        kept = []
        for word in given if isinstance(given, tuple) else [given] if isinstance(given, str) else []:
            option = self._choose(word)
            if option is None:
                kept.append(word)
            elif opts.setdefault(option, word) != word:
                flag = next(each.opts[0] for each in ctx.command.params if each.name == option)
                raise click.UsageError(f"{word} and {flag} {opts[option]}: give one of the two", ctx)
        if kept:
            opts[self.name] = tuple(kept)
        return super().handle_parse_result(ctx, opts, args)


def main_argument(
    metavar: str, choose: str | Callable[[str], str | None], **settings: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add an argument that is another way to write an option: `qo-train photos/` for `qo-train --data photos/`.

    choose: the name of the option's value, or a function that says it for what was given. With settings of
    click.argument it may take several (nargs=-1); those for which the function says None are the callback's then.
    """
    own: dict[str, Any] = {"required": False, "expose_value": False, "is_eager": True, "metavar": metavar} | settings
    name = own.pop("name", "main_argument")
    chosen = choose if callable(choose) else lambda _: choose
    return click.argument(name, cls=_MainArgument, choose=chosen, **own)


def _output(json: bool, quiet: bool, verbose: bool) -> Output:
    out = Output(json, quiet, verbose)
    _log_to(out, logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING)
    return out


common_options = option_group(
    "out",
    _output,
    click.option("--json", is_flag=True, help="Print JSON alone on stdout; logs go to stderr."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no logs: results, warnings and errors only."),
    click.option("-v", "--verbose", is_flag=True, help="Say more on stderr."),
    click.version_option(__version__, message="%(prog)s %(version)s"),
)
"""Adds --json, -q, -v and --version; the callback gets `out: Output`."""


def threads_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --threads (int or None: as many as this process may use)."""
    return click.option(
        "--threads",
        type=click.IntRange(1, _MAX_THREADS),
        help="Threads to use.  [default: all that this process may use]",
    )(function)


def batch_option(default: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --batch (int)."""
    return click.option(
        "--batch",
        type=click.IntRange(1, _MAX_BATCH),
        default=default,
        show_default=True,
        help="Images in one run of the model.",
    )


def device_option(*choices: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add --device with these choices; the first is the default."""
    return click.option(
        "--device", type=click.Choice(choices), default=choices[0], show_default=True, help="Where to run."
    )


def _bug(name: str) -> int:
    traceback.print_exc()
    click.echo(
        f"{name}: this is a bug in queryopt {__version__} (Python {platform.python_version()}, {platform.platform()}). "
        "Please report it with the lines above and the command you ran; CONTRIBUTING.md says where.",
        err=True,
    )
    return ExitCode.BUG


def _log_to(out: Output, level: int) -> None:
    logger = logging.getLogger("queryopt")
    logger.handlers[:] = [_LogHandler(out)]
    logger.setLevel(level)
    logger.propagate = False


class _LogHandler(logging.Handler):
    def __init__(self, out: Output) -> None:
        super().__init__()
        self._out = out

    def emit(self, record: logging.LogRecord) -> None:
        self._out._say(f"{record.levelname.lower()}: {record.getMessage()}")
