"""What the report of a training shows: curves, settings, strategies, scores and the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bokeh.models import ColumnDataSource, Label, Span
from bokeh.plotting import figure

from thalweg import recipe
from thalweg.diagnosis.pictures import Pictures, read_pictures
from thalweg.errors import RunDirectoryError, option
from thalweg.layers.surgery import ModelParts
from thalweg.recipe import Recipe
from thalweg.report import ensemble
from thalweg.report.canvas import GRID, canvas, hover, plain, readable_logarithms, window
from thalweg.report.controls import ControlCurve, control_rows, lacks_controls, read_controls
from thalweg.report.landscapes import captions_of, figures_of
from thalweg.report.numbers import duration, general
from thalweg.report.stages import StageCurve, read_stages
from thalweg.run.directory import RunDirectory
from thalweg.run.summaries import metric_label
from thalweg.training.results import CalibrationRecord, EnsembleRecord, TrainResults

__all__ = ["TrainingPage", "is_training", "pictures", "read"]

_TRAIN, _VALIDATION, _CONTROL = "#0f7fbf", "#d1495b", "#767c83"
_DASHES = ("dashed", "dotted", "solid", "dotdash")


@dataclass(frozen=True, kw_only=True)
class TrainingPage:
    """What a page about a training is made from; lists are in the order in which they are shown."""

    title: str
    lead: str
    finished: bool
    failed: bool
    stopped: str | None
    metric: str
    curve: Sequence[dict[str, Any]]
    best: dict[str, Any] | None
    facts: list[tuple[str, str, str]]
    scores: list[tuple[str, str, str]]
    strategies: list[tuple[str, str]]
    warnings: list[str]
    notes: list[str]
    machine: list[tuple[str, str]]
    recipe: str
    command: str | None
    results: TrainResults | None = None
    many: EnsembleRecord | None = None
    member_rows: Sequence[tuple[str, ...]] = ()
    squared: tuple[str, str, str, str] | None = None
    calibrations: Sequence[tuple[str, CalibrationRecord]] = ()
    stages: Sequence[StageCurve] = ()
    stage_rows: Sequence[tuple[str, ...]] = ()
    controls: Sequence[ControlCurve] = ()
    control_rows: Sequence[tuple[str, ...]] = ()
    lacks_controls: bool = False
    measured: Pictures | None = None
    captions: Sequence[tuple[str, str, str]] = ()


def is_training(directory: Path) -> bool:
    """Say whether a run directory is that of a training rather than a race."""
    if not all((directory / name).is_file() for name in ("config.toml", "events.jsonl")):
        return False
    return RunDirectory.read(directory).config().get("kind") in ("train", "fit")


def read(directory: Path) -> TrainingPage:
    """Read a training's directory, finished or not.

    Raises:
        RunDirectoryError: it is damaged.
    """
    run = RunDirectory.read(directory)
    config, events = run.config(), run.events()
    by_step = {event["step"]: event for event in events if event.get("event") == "evaluation"}
    curve = [by_step[step] for step in sorted(by_step)]
    stages = read_stages(directory, events)
    if stages:
        curve = [point for stage in stages for point in stage.curve]
    results = None
    if (directory / "results.json").exists():
        results = TrainResults.read(directory / "results.json")
        curve = [point.model_dump() for point in results.curve]
    told = config.get("recipe")
    carried = Recipe.model_validate(told) if told else None
    many = None if results is None else results.ensemble
    settings = {} if carried is None else carried.strategies.given()
    given = {name: each.model_dump(exclude_none=True) for name, each in settings.items()}
    if carried is None:
        given = config.get("strategies", {})
    name = directory.resolve().name
    source = "" if carried is None else carried.data.spec.rpartition("/")[2]
    title = name if carried is None else f"{carried.model} on {source}"
    last = int(curve[-1]["step"]) if curve else 0
    end = _end(config, events, last) if results is None else None
    controls = read_controls(directory)
    try:
        measured, damaged = read_pictures(directory), list[str]()
    except RunDirectoryError as problem:
        measured, damaged = None, [str(problem)]
    return TrainingPage(
        title=title,
        lead=_lead(results, last, events) if end is None else _end_lead(end, last, config),
        finished=results is not None or end is not None,
        failed=bool(end and end.get("failed")) if results is None else results.failed,
        stopped=(end or {}).get("stopped") if results is None else results.stopped,
        metric="metric" if results is None else metric_label(results.metric),
        curve=curve,
        best=None if results is None or results.best is None else results.best.model_dump(),
        facts=_facts(results, curve, so_far=end is None),
        scores=_scores(results),
        strategies=[
            (each, ", ".join(f"{k} = {v}" for k, v in values.items())) for each, values in given.items()
        ],
        warnings=[] if results is None else list(results.data.get("warnings", [])),
        notes=[*([] if results is None else [*results.data["notes"], *results.notes]), *damaged],
        machine=_machine(results),
        recipe=recipe.dumps(carried) if carried is not None else "",
        command=config.get("command"),
        results=results,
        many=many,
        member_rows=[] if many is None else ensemble.member_rows(many),
        squared=None if many is None else ensemble.squared_words(many),
        calibrations=_calibrations(results),
        stages=stages,
        stage_rows=[_stage_row(stage) for stage in stages],
        controls=controls,
        control_rows=control_rows(controls, curve, {} if results is None else results.result),
        lacks_controls=lacks_controls(directory, config, controls),
        measured=measured,
        captions=captions_of(measured),
    )


def _stage_row(stage: StageCurve) -> tuple[str, ...]:
    last = stage.curve[-1] if stage.curve else {}
    words = [
        "" if last.get(key) is None else general(last[key], 4)
        for key in ("train_loss", "validation_loss", "validation")
    ]
    steps = f"{last['step'] - stage.began:,}" if last else "0"
    return stage.name, f"{stage.began:,}", steps, *words, "yes" if stage.finished else "no"


def pictures(page: TrainingPage) -> dict[str, figure]:
    """Draw the curves: losses, and the validation metric; and what there is of ensembles and calibration."""
    drawn = figures_of(page.measured)
    if page.results is not None:
        drawn |= ensemble.pictures(page.results)
    if not page.curve:
        return drawn
    steps = [point["step"] for point in page.curve]
    losses = [
        ("training loss", "train_loss", _TRAIN),
        ("validation loss", "validation_loss", _VALIDATION),
    ]
    if any(point[key] is not None for _, key, _ in losses for point in page.curve):
        drawn["loss"] = _plot(page, steps, losses, "loss", log=True)
    if any(point["validation"] is not None for point in page.curve):
        drawn["metric"] = _plot(
            page, steps, [(f"validation {page.metric}", "validation", _VALIDATION)], page.metric, log=False
        )
    return drawn


def _plot(
    page: TrainingPage, steps: list[int], lines: list[tuple[str, str, str]], label: str, *, log: bool
) -> figure:
    values = [point[key] for _, key, _ in lines for point in page.curve if point[key] is not None]
    for member in () if page.many is None else page.many.members:
        values += [v for _, key, _ in lines for p in member.curve if (v := getattr(p, key)) is not None]
    log = log and bool(values) and min(values) > 0
    beside = [] if label == "loss" else [
        (each.name, [(p["step"], p["validation"]) for p in each.curve if p["validation"] is not None])
        for each in page.controls
    ]  # fmt: skip
    values += [value for _, points in beside for _, value in points]
    longest = max([steps[-1], *(points[-1][0] for _, points in beside if points)])
    ends = window(values, log=log)
    plot = canvas(
        height=340, x="step", y=plain(label), y_axis_type="log" if log else "linear",
        x_range=(0, max(longest, 1) * 1.01), y_range=ends,
    )  # fmt: skip
    if log:
        readable_logarithms(plot, ends)
    for member in () if page.many is None else page.many.members:
        for _, key, colour in lines:
            known = [(p.step, v) for p in member.curve if (v := getattr(p, key)) is not None]
            plot.line(
                [x for x, _ in known], [y for _, y in known], line_color=colour, line_alpha=0.22, line_width=1
            )
    renderers = []
    # the loss of one stage isn't that of the next: no line leads over
    parts: list[Sequence[dict[str, Any]]] = [stage.curve for stage in page.stages if stage.curve]
    parts = parts or [page.curve]
    for name, key, colour in lines:
        style = {"line_color": colour, "line_width": 2.2, "legend_label": plain(name)}
        for part in parts:
            shown = [point for point in part if point[key] is not None]
            source = ColumnDataSource(
                {"x": [point["step"] for point in shown], "y": [point[key] for point in shown]}
            )
            renderers.append(plot.line("x", "y", source=source, **style))
            plot.scatter("x", "y", source=source, size=5, fill_color=colour, line_color=None)
    for number, (name, points) in enumerate(beside):
        source = ColumnDataSource({"x": [x for x, _ in points], "y": [y for _, y in points]})
        dash = _DASHES[number % len(_DASHES)]
        renderers.append(
            plot.line(
                "x", "y", source=source, line_color=_CONTROL, line_width=1.6, line_dash=dash,
                legend_label=plain(f"control: {name}"),
            )
        )  # fmt: skip
    for stage in page.stages:
        plot.add_layout(Span(location=stage.began, dimension="height", line_color=GRID, line_width=1.5))
        plot.add_layout(
            Label(
                x=stage.began,
                y=4,
                y_units="screen",
                text=f" {plain(stage.name)}",
                text_font_size="11px",
                text_color="#767c83",
            )
        )
    if page.best is not None:
        plot.add_layout(
            Span(location=page.best["step"], dimension="height", line_color=GRID, line_dash="dashed")
        )
    plot.legend.background_fill_alpha = 0
    plot.legend.border_line_alpha = 0
    plot.legend.label_text_color = "#767c83"
    hover(plot, renderers, [("step", "@x{0,0}"), (label, "@y{0.[00000]}")])
    return plot


def _end(config: Mapping[str, Any], events: Sequence[dict[str, Any]], last: int) -> dict[str, Any] | None:
    """What is known of the end of a training by ``fit``, which has no results; ``None``: there is no end."""
    if config.get("kind") != "fit":
        return None
    if "members" in config:
        return {} if _members_trained(events) >= config["members"] else None
    if "stages" in config:
        ends = [each for each in events if each.get("event") == "stage finished"]
        if failed := [each for each in ends if each.get("failed")]:
            # no other follows
            return failed[-1]
        return {} if len({each["number"] for each in ends}) >= len(config["stages"]) else None
    found = [each for each in events if each.get("event") == "finished"]
    if found:
        return found[-1]
    # versions before wrote no such event: the last evaluation is after the last step
    evaluated = any(each.get("event") == "evaluation" for each in events)
    return {} if evaluated and last == config.get("steps") else None


def _members_trained(events: Sequence[dict[str, Any]]) -> int:
    # members of their own in earlier versions, outcomes of runs in this one
    trained = {str(each["member"]["number"]) for each in events if each.get("event") == "member"}
    for each in events:
        if each.get("event") == "runs":
            trained |= {one["identity"] for one in each["value"]["outcomes"]}
    return len(trained)


def _end_lead(end: Mapping[str, Any], last: int, config: Mapping[str, Any]) -> str:
    if "members" in config:
        return f"This ensemble is finished: its {config['members']} members are trained."
    if "stages" in config and end.get("failed"):
        name = config["stages"][end["number"] - 1].get("name")
        return f"This training has failed in the stage {name!r}, so that none follows it: {end['stopped']}."
    if "stages" in config:
        return f"This training is finished: its {len(config['stages'])} stages are done."
    scores = {"validation": "metric", "validation_loss": "loss"}
    found = end.get("result") or {}
    told = [f"{what} {general(found[key], 4)}" for key, what in scores.items() if found.get(key) is not None]
    result = f" The result has, on validation data, the {' and the '.join(told)}." if told else ""
    return f"This training is finished; its last evaluation was at step {last:,}.{result}"


def _lead(results: TrainResults | None, last: int, events: Sequence[dict[str, Any]]) -> str:
    if results is None:
        members = _members_trained(events)
        if members:
            return (
                f"This ensemble isn't finished: {members} of its members are trained. The same command with "
                f"{option('resume', True)} and this directory as {option('out')} resumes it."
            )
        return (
            f"This training isn't finished: its last evaluation was at step {last:,}. The same command with "
            f"{option('resume', True)} and this directory as {option('out')} resumes it."
        )
    test = results.result.get("test")
    if test is None:
        return "The result has no finite test score."
    if results.ensemble is not None and results.ensemble.kind == "members":
        return ensemble.lead(results, results.ensemble)
    return f"The result's {metric_label(results.metric)} on held-out test data is {general(test, 4)}."


def _facts(
    results: TrainResults | None, curve: Sequence[dict[str, Any]], *, so_far: bool
) -> list[tuple[str, str, str]]:
    if results is None:
        return [("evaluations", str(len(curve)), "so far" if so_far else "in all")]
    best = results.best
    together = results.ensemble is not None and results.ensemble.kind == "members"
    facts = [("steps", f"{results.updates:,}", f"taken by the optimizer{'s together' * together}")]
    if best is not None and best.validation is not None:
        facts.append(
            (
                f"best validation {metric_label(results.metric)}",
                general(best.validation, 4),
                f"at step {best.step:,}",
            )
        )
    each = ", each member" if together else ""
    facts.append(("parameters", f"{results.model['parameters']:,}", f"{_words(results.model)}{each}"))
    facts.append(("time", duration(results.timing["seconds"]), "of training"))
    return [*facts, *ensemble.facts(results)]


def _calibrations(results: TrainResults | None) -> list[tuple[str, CalibrationRecord]]:
    if results is None or results.calibration is None:
        return []
    found = results.ensemble
    if found is None or found.pooled is None or found.kind == "snapshots":
        rows = [("the result", results.calibration)]
    else:
        rows = [("together", results.calibration), ("members alone, on average", found.pooled)]
    if results.temperature is not None:
        whose = "the snapshots" if found is not None and found.kind == "snapshots" else rows[0][0]
        rows.append((f"{whose}, at its temperature", results.temperature.calibration))
    return rows


def _words(model: dict[str, Any]) -> str:
    parts = ModelParts(**model.get("parts", {}))
    return f"{model['spec']} with {parts}" if parts else str(model["spec"])


def _scores(results: TrainResults | None) -> list[tuple[str, str, str]]:
    if results is None:
        return []
    found = results.result

    def word(value: float | None) -> str:
        return "-" if value is None else general(value, 5)

    return [(s, word(found.get(s)), word(found.get(f"{s}_loss"))) for s in ("validation", "test")]


def _machine(results: TrainResults | None) -> list[tuple[str, str]]:
    if results is None:
        return []
    flat = {key: str(value) for key, value in results.machine.items() if key != "versions"}
    return [*flat.items(), *(results.machine.get("versions") or {}).items()]
