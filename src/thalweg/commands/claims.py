"""``thalweg claims list`` and ``thalweg claims run``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from thalweg.commands.repeatable import repeatable_products

__all__ = ["claims", "list_claims", "run_claims"]

claims = typer.Typer(
    help="Claims of the lectures as experiments, each with a verdict that follows from measurements.",
)


@claims.command("list")
def list_claims(
    json: Annotated[bool, typer.Option("--json", help="Print everything known, as JSON.")] = False,
) -> None:
    """List the claims by topic, with what measuring each costs."""
    import json as json_module

    from thalweg.claims.claim import TOPICS
    from thalweg.claims.costs import seconds_of
    from thalweg.claims.registry import every_claim
    from thalweg.report.numbers import duration

    found = every_claim()
    if json:
        rows = [
            {
                "name": each.name, "title": each.title, "topic": TOPICS[each.topic],
                "statement": each.statement, "sources": list(each.sources), "places": each.places,
                "setup": each.setup, "against": each.against, "conditions": list(each.conditions),
                "seeds": {size: each.size(size).seeds for size in ("quick", "full")},
                "seconds": {size: seconds_of(each.name, size) for size in ("quick", "full")},
            }
            for each in found
        ]  # fmt: skip
        typer.echo(json_module.dumps(rows, indent=2, ensure_ascii=False))
        return
    width = max(len(each.name) for each in found)
    topic = ""
    for each in found:
        if each.topic != topic:
            typer.echo(("\n" if topic else "") + TOPICS[each.topic])
            topic = each.topic
        seconds = seconds_of(each.name, "quick")
        cost = "" if seconds is None else f" ({duration(seconds)})"
        typer.echo(f"  {each.name:{width}}  {each.title}{cost}")


@claims.command("run")
def run_claims(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME...",
            help="Of the claims, or all; with --resume those it was begun with.",
            show_default=False,
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Measure more; of all claims it takes hours.")] = False,
    seeds: Annotated[
        int | None,
        typer.Option(metavar="N", help="Draws of everything random.", show_default="as each claim says"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Results, pictures and gallery go there.",
            show_default="runs/claims-NAME-DATE-TIME",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with --out where it was stopped.")] = False,
    processes: Annotated[
        int | None, typer.Option(metavar="N", help="Measurements side by side.", show_default="one a core")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but verdicts and errors.")] = False,
) -> None:
    """Measure claims, judge them by what was measured, and leave a gallery."""
    repeatable_products()

    from thalweg import claims as claims_
    from thalweg.commands.claims_terminal import ClaimsTerminal
    from thalweg.errors import OptionError
    from thalweg.run.directory.kinds import default_place

    if not names and not resume:
        raise OptionError("no claim is named; give names that thalweg claims list has, or all")
    place = out if out is not None or resume else default_place("claims", "-".join(names or []))
    with ClaimsTerminal(sys.stdout, quiet=quiet) as terminal:
        claims_.run(
            *(names or ()),
            full=full,
            seeds=seeds,
            out=place,
            resume=resume,
            processes=processes,
            watcher=terminal,
        )
