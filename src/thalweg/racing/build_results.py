"""The end of a race: weigh the confirmation runs, reach the verdict, and write the winner down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from thalweg import __version__, recipe
from thalweg.racing import assemble, caveats, verdict, winner
from thalweg.racing.initializations import DEFAULT, SEARCHED
from thalweg.racing.race_setup import RaceSetup
from thalweg.racing.ranges import ranges
from thalweg.racing.records import PoolRecord, ReplicateRecord
from thalweg.racing.results import (
    SCHEMA_VERSION,
    AxisVerdict,
    EngineInfo,
    MachineInfo,
    OptimizerResult,
    PlanInfo,
    Results,
    Timing,
)
from thalweg.racing.tuning import best_of_k, medoid
from thalweg.racing.verdict import Evidence
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.environment import environment
from thalweg.run.objective import leaves_out
from thalweg.run.targets import class_numbers

__all__ = ["build_results", "winning_pool", "write_winner"]

StepSeconds = Mapping[str, tuple[float, float, float]]


def build_results(
    setup: RaceSetup,
    plan: PlanInfo,
    engine: EngineInfo,
    records: Sequence[ReplicateRecord],
    *,
    begun: Mapping[str, Any],
    test_looks: int,
    cuts: Sequence[str],
    step_seconds: StepSeconds,
    forward_backward: float,
    seconds: float,
    seconds_by_stage: Mapping[str, float],
) -> Results:
    """Judge what was gathered.

    Args:
        setup: what the race understood.
        plan: what was done, the goal filled in.
        engine: how.
        records: one a replicate.
        begun: the event with which the race began.
        test_looks: how often this test data has been scored, this race included.
        cuts: what the clock took from the plan, a sentence each.
        step_seconds: optimizer to (low, median, high) seconds of a step run alone.
        forward_backward: forward with backward in forward passes, as measured.
        seconds: of the whole race.
        seconds_by_stage: of its stages.
    """
    scores = assemble.final_scores(records, plan)
    evidence = _weigh(setup, plan, scores, resample=_resample(setup, plan, records))
    passes = f"{plan.epochs} {'pass' if plan.epochs == 1 else 'passes'} over the training split"
    judged = verdict.compare_all(evidence, margin=plan.margin, axis="work", budget=passes)
    elimination = assemble.elimination(records, plan)
    winners = {name: assemble.replicate_winners(assemble.pool_of(records, name)) for name in plan.optimizers}
    concluded = verdict.conclude(
        evidence,
        judged,
        metric=plan.metric,
        margin=plan.margin,
        regrets=[audit.regret for audit in elimination.audits],
    )
    by_clock, scores_by_clock = _at_equal_seconds(setup, plan, records, step_seconds, evidence)
    return Results(
        schema_version=SCHEMA_VERSION,
        thalweg=str(begun["thalweg"]),
        command=str(begun["command"]),
        data=setup.data_info,
        model=setup.model_info,
        plan=plan,
        engine=engine,
        machine=_machine(setup.options.device),
        optimizers=[_optimizer(name, setup, plan, records, evidence) for name in plan.optimizers],
        verdict=concluded,
        elimination=elimination,
        warnings=caveats.warnings(
            evidence,
            judged,
            winner_mean=concluded.winner_mean,
            metric=plan.metric,
            margin=plan.margin,
            trials=plan.trials,
            epochs=plan.epochs,
            winners=winners,
            test_looks=test_looks,
            test_noise=evidence.fixed_test or not setup.source.fixed_test,
            cuts=cuts,
            data=setup.data_info.warnings,
            unmoved={
                name: [run.unmoved for pool in assemble.pool_of(records, name) for run in pool.confirmations]
                for name in plan.optimizers
            },
        ),
        test_looks=test_looks,
        timing=Timing(
            started=str(begun["started"]),
            seconds=seconds,
            seconds_by_stage=dict(seconds_by_stage),
            step_seconds=dict(step_seconds),
            forward_backward=forward_backward,
            seconds_to_goal={
                name: [
                    None if run.goal.steps is None else run.goal.steps * step_seconds[name][1]
                    for run in assemble.confirm_runs(assemble.pool_of(records, name), plan.goal, plan)
                ]
                for name in plan.optimizers
            },
            scores_at_equal_seconds={
                name: [None if np.isnan(score) else float(score) for score in runs.ravel()]
                for name, runs in zip(plan.optimizers, scores_by_clock, strict=True)
            },
            verdict=by_clock,
        ),
    )


def _weigh(
    setup: RaceSetup,
    plan: PlanInfo,
    scores: npt.NDArray[np.float64],
    *,
    resample: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]] | None = None,
    same_test_as: Evidence | None = None,
) -> Evidence:
    sizes = setup.data_info.split_sizes
    return verdict.weigh(
        plan.optimizers,
        scores,
        higher_is_better=plan.higher_is_better,
        n_train=sizes["train"] + sizes["validation"],
        n_test=sizes["test"],
        resolution=_one_example(setup, plan),
        resample=resample,
        same_test_as=same_test_as,
        seed=plan.seed,
    )


def _one_example(setup: RaceSetup, plan: PlanInfo) -> float:
    """By how much one test example can change a replicate's score; 0 where scores are continuous.

    Of balanced accuracy and of the area under the curve, which average over classes, one of the rarest class.
    An example counts with all its positions, such as tokens, less those that the loss leaves out.
    """
    targets = setup.first.test.targets
    if plan.metric not in ("accuracy", "balanced-accuracy", "auc"):
        return 0.0
    if targets is None:
        return 1 / setup.data_info.split_sizes["test"]
    numbers = class_numbers(targets)
    numbers = (targets if numbers is None else numbers).reshape(len(targets), -1)
    counts = numbers != leaves_out(setup.read.objective.judging)
    if plan.metric == "accuracy":
        return float(counts.sum(1).max() / max(1, int(counts.sum())))
    classes = torch.unique(numbers[counts])
    worth = [float((numbers == one).sum(1).max() / (numbers == one).sum()) for one in classes]
    return max(worth, default=0.0) / (len(classes) if plan.metric == "balanced-accuracy" else 1)


def _resample(
    setup: RaceSetup, plan: PlanInfo, records: Sequence[ReplicateRecord]
) -> Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]] | None:
    """Score all confirmation runs anew on a resample of the one test set; ``None`` where each has its own."""
    targets = setup.first.test.targets
    if not setup.source.fixed_test or targets is None or not setup.metric.per_example:
        return None
    runs = [
        outcome
        for name in plan.optimizers
        for pool in assemble.pool_of(records, name)
        for outcome in pool.confirmations
    ]
    # a diverged run has no predictions, and its score isn't used
    like = next((one.test_predictions for one in runs if one.test_predictions), None)
    if like is None:
        return None
    predictions = torch.tensor([one.test_predictions or like for one in runs], dtype=torch.float64)
    targets = targets.cpu()

    def score(weights: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        counts = torch.from_numpy(np.asarray(weights, dtype=np.float64)).expand(len(runs), -1)
        return np.asarray(setup.metric.score(predictions, targets, counts), dtype=np.float64)

    return score


def _at_equal_seconds(
    setup: RaceSetup,
    plan: PlanInfo,
    records: Sequence[ReplicateRecord],
    step_seconds: StepSeconds,
    at_equal_work: Evidence,
) -> tuple[AxisVerdict, npt.NDArray[np.float64]]:
    """The verdict when the optimizer with the fastest step has done all its steps, by steps run alone."""
    budget = plan.steps * min(step_seconds[name][1] for name in plan.optimizers)
    steps = {name: int(budget / step_seconds[name][1] + 1e-9) for name in plan.optimizers}
    scores = assemble.scores_at_steps(records, plan, steps)
    words = f"{budget:.3g} s of steps run alone: all {plan.steps} steps of the fastest"
    evidence = _weigh(setup, plan, scores, same_test_as=at_equal_work)
    return verdict.compare_all(evidence, margin=plan.margin, axis="seconds", budget=words), scores


def _optimizer(
    name: str, setup: RaceSetup, plan: PlanInfo, records: Sequence[ReplicateRecord], evidence: Evidence
) -> OptimizerResult:
    pools = assemble.pool_of(records, name)
    trials = assemble.trials(pools)
    mean, low, high = verdict.mean_and_interval(evidence, name)
    return OptimizerResult(
        name=name,
        title=setup.entries[name].title,
        runs=assemble.confirm_runs(pools, plan.goal, plan),
        mean=mean,
        low=_within(setup, low),
        high=_within(setup, high),
        default_validation=[trial.validation for trial in trials if trial.wave == 0],
        tuned_validation=[
            assemble.rerun_mean(pool, pool.winner) for pool in pools if pool.winner is not None
        ],
        winners=assemble.replicate_winners(pools),
        typical=pools[_typical(setup, plan, pools)].replicate,
        trials=trials,
        curves=assemble.curves(pools),
        best_of_k=best_of_k(
            [[trial.validation for trial in trials if trial.replicate == pool.replicate] for pool in pools],
            higher_is_better=plan.higher_is_better,
        ),
        diverged_settings=sum(trial.diverged_at is not None for trial in trials),
        total_settings=len(trials),
        compute=assemble.compute(pools, plan),
        work_per_step=assemble.WORK_PER_STEP,
    )


def _within(setup: RaceSetup, end: float | None) -> float | None:
    """An interval from few splits reaches beyond what the metric can be; its ends don't."""
    bounds = sorted((setup.metric.best, setup.metric.worst))
    return None if end is None else min(max(end, bounds[0]), bounds[1])


def _machine(device: str) -> MachineInfo:
    found = environment()
    return MachineInfo(
        platform=str(found["platform"]),
        processor=str(found["processor"]),
        cores=int(found["cores"]),
        memory_gib=float(found["memory_gib"]),
        device=device,
        versions={"thalweg": __version__, **found["versions"]},
    )


def _typical(setup: RaceSetup, plan: PlanInfo, pools: Sequence[PoolRecord]) -> int:
    """Which of one optimizer's pools has the winner that is most like those of the others."""
    entry = setup.entries[pools[0].optimizer]
    searched = ranges(entry.hyperparameters, plan.spaces[entry.name])
    points: list[Mapping[str, float | str]] = []
    preference = []
    for pool in pools:
        assert pool.winner is not None
        setting = pool.winner.setting
        defaults = {number.name: number.default for number in entry.hyperparameters}
        point: dict[str, float | str] = {"schedule": setting.schedule}
        for name, span in searched.items():
            point[name] = span.place(float(setting.hyperparameters.get(name, defaults[name])))
        begins = str(setting.initialization.get("scheme", DEFAULT))
        point["initialization"] = begins
        for name, span in ranges(SEARCHED[begins], plan.initializations.get(begins, {})).items():
            if name in setting.initialization:
                point[f"{begins}.{name}"] = span.place(float(setting.initialization[name]))
        points.append(point)
        mean = assemble.rerun_mean(pool, pool.winner)
        preference.append(float("-inf") if mean is None else mean if plan.higher_is_better else -mean)
    return medoid(points, preference)


def winning_pool(setup: RaceSetup, results: Results, records: Sequence[ReplicateRecord]) -> PoolRecord:
    """Return the pool whose winner becomes the recipe: the leader's, where its typical setting won."""
    name = results.verdict.winner or results.verdict.work.could_be_best[0]
    pools = assemble.pool_of(records, name)
    return pools[_typical(setup, results.plan, pools)]


def write_winner(
    setup: RaceSetup, results: Results, records: Sequence[ReplicateRecord], directory: RunDirectory
) -> bool:
    """Write ``winner.toml`` and ``winner.py``; return whether the race can be spelled as a recipe at all.

    The setting is the winner's most typical one: of those that won its pools, the one that is most like the
    others on the scales on which they were searched. With its split and the seed of its first confirmation
    run the recipe makes that very run again. Model, data, loss and metric given as Python objects can't be
    spelled; a script can't be written for some of the rest either, and is then left out.
    """
    options, plan = setup.options, results.plan
    spelled = (
        (options.model, str | None),
        (options.data, str),
        (options.loss, str | None),
        (options.metric, str | None),
        (options.validation_loss, str | None),
        (options.output, str | int | None),
    )
    pool = winning_pool(setup, results, records)
    if not all(isinstance(value, kind) for value, kind in spelled) or pool.winner is None:
        return False
    setting = pool.winner.setting
    won = recipe.Recipe(
        data=recipe.DataTable(
            spec=options.data,
            target=options.target,
            task=setup.read.task,  # type: ignore[arg-type]
            missing=options.missing,
            types=dict(options.types or {}),
            seed=plan.seed,
            replicate=pool.replicate,
        ),
        model=recipe.ModelTable(
            spec=results.model.spec, output=None if options.output is None else str(options.output)
        ),
        objective=recipe.ObjectiveTable(
            loss=plan.loss,
            # a validation loss that chooses for want of a metric has no name
            metric=None if plan.metric.startswith("python:") else plan.metric,
            validation_loss=plan.validation_loss,
        ),
        optimizer=recipe.OptimizerTable(name=setting.optimizer, **setting.hyperparameters),
        schedule=recipe.ScheduleTable(name=setting.schedule),
        strategies=recipe.StrategiesTable.model_validate({"initialization": setting.initialization or False}),
        training=recipe.TrainingTable(
            batch_size=plan.batch_size,
            epochs=plan.epochs,
            seed=pool.confirm_seeds[0],
            evaluations=plan.evaluations,
        ),
    )
    directory.write_text("winner.toml", recipe.dumps(won))
    text = winner.script(won, source=setup.source, prepared=setup.read.split(pool.replicate))
    if text is not None:
        directory.write_text("winner.py", text)
    return True
