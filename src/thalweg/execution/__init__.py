"""Where and how runs are carried out: here, in other processes, as lanes; chosen by measuring, journaled.

A second-order method takes batches of its own size and as many passes as it needs. At each evaluation, and
at the end, stands what it had reached within the compute up to there: ``Outcome.steps`` are steps of the
plan, ``Outcome.updates`` those of the optimizer. What can't take one step within a run is refused, or left
out of ``--optimizers all`` and named.
"""

from __future__ import annotations

from thalweg.execution import loop
from thalweg.execution.choose import Choice, choose, choose_once
from thalweg.execution.execution import Elimination, Execution, Request
from thalweg.execution.executors import (
    Executor,
    RunList,
    SequentialExecutor,
    Train,
    as_lanes,
    groups_of,
    one_by_one,
)
from thalweg.execution.journal import Journal
from thalweg.execution.pool import ProcessPool, not_portable, portable
from thalweg.execution.states import States
from thalweg.execution.timing import measured_passes, step_seconds

__all__ = [
    "Choice",
    "Elimination",
    "Execution",
    "Executor",
    "Journal",
    "ProcessPool",
    "Request",
    "RunList",
    "SequentialExecutor",
    "States",
    "Train",
    "as_lanes",
    "choose",
    "choose_once",
    "groups_of",
    "loop",
    "measured_passes",
    "not_portable",
    "one_by_one",
    "portable",
    "step_seconds",
]
