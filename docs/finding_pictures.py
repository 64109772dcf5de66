"""Draw what each finding looks like in a training that has it, one SVG each: ``make findings``.

The trainings are those of the hospital, whose cause is known. Each picture is drawn by the report's own kit,
with what it shows in words as its title. Give names of findings to draw these alone.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from bokeh.models import ColumnDataSource, FixedTicker
from bokeh.plotting import figure
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hospital.cases import CASES as HOSPITAL  # noqa: E402

from thalweg.curvature import Hessian, lanczos, noise_scale, seen_by, spectral_density  # noqa: E402
from thalweg.curvature.model_matrices import GaussNewtonMatrix  # noqa: E402
from thalweg.diagnosis import diagnose  # noqa: E402
from thalweg.diagnosis.diagnosis import Diagnosis  # noqa: E402
from thalweg.diagnosis.facts import Facts, gather  # noqa: E402
from thalweg.diagnosis.setup import Setup, rows_of  # noqa: E402
from thalweg.diagnosis.signals import signal_of  # noqa: E402
from thalweg.diagnosis.trace import recording  # noqa: E402
from thalweg.diagnosis.trial import TrialRun, train  # noqa: E402
from thalweg.layers.modes import set_evaluation, set_mode  # noqa: E402
from thalweg.report.canvas import canvas, legend_above, readable_logarithms, window  # noqa: E402
from thalweg.report.landscapes import caption_of, picture_of  # noqa: E402
from thalweg.report.numbers import general  # noqa: E402
from thalweg.report.svg import as_svg  # noqa: E402

FOLDER = ROOT / "docs" / "images" / "findings"
SEED = 12
SICK, MENDED, OTHER = "#d1495b", "#0f7fbf", "#e69f00"
_MOST_STEPS, _POINTS = 400, 10


@dataclass(frozen=True)
class Drawn:
    """A picture, and what it shows in words."""

    plot: figure
    said: str


@dataclass(frozen=True)
class Example:
    """A training that has a finding.

    Attributes:
        code: of the finding.
        case: of the hospital.
        draw: how it is drawn.
    """

    code: str
    case: str
    draw: Callable[[Looked], Drawn]


@dataclass(frozen=True)
class Looked:
    """What is known of an example."""

    code: str
    case: str
    found: Diagnosis
    facts: Facts

    @property
    def setup(self) -> Setup:
        return self.found.setup

    def trial(self, setup: Setup | None = None, *, longer: float = 1.0, points: int = _POINTS) -> TrialRun:
        """Train as it is, or another set-up as long in gradient evaluations."""
        setup = self.setup if setup is None else setup
        steps = min(_MOST_STEPS, self.setup.steps) * self.setup.batch_size / setup.batch_size
        return train(
            setup, self.facts.judge, self.facts.held, steps=max(2, round(longer * steps)), seed=SEED,
            points=points, unit=self.setup.batch_size, keep=True,
        )  # fmt: skip


# How it is drawn -----------------------------------------------------------------------------------------


def lines(
    rows: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], x: str, y: str, *, log: bool = False
) -> figure:
    """Draw lines: label, colour, points."""
    rows = [(label, colour, [p for p in points if math.isfinite(p[1])]) for label, colour, points in rows]
    values = [v for _, _, points in rows for _, v in points]
    log = log and min(values) > 0
    ends = window([*values, *([min(values) / 1.2, max(values) * 1.2] if log else [])], log=log)
    last = max(step for _, _, points in rows for step, _ in points)
    plot = canvas(
        height=260, x=x, y=y, y_axis_type="log" if log else "linear", x_range=(0, last * 1.01), y_range=ends
    )
    if log:
        readable_logarithms(plot, ends)
        decades = math.log10(ends[1] / ends[0])
        if decades > 8:
            every = math.ceil(decades / 6)
            plot.yaxis.ticker = FixedTicker(ticks=[10.0**e for e in range(-30, 40) if e % every == 0])
    for label, colour, points in rows:
        source = ColumnDataSource({"x": [p[0] for p in points], "y": [p[1] for p in points]})
        plot.line("x", "y", source=source, line_color=colour, line_width=2, legend_label=label)
        if len(points) <= 30:
            plot.scatter("x", "y", source=source, size=6, fill_color=colour, line_color=None)
    return legend_above(plot)


def before_and_after(looked: Looked, longer: float = 1.0) -> Drawn:
    """Skill on other examples, as it is and with the remedy of the finding."""
    finding = next(f for f in looked.found.findings if f.code == looked.code and f.remedy and f.remedy.change)
    assert finding.remedy is not None
    mended = finding.remedy.apply(looked.setup)
    one, two = looked.trial(), looked.trial(mended, longer=longer)
    unit = mended.batch_size / looked.setup.batch_size
    rows = [("as it is", SICK, skills(one, 1.0)), ("with the change", MENDED, skills(two, unit))]
    ends = [general(points[-1][1], 2) for _, _, points in rows]
    said = (
        f"Skill on other examples on the way: it ends at {ends[0]} as it is and at {ends[1]} with this "
        f"change: {finding.remedy.text}. 0 is a constant prediction, 1 a perfect one."
    )
    return Drawn(lines(rows, "gradient evaluations", "skill on other examples"), said)


def five_times(looked: Looked) -> Drawn:
    """As before and after, where the remedy is to train longer."""
    return before_and_after(looked, longer=5.0)


def skills(trial: TrialRun, unit: float) -> list[tuple[float, float]]:
    """Points of skill, by gradients of the set-up that is diagnosed; below -1 all is the same."""
    found = [
        (p.step * unit, max(-1.0, p.training if math.isnan(p.validation) else p.validation))
        for p in trial.points
    ]
    if trial.failed:
        found = [*found, (trial.steps * unit, -1.0)]
    return [(0.0, 0.0), *found]


def both_parts(looked: Looked) -> Drawn:
    """Skill on training and on other examples."""
    trial = looked.trial()
    rows = [
        ("training examples", OTHER, [(p.step, max(-1.0, p.training)) for p in trial.points]),
        ("other examples", SICK, [(p.step, max(-1.0, p.validation)) for p in trial.points]),
    ]
    known = [(label, general(points[-1][1], 2)) for label, _, points in rows if not math.isnan(points[-1][1])]
    said = "Skill at the end: " + ", ".join(f"{value} on {label}" for label, value in known) + "."
    return Drawn(lines([row for row in rows if not math.isnan(row[2][-1][1])], "step", "skill"), said)


def losses(looked: Looked) -> Drawn:
    """The loss of each step."""
    trial = looked.trial(points=2)
    values = [(k + 1, v) for k, v in enumerate(trial.losses) if math.isfinite(v) and abs(v) < 1e30]
    low, high = min(v for _, v in values), max(v for _, v in values)
    said = (
        f"The loss of each step goes from {general(values[0][1])} to {general(values[-1][1])}, between "
        f"{general(low)} and {general(high)}"
    )
    said += f"; then {trial.failed}." if trial.failed else "."
    return Drawn(
        lines([("loss", SICK, values)], "step", "loss of the batch", log=low > 0 and high > 20 * low), said
    )


def norms(looked: Looked) -> Drawn:
    """The norm of each step's gradient."""
    trial = looked.trial(points=2)
    values = [(k + 1, v) for k, v in enumerate(trial.norms) if math.isfinite(v)]
    ordered = sorted(v for _, v in values)
    said = (
        f"The norm of the gradient at each step: {general(ordered[-1])} at most, and "
        f"{general(ordered[len(ordered) // 2])} in the median."
    )
    return Drawn(lines([("norm", SICK, values)], "step", "norm of the gradient", log=True), said)


def by_layers(looked: Looked) -> Drawn:
    """What each layer lets through on the first batch."""
    signal = signal_of(looked.facts)
    assert signal is not None
    said = (
        f"On the first batch the gradient of the first layer is {general(signal.ratio, 2)} times that of the "
        f"last one, through {len(signal.layers)} layers."
    )
    plot = picture_of(signal)
    plot.height = 280
    return Drawn(plot, said)


def _share(what: str, short: str, label: str) -> Callable[[Looked], Drawn]:
    def draw(looked: Looked) -> Drawn:
        """The largest share over layers, from the start to the end of the training."""
        points = [(step, 100 * _statistic(looked, model, what)) for step, model in snapshots(looked)]
        first, last = points[0][1], points[-1][1]
        said = f"{label}, in the worst layer: {first:.0f} % at the start, {last:.0f} % at the end."
        plot = lines([(label, SICK, points)], "step", f"{short}, %")
        plot.y_range.start, plot.y_range.end = -3.0, 103.0
        return Drawn(plot, said)

    return draw


def snapshots(looked: Looked) -> list[tuple[int, nn.Module]]:
    """Models on the way of a short training."""
    found: list[tuple[int, nn.Module]] = []
    longest = min(_MOST_STEPS, looked.setup.steps)
    for steps in sorted({1, *(max(1, round(longest * (k / 6) ** 2)) for k in range(1, 7))}):
        trial = train(
            looked.setup, looked.facts.judge, looked.facts.held, steps=steps, seed=SEED, points=2, keep=True
        )
        if trial.model is not None:
            found.append((steps, trial.model))
    return [(0, looked.setup.start(SEED)[0]), *found]


def _statistic(looked: Looked, model: nn.Module, what: str) -> float:
    inputs = rows_of(looked.facts.held.training[0], torch.arange(min(256, len(looked.facts.held.rows))))
    set_evaluation(model)
    with torch.no_grad(), recording(model, len(inputs)) as noted:
        noted.mark(inputs, -1)
        model(inputs)
    seen = [op.statistics for op in noted.operations if op.kind == "activation" and op.statistics is not None]
    return max((float(getattr(each, what)) for each in seen), default=0.0)


def copies(looked: Looked) -> Drawn:
    """How many different units the first layer has."""
    points = [(step, float(_different(model))) for step, model in snapshots(looked)]
    width = len(next(p for p in looked.facts.model.parameters() if p.ndim > 1))
    said = (
        f"Different units in the first layer of {width}: {points[0][1]:.0f} at the start, "
        f"{points[-1][1]:.0f} at the end."
    )
    plot = lines([("different units", SICK, points)], "step", "different units in the first layer")
    plot.y_range.start, plot.y_range.end = 0.0, width + 1.0
    return Drawn(plot, said)


def _different(model: nn.Module) -> int:
    weight = next(p for p in model.parameters() if p.ndim > 1).detach()
    return len(torch.unique((weight * 1e5).round(), dim=0))  # type: ignore[no-untyped-call]


def against_targets(looked: Looked) -> Drawn:
    """Predictions at the end against their targets."""
    trial = looked.trial(points=2)
    outputs = trial.training_outputs.reshape(-1)[:200].double()
    targets = looked.facts.held.training[1].reshape(-1)[:200].double()
    size = float(targets.std())
    said = (
        f"Predictions at the end against their targets: they spread {general(float(outputs.std()), 2)}, and "
        f"the targets {general(size, 2)}. On the dashed line they would be right."
    )
    low, high = float(targets.min()), float(targets.max())
    plot = canvas(height=280, x="target", y="prediction", x_range=(low, high), y_range=(low, high))
    plot.line([low, high], [low, high], line_color=MENDED, line_dash="dashed", line_width=1.5)
    plot.scatter(targets.tolist(), outputs.tolist(), size=5, fill_color=SICK, line_color=None)
    return Drawn(plot, said)


def negative(looked: Looked) -> Drawn:
    """The spectrum where the training stands still."""
    model = looked.trial(points=2).model
    assert model is not None
    set_evaluation(model)
    operator = Hessian(model, looked.setup.loss, looked.setup.batch(looked.facts.held.rows[:256]))
    with operator.held():
        ends = lanczos(operator, tolerance=0.05, most_products=40, seed=SEED)
        found = spectral_density(operator, samples=4, steps=30, seed=SEED)
    plot = picture_of(found, ends=ends)
    plot.height = 280
    said = (
        f"{caption_of(found)} The smallest eigenvalue is {general(ends.smallest.value)} (residual "
        f"{general(ends.smallest.residual, 1)})."
    )
    return Drawn(plot, said)


def steepness(looked: Looked) -> Drawn:
    """The largest eigenvalues of the Gauss-Newton matrix as the optimizer sees it."""
    model, optimizer = looked.setup.start(SEED)
    matrix = GaussNewtonMatrix(model, looked.setup.loss, looked.setup.batch(looked.facts.held.rows[:128]))
    seen = seen_by(optimizer, matrix)
    ends = lanczos(seen, ends="largest", count=8, tolerance=1e-3, most_products=120, seed=SEED)
    values = [(k + 1.0, pair.value) for k, pair in enumerate(ends.largest_pairs) if pair.value > 0]
    said = (
        f"The {len(values)} largest eigenvalues of the Gauss-Newton matrix as {looked.facts.optimizer} sees "
        f"it at the start, from {general(values[0][1])} down to {general(values[-1][1])}."
    )
    plot = lines([("eigenvalue", SICK, values)], "number of the eigenvalue", "eigenvalue", log=True)
    plot.xaxis.ticker = FixedTicker(ticks=[k for k, _ in values])
    return Drawn(plot, said)


def noise(looked: Looked) -> Drawn:
    """The noise scale at the end, beside the batch size."""
    model = looked.trial(points=2).model
    assert model is not None
    set_mode(model, training=True)
    size = max(4, looked.setup.batch_size)
    parts = [p for p in torch.split(looked.facts.held.rows[: 32 * size], size) if len(p) == size]
    found = noise_scale(model, looked.setup.loss, [looked.setup.batch(p) for p in parts])
    plot = picture_of(found, batch_size=looked.setup.batch_size)
    plot.height = 280
    return Drawn(plot, caption_of(found, batch_size=looked.setup.batch_size))


def classes(looked: Looked) -> Drawn:
    """How many examples each class has."""
    targets = looked.setup.targets
    counts = torch.bincount(targets.long().reshape(-1)).tolist()
    plot = canvas(
        height=60 + 34 * len(counts), x="examples", y="class", x_range=(0, max(counts) * 1.05),
        y_range=(-0.6, len(counts) - 0.4),
    )  # fmt: skip
    plot.yaxis.ticker = FixedTicker(ticks=list(range(len(counts))))
    for number, count in enumerate(counts):
        plot.line([0, count], [number, number], line_color=SICK, line_width=14)
    said = (
        "Examples of each class: "
        + ", ".join(f"{count} of class {k}" for k, count in enumerate(counts))
        + "."
    )
    return Drawn(plot, said)


def first_losses(looked: Looked) -> Drawn:
    """The first losses as it is, and begun with the bias that predicts the mean."""
    finding = next(f for f in looked.found.findings if f.code == looked.code)
    assert finding.remedy is not None
    one, two = looked.trial(points=2), looked.trial(finding.remedy.apply(looked.setup), points=2)
    shown = min(60, len(one.losses))
    rows = [
        (label, colour, [(k + 1, v) for k, v in enumerate(trial.losses[:shown])])
        for label, colour, trial in (("as it is", SICK, one), ("with the bias", MENDED, two))
    ]
    values = [v for _, _, points in rows for _, v in points]
    log = min(values) > 0 and max(values) > 20 * min(values)
    said = (
        f"The first losses: {general(one.losses[0])} as it is, and {general(two.losses[0])} with the bias "
        "that predicts the mean of the targets."
    )
    return Drawn(lines(rows, "step", "loss of the batch", log=log), said)


def without_them(looked: Looked) -> Drawn:
    """Skill as it is, and with the rows left out that hold a number which isn't finite."""
    good = torch.isfinite(looked.setup.inputs.reshape(len(looked.setup.inputs), -1)).all(1)
    mended = replace(
        looked.setup,
        inputs=looked.setup.inputs[good],
        targets=looked.setup.targets[good],
        examples=int(good.sum()),
    )
    facts = gather(mended, seed=SEED)
    one = looked.trial(points=2)
    two = train(
        mended, facts.judge, facts.held, steps=min(_MOST_STEPS, mended.steps), seed=SEED, points=_POINTS
    )
    rows = [("as it is", SICK, skills(one, 1.0)), ("without these rows", MENDED, skills(two, 1.0))]
    said = (
        f"Skill as it is and without the {int((~good).sum())} of {len(good)} rows that hold NaN: with them "
        f"{one.failed}; without them it ends at {general(rows[1][2][-1][1], 2)}."
    )
    return Drawn(lines(rows, "step", "skill on other examples"), said)


EXAMPLES = (
    Example("output-activation", "softmax over one unit, and raw columns", before_and_after),
    Example("output-units", "one output for three targets", before_and_after),
    Example("hidden-activation", "no activation between layers, moons", before_and_after),
    Example("loss-function", "outputs [n, 1] against targets [n]", before_and_after),
    Example("learning-rate-high", "SGD at 20, wine", before_and_after),
    Example("learning-rate-low", "two epochs, regression", before_and_after),
    Example("optimizer", "Rprop on batches of 16", before_and_after),
    Example("epochs-few", "two epochs of SGD, words", five_times),
    Example("batch-large", "all examples a batch, Adam", before_and_after),
    Example("batch-small", "batch norm with batches of two, table", before_and_after),
    Example("input-scale", "wine as measured, SGD", before_and_after),
    Example("target-scale", "targets in the 100,000s, SGD", before_and_after),
    Example("input-values", "holes in the table (NaN)", without_them),
    Example("labels", "labels one row off, and a high rate", before_and_after),
    Example("split-mismatch", "names of classes in another order in validation", both_parts),
    Example("initialization", "all weights zero, digits", before_and_after),
    Example("capacity", "a width of two, spirals", before_and_after),
    Example("depth", "thirty layers of tanh", before_and_after),
    Example("regularization", "nineteen of twenty units dropped", before_and_after),
    Example("frozen", "the optimizer of another copy of the model", before_and_after),
    Example("order", "sorted by class, not shuffled, waves", before_and_after),
    Example("batch-norm", "batch norm that remembers one small batch", before_and_after),
    Example("vanishing-gradient", "thirty layers of tanh", by_layers),
    Example("exploding-gradient", "wine as measured, SGD", norms),
    Example(
        "dying-relu",
        "Adam at 0.5, tags",
        _share("dead", "dead units", "Units that are zero for every example"),
    ),
    Example(
        "saturation",
        "images from 0 to 255, units with tanh",
        _share("flat", "flat values", "Values where the function is flat"),
    ),
    Example("symmetric-units", "all weights zero, digits", copies),
    Example("nonfinite-loss", "SGD at 20, wine", losses),
    Example("oscillating-loss", "Adam at 0.5, tags", losses),
    Example("slow-convergence", "two epochs, regression", both_parts),
    Example("constant-output", "weight decay of a half, SGD, regression", against_targets),
    Example("underfitting", "a linear model of a curved world", both_parts),
    Example("overfitting", "validation negated, recurrent", both_parts),
    Example("saddle", "no activation between layers, moons", negative),
    Example("ill-conditioned", "wine as measured, SGD", steepness),
    Example("cliff", "SGD at 20, wine", norms),
    Example("gradient-noise", "batches of one with momentum, regression", noise),
    Example("imbalance", "one of twelve, weighed", classes),
    Example("output-bias", "BCE on one-hot targets of many classes", first_losses),
)


def drawn(examples: Sequence[Example] = EXAMPLES) -> Iterator[tuple[Example, str]]:
    """Draw each example, as SVG."""
    known: dict[str, tuple[Diagnosis, Facts]] = {}
    for example in sorted(examples, key=lambda each: each.case):
        if example.case not in known:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = diagnose(**HOSPITAL[example.case].make(SEED).keywords(SEED), seed=SEED)
                known[example.case] = found, gather(found.setup, seed=SEED)
        found, facts = known[example.case]
        codes = [each.code for each in found.findings]
        if example.code not in codes:
            raise SystemExit(f"{example.case!r} has no finding {example.code}, only {', '.join(codes)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = example.draw(Looked(example.code, example.case, found, facts))
        yield example, as_svg(made.plot, said=f"{example.case}. {made.said}")


def main(names: Sequence[str]) -> None:
    """Write the pictures of these findings; of none: of all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for example, text in drawn([each for each in EXAMPLES if not names or each.code in names]):
        place = FOLDER / f"{example.code}.svg"
        place.write_text(text, encoding="utf-8")
        print(place.relative_to(ROOT), len(text), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
