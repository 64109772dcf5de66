"""``thalweg race``: its options are made of what ``racing/options.py`` declares."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from typing import Annotated, Any

import typer

from thalweg.commands import options
from thalweg.commands.repeatable import repeatable_products
from thalweg.errors import UserError
from thalweg.racing.configuration import refuse_early, wants_workers
from thalweg.racing.options import Options
from thalweg.run.workers import prepare_workers

__all__ = ["race"]

_RUNNING = "How it runs"


@options.takes(Options)
def race(
    context: typer.Context,
    *,
    json: Annotated[bool, options.json(_RUNNING)] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="Say nothing but the verdict and errors.", rich_help_panel=_RUNNING),
    ] = False,
    **given: Any,
) -> None:
    """Find the optimizer, learning rate and schedule that train your model best on your data."""
    # without it a lane's bits depend on who runs beside it
    repeatable_products()
    asked = options.read(Options, given)
    told = Options(**asked)
    # what is refused is told where the race begins
    with suppress(UserError):
        refuse_early(told)
        if wants_workers(told) and told.engine != "loop":
            # its imports take as long as ours, which come next
            prepare_workers()

    from thalweg.commands import verbs
    from thalweg.commands.terminal import Terminal
    from thalweg.run.directory.output import give

    with Terminal(sys.stderr if json else sys.stdout, quiet=quiet) as terminal:
        results = verbs.race(**asked, watcher=terminal, command=shlex.join(["thalweg", *context.obj]))
    if json:
        give(results.model_dump_json(indent=2), "results.json in the run directory holds the same")
