"""The page about a transfer: probes at every depth, the learning curve, and the row of the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bokeh.models import ColumnDataSource, FixedTicker, PlainText, Whisker
from bokeh.plotting import figure

from thalweg.report.canvas import GRID, INK, canvas, hover, plain, window
from thalweg.report.numbers import general, shorten
from thalweg.training.transfer_results import Numbers, TransferResults

__all__ = ["TransferPage", "pictures", "read"]

_SOURCE, _RANDOM, _DOMAIN = "#0f7fbf", "#8c939b", "#d1495b"

_CELLS = {
    (True, True): "a linear classifier on top",
    (True, False): "linear classifiers on different stages",
    (False, True): "fine-tune a few layers",
    (False, False): "fine-tune many layers",
}


@dataclass(frozen=True, kw_only=True)
class TransferPage:
    """What the page is made from; lists are in the order in which they are shown."""

    results: TransferResults
    title: str
    facts: list[tuple[str, str, str]]
    table: list[tuple[str, list[tuple[str, bool]]]]
    rows: list[tuple[str, ...]]


def read(directory: Path) -> TransferPage:
    """Read what was measured.

    Raises:
        RunDirectoryError: it is damaged.
    """
    found = TransferResults.read(directory / "results.json")
    best = found.blocks[found.best - 1]
    few = min(found.data["classes"].items(), key=lambda item: item[1], default=None)
    facts = [
        ("best block", f"{found.best} of {len(found.blocks)}", plain(best.name)),
        (found.metric, general(best.score[0], 3), f"95 %: {_ends(best.score)}"),
        ("training examples", f"{found.data['train']:,}", ""),
    ]
    if few is not None:
        facts.append(("examples of a class", f"{few[1]:,}", f"of the rarest, {shorten(str(few[0]))}"))
    return TransferPage(
        results=found,
        title=f"From {Path(found.source).name} to {found.data['name']}",
        facts=facts,
        table=[
            (
                words,
                [
                    (_CELLS[little, similar], (little, similar) == (found.little, found.similar))
                    for similar in (True, False)
                ],
            )
            for words, little in (("very little data", True), ("quite a lot of data", False))
        ],
        rows=[
            (
                f"{number}", block.name, f"{block.features:,}", general(block.score[0], 3),
                _ends(block.score), general(block.train, 3),
                ", ".join(general(each[0], 3) for each in block.random),
                "" if block.error is None else f"{general(block.error[0], 3)} ({_ends(block.error)})",
                "best" if number == found.best else "not told apart" if number in found.tied else "",
            )
            for number, block in enumerate(found.blocks, 1)
        ],
    )  # fmt: skip


def _ends(value: Numbers) -> str:
    return f"{general(value[1], 3)} to {general(value[2], 3)}"


def pictures(page: TransferPage) -> dict[str, figure]:
    """Draw the scores of probes by depth, the learning curve, and how far the data are apart."""
    found = page.results
    names = [block.name for block in found.blocks]
    scores = [block.score for block in found.blocks]
    random = [[block.random[seed] for block in found.blocks] for seed in range(len(found.blocks[0].random))]
    every = [end for row in (scores, *random) for value in row for end in value]
    drawn = {"probes": _by_depth(names, f"validation {found.metric} of a linear probe", window(every))}
    for row in random:
        _line(drawn["probes"], names, row, _RANDOM, "random weights")
    _line(drawn["probes"], names, scores, _SOURCE, "the source's weights")
    best = found.best - 1
    drawn["probes"].scatter(
        [best], [scores[best][0]], size=15, fill_color=None, line_color=_SOURCE, line_width=2
    )
    errors = [block.error for block in found.blocks if block.error is not None]
    if len(errors) == len(names):
        drawn["domains"] = _by_depth(names, "errors in telling the data sets apart", (0.0, 0.6))
        _line(drawn["domains"], names, errors, _DOMAIN, "errors")
        drawn["domains"].line([-0.4, len(names) - 0.6], [0.5, 0.5], line_color=GRID, line_dash="dashed")
    drawn["curve"] = _curve(found)
    for plot in drawn.values():
        if plot.legend:
            plot.legend.background_fill_alpha = 0
            plot.legend.border_line_alpha = 0
            plot.legend.label_text_color = INK
            plot.legend.location = "bottom_right"
    return drawn


def _by_depth(names: Sequence[str], label: str, ends: tuple[float, float]) -> figure:
    plot = canvas(
        height=340,
        x="block, from the inputs on",
        y=plain(label),
        x_range=(-0.5, len(names) - 0.5),
        y_range=ends,
    )
    # of many names every second, or third, is shown
    step = 1 + len(names) // 13
    plot.xaxis.ticker = FixedTicker(ticks=list(range(0, len(names), step)))
    plot.xaxis.major_label_overrides = {
        place: PlainText(text=shorten(f"{place + 1}: {name}", 14)) for place, name in enumerate(names)
    }
    return plot


def _line(plot: figure, names: Sequence[str], values: Sequence[Numbers], colour: str, label: str) -> None:
    source = ColumnDataSource(
        {
            "x": list(range(len(values))),
            "y": [value[0] for value in values],
            "low": [value[1] for value in values],
            "high": [value[2] for value in values],
            "name": [plain(name) for name in names],
        }
    )
    style = {"line_color": colour, "legend_label": plain(label)}
    plot.line("x", "y", source=source, line_width=2.2, **style)
    dots = plot.scatter("x", "y", source=source, size=6, fill_color=colour, line_color=None)
    _whiskers(plot, source, colour)
    hover(plot, [dots], [("block", "@name"), (label, "@y{0.000} (@low{0.000} to @high{0.000})")])


def _whiskers(plot: figure, source: ColumnDataSource, colour: str) -> None:
    whisker = Whisker(source=source, base="x", upper="high", lower="low", line_color=colour, line_alpha=0.6)
    whisker.upper_head.size = whisker.lower_head.size = 6
    whisker.upper_head.line_color = whisker.lower_head.line_color = colour
    plot.add_layout(whisker)


def _curve(found: TransferResults) -> figure:
    scores = [part.score for part in found.parts]
    sizes = [part.examples for part in found.parts]
    plot = canvas(
        height=340, x="training examples", y=plain(f"validation {found.metric}"), x_axis_type="log",
        x_range=(min(sizes) * 0.9, max(sizes) * 1.1),
        y_range=window([end for score in scores for end in score]),
    )  # fmt: skip
    plot.xaxis.ticker = FixedTicker(ticks=sizes)
    plot.xaxis.major_label_overrides = {size: f"{size:,}" for size in sizes}
    source = ColumnDataSource(
        {
            "x": sizes, "y": [score[0] for score in scores], "low": [score[1] for score in scores],
            "high": [score[2] for score in scores], "draws": [part.draws for part in found.parts],
        }
    )  # fmt: skip
    plot.line("x", "y", source=source, line_width=2.2, line_color=_SOURCE)
    dots = plot.scatter("x", "y", source=source, size=6, fill_color=_SOURCE, line_color=None)
    _whiskers(plot, source, _SOURCE)
    tips = [("examples", "@x{0,0}"), (found.metric, "@y{0.000} (@low{0.000} to @high{0.000})")]
    hover(plot, [dots], [*tips, ("draws", "@draws")])
    return plot
