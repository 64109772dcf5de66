"""A picture of curvature alone, as a page that opens from disk, or as SVG."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from thalweg.curvature import ExtremeEigenvalues
from thalweg.diagnosis.pictures import Pictures
from thalweg.errors import OptionError
from thalweg.report.landscapes import Drawable, caption_of, captions_of, figures_of, picture_of
from thalweg.report.page import embed, page_of
from thalweg.report.svg import as_svg
from thalweg.run.directory import write_whole
from thalweg.run.directory.writing import reason

__all__ = ["write_picture", "write_pictures"]


def write_picture(
    found: Drawable,
    place: str | Path,
    *,
    title: str = "",
    ends: ExtremeEigenvalues | tuple[float, float] | None = None,
    limit: float | None = None,
    matrix: str = "Hessian",
    batch_size: int | None = None,
    names: tuple[str, str] = ("begin", "end"),
) -> Path:
    """Draw what was measured into a file: a page where its name ends in ``.html``, a picture with ``.svg``.

    What the picture shows, and what a unit of its axes is, stands above it in the page, and in an SVG as its
    title. Nothing is fetched from elsewhere.

    Args:
        found: a loss surface, a trajectory's plane, an interpolation, a spectral density, a noise scale, or
            what each layer lets through (``signal`` of a diagnosis).
        place: the file; it is replaced whole.
        title: of the page.
        ends, limit, matrix, batch_size, names: as for :func:`~thalweg.report.landscapes.picture_of`.

    Returns:
        The file.

    Raises:
        OptionError: another ending, or it can't be written.
    """
    place = Path(place)
    if place.suffix not in (".html", ".svg"):
        raise OptionError(f"{place} would be neither a page nor a picture; let its name end in .html or .svg")
    plot = picture_of(found, ends=ends, limit=limit, matrix=matrix, batch_size=batch_size, names=names)
    said = caption_of(found, limit=limit, matrix=matrix, batch_size=batch_size)
    if place.suffix == ".svg":
        text = as_svg(plot, said=said)
    else:
        script, drawn = embed({"picture": plot})
        text = page_of(
            "picture.html.jinja", bokeh_script=script, picture=drawn["picture"], said=said, title=title
        )
    return _written(place, text)


def write_pictures(pictures: Pictures, place: str | Path, *, title: str = "") -> Path:
    """Draw all that was measured of a set-up into one page.

    Args:
        pictures: of :func:`thalweg.diagnosis.pictures.take_pictures`.
        place: the file; it is replaced whole.
        title: of the page.

    Returns:
        The file.

    Raises:
        OptionError: it can't be written.
    """
    script, drawn = embed(figures_of(pictures)) if pictures.shown else (Markup(), {})
    text = page_of(
        "pictures.html.jinja", bokeh_script=script, pictures=drawn, captions=captions_of(pictures),
        title=title, notes=pictures.notes,
    )  # fmt: skip
    return _written(Path(place), text)


def _written(place: Path, text: str) -> Path:
    try:
        write_whole(place, text.encode())
    except OSError as problem:
        raise OptionError(f"{place} can't be written ({reason(problem)}); give another place") from problem
    return place
