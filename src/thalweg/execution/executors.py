"""What an executor is: it carries out groups of runs somewhere; and the one that does so here, one by one.

Whoever wants runs done hands requests to an :class:`~thalweg.execution.execution.Execution`. It makes lists
of groups of them, and an executor has each group trained where it likes::

    for number, (asked, runs) in enumerate(groups_of(lists)):  # in any order, several at a time
        ended(number, asked.train(runs, asked, stop=stop, advanced=advanced))

A list can be pickled where its parts can be, so that another process, or another machine with the same code,
can do the second line; what comes back is plain values. An executor of one's own is a class with
``carry_out``: ``thalweg.sweep``, ``race`` and ``fit_ensemble`` take it as ``executor``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from thalweg.execution import loop
from thalweg.execution.lanes import Eliminate, Keep, LaneKeeper, LaneProgress
from thalweg.execution.lanes import run as run_lanes
from thalweg.run.problem import Problem
from thalweg.run.spec import Outcome, Run, Workload
from thalweg.run.threads import with_threads

__all__ = [
    "Evaluated",
    "Executor",
    "RunList",
    "SequentialExecutor",
    "Train",
    "as_lanes",
    "groups_of",
    "one_by_one",
]

Evaluated = Callable[[int, Mapping[str, float | None]], None]
"""Told of an evaluation: steps done, and the validation metric by identity (``None``: diverged)."""


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
        train: how a group is trained: :func:`one_by_one`, :func:`as_lanes`, or a way of one's own.
        groups: each is trained in one piece, wherever that is.
        problem: what runs are trained on.
        workload: how long.
        examples: identity to int64 ``[n]``, for all runs or none: which training examples stand in the places
            of the split, as in a resample. All have the same n.
        keep: given each run that came to its end, and its model's state, where it was trained.
        states: keeps the states of runs under way; a run or group that it holds goes on from there.
        checkpoint_seconds: at least this long between two states of a run or group.
        until: pause once this step has been evaluated, for which ``states`` keeps the state.
        eliminate: as for :func:`thalweg.execution.lanes.run`; only in this process.
        evaluated: told of evaluations of lanes in this process; a copy for another process is without it.
    """

    train: Train
    groups: Sequence[Sequence[Run]]
    problem: Problem
    workload: Workload
    examples: Mapping[str, Tensor] | None = None
    keep: Keep | None = None
    states: LaneKeeper | None = None
    checkpoint_seconds: float = 30.0
    until: int | None = None
    eliminate: Eliminate | None = None
    evaluated: Evaluated | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Travel without what is told in this process alone."""
        return {name: value for name, value in vars(self).items() if name != "evaluated"}


class Executor(Protocol):
    """Carries lists of runs out.

    ``ended`` is told each group's number, counted through all lists (:func:`groups_of`), and its outcomes, in
    the order of its runs, as they come; ``advanced`` how many steps of runs have been done since it was told
    last, where that is known. ``stop`` is asked often. All three are called in this process and thread.

    Raises:
        Interrupted: ``stop`` returned ``True``; what was under way is in its ``states``.
        OptionError: something can't be carried out there.
    """

    def carry_out(
        self,
        lists: Sequence[RunList],
        *,
        ended: Callable[[int, list[Outcome]], None],
        advanced: Callable[[float], None],
        stop: Callable[[], bool],
    ) -> None: ...


def groups_of(lists: Sequence[RunList]) -> list[tuple[RunList, Sequence[Run]]]:
    """Return every group with its list, in the order in which groups are counted."""
    return [(asked, runs) for asked in lists for runs in asked.groups]


class SequentialExecutor:
    """One group after another, in this process.

    Args:
        threads: of torch; together with the machine they decide the last bits.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def carry_out(
        self,
        lists: Sequence[RunList],
        *,
        ended: Callable[[int, list[Outcome]], None],
        advanced: Callable[[float], None],
        stop: Callable[[], bool],
    ) -> None:
        """Carry runs out, as :class:`Executor` says."""
        with with_threads(self._threads):
            for number, (asked, runs) in enumerate(groups_of(lists)):
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
            watch=_telling(1, advanced),
            checkpoint=asked.states,
            checkpoint_seconds=asked.checkpoint_seconds,
            stop=stop,
            until=asked.until,
            examples=None if asked.examples is None else asked.examples[each.identity],
            keep=asked.keep,
        )
        for each in runs
    ]


def as_lanes(
    runs: Sequence[Run], asked: RunList, *, stop: Callable[[], bool], advanced: Callable[[float], None]
) -> list[Outcome]:
    """Train a group's runs side by side, as one program."""
    return run_lanes(
        runs, asked.problem, asked.workload, chunk=len(runs),
        watch=_telling(len(runs), advanced, asked.evaluated), checkpoint=asked.states,
        checkpoint_seconds=asked.checkpoint_seconds, stop=stop, eliminate=asked.eliminate,
        examples=asked.examples, keep=asked.keep,
    )  # fmt: skip


def _telling(
    runs: int, advanced: Callable[[float], None], evaluated: Evaluated | None = None
) -> Callable[[LaneProgress], None]:
    """Hand on what is told of so many runs side by side."""
    done = 0.0

    def watch(progress: LaneProgress) -> None:
        nonlocal done
        now = float(progress.step * runs)
        advanced(now - done)
        done = now
        if evaluated is not None and progress.validation:
            evaluated(progress.step, progress.validation)

    return watch
