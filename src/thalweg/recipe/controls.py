"""What a curriculum is compared with, trained beside it: the same recipe with other orders of examples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thalweg.errors import OptionError, nearest
from thalweg.recipe.schema import Recipe, StageTable
from thalweg.stages.curriculum import CONTROLS
from thalweg.training.watch import Evaluation, TrainingProgress, TrainingWatcher

__all__ = ["OfControl", "asked_controls", "controlled", "place_of_control", "without_controls"]

_KEY = "controls"


def asked_controls(table: StageTable) -> tuple[str, ...]:
    """Return the names of the controls that a table of a curriculum asks for, ``controls = true`` for all.

    Raises:
        OptionError: it is neither true, false nor a list of names; or the table is a control itself.
    """
    given = table.arguments.get(_KEY, False)
    if table.method != "curriculum" or given is False:
        return ()
    if "control" in table.arguments:
        raise OptionError(
            "control and controls are both given; control trains one in the curriculum's place, controls "
            "trains them beside it"
        )
    if given is True:
        return tuple(CONTROLS)
    if not isinstance(given, list) or not given or not all(isinstance(each, str) for each in given):
        raise OptionError(f"controls is {given!r}; give true, or a list of {', '.join(CONTROLS)}")
    for name in given:
        if name not in CONTROLS:
            raise OptionError(f"controls has {name!r}; {nearest(name, list(CONTROLS))}")
    return tuple(name for name in CONTROLS if name in given)


def controlled(wanted: Recipe) -> dict[str, Recipe]:
    """Return the recipes of the controls that a recipe asks for, by name.

    Each is a recipe like any other: of every curriculum that asks for it, it has the control in its place.
    """
    names = [name for name in CONTROLS if any(name in asked_controls(each) for each in wanted.stage)]
    return {name: _with(wanted, name) for name in names}


def _with(wanted: Recipe, control: str) -> Recipe:
    tables = []
    for table in wanted.stage:
        if table.method == "curriculum":
            values = {name: value for name, value in table.written().items() if name != _KEY}
            own = {"control": control} if control in asked_controls(table) else {}
            table = StageTable.model_validate({**values, **own})
        tables.append(table)
    return wanted.model_copy(update={"stage": tables})


def without_controls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe as plain values without the controls it asks for: its own training is the same."""
    tables = [
        {name: value for name, value in one.items() if name != _KEY}
        if one.get("method") == "curriculum"
        else one
        for one in values.get("stage", ())
    ]
    return {**values, "stage": tables}


def place_of_control(directory: Path, name: str) -> Path:
    """Return where a control of the training in a run directory lies."""
    return directory / "controls" / name


class OfControl(TrainingWatcher):
    """Tells another watcher of a control's training, as far as that isn't the same as of the training."""

    def __init__(self, watcher: TrainingWatcher, name: str) -> None:
        self._watcher, self._name = watcher, name

    def begun(self, lines: dict[str, list[str]]) -> None:
        """Say which one it is."""
        self._watcher.note(f"now the control {self._name!r}: the same training, {CONTROLS[self._name]}")

    def note(self, text: str) -> None:
        """Hand it on."""
        self._watcher.note(text)

    def progress(self, progress: TrainingProgress) -> None:
        """Hand it on."""
        self._watcher.progress(progress)

    def evaluated(self, evaluation: Evaluation, best: Evaluation | None) -> None:
        """Hand it on."""
        self._watcher.evaluated(evaluation, best)
