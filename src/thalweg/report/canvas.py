"""The empty picture that every figure starts from, and what several of them need."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
from bokeh.models import BoxAnnotation, FixedTicker, HoverTool, LinearAxis, NumeralTickFormatter, PlainText
from bokeh.plotting import figure

from thalweg.report.numbers import shorten

__all__ = [
    "DIVERGED_MARKER",
    "GRID",
    "INK",
    "Strip",
    "band",
    "canvas",
    "hover",
    "legend_above",
    "name_rows",
    "plain",
    "readable_logarithms",
    "row_height",
    "window",
]

# Middle greys, legible on white and on black; a browser that knows the page's --bk- properties gets
# the ink of its own colour scheme instead.
INK = "#767c83"
GRID = "#8c939b"
DIVERGED_MARKER = "x"

_MATH = re.compile(r"\$(?=\$)|\\(?=[\[(])")


def plain(text: str) -> str:
    """Keep bokeh from reading formulas into a name: it would look for a typesetter that isn't there.

    >>> plain("$$x$$") == "$$x$$", plain("adam")
    (False, 'adam')
    """
    return _MATH.sub(lambda found: found.group() + "\u2060", text)


def canvas(
    *,
    height: int,
    x: str,
    y: str | None = None,
    x_axis_type: str = "linear",
    y_axis_type: str = "linear",
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    tools: str = "pan,box_zoom,wheel_zoom,reset,save",
) -> figure:
    """Return an empty figure as wide as its place, without a ground of its own."""
    ranges = {k: v for k, v in (("x_range", x_range), ("y_range", y_range)) if v is not None}
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_type=x_axis_type,
        y_axis_type=y_axis_type,
        tools=tools,
        active_drag=None,
        active_scroll=None,
        toolbar_location="right" if tools else None,
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_alpha=0,
        min_border_right=10,
        **ranges,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.xaxis.axis_label = x
    plot.yaxis.axis_label = y
    for axis in plot.axis:
        axis.axis_label_text_color = INK
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = "12.5px"
        axis.major_label_text_color = INK
        axis.major_label_text_font_size = "12px"
        axis.axis_line_color = GRID
        axis.major_tick_line_color = GRID
        axis.minor_tick_line_color = None
        axis.major_tick_in = 0
        axis.major_tick_out = 4
    for grid in plot.grid:
        grid.grid_line_color = GRID
        grid.grid_line_alpha = 0.22
    return plot


def hover(
    plot: figure, renderers: Sequence[object], tooltips: Sequence[tuple[str, str]], **options: object
) -> None:
    """Add a hover tool that is not shown in the toolbar."""
    # crowded points would fill the screen with their tooltips; older releases of bokeh can't limit them
    if "limit" in HoverTool.properties():
        options = {"limit": 2, **options}
    plot.add_tools(HoverTool(renderers=list(renderers), tooltips=list(tooltips), visible=False, **options))


def legend_above(plot: figure, *, columns: int | None = None) -> figure:
    """Put the legend over a picture, where no line leads; one that says what the axis says is left out."""
    if not plot.legend:
        return plot
    if len(plot.legend.items) == 1:
        plot.legend.visible = False
    plot.add_layout(plot.legend[0], "above")
    plot.legend.orientation = "horizontal"
    if columns is not None:
        plot.legend.ncols = columns
    plot.legend.background_fill_alpha = 0
    plot.legend.border_line_alpha = 0
    plot.legend.label_text_color = INK
    plot.legend.label_text_font_size = "12px"
    plot.legend.padding = 2
    return plot


def readable_logarithms(plot: figure, ends: tuple[float, float]) -> None:
    """Put ticks at 1, 2, 5 of each decade of the vertical axis, or at more where it spans less than one."""
    decades = math.log10(ends[1] / ends[0])
    few, many = (1.0, 2.0, 5.0), (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    mantissas = many if decades < 0.9 else few if decades < 3 else (1.0,)
    plot.yaxis.ticker = FixedTicker(ticks=[m * 10.0**e for e in range(-12, 13) for m in mantissas])
    if ends[0] > 1e-4 and ends[1] < 1e5:
        plot.yaxis.formatter = NumeralTickFormatter(format="0.[0000]")


def row_height(rows: int) -> int:
    """Return the height in pixels of a figure with one row for each of so many optimizers."""
    return 74 + rows * (34 if rows <= 12 else 24)


def name_rows(plot: figure, names: Sequence[str]) -> None:
    """Put names on the vertical axis, the first at the top, one unit apart."""
    count = len(names)
    plot.yaxis.ticker = FixedTicker(ticks=list(range(count)))
    plot.yaxis.major_label_overrides = {
        count - 1 - i: PlainText(text=shorten(name)) for i, name in enumerate(names)
    }
    plot.yaxis.major_label_text_font_size = "13px"
    plot.yaxis.major_tick_line_color = None
    plot.ygrid.grid_line_alpha = 0.12
    plot.y_range.start, plot.y_range.end = -0.7, count - 0.1


def window(values: Iterable[float | None], *, pad: float = 0.06, log: bool = False) -> tuple[float, float]:
    """Return ends of an axis that hold all finite values, with a margin."""
    array = np.array([v for v in values if v is not None], dtype=float)
    array = array[np.isfinite(array)]
    if log:
        array = array[array > 0]
    if not len(array):
        return (0.1, 1.0) if log else (0.0, 1.0)
    if log:
        low, high = math.log10(array.min()), math.log10(array.max())
        extra = pad * (high - low) or 0.3
        return 10 ** (low - extra), 10 ** (high + extra)
    low, high = float(array.min()), float(array.max())
    extra = pad * (high - low) or 0.05 * abs(high) or 0.5
    return low - extra, high + extra


def band(
    rows: Sequence[Sequence[float | None]], *, higher: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return median, 10 % and 90 % points over runs; a missing value is worse than every other.

    Args:
        rows: one a run, ``[runs, points]``.
        higher: whether higher is better, so that a missing value counts as minus infinity.

    Returns:
        Three arrays ``[points]`` that may hold infinities.
    """
    worst = -math.inf if higher else math.inf
    array = np.array([[worst if v is None else v for v in row] for row in rows], dtype=float)
    low, high = np.quantile(array, [0.1, 0.9], axis=0, method="inverted_cdf")
    return np.median(array, axis=0), low, high


class Strip:
    """A strip beyond the worst end of an axis, where runs that diverged are drawn.

    Args:
        low, high: the window of the finite values.
        higher: whether higher is better.
    """

    def __init__(self, low: float, high: float, *, higher: bool) -> None:
        size = 0.09 * (high - low)
        self.higher = higher
        self.edge = low if higher else high
        self.at = low - size / 2 if higher else high + size / 2
        self.range = (low - size, high) if higher else (low, high + size)

    def draw(self, plot: figure, *, dimension: str, label: str = "diverged") -> None:
        """Shade the strip on the ``"x"`` or ``"y"`` axis.

        What it is stands above the picture, where no dot can lie; of a strip along the bottom the text beside
        such a picture says it.
        """
        ends: dict[str, float] = {}
        if dimension == "x":
            ends["right" if self.higher else "left"] = self.edge
        else:
            ends["top" if self.higher else "bottom"] = self.edge
        plot.add_layout(
            BoxAnnotation(**ends, fill_color=GRID, fill_alpha=0.14, line_color=None, level="underlay")
        )
        if dimension == "y":
            return
        axis = LinearAxis(
            ticker=FixedTicker(ticks=[self.at], minor_ticks=[]),
            major_label_overrides={self.at: label},
            major_label_text_color=INK,
            major_label_text_font_size="11px",
            axis_line_color=None,
            major_tick_line_color=None,
        )
        plot.add_layout(axis, "above")
