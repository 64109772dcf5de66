"""What each layer of a model lets through: the spread of its outputs, the size of its weights' gradient."""

from __future__ import annotations

from collections.abc import Sequence

from bokeh.models import ColumnDataSource, FixedTicker, PlainText
from bokeh.plotting import figure

from thalweg.report.canvas import canvas, hover, legend_above, plain, readable_logarithms, window
from thalweg.report.numbers import shorten

__all__ = ["by_layer"]

_SPREAD, _SLOPE = "#0f7fbf", "#d1495b"
# beyond these a logarithmic axis shows nothing else
_LEAST, _MOST = 1e-12, 1e12


def by_layer(names: Sequence[str], spreads: Sequence[float], slopes: Sequence[float]) -> figure:
    """Draw what each layer lets through: the spread of its outputs, the size of its weights' gradient."""
    values = [value for value in (*spreads, *slopes) if _LEAST < value < _MOST] or [1.0]
    # an axis of logarithms needs a way to go
    ends = window([min(values) / 1.5, *values, max(values) * 1.5], log=True)
    plot = canvas(
        height=300, x="layer, from the inputs on", y="size, on the first batch", y_axis_type="log",
        x_range=(-0.5, len(names) - 0.5), y_range=ends,
    )  # fmt: skip
    readable_logarithms(plot, ends)
    step = 1 + len(names) // 9
    plot.xaxis.ticker = FixedTicker(ticks=list(range(0, len(names), step)))
    plot.xaxis.major_label_overrides = {
        place: PlainText(text=shorten(name, 14)) for place, name in enumerate(names)
    }
    for label, colour, each in (
        ("spread of outputs", _SPREAD, spreads),
        ("gradient of weights", _SLOPE, slopes),
    ):
        known = [(place, value) for place, value in enumerate(each) if _LEAST < value < _MOST]
        source = ColumnDataSource(
            {
                "x": [place for place, _ in known],
                "y": [value for _, value in known],
                "name": [plain(names[place]) for place, _ in known],
            }
        )
        plot.line("x", "y", source=source, line_color=colour, line_width=2.2, legend_label=label)
        dots = plot.scatter("x", "y", source=source, size=6, fill_color=colour, line_color=None)
        hover(plot, [dots], [("layer", "@name"), (label, "@y{0.[000000]}")])
    return legend_above(plot)
