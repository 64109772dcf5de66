"""Pictures of curvature: the loss around a point, on a training's plane and between points; spectra; noise.

Colours are one hue of growing strength, so that they read on light and dark grounds: the stronger, the higher
the loss. Lines in it carry their loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import contourpy
import numpy as np
import numpy.typing as npt
from bokeh.models import ColumnDataSource, FixedTicker, Label, Span
from bokeh.plotting import figure

from thalweg.curvature import (
    ExtremeEigenvalues,
    Interpolation,
    LossSurface,
    NoiseScale,
    SpectralDensity,
    TrajectoryPlane,
)
from thalweg.diagnosis.pictures import Pictures
from thalweg.diagnosis.signals import Signal
from thalweg.report.canvas import GRID, INK, canvas, hover, legend_above, plain, readable_logarithms, window
from thalweg.report.layers import by_layer
from thalweg.report.numbers import general

__all__ = ["Drawable", "caption_of", "captions_of", "figures_of", "picture_of"]

Drawable: TypeAlias = LossSurface | TrajectoryPlane | Interpolation | SpectralDensity | NoiseScale | Signal
"""What can be drawn."""

_GROUND, _MARKED, _OTHER = "#0f7fbf", "#d1495b", "#e69f00"
_BANDS, _STRENGTH = 11, 0.06
_SQUARE = 430
# eigenvalues whose density is less than this share of the highest aren't seen
_FAINT = 1e-5
_Floats = npt.NDArray[np.float64]


def picture_of(
    found: Drawable,
    *,
    ends: ExtremeEigenvalues | tuple[float, float] | None = None,
    limit: float | None = None,
    matrix: str = "Hessian",
    batch_size: int | None = None,
    names: tuple[str, str] = ("begin", "end"),
) -> figure:
    """Draw what was measured.

    Args:
        found: what.
        ends: of a spectral density: both ends of the spectrum, as Lanczos iteration found them; or the
            smallest and the largest eigenvalue.
        limit: likewise: the curvature beyond which the optimizer is unstable at its rate,
            ``bound.constant / bound.rate`` of a :class:`~thalweg.curvature.StabilityBound`.
        matrix: likewise: whose eigenvalues they are.
        batch_size: of a noise scale: the one in use.
        names: of an interpolation and a trajectory: what its two ends are.

    Returns:
        A picture of bokeh's; :func:`thalweg.report.write_picture` makes a file of it.
    """
    if isinstance(found, LossSurface):
        return _surface(found)
    if isinstance(found, TrajectoryPlane):
        return _plane(found, names)
    if isinstance(found, Interpolation):
        return _line(found, names)
    if isinstance(found, SpectralDensity):
        return _density(found, _both(ends), limit, matrix)
    if isinstance(found, Signal):
        return by_layer(found.layers, found.spreads, found.slopes)
    return _noise(found, batch_size)


def caption_of(
    found: Drawable, *, limit: float | None = None, matrix: str = "Hessian", batch_size: int | None = None
) -> str:
    """Say in words what a picture shows: its axes with their units, and the numbers that count.

    Arguments as for :func:`picture_of`.
    """
    if isinstance(found, LossSurface):
        low, high = _ends(found.losses)
        said = (
            f"The loss around the point, from {general(low)} to {general(high)}; at the point itself (0, 0) "
            f"it is {general(found.centre)}. On both axes {found.unit}."
        )
    elif isinstance(found, TrajectoryPlane):
        low, high = _ends(found.losses)
        begin, end = found.path_losses[0], found.path_losses[-1]
        said = (
            f"The loss, from {general(low)} to {general(high)}, on the plane in which the training moved; "
            f"its points are projected onto it, from {general(float(begin))} to {general(float(end))}. The "
            f"plane holds {100 * found.share:.0f} % of the squared distances from the last point; the points "
            f"lie up to {general(float(found.off.max()))} off it. On both axes {found.unit}."
        )
    elif isinstance(found, Interpolation):
        said = (
            f"The loss on the straight line between two points: {found.unit}. Between them it rises by "
            f"{general(found.barrier)} over the line that joins both losses."
        )
    elif isinstance(found, SpectralDensity):
        low, high = found.range
        # what is zero but for rounding lies on both sides of it
        least = 0.01 * max(abs(low), abs(high))
        said = (
            f"How the {found.size:,} eigenvalues of the {matrix} are spread, from {general(low)} to "
            f"{general(high)}; {100 * found.share_below(-least):.2g} % lie below {general(-least)}, a "
            "hundredth of the largest size."
        )
        if limit is not None:
            where = "beyond" if high > limit else "not beyond"
            said += f" The sharpest is {where} {general(limit)}, where the optimizer becomes unstable."
    elif isinstance(found, Signal):
        said = (
            "What each layer lets through on the first batch: the spread of its outputs, and the root mean "
            f"square of its weights' gradient. That of the first layer is {general(found.ratio)} times "
            "that of the last."
        )
    else:
        end = "without an upper end" if math.isinf(found.high) else f"to {general(found.high)}"
        said = (
            f"What a step achieves, of one without noise, and an example, of one in the smallest batches, by "
            f"the batch size. Both reach one half at the noise scale, "
            f"{general(found.value)} ({100 * found.level:.0f} % interval from {general(found.low)} {end})."
        )
        if batch_size is not None and math.isfinite(found.value):
            said += (
                f" With {batch_size} examples a step makes {100 * found.progress(batch_size):.0f} % of the "
                "progress of one without noise."
            )
    note = getattr(found, "note", "")
    return f"{said} {note[:1].upper()}{note[1:]}." if note else said


def figures_of(pictures: Pictures | None) -> dict[str, figure]:
    """Draw all pictures of a set-up, by number."""
    shown = () if pictures is None else pictures.shown
    return {
        f"picture_{number}": picture_of(
            each.found, ends=each.ends, limit=each.limit, matrix=each.matrix, batch_size=each.batch_size,
            names=each.names,
        )
        for number, each in enumerate(shown)
    }  # fmt: skip


def captions_of(pictures: Pictures | None) -> list[tuple[str, str, str]]:
    """Return number, title and caption of all pictures of a set-up."""
    shown = () if pictures is None else pictures.shown
    return [
        (
            f"picture_{number}",
            each.title,
            caption_of(each.found, limit=each.limit, matrix=each.matrix, batch_size=each.batch_size),
        )
        for number, each in enumerate(shown)
    ]


# The loss over a plane -----------------------------------------------------------------------------------


def _surface(found: LossSurface) -> figure:
    plot = _over_plane(
        found.first,
        found.second,
        found.losses,
        "first direction, in lengths of filters" if found.normalized else "first direction",
        "second direction, in lengths of filters" if found.normalized else "second direction",
    )
    plot.scatter([0.0], [0.0], size=9, fill_color=_MARKED, line_color=None)
    return plot


def _plane(found: TrajectoryPlane, names: tuple[str, str]) -> figure:
    plot = _over_plane(
        found.first,
        found.second,
        found.losses,
        f"first principal direction ({100 * found.shares[0]:.0f} % of squared distances)",
        f"second ({100 * found.shares[1]:.0f} %)",
    )
    data = {
        "x": found.path[:, 0].tolist(),
        "y": found.path[:, 1].tolist(),
        "loss": found.path_losses.tolist(),
        "off": found.off.tolist(),
        "number": list(range(len(found.path))),
    }
    source = ColumnDataSource(data)
    plot.line("x", "y", source=source, line_color=_MARKED, line_width=2)
    dots = plot.scatter("x", "y", source=source, size=7, fill_color=_MARKED, line_color=None)
    hover(
        plot, [dots], [("point", "@number"), ("loss", "@loss{0.[0000]}"), ("off the plane", "@off{0.[000]}")]
    )
    for place, beside, name in ((0, 1, names[0]), (-1, -2, names[1])):
        (x, y), (away_x, away_y) = found.path[place], found.path[place] - found.path[beside]
        plot.add_layout(
            Label(
                x=float(x), y=float(y), text=plain(name), text_color=INK, text_font_size="12px",
                text_font_style="bold", x_offset=-9 if away_x < 0 else 9, y_offset=3 if away_y > 0 else -15,
                text_align="right" if away_x < 0 else "left",
            )
        )  # fmt: skip
    return plot


def _over_plane(first: _Floats, second: _Floats, losses: _Floats, x: str, y: str) -> figure:
    plot = canvas(
        height=_SQUARE, x=x, y=y,
        x_range=(float(first[0]), float(first[-1])), y_range=(float(second[0]), float(second[-1])),
    )  # fmt: skip
    plot.grid.grid_line_color = None
    known = np.ma.masked_invalid(losses)
    levels = _levels(known)
    if levels:
        lines = contourpy.contour_generator(
            first, second, known, line_type=contourpy.LineType.Separate, corner_mask=True
        )
        fills = contourpy.contour_generator(
            first, second, known, fill_type=contourpy.FillType.OuterOffset, corner_mask=True
        )
        top = float(known.max())
        for level in levels:
            # each adds to those below, so that no seams show between bands
            xs, ys = _polygons(*fills.filled(level, top + abs(top) + 1.0))
            plot.multi_polygons(
                [xs], [ys], fill_color=_GROUND, fill_alpha=_STRENGTH, line_color=None, level="underlay"
            )
        drawn = [(level, np.asarray(line)) for level in levels for line in lines.lines(level)]
        plot.multi_line(
            [line[:, 0].tolist() for _, line in drawn], [line[:, 1].tolist() for _, line in drawn],
            line_color=_GROUND, line_alpha=0.55, line_width=1,
        )  # fmt: skip
        _name_lines(plot, drawn, first, second, levels)
    # what is under the pointer, exactly
    grid_x, grid_y = np.meshgrid(first, second)
    source = ColumnDataSource(
        {"x": grid_x.ravel().tolist(), "y": grid_y.ravel().tolist(), "loss": losses.ravel().tolist()}
    )
    cells = plot.scatter("x", "y", source=source, size=9, fill_alpha=0, line_alpha=0)
    hover(plot, [cells], [("loss", "@loss{0.[00000]}"), ("at", "@x{0.[000]}, @y{0.[000]}")])
    return plot


def _levels(known: Any) -> list[float]:
    """Losses at which a line is drawn: evenly in the logarithm of what lies over the lowest one.

    Around a minimum the loss grows with the square of the distance, and far away as fast as it likes: so
    lines lie about as far from each other everywhere.
    """
    values = known.compressed()
    if len(values) < 4 or not values.max() > values.min():
        return []
    low, high = float(values.min()), float(values.max())
    # what a twentieth of the plane lies below
    floor = max(float(np.quantile(values, 0.05)) - low, 1e-3 * (high - low))
    over = np.geomspace(floor, high - low, _BANDS + 1)[:-1]
    return [low + float(each) for each in over]


def _polygons(points: Sequence[Any], offsets: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Polygons with their holes, as bokeh takes them."""
    xs, ys = [], []
    for outline, ends in zip(points, offsets, strict=True):
        rings = [outline[a:b] for a, b in pairwise(ends)]
        xs.append([ring[:, 0].tolist() for ring in rings])
        ys.append([ring[:, 1].tolist() for ring in rings])
    return xs, ys


def _name_lines(
    plot: figure, drawn: Sequence[tuple[float, _Floats]], first: _Floats, second: _Floats, levels: list[float]
) -> None:
    """Write the loss onto every second line, along a ray to the upper right where it can be."""
    middle = np.array([first.mean(), second.mean()])
    size = np.array([np.ptp(first), np.ptp(second)])
    texts: list[tuple[float, float, str]] = []
    for level in levels[1::2]:
        best, where = math.inf, None
        for line in (line for each, line in drawn if each == level):
            apart = (line - middle) / size
            inside = np.abs(apart).max(1) < 0.44
            # how far from the ray, and from what is written already
            cost = np.abs(apart[:, 0] - apart[:, 1]) - 0.2 * apart.sum(1)
            for x, y, _ in texts:
                gap = np.abs((line - (x, y)) / size)
                cost = cost + 10.0 * ((gap[:, 0] < 0.15) & (gap[:, 1] < 0.07))
            cost[~inside] = math.inf
            if len(line) and cost.min() < best:
                best, where = float(cost.min()), line[int(cost.argmin())]
        if where is not None and best < 5:
            texts.append((float(where[0]), float(where[1]), general(level)))
    if texts:
        plot.text(
            [t[0] for t in texts], [t[1] for t in texts], [t[2] for t in texts],
            text_color=INK, text_font_size="11px", text_font_style="bold", text_align="center",
            text_baseline="middle",
        )  # fmt: skip


def _ends(values: _Floats) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (math.nan, math.nan)


# Along a line --------------------------------------------------------------------------------------------


def _line(found: Interpolation, names: tuple[str, str]) -> figure:
    shown = [(float(a), float(v)) for a, v in zip(found.at, found.losses, strict=True) if np.isfinite(v)]
    values = [v for _, v in shown]
    inside = [v for a, v in shown if 0 <= a <= 1] or values
    # beyond the ends the loss may rise without bound
    log = bool(values) and min(values) > 0 and max(values) > 20 * max(inside)
    ends = window(values, log=log)
    plot = canvas(
        height=300, x=plain(f"from {names[0]} (0) to {names[1]} (1)"), y="loss",
        y_axis_type="log" if log else "linear",
        x_range=(float(found.at[0]), float(found.at[-1])), y_range=ends,
    )  # fmt: skip
    if log:
        readable_logarithms(plot, ends)
    for place in (0.0, 1.0):
        plot.add_layout(Span(location=place, dimension="height", line_color=GRID, line_dash="dashed"))
    source = ColumnDataSource({"x": [a for a, _ in shown], "y": values})
    loss = plot.line("x", "y", source=source, line_color=_GROUND, line_width=2.2, legend_label="loss")
    hover(plot, [loss], [("at", "@x{0.[00]}"), ("loss", "@y{0.[00000]}")], mode="vline")
    both = [(a, v) for a, v in shown if a in (0.0, 1.0)]
    if found.barrier > 0 and len(both) == 2:
        plot.line(
            [a for a, _ in both], [v for _, v in both],
            line_color=_MARKED, line_dash="dashed", line_width=1.4,
            legend_label="between both losses",
        )  # fmt: skip
    plot.scatter([a for a, _ in both], [v for _, v in both], size=8, fill_color=_GROUND, line_color=None)
    return legend_above(plot)


# Spectra -------------------------------------------------------------------------------------------------


def _both(ends: ExtremeEigenvalues | tuple[float, float] | None) -> tuple[float, float] | None:
    return (ends.smallest.value, ends.largest.value) if isinstance(ends, ExtremeEigenvalues) else ends


def _density(
    found: SpectralDensity, ends: tuple[float, float] | None, limit: float | None, matrix: str
) -> figure:
    low, high = found.range
    if ends is not None:
        low, high = min(low, ends[0]), max(high, ends[1])
    width = (high - low) / 35 or found.width
    # a bound that is far away would press everything else together
    near = limit is not None and limit <= low + 2.5 * (high - low)
    right = max(high, limit) if limit is not None and near else high
    room = 0.05 * (right - low) + 3 * width
    x = np.linspace(low - room, right + room, 400)
    y = found.at(x, width=width)
    floor = _FAINT * float(y.max())
    shown = np.maximum(y, floor)
    span = (floor, 3 * float(y.max()))
    plot = canvas(
        height=320, x=plain(f"eigenvalue of the {matrix}"), y="density (logarithmic)", y_axis_type="log",
        x_range=(float(x[0]), float(x[-1])), y_range=span,
    )  # fmt: skip
    plot.yaxis.ticker = FixedTicker(ticks=[10.0**e for e in range(-30, 31) if span[0] < 10.0**e < span[1]])
    source = ColumnDataSource({"x": x.tolist(), "y": shown.tolist(), "low": [floor] * len(x)})
    plot.varea("x", "low", "y", source=source, fill_color=_GROUND, fill_alpha=0.25)
    line = plot.line("x", "y", source=source, line_color=_GROUND, line_width=1.6, legend_label="density")
    hover(plot, [line], [("eigenvalue", "@x{0.[0000]}"), ("density", "@y")])
    if ends is not None:
        plot.scatter(
            list(ends), [floor * 1.7] * 2, size=11, marker="triangle", fill_color=_OTHER, line_color=None,
            legend_label="both ends",
        )  # fmt: skip
    if limit is not None and near:
        plot.line(
            [limit, limit], list(span), line_color=_MARKED, line_width=1.8, line_dash="dashed",
            legend_label=f"unstable beyond {general(limit)}",
        )  # fmt: skip
    elif limit is not None:
        plot.add_layout(
            Label(
                x=float(x[-1]), y=span[1] / 2.2,
                text=f"unstable beyond {general(limit)}, further right \N{RIGHTWARDS ARROW}",
                text_align="right", text_color=_MARKED, text_font_size="12px", x_offset=-6,
            )
        )  # fmt: skip
    return legend_above(plot)


# Noise ---------------------------------------------------------------------------------------------------


def _noise(found: NoiseScale, batch_size: int | None) -> figure:
    known = [v for v in (found.low, found.value, found.high, batch_size) if v and math.isfinite(v)]
    first, last = min([*known, 4.0]) / 4, max([*known, 64.0]) * 8
    first, last = max(1.0, first), max(last, 64.0)
    sizes = np.geomspace(first, last, 120)
    plot = canvas(
        height=320, x="batch size (logarithmic)", y="share of the most it can be", x_axis_type="log",
        x_range=(first, last), y_range=(0.0, 1.05),
    )  # fmt: skip
    plot.xaxis.ticker = FixedTicker(ticks=_decades(first, last))
    plot.xaxis.major_label_overrides = {tick: f"{tick:,g}" for tick in _decades(first, last)}
    low, high = found.low, found.high
    curves = (
        ("progress of a step", _GROUND, False),
        ("progress of an example", _OTHER, True),
    )
    made = []
    for label, colour, falls in curves:
        middle, one, two = (_achieved(s, sizes, falls) for s in (found.value, low, high))
        source = ColumnDataSource(
            {
                "x": sizes.tolist(),
                "y": middle.tolist(),
                "low": np.minimum(one, two).tolist(),
                "high": np.maximum(one, two).tolist(),
            }
        )
        plot.varea("x", "low", "high", source=source, fill_color=colour, fill_alpha=0.18)
        made.append(plot.line("x", "y", source=source, line_color=colour, line_width=2.2, legend_label=label))
    hover(
        plot, made, [("batch size", "@x{0,0}"), ("share", "@y{0 %}"), ("interval", "@low{0 %} to @high{0 %}")]
    )
    if first < found.value < last:
        plot.line(
            [found.value] * 2, [0.0, 1.05], line_color=INK, line_dash="dashed", line_width=1.4,
            legend_label=f"noise scale {general(found.value)}",
        )  # fmt: skip
    if batch_size is not None:
        plot.line(
            [batch_size] * 2, [0.0, 1.05], line_color=_MARKED, line_width=1.8,
            legend_label=f"batch size {batch_size:,}",
        )  # fmt: skip
    return legend_above(plot, columns=2)


def _achieved(scale: float, sizes: _Floats, falls: bool) -> _Floats:
    """What a step, or an example, achieves: ``B / (S + B)``, or the rest of 1."""
    rises: _Floats = sizes / (scale + sizes)
    return 1 - rises if falls else rises


def _decades(first: float, last: float) -> list[float]:
    wide = last / first > 3000
    ticks = [m * 10.0**e for e in range(12) for m in ((1.0,) if wide else (1.0, 2.0, 5.0))]
    found = [tick for tick in ticks if first <= tick <= last]
    return found[:: 1 + len(found) // 12]
