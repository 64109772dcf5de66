"""What the clock leaves of a plan, by a clock that goes as the test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import races
from thalweg.errors import Interrupted
from thalweg.execution import Execution, loop
from thalweg.execution.execution import Request
from thalweg.execution.journal import Journal
from thalweg.racing.budget import Budget, overrun
from thalweg.racing.plan import Cost, estimate_seconds, fit_minutes, replicate_seconds
from thalweg.racing.race_setup import understand
from thalweg.racing.results import PlanInfo, Results
from thalweg.racing.watch import RaceProgress, SilentRaceWatcher

COST = Cost(step_seconds={"sgd": 1e-4, "adam": 1e-4}, evaluation_seconds=1e-4)
TRIALS, SPLITS = 8, 5


class Clock:
    """Seconds that pass only when something is run."""

    def __init__(self) -> None:
        self.now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(Journal, "elapsed", property(lambda journal: made.now))
    return made


@pytest.fixture(scope="module")
def plan() -> PlanInfo:
    return understand(races.options(trials=TRIALS, splits=SPLITS)).plan


def slow(monkeypatch: pytest.MonkeyPatch, clock: Clock, pace: Callable[[str], float]) -> None:
    """Let each call of the engine take its estimate times the pace of its stage."""
    run = Execution.run
    plans: list[PlanInfo] = []

    class Noted(Budget):
        def __init__(self, plan: PlanInfo, *rest: Any) -> None:
            plans.append(plan)
            super().__init__(plan, *rest)

    def timed(self: Execution, requests: Sequence[Request]) -> Any:
        found = run(self, requests)
        # with a budget of time splits run one after another
        (asked,) = requests
        parts = replicate_seconds(plans[-1], COST)
        part = {"r": "rerun", "c": "confirm"}.get(asked.stage[0], "first")
        counted = parts[part] / {"rerun": 9, "confirm": 2}.get(part, TRIALS - TRIALS // 4) / 2
        clock.now += pace(asked.key) * counted * len(asked.runs)
        return found

    monkeypatch.setattr(Execution, "run", timed)
    monkeypatch.setattr("thalweg.racing.race.Budget", Noted)


class Noting(SilentRaceWatcher):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.seen: list[RaceProgress] = []

    def progress(self, progress: RaceProgress) -> None:
        self.seen.append(progress)

    def note(self, text: str) -> None:
        self.notes.append(text)


def race(out: Path, minutes: float, **changes: Any) -> tuple[Results, list[str]]:
    watcher = Noting()
    with races.engine(changes.pop("kind", "lanes")):
        results = races.run(out, watcher=watcher, trials=TRIALS, splits=SPLITS, minutes=minutes, **changes)
    return results, watcher.notes


def minutes_for(plan: PlanInfo) -> float:
    """A budget that the plan as asked for just fits."""
    return estimate_seconds(plan, COST) / 60 / 0.9 * 1.001


def out_of_time(results: Results) -> list[str]:
    return [warning.text for warning in results.warnings if warning.code == "out-of-time"]


def test_a_race_on_time_is_left_alone(
    tmp_path: Path, clock: Clock, plan: PlanInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, clock, lambda key: 1.0)
    results, _ = race(tmp_path / "race", minutes_for(plan))
    assert (results.plan.splits, results.plan.trials, results.plan.rerun_seeds) == (SPLITS, TRIALS, 3)
    assert out_of_time(results) == []


@pytest.mark.parametrize(("pace", "splits"), [(1.5, 3), (2.0, 2), (2.4, 2)])
def test_a_slow_race_has_fewer_splits_and_says_so(
    pace: float, splits: int, tmp_path: Path, clock: Clock, plan: PlanInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    minutes = minutes_for(plan)
    slow(monkeypatch, clock, lambda key: pace)
    results, notes = race(tmp_path / "race", minutes)
    assert (results.plan.splits, results.plan.trials, results.plan.rerun_seeds) == (splits, TRIALS, 3)
    assert all(len(each.winners) == splits for each in results.optimizers)
    (said,) = out_of_time(results)
    assert said in notes
    assert said.startswith(f"{splits} of {SPLITS} splits were run; another would have taken longer")
    assert clock.now <= 60 * minutes


def test_two_splits_fit_without_second_waves_and_reruns(
    tmp_path: Path, clock: Clock, plan: PlanInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 4 times the estimate two whole splits take 1.6 times the budget; their first waves and ends fit."""
    minutes = minutes_for(plan)
    slow(monkeypatch, clock, lambda key: 4.0)
    results, _ = race(tmp_path / "race", minutes)
    assert (results.plan.splits, results.plan.trials, results.plan.rerun_seeds) == (2, 6, 0)
    assert [trial.wave for trial in results.optimizers[0].trials] == 2 * ([0] + 5 * [1])
    assert results.optimizers[0].tuned_validation[0] is not None
    words = [
        "6 of 8 settings an optimizer were tried",
        "the best settings weren't run again",
        "2 of 5 splits",
    ]
    assert all(said.startswith(word) for said, word in zip(out_of_time(results), words, strict=True))
    assert clock.now <= 60 * minutes


def test_a_split_that_takes_too_long_is_dropped(
    tmp_path: Path, clock: Clock, plan: PlanInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, clock, lambda key: 100.0 if key.startswith("r3/screen1") else 1.0)
    results, _ = race(tmp_path / "race", minutes_for(plan), kind="loop")
    assert results.plan.splits == 3
    assert all(len(each.winners) == 3 for each in results.optimizers)
    said, over = out_of_time(results)
    assert over.startswith("the race took ")
    assert "two splits" not in over
    assert said.startswith("3 of 5 splits were run; split 4 was under way and is dropped")


def test_runs_one_by_one_stop_when_the_first_wave_has_had_its_time(
    tmp_path: Path, clock: Clock, plan: PlanInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each optimizer keeps as many settings, its default among them."""
    minutes = minutes_for(plan)
    train = loop.run

    def timed(*given: Any, **options: Any) -> Any:
        outcome = train(*given, **options)
        clock.now += 60 * minutes / 18
        return outcome

    monkeypatch.setattr(loop, "run", timed)
    results, _ = race(tmp_path / "race", minutes, kind="loop")
    assert results.plan.trials < 6
    for each in results.optimizers:
        for split in range(results.plan.splits):
            tried = [trial for trial in each.trials if trial.replicate == split]
            assert [trial.wave for trial in tried] == [0] + (results.plan.trials - 1) * [1]
    assert out_of_time(results)[0].startswith(f"{results.plan.trials} of 8 settings an optimizer were tried")


def test_progress_counts_what_was_cut_as_nothing_left_to_do(
    tmp_path: Path, clock: Clock, plan: PlanInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, clock, lambda key: 4.0)
    watcher = Noting()
    with races.engine("lanes"):
        races.run(
            tmp_path / "race", watcher=watcher, trials=TRIALS, splits=2, minutes=minutes_for(plan) / 2.5
        )
    assert any("the best settings weren't run again" in note for note in watcher.notes)
    assert watcher.seen[-1].done == watcher.seen[-1].total


@pytest.mark.parametrize(("pace", "late"), [(40.0, True), (1.0, False)])
def test_a_race_that_overran_its_budget_says_so(
    pace: float, late: bool, tmp_path: Path, clock: Clock, plan: PlanInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, clock, lambda key: pace)
    _, notes = race(tmp_path / "race", minutes_for(plan))
    assert any("more than its budget" in note for note in notes) == late


def test_a_resumed_race_decides_the_same(
    tmp_path: Path, clock: Clock, plan: PlanInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if what is left goes faster than before."""
    minutes = minutes_for(plan)
    slow(monkeypatch, clock, lambda key: 4.0)
    whole, _ = race(tmp_path / "whole", minutes)
    clock.now = 0.0
    run = Execution.run

    def interrupted(self: Execution, requests: Sequence[Request]) -> Any:
        if requests[0].key == "r1/confirm":
            raise Interrupted("asked for by a test")
        return run(self, requests)

    with monkeypatch.context() as patch:
        patch.setattr(Execution, "run", interrupted)
        with pytest.raises(Interrupted):
            race(tmp_path / "parts", minutes)
    clock.now = 0.01
    with races.engine():
        resumed = races.run(tmp_path / "parts", resume=True, trials=TRIALS, splits=SPLITS, minutes=minutes)
    before, after = races.comparable(whole), races.comparable(resumed)
    for values in (before, after):
        values["warnings"] = [one for one in values["warnings"] if one["code"] != "test-looks"]
        del values["test_looks"]
    assert before == after


def test_a_plan_without_minutes_never_looks_at_the_clock(plan: PlanInfo) -> None:
    class Stopped:
        @property
        def elapsed(self) -> float:
            raise AssertionError("nobody asked for a budget")

        def __contains__(self, key: str) -> bool:
            return False

    budget = Budget(plan, COST, Stopped(), print)  # type: ignore[arg-type]
    assert not budget.first_wave_is_over(0)
    budget.after_first_wave(0, 3)
    assert budget.next_fits(4)
    assert not budget.is_over(4)
    assert budget.plan == plan


def test_the_estimate_of_parts_adds_up(plan: PlanInfo) -> None:
    fitted, _ = fit_minutes(plan, COST)
    assert sum(replicate_seconds(fitted, COST).values()) * SPLITS == pytest.approx(
        estimate_seconds(plan, COST)
    )


def test_a_budget_is_said_to_be_kept_only_where_it_is(plan: PlanInfo) -> None:
    asked = plan.model_copy(update={"minutes": 1.0, "splits": 2})
    assert overrun(plan, 1e9) is None
    assert overrun(asked, 65) is None
    assert overrun(asked, 84) == (
        "the race took 84 s, more than its budget of 60 s: two splits are run whatever they take"
    )
    more = asked.model_copy(update={"splits": 3})
    assert overrun(more, 84) == "the race took 84 s, more than its budget of 60 s"


def test_a_race_that_overruns_its_budget_says_what_it_took(
    tmp_path: Path, clock: Clock, plan: PlanInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, clock, lambda key: 30.0)
    results, notes = race(tmp_path / "run", minutes_for(plan))
    said = out_of_time(results)
    assert said[-1].startswith("the race took ")
    assert said[-1] in notes
    assert not any("to keep to" in text for text in (*said, *notes))
    assert any(text.endswith("since the budget is 1 s") for text in said)
