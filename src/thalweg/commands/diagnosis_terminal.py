"""What a diagnosis looks like in a terminal, and, as plain lines, in a pipe."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import RenderableType

from thalweg.commands.screen import Screen
from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.targets import DiagnosedTarget, DiagnosisWatcher

__all__ = ["DiagnosisTerminal", "small_picture"]

_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {"error": "bold red", "risk": "yellow", "advice": "cyan"}


class DiagnosisTerminal(Screen, DiagnosisWatcher):
    """A watcher that tells a person what happens: a progress bar, then what was found, worst first.

    Args:
        stream, clock: as for :class:`thalweg.commands.screen.Screen`.
        quiet: nothing but the result.
    """

    label_width = 8

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic):
        super().__init__(stream, quiet=quiet, clock=clock)
        self._share, self._what = 0.0, "looking"

    def progress(self, what: str, share: float) -> None:
        self._share, self._what = min(1.0, share), what
        self.moved("diagnose", self._words)

    def note(self, text: str) -> None:
        self.stop()
        self.say("note", text, always=True)

    def found(self, found: DiagnosedTarget) -> None:
        self.stop()
        made = found.diagnosis
        if found.healthy:
            skill = "" if made is None else f": skill {made.skill:.2f} of 1 ({made.scale})"
            self.say("healthy", f"nothing is wrong{skill}", style="green", always=True)
        for finding in found.findings:
            self._finding(finding)
        if made is not None and made.base is not None and len(made.base.losses) > 1:
            losses = made.base.losses
            ends = f"{losses[0]:.3g} to {losses[-1]:.3g} in {len(losses):,} steps"
            self.say("loss", f"{small_picture(losses)}  {ends}")
        for note in found.said:
            self.say("note", note, always=True)
        if made is not None:
            self.say("cost", f"{made.gradients:,.0f} gradient evaluations, {made.seconds:.1f} s")

    def applied(self, found: DiagnosedTarget) -> None:
        assert found.applied is not None
        changed = ", ".join(f"{key} = {_shown(value)}" for key, value in found.applied.settings.items())
        self.say("recipe", f"{found.written} ({changed})", *found.applied.by_hand, always=True)

    def tried(self, found: DiagnosedTarget) -> None:
        self.stop()
        self.say("tried", str(found.tried), always=True)

    def drawn_from(self, found: DiagnosedTarget, place: Path | None) -> None:
        self.stop()
        taken = found.pictures
        assert taken is not None
        where = "" if place is None else f", kept in {place} for its report"
        told = f"{len(taken.shown)}, for {taken.gradients:,.0f} gradient evaluations{where}"
        self.say("pictures", told, always=place is not None)
        for note in taken.notes:
            self.say("note", note, always=True)

    def drawn(self) -> RenderableType:
        return self.bar("diagnose", self._share, 1.0, self._what)

    def _finding(self, finding: Finding) -> None:
        style = _STYLES[finding.severity]
        title = f"{finding.title} [{finding.code}], {finding.sure}"
        self.say(finding.severity, title, style=style, always=True)
        self.say("evidence", *finding.evidence, always=True)
        remedy = finding.remedy
        if finding.cause not in (finding.title, "") and remedy is not None:
            self.say("cause", finding.cause, always=True)
        if remedy is not None:
            self.say("remedy", remedy.text, always=True)
            if remedy.code:
                self.say("write", *remedy.code.splitlines(), always=True)
            if remedy.measured:
                said = remedy.measured.removeprefix("measured").removeprefix(":").strip()
                self.say("measured", said, always=True)

    def _words(self) -> str:
        return f"{100 * self._share:.0f} % of the budget, {self._what}"


def small_picture(values: Sequence[float], width: int = 24) -> str:
    """Draw numbers as a row of bars, the means of as many parts; what isn't finite is an x.

    >>> small_picture([8, 7, 6, 5, 4, 3, 2, 1])
    '█▇▆▅▄▃▂▁'
    """
    count = min(width, len(values))
    parts = [values[len(values) * k // count : len(values) * (k + 1) // count] for k in range(count)]
    means = [sum(part) / len(part) for part in parts]
    known = [mean for mean in means if math.isfinite(mean)]
    if not known:
        return "x" * count
    low, high = min(known), max(known)
    way = high - low or 1.0
    return "".join(
        _BARS[round((mean - low) / way * (len(_BARS) - 1))] if math.isfinite(mean) else "x" for mean in means
    )


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_shown(each)}" for key, each in value.items()) + "}"
    return (
        f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    )
