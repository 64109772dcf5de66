"""``thalweg predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from thalweg.commands import options

__all__ = ["predict"]


def predict(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Of a finished training.", show_default=False)
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="A table with the columns that training used; for arrays a table of numbers, or NPZ, which "
            "for several inputs has an array for each; for images a folder of them.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The CSV file to write.", show_default=False)],
    weights: Annotated[
        Literal["auto", "result", "best", "snapshots"],
        typer.Option(help="Which weights predict; auto: the snapshots if there are any, else the result."),
    ] = "auto",
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Average over N forward passes with the model's randomness, such as dropout, on; 0: off.",
            show_default="as the recipe says",
        ),
    ] = None,
    crops: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Average over crops of images: 5, 10 with mirror images, 1 for none.",
            show_default="as the recipe says",
        ),
    ] = None,
    device: Annotated[str, options.device()] = "cpu",
    trust_code: Annotated[bool, options.trust_code()] = False,
) -> None:
    """Predict for new data, prepared as training prepared its own."""
    from thalweg.commands import verbs
    from thalweg.run.directory.output import say
    from thalweg.run.directory.writing import standard_output

    predictions = verbs.predict(
        directory, data, out=out, weights=weights, samples=samples, crops=crops, device=device,
        trust_code=trust_code,
    )  # fmt: skip
    # which a person may have sent the predictions to
    error = standard_output(out) == 1
    for note in predictions.notes:
        say(f"note: {note}", error=error)
    say(f"predictions: {out} ({len(predictions.values)} rows)", error=error)
