"""Lines with bands: learning curves, best-of-k, and the share of runs that reached the goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, Legend, LegendItem, NumeralTickFormatter
from bokeh.plotting import figure

from thalweg.racing.results import OptimizerResult, Results
from thalweg.report.canvas import GRID, INK, band, canvas, hover, plain, readable_logarithms, window
from thalweg.report.numbers import shorten, time_unit
from thalweg.report.palette import Look
from thalweg.run.summaries import metric_label

__all__ = ["at_first", "best_of_k", "goal_profiles", "learning_curves"]

_SHOWN_AT_FIRST = 8
_FEW = _SHOWN_AT_FIRST + 2
_MARKED = 10


@dataclass(frozen=True)
class _Line:
    name: str
    x: Sequence[float]
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def at_first(ranked: Sequence[OptimizerResult]) -> Sequence[OptimizerResult]:
    """Return the optimizers whose lines are shown from the start: all if they are few, else the best."""
    return ranked if len(ranked) <= _FEW else ranked[:_SHOWN_AT_FIRST]


def learning_curves(
    results: Results, ranked: Sequence[OptimizerResult], looks: Mapping[str, Look]
) -> dict[str, figure]:
    """Draw median and 10-90 % band over confirmation runs: metric and loss on validation, training loss."""
    metric = metric_label(results.plan.metric)
    kinds = (
        ("validation", f"validation {metric}", results.plan.higher_is_better, False),
        ("validation_loss", f"validation loss ({results.plan.loss})", False, True),
        ("train_loss", f"training loss ({results.plan.loss})", False, True),
    )
    figures: dict[str, figure] = {}
    drawn: dict[str, dict[str, list[Any]]] = {}
    for kind, label, higher, log in kinds:
        lines = []
        for optimizer in ranked:
            rows = [getattr(curve, kind) for curve in optimizer.curves]
            if rows and rows[0]:
                steps = max((curve.steps for curve in optimizer.curves), key=len)
                full = [list(row) + [None] * (len(steps) - len(row)) for row in rows]
                lines.append(_Line(optimizer.name, steps, *band(full, higher=higher)))
        if not lines:
            continue
        log = log and all((line.median[np.isfinite(line.median)] > 0).all() for line in lines)
        main = kind == "validation"
        ends = _curve_window(lines, log=log)
        plot = canvas(
            height=max(400, 90 + 21 * min(len(lines), 40)) if main else 300,
            x="step",
            y=plain(label),
            y_axis_type="log" if log else "linear",
            x_range=(0, results.plan.steps * 1.01),
            y_range=ends,
        )
        if log:
            readable_logarithms(plot, ends)
        drawn[kind] = _draw(plot, lines, looks, "step", "@x{0,0}", legend=main)
        figures[kind] = plot
    for kind in ("validation_loss", "train_loss"):
        for name, renderers in drawn.get(kind, {}).items():
            for master, follower in zip(drawn["validation"].get(name, ()), renderers, strict=False):
                master.js_link("visible", follower, "visible")
    return figures


def best_of_k(
    results: Results, ranked: Sequence[OptimizerResult], looks: Mapping[str, Look]
) -> figure | None:
    """Draw the validation score that the best of k settings would have had."""
    worst = -np.inf if results.plan.higher_is_better else np.inf
    lines = []
    for optimizer in ranked:
        curve = optimizer.best_of_k
        if curve.k:
            arrays = [
                np.array([worst if v is None else v for v in values], dtype=float)
                for values in (curve.median, curve.low, curve.high)
            ]
            lines.append(_Line(optimizer.name, curve.k, *arrays))
    if not lines:
        return None
    most = max(max(line.x) for line in lines)
    medians = [v for line in lines for k, v in zip(line.x, line.median, strict=True) if k > 1 or most == 1]
    plot = canvas(
        height=max(380, 90 + 21 * min(len(lines), 40)),
        x="settings tried (k), doubling from tick to tick",
        y=plain(f"validation {metric_label(results.plan.metric)} of the best of k"),
        x_axis_type="log",
        x_range=(0.93, most * 1.08),
        y_range=window(medians, pad=0.08),
    )
    plot.xaxis.ticker = FixedTicker(ticks=sorted({2**i for i in range(20) if 2**i <= most} | {most}))
    plot.xaxis.formatter = NumeralTickFormatter(format="0")
    _draw(plot, lines, looks, "settings tried", "@x{0}", legend=True, alpha=0.055)
    return plot


def goal_profiles(
    results: Results, ranked: Sequence[OptimizerResult], looks: Mapping[str, Look]
) -> dict[str, figure]:
    """Draw the share of confirmation runs that have reached the goal, by steps, by work and by seconds."""
    times: dict[str, dict[str, list[float | None]]] = {
        "steps": {o.name: [_number(r.goal.steps) for r in o.runs] for o in ranked},
        "work": {o.name: [r.goal.work for r in o.runs] for o in ranked},
        "seconds": dict(results.timing.seconds_to_goal),
    }
    labels = {
        "steps": "steps",
        "work": "compute (a forward pass is 1)",
    }
    figures = {}
    for kind, by_name in times.items():
        reached = [v for values in by_name.values() for v in values if v is not None]
        if not reached:
            continue
        if kind == "seconds":
            unit, size = time_unit(max(reached))
            by_name = {name: [v and v / size for v in values] for name, values in by_name.items()}
            reached = [v / size for v in reached]
            labels[kind] = f"{unit}, each step run alone"
        end = float(results.plan.steps) if kind == "steps" else max(reached) * 1.08
        plot = canvas(
            height=280,
            x=labels[kind],
            y="share of runs at the goal" if kind == "steps" else None,
            x_range=(0, end),
            y_range=(-0.03, 1.05),
        )
        plot.yaxis.ticker = FixedTicker(ticks=[0, 0.25, 0.5, 0.75, 1])
        plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
        lines = []
        for name in [o.name for o in reversed(at_first(ranked)) if o.name in by_name]:
            values = by_name[name]
            at = sorted(v for v in values if v is not None)
            x = [0.0, *at, max(end, *at) if at else end]
            share = [0.0, *((i + 1) / len(values) for i in range(len(at))), len(at) / max(1, len(values))]
            source = ColumnDataSource(
                {
                    "x": x,
                    "share": share,
                    "name": [name] * len(x),
                    "of": [f"{len(at)} of {len(values)}"] * len(x),
                }
            )
            look = looks[name]
            style = {"line_color": look.colour, "line_dash": list(look.dash), "line_width": 2.2}
            lines.append(plot.step("x", "share", source=source, mode="after", **style))
        tips = [
            ("optimizer", "@name"),
            (labels[kind], "@x{0,0.[000]}"),
            ("share", "@share{0 %}"),
            ("reached", "@of"),
        ]
        hover(plot, lines, tips)
        figures[kind] = plot
    return figures


def _draw(
    plot: figure,
    lines: Sequence[_Line],
    looks: Mapping[str, Look],
    x_name: str,
    x_format: str,
    *,
    legend: bool,
    alpha: float = 0.1,
) -> dict[str, list[Any]]:
    """Draw lines over bands, the best on top; return the renderers of each name."""
    log = plot.y_scale.__class__.__name__ == "LogScale"
    floor, ceiling = sorted((plot.y_range.start, plot.y_range.end))
    # Far outside the window stands for infinity: the band then runs off the picture.
    floor, ceiling = (floor / 1e3, ceiling * 1e3) if log else (2 * floor - ceiling, 2 * ceiling - floor)
    drawn: dict[str, list[Any]] = {}
    for place, line in reversed(list(enumerate(lines))):
        look = looks[line.name]
        visible = len(lines) <= _FEW or place < _SHOWN_AT_FIRST
        source = ColumnDataSource(
            {
                "x": list(line.x),
                "median": np.where(np.isfinite(line.median), line.median, np.nan),
                "low": np.clip(line.low, floor, ceiling),
                "high": np.clip(line.high, floor, ceiling),
                "range": [_range_text(a, b) for a, b in zip(line.low, line.high, strict=True)],
                "name": [line.name] * len(line.x),
            }
        )
        area = plot.varea("x", "low", "high", source=source, fill_color=look.colour, fill_alpha=alpha)
        middle = plot.line(
            "x", "median", source=source, line_color=look.colour, line_width=2.2, line_dash=list(look.dash)
        )
        every = max(1, len(line.x) // _MARKED)
        thin = ColumnDataSource({k: list(v)[place % every :: every] for k, v in source.data.items()})
        dots = plot.scatter(
            "x", "median", source=thin, marker=look.marker, size=7, fill_color=look.colour, line_color=None
        )
        drawn[line.name] = [area, middle, dots]
        for renderer in drawn[line.name]:
            renderer.visible = visible
    tips = [("optimizer", "@name"), (x_name, x_format), ("median", "@median{0.[00000]}")]
    middles = [renderers[1] for renderers in drawn.values()]
    hover(plot, middles, [*tips, ("10 % to 90 %", "@range")], line_policy="nearest")
    if legend:
        items = [
            LegendItem(label=plain(shorten(line.name, 20)), renderers=drawn[line.name]) for line in lines
        ]
        plot.add_layout(
            Legend(
                items=items,
                click_policy="hide",
                background_fill_alpha=0,
                border_line_alpha=0,
                label_text_color=INK,
                label_text_font_size="12.5px",
                inactive_fill_color=GRID,
                inactive_fill_alpha=0.2,
                spacing=1,
                padding=2,
                glyph_width=30,
            ),
            "right",
        )
    return drawn


def _curve_window(lines: Sequence[_Line], *, log: bool) -> tuple[float, float]:
    """Leave the first third of training out of the window: it would press everything else together."""
    values: list[float] = []
    for line in lines:
        begin = 0 if log else len(line.median) // 3
        values += [*line.median[begin:], *line.low[begin:], *line.high[begin:]]
    return window(values, log=log)


def _range_text(low: float, high: float) -> str:
    return " to ".join(f"{v:.5g}" if np.isfinite(v) else "diverged" for v in (low, high))


def _number(value: int | None) -> float | None:
    return None if value is None else float(value)
