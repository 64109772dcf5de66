"""The picture of an experiment: each variant's mean, its interval, and a dot for each run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.sax.saxutils import escape

from experiments.comparing import interval
from experiments.experiment import Experiment

__all__ = ["alternative", "picture"]

_INK, _SOFT, _LINE, _MARK, _RUN = "#1b1f24", "#57606a", "#d5dbe1", "#c24e00", "#7a8793"
_WIDE, _LEFT, _RIGHT, _ROW, _HEAD = 760, 250, 24, 24, 34
_STYLE = (
    f"text{{font-family:system-ui,sans-serif;font-size:13px;fill:{_INK}}}"
    f".small{{font-size:11px;fill:{_SOFT}}}.head{{font-weight:600}}"
)
Scores = Mapping[tuple[str, str], Mapping[int, float]]


def alternative(experiment: Experiment, scores: Scores) -> str:
    """Say in words what the picture shows."""
    said = []
    for panel in experiment.panels:
        rows = [
            f"{variant.name} {interval(list(scores[panel.name, variant.name].values())).mean:.1f}"
            for variant in experiment.variants
            if (panel.name, variant.name) in scores
        ]
        if rows:
            said.append(f"{panel.name}: {', '.join(rows)}")
    return f"Test accuracy in percent, mean over seeds. {'; '.join(said)}."


def picture(experiment: Experiment, scores: Scores) -> str:
    """Return the picture as SVG; coordinates are rounded, so that it is the same on every machine."""
    values = [value for each in scores.values() for value in each.values()]
    low, high, ticks = _scale(min(values), max(values))

    def x(value: float) -> str:
        return f"{_LEFT + (value - low) / (high - low) * (_WIDE - _LEFT - _RIGHT):.1f}"

    drawn: list[str] = []
    y = 8
    for panel in experiment.panels:
        rows = [each.name for each in experiment.variants if (panel.name, each.name) in scores]
        if not rows:
            continue
        drawn.append(f'<text class="head" x="12" y="{y + 18}">{escape(panel.name)}</text>')
        y += _HEAD
        for tick in ticks:
            drawn.append(
                f'<line x1="{x(tick)}" x2="{x(tick)}" y1="{y - 4}" y2="{y + _ROW * len(rows)}" '
                f'stroke="{_LINE}"/>'
            )
        for name in rows:
            each = list(scores[panel.name, name].values())
            found, middle = interval(each), y + _ROW // 2
            drawn.append(f'<text x="{_LEFT - 14}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>')
            drawn += [
                f'<circle cx="{x(value)}" cy="{middle}" r="2.5" fill="{_RUN}" fill-opacity="0.45"/>'
                for value in each
            ]
            if math.isfinite(found.half):
                ends = (max(low, found.low), min(high, found.high))
                drawn.append(
                    f'<line x1="{x(ends[0])}" x2="{x(ends[1])}" y1="{middle}" y2="{middle}" '
                    f'stroke="{_MARK}" stroke-width="2.5"/>'
                )
            drawn.append(f'<circle cx="{x(found.mean)}" cy="{middle}" r="4.5" fill="{_MARK}"/>')
            y += _ROW
        y += 6
    for tick in ticks:
        drawn.append(f'<text class="small" x="{x(tick)}" y="{y + 14}" text-anchor="middle">{tick:g}</text>')
    drawn.append(
        f'<text class="small" x="{(_LEFT + _WIDE - _RIGHT) // 2}" y="{y + 32}" text-anchor="middle">'
        "test accuracy, %: mean with 95 % interval, and each run</text>"
    )
    high_ = y + 42
    title = escape(alternative(experiment, scores))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {high_}" width="{_WIDE}" '
        f'height="{high_}" role="img">\n<title>{title}</title>\n<style>{_STYLE}</style>\n'
        f'<rect width="{_WIDE}" height="{high_}" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _scale(least: float, most: float) -> tuple[float, float, list[float]]:
    """Return the ends of the axis and its ticks."""
    span = max(most - least, 1.0)
    step = next(each for each in (0.5, 1, 2, 5, 10, 20) if span / each <= 8 or each == 20)
    low, high = math.floor(least / step) * step, math.ceil(most / step) * step
    if low == high:
        high = low + step
    return low, high, [low + step * k for k in range(round((high - low) / step) + 1)]
