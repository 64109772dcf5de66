"""A picture of the report as SVG: what is drawn, without what moves.

The page draws in the browser; a document needs a file. What this reads of a picture is what the pictures here
are made of: lines, areas, polygons, dots, words, spans, axes, a legend. Its colours are legible on light and
dark grounds, and it has none of its own. Coordinates are whole half pixels, and lines are as coarse as the
eye allows, so that files are small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias
from xml.sax.saxutils import escape

import numpy as np
from bokeh.models import (
    FixedTicker,
    GlyphRenderer,
    Label,
    Legend,
    Line,
    LogScale,
    MultiLine,
    MultiPolygons,
    PlainText,
    Scatter,
    Span,
    Text,
    VArea,
)
from bokeh.plotting import figure

from thalweg.report.canvas import GRID, INK
from thalweg.report.numbers import general

__all__ = ["as_svg"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 12, 46
# twice as fine as pixels
_FINE = 2
# how far a coarser line may lie from the true one, in pixels
_COARSE = 0.35
_DASHES = {"dashed": "6 4", "dotted": "2 4", "dotdash": "2 4 6 4", "dashdot": "6 4 2 4"}
_Place: TypeAlias = Callable[[float], float]


def as_svg(plot: figure, *, said: str, width: int = 640) -> str:
    """Return a picture as SVG.

    Args:
        plot: of this package.
        said: what it shows, in words, for those who can't see it.
        width: in pixels; its height is the picture's own.
    """
    legends = [each for each in plot.above if isinstance(each, Legend) and each.visible]
    words = [(item.label.value, item.renderers) for legend in legends for item in legend.items]
    rows, top = _legend(words, width)
    top += _TOP
    height = int(plot.height)
    right, bottom = width - _RIGHT, height - _BOTTOM
    flat = _placing(plot.x_range, plot.x_scale, _LEFT, right)
    up = _placing(plot.y_range, plot.y_scale, bottom, top)
    drawn = [*_axes(plot, flat, up, (_LEFT, right, top, bottom))]
    inside: list[str] = []
    for layout in plot.center:
        if isinstance(layout, Span):
            inside.append(_span(layout, flat, up, (_LEFT, right, top, bottom)))
    under = sorted(plot.renderers, key=lambda each: each.level != "underlay")
    for renderer in under:
        if isinstance(renderer, GlyphRenderer) and renderer.visible:
            inside += _glyph(renderer, flat, up)
    labels = [_label(layout, flat, up) for layout in plot.center if isinstance(layout, Label)]
    frame = f'x="{_LEFT}" y="{top}" width="{right - _LEFT}" height="{bottom - top}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-size="12" role="img">',
            f"<title>{escape(said)}</title>",
            f"<style>text{{font-family:system-ui,sans-serif;fill:{INK}}}</style>",
            f'<clipPath id="frame"><rect {frame}/></clipPath>',
            *rows,
            *drawn,
            '<g clip-path="url(#frame)">',
            *(each for each in inside if each),
            "</g>",
            *labels,
            "</svg>\n",
        ]
    )


def _placing(span: Any, scale: Any, start: float, end: float) -> _Place:
    log = isinstance(scale, LogScale)
    low, high = float(span.start), float(span.end)
    if log:
        low, high = math.log10(low), math.log10(high)

    def place(value: float) -> float:
        if log:
            value = math.log10(value) if value > 0 else low - 9 * (high - low)
        # far outside is far enough
        share = min(max((value - low) / (high - low), -3.0), 4.0)
        return start + share * (end - start)

    return place


# Axes ----------------------------------------------------------------------------------------------------


def _axes(plot: figure, flat: _Place, up: _Place, frame: tuple[float, float, float, float]) -> Iterable[str]:
    left, right, top, bottom = frame
    x_ticks = _ticks(plot.xaxis[0], plot.x_range, plot.x_scale, 8)
    y_ticks = _ticks(plot.yaxis[0], plot.y_range, plot.y_scale, 6)
    grid_x, grid_y = (each.grid_line_color is not None for each in (plot.xgrid[0], plot.ygrid[0]))
    lines = [f"M{_n(flat(t))} {top}V{bottom}" for t, _ in x_ticks if grid_x]
    lines += [f"M{left} {_n(up(t))}H{right}" for t, _ in y_ticks if grid_y]
    if lines:
        yield f'<path d="{"".join(lines)}" stroke="{GRID}" stroke-opacity=".22" fill="none"/>'
    ends = [f"M{_n(flat(t))} {bottom}v4" for t, _ in x_ticks] + [
        f"M{left} {_n(up(t))}h-4" for t, _ in y_ticks
    ]
    yield f'<path d="M{left} {top}V{bottom}H{right}{"".join(ends)}" stroke="{GRID}" fill="none"/>'
    for tick, text in x_ticks:
        yield f'<text x="{_n(flat(tick))}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>'
    for tick, text in y_ticks:
        yield f'<text x="{left - 8}" y="{_n(up(tick) + 4)}" text-anchor="end">{escape(text)}</text>'
    middle = (left + right) / 2
    if plot.xaxis[0].axis_label:
        said = escape(str(plot.xaxis[0].axis_label))
        yield f'<text x="{_n(middle)}" y="{bottom + 38}" text-anchor="middle">{said}</text>'
    if plot.yaxis[0].axis_label:
        said, high = escape(str(plot.yaxis[0].axis_label)), (top + bottom) / 2
        yield f'<text transform="translate(15 {_n(high)}) rotate(-90)" text-anchor="middle">{said}</text>'


def _ticks(axis: Any, span: Any, scale: Any, few: int) -> list[tuple[float, str]]:
    low, high = float(span.start), float(span.end)
    if isinstance(axis.ticker, FixedTicker):
        found = [float(t) for t in axis.ticker.ticks if low <= t <= high]
    elif isinstance(scale, LogScale):
        found = [10.0**e for e in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    else:
        step = 10.0 ** math.floor(math.log10((high - low) / few))
        step *= next(each for each in (1, 2, 2.5, 5, 10) if (high - low) / (step * each) <= few)
        found = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    if len(found) > 2 * few:
        found = found[:: math.ceil(len(found) / (1.5 * few))]
    names = {float(key): value for key, value in axis.major_label_overrides.items()}
    told = []
    for tick in found:
        name = names.get(tick, general(tick))
        told.append((tick, name.text if isinstance(name, PlainText) else str(name)))
    return told


def _legend(words: Sequence[tuple[str, Sequence[GlyphRenderer]]], width: int) -> tuple[list[str], int]:
    drawn, x, y = [], _LEFT, 16
    for text, renderers in words:
        wide = 44 + round(6.4 * len(text))
        if x > _LEFT and x + wide > width:
            x, y = _LEFT, y + 20
        glyph = renderers[0].glyph
        drawn += _swatch(glyph, x, y)
        drawn.append(f'<text x="{x + 30}" y="{y + 4}">{escape(text)}</text>')
        x += wide
    return drawn, y + 4 if words else 0


def _swatch(glyph: Any, x: float, y: float) -> list[str]:
    if isinstance(glyph, Scatter):
        return [_mark(str(glyph.marker), x + 12, y, 5, str(glyph.fill_color))]
    return [f'<path d="M{x} {y}h24"{_stroke(glyph)}/>']


# What is drawn -------------------------------------------------------------------------------------------


def _glyph(renderer: GlyphRenderer, flat: _Place, up: _Place) -> list[str]:
    glyph, data = renderer.glyph, renderer.data_source.data
    if isinstance(glyph, Line):
        return [f'<path d="{_path(_of(glyph.x, data), _of(glyph.y, data), flat, up)}"{_stroke(glyph)}/>']
    if isinstance(glyph, MultiLine):
        pairs = zip(_of(glyph.xs, data), _of(glyph.ys, data), strict=True)
        return [f'<path d="{"".join(_path(xs, ys, flat, up) for xs, ys in pairs)}"{_stroke(glyph)}/>']
    if isinstance(glyph, VArea):
        xs = list(_of(glyph.x, data))
        around = xs + xs[::-1]
        ends = list(_of(glyph.y1, data)) + list(_of(glyph.y2, data))[::-1]
        return [f'<path d="{_path(around, ends, flat, up)}Z"{_fill(glyph)}/>']
    if isinstance(glyph, MultiPolygons):
        rings = []
        for shapes_x, shapes_y in zip(_of(glyph.xs, data), _of(glyph.ys, data), strict=True):
            for outlines_x, outlines_y in zip(shapes_x, shapes_y, strict=True):
                rings += [_path(x, y, flat, up) + "Z" for x, y in zip(outlines_x, outlines_y, strict=True)]
        return [f'<path d="{"".join(rings)}" fill-rule="evenodd"{_fill(glyph)}/>'] if rings else []
    if isinstance(glyph, Scatter):
        if not glyph.fill_alpha or glyph.fill_color is None:
            return []
        size, marker = float(glyph.size) / 2, str(glyph.marker)
        return [
            _mark(marker, flat(float(x)), up(float(y)), size, str(glyph.fill_color))
            for x, y in zip(_of(glyph.x, data), _of(glyph.y, data), strict=True)
            if math.isfinite(x) and math.isfinite(y)
        ]
    if isinstance(glyph, Text):
        look = 'font-size="11" font-weight="600" text-anchor="middle"'
        return [
            f'<text x="{_n(flat(x))}" y="{_n(up(y) + 4)}" {look}>{escape(str(t))}</text>'
            for x, y, t in zip(_of(glyph.x, data), _of(glyph.y, data), _of(glyph.text, data), strict=True)
        ]
    raise NotImplementedError(f"a {type(glyph).__name__} isn't drawn as SVG")


def _of(column: Any, data: Any) -> Any:
    return data[column if isinstance(column, str) else column.field]


def _path(xs: Sequence[float], ys: Sequence[float], flat: _Place, up: _Place) -> str:
    """A line of half pixels; where a value isn't finite it breaks."""
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(x) and math.isfinite(y):
            parts[-1].append((flat(float(x)), up(float(y))))
        elif parts[-1]:
            parts.append([])
    return "".join(_moves(_coarser(np.array(part))) for part in parts if part)


def _moves(points: np.ndarray) -> str:
    whole = np.round(points * _FINE).astype(int)
    steps = np.diff(whole, axis=0)
    steps = steps[np.abs(steps).sum(1) > 0]
    told = "".join(_pair(int(dx), int(dy)) for dx, dy in steps)
    x, y = whole[0] / _FINE
    return f"M{_n(x)} {_n(y)}" + (f"l{told.strip()}" if told else "")


def _pair(dx: int, dy: int) -> str:
    one, two = _n(dx / _FINE), _n(dy / _FINE)
    return f"{one if one.startswith('-') else ' ' + one}{two if two.startswith('-') else ' ' + two}"


def _coarser(points: np.ndarray) -> np.ndarray:
    """Leave out points that lie near the line without them (Ramer, Douglas and Peucker)."""
    kept = np.zeros(len(points), dtype=bool)
    kept[[0, -1]] = True
    open_ = [(0, len(points) - 1)]
    while open_:
        a, b = open_.pop()
        if b - a < 2:
            continue
        way = points[b] - points[a]
        size = float(np.hypot(*way))
        between = points[a + 1 : b] - points[a]
        apart = np.hypot(*between.T) if size == 0 else np.abs(between @ [-way[1], way[0]]) / size
        far = int(apart.argmax())
        if apart[far] > _COARSE:
            kept[a + 1 + far] = True
            open_ += [(a, a + 1 + far), (a + 1 + far, b)]
    return points[kept]


def _span(span: Span, flat: _Place, up: _Place, frame: tuple[float, float, float, float]) -> str:
    left, right, top, bottom = frame
    place = float(span.location)
    way = (
        f"M{_n(flat(place))} {top}V{bottom}"
        if span.dimension == "height"
        else f"M{left} {_n(up(place))}H{right}"
    )
    return f'<path d="{way}"{_stroke(span)}/>'


def _label(label: Label, flat: _Place, up: _Place) -> str:
    anchor = {"right": "end", "center": "middle"}.get(str(label.text_align), "start")
    x, y = flat(float(label.x)) + label.x_offset, up(float(label.y)) - label.y_offset
    colour = "" if label.text_color == INK else f' style="fill:{label.text_color}"'
    colour += ' font-weight="600"' if label.text_font_style == "bold" else ""
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{colour}>{escape(str(label.text))}</text>'


def _mark(marker: str, x: float, y: float, size: float, colour: str) -> str:
    if marker == "triangle":
        way = f"M{_n(x)} {_n(y - size)}l{_n(size)} {_n(1.7 * size)}h{_n(-2 * size)}Z"
        return f'<path d="{way}" fill="{colour}"/>'
    return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(size)}" fill="{colour}"/>'


def _stroke(glyph: Any) -> str:
    dash = glyph.line_dash
    pattern = _DASHES.get(dash, "") if isinstance(dash, str) else " ".join(str(each) for each in dash)
    return (
        f' stroke="{glyph.line_color}" stroke-width="{_n(float(glyph.line_width))}" fill="none"'
        + (f' stroke-opacity="{glyph.line_alpha:g}"' if glyph.line_alpha != 1 else "")
        + (f' stroke-dasharray="{pattern}"' if pattern else "")
    )


def _fill(glyph: Any) -> str:
    return f' fill="{glyph.fill_color}" fill-opacity="{glyph.fill_alpha:g}"'


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
