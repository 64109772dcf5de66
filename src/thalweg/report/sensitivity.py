"""How much a searched number matters, the learning rate above all: a dot for every setting that was tried."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.models import BoxAnnotation, ColumnDataSource, Range1d, Span
from bokeh.plotting import figure

from thalweg.racing.initializations import DEFAULT, words
from thalweg.racing.results import OptimizerResult, Results, SettingInfo, Trial
from thalweg.report.canvas import DIVERGED_MARKER, GRID, INK, Strip, canvas, hover, window
from thalweg.report.numbers import MISSING, ScoreFormat, count, general, hyperparameter
from thalweg.report.palette import Look
from thalweg.report.tables import middle

__all__ = ["RATE", "sensitivity", "starting_point_rows", "starting_points"]

RATE = "lr"
_WAVES = {0: "library default", 1: "search space", 2: "reserve"}
_Ends = tuple[float, float] | None


def sensitivity(
    results: Results, ranked: Sequence[OptimizerResult], looks: Mapping[str, Look], score: ScoreFormat
) -> dict[str, figure]:
    """Draw validation score against learning rate for each optimizer that has one; axes are shared."""
    rated = {o.name: [t for t in o.trials if _rate(t) is not None] for o in ranked}
    rated = {name: trials for name, trials in rated.items() if trials}
    if not rated:
        return {}
    rates = [_rate(t) for trials in rated.values() for t in trials]
    for name in rated:
        rates += list(results.plan.spaces.get(name, {}).get(RATE, ()))
    strip = _strip(results, rated)
    x_range = Range1d(*window(rates, pad=0.03, log=True))
    y_range = Range1d(*strip.range)
    plots = {}
    for o in ranked:
        if o.name in rated:
            ends = results.plan.spaces.get(o.name, {}).get(RATE)
            plots[o.name] = _empty(results, "learning rate", ends, strip, x_range, y_range)
            _dots(plots[o.name], o, rated[o.name], _rate, "learning rate", looks[o.name], score, strip)
    return plots


def starting_points(
    results: Results, ranked: Sequence[OptimizerResult], looks: Mapping[str, Look], score: ScoreFormat
) -> dict[str, figure]:
    """Draw validation score against each number of a starting point, such as ``"sparse.k"``."""
    strip = _strip(results, {o.name: o.trials for o in ranked})
    y_range = Range1d(*strip.range)
    plots = {}
    for scheme, space in results.plan.initializations.items():
        for number, ends in space.items():
            value = _number_of(scheme, number)
            found = {o.name: [t for t in o.trials if value(t) is not None] for o in ranked}
            values = [value(t) for trials in found.values() for t in trials]
            x_range = Range1d(*window([*values, *ends], pad=0.03, log=True))
            label = f"{number} of {scheme} weights"
            plot = _empty(results, label, ends, strip, x_range, y_range)
            for o in ranked:
                _dots(plot, o, found[o.name], value, number, looks[o.name], score, strip)
            plots[f"{scheme}.{number}"] = plot
    return plots


def starting_point_rows(results: Results, score: ScoreFormat) -> list[dict[str, Any]]:
    """Return a row a starting point: its numbers, how its settings fared, how often it was chosen.

    Nothing where weights were left as the model makes them.
    """
    rows: list[dict[str, Any]] = []
    if not any(trial.setting.initialization for o in results.optimizers for trial in o.trials):
        return rows
    won = [winner.setting for o in results.optimizers for winner in o.winners]
    for name, space in results.plan.initializations.items():
        own = [t for o in results.optimizers for t in o.trials if _starts(t.setting) == name]
        values = [t.validation for t in own]
        known = [v for v in values if v is not None]
        rows.append(
            {
                "name": name,
                "ranges": [f"{n} {general(low)} to {general(high)}" for n, (low, high) in space.items()],
                "tried": count(len(own)),
                "diverged": count(sum(t.diverged_at is not None for t in own)),
                "middle": score(middle(values, results)) if known else MISSING,
                "best": score((max if results.plan.higher_is_better else min)(known)) if known else MISSING,
                "chosen": f"{sum(_starts(setting) == name for setting in won)} of {len(won)}",
            }
        )
    return rows


def _starts(info: SettingInfo) -> str:
    return str(info.initialization.get("scheme", DEFAULT))


def _number_of(scheme: str, number: str) -> Callable[[Trial], float | None]:
    def value(trial: Trial) -> float | None:
        begins = trial.setting.initialization
        return float(begins[number]) if begins.get("scheme") == scheme and number in begins else None

    return value


def _strip(results: Results, trials: Mapping[str, Sequence[Trial]]) -> Strip:
    higher = results.plan.higher_is_better
    return Strip(*_score_window(trials, higher=higher), higher=higher)


def _empty(
    results: Results, label: str, ends: _Ends, strip: Strip, x_range: Range1d, y_range: Range1d
) -> figure:
    """A picture without dots: axes, the strip of the dead, and the ends of the search space."""
    plot = canvas(height=206, x=label, x_axis_type="log", x_range=x_range, y_range=y_range, tools="")
    plot.min_border_right = 6
    plot.yaxis.ticker.desired_num_ticks = 4
    plot.xaxis.ticker.desired_num_ticks = 5
    strip.draw(plot, dimension="y")
    if ends:
        for end in ends:
            plot.add_layout(
                Span(location=end, dimension="height", line_color=INK, line_dash=[4, 4], line_width=1.2)
            )
        plot.add_layout(BoxAnnotation(right=ends[0], fill_color=GRID, fill_alpha=0.1, line_color=None))
        plot.add_layout(BoxAnnotation(left=ends[1], fill_color=GRID, fill_alpha=0.1, line_color=None))
    return plot


def _dots(
    plot: figure,
    optimizer: OptimizerResult,
    trials: Sequence[Trial],
    value: Callable[[Trial], float | None],
    label: str,
    look: Look,
    score: ScoreFormat,
    strip: Strip,
) -> None:
    """A dot a setting, of one optimizer."""
    chosen = {winner.identity for winner in optimizer.winners}
    low, high = sorted((strip.edge, strip.range[1] if strip.higher else strip.range[0]))
    table: dict[str, list[Any]] = defaultdict(list)
    for trial in sorted(trials, key=lambda t: t.identity in chosen):
        dead = trial.diverged_at is not None or (trial.validation is None and trial.eliminated_at is None)
        hollow = trial.wave == 2 or trial.eliminated_at is not None
        row = {
            "x": value(trial),
            "y": strip.at
            if dead or trial.validation is None
            else float(np.clip(trial.validation, low, high)),
            "marker": DIVERGED_MARKER if dead else "star" if trial.wave == 0 else look.marker,
            "size": 12 if trial.wave == 0 and not dead else 6.5,
            "fill": 0.0 if hollow else 0.6,
            "ring": 13 if trial.identity in chosen else 0,
            "name": optimizer.name,
            "number": general(value(trial)),
            "text": _fate(trial, score),
            "from": f"{_WAVES.get(trial.wave, trial.wave)}, split {trial.replicate + 1}",
            "rest": _setting(trial),
            "role": trial.identity + (", chosen" if trial.identity in chosen else ""),
        }
        for column, cell in row.items():
            table[column].append(cell)
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
        (label, "@number"),
        ("validation", "@text"),
        ("drawn from", "@from"),
        ("setting", "@rest"),
    ]
    hover(plot, [dots], [("optimizer", "@name"), *tips, ("trial", "@role")])


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


def _setting(trial: Trial) -> str:
    setting = trial.setting
    parts = [f"{k} {hyperparameter(v)}" for k, v in setting.hyperparameters.items()]
    return ", ".join([*parts, f"schedule {setting.schedule}", *words(setting.initialization)])
