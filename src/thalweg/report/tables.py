"""What the report's tables say, row by row; the template decides how they look."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.errors import shortened
from thalweg.racing.initializations import words
from thalweg.racing.results import AxisVerdict, OptimizerResult, Pair, Results, SettingInfo
from thalweg.report.numbers import MISSING, ScoreFormat, count, duration, general, hyperparameter, percent
from thalweg.run.summaries import metric_label, repeated

__all__ = [
    "audits",
    "beside_stages",
    "compute",
    "cost",
    "eliminated",
    "facts",
    "has_long_steps",
    "leaderboard",
    "matrix",
    "middle",
    "ranked",
    "setting",
    "setup",
    "spaces",
    "stages_so_far",
    "winners",
]

_SYMBOLS = {"better": "▲", "worse": "▼", "equivalent": "≈", "undecided": "?"}
_TURNED = {"better": "worse", "worse": "better"}


def ranked(results: Results) -> list[OptimizerResult]:
    """Return the optimizers, best mean test score first; those with a diverged run come last."""
    sign = -1.0 if results.plan.higher_is_better else 1.0

    def key(optimizer: OptimizerResult) -> tuple[int, float]:
        if optimizer.mean is not None:
            return 0, sign * optimizer.mean
        scores = [run.score for run in optimizer.runs if run.score is not None]
        return 1 + len(optimizer.runs) - len(scores), sign * statistics.median(scores) if scores else 0.0

    return sorted(results.optimizers, key=key)


def leaderboard(
    results: Results, order: Sequence[OptimizerResult], score: ScoreFormat
) -> list[dict[str, Any]]:
    """Return a row an optimizer: score, interval, verdicts, goal, typical setting."""
    seconds = results.timing.verdict
    rows = []
    for place, optimizer in enumerate(order, 1):
        dead = sum(run.score is None for run in optimizer.runs)
        reached = sorted(run.goal.steps for run in optimizer.runs if run.goal.steps is not None)
        rows.append(
            {
                "place": place if optimizer.mean is not None else MISSING,
                "name": optimizer.name,
                "title": optimizer.title,
                "mean": score(optimizer.mean),
                "interval": score.interval(optimizer.low, optimizer.high),
                "median": score(middle([run.score for run in optimizer.runs], results)),
                "runs": len(optimizer.runs),
                "dead": dead,
                "work": optimizer.name in results.verdict.work.could_be_best,
                "seconds": seconds is not None and optimizer.name in seconds.could_be_best,
                "reached": f"{len(reached)} of {len(optimizer.runs)}",
                "goal_steps": count(_half(reached, len(optimizer.runs))),
                "rate": general(_typical_rate(optimizer), 2),
                "settings_dead": percent(optimizer.diverged_settings, optimizer.total_settings),
            }
        )
    return rows


def _work_per_step(optimizer: OptimizerResult, results: Results) -> float:
    """What one step of the optimizer took: all its work, where a step is more than a step of the plan."""
    steps = [results.plan.steps / run.updates for run in optimizer.runs if run.updates]
    return optimizer.work_per_step * (statistics.median(steps) if steps else 1.0)


def has_long_steps(results: Results) -> bool:
    """Whether an optimizer's own steps aren't the steps of the plan."""
    return any(run.updates is not None for optimizer in results.optimizers for run in optimizer.runs)


def cost(results: Results, order: Sequence[OptimizerResult], score: ScoreFormat) -> list[dict[str, Any]]:
    """Return a row an optimizer: what a step costs and what the goal cost, on both axes."""
    rows = []
    for optimizer in order:
        runs = optimizer.runs
        times = results.timing.step_seconds.get(optimizer.name)
        to_goal = results.timing.seconds_to_goal.get(optimizer.name, [])
        equal = results.timing.scores_at_equal_seconds.get(optimizer.name, [])
        rows.append(
            {
                "name": optimizer.name,
                "work_per_step": general(_work_per_step(optimizer, results), 3),
                "step": duration(times[1]) if times else MISSING,
                "step_range": f"{duration(times[0])} to {duration(times[2])}" if times else MISSING,
                "reached": f"{sum(r.goal.steps is not None for r in runs)} of {len(runs)}",
                "steps": count(_half([r.goal.steps for r in runs], len(runs))),
                "passes": general(_half([r.goal.passes for r in runs], len(runs))),
                "work": count(_half([r.goal.work for r in runs], len(runs))),
                "seconds": duration(_half(to_goal, len(to_goal))),
                "at_work": score(middle([r.score for r in runs], results)),
                "at_seconds": score(middle(equal, results)),
            }
        )
    return rows


def matrix(
    axis: AxisVerdict | None, order: Sequence[OptimizerResult], score: ScoreFormat
) -> list[dict[str, Any]]:
    """Return the pairs as rows of cells, each read as its row against its column.

    Cells of optimizers that were never compared are ``None``.
    """
    if axis is None:
        return []
    known: dict[tuple[str, str], Pair] = {(pair.a, pair.b): pair for pair in axis.pairs}
    rows = []
    for row in order:
        cells: list[dict[str, Any] | None] = []
        for column in order:
            pair, turned = known.get((row.name, column.name)), False
            if pair is None:
                pair, turned = known.get((column.name, row.name)), True
            cells.append(_cell(row.name, column.name, pair, turned, score) if pair else None)
        rows.append({"name": row.name, "cells": cells})
    return rows


def _cell(row: str, column: str, pair: Pair, turned: bool, score: ScoreFormat) -> dict[str, Any]:
    verdict = _TURNED.get(pair.verdict, pair.verdict) if turned else pair.verdict
    difference, low, high = pair.difference, pair.low, pair.high
    if turned:
        difference, low, high = (None if v is None else -v for v in (difference, high, low))
    interval = f"{score.signed(low)} to {score.signed(high)}" if low is not None and high is not None else ""
    p = "" if pair.p_value is None else f", p = {general(pair.p_value, 2)}"
    if pair.holds_up_to is not None:
        p += f"; holds if splits correlate by at most {general(pair.holds_up_to, 2)}"
    return {
        "verdict": verdict,
        "symbol": _SYMBOLS[verdict],
        "difference": score.signed(difference) if difference is not None else "",
        "interval": interval or ("a run diverged" if difference is None else ""),
        "hover": f"{row} against {column}: {verdict}, {score.signed(difference)} "
        f"({interval or 'no interval'}{p})",
    }


def winners(order: Sequence[OptimizerResult], score: ScoreFormat) -> list[dict[str, Any]]:
    """Return, an optimizer and split each, the setting that was confirmed."""
    rows = []
    for optimizer in order:
        for i, winner in enumerate(optimizer.winners):
            reruns = winner.rerun_validation
            values = [v for v in reruns if v is not None]
            alive = bool(reruns) and len(values) == len(reruns)
            rows.append(
                {
                    "name": optimizer.name,
                    "first": i == 0,
                    "span": len(optimizer.winners),
                    "split": winner.replicate + 1,
                    "setting": setting(winner.setting),
                    "schedule": winner.setting.schedule,
                    "mean": score(statistics.fmean(values)) if alive else "diverged" if reruns else MISSING,
                    "edges": [f"{name} at its {end} end" for name, end in winner.edges.items()],
                    "extended": winner.extended,
                    "typical": winner.replicate == optimizer.typical,
                }
            )
    return rows


def compute(order: Sequence[OptimizerResult]) -> list[dict[str, Any]]:
    """Return a row an optimizer: settings tried and diverged, work by stage and its share of the most."""
    stages = ("screen", "eliminated", "rerun", "confirm", "audit")
    totals = {o.name: sum(getattr(o.compute, stage) for stage in stages) for o in order}
    most = max(totals.values(), default=0.0) or 1.0
    rows = []
    for optimizer in order:
        work = optimizer.compute
        dead = [run for run in optimizer.runs if run.score is None]
        rows.append(
            {
                "name": optimizer.name,
                "settings": count(optimizer.total_settings),
                "dead": count(optimizer.diverged_settings),
                "dead_share": percent(optimizer.diverged_settings, optimizer.total_settings),
                "dead_width": 100 * optimizer.diverged_settings / max(1, optimizer.total_settings),
                "runs": len(optimizer.runs),
                "dead_runs": len(dead),
                "dead_list": [
                    f"{run.identity} (split {run.replicate + 1}"
                    + (f", at step {run.diverged_at})" if run.diverged_at is not None else ")")
                    for run in dead
                ],
                "total": count(totals[optimizer.name]),
                "parts": [(stage, 100 * getattr(work, stage) / most) for stage in stages],
                **{stage: count(getattr(work, stage)) for stage in stages},
            }
        )
    return rows


def stages_so_far(events: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Return, from the events of a race, each split's stages with the number of runs that are done."""
    done: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.get("event") == "runs":
            replicate, stage = [*str(event.get("key", "")).split("/"), ""][:2]
            done[replicate, stage.rstrip("0123456789")] += len(event.get("value", {}).get("outcomes", ()))
    return [
        (str(int(replicate[1:]) + 1) if replicate[1:].isdigit() else replicate, stage, count(number))
        for (replicate, stage), number in done.items()
    ]


def eliminated(results: Results) -> list[dict[str, Any]]:
    """Return what was stopped early, in the order in which it was decided."""
    trials = {t.identity: (o.name, t) for o in results.optimizers for t in o.trials}
    rows = []
    for identity in results.elimination.eliminated:
        name, trial = trials.get(identity, (MISSING, None))
        rows.append(
            {
                "identity": identity,
                "name": name,
                "split": MISSING if trial is None else trial.replicate + 1,
                "step": count(None if trial is None else trial.eliminated_at),
                "setting": MISSING if trial is None else setting(trial.setting, schedule=True),
            }
        )
    return rows


def audits(results: Results, score: ScoreFormat) -> list[dict[str, Any]]:
    """Return the eliminated settings that were run to their end after all, greatest regret first."""
    entries = sorted(results.elimination.audits, key=lambda a: -math.inf if a.regret is None else -a.regret)
    return [
        {
            "identity": audit.identity,
            "name": audit.optimizer,
            "split": audit.replicate + 1,
            "chosen": "best of the eliminated" if audit.chosen_as == "best" else "at random",
            "validation": score(audit.validation, "diverged"),
            "regret": score.signed(audit.regret) if audit.regret else score(audit.regret),
        }
        for audit in entries
    ]


def spaces(results: Results) -> list[dict[str, Any]]:
    """Return what each optimizer's settings were drawn from."""
    titles = {o.name: o.title for o in results.optimizers}
    return [
        {
            "name": name,
            "title": titles.get(name, name),
            "ranges": [
                (hyper, f"{hyperparameter(low)} to {hyperparameter(high)}")
                for hyper, (low, high) in results.plan.spaces.get(name, {}).items()
            ],
        }
        for name in results.plan.optimizers
    ]


def facts(results: Results, score: ScoreFormat) -> list[tuple[str, str, str]]:
    """Return the tiles below the verdict: a label, a value, a remark."""
    plan = results.plan
    confirmations = plan.splits * plan.confirm
    best = next((o for o in ranked(results) if o.mean is not None), None)
    tiles = []
    if best is not None:
        tiles.append(
            (
                f"best mean test {metric_label(plan.metric)}",
                score(best.mean),
                f"{best.title}, {len(best.runs)} runs",
            )
        )
    corrected = results.verdict.winner_mean
    if corrected is not None and best is not None and score(corrected) != score(best.mean):
        tiles.append(("without luck", score(corrected), "that mean, corrected for being picked as the best"))
    leaders = len(results.verdict.work.could_be_best)
    tiles.append(("could be the best", f"{leaders} of {len(results.optimizers)}", "at equal compute"))
    tiles.append(
        (
            "margin",
            general(plan.margin),
            f"smaller differences in {metric_label(plan.metric)} don't matter",
        )
    )
    tiles.append(
        (
            "confirmation runs",
            f"{confirmations} each",
            f"{_many(plan.splits, 'split')}, {_many(plan.confirm, 'seed')} each",
        )
    )
    tiles.append(("tuning", f"{plan.trials} settings", "for each optimizer and split"))
    tiles.append(("time", duration(results.timing.seconds), _stages(results)))
    return tiles


def setup(results: Results) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return data, plan, engine and machine as groups of labelled lines."""
    data, plan, engine, machine = results.data, results.plan, results.engine, results.machine
    classes = [
        f"{name} ({count(number)})" for name, number in zip(data.classes, data.class_counts, strict=False)
    ] or list(data.classes)
    groups = [
        (
            "Data",
            [
                ("data", data.spec if data.spec == data.name else f"{data.name} ({data.spec})"),
                ("task", data.kind + (f" of {data.target!r}" if data.target else "")),
                ("rows", count(data.rows)),
                ("inputs", data.inputs),
                ("classes (rows)", shortened(classes, 12)),
                (
                    "split",
                    ", ".join(f"{name} {count(size)}" for name, size in data.split_sizes.items())
                    + ("; the test split came with the data" if data.fixed_test else ""),
                ),
                ("test split looked at", _many(results.test_looks, "race") + " so far, this one included"),
                ("fingerprint", data.fingerprint),
                *(("note", note) for note in data.notes),
            ],
        ),
        (
            "Plan",
            [
                ("optimizers", ", ".join(plan.optimizers)),
                ("schedules", ", ".join(plan.schedules)),
                ("initializations", ", ".join(plan.initializations)),
                ("loss and metric", f"{plan.loss}; {plan.metric}, {_direction(results)} is better"),
                (
                    "length of a run",
                    f"{_many(plan.epochs, 'epoch')}, {_many(plan.steps, 'step')} of {count(plan.batch_size)} "
                    f"examples, evaluated {_many(plan.evaluations, 'time')}",
                ),
                ("settings", f"{plan.trials} for each optimizer in each of {_many(plan.splits, 'split')}"),
                ("re-tested", f"the best {plan.reruns}, on {_many(plan.rerun_seeds, 'seed')}"),
                ("confirmed", f"the best of these, on {_many(plan.confirm, 'fresh seed')}"),
                ("margin", general(plan.margin)),
                ("goal", "none" if plan.goal is None else f"{general(plan.goal, 4)} ({plan.goal_source})"),
                ("elimination", "on, inside each pool" if plan.eliminate else "off"),
                ("time budget", "none" if plan.minutes is None else f"{general(plan.minutes)} min"),
                ("seed", str(plan.seed)),
                *((f"left out: {name}", reason) for name, reason in plan.left_out.items()),
            ],
        ),
        (
            "Engine",
            [
                ("engine", f"{engine.kind} ({engine.forward})"),
                ("why", engine.reason),
                ("runs at once", count(engine.chunk)),
                ("threads", count(engine.threads)),
                ("processes of the loop", f"{engine.processes}, with {_many(engine.loop_threads, 'thread')}"),
                ("device", engine.device),
                ("run again, it gives", repeated(engine.promise)),
            ],
        ),
        (
            "Machine",
            [
                ("platform", machine.platform),
                ("processor", f"{machine.processor}, {_many(machine.cores, 'core')}"),
                ("memory", f"{general(machine.memory_gib)} GiB"),
                ("device", machine.device),
                ("started", results.timing.started),
                ("versions", ", ".join(f"{name} {number}" for name, number in machine.versions.items())),
            ],
        ),
    ]
    return [(title, [(label, text) for label, text in lines if text]) for title, lines in groups]


def setting(info: SettingInfo, *, schedule: bool = False) -> str:
    """Write a setting on one line."""
    parts = [f"{name} {hyperparameter(value)}" for name, value in info.hyperparameters.items()]
    parts += words(info.initialization)
    return ", ".join(([*parts, info.schedule] if schedule else parts) or ["library defaults"])


def _direction(results: Results) -> str:
    return "higher" if results.plan.higher_is_better else "lower"


def middle(values: Sequence[float | None], results: Results) -> float | None:
    """Return the median, where a missing score is the worst; ``None`` if that is what it is."""
    if not values:
        return None
    worst = -math.inf if results.plan.higher_is_better else math.inf
    middle = statistics.median(worst if v is None else v for v in values)
    return middle if math.isfinite(middle) else None


def _half(values: Sequence[float | None], runs: int) -> float | None:
    """Return the median time to the goal, where a miss is infinite; ``None`` if that is what it is."""
    reached = [float(v) for v in values if v is not None]
    if not runs:
        return None
    middle = statistics.median([*reached, *[math.inf] * (runs - len(reached))])
    return middle if math.isfinite(middle) else None


def _typical_rate(optimizer: OptimizerResult) -> float | None:
    typical = (w.setting for w in optimizer.winners if w.replicate == optimizer.typical)
    return next((float(s.hyperparameters["lr"]) for s in typical if "lr" in s.hyperparameters), None)


def _many(number: int, thing: str) -> str:
    return f"{count(number)} {thing}" + ("" if number == 1 else "s")


def _stages(results: Results) -> str:
    timing = results.timing
    longest = Counter(timing.seconds_by_stage).most_common(1)
    if not longest:
        return "in all"
    stage, seconds = longest[0]
    if beside_stages(results) > seconds:
        return "most of it set-up and measurements"
    return f"{'most of it' if 2 * seconds > timing.seconds else 'the largest part'} in the stage '{stage}'"


def beside_stages(results: Results) -> float:
    """Return the seconds of a race that no stage took: reading data, compiling, timing steps."""
    return max(0.0, results.timing.seconds - sum(results.timing.seconds_by_stage.values()))
