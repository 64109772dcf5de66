"""Options that several verbs have: each is declared here, once."""

from __future__ import annotations

from typing import Any

import typer

__all__ = ["device", "json", "trust_code"]


def trust_code(panel: str | None = None) -> Any:
    """``--trust-code``, in a panel of a verb's help."""
    return typer.Option(
        "--trust-code",
        help="Run the code that the run directory names, though it is not known here or has changed.",
        rich_help_panel=panel,
    )


def device(panel: str | None = None) -> Any:
    """``--device``, in a panel of a verb's help."""
    return typer.Option(help="As torch names it.", rich_help_panel=panel)


def json(panel: str | None = None) -> Any:
    """``--json``, in a panel of the help of a verb that leaves ``results.json``."""
    return typer.Option(
        "--json", help="Print results.json on standard output, and nothing else.", rich_help_panel=panel
    )
