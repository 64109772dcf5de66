"""The command ``thalweg``: its verbs, and what every one of them does about errors and signals.

Nothing heavy is imported here, nor at the top of a verb's file: ``thalweg --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import gc
import io
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from thalweg import __version__
from thalweg.commands.claims import claims
from thalweg.commands.diagnose import diagnose
from thalweg.commands.list import list_
from thalweg.commands.predict import predict
from thalweg.commands.race import race
from thalweg.commands.report import report
from thalweg.commands.train import train
from thalweg.commands.transfer import transfer
from thalweg.errors import Interrupted, OptionError, SaidElsewhere, ThalwegError, spelled_as_command
from thalweg.run.directory.interrupt import ending_signals
from thalweg.run.directory.output import (
    Unread,
    losable_streams,
    quiet_at_exit,
    say,
    unshown,
    usable_descriptors,
)
from thalweg.settings.free_memory import out_of_memory

__all__ = ["app", "main", "run"]

app = typer.Typer(
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train deep networks well. Begin with: thalweg race --data digits",
    pretty_exceptions_enable=False,
)
app.command("race")(race)
app.command("train")(train)
app.command("transfer")(transfer)
app.command("predict")(predict)
app.command("diagnose")(diagnose)
app.add_typer(claims, name="claims")
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
        passes through, with its traceback. Where what is shown can't be written, the work goes on, and the
        code is that of the work; where a result on standard output can't, as with ``--json``, it is 1.
    """
    arguments = list(arguments) or ["--help"]
    if arguments == ["claims"]:
        arguments = ["claims", "--help"]
    with losable_streams() as (shown, _):
        code = _carried_out(arguments)
    if code == 0 and shown.problem is not None and not _leaves_files(arguments):
        if not isinstance(shown.problem, BrokenPipeError):
            say(f"error: {unshown(shown.problem)}", error=True)
        return 1
    return code


def _leaves_files(arguments: Sequence[str]) -> bool:
    """Whether what is shown is beside the work, rather than all of it."""
    helps = any(word in ("-h", "--help", "--version") for word in arguments)
    return arguments[0] in ("race", "train", "transfer", "predict", "report", "claims") and not helps


def _carried_out(arguments: Sequence[str]) -> int:
    try:
        _refuse_what_is_no_text(arguments)
        with spelled_as_command(), _sigterm_as_sigint():
            code = typer.main.get_command(app).main(
                args=list(arguments), prog_name="thalweg", standalone_mode=False, obj=list(arguments)
            )
    except typer.Abort:
        code = 130
    except (SaidElsewhere, Unread) as error:
        return error.exit_code
    except (typer.TyperException, ThalwegError) as error:
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        prefix = "" if isinstance(error, Interrupted) else "error: "
        say(prefix + " ".join(message.split()), error=True)
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        say(f"error: memory ran out ({_brief(error)}); {_LESS}", error=True)
        return 2
    except SystemExit as end:
        # typer's answer to any broken pipe, be it one of ours to a process
        if isinstance(end.__context__, OSError):
            raise end.__context__ from None
        raise
    if code == 130:
        say("interrupted", error=True)
    return code if isinstance(code, int) else 0


_LESS = "take less data, a smaller model or batch, or a shorter plan; what was saved can be resumed"


def _brief(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _refuse_what_is_no_text(arguments: Sequence[str]) -> None:
    """Bytes that aren't UTF-8 reach us as lone surrogates, which no file of ours could hold."""
    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise OptionError(f"{argument!a} isn't text in UTF-8; rename what it names")


@contextlib.contextmanager
def _sigterm_as_sigint() -> Iterator[None]:
    """A request to end, and a terminal that is closed, are Ctrl-C to whoever handles that at the moment."""

    def hand_on(_number: int, _frame: FrameType | None) -> None:
        # not by way of SIGINT, which a process in the background of a script ignores
        raise KeyboardInterrupt

    before = {}
    # not outside of the main thread, where signals are not ours to handle
    with contextlib.suppress(ValueError):
        before = {number: signal.signal(number, hand_on) for number in ending_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> NoReturn:
    """Carry out the command line of this process and exit."""
    usable_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    code = run(sys.argv[1:])
    quiet_at_exit()
    # the process ends: what Python collects while it tears modules down would take a second
    gc.freeze()
    sys.exit(code)
