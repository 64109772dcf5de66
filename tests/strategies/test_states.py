"""A strategy that is saved and loaded at any point goes on as if nothing had been."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch

from strategies.trainer import Standing
from thalweg.strategies import Scores, build
from thalweg.strategies.table import STRATEGIES

STEPS = 16
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "initialization": [{}],
    "augmentation": [{"rotate": 10.0}],
    "guard": [{"every": 3, "attempts": 4, "bound": 5.0}],
    "clipping": [{"norm": 0.5}],
    "batch-size": [{"growth": 4.0}],
    "averaging": [{"kind": "tail", "tail": 0.4}, {"kind": "exponential", "decay": 0.7, "every": 3}],
    "snapshots": [{"cycles": 3}, {"cycles": 5, "keep": 2}],
    "plateau": [{"patience": 0, "cooldown": 2}, {"patience": 1, "decay": 0.5, "watch": "metric"}],
    "early-stopping": [{"patience": 3}, {"patience": 4, "watch": "loss", "restore": False}],
}
RUNS = [(name, settings) for name, many in SETTINGS.items() for settings in many]


def train_loop(strategy: Any, stage: Standing, step: int, seed: int) -> list[Any]:
    """Take one step with draws that depend on seed and step alone; return all that can be seen of it."""
    draws = random.Random(1000 * seed + step)
    # few values, so that equal ones occur, and a few that aren't finite
    loss = draws.choice([1.0, 1.0, 0.9, 0.8, 0.7, 20.0, float("nan")] if step else [1.0])
    stage.skipped = False
    strategy.before_step(stage)
    stage.loss = torch.tensor(loss)
    for p in stage.model.parameters():
        p.grad = torch.full_like(p, draws.gauss(0, 1))
    strategy.after_backward(stage)
    gradients = [p.grad.tolist() for p in stage.model.parameters() if p.grad is not None]
    if not stage.skipped:
        with torch.no_grad():
            for p in stage.model.parameters():
                p.add_(draws.gauss(0, 1))
        stage.updates += 1
    stage.progress = (step + 1) / STEPS
    if not stage.skipped:
        strategy.after_step(stage)
    with strategy.evaluation_weights(stage):
        shown = [p.tolist() for p in stage.model.parameters()]
        score = None if loss != loss else loss
        strategy.at_evaluation(stage, Scores(step=step, loss=score, metric=score, higher_is_better=False))
    return [
        strategy.rate_factor(), strategy.batch_factor(stage.progress), gradients, shown,
        [p.tolist() for p in stage.model.parameters()], list(stage.notes), stage.stopped,
    ]  # fmt: skip


def end(strategy: Any, stage: Standing) -> list[Any]:
    strategy.finished(stage)
    taken = strategy.states() if hasattr(strategy, "states") else []
    return [
        [p.tolist() for p in stage.model.parameters()], list(stage.notes),
        [{name: value.tolist() for name, value in state.items()} for state in taken],
    ]  # fmt: skip


def test_every_strategy_is_among_them() -> None:
    assert set(SETTINGS) == set(STRATEGIES)


@pytest.mark.parametrize(("name", "settings"), RUNS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(RUNS)])
@pytest.mark.parametrize("seed", range(3))
def test_a_loaded_strategy_goes_on_as_if_nothing_had_been(
    name: str, settings: dict[str, Any], seed: int
) -> None:
    def begun() -> tuple[Any, Standing]:
        stage = Standing(steps=STEPS)
        strategy = build(name, STRATEGIES[name][1](**settings))
        strategy.attach(stage)
        return strategy, stage

    strategy, stage = begun()
    seen, kept = [], []
    for step in range(STEPS):
        kept.append(copy.deepcopy((strategy.state_dict(), stage.__dict__)))
        seen.append(train_loop(strategy, stage, step, seed))
    last = end(strategy, stage)
    for cut in range(1, STEPS):
        strategy, stage = begun()
        state, around = copy.deepcopy(kept[cut])
        stage.model.load_state_dict(around.pop("model").state_dict())
        around.pop("optimizer")
        stage.__dict__.update(around)
        strategy.load_state_dict(state)
        for step in range(cut, STEPS):
            assert repr(train_loop(strategy, stage, step, seed)) == repr(seen[step]), (cut, step)
        assert repr(end(strategy, stage)) == repr(last), cut
