"""Whoever carries runs out, here or in several processes, gives the same."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from small import count_threads, prepared, problem, runs, workload
from thalweg import catalogue
from thalweg.data.examples import TensorExamples
from thalweg.errors import DataError, Interrupted
from thalweg.execution import (
    Executor,
    ProcessPool,
    RunList,
    SequentialExecutor,
    States,
    as_lanes,
    lanes,
    loop,
    one_by_one,
)
from thalweg.layers import models
from thalweg.run.spec import Outcome, Run

CHOSEN = runs(2, names=["sgd", "adam"])
TRAIN = pytest.mark.parametrize("train", [one_by_one, as_lanes])


@pytest.fixture(scope="module")
def workers() -> Iterator[ProcessPool]:
    with ProcessPool(2) as workers:
        yield workers


@pytest.fixture(params=["here", "workers"])
def executor(request: pytest.FixtureRequest) -> Executor:
    """One for which it makes a difference who is asked; processes take seconds to start, and are kept."""
    return SequentialExecutor() if request.param == "here" else request.getfixturevalue("workers")  # type: ignore[no-any-return]


def listed(groups: Sequence[Sequence[Run]], **changes: Any) -> RunList:
    given: dict[str, Any] = {
        "train": one_by_one,
        "problem": problem(models.factory("mlp:8"), prepared()),
        "workload": workload(),
        **changes,
    }
    return RunList(groups=groups, **given)


def carry_out(
    executor: Executor, asked: RunList, *, stop: Callable[[], bool] = lambda: False
) -> tuple[list[list[Outcome]], float]:
    """Outcomes of each group, each told once, and how many steps of runs were told."""
    found: dict[int, list[Outcome]] = {}
    steps: list[float] = []

    def ended(number: int, outcomes: list[Outcome]) -> None:
        assert number not in found, "a group ended twice"
        found[number] = outcomes

    executor.carry_out([asked], ended=ended, advanced=steps.append, stop=stop)
    assert sorted(found) == list(range(len(asked.groups)))
    return [found[number] for number in range(len(asked.groups))], sum(steps)


def test_outcomes_are_those_of_the_loop_in_order(executor: Executor) -> None:
    groups = [CHOSEN[2:], CHOSEN[:1], CHOSEN[1:2]]
    asked = listed(groups)
    found, _ = carry_out(executor, asked)
    assert found == [[loop.run(run, asked.problem, asked.workload) for run in group] for group in groups]


def test_groups_of_lanes_are_a_program_each(executor: Executor) -> None:
    groups = [CHOSEN[:2], CHOSEN[2:], CHOSEN[1:3]]
    asked = listed(groups, train=as_lanes)
    found, steps = carry_out(executor, asked)
    for group, outcomes in zip(groups, found, strict=True):
        alone = lanes.run(group, asked.problem, asked.workload)
        for ours, theirs in zip(outcomes, alone, strict=True):
            assert ours.identity == theirs.identity
            assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-4)
    assert steps == 6 * 36


def test_one_task_after_another_with_other_lengths_and_data(executor: Executor) -> None:
    for epochs, rows in ((3, 150), (1, 150), (1, 100)):
        given: dict[str, Any] = {
            "problem": problem(models.factory("mlp:8"), prepared(rows=rows)),
            "workload": workload(epochs=epochs),
        }
        found, _ = carry_out(executor, listed([CHOSEN[:1]], **given))
        assert found == [[loop.run(CHOSEN[0], **given)]]
        assert found[0][0].steps[-1] == epochs * (rows // 12)


@TRAIN
def test_a_stop_is_an_interruption(executor: Executor, train: Any) -> None:
    with pytest.raises(Interrupted):
        carry_out(executor, listed([CHOSEN[:2], CHOSEN[2:]], train=train), stop=lambda: True)


@TRAIN
def test_what_was_interrupted_goes_on_to_the_same(executor: Executor, train: Any, tmp_path: Path) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    groups = [CHOSEN[:2], CHOSEN[2:]]
    whole, _ = carry_out(executor, listed(groups, train=train))
    kept = listed(groups, train=train, states=States(tmp_path))
    # many epochs for processes that are asked five times a second
    slow = (
        kept if isinstance(executor, SequentialExecutor) else replace(kept, workload=workload(epochs=10**5))
    )
    with pytest.raises(Interrupted):
        carry_out(executor, slow, stop=stop)
    if isinstance(executor, SequentialExecutor):
        assert any(tmp_path.iterdir())
        assert carry_out(executor, kept)[0] == whole


def test_runs_that_pause_have_states_and_go_on(executor: Executor, tmp_path: Path) -> None:
    groups = [[run] for run in CHOSEN]
    whole, _ = carry_out(executor, listed(groups))
    kept = listed(groups, states=States(tmp_path))
    for until, reached in ((9, 14), (20, 22)):
        paused, _ = carry_out(executor, replace(kept, until=until))
        for (ours,), (theirs,) in zip(paused, whole, strict=True):
            assert ours.steps[-1] == reached
            assert ours.validation == theirs.validation[: len(ours.validation)]
    assert all(States(tmp_path).load(run.identity) is not None for run in CHOSEN)
    assert carry_out(executor, kept)[0] == whole


def test_runs_that_are_eliminated_stop_here() -> None:
    asked: list[int] = []

    def eliminate(step: int, seen: Any) -> set[str]:
        asked.append(step)
        return {"adam/0"} if step == 14 else set()

    found, _ = carry_out(SequentialExecutor(), listed([CHOSEN], train=as_lanes, eliminate=eliminate))
    assert asked == [0, 7, 14, 22, 29]
    gone = {one.identity for one in found[0] if one.validation[3:] == [None] * 3}
    assert gone == {"adam/0"}


def test_threads_are_as_asked_and_here_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    found, _ = carry_out(SequentialExecutor(threads=before + 1), listed([CHOSEN[:1]], train=count_threads))
    assert found[0][0].updates == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(Interrupted):
        carry_out(SequentialExecutor(threads=before + 1), listed([CHOSEN[:1]]), stop=lambda: True)
    assert torch.get_num_threads() == before
    with ProcessPool(1, threads=before + 1) as workers:
        found, _ = carry_out(workers, listed([CHOSEN[:1]], train=count_threads))
    assert found[0][0].updates == before + 1


def test_what_is_wrong_with_a_run_is_said_and_the_next_task_is_carried_out(executor: Executor) -> None:
    with pytest.raises(DataError, match="fewer than one batch of 151"):
        carry_out(executor, listed([CHOSEN[:1]], workload=workload(batch_size=151)))
    assert len(carry_out(executor, listed([CHOSEN[:1]]))[0][0]) == 1


class Saved:
    """Keeps what runs end with, from any process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, outcome: Outcome, state: Mapping[str, torch.Tensor]) -> None:
        name = outcome.identity.replace("/", "-")
        assert not (self.folder / name).exists(), "kept twice"
        torch.save({name: value.clone() for name, value in state.items()}, self.folder / name)

    def of(self, run: Run) -> dict[str, torch.Tensor]:
        return dict(torch.load(self.folder / run.identity.replace("/", "-")))


@TRAIN
def test_runs_have_examples_of_their_own_and_what_they_end_with_is_kept(
    executor: Executor, train: Any, tmp_path: Path
) -> None:
    for name in ("kept", "states", "twin"):
        (tmp_path / name).mkdir()
    # another rate for each, one of which is too high
    some = [replace(run, setting=replace(run.setting, schedule="constant")) for run in runs(2, names=["sgd"])]
    high = replace(some[0].setting, hyperparameters={"lr": 1e30})
    some.append(Run(identity="high", setting=high, seed=1))
    places = {run.identity: torch.arange(40) * 2 + n for n, run in enumerate(some)}
    kept, twins = Saved(tmp_path / "kept"), Saved(tmp_path / "twin")
    given = listed([some], train=train, examples=places, keep=kept, states=States(tmp_path / "states"))
    found, _ = carry_out(executor, given)
    for run, outcome in zip(some, found[0], strict=True):
        data = given.problem.data
        assert isinstance(data.train, TensorExamples)
        at = TensorExamples(data.train.inputs[places[run.identity]], data.train.targets[places[run.identity]])
        own = replace(given.problem, data=replace(data, train=at))
        expected = loop.run(run, own, given.workload, keep=twins)
        assert outcome.steps == expected.steps == [0, 2, 4, 5, 7, 9]
        assert outcome.diverged_at == expected.diverged_at
        if run.identity == "high":
            continue
        assert outcome.validation_loss == pytest.approx(expected.validation_loss, rel=1e-4)
        for name, value in twins.of(run).items():
            torch.testing.assert_close(kept.of(run)[name], value, rtol=1e-4, atol=1e-6)
    # not what has diverged, and not once more where the end is known
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"sgd-0", "sgd-1"}
    assert carry_out(executor, given)[0] == found


@TRAIN
def test_what_is_kept_is_what_was_evaluated(train: Any, tmp_path: Path) -> None:
    """An optimizer that trains another point than it means leaves the one that it means."""
    names = {"schedule-free": catalogue.get("schedule-free")}
    asked = problem(models.factory("mlp:3"), prepared(), optimizers=names)
    (run,) = runs(1, names=[*names], rates=[0.3])
    kept = Saved(tmp_path)
    given = listed([[run]], train=train, problem=asked, keep=kept)
    (outcome,) = carry_out(SequentialExecutor(), given)[0][0]
    model = asked.model(run)
    model.load_state_dict(kept.of(run))
    with torch.no_grad():
        loss = asked.functions.judged(
            model.eval()(asked.data.validation.inputs), asked.data.validation.targets
        )
    assert float(loss) == pytest.approx(outcome.validation_loss[-1], rel=1e-5)


def test_evaluations_are_told_in_this_process_and_a_copy_is_without() -> None:
    told: list[int] = []
    given = listed([CHOSEN], train=as_lanes, evaluated=lambda step, validation: told.append(step))
    copy = pickle.loads(pickle.dumps(given))
    assert copy.evaluated is None
    carry_out(SequentialExecutor(), copy)
    assert told == []
    carry_out(SequentialExecutor(), given)
    assert told == [0, 7, 14, 22, 29, 36]


def test_lists_are_carried_out_one_after_another_and_counted_through(executor: Executor) -> None:
    lists = [listed([CHOSEN[:1], CHOSEN[1:2]], workload=workload(epochs=1)), listed([CHOSEN[2:3]])]
    found: dict[int, list[Outcome]] = {}
    executor.carry_out(lists, ended=found.__setitem__, advanced=lambda steps: None, stop=lambda: False)
    assert [found[number][0].identity for number in range(3)] == [run.identity for run in CHOSEN[:3]]
    assert [found[number][0].steps[-1] for number in range(3)] == [12, 12, 36]
