"""Several processes give what one gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lanes.small import entries, prepared, runs, workload
from thalweg import models
from thalweg.errors import Interrupted, OptionError
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
