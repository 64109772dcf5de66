"""``thalweg train``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from thalweg.commands import options
from thalweg.commands.repeatable import repeatable_products
from thalweg.settings.declared import declared
from thalweg.training.options import TrainOptions

__all__ = ["train"]

_RECIPE = declared(TrainOptions)["recipe"][1]


@options.takes(TrainOptions)
def train(
    context: typer.Context,
    *,
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help=_RECIPE.said, show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the recipe, as optimizer.lr=0.01; may be repeated."
        ),
    ] = None,
    json: Annotated[bool, options.json()] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but the result and errors.")] = False,
    **given: Any,
) -> None:
    """Train what a recipe says, exactly, and go on after any interruption."""
    # as for races, so that a recipe of theirs trains to the same bits
    repeatable_products()

    from thalweg.commands import verbs
    from thalweg.commands.progress import TrainingTerminal
    from thalweg.run.directory.output import give
    from thalweg.training.parallel import is_first

    if not is_first():
        json, quiet = False, True
    with TrainingTerminal(sys.stderr if json else sys.stdout, quiet=quiet) as terminal:
        results = verbs.train(
            recipe,
            changes=set_ or (),
            watcher=terminal,
            command=shlex.join(["thalweg", *context.obj]),
            **options.read(TrainOptions, given),
        )
    if json:
        give(results.model_dump_json(indent=2), "results.json in the run directory holds the same")
