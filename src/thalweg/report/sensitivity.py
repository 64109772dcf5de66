"""How much the learning rate matters: every setting that was tried, one small picture an optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.models import BoxAnnotation, ColumnDataSource, Range1d, Span
from bokeh.plotting import figure

from thalweg.racing.results import OptimizerResult, Results, Trial
from thalweg.report.canvas import DIVERGED_MARKER, GRID, INK, Strip, canvas, hover, window
from thalweg.report.numbers import ScoreFormat, general, hyperparameter
from thalweg.report.palette import Look

__all__ = ["RATE", "sensitivity"]

RATE = "lr"
_WAVES = {0: "library default", 1: "search space", 2: "reserve"}
_AT_THE_END = {False: "diverged", True: "diverged or stopped"}


def sensitivity(
    results: Results, ranked: Sequence[OptimizerResult], looks: Mapping[str, Look], score: ScoreFormat
) -> dict[str, figure]:
    """Draw validation score against learning rate for each optimizer that has one; axes are shared."""
    rated = {o.name: [t for t in o.trials if _rate(t) is not None] for o in ranked}
    rated = {name: trials for name, trials in rated.items() if trials}
    if not rated:
        return {}
    higher = results.plan.higher_is_better
    rates = [_rate(t) for trials in rated.values() for t in trials]
    for name in rated:
        rates += list(results.plan.spaces.get(name, {}).get(RATE, ()))
    strip = Strip(*_score_window(rated, higher=higher), higher=higher)
    x_range = Range1d(*window(rates, pad=0.03, log=True))
    y_range = Range1d(*strip.range)
    return {
        o.name: _one(results, o, rated[o.name], looks[o.name], score, strip, x_range, y_range)
        for o in ranked
        if o.name in rated
    }


def _one(
    results: Results,
    optimizer: OptimizerResult,
    trials: Sequence[Trial],
    look: Look,
    score: ScoreFormat,
    strip: Strip,
    x_range: Range1d,
    y_range: Range1d,
) -> figure:
    plot = canvas(
        height=206, x="learning rate", x_axis_type="log", x_range=x_range, y_range=y_range, tools=""
    )
    plot.min_border_right = 6
    plot.yaxis.ticker.desired_num_ticks = 4
    plot.xaxis.ticker.desired_num_ticks = 5
    strip.draw(plot, dimension="y", label=_AT_THE_END[results.plan.eliminate])
    space = results.plan.spaces.get(optimizer.name, {}).get(RATE)
    if space:
        for end in space:
            plot.add_layout(
                Span(location=end, dimension="height", line_color=INK, line_dash=[4, 4], line_width=1.2)
            )
        plot.add_layout(BoxAnnotation(right=space[0], fill_color=GRID, fill_alpha=0.1, line_color=None))
        plot.add_layout(BoxAnnotation(left=space[1], fill_color=GRID, fill_alpha=0.1, line_color=None))
    chosen = {winner.identity for winner in optimizer.winners}
    low, high = sorted((strip.edge, strip.range[1] if strip.higher else strip.range[0]))
    table: dict[str, list[Any]] = defaultdict(list)
    for trial in sorted(trials, key=lambda t: t.identity in chosen):
        dead = trial.diverged_at is not None or (trial.validation is None and trial.eliminated_at is None)
        hollow = trial.wave == 2 or trial.eliminated_at is not None
        row = {
            "x": _rate(trial),
            "y": strip.at
            if dead or trial.validation is None
            else float(np.clip(trial.validation, low, high)),
            "marker": DIVERGED_MARKER if dead else "star" if trial.wave == 0 else look.marker,
            "size": 12 if trial.wave == 0 and not dead else 6.5,
            "fill": 0.0 if hollow else 0.6,
            "ring": 13 if trial.identity in chosen else 0,
            "name": optimizer.name,
            "rate": general(_rate(trial)),
            "text": _fate(trial, score),
            "from": f"{_WAVES.get(trial.wave, trial.wave)}, split {trial.replicate + 1}",
            "rest": _rest(trial),
            "role": trial.identity + (", chosen" if trial.identity in chosen else ""),
        }
        for column, value in row.items():
            table[column].append(value)
    source = ColumnDataSource(dict(table))
    dots = plot.scatter(
        "x",
        "y",
        source=source,
        marker="marker",
        size="size",
        fill_color=look.colour,
        fill_alpha="fill",
        line_color=look.colour,
        line_alpha=0.9,
    )
    rings = {"marker": "circle", "size": "ring", "fill_alpha": 0, "line_color": INK, "line_width": 1.6}
    plot.scatter("x", "y", source=ColumnDataSource(_only_chosen(table)), **rings)
    tips = [
        ("learning rate", "@rate"),
        ("validation", "@text"),
        ("drawn from", "@from"),
        ("setting", "@rest"),
    ]
    hover(plot, [dots], [("optimizer", "@name"), *tips, ("trial", "@role")])
    return plot


def _only_chosen(table: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    kept = [i for i, size in enumerate(table["ring"]) if size]
    return {column: [table[column][i] for i in kept] for column in ("x", "y", "ring")}


def _rate(trial: Trial) -> float | None:
    value = trial.setting.hyperparameters.get(RATE)
    return None if value is None or isinstance(value, bool) or value <= 0 else float(value)


def _score_window(rated: Mapping[str, Sequence[Trial]], *, higher: bool) -> tuple[float, float]:
    """Hold the better three quarters of all settings comfortably; what is far worse lies at the edge."""
    values = np.array([t.validation for trials in rated.values() for t in trials if t.validation is not None])
    values = values[np.isfinite(values)]
    if len(values) < 4:
        return window(list(values), pad=0.08)
    best = values.max() if higher else values.min()
    typical = np.quantile(values, 0.25 if higher else 0.75)
    limit = best - 3 * (best - typical) if higher else best + 3 * (typical - best)
    return window(list(np.maximum(values, limit) if higher else np.minimum(values, limit)), pad=0.06)


def _fate(trial: Trial, score: ScoreFormat) -> str:
    if trial.diverged_at is not None:
        return f"diverged at step {trial.diverged_at}"
    if trial.eliminated_at is not None:
        return f"stopped early at step {trial.eliminated_at}"
    return score(trial.validation, "none")


def _rest(trial: Trial) -> str:
    parts = [f"{k} {hyperparameter(v)}" for k, v in trial.setting.hyperparameters.items() if k != RATE]
    return ", ".join([*parts, f"schedule {trial.setting.schedule}"])
