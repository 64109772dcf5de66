"""What an executor is: it carries out groups of runs somewhere; and the one that does so here, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from thalweg.execution import loop
from thalweg.execution.lanes import Eliminate, LaneKeeper, LaneProgress
from thalweg.execution.lanes import run as run_lanes
from thalweg.run.problem import Problem
from thalweg.run.spec import Outcome, Run, Workload
from thalweg.run.threads import with_threads

__all__ = ["Executor", "RunList", "SequentialExecutor", "Train", "as_lanes", "one_by_one"]


class Train(Protocol):
    """Trains a group of runs, where it is called; importable by name, so that other processes have it too."""

    def __call__(
        self,
        runs: Sequence[Run],
        asked: RunList,
        *,
        stop: Callable[[], bool],
        advanced: Callable[[float], None],
    ) -> list[Outcome]: ...


@dataclass(frozen=True, kw_only=True)
class RunList:
    """Groups of runs, and all that is needed to train one.

    Attributes:
        train: how a group is trained: :func:`one_by_one` or :func:`as_lanes`.
        groups: each is trained in one piece, wherever that is.
        problem: what runs are trained on.
        workload: how long.
        states: keeps the states of runs under way; a run or group that it holds goes on from there.
        until: pause once this step has been evaluated, for which ``states`` keeps the state.
        eliminate: as for :func:`thalweg.execution.lanes.run`; only in this process.
    """

    train: Train
    groups: Sequence[Sequence[Run]]
    problem: Problem
    workload: Workload
    states: LaneKeeper | None = None
    until: int | None = None
    eliminate: Eliminate | None = None


class Executor(Protocol):
    """Carries runs out.

    ``ended`` is told each group's number and its outcomes, in the order of its runs, as they come;
    ``advanced`` how many steps of runs have been done since it was told last, where that is known.
    ``stop`` is asked often.

    Raises:
        Interrupted: ``stop`` returned ``True``; what was under way is in its ``states``.
        OptionError: something can't be carried out there.
    """

    def carry_out(
        self,
        asked: RunList,
        *,
        ended: Callable[[int, list[Outcome]], None],
        advanced: Callable[[float], None],
        stop: Callable[[], bool],
    ) -> None: ...


class SequentialExecutor:
    """One group after another, in this process.

    Args:
        threads: of torch; together with the machine they decide the last bits.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def carry_out(
        self,
        asked: RunList,
        *,
        ended: Callable[[int, list[Outcome]], None],
        advanced: Callable[[float], None],
        stop: Callable[[], bool],
    ) -> None:
        """Carry runs out, as :class:`Executor` says."""
        with with_threads(self._threads):
            for number, runs in enumerate(asked.groups):
                ended(number, asked.train(runs, asked, stop=stop, advanced=advanced))


def one_by_one(
    runs: Sequence[Run], asked: RunList, *, stop: Callable[[], bool], advanced: Callable[[float], None]
) -> list[Outcome]:
    """Train a group's runs one after another in the ordinary loop; outcomes tell how far they came."""
    return [
        loop.run(
            each,
            asked.problem,
            asked.workload,
            checkpoint=asked.states,
            stop=stop,
            until=asked.until,
        )
        for each in runs
    ]


def as_lanes(
    runs: Sequence[Run], asked: RunList, *, stop: Callable[[], bool], advanced: Callable[[float], None]
) -> list[Outcome]:
    """Train a group's runs side by side, as one program."""
    done = 0.0

    def watch(progress: LaneProgress) -> None:
        nonlocal done
        now = float(progress.step * len(runs))
        advanced(now - done)
        done = now

    return run_lanes(
        runs, asked.problem, asked.workload, chunk=len(runs), watch=watch, checkpoint=asked.states, stop=stop,
        eliminate=asked.eliminate,
    )  # fmt: skip
