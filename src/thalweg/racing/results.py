"""``results.json``: everything a race found, typed and versioned.

The schema is made from these classes (``thalweg.racing.results.schema()``); the report, the recipe
writer and anybody's own script read the file through :meth:`Results.read`. Numbers that do not
exist (a diverged run's score, a goal never reached) are ``null``, never NaN or infinity.
Everything under ``timing`` may differ between a race and the same race interrupted and resumed; nothing
else may. Between two races begun separately the clock also decides ``engine``, and with a budget ``plan``.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PrivateAttr

from thalweg.errors import RunDirectoryError, call
from thalweg.run import summaries
from thalweg.settings import trust
from thalweg.settings.choices import EngineKind, TaskKind

__all__ = [
    "SCHEMA_VERSION",
    "AuditInfo",
    "AxisVerdict",
    "BestOfK",
    "ComputeInfo",
    "ConfirmRun",
    "Curve",
    "DataInfo",
    "EliminationInfo",
    "EngineInfo",
    "GoalInfo",
    "MachineInfo",
    "ModelInfo",
    "OptimizerResult",
    "Pair",
    "PlanInfo",
    "ReplicateWinner",
    "Results",
    "SettingInfo",
    "Timing",
    "Trial",
    "Verdict",
    "Warning_",
    "schema",
]

SCHEMA_VERSION = 2


class _RaceRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataInfo(_RaceRecord):
    """What the data is: ``spec`` as given, sizes, everything worth saying about it (``notes``), and what has
    to be known before a verdict on it is relied on (``warnings``)."""

    spec: str
    name: str
    kind: TaskKind
    target: str | None
    rows: int
    inputs: str
    classes: list[str]
    class_counts: list[int]
    split_sizes: dict[str, int]
    fixed_test: bool
    fingerprint: str
    notes: list[str]
    warnings: list[str] = []


class ModelInfo(_RaceRecord):
    """The model: its spec, number of trainable parameters, and ``str(module)``."""

    spec: str
    parameters: int
    text: str


class PlanInfo(_RaceRecord):
    """What was set before the race began; with a budget of time, what the clock left of it.

    ``reserve``: how many of the trials are held back for the second wave.
    """

    optimizers: list[str]
    schedules: list[str]
    spaces: dict[str, dict[str, tuple[float, float]]]
    initializations: dict[str, dict[str, tuple[float, float]]] = {"default": {}}
    trials: int
    reserve: int = 0
    splits: int
    reruns: int
    rerun_seeds: int
    confirm: int
    epochs: int
    steps: int
    batch_size: int
    evaluations: int
    loss: str
    validation_loss: str | None = None
    metric: str
    higher_is_better: bool
    goal: float | None
    goal_source: str
    margin: float
    seed: int
    eliminate: bool
    minutes: float | None
    left_out: dict[str, str]


class EngineInfo(_RaceRecord):
    """How the runs were computed, why, and which promise of equality holds."""

    kind: EngineKind
    forward: str
    reason: str
    chunk: int
    processes: int
    threads: int
    loop_threads: int
    lane_processes: int
    device: str
    promise: str


class SettingInfo(_RaceRecord):
    """A setting: hyperparameters by name, the schedule, and how weights begin (empty: as the model's own)."""

    optimizer: str
    hyperparameters: dict[str, float | bool]
    schedule: str
    initialization: dict[str, str | int | float] = {}


class Trial(_RaceRecord):
    """One setting tried in the screening stage of one replicate.

    ``wave`` 0 is the library default, 1 the catalogue's space, 2 the reserve (the extension when the
    best was at an edge). ``edges`` names the hyperparameters within a twentieth of an end of the space.
    ``eliminated_at`` is the step at which it was stopped early, or ``None``.
    """

    identity: str
    replicate: int
    wave: int
    setting: SettingInfo
    validation: float | None
    diverged_at: int | None
    eliminated_at: int | None
    edges: dict[str, Literal["low", "high"]]


class ReplicateWinner(_RaceRecord):
    """The setting that won one optimizer's pool in one replicate."""

    replicate: int
    identity: str
    setting: SettingInfo
    rerun_validation: list[float | None]
    edges: dict[str, Literal["low", "high"]]
    extended: bool


class GoalInfo(_RaceRecord):
    """When a confirmation run reached the goal on validation; ``None`` where it never did.

    Seconds to the goal stand under ``timing``.
    """

    steps: int | None
    passes: float | None
    work: float | None


class ConfirmRun(_RaceRecord):
    """One confirmation run: its score on the test split after the last step.

    ``updates`` is how many steps its optimizer took, where a step isn't one forward and backward pass.
    """

    identity: str
    replicate: int
    seed: int
    score: float | None
    validation: float | None
    diverged_at: int | None
    goal: GoalInfo
    updates: int | None


class Curve(_RaceRecord):
    """Learning curve of one confirmation run."""

    identity: str
    replicate: int
    seed: int
    steps: list[int]
    train_loss: list[float | None]
    validation_loss: list[float | None]
    validation: list[float | None]


class BestOfK(_RaceRecord):
    """Validation score of the best of ``k`` settings: median and the 10 % and 90 % points over draws."""

    k: list[int]
    median: list[float | None]
    low: list[float | None]
    high: list[float | None]


class ComputeInfo(_RaceRecord):
    """Work spent, in forward passes over a batch (forward 1, forward with backward 3)."""

    screen: float
    rerun: float
    confirm: float
    eliminated: float
    audit: float


class OptimizerResult(_RaceRecord):
    """Everything about one optimizer. ``mean`` and the interval are ``None`` where a run diverged.

    The intervals from ``low`` to ``high`` hold for all optimizers at once, at 95 %. ``typical`` is the
    replicate whose winning setting is most like those of the others.
    """

    name: str
    title: str
    runs: list[ConfirmRun]
    mean: float | None
    low: float | None
    high: float | None
    default_validation: list[float | None]
    tuned_validation: list[float | None]
    winners: list[ReplicateWinner]
    typical: int
    trials: list[Trial]
    curves: list[Curve]
    best_of_k: BestOfK
    diverged_settings: int
    total_settings: int
    compute: ComputeInfo
    work_per_step: float


class Pair(_RaceRecord):
    """Two optimizers compared: ``difference`` is a minus b in the metric, positive when a is better.

    ``verdict`` reads: a is ``better``, ``worse``, ``equivalent`` (within the margin) or ``undecided``.
    ``p_value`` is ``None`` where all runs of one diverged and none of the other, and so nothing was tested.
    ``holds_up_to`` is the largest correlation between splits, up to 0.6, at which it would still be said;
    ``None`` where nothing is, and with a fixed test set.
    """

    a: str
    b: str
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    verdict: Literal["better", "worse", "equivalent", "undecided"]
    holds_up_to: float | None


class AxisVerdict(_RaceRecord):
    """The verdict on one axis: every pair, and which optimizers could be the best: nobody is better.

    ``overlap`` is the correlation between splits that it assumes; ``holds_up_to`` the largest at which each
    of the others would still be behind somebody and, where all that could be the best are equal, these be
    equal; ``None`` where nothing is claimed, and with a fixed test set.
    ``axis`` is ``"work"`` (equal number of passes) or ``"seconds"`` (equal wall-clock of steps run alone).
    """

    axis: Literal["work", "seconds"]
    budget: str
    could_be_best: list[str]
    pairs: list[Pair]
    overlap: float | None
    holds_up_to: float | None
    method: str


class Verdict(_RaceRecord):
    """One sentence, the verdict at equal work, and whether it had to be withdrawn.

    ``winner_mean`` is the winner's mean test score less what being picked as the highest adds to it.

    The verdict at equal seconds depends on this machine's clock, so it stands in ``Timing.verdict``.
    """

    sentence: str
    winner: str | None
    winner_mean: float | None
    work: AxisVerdict
    withdrawn: bool
    withdrawn_reason: str | None


class AuditInfo(_RaceRecord):
    """An eliminated setting run to its end after all."""

    identity: str
    optimizer: str
    replicate: int
    chosen_as: Literal["best", "random"]
    validation: float | None
    regret: float | None


class EliminationInfo(_RaceRecord):
    """What was stopped early, and what the audit found. Empty lists where elimination was off."""

    enabled: bool
    eliminated: list[str]
    audits: list[AuditInfo]


class Warning_(_RaceRecord):
    """Something a careful reader has to know. ``code`` is stable, ``text`` is a sentence."""

    code: str
    text: str
    optimizer: str | None = None


class MachineInfo(_RaceRecord):
    """Where the race ran: machine and versions."""

    platform: str
    processor: str
    cores: int
    memory_gib: float
    device: str
    versions: dict[str, str]


class Timing(_RaceRecord):
    """Everything that depends on this machine's clock; two identical races differ only here.

    Attributes:
        started: ISO 8601, UTC.
        seconds: of the whole race.
        seconds_by_stage: stage name to seconds.
        step_seconds: optimizer to (low, median, high) seconds of one step run alone, not batched; where an
            optimizer's steps take more than a forward and a backward pass, of as much work.
        forward_backward: forward with backward in forward passes, as measured here; work counts 3.
        seconds_to_goal: optimizer to one value a confirmation run, in the order of ``runs``.
        scores_at_equal_seconds: likewise, the test score when the fastest optimizer's budget was over.
        verdict: the verdict on the ``seconds`` axis.
    """

    started: str
    seconds: float
    seconds_by_stage: dict[str, float]
    step_seconds: dict[str, tuple[float, float, float]]
    forward_backward: float
    seconds_to_goal: dict[str, list[float | None]]
    scores_at_equal_seconds: dict[str, list[float | None]]
    verdict: AxisVerdict | None


class Results(_RaceRecord):
    """The whole of ``results.json``."""

    schema_version: int
    thalweg: str
    command: str
    data: DataInfo
    model: ModelInfo
    plan: PlanInfo
    engine: EngineInfo
    machine: MachineInfo
    optimizers: list[OptimizerResult]
    verdict: Verdict
    elimination: EliminationInfo
    warnings: list[Warning_]
    test_looks: int
    timing: Timing
    _directory: Path | None = PrivateAttr(None)

    def lies_in(self, directory: Path) -> Results:
        """Note where the rest of the race lies, to be shown; returns these results."""
        self._directory = directory.resolve()
        return self

    def __repr__(self) -> str:
        sign = -1 if self.plan.higher_is_better else 1
        ranked = sorted(self.optimizers, key=lambda o: math.inf if o.mean is None else sign * o.mean)
        rows = [(o.name, _scored(o)) for o in ranked[:_SHOWN]]
        if len(ranked) > _SHOWN:
            rows.append(("...", f"{len(ranked) - _SHOWN} more in .optimizers"))
        if self.warnings:
            count = len(self.warnings)
            rows.append(("warnings", f"{count} to read before you rely on it, in .warnings"))
        if self._directory is not None:
            rows.append(("lies in", f"{self._directory} (report.html)"))
            winner = self._directory / "winner.toml"
            if winner.is_file():
                rows.append(("go on", call("train", winner, out="DIR")))
        metric = summaries.metric_label(self.plan.metric)
        return summaries.lines(
            f"Race of {len(self.optimizers)} optimizers on {self.data.name}, by test {metric}: "
            f"{self.verdict.sentence}",
            rows,
        )

    __str__ = __repr__

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read a ``results.json``.

        Raises:
            RunDirectoryError: the file is missing, of another version or damaged.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise RunDirectoryError(
                f"{path} can't be read ({error.strerror}); give the directory of a finished race"
            ) from error
        try:
            found = cls.model_validate_json(text)
        except ValueError as error:
            raise RunDirectoryError(
                f"{path} is not a results file of version {SCHEMA_VERSION} "
                f"({str(error).splitlines()[0]}); run the race again or use the thalweg that wrote it"
            ) from error
        trust.note_specs(
            path.parent, [found.data.model_dump(), found.model.model_dump(), found.plan.model_dump()]
        )
        return found.lies_in(path.parent)


# optimizers in a few lines
_SHOWN = 8


def _scored(optimizer: OptimizerResult) -> str:
    if optimizer.mean is None:
        failed = sum(run.score is None for run in optimizer.runs)
        return f"{failed} of {len(optimizer.runs)} runs diverged"
    if optimizer.low is None or optimizer.high is None:
        return summaries.number(optimizer.mean)
    low, high = summaries.number(optimizer.low), summaries.number(optimizer.high)
    return f"{summaries.number(optimizer.mean)} (95 % interval {low} to {high})"


def schema() -> dict[str, Any]:
    """Return the JSON schema of ``results.json``."""
    return Results.model_json_schema()
