"""Made-up but plausible results of a race, for looking at reports without running one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from thalweg.racing.results import (
    AuditInfo,
    AxisVerdict,
    BestOfK,
    ComputeInfo,
    ConfirmRun,
    Curve,
    DataInfo,
    EliminationInfo,
    EngineInfo,
    GoalInfo,
    MachineInfo,
    ModelInfo,
    OptimizerResult,
    Pair,
    PlanInfo,
    ReplicateWinner,
    Results,
    SettingInfo,
    Timing,
    Trial,
    Verdict,
    Warning_,
)

SEVEN = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
TITLES = {
    "sgd": "SGD",
    "momentum": "Momentum",
    "nesterov": "Nesterov momentum",
    "adagrad": "AdaGrad",
    "rmsprop": "RMSProp",
    "adam": "Adam",
    "adamw": "AdamW",
}
# best score, log10 of the best learning rate, log10 of where training diverges, steps' time scale
SHAPES = {
    "sgd": (0.9675, -0.4, 0.3, 0.22),
    "momentum": (0.9790, -1.1, -0.3, 0.12),
    "nesterov": (0.9795, -1.1, -0.2, 0.11),
    "adagrad": (0.9690, -1.3, 0.6, 0.16),
    "rmsprop": (0.9765, -2.6, -1.3, 0.10),
    "adam": (0.9785, -2.3, -1.0, 0.09),
    "adamw": (0.9800, -2.3, -1.0, 0.09),
}


def make(
    names: Sequence[str] = SEVEN,
    *,
    titles: Sequence[str] | None = None,
    regression: bool = False,
    eliminate: bool = False,
    diverged_confirmation: str | None = "rmsprop",
    goal: bool = True,
    splits: int = 5,
    confirm: int = 2,
    trials: int = 16,
    seconds_axis: bool = True,
    withdrawn: bool = False,
    classes: Sequence[str] | None = None,
    target: str = "label",
    seed: int = 7,
) -> Results:
    """Return results of a race that never was; everything in them fits together."""
    random = np.random.default_rng(seed)
    steps = 720
    evaluations = 20
    higher = not regression
    best, scale = (1.0, 1.0) if higher else (0.0, 3000.0)
    goal_quality = 0.96

    def score(quality: float) -> float:
        # quality is accuracy-like: 1 is perfect; a root mean squared error grows away from it
        value = min(quality, 1.0) if higher else (1 - quality) * 22 * scale + 2000
        return float(round(value, 6))

    shapes = {}
    for position, name in enumerate(names):
        base = SEVEN[position % len(SEVEN)]
        top, rate, bound, pace = SHAPES.get(name, SHAPES[base])
        shapes[name] = (top - 0.004 * (position // len(SEVEN)), rate, bound, pace)
    title_of = dict(zip(names, titles, strict=True)) if titles else {n: TITLES.get(n, n) for n in names}
    spaces = {name: (10 ** (shapes[name][1] - 2), 10 ** (shapes[name][1] + 1.2)) for name in names}

    def quality_at(name: str, rate: float, noise: float) -> float | None:
        top, centre, bound, _ = shapes[name]
        if math.log10(rate) > bound:
            return None
        return max(0.1, top - 0.055 * (math.log10(rate) - centre) ** 2 - abs(noise))

    optimizers, eliminated, audits = [], [], []
    for name in names:
        low, high = spaces[name]
        rows: list[Trial] = []
        winners: list[ReplicateWinner] = []
        defaults: list[float | None] = []
        tuned: list[float | None] = []
        for replicate in range(splits):
            pool: list[tuple[float | None, Trial]] = []
            for number in range(trials):
                wave = 0 if number == 0 else (2 if number >= trials - 2 else 1)
                rate = 0.001 if wave == 0 else float(10 ** random.uniform(math.log10(low), math.log10(high)))
                if wave == 2:
                    rate = float(10 ** random.uniform(math.log10(high), math.log10(high) + 0.5))
                value = quality_at(name, rate, random.normal(0, 0.006))
                identity = f"r{replicate}/{name}/t{number:02d}"
                hyperparameters: dict[str, float | bool] = {"lr": rate}
                if name.startswith("adam"):
                    hyperparameters |= {"beta1": 0.9, "beta2": float(round(random.uniform(0.98, 0.9999), 5))}
                if name in ("momentum", "nesterov"):
                    hyperparameters["momentum"] = float(round(random.uniform(0.8, 0.99), 4))
                place = math.log(rate / low) / math.log(high / low)
                edges = {"lr": "low"} if place < 0.05 else {"lr": "high"} if place > 0.95 else {}
                stopped = eliminate and number > 0 and value is not None and value < shapes[name][0] - 0.03
                trial = Trial(
                    identity=identity,
                    replicate=replicate,
                    wave=wave,
                    setting=SettingInfo(
                        optimizer=name,
                        hyperparameters=hyperparameters,
                        schedule="cosine" if number % 2 else "constant",
                    ),
                    validation=None if value is None or stopped else score(value),
                    diverged_at=None if value is not None else int(random.integers(1, steps)),
                    eliminated_at=180 if stopped else None,
                    edges=edges,
                )
                if stopped:
                    eliminated.append(identity)
                rows.append(trial)
                pool.append((None if stopped else value, trial))
            ranked = sorted(pool, key=lambda pair: -1.0 if pair[0] is None else pair[0], reverse=True)
            top_quality, top_trial = ranked[0]
            defaults.append(pool[0][1].validation)
            tuned.append(top_trial.validation)
            winners.append(
                ReplicateWinner(
                    replicate=replicate,
                    identity=top_trial.identity,
                    setting=top_trial.setting,
                    rerun_validation=[
                        score((top_quality or 0.2) - abs(random.normal(0, 0.002))) for _ in range(3)
                    ],
                    edges=top_trial.edges,
                    extended=replicate == 1,
                )
            )
        runs: list[ConfirmRun] = []
        curves: list[Curve] = []
        marks = [round(steps * i / evaluations) for i in range(evaluations + 1)]
        for replicate in range(splits):
            shift = float(np.random.default_rng([seed, replicate]).normal(0, 0.004))
            for number in range(confirm):
                identity = f"r{replicate}/{name}/c{number}"
                broke = name == diverged_confirmation and replicate == splits - 1 and number == 0
                top, _, _, pace = shapes[name]
                end = top + shift + float(random.normal(0, 0.003))
                fraction = np.array(marks) / steps
                quality = end - (end - 0.1) * np.exp(-fraction / pace * 1.6)
                quality[1:] += random.normal(0, 0.004, evaluations)
                quality[-1] = end
                loss = 2.3 * np.exp(-fraction / pace) + 0.06 + abs(random.normal(0, 0.01, evaluations + 1))
                alive = [not broke or mark <= 300 for mark in marks]
                values = [score(float(q)) if ok else None for q, ok in zip(quality, alive, strict=True)]
                reached = next(
                    (m for m, q, ok in zip(marks, quality, alive, strict=True) if ok and q >= goal_quality),
                    None,
                )
                if not goal or number + replicate == 3:
                    reached = None
                runs.append(
                    ConfirmRun(
                        identity=identity,
                        replicate=replicate,
                        seed=1000 * replicate + number,
                        score=None if broke else score(end - 0.002),
                        validation=values[-1],
                        diverged_at=301 if broke else None,
                        goal=GoalInfo(
                            steps=reached,
                            passes=None if reached is None else reached / 36,
                            work=None if reached is None else 3.0 * reached,
                        ),
                        updates=None,
                    )
                )
                curves.append(
                    Curve(
                        identity=identity,
                        replicate=replicate,
                        seed=1000 * replicate + number,
                        steps=marks,
                        train_loss=[float(v) if ok else None for v, ok in zip(loss, alive, strict=True)],
                        validation_loss=[
                            float(v * 1.1 + 0.02) if ok else None for v, ok in zip(loss, alive, strict=True)
                        ],
                        validation=values,
                    )
                )
        scores = [run.score for run in runs]
        whole = None if any(s is None for s in scores) else np.array(scores, dtype=float)
        half = (
            None if whole is None else 2.2 * whole.std(ddof=1) / math.sqrt(splits) if len(whole) > 1 else 0.0
        )
        curve = _best_of_k(rows, trials, splits, higher, random)
        diverged = sum(t.diverged_at is not None for t in rows)
        optimizers.append(
            OptimizerResult(
                name=name,
                title=title_of[name],
                runs=runs,
                mean=None if whole is None else float(whole.mean()),
                low=None if whole is None or half is None else float(whole.mean() - half),
                high=None if whole is None or half is None else float(whole.mean() + half),
                default_validation=defaults,
                tuned_validation=tuned,
                winners=winners,
                typical=0,
                trials=rows,
                curves=curves,
                best_of_k=curve,
                diverged_settings=diverged,
                total_settings=len(rows),
                compute=ComputeInfo(
                    screen=3.1 * steps * len(rows) * (0.6 if eliminate else 1),
                    rerun=3.1 * steps * 9 * splits,
                    confirm=3.2 * steps * confirm * splits,
                    eliminated=400.0 * 3 * 12 if eliminate else 0.0,
                    audit=3.1 * steps * 2 * splits if eliminate else 0.0,
                ),
                work_per_step=3.0,
            )
        )
    if eliminate:
        for position, identity in enumerate(eliminated[:: max(1, len(eliminated) // 8)][:8]):
            audits.append(
                AuditInfo(
                    identity=identity,
                    optimizer=identity.split("/")[1] if "/" in identity else identity,
                    replicate=int(identity[1]),
                    chosen_as="best" if position % 2 == 0 else "random",
                    validation=None if position == 3 else score(0.95),
                    regret=None if position == 3 else (0.0 if position else 0.0012) * (1 if higher else 9000),
                )
            )
    margin = 0.005 if higher else 250.0
    pairs = [
        _pair(a, b, margin, higher, random) for i, a in enumerate(optimizers) for b in optimizers[i + 1 :]
    ]
    finite = [o for o in optimizers if o.mean is not None]
    finite.sort(key=lambda o: (-1 if higher else 1) * (o.mean or 0.0))
    leaders = [o.name for o in finite[:3]]
    winner = leaders[0] if leaders else None
    metric = "accuracy" if higher else "RMSE"
    sentence = (
        f"{title_of[winner]} is best on {'digits' if higher else 'houses'}, "
        f"and {len(leaders) - 1} other optimizers can't be told from it at a margin of {margin:g} {metric}."
        if winner
        else "No optimizer finished all its confirmation runs; there is no verdict."
    )
    warnings = [
        Warning_(
            code="size-and-budget",
            text="A winner at this size and budget need not be one at another: it holds for this model, "
            "this data and 20 passes.",
        ),
        Warning_(
            code="edge",
            text="The best setting of SGD lay at the high edge of its learning rates in 2 of 5 splits; "
            "the space was extended.",
            optimizer=names[0],
        ),
    ]
    if diverged_confirmation in names:
        warnings.append(
            Warning_(
                code="diverged-confirmation",
                text="One of 10 confirmation runs of RMSProp diverged; it has the worst score and no mean.",
                optimizer=diverged_confirmation,
            )
        )
    step = {
        n: (1.1e-4 * (1 + i % 7 * 0.11), 1.2e-4 * (1 + i % 7 * 0.11), 1.4e-4 * (1 + i % 7 * 0.11))
        for i, n in enumerate(names)
    }
    labels = list(classes) if classes is not None else [str(i) for i in range(10)]
    return Results(
        schema_version=2,
        thalweg="0.1.0",
        command="thalweg race --data digits --model mlp:64,32 --trials 16 --seed 7",
        data=DataInfo(
            spec="digits" if higher else "houses.csv",
            name="digits" if higher else "houses",
            kind="classification" if higher else "regression",
            target=target,
            rows=1797,
            inputs="64 numbers",
            classes=labels if higher else [],
            class_counts=[180 - 3 * (i % 4) for i in range(len(labels))] if higher else [],
            split_sizes={"train": 1077, "validation": 360, "test": 360},
            fixed_test=False,
            fingerprint="blake2b:7d3f0c55a1b2c3d4",
            notes=["column 'id' looks like an identifier: it is unique in every row and was left out"],
        ),
        model=ModelInfo(
            spec="mlp:64,32",
            parameters=6570,
            text="Sequential(\n  (0): Linear(in_features=64, out_features=64, bias=True)\n  (1): ReLU()\n)",
        ),
        plan=PlanInfo(
            optimizers=list(names),
            schedules=["constant", "cosine"],
            spaces={name: {"lr": spaces[name]} for name in names},
            trials=trials,
            splits=splits,
            reruns=3,
            rerun_seeds=3,
            confirm=confirm,
            epochs=20,
            steps=steps,
            batch_size=32,
            evaluations=evaluations,
            loss="cross-entropy" if higher else "mse",
            metric=metric,
            higher_is_better=higher,
            goal=score(goal_quality) if goal else None,
            goal_source="given" if goal else "the defaults of every optimizer diverged somewhere",
            margin=margin,
            seed=seed,
            eliminate=eliminate,
            minutes=None,
            left_out={},
        ),
        engine=EngineInfo(
            kind="lanes",
            forward="vmap",
            reason="64 lanes took 1.9 ms a step, 0.030 ms a lane; alone a step takes 0.41 ms",
            chunk=64,
            processes=1,
            threads=2,
            loop_threads=1,
            lane_processes=1,
            device="cpu",
            promise="bit for bit on the same machine, engine, chunk and threads",
        ),
        machine=MachineInfo(
            platform="Linux 6.1 x86_64",
            processor="Some Processor @ 2.80GHz",
            cores=2,
            memory_gib=7.8,
            device="cpu",
            versions={"python": "3.11.7", "torch": "2.13.0", "numba": "0.68.1", "thalweg": "0.1.0"},
        ),
        optimizers=optimizers,
        verdict=Verdict(
            sentence=sentence,
            winner=winner,
            winner_mean=None,
            work=AxisVerdict(
                axis="work",
                budget=f"{steps} steps of 32 examples: {3 * steps} units of work each",
                could_be_best=leaders,
                pairs=pairs,
                overlap=0.25,
                holds_up_to=0.45,
                method="corrected resampled t over 5 splits, Hsu's comparison with the best, level 95 %",
            ),
            withdrawn=withdrawn,
            withdrawn_reason=(
                "the audit found a regret of 0.004, over half the gap to the next optimizer"
                if withdrawn
                else None
            ),
        ),
        elimination=EliminationInfo(enabled=eliminate, eliminated=eliminated, audits=audits),
        warnings=warnings,
        test_looks=3,
        timing=Timing(
            started="2025-03-04T09:15:00Z",
            seconds=142.6,
            seconds_by_stage={"prepare": 1.2, "screen": 96.0, "rerun": 22.4, "confirm": 18.0, "verdict": 5.0},
            step_seconds=step,
            forward_backward=2.87,
            seconds_to_goal={
                o.name: [None if r.goal.steps is None else r.goal.steps * step[o.name][1] for r in o.runs]
                for o in optimizers
            },
            scores_at_equal_seconds={
                o.name: [None if r.score is None else r.score - (best - r.score) * 0.03 for r in o.runs]
                for o in optimizers
            },
            verdict=(
                AxisVerdict(
                    axis="seconds",
                    budget="0.086 s of steps run alone",
                    could_be_best=leaders[:2],
                    pairs=pairs,
                    overlap=0.25,
                    holds_up_to=None,
                    method="the same, on scores at equal seconds",
                )
                if seconds_axis
                else None
            ),
        ),
    )


def _best_of_k(
    rows: list[Trial], trials: int, splits: int, higher: bool, random: np.random.Generator
) -> BestOfK:
    worst = -math.inf if higher else math.inf
    values = [
        [worst if t.validation is None else t.validation for t in rows if t.replicate == r]
        for r in range(splits)
    ]
    ks = list(range(1, trials + 1))
    median, low, high = [], [], []
    pick = max if higher else min
    for k in ks:
        draws = [pick(random.choice(pool, size=k, replace=False)) for pool in values for _ in range(24)]
        points = np.quantile(draws, [0.1, 0.5, 0.9], method="inverted_cdf")
        for out, point in zip((low, median, high), points, strict=True):
            out.append(float(point) if math.isfinite(point) else None)
    return BestOfK(k=ks, median=median, low=low, high=high)


def _pair(
    a: OptimizerResult, b: OptimizerResult, margin: float, higher: bool, random: np.random.Generator
) -> Pair:
    if a.mean is None or b.mean is None:
        verdict = (
            "undecided" if a.mean is None and b.mean is None else "worse" if a.mean is None else "better"
        )
        return Pair(
            a=a.name,
            b=b.name,
            difference=None,
            low=None,
            high=None,
            p_value=None,
            verdict=verdict,
            holds_up_to=None,
        )
    difference = (a.mean - b.mean) * (1 if higher else -1)
    half = margin * float(random.uniform(0.4, 1.4))
    low, high = difference - half, difference + half
    verdict = (
        "better"
        if low > 0
        else "worse"
        if high < 0
        else "equivalent"
        if max(-low, high) < margin
        else "undecided"
    )
    return Pair(
        a=a.name,
        b=b.name,
        difference=difference,
        low=low,
        high=high,
        p_value=min(1.0, half / (1e-9 + abs(difference)) * 0.05),
        verdict=verdict,
        holds_up_to=0.45 if verdict != "undecided" else None,
    )
