"""The ensemble of a recipe: its members trained, evaluated alone and together, and written down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from thalweg.data.source import Prepared
from thalweg.ensembles.evaluate import EnsembleEvaluation
from thalweg.ensembles.store import Member, MemberStore
from thalweg.ensembles.train import resampled, runs_of, train
from thalweg.recipe.schema import Recipe, why_not_lanes
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.problem import Problem
from thalweg.run.spec import Run, Setting, Workload
from thalweg.strategies.initialization import InitializationSettings
from thalweg.training.results import CurvePoint, EnsembleRecord, MemberRecord, SquaredRecord
from thalweg.training.training_run import Fitted
from thalweg.training.watch import Evaluation, TrainingWatcher

__all__ = ["mean_curve", "recorded", "train_members"]

TrainMember = Callable[[Recipe, Prepared, RunDirectory, TrainingWatcher], Fitted]
"""Trains a recipe for one model, on these data."""


def train_members(
    recipe: Recipe,
    problem: Problem,
    *,
    directory: RunDirectory,
    seconds: float,
    watcher: TrainingWatcher,
    alone: TrainMember,
) -> MemberStore:
    """Train the members of a recipe's ensemble, or resume.

    Args:
        recipe: with an ensemble.
        problem: of the recipe; the optimizer is the only one.
        directory: of the run.
        seconds: between two checkpoints.
        watcher: told what happens.
        alone: trains one member, where they can't be lanes.

    Raises:
        UserError: the members can't be trained so.
        Interrupted: after everything was saved.
        ThalwegError: every member failed.
    """
    asked, training = recipe.ensemble, recipe.training
    assert asked is not None
    store = MemberStore(directory)
    begins = recipe.strategies.of(InitializationSettings)
    (optimizer,) = problem.optimizers
    setting = Setting(
        optimizer=optimizer,
        hyperparameters=recipe.optimizer.hyperparameters,
        schedule=recipe.schedule.name,
        schedule_options=recipe.schedule.options,
        initialization=(begins and begins.by_scheme_alone()) or {},
    )
    runs = runs_of(training.seed, asked.members, setting)
    workload = Workload(
        epochs=training.epochs,
        batch_size=training.batch_size,
        evaluations=training.evaluations,
        loss_bound=math.inf,
    )

    def one_member(run: Run, path: Path | None, told: TrainingWatcher) -> Fitted:
        own = training.model_copy(update={"seed": run.seed})
        one = recipe.model_copy(update={"training": own, "ensemble": None})
        own_data = problem.data
        if asked.resample:
            own_data = replace(own_data, train=resampled(own_data.train, seed=run.seed))
        assert path is not None
        begun = {"kind": "fit", "seed": run.seed}
        with RunDirectory.begin(path, begun, resume=path.exists(), stated=None, within=directory) as folder:
            return alone(one, own_data, folder, told)

    train(
        runs, store, watcher, one_member, problem, workload,
        engine=asked.engine, why_not=why_not_lanes(recipe), resample=asked.resample, seconds=seconds,
    )  # fmt: skip
    return store


def mean_curve(members: Sequence[Member]) -> list[Evaluation]:
    """Return the mean of the members' evaluations, step by step, over those that have them.

    >>> one = Member(number=1, seed=0, updates=1, curve=[
    ...     Evaluation(step=0, train_loss=None, validation_loss=1.0, validation=0.5)])
    >>> two = Member(number=2, seed=1, updates=1, curve=[
    ...     Evaluation(step=0, train_loss=None, validation_loss=2.0, validation=None)])
    >>> mean_curve([one, two])
    [Evaluation(step=0, train_loss=None, validation_loss=1.5, validation=0.5)]
    """
    by_step: dict[int, list[Evaluation]] = {}
    for member in members:
        for evaluation in member.curve:
            by_step.setdefault(evaluation.step, []).append(evaluation)

    def mean(step: int, name: str) -> float | None:
        values = [v for each in by_step[step] if (v := getattr(each, name)) is not None]
        return math.fsum(values) / len(values) if values else None

    return [
        Evaluation(
            step=step,
            train_loss=mean(step, "train_loss"),
            validation_loss=mean(step, "validation_loss"),
            validation=mean(step, "validation"),
        )
        for step in sorted(by_step)
    ]


def recorded(
    evaluation: EnsembleEvaluation, store: MemberStore | None, *, resample: bool = False
) -> EnsembleRecord:
    """Write down what models came to, alone and together; without ``store`` they are snapshots."""
    squared = None
    if evaluation.squared is not None:
        of = "brier" if evaluation.calibration is not None else "error"
        squared = SquaredRecord(of=of, **vars(evaluation.squared))  # type: ignore[arg-type]
    alone = iter(evaluation.alone)
    if store is None:
        members = [MemberRecord(number=number, **vars(one)) for number, one in enumerate(evaluation.alone, 1)]
    else:
        members = []
        for number in sorted(store.members):
            member = store.members[number]
            known = {} if member.failed else vars(next(alone))
            members.append(
                MemberRecord(
                    number=number, seed=member.seed, updates=member.updates, stopped=member.stopped,
                    failed=member.failed,
                    curve=[CurvePoint(**asdict(each)) for each in member.curve],
                    **known,
                )
            )  # fmt: skip
    return EnsembleRecord(
        kind="snapshots" if store is None else "members",
        engine=None if store is None or store.plan is None else store.plan.kind,
        resample=resample,
        members=members,
        result=evaluation.result,
        growing=evaluation.growing,
        disagreement=evaluation.disagreement,
        squared=squared,
        pooled=evaluation.pooled,
    )
