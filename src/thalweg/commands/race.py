"""``thalweg race``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from thalweg.commands import options, parsing
from thalweg.commands.repeatable import repeatable_products

__all__ = ["race"]

_PROBLEM = "The problem"
_FIELD = "Who races"
_EFFORT = "How much work"
_VERDICT = "The verdict"
_RUNNING = "How it runs"


def race(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Option(
            help="A built-in name, a file (CSV, Parquet, JSON lines, NPZ), idx:DIR, images:DIR, "
            "file.py:function or package.module:function.",
            rich_help_panel=_PROBLEM,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="linear, mlp:128,64, cnn:16,32, file.py:factory or package.module:factory.",
            show_default="mlp:64, or mlp:128,64 beyond 256 inputs",
            rich_help_panel=_PROBLEM,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="The column to predict.", rich_help_panel=_PROBLEM)
    ] = None,
    task: Annotated[
        Literal["classification", "regression"] | None,
        typer.Option(help="What the target is, where its values don't settle it.", rich_help_panel=_PROBLEM),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="By name, or file.py:function.", rich_help_panel=_PROBLEM)
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="By name, or file.py:function.", rich_help_panel=_PROBLEM)
    ] = None,
    missing: Annotated[
        Literal["drop", "median"] | None,
        typer.Option(
            help="Missing values: drop their rows, or put the training split's median in their place.",
            rich_help_panel=_PROBLEM,
        ),
    ] = None,
    type_: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            metavar="COLUMN=category|number|ignore",
            help="Read a column as this type, or leave it out; may be repeated.",
            rich_help_panel=_PROBLEM,
        ),
    ] = None,
    optimizers: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Names, all, file.py:my_rule, file.py:Class or torch.optim:Class.",
            show_default="the seven basic first-order ones",
            rich_help_panel=_FIELD,
        ),
    ] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME.HYPER=LOW:HIGH",
            help="Search this range, for example adam.lr=1e-4:1e-1; may be repeated.",
            rich_help_panel=_FIELD,
        ),
    ] = None,
    schedules: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="The learning-rate schedules that every optimizer may draw.",
            show_default="constant,cosine,linear",
            rich_help_panel=_FIELD,
        ),
    ] = None,
    initializations: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="How weights may begin, scale and sparsity searched: default,sparse,normalized,...",
            show_default="default, as the model makes them",
            rich_help_panel=_FIELD,
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="Settings an optimizer tries in each split.", show_default="16", rich_help_panel=_EFFORT
        ),
    ] = None,
    splits: Annotated[
        int,
        typer.Option(help="Splits of the data, each with its own tuning.", rich_help_panel=_EFFORT),
    ] = 5,
    confirm: Annotated[
        int, typer.Option(help="Fresh seeds that confirm the winner of a split.", rich_help_panel=_EFFORT)
    ] = 2,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the training split.", show_default="about 700 steps", rich_help_panel=_EFFORT
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Examples a step.", show_default="a power of two, by the data", rich_help_panel=_EFFORT
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="A budget of time: the plan is made to fit it by an estimate, and cut by the clock, "
            "but never to fewer than two splits.",
            rich_help_panel=_EFFORT,
        ),
    ] = None,
    eliminate: Annotated[
        bool,
        typer.Option(
            "--eliminate",
            help="Stop hopeless settings early, within an optimizer's own pool, and audit what was stopped.",
            rich_help_panel=_EFFORT,
        ),
    ] = False,
    goal: Annotated[
        float | None,
        typer.Option(
            help="The validation metric to reach: steps, passes and seconds to it are reported.",
            show_default="what the best untuned optimizer reaches",
            rich_help_panel=_VERDICT,
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Differences of the metric below this are of no interest.",
            show_default="the metric's usual one",
            rich_help_panel=_VERDICT,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides every draw.", rich_help_panel=_RUNNING)] = 0,
    device: Annotated[str, options.device(_RUNNING)] = "cpu",
    engine: Annotated[
        Literal["auto", "lanes", "loop"],
        typer.Option(
            help="All runs as one program, one after another, or what a measurement says is faster.",
            rich_help_panel=_RUNNING,
        ),
    ] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The run directory.",
            show_default="runs/race-DATA-TIME",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the race that stands in --out.", rich_help_panel=_RUNNING),
    ] = False,
    trust_code: Annotated[bool, options.trust_code(_RUNNING)] = False,
    json: Annotated[bool, options.json(_RUNNING)] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", help="Say nothing but the verdict and errors.", rich_help_panel=_RUNNING),
    ] = False,
) -> None:
    """Find the optimizer, learning rate and schedule that train your model best on your data."""
    # without it a lane's bits depend on who runs beside it
    repeatable_products()
    spaces = parsing.spaces(space or [])
    types = parsing.column_types(type_ or [])

    from thalweg.commands import verbs
    from thalweg.commands.terminal import Terminal
    from thalweg.run.directory.output import give

    with Terminal(sys.stderr if json else sys.stdout, quiet=quiet) as terminal:
        results = verbs.race(
            model,
            data,
            target=target,
            task=task,
            missing=missing,
            types=types,
            loss=loss,
            metric=metric,
            optimizers=parsing.names(optimizers),
            spaces=spaces,
            schedules=parsing.names(schedules),
            initializations=parsing.names(initializations),
            trials=trials,
            splits=splits,
            confirm=confirm,
            epochs=epochs,
            batch_size=batch_size,
            minutes=minutes,
            goal=goal,
            margin=margin,
            seed=seed,
            device=device,
            engine=engine,
            eliminate=eliminate,
            out=out,
            resume=resume,
            watcher=terminal,
            command=shlex.join(["thalweg", *context.obj]),
            trust_code=trust_code,
        )
    if json:
        give(results.model_dump_json(indent=2), "results.json in the run directory holds the same")
