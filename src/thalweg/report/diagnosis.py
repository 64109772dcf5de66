"""The page about a diagnosis: findings, loss and skill on the way, and what each layer lets through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.targets import DiagnosedTarget
from thalweg.report.canvas import canvas, hover, legend_above, plain, readable_logarithms, window
from thalweg.report.landscapes import captions_of, figures_of
from thalweg.report.layers import by_layer
from thalweg.report.numbers import duration, general

__all__ = ["DiagnosisPage", "pictures_of_diagnosis", "read_diagnosis"]

_TRAIN, _VALIDATION = "#0f7fbf", "#d1495b"
# beyond it a logarithmic axis shows nothing else
_MOST = 1e12


@dataclass(frozen=True, kw_only=True)
class DiagnosisPage:
    """What the page is made from; lists are in the order in which they are shown."""

    title: str
    lead: str
    facts: list[tuple[str, str, str]]
    findings: list[Finding]
    notes: list[str]
    applied: str
    by_hand: list[str]
    tried: str
    captions: list[tuple[str, str, str]]
    found: DiagnosedTarget


def read_diagnosis(found: DiagnosedTarget) -> DiagnosisPage:
    """Put together what is shown of a diagnosis."""
    made = found.diagnosis
    ill = [each for each in found.findings if each.severity != "advice"]
    facts = []
    if made is not None:
        if math.isfinite(made.skill):
            facts.append(("skill", general(made.skill, 2), made.scale))
        if ill and math.isfinite(made.reached):
            facts.append(("can be reached", general(made.reached, 2), "the best that was tried"))
        facts.append(("cost", f"{made.gradients:,.0f}", "gradient evaluations"))
        facts.append(("time", duration(made.seconds), ""))
    if found.pictures is not None:
        facts.append(("pictures", f"{found.pictures.gradients:,.0f}", "gradient evaluations"))
    changes = {} if found.applied is None else found.applied.settings
    return DiagnosisPage(
        title=f"Diagnosis of {found.target}",
        lead="Nothing is wrong." if not ill else f"{ill[0].title[:1].upper()}{ill[0].title[1:]}.",
        facts=facts,
        findings=found.findings,
        notes=found.said,
        applied="" if found.applied is None else f"{found.written}: "
        + ", ".join(f"{key} = {value}" for key, value in changes.items()),
        by_hand=[] if found.applied is None else list(found.applied.by_hand),
        tried="" if found.tried is None else str(found.tried),
        captions=captions_of(found.pictures),
        found=found,
    )  # fmt: skip


def pictures_of_diagnosis(page: DiagnosisPage) -> dict[str, figure]:
    """Draw the loss and the skill of the short training, and the first signal layer by layer."""
    drawn = figures_of(page.found.pictures)
    made = page.found.diagnosis
    if made is None:
        return drawn
    base, signal = made.base, made.signal
    if base is not None:
        losses = [(k + 1, v) for k, v in enumerate(base.losses) if math.isfinite(v) and abs(v) < _MOST]
        if len(losses) > 1:
            low, high = min(v for _, v in losses), max(v for _, v in losses)
            log = low > 0 and high > 5 * low
            drawn["loss"] = _lines("step", "loss of each batch", [("loss", _TRAIN, losses)], log=log)
        points = base.points
        if len(points) > 1:
            drawn["skill"] = _lines(
                "step",
                "skill",
                [
                    ("training", _TRAIN, [(p.step, p.training) for p in points if math.isfinite(p.training)]),
                    (
                        "held out",
                        _VALIDATION,
                        [(p.step, p.validation) for p in points if math.isfinite(p.validation)],
                    ),
                ],
                log=False,
            )
    if signal is not None and len(signal.layers) > 1 and len(signal.spreads) == len(signal.layers):
        drawn["layers"] = by_layer(signal.layers, signal.spreads, signal.slopes)
    return drawn


def _lines(
    x: str, y: str, lines: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], *, log: bool
) -> figure:
    shown = [(name, colour, points) for name, colour, points in lines if points]
    ends = window([value for _, _, points in shown for _, value in points], log=log)
    last = max(step for _, _, points in shown for step, _ in points)
    plot = canvas(
        height=300, x=x, y=y, y_axis_type="log" if log else "linear", x_range=(0, last * 1.01), y_range=ends
    )
    if log:
        readable_logarithms(plot, ends)
    made = []
    for name, colour, points in shown:
        source = ColumnDataSource({"x": [p[0] for p in points], "y": [p[1] for p in points]})
        style = {"line_color": colour, "line_width": 1.8, "legend_label": plain(name)}
        made.append(plot.line("x", "y", source=source, **style))
    hover(plot, made, [(x, "@x{0,0}"), (y, "@y{0.[0000]}")])
    return legend_above(plot)
