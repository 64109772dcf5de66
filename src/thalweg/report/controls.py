"""The controls of a curriculum beside it, as their directories tell of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.report.numbers import general
from thalweg.report.stages import read_stages
from thalweg.run.directory import RunDirectory
from thalweg.run.directory.kinds import kind_at
from thalweg.stages.curriculum import CONTROLS
from thalweg.training.results import TrainResults

__all__ = ["ControlCurve", "control_rows", "lacks_controls", "read_controls"]


@dataclass(frozen=True, kw_only=True)
class ControlCurve:
    """A control: the same training with another order of examples.

    Attributes:
        name: of its directory.
        order: of the examples, in words.
        curve: its evaluations.
        result: scores of what came out; empty as long as it isn't finished, or of a training by ``fit``.
        ended: whether it is finished, or failed.
    """

    name: str
    order: str
    curve: Sequence[dict[str, Any]]
    result: Mapping[str, float | None]
    ended: str


def read_controls(directory: Path) -> list[ControlCurve]:
    """Read the trainings in ``controls``, in the order in which they are named; none where there are none.

    Raises:
        RunDirectoryError: one of them is damaged.
    """
    folder = directory / "controls"
    known = list(CONTROLS)
    names = sorted(
        (each.name for each in folder.iterdir()) if folder.is_dir() else (),
        key=lambda name: (known.index(name) if name in known else len(known), name),
    )
    return [
        _read(folder / name, name)
        for name in names
        if kind_at(folder / name).get("kind") in ("train", "fit") and (folder / name).is_dir()
    ]


def _read(path: Path, name: str) -> ControlCurve:
    order = CONTROLS.get(name, "")
    if (path / "results.json").is_file():
        results = TrainResults.read(path / "results.json")
        curve = [point.model_dump() for point in results.curve]
        ended = "it failed" if results.failed else "yes"
        return ControlCurve(name=name, order=order, curve=curve, result=results.result, ended=ended)
    run = RunDirectory.read(path)
    config, events = run.config(), run.events() if (path / "events.jsonl").is_file() else []
    stages = read_stages(path, events)
    curve = [point for stage in stages for point in stage.curve]
    done = len(stages) >= len(config.get("stages", [None])) and all(stage.finished for stage in stages)
    finished = done and config.get("kind") == "fit"
    return ControlCurve(name=name, order=order, curve=curve, result={}, ended="yes" if finished else "no")


def control_rows(
    controls: Sequence[ControlCurve], curve: Sequence[dict[str, Any]], result: Mapping[str, float | None]
) -> list[tuple[str, ...]]:
    """Return the curriculum and its controls as rows: name, order, scores, this less it, whether finished."""
    if not controls:
        return []
    here = _scores(curve, result)
    rows = [("this training", "the curriculum", *map(_word, here), "", "")]
    for each in controls:
        there = _scores(each.curve, each.result)
        # on test data where both have them
        place = 1 if here[1] is not None and there[1] is not None else 0
        one, other = here[place], there[place]
        less = "" if one is None or other is None else f"{one - other:+.3g}"
        rows.append((each.name, each.order, *map(_word, there), less, each.ended))
    return rows


def _scores(
    curve: Sequence[dict[str, Any]], result: Mapping[str, float | None]
) -> tuple[float | None, float | None]:
    """Validation, of the result or at the last evaluation, and test."""
    last = curve[-1]["validation"] if curve else None
    return result.get("validation", last), result.get("test")


def _word(value: float | None) -> str:
    return "" if value is None else general(value, 4)


def lacks_controls(directory: Path, config: Mapping[str, Any], controls: Sequence[ControlCurve]) -> bool:
    """Say whether a directory holds a curriculum of which no control was trained."""
    if controls or directory.resolve().parent.name == "controls":
        return False
    told = config.get("recipe")
    if isinstance(told, Mapping):
        tables = [each for each in told.get("stage", ()) if each.get("method") == "curriculum"]
        return any("control" not in each for each in tables)
    stages = config.get("stages") or ()
    return any(
        each.get("about", {}).get("curriculum", "plain") != "plain"
        and not str(each.get("name")).endswith(tuple(CONTROLS))
        for each in stages
        if isinstance(each, Mapping)
    )
