"""``thalweg transfer``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from thalweg.commands import options
from thalweg.commands.repeatable import repeatable_products
from thalweg.settings.declared import declared
from thalweg.training.transfer_options import TransferOptions

__all__ = ["transfer"]

_SOURCE = declared(TransferOptions)["source"][1]


@options.takes(TransferOptions)
def transfer(
    context: typer.Context,
    *,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help=_SOURCE.said, show_default=False)],
    json: Annotated[bool, options.json()] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but the result and errors.")] = False,
    **given: Any,
) -> None:
    """Say how to go on from a trained net with new data: what to keep, what to tune; as a recipe."""
    repeatable_products()

    from thalweg.commands import verbs
    from thalweg.commands.transfer_terminal import TransferTerminal
    from thalweg.run.directory.output import give

    with TransferTerminal(sys.stderr if json else sys.stdout, quiet=quiet) as terminal:
        results = verbs.transfer(
            source,
            watcher=terminal,
            command=shlex.join(["thalweg", *context.obj]),
            **options.read(TransferOptions, given),
        )
    if json:
        give(results.model_dump_json(indent=2), "results.json in the run directory holds the same")
