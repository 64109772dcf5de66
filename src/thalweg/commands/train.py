"""``thalweg train``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from thalweg.commands import options
from thalweg.commands.repeatable import repeatable_products

__all__ = ["train"]


def train(
    context: typer.Context,
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE",
            help="A TOML file, such as the winner.toml of a race; not needed with --resume.",
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the recipe, as optimizer.lr=0.01; may be repeated."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The run directory.", show_default="runs/train-DATA-TIME"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the training in --out.")] = False,
    trust_code: Annotated[bool, options.trust_code()] = False,
    device: Annotated[str, options.device()] = "cpu",
    checkpoint_seconds: Annotated[
        float, typer.Option(help="Seconds between checkpoints, written while training goes on.", min=0)
    ] = 60.0,
    json: Annotated[bool, options.json()] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but the result and errors.")] = False,
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
            out=out,
            resume=resume,
            device=device,
            checkpoint_seconds=checkpoint_seconds,
            watcher=terminal,
            command=shlex.join(["thalweg", *context.obj]),
            trust_code=trust_code,
        )
    if json:
        give(results.model_dump_json(indent=2), "results.json in the run directory holds the same")
