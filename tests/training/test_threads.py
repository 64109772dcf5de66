"""How many threads a training takes: by sizes, written down, replayed, and given back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from thalweg import recipe
from thalweg.commands import verbs
from thalweg.errors import Interrupted, UserError
from thalweg.recipe import run as recipe_run
from thalweg.run.threads import with_threads
from thalweg.training.thread_count import largest_product, threads_for
from thalweg.training.watch import Evaluation, SilentTrainingWatcher

RECIPE = """
data.spec = "iris"
model.spec = "linear"
optimizer = {name = "adam", lr = 0.1}
training = {batch_size = 16, epochs = 3}
"""


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


class Seen(SilentTrainingWatcher):
    """Notes the threads at each evaluation, and what is said."""

    def __init__(self, raises: BaseException | None = None) -> None:
        self.threads: list[int] = []
        self.heard: list[str] = []
        self._raises = raises

    def note(self, text: str) -> None:
        self.heard.append(text)

    def evaluated(self, evaluation: Evaluation, best: Evaluation | None) -> None:
        self.threads.append(torch.get_num_threads())
        if self._raises is not None and len(self.threads) > 1:
            raise self._raises


def test_the_largest_product_is_that_of_the_formula() -> None:
    """2 m n k of a matrix product; of a convolution for each place, likewise of each step of a recurrence."""
    layers = nn.Sequential(nn.Linear(10, 20), nn.Dropout(), nn.Linear(20, 7))
    assert largest_product(layers, torch.zeros(8, 10)) == 2 * 8 * 10 * 20
    convolution = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
    assert largest_product(convolution, torch.zeros(2, 3, 6, 5)) == 2 * 2 * 6 * 5 * 3 * 4 * 9
    assert convolution[1].num_batches_tracked == 0
    assert largest_product(nn.LSTM(5, 6, batch_first=True), torch.zeros(2, 7, 5)) >= 2 * 2 * 7 * 4 * 6 * 6


def test_threads_follow_sizes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    small, wide = nn.Linear(64, 64), nn.Linear(1024, 1024)
    assert threads_for(small, torch.zeros(64, 64), 64) == 1
    # 2 * 64 * 1024 * 1024 operations are 16 times as many as one thread is worth
    assert [threads_for(wide, torch.zeros(64, 1024), most) for most in (1, 2, 64)] == [1, 2, 16]
    # many parameters that one example meets: the optimizer's step
    assert threads_for(nn.Embedding(3 * 2**18, 16), torch.zeros(4, dtype=torch.long), 64) == 12
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_for(small, torch.zeros(64, 64), 5) == 5


def test_a_model_that_cannot_be_watched_keeps_all_threads() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("only while training")

    assert threads_for(Odd(), torch.zeros(1), 3) == 3


def test_a_small_model_is_trained_on_one_thread_which_is_written_down_and_given_back(tmp_path: Path) -> None:
    seen = Seen()
    with with_threads(3):
        verbs.train(recipe.loads(RECIPE), out=tmp_path / "run", watcher=seen)
        assert torch.get_num_threads() == 3
    assert set(seen.threads) == {1}
    assert "training on one thread of 3: more threads would have too little to do in a step" in seen.heard
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["threads"] == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("no")])
def test_a_resume_replays_the_choice_and_errors_give_threads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Also one before the first checkpoint, when there is no state that would say it."""
    monkeypatch.setattr(recipe_run, "threads_for", lambda model, inputs, most: 2)
    out, first, second = tmp_path / "run", Seen(error), Seen()
    with with_threads(3):
        with pytest.raises((Interrupted, UserError)):
            verbs.train(recipe.loads(RECIPE), out=out, watcher=first, checkpoint_seconds=1e6)
        assert torch.get_num_threads() == 3
    monkeypatch.setattr(recipe_run, "threads_for", lambda model, inputs, most: pytest.fail("chosen anew"))
    with with_threads(1):
        verbs.train(None, out=out, resume=True, watcher=second)
        assert torch.get_num_threads() == 1
    assert set(first.threads) | set(second.threads) == {2}


def test_members_one_after_another_are_trained_so_too(tmp_path: Path) -> None:
    seen: list[int] = []
    text = RECIPE + 'ensemble = {members = 2, engine = "loop"}\n'
    hook = register_optimizer_step_post_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        with with_threads(3):
            verbs.train(recipe.loads(text), out=tmp_path / "run")
    finally:
        hook.remove()
    assert set(seen) == {1}
