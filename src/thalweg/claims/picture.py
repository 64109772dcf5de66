"""Pictures of a claim's numbers, as SVG: curves over seeds, or dots with intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from thalweg.claims.rules import interval

__all__ = ["Dots", "Lines", "Picture", "alternative", "draw"]

_INK, _SOFT, _LINE = "#1b1f24", "#57606a", "#d5dbe1"
# of different lightness too, so that they differ in grey and for eyes that see fewer colours
_COLOURS = ("#c24e00", "#0b5cad", "#2a7f3f", "#8a3ea8", "#7a6200", "#00717a", "#a3224f", "#4b5563")
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "4 2", "1 2", "10 4", "3 5")
_WIDE = 720
_STYLE = (
    f"text{{font-family:system-ui,sans-serif;font-size:13px;fill:{_INK}}}"
    f".small{{font-size:11px;fill:{_SOFT}}}.head{{font-weight:600}}"
)
_MOST_POINTS = 120
Rows = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Dots:
    """For each condition a row for each value: every seed as a dot, the mean with its 95 % interval.

    Attributes:
        values: names of numbers, each with the label of its row.
        axis: title of the axis.
        log: whether the axis is logarithmic.
        mark: a value that a line is drawn at.
    """

    values: Mapping[str, str]
    axis: str
    log: bool = False
    mark: float | None = None


@dataclass(frozen=True, kw_only=True)
class Lines:
    """For each condition a panel with curves: thin for each seed, thick for their median.

    Attributes:
        curves: names of lists, each with its label.
        axis: title of the axis of values.
        across: title of the other axis.
        x: name of the list of places; without it they are counted from 0.
        log: whether the axis of values is logarithmic; values of 0 and below are left out.
        log_x: whether the other is.
        own_scales: whether each panel has a scale of its own for values.
    """

    curves: Mapping[str, str]
    axis: str
    across: str
    x: str | None = None
    log: bool = False
    log_x: bool = False
    own_scales: bool = False


Picture = Dots | Lines


def draw(picture: Picture, numbers: Rows, title: str, *, exact: bool = False) -> str:
    """Return the picture as SVG, with its alternative text as title.

    Coordinates are rounded, so that the file is the same on every machine.

    Args:
        picture: what is drawn.
        numbers: of each condition: one mapping a seed.
        title: of the claim.
        exact: the numbers have no error.
    """
    said = alternative(picture, numbers, title)
    body, high = _dots(picture, numbers, exact) if isinstance(picture, Dots) else _lines(picture, numbers)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {high}" width="{_WIDE}" '
        f'height="{high}" role="img" style="max-width:100%;height:auto">\n'
        f"<title>{escape(said)}</title>\n<style>{_STYLE}</style>\n"
        f'<rect width="{_WIDE}" height="{high}" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n"
    )


def alternative(picture: Picture, numbers: Rows, title: str) -> str:
    """Say in words what the picture shows."""
    parts = []
    for condition, rows in numbers.items():
        if isinstance(picture, Dots):
            told = [f"{label} {_short(_mean(rows, name))}" for name, label in picture.values.items()]
        else:
            told = []
            for name, label in picture.curves.items():
                curve = [value for value in _median(rows, name) if value is not None]
                if curve:
                    told.append(f"{label} from {_short(curve[0])} to {_short(curve[-1])}")
        parts.append((f"{condition}: " if condition else "") + ", ".join(told))
    return f"{title}. {picture.axis[:1].upper()}{picture.axis[1:]}: {'; '.join(parts)}."


def _dots(picture: Dots, numbers: Rows, exact: bool) -> tuple[list[str], int]:
    finite = [
        float(row[name])
        for rows in numbers.values()
        for row in rows
        for name in picture.values
        if _drawable(row[name], picture.log)
    ]
    if picture.mark is not None:
        finite.append(picture.mark)
    left = min(340, 36 + 8 * max(len(label) for label in picture.values.values()))
    scale, ticks = _scale(finite, left, _WIDE - 24, log=picture.log)
    drawn, y = [], 8
    for condition, rows in numbers.items():
        if condition:
            drawn.append(f'<text class="head" x="12" y="{y + 16}">{escape(condition)}</text>')
            y += 26
        top, bottom = y, y + 24 * len(picture.values)
        drawn += [_line(scale(tick), top, scale(tick), bottom, _LINE) for tick in ticks]
        if picture.mark is not None:
            drawn.append(_line(scale(picture.mark), top, scale(picture.mark), bottom, _SOFT, dash="4 3"))
        for place, (name, label) in enumerate(picture.values.items()):
            colour, middle = _COLOURS[place % len(_COLOURS)], y + 12
            drawn.append(f'<text x="{left - 12}" y="{middle + 4}" text-anchor="end">{escape(label)}</text>')
            values = [float(row[name]) for row in rows if _drawable(row[name], picture.log)]
            drawn += [
                f'<circle cx="{scale(value)}" cy="{middle}" r="2.5" fill="{colour}" fill-opacity="0.4"/>'
                for value in values
            ]
            if values:
                found = interval([math.log(v) for v in values] if picture.log else values, exact=exact)
                back: Callable[[float], float] = math.exp if picture.log else float
                if len(values) > 1 and found.high > found.low:
                    ends = [
                        back(max(min(e, 700.0), -700.0)) if picture.log else e
                        for e in (found.low, found.high)
                    ]
                    drawn.append(_line(scale(ends[0]), middle, scale(ends[1]), middle, colour, width=2.5))
                drawn.append(
                    f'<circle cx="{scale(back(found.mean))}" cy="{middle}" r="4.5" fill="{colour}"/>'
                )
            if len(values) < len(rows):
                drawn.append(
                    f'<text class="small" x="{_WIDE - 20}" y="{middle + 4}" text-anchor="end">'
                    f"{len(rows) - len(values)} of {len(rows)} not finite</text>"
                )
            y += 24
        y += 8
    drawn += [
        f'<text class="small" x="{scale(tick)}" y="{y + 12}" text-anchor="middle">{_short(tick)}</text>'
        for tick in ticks
    ]
    several = any(len(rows) > 1 for rows in numbers.values())
    said = [picture.axis, *(["mean with 95 % interval, and each seed"] if several else [])]
    for row, text in enumerate(said):
        # in the middle of the axis, unless there is no room for it there
        middle = (left + _WIDE - 24) // 2 if 3.3 * len(text) < (_WIDE - left) / 2 else _WIDE // 2
        drawn.append(
            f'<text class="small" x="{middle}" y="{y + 30 + 15 * row}" text-anchor="middle">'
            f"{escape(text)}</text>"
        )
    return drawn, y + 25 + 15 * len(said)


def _lines(picture: Lines, numbers: Rows) -> tuple[list[str], int]:
    panels = list(numbers.items())
    across = 1 if len(panels) == 1 else 2
    wide, high = _WIDE // across, 250 if across == 1 else 210
    xs = {name: _places(picture, rows) for name, rows in panels}
    all_x = [x for places in xs.values() for x in places if not picture.log_x or x > 0]
    values = {
        condition: [
            value
            for row in rows
            for name in picture.curves
            for value in row[name]
            if _drawable(value, picture.log)
        ]
        for condition, rows in panels
    }
    every = [value for each in values.values() for value in each]
    drawn: list[str] = []
    for number, (condition, rows) in enumerate(panels):
        left, top = (number % across) * wide + 62, (number // across) * (high + 58) + 52
        right, bottom = (number % across) * wide + wide - 16, top + high - 40
        flat, ticks_x = _scale(all_x, left, right, log=picture.log_x, few=5)
        up, ticks_y = _scale(
            values[condition] if picture.own_scales else every, bottom, top, log=picture.log, few=6
        )
        if condition:
            drawn.append(f'<text class="head" x="{left}" y="{top - 12}">{escape(condition)}</text>')
        for tick in ticks_y:
            drawn.append(_line(left, up(tick), right, up(tick), _LINE))
            drawn.append(
                f'<text class="small" x="{left - 6}" y="{up(tick) + 4}" text-anchor="end">'
                f"{_short(tick)}</text>"
            )
        for tick in ticks_x:
            drawn.append(
                f'<text class="small" x="{flat(tick)}" y="{bottom + 16}" text-anchor="middle">'
                f"{_short(tick)}</text>"
            )
        drawn.append(_line(left, bottom, right, bottom, _SOFT))
        for place, name in enumerate(picture.curves):
            colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)]
            shown = rows[:8] if len(rows) > 1 else []
            for row in shown:
                drawn.append(_path(xs[condition], row[name], flat, up, picture, colour, thin=True))
            drawn.append(
                _path(xs[condition], _median(rows, name), flat, up, picture, colour, thin=False, dash=dash)
            )
        drawn.append(
            f'<text class="small" x="{(left + right) // 2}" y="{bottom + 32}" text-anchor="middle">'
            f"{escape(picture.across)}</text>"
        )
    y = ((len(panels) + across - 1) // across) * (high + 58) + 28
    drawn.append(f'<text class="small" x="12" y="14">{escape(picture.axis)}</text>')
    x = 62
    for place, label in enumerate(picture.curves.values()):
        width = 56 + 7 * len(label)
        if x + width > _WIDE:
            x, y = 62, y + 20
        colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)]
        drawn.append(_line(x, y, x + 26, y, colour, width=2.5, dash=dash))
        drawn.append(f'<text x="{x + 32}" y="{y + 4}">{escape(label)}</text>')
        x += width
    return drawn, y + 16


def _path(
    places: Sequence[float],
    values: Sequence[float | None],
    flat: Callable[[float], float],
    up: Callable[[float], float],
    picture: Lines,
    colour: str,
    *,
    thin: bool,
    dash: str = "",
) -> str:
    step = max(1, math.ceil(len(values) / _MOST_POINTS))
    points = [
        f"{flat(x)},{up(float(value))}"
        for number, (x, value) in enumerate(zip(places, values, strict=False))
        if value is not None and _drawable(value, picture.log) and (not picture.log_x or x > 0)
        and (number % step == 0 or number == len(values) - 1)
    ]  # fmt: skip
    look = 'stroke-width="1" stroke-opacity="0.3"' if thin else 'stroke-width="2.5"'
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" {look}{dashed}/>'


def _places(picture: Lines, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    if picture.x is not None:
        return [float(x) for x in rows[0][picture.x]]
    longest = max(len(row[name]) for row in rows for name in picture.curves)
    return [float(k) for k in range(longest)]


def _median(rows: Sequence[Mapping[str, Any]], name: str) -> list[float | None]:
    longest = max(len(row[name]) for row in rows)
    found: list[float | None] = []
    for place in range(longest):
        there = [row[name][place] for row in rows if place < len(row[name])]
        finite = [float(value) for value in there if value is not None and math.isfinite(value)]
        found.append(statistics.median(finite) if finite else None)
    return found


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    values = [float(row[name]) for row in rows if _drawable(row[name], False)]
    return statistics.fmean(values) if values else math.nan


def _drawable(value: Any, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (not log or value > 0)


def _scale(
    values: Sequence[float], start: float, end: float, *, log: bool, few: int = 7
) -> tuple[Callable[[float], float], list[float]]:
    """Return what places a value between start and end, and ticks."""
    least, most = (min(values), max(values)) if values else (1.0, 10.0) if log else (0.0, 1.0)
    if log:
        low, high = math.log10(least), math.log10(most)
        if high - low < 0.3:
            low, high = low - 0.15, high + 0.15
        every = max(1, math.ceil((high - low) / few))
        ticks = [10.0**k for k in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1) if k % every == 0]
        if len(ticks) < 2:
            marks = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
            ticks = [mark for mark in marks if low - 1e-9 <= math.log10(mark) <= high + 1e-9]
    else:
        span = most - least or abs(most) or 1.0
        step = 10.0 ** math.floor(math.log10(span / few))
        step *= next(each for each in (1, 2, 5, 10) if span / (step * each) <= few)
        low, high = math.floor(least / step + 1e-9) * step, math.ceil(most / step - 1e-9) * step
        if high <= low:
            high = low + step
        ticks = [low + step * k for k in range(round((high - low) / step) + 1)]

    def place(value: float) -> float:
        if log:
            value = math.log10(value) if value > 0 else low
        inside = min(max((value - low) / (high - low), -0.02), 1.02)
        return round(start + inside * (end - start), 1)

    return place, ticks


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, dash: str = ""
) -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def _short(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "not finite"
    if 1e3 <= abs(value) < 1e5:
        return f"{value:,.0f}"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
