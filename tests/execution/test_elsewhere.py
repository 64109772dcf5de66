"""Whoever wants runs done gets the same from an executor that carries them out elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import races
import thalweg
from elsewhere import Elsewhere
from thalweg.errors import Interrupted
from thalweg.training.watch import TrainingProgress, TrainingWatcher

SWEEP: dict[str, Any] = {
    "model": "mlp:4", "data": "iris", "settings": {"optimizer": ["adam", "sgd"], "lr": 0.03}, "seeds": 2,
    "epochs": 2, "batch_size": 16,
}  # fmt: skip


@pytest.fixture
def elsewhere(tmp_path: Path) -> Elsewhere:
    (tmp_path / "shared").mkdir()
    return Elsewhere(tmp_path / "shared")


@pytest.mark.parametrize("engine", ["lanes", "loop"])
def test_a_sweep(elsewhere: Elsewhere, engine: str) -> None:
    here = thalweg.sweep(**SWEEP, engine=engine)
    there = thalweg.sweep(**SWEEP, engine=engine, executor=elsewhere)
    assert len(elsewhere.trained) == (1 if engine == "lanes" else 4)
    assert there.table.equals(here.table)


@pytest.mark.parametrize("engine", ["lanes", "loop"])
def test_a_sweep_that_is_interrupted_there_goes_on_here(
    elsewhere: Elsewhere, engine: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    class Halted(Elsewhere):
        def carry_out(self, lists: Any, *, stop: Any, **told: Any) -> None:
            super().carry_out(lists, stop=lambda: True, **told)

    with pytest.raises(Interrupted, match="resume=True"):
        thalweg.sweep(**SWEEP, engine=engine, out=out, executor=Halted(tmp_path / "shared"))
    # the state was saved there
    assert any((out / "checkpoints").glob("*.pt"))
    again = thalweg.sweep(**SWEEP, engine=engine, out=out, resume=True)
    assert again.table.equals(thalweg.sweep(**SWEEP, engine=engine).table)
    assert not any((out / "checkpoints").glob("*.pt"))


@pytest.mark.parametrize(("kind", "eliminate"), [("lanes", False), ("lanes", True), ("loop", True)])
def test_a_race(
    elsewhere: Elsewhere, kind: str, eliminate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"eliminate": eliminate, "trials": 4}
    with races.engine(kind):
        monkeypatch.setenv("THALWEG_STATE_DIR", str(tmp_path / "state here"))
        here = races.run(tmp_path / "here", **changes)
        monkeypatch.setenv("THALWEG_STATE_DIR", str(tmp_path / "state there"))
        there = races.run(tmp_path / "there", executor=elsewhere, **changes)
    assert races.comparable(there) == races.comparable(here)
    # who is eliminated among lanes is decided while they run, which is here
    screened = [name for group in elsewhere.trained for name in group if re.search(r"/t\d\d$", name)]
    assert bool(screened) is not (eliminate and kind == "lanes")
    assert any(name.endswith("confirm0") for group in elsewhere.trained for name in group)


@pytest.mark.parametrize("out", [False, True])
def test_an_ensemble(elsewhere: Elsewhere, out: bool, tmp_path: Path) -> None:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    asked: dict[str, Any] = {
        "members": 3, "resample": True, "epochs": 2, "batch_size": 8, "validation": (x, y),
        "metric": "accuracy", "engine": "lanes",
    }  # fmt: skip
    here = thalweg.fit_ensemble("mlp:4", (x, y), "cross-entropy", "adam", **asked)
    place = tmp_path / "out" if out else None
    there = thalweg.fit_ensemble(
        "mlp:4", (x, y), "cross-entropy", "adam", **asked, out=place, executor=elsewhere
    )
    assert sorted(name for group in elsewhere.trained for name in group) == ["1", "2", "3"]
    for one, other in zip(here.models, there.models, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
    assert [member.curve for member in there.trained] == [member.curve for member in here.trained]


def test_members_with_strategies_are_trained_here(elsewhere: Elsewhere) -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    given = thalweg.fit_ensemble(
        "mlp:4", (x, x[:, :1]), "mse", "sgd", strategies={"averaging": {"decay": 0.9}}, members=2, epochs=1,
        executor=elsewhere,
    )  # fmt: skip
    assert len(given.models) == 2
    assert given.engine == "loop"
    assert elsewhere.trained == []


class Counting(TrainingWatcher):
    """Collects how far runs are said to be."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    def progress(self, progress: TrainingProgress) -> None:
        self.seen.append((progress.step, progress.steps))


@pytest.mark.parametrize("engine", ["lanes", "loop"])
def test_runs_under_way_are_told_of_and_counted_once(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.training.watch._SECONDS_BETWEEN", 0.0)
    watcher = Counting()
    thalweg.sweep(**SWEEP, engine=engine, watcher=watcher)
    steps = [step for step, _ in watcher.seen]
    assert steps == sorted(steps)
    assert watcher.seen[-1] == (4 * 10, 4 * 10)
    # more than the ends of four runs
    assert len(np.unique(steps)) > 10


@pytest.mark.parametrize("strategies", [{}, {"early-stopping": {"patience": 1}}])
def test_members_are_told_of_and_counted_once(
    strategies: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thalweg.training.watch._SECONDS_BETWEEN", 0.0)
    watcher = Counting()
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    # nothing can be learned, so that training stops early
    thalweg.fit_ensemble(
        "mlp:4", (x, torch.zeros(40, 1)), "mse", "sgd", strategies=strategies, members=3, epochs=4,
        batch_size=8, validation=(x, torch.ones(40, 1)), engine="auto" if strategies else "lanes",
        watcher=watcher, hyperparameters={"lr": 0.1},
    )  # fmt: skip
    steps = [step for step, _ in watcher.seen]
    assert steps == sorted(steps)
    assert {total for _, total in watcher.seen} == {3 * 20}
    assert watcher.seen[-1] == (60, 60)
