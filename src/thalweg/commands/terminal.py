"""What a race looks like in a terminal, and, as plain lines, in a pipe or a log file."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from thalweg.commands.screen import Screen, how_far, printable
from thalweg.racing.initializations import DEFAULT, words
from thalweg.racing.results import (
    DataInfo,
    EngineInfo,
    ModelInfo,
    OptimizerResult,
    PlanInfo,
    Results,
    SettingInfo,
)
from thalweg.racing.watch import LeaderboardRow, RaceProgress, RaceWatcher
from thalweg.run.summaries import metric_label, repeated

__all__ = ["Terminal"]


class Terminal(Screen, RaceWatcher):
    """A watcher that tells a person what happens: a progress bar and the leaderboard.

    Args:
        stream, clock: as for :class:`thalweg.commands.screen.Screen`.
        quiet: nothing but the verdict.
    """

    def __init__(self, stream: TextIO, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic):
        super().__init__(stream, quiet=quiet, clock=clock)
        self._progress: RaceProgress | None = None
        self._rows: Sequence[LeaderboardRow] = ()
        self._metric = "metric"

    def understood(self, data: DataInfo, model: ModelInfo, plan: PlanInfo) -> None:
        self._metric = metric_label(plan.metric)
        for label, lines in (
            ("data", _data_lines(data)),
            ("model", [f"{model.spec}, {model.parameters:,} parameters"]),
            ("plan", _plan_lines(plan)),
        ):
            self.say(label, *lines)
        for warning in data.warnings:
            self.say("warning", warning, style="yellow")

    def engine(self, engine: EngineInfo) -> None:
        if engine.kind == "lanes":
            how = f"lanes: up to {engine.chunk} runs as one program"
        else:
            how = f"loop: {engine.processes} {'process' if engine.processes == 1 else 'processes'}"
        self.say(
            "engine",
            f"{how}, {engine.device}; {engine.reason}",
            f"run again, it gives {repeated(engine.promise)}",
        )

    def progress(self, progress: RaceProgress) -> None:
        self._progress = progress
        self.moved(progress.stage, self._line)

    def leaderboard(self, rows: Sequence[LeaderboardRow]) -> None:
        self._rows = rows
        self.redraw()

    def finished(self, results: Results, report: Path) -> None:
        self.stop()
        if not self.quiet:
            self.console.print()
            self.console.print(_final_table(results), soft_wrap=False)
            self.console.print()
            for warning in results.warnings:
                self.say("warning", warning.text, style="yellow")
        self.say("verdict", results.verdict.sentence, style="bold green", always=True)
        if results.timing.verdict is not None:
            self.say("time", _time_words(results))
        self.say("winner", str(report.parent / "winner.toml"))
        self.say("report", str(report))

    def drawn(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self._progress is not None:
            done, total = self._progress.done, self._progress.total
            parts.append(self.bar(self._progress.stage, done, total, _progress_words(self._progress)))
        if self._rows:
            parts.append(Padding(_leaderboard(self._rows, self._metric), (1, 0, 0, 0)))
        return Group(*parts)

    def _line(self) -> str:
        assert self._progress is not None
        line = _progress_words(self._progress)
        if self._rows and self._rows[0].best_validation is not None:
            best = self._rows[0]
            line += f"; ahead: {best.optimizer} {_number(best.best_validation)} on validation"
        return line


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 10 else f"{value:.5g}"


def _setting_words(setting: SettingInfo) -> str:
    numbers = [f"{name} {_hyperparameter(value)}" for name, value in setting.hyperparameters.items()]
    return ", ".join([*numbers, setting.schedule, *words(setting.initialization)])


def _hyperparameter(value: float | bool) -> str:
    """Three digits; of a momentum or beta near 1 as many as tell how near."""
    if isinstance(value, bool) or not 0.9 < value < 1:
        return str(value) if isinstance(value, bool) else f"{value:.3g}"
    return f"{value:.{1 - math.floor(math.log10(1 - value))}f}".rstrip("0")


def _data_lines(data: DataInfo) -> list[str]:
    if data.kind == "classification":
        what = f"{len(data.classes)} classes"
    else:
        what = data.kind
    of = f" of {data.target!r}" if data.target else ""
    sizes = ", ".join(f"{size:,} {split}" for split, size in data.split_sizes.items())
    fixed = " (the source's own test split)" if data.fixed_test else ""
    return [f"{data.name}: {data.rows:,} rows, {data.inputs}; {what}{of}", f"{sizes}{fixed}", *data.notes]


def _plan_lines(plan: PlanInfo) -> list[str]:
    fields = f"{len(plan.optimizers)} optimizers ({', '.join(plan.optimizers)})"
    if len(plan.optimizers) == 1:
        fields = plan.optimizers[0]
    confirmed = (
        f"the best {plan.reruns} re-tested on {plan.rerun_seeds} seeds, "
        f"the winner confirmed on {plan.confirm} new ones"
    )
    goal = "" if plan.goal is None else f", goal {plan.goal:g} ({plan.goal_source})"
    better, metric = "higher" if plan.higher_is_better else "lower", metric_label(plan.metric)
    drawn = ", ".join(plan.initializations)
    begins = "" if drawn == DEFAULT else f"; initializations {drawn}"
    return [
        f"{fields} x {plan.trials} settings x {plan.splits} splits; {confirmed}",
        f"{plan.epochs:,} epoch{'' if plan.epochs == 1 else 's'} of batches of {plan.batch_size} "
        f"({plan.steps:,} steps) a run; schedules {', '.join(plan.schedules)}{begins}",
        f"trained on {plan.loss}, evaluated by {metric}, {better} is better; margin {plan.margin:g}{goal}",
    ]


def _progress_words(progress: RaceProgress) -> str:
    far = how_far(progress.done, progress.total, progress.seconds_left)
    return f"{far} ({progress.detail})" if progress.detail else far


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, column in enumerate(columns):
        last = number == len(columns) - 1
        table.add_column(column, justify="right" if number > 0 and not last else "left", no_wrap=not last)
    return table


def _leaderboard(rows: Sequence[LeaderboardRow], metric: str) -> Table:
    table = _table("so far", f"validation {metric}", "confirmed", "tried", "diverged", "setting")
    for row in rows:
        table.add_row(
            *map(
                Text,
                (
                    printable(row.optimizer),
                    _number(row.best_validation),
                    _number(row.confirmed_score),
                    str(row.tried),
                    str(row.diverged),
                    printable(row.setting),
                ),
            )
        )
    return table


def _final_table(results: Results) -> Table:
    table = _table(
        "optimizer",
        f"test {metric_label(results.plan.metric)}",
        "95 % interval",
        "diverged",
        "typical setting",
    )
    best = set(results.verdict.work.could_be_best)
    sign = -1 if results.plan.higher_is_better else 1
    ranked = sorted(results.optimizers, key=lambda o: math.inf if o.mean is None else sign * o.mean)
    for optimizer in ranked:
        table.add_row(
            Text(printable(optimizer.name), style="bold" if optimizer.name in best else ""),
            *map(Text, (*_score_words(optimizer), _diverged_words(optimizer), _winner_words(optimizer))),
        )
    return table


def _score_words(optimizer: OptimizerResult) -> tuple[str, str]:
    if optimizer.mean is None:
        failed = sum(run.score is None for run in optimizer.runs)
        return f"{failed} of {len(optimizer.runs)} runs diverged", ""
    if optimizer.low is None or optimizer.high is None:
        return _number(optimizer.mean), ""
    return _number(optimizer.mean), f"{_number(optimizer.low)} to {_number(optimizer.high)}"


def _diverged_words(optimizer: OptimizerResult) -> str:
    return f"{optimizer.diverged_settings} of {optimizer.total_settings}"


def _winner_words(optimizer: OptimizerResult) -> str:
    """The winning setting that is most like those of the other splits; the report shows all."""
    return next(
        (
            printable(_setting_words(winner.setting))
            for winner in optimizer.winners
            if winner.replicate == optimizer.typical
        ),
        "",
    )


def _time_words(results: Results) -> str:
    verdict = results.timing.verdict
    assert verdict is not None
    return f"at equal seconds ({verdict.budget}) the best could be {', '.join(verdict.could_be_best)}"
