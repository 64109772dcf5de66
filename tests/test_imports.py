"""What importing, asking for help and training in other processes must not import: it takes seconds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

import forking
from small import prepared, problem, runs, workload
from thalweg.execution import ProcessPool, RunList, as_lanes
from thalweg.layers import models
from thalweg.run.spec import Outcome, Run

TRAINING = ["bokeh", "pandas", "PIL", "polars", "scipy.stats", "sklearn", "torch._dynamo"]
TRAINING += ["torch.distributed.tensor", "sympy", "optuna", "kornia"]
_STEP = """
import torch
from thalweg import optim
w = torch.nn.Parameter(torch.ones(2))
one = optim.{0}([w])
def closure():
    one.zero_grad()
    loss = (w**2).sum()
    loss.backward()
    return loss
one.step(closure)
one.load_state_dict(one.state_dict())
"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import thalweg", ["torch", "numpy", "pydantic", "scipy", *TRAINING]),
        ("from thalweg.commands.app import run; run(['--help'])", ["torch", "numpy", "scipy", *TRAINING]),
        # a race needs statistics at once, and the report at its end alone
        ("import thalweg.commands.verbs", [each for each in TRAINING if each != "scipy.stats"]),
        ("import thalweg.execution.pool", ["numba", "scipy", *TRAINING]),
        # started before anything is imported
        ("import thalweg.run.workers", ["torch", "numpy", "scipy", *TRAINING]),
        (_STEP.format("Adam"), TRAINING),
        (_STEP.format("LBFGS"), [each for each in TRAINING if each != "scipy.stats"]),
    ],
)
def test_what_is_heavy_is_imported_when_it_is_needed(code: str, absent: Sequence[str]) -> None:
    program = f"import sys\n{code}\nprint('there:', *(name for name in {absent!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.splitlines()[-1].strip() == "there:"


def lanes_without_what_is_heavy(
    runs: Sequence[Run],
    asked: RunList,
    *,
    stop: Callable[[], bool],
    advanced: Callable[[float], None],
) -> list[Outcome]:
    """Train lanes in a worker, and fail where it has imported too much."""
    outcomes = as_lanes(runs, asked, stop=stop, advanced=advanced)
    there = [name for name in TRAINING if name in sys.modules]
    assert there == []
    return outcomes


def test_a_worker_imports_what_lanes_need_alone() -> None:
    ended: list[int] = []
    asked = RunList(
        train=lanes_without_what_is_heavy, groups=[runs(2, names=["sgd"]), runs(2, names=["adam"])],
        problem=problem(models.factory("mlp:2"), prepared()), workload=workload(epochs=1),
    )  # fmt: skip
    with forking.imported_as_outside(), ProcessPool(2) as workers:
        workers.carry_out(
            [asked],
            ended=lambda number, outcomes: ended.append(number),
            advanced=lambda steps: None,
            stop=lambda: False,
        )
    assert sorted(ended) == [0, 1]
