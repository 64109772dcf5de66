"""One row an optimizer: every run as a dot, defaults against tuned, seconds a step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import BoxAnnotation, ColumnDataSource
from bokeh.plotting import figure

from thalweg.racing.results import OptimizerResult, Results
from thalweg.report.canvas import (
    DIVERGED_MARKER,
    GRID,
    Strip,
    canvas,
    hover,
    name_rows,
    plain,
    row_height,
    window,
)
from thalweg.report.numbers import ScoreFormat, duration, time_unit
from thalweg.report.palette import Look
from thalweg.run.summaries import metric_label

__all__ = ["defaults_against_tuned", "equal_seconds", "every_run", "step_seconds"]

_TOOLS = "xpan,xbox_zoom,xwheel_zoom,reset,save"
_UPRIGHT = 1.5707963267948966


def every_run(
    results: Results, ranked: Sequence[OptimizerResult], looks: Mapping[str, Look], score: ScoreFormat
) -> figure:
    """Draw the test score of each confirmation run, the mean and its interval, and the margin."""
    scores = {o.name: [run.score for run in o.runs] for o in ranked}
    ends = [end for o in ranked for end in (o.low, o.high)]
    plot, strip = _rows(
        results, ranked, "test", [*(v for row in scores.values() for v in row), *ends], scores
    )
    leader = next((o for o in ranked if o.mean is not None), None)
    if leader is not None and leader.mean is not None and results.plan.margin > 0:
        margin = results.plan.margin * (1 if results.plan.higher_is_better else -1)
        left, right = sorted((leader.mean, leader.mean - margin))
        plot.add_layout(
            BoxAnnotation(
                left=left, right=right, fill_color=GRID, fill_alpha=0.22, line_color=None, level="underlay"
            )
        )
    rows = [(len(ranked) - 1 - i, o) for i, o in enumerate(ranked) if o.mean is not None]
    _bars(plot, [(row, o.low, o.high, looks[o.name].colour) for row, o in rows])
    plot.scatter(
        [o.mean for _, o in rows],
        [row for row, _ in rows],
        marker="dash",
        angle=_UPRIGHT,
        size=24,
        line_color=[looks[o.name].colour for _, o in rows],
        line_width=3,
    )
    _dots(plot, strip, results, ranked, looks, score, scores)
    return plot


def equal_seconds(
    results: Results, ranked: Sequence[OptimizerResult], looks: Mapping[str, Look], score: ScoreFormat
) -> figure | None:
    """Draw the test score of each confirmation run when the fastest optimizer's time was over."""
    scores = results.timing.scores_at_equal_seconds
    if not any(scores.values()):
        return None
    plot, strip = _rows(results, ranked, "test", [v for row in scores.values() for v in row], scores)
    _dots(plot, strip, results, ranked, looks, score, scores)
    return plot


def defaults_against_tuned(
    results: Results, ranked: Sequence[OptimizerResult], looks: Mapping[str, Look], score: ScoreFormat
) -> figure:
    """Draw, for each split, the validation score of the library default and of the tuned setting."""
    scores = {o.name: [*o.default_validation, *o.tuned_validation] for o in ranked}
    plot, strip = _rows(results, ranked, "validation", [v for row in scores.values() for v in row], scores)
    table: dict[str, list[Any]] = defaultdict(list)
    for place, optimizer in enumerate(ranked):
        look = looks[optimizer.name]
        both = list(zip(optimizer.default_validation, optimizer.tuned_validation, strict=False))
        for i, (default, tuned) in enumerate(both):
            row = {
                "y": len(ranked) - 1 - place + _lift(i, len(both)),
                "default": strip.at if default is None else default,
                "tuned": strip.at if tuned is None else tuned,
                "default_text": score(default, "none at the last step"),
                "tuned_text": score(tuned, "none at the last step"),
                "default_marker": DIVERGED_MARKER if default is None else "circle",
                "tuned_marker": DIVERGED_MARKER if tuned is None else look.marker,
                "colour": look.colour,
                "name": optimizer.name,
                "split": i + 1,
            }
            for column, value in row.items():
                table[column].append(value)
    source = ColumnDataSource(dict(table))
    if table:
        plot.segment("default", "y", "tuned", "y", source=source, line_color="colour", line_alpha=0.4)
        ring = {"size": 7, "fill_alpha": 0, "line_color": "colour", "line_width": 1.5}
        disc = {"size": 8, "fill_color": "colour", "line_color": "colour"}
        rings = plot.scatter("default", "y", source=source, marker="default_marker", **ring)
        discs = plot.scatter("tuned", "y", source=source, marker="tuned_marker", **disc)
        tips = [("optimizer", "@name"), ("default", "@default_text"), ("tuned", "@tuned_text")]
        hover(plot, [rings, discs], [*tips, ("split", "@split")])
    return plot


def step_seconds(
    results: Results, ranked: Sequence[OptimizerResult], looks: Mapping[str, Look]
) -> figure | None:
    """Draw the measured time of one step run alone: median, and the range of the measurements."""
    times = results.timing.step_seconds
    rows = [(len(ranked) - 1 - i, o.name) for i, o in enumerate(ranked) if o.name in times]
    if not rows:
        return None
    top = max(high for _, _, high in times.values())
    unit, size = time_unit(top)
    plot = canvas(
        height=row_height(len(ranked)),
        x=f"{unit} for one step run alone (left is faster)",
        x_range=(0, top / size * 1.06),
        tools=_TOOLS,
    )
    name_rows(plot, [o.name for o in ranked])
    _bars(plot, [(row, times[n][0] / size, times[n][2] / size, looks[n].colour) for row, n in rows])
    source = ColumnDataSource(
        {
            "x": [times[n][1] / size for _, n in rows],
            "y": [row for row, _ in rows],
            "name": [n for _, n in rows],
            "text": [duration(times[n][1]) for _, n in rows],
            "range": [f"{duration(times[n][0])} to {duration(times[n][2])}" for _, n in rows],
            "marker": [looks[n].marker for _, n in rows],
            "colour": [looks[n].colour for _, n in rows],
        }
    )
    dots = plot.scatter("x", "y", source=source, marker="marker", size=9, color="colour")
    hover(plot, [dots], [("optimizer", "@name"), ("median", "@text"), ("measured", "@range")])
    return plot


def _rows(
    results: Results,
    ranked: Sequence[OptimizerResult],
    part: str,
    values: Sequence[float | None],
    scores: Mapping[str, Sequence[float | None]],
) -> tuple[figure, Strip]:
    """Return an empty figure with a row an optimizer and, where a score is missing, a strip for it."""
    higher = results.plan.higher_is_better
    ends = window(values, pad=0.04)
    strip = Strip(*ends, higher=higher)
    broken = any(score is None for row in scores.values() for score in row)
    plot = canvas(
        height=row_height(len(ranked)),
        x=plain(f"{part} {metric_label(results.plan.metric)} ({'right' if higher else 'left'} is better)"),
        x_range=strip.range if broken else ends,
        tools=_TOOLS,
    )
    name_rows(plot, [o.name for o in ranked])
    if broken:
        stopped = part == "validation" and results.plan.eliminate
        strip.draw(plot, dimension="x", label="diverged or stopped" if stopped else "diverged")
    return plot, strip


def _bars(plot: figure, bars: Sequence[tuple[int, float | None, float | None, str]]) -> None:
    """Draw thick pale bars between two ends, a row each."""
    kept = [
        (row, low, high, colour) for row, low, high, colour in bars if low is not None and high is not None
    ]
    rows, lows, highs, colours = zip(*kept, strict=True) if kept else ((), (), (), ())
    plot.segment(
        list(lows),
        list(rows),
        list(highs),
        list(rows),
        line_color=list(colours),
        line_width=9,
        line_alpha=0.33,
    )


def _dots(
    plot: figure,
    strip: Strip,
    results: Results,
    ranked: Sequence[OptimizerResult],
    looks: Mapping[str, Look],
    score: ScoreFormat,
    scores: Mapping[str, Sequence[float | None]],
) -> None:
    table: dict[str, list[Any]] = defaultdict(list)
    for place, optimizer in enumerate(ranked):
        look = looks[optimizer.name]
        for run, value in zip(optimizer.runs, scores.get(optimizer.name, ()), strict=False):
            row = {
                "x": strip.at if value is None else value,
                "y": len(ranked) - 1 - place + _lift(run.replicate, results.plan.splits),
                "marker": DIVERGED_MARKER if value is None else look.marker,
                "size": 10 if value is None else 8,
                "width": 2.5 if value is None else 0.5,
                "colour": look.colour,
                "name": optimizer.name,
                "text": score(value, "diverged")
                + ("" if run.diverged_at is None else f" at step {run.diverged_at}"),
                "validation": score(run.validation, "diverged"),
                "split": run.replicate + 1,
                "run": run.identity,
            }
            for column, entry in row.items():
                table[column].append(entry)
    if not table:
        return
    style = {"fill_color": "colour", "line_color": "colour", "fill_alpha": 0.85, "line_width": "width"}
    dots = plot.scatter("x", "y", source=ColumnDataSource(dict(table)), marker="marker", size="size", **style)
    tips = [("optimizer", "@name"), ("test score", "@text"), ("last validation", "@validation")]
    hover(plot, [dots], [*tips, ("split", "@split"), ("run", "@run")])


def _lift(replicate: int, splits: int) -> float:
    """Keep dots apart: the same split lies at the same height in every row."""
    return 0.0 if splits < 2 else 0.26 - 0.52 * replicate / (splits - 1)
