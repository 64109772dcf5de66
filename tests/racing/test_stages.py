"""The protocol, on an engine whose runs score by a formula: draws, choices, reruns, audits, confirmations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from races import options
from thalweg import catalogue
from thalweg.racing import assemble, build_results, stages
from thalweg.racing.budget import Budget
from thalweg.racing.plan import Cost
from thalweg.racing.race_setup import RaceSetup, understand
from thalweg.racing.records import ReplicateRecord, final, ranked
from thalweg.racing.results import EngineInfo, PlanInfo, Results
from thalweg.run.problem import Problem
from thalweg.run.sampler import evaluation_points
from thalweg.run.spec import Outcome, Run, Workload

Score = Callable[[Run, int], float | None]
"""Run and step to the validation metric; ``None`` where it has diverged."""


class Journal(dict[str, Any]):
    """In memory; the order of what was written is kept."""

    def once(self, event: str, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self:
            self[key] = compute()
        return self[key]


class Formula:
    """An engine that trains nothing."""

    def __init__(self, plan: PlanInfo, score: Score) -> None:
        self.journal, self.plan, self.score = Journal(), plan, score
        self.asked: dict[str, list[Run]] = {}

    def run(
        self,
        key: str,
        runs: Sequence[Run],
        problem: Problem,
        workload: Workload,
        *,
        stage: str,
        eliminate: Any = None,
        over: Any = None,
    ) -> dict[str, Outcome]:
        assert key not in self.asked
        self.asked[key] = list(runs)
        points = evaluation_points(self.plan.steps, self.plan.evaluations)
        values: dict[str, list[float | None]] = {run.identity: [] for run in runs}
        going = {run.identity: run for run in runs}
        for step in points:
            for run in runs:
                value = self.score(run, step) if run.identity in going else None
                values[run.identity].append(value)
                if value is None:
                    going.pop(run.identity, None)
            if eliminate is not None:
                for identity in eliminate(step, {name: values[name][-1] for name in going}):
                    del going[identity]
        outcomes = {}
        for run in runs:
            seen = values[run.identity]
            lost = self.score(run, self.plan.steps) is None
            outcomes[run.identity] = Outcome(
                identity=run.identity, steps=points, train_loss=seen, validation_loss=seen, validation=seen,
                test=seen if workload.score_test else [],
                diverged_at=next(s for s in points if self.score(run, s) is None) if lost else None,
            )  # fmt: skip
        return outcomes


def rate(run: Run) -> float:
    return float(run.setting.hyperparameters["lr"])


def by_rate(run: Run, step: int) -> float:
    """The more the better: the best setting lies at the high end."""
    return math.log10(rate(run)) / 10 + 0.9 + step * 1e-6


def near(best: float) -> Score:
    return lambda run, step: 0.9 - abs(math.log10(rate(run) / best)) / 10 + step * 1e-6


@pytest.fixture(scope="module")
def setup() -> RaceSetup:
    return understand(options())


def carried_out(engine: Formula, number: int, setup: RaceSetup) -> ReplicateRecord:
    """Take a replicate from stage to stage."""
    replicate = stages.replicate(
        number, setup, unlimited(engine.plan, engine), engine.journal, told=lambda record: None  # type: ignore[arg-type]
    )  # fmt: skip
    request = next(replicate)
    while True:
        outcomes = engine.run(
            request.key, request.runs, request.problem, request.workload,
            stage=request.stage, eliminate=request.eliminate, over=request.over,
        )  # fmt: skip
        try:
            request = replicate.send(outcomes)
        except StopIteration as ended:
            record: ReplicateRecord = ended.value
            return record


def play(
    setup: RaceSetup, score: Score, *, number: int = 0, **changes: Any
) -> tuple[ReplicateRecord, Formula, PlanInfo]:
    plan = planned(setup, **changes)
    engine = Formula(plan, score)
    record = carried_out(engine, number, setup)
    return record, engine, plan


def planned(setup: RaceSetup, *, trials: int = 16, **changes: Any) -> PlanInfo:
    return setup.plan.model_copy(update={"trials": trials, "reserve": trials // 4, **changes})


def unlimited(plan: PlanInfo, engine: Formula) -> Budget:
    """No budget: whatever the clock says, nothing is cut."""
    return Budget(plan, Cost(step_seconds={}, evaluation_seconds=0.0), engine.journal, print)  # type: ignore[arg-type]


def test_pools_are_equal_and_begin_with_the_library_defaults(setup: RaceSetup) -> None:
    record, _, plan = play(setup, near(0.05))
    for name, pool in record.pools.items():
        assert len(pool.tried) == plan.trials
        assert [one.wave for one in pool.tried] == [0] + 11 * [1] + 4 * [2]
        first = pool.tried[0].setting
        defaults = {h.name: h.default for h in catalogue.get(name).hyperparameters if h.searched}
        assert (dict(first.hyperparameters), first.schedule) == (defaults, "constant")
        for one in pool.tried[1 : plan.trials if not pool.extended else 12]:
            for hyper, (low, high) in plan.spaces[name].items():
                assert low <= one.setting.hyperparameters[hyper] <= high


def test_optimizers_share_seeds_and_no_stage_shares_them_with_another(setup: RaceSetup) -> None:
    seen: dict[str, set[int]] = {}
    for number in (0, 1):
        _, engine, plan = play(setup, near(0.05), number=number)
        for key, runs in engine.asked.items():
            seeds = {n: [r.seed for r in runs if r.setting.optimizer == n] for n in plan.optimizers}
            assert sorted(seeds["sgd"]) == sorted(seeds["adam"])
            seen[key.rstrip("12")] = seen.get(key.rstrip("12"), set()) | set(seeds["sgd"])
    sizes = {"r0/screen": 1, "r0/rerun": 3, "r0/confirm": 2, "r1/screen": 1, "r1/rerun": 3, "r1/confirm": 2}
    assert {key: len(seeds) for key, seeds in seen.items()} == sizes
    assert len(set.union(*seen.values())) == sum(sizes.values()), "a seed was used for two things"


def test_replicates_draw_anew(setup: RaceSetup) -> None:
    first, _, _ = play(setup, near(0.05), number=0)
    second, _, _ = play(setup, near(0.05), number=1)
    again, _, _ = play(setup, near(0.05), number=1)
    drawn = [[one.setting for one in r.pools["adam"].tried[1:]] for r in (first, second, again)]
    assert drawn[0] != drawn[1]
    assert drawn[1] == drawn[2]


def test_the_best_three_are_rerun_and_the_best_mean_wins(setup: RaceSetup) -> None:
    luck = {"t05": 0.3, "t06": 0.2, "t07": 0.1}

    def score(run: Run, step: int) -> float:
        """The best when screened is the worst when rerun."""
        trial = run.identity.split("/")[2]
        if "rerun" in run.identity:
            return 0.5 - luck[trial] + 0.01 * int(run.identity[-1])
        return 0.5 + luck.get(trial, 0.0)

    record, engine, _ = play(setup, score)
    for name, pool in record.pools.items():
        expected = {f"r0/{name}/{trial}" for trial in luck}
        assert set(pool.reruns) == expected
        assert all(len(outcomes) == 3 for outcomes in pool.reruns.values())
        assert pool.winner is not None
        assert pool.winner.outcome.identity == f"r0/{name}/t07"
        assert assemble.rerun_mean(pool, pool.winner) == pytest.approx(0.41)
    confirmed = engine.asked["r0/confirm"]
    for run in confirmed:
        winner = record.pools[run.setting.optimizer].winner
        assert winner is not None
        assert run.setting == winner.setting


def test_a_rerun_that_diverges_loses_to_any_that_does_not(setup: RaceSetup) -> None:
    def score(run: Run, step: int) -> float | None:
        trial = run.identity.split("/")[2]
        if "rerun1" in run.identity and trial == "t05":
            return None
        return {"t05": 0.9, "t06": 0.6, "t07": 0.5}.get(trial, 0.1)

    record, _, _ = play(setup, score)
    for pool in record.pools.values():
        assert pool.winner is not None
        assert pool.winner.outcome.identity.endswith("t06")
        lost = next(one for one in pool.tried if one.outcome.identity.endswith("t05"))
        assert assemble.rerun_mean(pool, lost) is None


def test_a_best_setting_at_an_edge_extends_the_space_at_equal_budget(setup: RaceSetup) -> None:
    spaces = {"sgd": {"lr": (0.02, 0.4)}, "adam": dict(setup.plan.spaces["adam"])}

    def score(run: Run, step: int) -> float:
        return by_rate(run, step) if run.setting.optimizer == "sgd" else near(0.01)(run, step)  # type: ignore[return-value]

    # so many settings that one of them lies within a twentieth of the end
    record, engine, plan = play(setup, score, trials=128, spaces=spaces)
    sgd, adam = record.pools["sgd"], record.pools["adam"]
    best = ranked(sgd.tried[:96], higher_is_better=True)[0]
    assert best.edges == {"lr": "high"}
    assert sgd.extended
    assert not adam.extended
    assert len(sgd.tried) == len(adam.tried) == plan.trials
    beyond = [rate(run) for run in engine.asked["r0/screen2"] if run.setting.optimizer == "sgd"]
    assert len(beyond) == 32
    assert min(beyond) >= 0.4
    assert max(beyond) <= 4.0
    assert sgd.winner is not None
    assert rate_of(sgd.winner) > 0.4
    flagged = [one for one in sgd.tried if one.edges]
    assert best in flagged
    # what lies at the end of the extended space is flagged anew; what only lay at the old end isn't
    assert all(rate_of(one) > 3 for one in flagged if one.wave == 2)


def rate_of(one: Any) -> float:
    return float(one.setting.hyperparameters["lr"])


def test_defaults_at_the_top_extend_nothing(setup: RaceSetup) -> None:
    def score(run: Run, step: int) -> float:
        return 1.0 if run.identity.endswith("t00") else by_rate(run, step)

    record, _, _ = play(setup, score, trials=128)
    assert not any(pool.extended for pool in record.pools.values())


def test_everything_diverged_is_carried_through(setup: RaceSetup) -> None:
    record, _, plan = play(setup, lambda run, step: None if step > 3 else 0.5)
    for pool in record.pools.values():
        assert not pool.extended
        assert pool.winner is not None
        assert all(outcome.diverged_at for outcome in pool.confirmations)
    assert assemble.default_goal([record], plan) is None
    runs = assemble.confirm_runs([record.pools["sgd"]], None, plan)
    assert [run.score for run in runs] == [None, None]


def test_the_goal_is_the_best_median_of_the_defaults(setup: RaceSetup) -> None:
    def score(run: Run, step: int) -> float | None:
        if not run.identity.endswith("t00"):
            return 0.95
        if run.setting.optimizer == "adam" and run.identity.startswith("r2/"):
            return None
        return {"r0": 0.5, "r1": 0.9, "r2": 0.7}[run.identity[:2]] + (run.setting.optimizer == "adam")

    records = [play(setup, score, number=number)[0] for number in range(3)]
    assert assemble.default_goal(records[:2], setup.plan) == pytest.approx(1.7)
    assert assemble.default_goal(records, setup.plan) == pytest.approx(0.7), "adam's defaults diverged once"


def test_steps_passes_and_work_to_the_goal(setup: RaceSetup) -> None:
    plan = setup.plan
    points = evaluation_points(plan.steps, plan.evaluations)
    values: list[float | None] = [step / plan.steps for step in points]
    outcome = Outcome(
        identity="x", steps=points, train_loss=values, validation_loss=values, validation=values
    )
    goal = assemble.goal_info(outcome, 0.5, plan)
    assert goal.steps == next(step for step in points if step / plan.steps >= 0.5)
    assert goal.passes == pytest.approx(goal.steps * plan.epochs / plan.steps)
    assert goal.work == 3.0 * goal.steps
    for unreachable in (1.5, None):
        assert assemble.goal_info(outcome, unreachable, plan).model_dump() == {
            "steps": None, "passes": None, "work": None,
        }  # fmt: skip
    lower = plan.model_copy(update={"higher_is_better": False})
    assert assemble.goal_info(outcome, 0.0, lower).steps == 0


def test_compute_counts_every_step(setup: RaceSetup) -> None:
    def score(run: Run, step: int) -> float | None:
        if run.identity.endswith("t03"):
            return None if step >= 4 else 0.1
        return near(0.05)(run, step)

    record, _, plan = play(setup, score)
    spent = assemble.compute([record.pools["sgd"]], plan)
    whole = 3.0 * plan.steps
    assert spent.screen == 15 * whole + 3.0 * 4
    assert spent.rerun == 9 * whole
    assert spent.confirm == 2 * whole
    assert spent.eliminated == spent.audit == 0

    record, _, plan = play(setup, score, eliminate=True)
    pool = record.pools["sgd"]
    spent = assemble.compute([pool], plan)
    stopped = [one.eliminated_at for one in pool.tried if one.eliminated_at is not None]
    assert spent.eliminated == 3.0 * sum(stopped)
    ended = [one.outcome.diverged_at or plan.steps for one in pool.tried if one.eliminated_at is None]
    assert spent.screen == 3.0 * sum(ended)
    assert spent.audit == len(pool.audits) * whole


# Elimination -------------------------------------------------------------------------------------------


def trial_of(run: Run) -> int:
    return next((number for number in range(16) if f"/t{number:02d}" in run.identity), 15)


def late(run: Run, step: int) -> float:
    """Trial 2 looks worst until the second half, and is the best in the end."""
    if run.identity.split("/")[2] == "t02":
        return 0.9 if step > 8 else 0.0
    return near(0.05)(run, step)  # type: ignore[return-value]


def test_halves_stop_inside_their_pool_and_the_defaults_run_to_the_end(setup: RaceSetup) -> None:
    def score(run: Run, step: int) -> float:
        """Every setting of adam is better than any of sgd; all defaults are the worst."""
        trial = trial_of(run)
        return (run.setting.optimizer == "adam") + (trial / 100 if trial else -1.0)

    record, _, plan = play(setup, score, eliminate=True)
    for pool in record.pools.values():
        first = [one.eliminated_at for one in pool.tried if one.wave < 2]
        # 12, of which the better 6 go on, and the defaults; of these 7 the better 4, and the defaults
        assert first[0] is None
        assert [bool(at) for at in first[1:]] == [True] * 7 + [False] * 4
        rungs = sorted({at for at in first if at is not None})
        assert len(rungs) == 2
        assert rungs[0] >= plan.steps / 4
        assert rungs[1] >= plan.steps / 2
        assert [final(one.outcome) is None for one in pool.tried[:12]] == [False] + [True] * 7 + [False] * 4
    assert assemble.default_goal([record], plan) is not None


def test_diverged_runs_count_on_neither_side(setup: RaceSetup) -> None:
    def score(run: Run, step: int) -> float | None:
        trial = trial_of(run)
        return None if 1 <= trial <= 7 and step > 1 else 0.1 * trial

    record, _, _ = play(setup, score, eliminate=True)
    pool = record.pools["sgd"].tried[:12]
    assert all(one.eliminated_at is None for one in pool if one.outcome.diverged_at is not None)
    # of t00 and t08 to t11 three go on and the defaults; of these four, two and the defaults
    assert [i for i, one in enumerate(pool) if one.eliminated_at is not None] == [8, 9]


def test_the_audit_finds_the_regret_of_a_late_bloomer(setup: RaceSetup) -> None:
    record, engine, plan = play(setup, late, eliminate=True)
    for name, pool in record.pools.items():
        assert pool.tried[2].eliminated_at is not None
        audits = {audit.identity: audit for audit in pool.audits}
        assert [audit.chosen_as for audit in pool.audits] == ["best", "random"]
        stopped = {one.outcome.identity for one in pool.tried if one.eliminated_at is not None}
        assert set(audits) <= stopped
        best_kept = max(v for one in pool.tried if (v := final(one.outcome)) is not None)
        for audit in pool.audits:
            assert audit.validation is not None
            assert audit.regret == pytest.approx(max(0.0, audit.validation - best_kept))
        assert not any("t02" in run.identity for run in engine.asked["r0/rerun"]), (
            "what was stopped stays out"
        )
        assert {run.seed for run in engine.asked["r0/audit"]} == {
            run.seed for run in engine.asked["r0/screen1"]
        }, f"{name}: an audit repeats the very run that was stopped"
    listed = assemble.elimination([record], plan)
    assert listed.enabled
    assert len(listed.eliminated) == len(set(listed.eliminated)) == sum(
        one.eliminated_at is not None for pool in record.pools.values() for one in pool.tried
    )  # fmt: skip


def results_of(setup: RaceSetup, score: Score, **changes: Any) -> Results:
    plan = planned(setup, **changes)
    records = []
    for number in range(4):
        engine = Formula(plan, score)
        records.append(carried_out(engine, number, setup))
    engine_info = EngineInfo(
        kind="lanes",
        forward="batched",
        reason="",
        chunk=1,
        processes=1,
        threads=1,
        loop_threads=1,
        lane_processes=1,
        device="cpu",
        promise="bits",
    )
    begun: Mapping[str, Any] = {"thalweg": "0", "command": "", "started": "2026-01-01T00:00:00+00:00"}
    return build_results.build_results(
        setup, plan, engine_info, records, begun=begun, test_looks=1, cuts=(),
        step_seconds=dict.fromkeys(plan.optimizers, (1.0, 1.0, 1.0)), forward_backward=3.0,
        seconds=1.0, seconds_by_stage={},
    )  # fmt: skip


@pytest.mark.parametrize("regret", [0.05, 0.2])
def test_a_regret_over_half_the_gap_withdraws_the_verdict(setup: RaceSetup, regret: float) -> None:
    """adam is 0.2 ahead; every setting that was stopped would have gained so much more than the best."""

    def score(run: Run, step: int) -> float:
        trial = run.identity.split("/")[2]
        jitter = run.seed % 7 * 1e-4
        if "confirm" in run.identity:
            return 0.5 + 0.2 * (run.setting.optimizer == "adam") + jitter
        if "audit" in run.identity:
            return 0.5 + regret
        return 0.5 - (0.1 if trial in ("t01", "t02", "t03", "t12") else 0.0)

    found = results_of(setup, score, eliminate=True)
    assert found.verdict.winner == "adam"
    assert max(audit.regret or 0 for audit in found.elimination.audits) == pytest.approx(regret)
    assert found.verdict.withdrawn is (regret > 0.1)
    assert ("withdrawn" in found.verdict.sentence) is (regret > 0.1)
    assert (found.verdict.withdrawn_reason is not None) is (regret > 0.1)


def test_no_mean_over_a_diverged_run(setup: RaceSetup) -> None:
    def score(run: Run, step: int) -> float | None:
        lost = run.setting.optimizer == "sgd" and run.identity.endswith("r2/sgd/confirm1") and step > 5
        return None if lost else 0.5 + run.seed % 7 * 1e-3

    found = results_of(setup, score)
    sgd, adam = found.optimizers
    assert [sgd.mean, sgd.low, sgd.high] == [None] * 3
    assert sum(run.score is None for run in sgd.runs) == 1
    assert None not in (adam.mean, adam.low, adam.high)
    assert adam.mean == pytest.approx(sum(run.score or 0 for run in adam.runs) / len(adam.runs))
    assert any(each.code == "diverged" and each.optimizer == "sgd" for each in found.warnings)
