"""``thalweg diagnose``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from thalweg.commands import options
from thalweg.commands.repeatable import repeatable_products

__all__ = ["diagnose"]


def diagnose(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A recipe, before anything is trained; the directory of a run; or file.py:function, which "
            "returns the arguments of thalweg.diagnose.",
            show_default=False,
        ),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the recipe, as optimizer.lr=0.01; may be repeated."
        ),
    ] = None,
    apply: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the recipe with the remedies of the worst findings.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with pictures there, in HTML.", show_default=False),
    ] = None,
    try_: Annotated[
        bool,
        typer.Option(
            "--try", help="Train it as it is and with the remedies, paired over seeds, for a short while."
        ),
    ] = False,
    seeds: Annotated[int, typer.Option(metavar="N", help="Pairs of --try, at least 2.")] = 3,
    pictures: Annotated[
        bool,
        typer.Option(
            "--pictures",
            help="Draw the loss around and along the training, the spectrum and the noise, into the page of "
            "--out; of a run for its report too.",
        ),
    ] = False,
    budget: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Gradient evaluations of one batch that may be computed.",
            show_default="1,200 to 16,000, by what one costs",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.", show_default="0")] = None,
    device: Annotated[str, options.device()] = "cpu",
    trust_code: Annotated[bool, options.trust_code()] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON, and nothing else.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but the result and errors.")] = False,
) -> None:
    """Say why a training is slow, stuck or blowing up, and what to change."""
    repeatable_products()

    import json as json_module

    from thalweg.commands.diagnosis_terminal import DiagnosisTerminal
    from thalweg.diagnosis.pictures_of_target import keeps_pictures
    from thalweg.diagnosis.targets import diagnose_target, refuse_place
    from thalweg.errors import OptionError, option
    from thalweg.run.directory.output import give

    refuse_place("out", out)
    if pictures and out is None and not keeps_pictures(Path(target)):
        raise OptionError(f"{option('pictures', True)} needs a page to draw into; give {option('out')} FILE")

    with DiagnosisTerminal(sys.stderr if json else sys.stdout, quiet=quiet) as terminal:
        found = diagnose_target(
            target, changes=set_ or (), budget=budget, seed=seed, device=device, trust_code=trust_code,
            apply=apply, seeds=seeds if try_ else 0, pictures=pictures, watcher=terminal,
        )  # fmt: skip
        if out is not None:
            from thalweg.report import write_diagnosis

            write_diagnosis(found, out)
            terminal.say("report", str(out), always=True)
    if json:
        give(json_module.dumps(found.to_json(), indent=2, ensure_ascii=False), "run it again for the same")
