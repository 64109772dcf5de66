"""What can be sent to another process, and what can't."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from small import entries, prepared, problem, runs, workload
from thalweg.errors import OptionError
from thalweg.execution import ProcessPool, RunList, not_portable, one_by_one, portable
from thalweg.layers import models
from thalweg.run.objective import Objective


def here(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Linear(2, outputs)


def test_what_cannot_be_sent_is_said() -> None:
    assert portable(factory=here, data=prepared(), entries=entries()) is None
    local = portable(factory=lambda shape, outputs: here(shape, outputs))
    assert local == "the factory can't be sent to another process, since it isn't importable by name"
    here.__module__, before = "__main__", here.__module__
    try:
        import __main__

        __main__.here = here
        assert "defined in the main script" in (portable(factory=here) or "")
    finally:
        del __main__.here
        here.__module__ = before


@pytest.mark.parametrize("what", ["factory", "loss", "metric", "optimizers"])
def test_every_part_of_a_problem_has_to_be_importable(what: str) -> None:
    fine = problem(models.factory("mlp:8"), prepared())
    assert not_portable(fine) is None
    parts: dict[str, Any] = {
        "factory": lambda shape, outputs: here(shape, outputs),
        "loss": lambda outputs, targets: outputs.sum(),
        "metric": lambda outputs, targets: 0.0,
        "optimizers": {"own": lambda parameters: None},
    }
    part = {what: parts[what]}
    if what in ("loss", "metric"):
        part = {"objective": Objective(**{"loss": "mse", "metric": "rmse", **part})}
    said = not_portable(replace(fine, **part))
    named = what.replace("optimizers", "optimizer own")
    assert said == f"the {named} can't be sent to another process, since it isn't importable by name"


class Memory:
    """Keeps states in this process alone."""

    def __init__(self) -> None:
        self.load = lambda chunk: None

    def save(self, chunk: str, state: dict[str, Any]) -> None:
        raise AssertionError(chunk)


@pytest.mark.parametrize("what", ["factory", "states", "keep", "elimination", "way to train"])
def test_workers_refuse_what_cannot_be_sent_before_they_start(what: str) -> None:
    fine = problem(models.factory("mlp:8"), prepared())
    local = replace(fine, factory=lambda shape, outputs: here(shape, outputs))

    def never(*given: Any, **more: Any) -> Any:
        raise AssertionError("nothing is trained")

    task = RunList(
        train=never if what == "way to train" else one_by_one, groups=[runs(1)],
        problem=local if what == "factory" else fine, workload=workload(),
        states=Memory() if what == "states" else None, keep=never if what == "keep" else None,
        eliminate=never if what == "elimination" else None,
    )  # fmt: skip

    with ProcessPool(2) as workers:
        with pytest.raises(
            OptionError,
            match=f"the {what.replace('optimizers', 'optimizer own')} can't be sent .*; use one process",
        ):
            workers.carry_out([task], ended=never, advanced=never, stop=never)
        assert workers._pool is None


ANYBODYS = """
import multiprocessing, signal
from small import prepared, problem, runs, workload
from thalweg.layers import models
from thalweg.run.objective import Objective
from thalweg.execution import RunList, ProcessPool, one_by_one

def mask(answer):
    answer.put(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))

if __name__ == "__main__":
    with ProcessPool(2) as workers:
        workers.carry_out(
            [RunList(
                train=one_by_one, groups=[[run] for run in runs(2, names=["sgd"])],
                problem=problem(models.factory("mlp:2"), prepared()), workload=workload(epochs=1),
            )],
            ended=lambda number, outcomes: None, advanced=lambda steps: None, stop=lambda: False,
        )
    context = multiprocessing.get_context("forkserver")
    answer = context.Queue()
    child = context.Process(target=mask, args=(answer,))
    child.start()
    print(answer.get(timeout=60))
    child.join()
"""


@pytest.mark.slow
def test_processes_of_anybody_else_hear_signals(tmp_path: Path) -> None:
    script = tmp_path / "anybodys.py"
    script.write_text(ANYBODYS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.strip() == "[]"
