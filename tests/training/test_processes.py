"""Several processes give what one gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lanes.small import entries, prepared, runs, workload
from thalweg import lanes, models
from thalweg.errors import Interrupted, OptionError
from thalweg.execution.pool import Workers, run_chunks
from thalweg.run.spec import Outcome
from thalweg.training import portable, run_many


def common() -> dict[str, Any]:
    return {
        "factory": models.factory("mlp:8"),
        "prepared": prepared(),
        "workload": workload(),
        "catalogue_entries": entries(),
    }


def test_two_processes_give_the_outcomes_of_one_in_order() -> None:
    chosen, ended = runs(2, names=["sgd", "adam"]), []
    one = run_many(chosen, **common())
    two = run_many(chosen, processes=2, watch=lambda progress: ended.extend(progress.finished), **common())
    assert two == one
    assert sorted(outcome.identity for outcome in ended) == sorted(run.identity for run in chosen)


def test_each_end_is_told_once_in_one_process_too() -> None:
    chosen, ended = runs(2, names=["sgd", "adam"]), []
    found = run_many(chosen, watch=lambda progress: ended.extend(progress.finished), **common())
    assert ended == found


def test_workers_are_kept_and_take_chunks_of_lanes_too() -> None:
    chosen, given, steps = runs(2, names=["sgd", "adam"]), common(), []
    found: dict[int, list[Outcome]] = {}
    with Workers(2) as workers:
        loops = run_many(chosen, workers=workers, **given)
        again = run_many(chosen[:2], workers=workers, **{**given, "workload": workload(epochs=1)})
        run_chunks(
            [chosen[:2], chosen[2:], chosen[1:3]],
            workers=workers,
            ended=lambda number, outcomes: found.update({number: list(outcomes)}),
            advanced=steps.append,
            **given,
        )
    assert loops == run_many(chosen, **given)
    assert [one.steps[-1] for one in again] == [12, 12]
    alone = lanes.run(chosen, chunk=2, **given)
    for ours, theirs in zip([*found[0], *found[1], *found[2]], [*alone, *alone[1:3]], strict=True):
        assert ours.identity == theirs.identity
        assert ours.validation_loss == pytest.approx(theirs.validation_loss, rel=1e-4)
    assert 0 < sum(steps) <= 6 * 36


def test_chunks_that_are_stopped_are_an_interruption() -> None:
    with Workers(2) as workers, pytest.raises(Interrupted):
        run_chunks(
            [runs(1)[:1], runs(1)[1:2]],
            workers=workers,
            ended=lambda number, outcomes: None,
            stop=lambda: True,
            **common(),
        )


def test_threads_are_as_before_afterwards() -> None:
    before = torch.get_num_threads()
    run_many(runs(1)[:1], threads=before + 1, **common())
    assert torch.get_num_threads() == before


def test_a_stop_is_an_interruption() -> None:
    with pytest.raises(Interrupted):
        run_many(runs(1), stop=lambda: True, **common())


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
    with pytest.raises(OptionError, match="use one process"):
        run_many(runs(1), processes=2, **{**common(), "factory": lambda shape, outputs: here(shape, outputs)})
