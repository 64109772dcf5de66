"""The stages of a training, as its run directory and theirs tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.run.directory import RunDirectory

__all__ = ["StageCurve", "read_stages"]


@dataclass(frozen=True, kw_only=True)
class StageCurve:
    """One stage on the time axis of the whole training.

    Attributes:
        name: of the stage.
        began: step of the whole at which it began.
        curve: its evaluations, their steps counted from the beginning of the whole.
        finished: whether it is.
    """

    name: str
    began: int
    curve: Sequence[dict[str, Any]]
    finished: bool


def read_stages(directory: Path, events: Sequence[dict[str, Any]]) -> list[StageCurve]:
    """Read the stages that have begun, in their order; none where a training has no stages.

    Args:
        directory: of the whole training.
        events: of it.

    Raises:
        RunDirectoryError: one of them is damaged.
    """
    begun = {event["number"]: event for event in events if event.get("event") == "stage"}
    done = {event["number"] for event in events if event.get("event") == "stage finished"}
    found = []
    for number, event in sorted(begun.items()):
        path = directory / "stages" / f"{number}-{event['name']}"
        curve: list[dict[str, Any]] = []
        if (path / "events.jsonl").is_file():
            told = RunDirectory.read(path).events()
            by_step = {each["step"]: each for each in told if each.get("event") == "evaluation"}
            curve = [{**by_step[step], "step": step + event["began"]} for step in sorted(by_step)]
        found.append(
            StageCurve(name=event["name"], began=event["began"], curve=curve, finished=number in done)
        )
    return found
