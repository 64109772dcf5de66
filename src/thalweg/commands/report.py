"""``thalweg report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run directory, finished or not.", show_default=False)
    ],
) -> None:
    """Write report.html anew from what a run directory holds."""
    from thalweg.report import write
    from thalweg.run.directory.output import say

    say(f"report: {write(directory)}")
