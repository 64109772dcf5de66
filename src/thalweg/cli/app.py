"""The command ``thalweg``: its verbs, and what every one of them does about errors and signals.

Nothing heavy is imported here, nor at the top of a verb's file: ``thalweg --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from thalweg import __version__
from thalweg.cli.list import list_
from thalweg.cli.predict import predict
from thalweg.cli.race import race
from thalweg.cli.report import report
from thalweg.cli.train import train
from thalweg.errors import Interrupted, OptionError, SaidElsewhere, ThalwegError, spelled_as_command

__all__ = ["app", "main", "out_of_memory", "run"]

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train deep networks well. Begin with: thalweg race --data digits",
    pretty_exceptions_enable=False,
)
app.command("race")(race)
app.command("train")(train)
app.command("predict")(predict)
app.command("list")(list_)
app.command("report")(report)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"thalweg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version and exit."),
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit code.

    Args:
        arguments: what stands after ``thalweg``.

    Returns:
        0; 2 after bad input, 1 after another failure and 130 after an interruption, each explained in
        one sentence on standard error. An exception that isn't one of ours is a mistake of ours and
        passes through, with its traceback.
    """
    arguments = list(arguments) or ["--help"]
    try:
        _refuse_what_is_no_text(arguments)
        with spelled_as_command(), _sigterm_as_sigint():
            code = typer.main.get_command(app).main(
                args=arguments, prog_name="thalweg", standalone_mode=False, obj=arguments
            )
    except typer.Abort:
        code = 130
    except SaidElsewhere as error:
        return error.exit_code
    except (typer.TyperException, ThalwegError) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        prefix = "" if isinstance(error, Interrupted) else "error: "
        print(prefix + " ".join(message.split()), file=sys.stderr)
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        print(f"error: memory ran out ({_brief(error)}); {_LESS}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # whoever read our output has seen enough; Python's own flush at exit must not complain about it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if code == 130:
        print("interrupted", file=sys.stderr)
    return code if isinstance(code, int) else 0


_LESS = "take less data, a smaller model or batch, or a shorter plan; what was saved can be resumed"
_OUT = ("can't allocate memory", "out of memory", "not enough memory", "Storage size calculation overflowed")


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error is about memory: torch raises ordinary ones with words of its own.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("shape mismatch"))
    (True, False)
    """
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT)


def _brief(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _refuse_what_is_no_text(arguments: Sequence[str]) -> None:
    """Bytes that aren't UTF-8 reach us as lone surrogates, which no file of ours could hold."""
    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise OptionError(f"{argument!a} isn't text in UTF-8; rename what it names")


@contextlib.contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """A request to end is treated as Ctrl-C, by whoever handles Ctrl-C at that moment."""

    def hand_on(_number: int, _frame: FrameType | None) -> None:
        # not by way of SIGINT, which a process in the background of a script ignores
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, hand_on)
    except ValueError:
        # not in the main thread, where signals are not ours to handle
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> NoReturn:
    """Carry out the command line of this process and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))
