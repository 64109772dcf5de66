"""Several requests at once, on data of their own: each gets what it would get by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from small import prepared, problem, runs, workload
from thalweg.execution import Choice, Execution, Journal, Request
from thalweg.layers import models
from thalweg.run.directory import RunDirectory
from thalweg.run.spec import Outcome


def request_for(number: int, count: int = 2) -> Request:
    """Data of another size each, so that nobody's runs could be trained on another's unnoticed."""
    return Request(
        key=f"r{number}/screen",
        runs=runs(count, names=["sgd", "adam"]),
        problem=problem(models.factory("mlp:3"), prepared(rows=96 + 16 * number)),
        workload=workload(epochs=2),
        stage="screen",
    )


def scores(found: list[dict[str, Outcome]]) -> list[dict[str, list[float | None]]]:
    return [{name: outcome.validation for name, outcome in one.items()} for one in found]


def choice(processes: int, kind: str = "lanes") -> Choice:
    return Choice(
        kind=kind, forward="batched", reason="asked for by a test", chunk=64, processes=processes,
        threads=1, loop_threads=1, lane_processes=processes,
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize("kind", ["lanes", "loop"])
def test_requests_together_give_what_each_gives_alone(tmp_path: Path, kind: str) -> None:
    asked = [request_for(number) for number in range(3)]
    # the same first run in all, which ends differently on each one's data
    assert len({str(each.problem.data.train) for each in asked}) == 3
    with Execution(choice(1, kind), Journal(), stop=lambda: False) as here:
        alone = [here.run([each])[0] for each in asked]
    steps: list[float] = []
    directory = RunDirectory.create(tmp_path / "run", {})
    with Execution(
        choice(2, kind), Journal(directory), stop=lambda: False,
        advanced=lambda stage, what, done: steps.append(done),
    ) as beside:  # fmt: skip
        together = beside.run(asked)
        first, second, _ = scores(together)
        assert first != second
        assert scores(together) == scores(alone)
        assert sum(steps) == sum(len(each.runs) * each.problem.steps(each.workload) for each in asked)
        # what is written down isn't trained again
        known = len([*directory.events()])
        assert beside.run(asked) == together
        assert len([*directory.events()]) == known
        # in other company the last one is divided otherwise, which changes nothing for anybody
        assert scores(beside.run(asked[1:])) == scores(together[1:])
        assert beside.run([]) == []
    directory.close()


@pytest.mark.parametrize(
    ("requests", "processes", "pieces"),
    [(1, 1, [1]), (1, 2, [2]), (2, 2, [1, 1]), (5, 2, [1, 1, 1, 1, 2]), (5, 3, [1, 1, 1, 3, 3])],
)
def test_requests_that_do_not_go_round_are_divided_among_the_processes(
    requests: int, processes: int, pieces: list[int]
) -> None:
    with Execution(choice(processes), Journal(), stop=lambda: False) as execution:
        found = [execution._pieces(number, requests) for number in range(requests)]
        assert found == pieces
        # chunks hold all runs once, in no more pieces than asked for
        each = request_for(0, count=6)
        for count in set(pieces):
            chunks = execution._chunks(each.runs, each, count)
            assert len(chunks) == count
            assert sorted(run.identity for chunk in chunks for run in chunk) == sorted(
                run.identity for run in each.runs
            )
