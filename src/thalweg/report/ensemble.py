"""Pictures of an ensemble and of calibration: members and their average, how they differ, reliability."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bokeh.models import ColumnDataSource, FixedTicker, LinearColorMapper, NumeralTickFormatter, Span
from bokeh.plotting import figure

from thalweg.report.canvas import GRID, canvas, hover, plain, window
from thalweg.report.numbers import general
from thalweg.run.summaries import metric_label
from thalweg.training.results import CalibrationRecord, EnsembleRecord, MemberRecord, TrainResults

__all__ = [
    "facts",
    "lead",
    "mean_disagreement",
    "mean_score",
    "member_rows",
    "pictures",
    "reliability_picture",
    "squared_words",
]

_TOGETHER, _ALONE = "#0072b2", "#e69f00"
_MOST_NAMED = 40
_MANY = 20


def mean_score(found: EnsembleRecord) -> float | None:
    """Return the mean test score of the members."""
    scores = _scores(found)
    return math.fsum(scores) / len(scores) if scores else None


def lead(results: TrainResults, found: EnsembleRecord) -> str:
    """Say in a sentence what being many is worth."""
    count, kind = len(_good(found)), "models" if found.kind == "members" else "snapshots"
    return (
        f"Together the {count} {kind} reach a test {metric_label(results.metric)} of "
        f"{general(found.result.get('test'), 4)}; alone {general(mean_score(found), 4)} on average."
    )


def facts(results: TrainResults) -> list[tuple[str, str, str]]:
    """Return label, value and remark of what stands at the top of the page."""
    found, said = results.ensemble, []
    if found is not None:
        of = "members" if found.kind == "members" else "snapshots"
        how = {"lanes": "side by side, as lanes", "loop": "one after another", None: "of one training"}
        said.append((of, str(len(_good(found))), how[found.engine]))
        if found.disagreement is not None and len(found.disagreement) > 1:
            said.append(
                (
                    "disagreement",
                    _percent(mean_disagreement(found.disagreement)),
                    "of test examples, two members",
                )
            )
    if results.calibration is not None:
        said.append(
            ("calibration error", general(results.calibration.error, 2), "expected, on test; 0 is best")
        )
    if results.temperature is not None:
        (one, other), (before, after) = (
            each["test"] for each in (results.temperature.nll, results.temperature.error)
        )
        said.append(
            (
                "temperature",
                general(results.temperature.value, 3),
                f"of predictions; on test log-likelihood loss {general(one, 3)} to {general(other, 3)}, "
                f"calibration error {general(before, 2)} to {general(after, 2)}",
            )
        )
    return said


def mean_disagreement(matrix: Sequence[Sequence[float]]) -> float:
    """Return the mean over pairs of different members.

    >>> mean_disagreement([[0.0, 0.2], [0.2, 0.0]])
    0.2
    """
    count = len(matrix)
    return math.fsum(v for row in matrix for v in row) / (count * (count - 1))


def member_rows(found: EnsembleRecord) -> list[tuple[str, ...]]:
    """Return number, seed, scores and calibration of each member, as words."""
    return [
        (
            str(member.number),
            "" if member.seed is None else str(member.seed),
            *(
                "failed" if member.failed else general(member.result.get(key), 5)
                for key in ("validation", "test", "test_loss")
            ),
            general(member.error, 2),
            general(member.brier, 3),
        )
        for member in found.members
    ]


def squared_words(found: EnsembleRecord) -> tuple[str, str, str, str] | None:
    """Return what is squared, and the three parts, as words."""
    parts = found.squared
    if parts is None:
        return None
    what = "Brier score" if parts.of == "brier" else "squared error (in the target's own units)"
    return what, general(parts.member, 4), general(parts.ambiguity, 4), general(parts.ensemble, 4)


def pictures(results: TrainResults) -> dict[str, figure]:
    """Draw what there is to see of an ensemble and of calibration."""
    drawn: dict[str, figure] = {}
    found = results.ensemble
    if found is not None and _scores(found):
        drawn["members"] = _members(results, found)
        drawn["growing"] = _growing(results, found)
        if found.disagreement is not None and len(found.disagreement) > 1:
            drawn["disagreement"] = _disagreement(found, found.disagreement)
    if results.calibration is not None:
        pooled = None if found is None else found.pooled
        drawn["reliability"] = reliability_picture(results.calibration, pooled)
    return drawn


def _members(results: TrainResults, found: EnsembleRecord) -> figure:
    """Each member's test score as a dot, the ensemble's as a line."""
    good = [m for m in _good(found) if m.result.get("test") is not None]
    together = found.result.get("test")
    scores = [m.result["test"] for m in good]
    numbers = [m.number for m in good]
    plot = canvas(
        height=300, x="member", y=plain(f"test {metric_label(results.metric)}"),
        x_range=(0.4, max(numbers) + 0.6), y_range=window([*scores, together], pad=0.12),
    )  # fmt: skip
    if len(numbers) <= _MANY:
        plot.xaxis.ticker = FixedTicker(ticks=numbers)
    plot.xgrid.grid_line_color = None
    source = ColumnDataSource(
        {"x": numbers, "y": scores, "seed": ["" if m.seed is None else str(m.seed) for m in good]}
    )
    dots = plot.scatter(
        "x", "y", source=source, size=9, fill_color=_ALONE, line_color=None, legend_label="a member alone"
    )
    ends = [0.4, max(numbers) + 0.6]
    mean = mean_score(found)
    plot.line(
        ends, [mean, mean], line_color=_ALONE, line_width=1.6, line_dash=[5, 4], legend_label="their mean"
    )
    if together is not None:
        plot.line(ends, [together, together], line_color=_TOGETHER, line_width=2.6, legend_label="together")
    _legend(plot)
    hover(plot, [dots], [("member", "@x"), ("seed", "@seed"), ("test", "@y{0.[00000]}")])
    return plot


def _growing(results: TrainResults, found: EnsembleRecord) -> figure:
    """The score of the first so many members together."""
    known = [(k, v) for k, v in enumerate(found.growing, 1) if v is not None]
    plot = canvas(
        height=300, x="members together", y=plain(f"test {metric_label(results.metric)}"),
        x_range=(0.4, len(found.growing) + 0.6), y_range=window([v for _, v in known], pad=0.12),
    )  # fmt: skip
    if len(found.growing) <= _MANY:
        plot.xaxis.ticker = FixedTicker(ticks=list(range(1, len(found.growing) + 1)))
    source = ColumnDataSource({"x": [k for k, _ in known], "y": [v for _, v in known]})
    line = plot.line("x", "y", source=source, line_color=_TOGETHER, line_width=2.2)
    dots = plot.scatter("x", "y", source=source, size=6, fill_color=_TOGETHER, line_color=None)
    hover(plot, [line, dots], [("members", "@x"), ("test", "@y{0.[00000]}")])
    return plot


def _disagreement(found: EnsembleRecord, matrix: Sequence[Sequence[float]]) -> figure:
    """A square for each pair of members, the darker the more they differ."""
    numbers = [m.number for m in _good(found)]
    count = len(numbers)
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    source = ColumnDataSource(
        {
            "x": [a + 1 for a, _ in pairs],
            "y": [count - b for _, b in pairs],
            "share": [matrix[a][b] for a, b in pairs],
            "one": [numbers[a] for a, _ in pairs],
            "other": [numbers[b] for _, b in pairs],
            "text": [_percent(matrix[a][b]) for a, b in pairs],
        }
    )
    most = max(matrix[a][b] for a, b in pairs) or 1.0
    shades = [_shade(i / 63) for i in range(64)]
    plot = canvas(
        height=340, x="member", y="member", x_range=(0.5, count + 0.5), y_range=(0.5, count + 0.5),
        tools="reset,save",
    )  # fmt: skip
    squares = plot.rect(
        "x", "y", width=0.94, height=0.94, source=source, line_color=None,
        fill_color={"field": "share", "transform": LinearColorMapper(palette=shades, low=0.0, high=most)},
    )  # fmt: skip
    if count <= 12:
        plot.text(
            "x", "y", text="text", source=source, text_align="center", text_baseline="middle",
            text_font_size="11px", text_color="#20262d",
        )  # fmt: skip
    if count <= _MOST_NAMED:
        names = {place + 1: str(number) for place, number in enumerate(numbers)}
        plot.xaxis.ticker = plot.yaxis.ticker = FixedTicker(ticks=list(names))
        plot.xaxis.major_label_overrides = names
        plot.yaxis.major_label_overrides = {count + 1 - place: name for place, name in names.items()}
    for grid in plot.grid:
        grid.grid_line_color = None
    hover(plot, [squares], [("members", "@one and @other"), ("differ on", "@share{0.0 %}")])
    return plot


def reliability_picture(record: CalibrationRecord, pooled: CalibrationRecord | None) -> figure:
    """Draw how often predictions of a confidence were right, as dots whose area is how many there are."""
    lowest = min(x for each in (record, pooled) if each is not None for x, _, _ in each.bins)
    low = max(0.0, math.floor(10 * lowest) / 10)
    plot = canvas(
        height=380, x="confidence: probability of the class that was chosen", y="share that was right",
        x_range=(low - 0.02, 1.02), y_range=(-0.03, 1.04),
    )  # fmt: skip
    plot.line([0, 1], [0, 1], line_color=GRID, line_width=1.5, line_dash=[6, 4])
    rows = [("together" if pooled is not None else "the result", record, _TOGETHER)]
    if pooled is not None:
        rows.insert(0, ("members alone", pooled, _ALONE))
    dots = []
    for name, each, colour in rows:
        total = sum(n for _, _, n in each.bins)
        source = ColumnDataSource(
            {
                "x": [x for x, _, _ in each.bins],
                "y": [y for _, y, _ in each.bins],
                "n": [n for _, _, n in each.bins],
                "size": [5 + 26 * math.sqrt(n / total) for _, _, n in each.bins],
                "who": [name] * len(each.bins),
            }
        )
        plot.line("x", "y", source=source, line_color=colour, line_width=2, legend_label=name)
        dots.append(
            plot.scatter(
                "x", "y", source=source, size="size", fill_color=colour, fill_alpha=0.45, line_color=colour
            )
        )
    for axis in plot.axis:
        axis.formatter = NumeralTickFormatter(format="0 %")
    plot.add_layout(Span(location=0, dimension="width", line_color=GRID, line_alpha=0.4))
    _legend(plot)
    tips = [("who", "@who"), ("confidence", "@x{0.0 %}"), ("right", "@y{0.0 %}"), ("predictions", "@n{0,0}")]
    hover(plot, dots, tips)
    return plot


def _legend(plot: figure) -> None:
    plot.legend.background_fill_alpha = 0
    plot.legend.border_line_alpha = 0
    plot.legend.label_text_color = "#767c83"
    plot.legend.orientation = "horizontal"
    plot.legend.padding = 2
    plot.add_layout(plot.legend[0], "above")


def _good(found: EnsembleRecord) -> list[MemberRecord]:
    return [member for member in found.members if not member.failed]


def _scores(found: EnsembleRecord) -> list[float]:
    return [v for member in _good(found) if (v := member.result.get("test")) is not None]


def _percent(share: float) -> str:
    return f"{general(100 * share, 2)} %"


def _shade(share: float) -> str:
    """From nearly white to a blue on which dark text can be read."""
    light, dark = (236, 243, 249), (86, 164, 220)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(light, dark, strict=True))
