"""Each strategy against what it says: closed forms, plain loops, and torch where torch has it."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import thalweg
from strategies.trainer import Standing
from thalweg.errors import ModelError, OptionError
from thalweg.strategies import (
    Augmentation,
    Averaging,
    BatchSize,
    Clipping,
    EarlyStopping,
    Guard,
    Initialization,
    ReduceOnPlateau,
    Scores,
    Snapshots,
    Strategy,
    build,
    in_order,
    names,
    rate_range_test,
    stopping_point,
    trouble,
)
from thalweg.strategies.table import STRATEGIES

NEEDED: dict[str, dict[str, float]] = {
    "clipping": {"norm": 1.0},
    "augmentation": {"rotate": 10.0},
}


def scores(step: int, value: float | None) -> Scores:
    return Scores(step=step, loss=value, metric=value, higher_is_better=False)


def test_every_strategy_has_settings_as_its_arguments_and_a_priority() -> None:
    for name, (kind, settings) in STRATEGIES.items():
        made = build(name, settings(**NEEDED[name]) if name in NEEDED else None)
        assert made.name == name == kind.name
        assert isinstance(made.settings, settings)
    priorities = [kind.priority for kind, _ in STRATEGIES.values()]
    assert priorities == sorted(priorities)
    assert len(set(priorities)) == len(priorities)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Clipping(), "clipping: no bound is given"),
        (lambda: Augmentation(), "augmentation: nothing is on"),
        (lambda: Augmentation(rotate=10, chance=0), "augmentation: nothing is on"),
        (lambda: Augmentation(crop=1.2), "augmentation: crop is 1.2, but must be less than or equal to 1"),
        (lambda: Augmentation(black=2.0, white=1.0, rotate=1), "white must be the larger one"),
        (lambda: Clipping(norm=-1.0), "clipping: norm is -1.0, but must be greater than 0"),
        (lambda: Averaging(decay=1.0), "averaging: decay is 1.0"),
        (lambda: Initialization(k=3), "k is for the schemes sparse"),
        (lambda: in_order([ReduceOnPlateau(), ReduceOnPlateau()]), "'plateau' is given twice"),
        (lambda: build("averging"), "did you mean 'averaging'"),
    ],
)
def test_what_is_refused(make: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        make()


def test_early_stopping_against_the_definition() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        series = random.normal(size=30).tolist()
        patience = int(random.integers(1, 6))
        best, end = stopping_point(series, patience=patience)
        for n in range(30):
            first = int(np.argmin(series[: n + 1]))
            if n - first >= patience:
                assert (best, end) == (first, n)
                break
        else:
            assert (best, end) == (int(np.argmin(series)), None)


@pytest.mark.parametrize("higher", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_a_score_that_beats_the_best_by_the_threshold_alone_is_not_better(
    higher: bool, threshold: float
) -> None:
    best = 1.0 if higher else -1.0
    stopping = EarlyStopping(patience=2, threshold=threshold)
    assert not stopping.observe(best, higher_is_better=higher, step=0)
    assert not stopping.observe(best + (threshold if higher else -threshold), higher_is_better=higher, step=1)
    assert stopping.observe(best, higher_is_better=higher, step=2)
    assert stopping.best_step == 0


def test_early_stopping_watches_only_what_is_measured() -> None:
    stage = Standing()
    stage.measured = {"loss"}
    with pytest.raises(OptionError, match="early-stopping watches the validation metric, which nobody"):
        EarlyStopping().attach(stage)
    EarlyStopping(watch="loss").attach(stage)


def test_plateau_is_torchs_for_losses() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2, factor=0.5)
    ours, stage = ReduceOnPlateau(patience=2, decay=0.5), Standing()
    for step, loss in enumerate(np.random.default_rng(1).uniform(0.5, 1, 60).tolist()):
        if step > 0:
            theirs.step(loss)
        ours.at_evaluation(stage, scores(step, loss))
        assert ours.rate_factor() == pytest.approx(optimizer.param_groups[0]["lr"])
    assert ours.rate_factor() < 0.1


def test_plateau_does_not_count_the_start() -> None:
    """Its loss would be the best one of a training that gets worse at first, by a high rate."""
    plateau, stage = ReduceOnPlateau(patience=0, decay=0.5), Standing()
    for step, loss in enumerate([0.1, 0.9, 0.8, 0.7]):
        plateau.at_evaluation(stage, scores(step, loss))
    assert plateau.rate_factor() == 1.0


@pytest.mark.parametrize(
    ("steps", "percent", "every"),
    [(10, 50, 1), (10, 30, 1), (10, 50, 3), (10, 0, 1), (10, 99, 1), (100, 57, 1), (100, 57, 4), (7, 50, 2)],
)
def test_a_tail_begins_after_its_share_of_the_run(steps: int, percent: int, every: int) -> None:
    """Of 10 steps and tail = 0.5 the average is of steps 6 to 10, those beyond half of the run."""
    stage = Standing(steps=steps)
    tail = percent / 100
    averaging = Averaging(kind="tail", tail=tail, every=every)
    averaging.attach(stage)
    points = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            stage.model.weight.fill_(float(step))
        averaging.after_step(stage)
        if (step - 1) % every == 0:
            points.append(step)
    beyond = [step for step in points if 100 * step > percent * steps] or points[-1:]
    with averaging.evaluation_weights(stage):
        assert stage.model.weight[0, 0].item() == pytest.approx(np.mean(beyond))


@pytest.mark.parametrize("higher", [False, True])
def test_plateau_goes_on_after_a_first_infinity(higher: bool) -> None:
    plateau, sign = ReduceOnPlateau(patience=1), -1.0 if higher else 1.0
    seen = [math.inf, 5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0]
    assert [plateau.observe(sign * score, higher_is_better=higher) for score in seen] == [1.0] * 7 + [0.1]


def test_averaging_is_the_mean_of_the_points_and_gives_them_back() -> None:
    stage = Standing()
    points = []
    averaging = Averaging(kind="uniform", every=2)
    averaging.attach(stage)
    for step in range(6):
        with torch.no_grad():
            stage.model.weight.normal_()
        averaging.after_step(stage)
        if step % 2 == 0:
            points.append(stage.model.weight.detach().clone())
    last = stage.model.weight.detach().clone()
    with averaging.evaluation_weights(stage):
        torch.testing.assert_close(stage.model.weight.detach(), torch.stack(points).mean(0))
    assert torch.equal(stage.model.weight, last)
    averaging.finished(stage)
    torch.testing.assert_close(stage.model.weight.detach(), torch.stack(points).mean(0))


def test_averaging_estimates_batch_norm_anew() -> None:
    stage = Standing(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    averaging = Averaging()
    averaging.attach(stage)
    averaging.after_step(stage)
    with averaging.evaluation_weights(stage):
        linear, norm = stage.model
        torch.testing.assert_close(norm.running_mean, linear(torch.ones(4, 2)).mean(0).detach())


@pytest.mark.parametrize("shape", ["exponential", "linear", "doubling"])
@pytest.mark.parametrize("growth", [8.0, 0.25, 1.0, 5.0])
def test_batches_grow_from_one_to_the_growth(shape: Any, growth: float) -> None:
    sizes = BatchSize(growth=growth, shape=shape)
    factors = [sizes.batch_factor(share) for share in np.linspace(0, 1, 101)]
    assert factors[0] == 1.0
    assert factors[-1] == pytest.approx(growth)
    steps = np.diff(factors)
    assert (steps >= 0).all() if growth >= 1 else (steps <= 0).all()


@pytest.mark.parametrize(
    ("growth", "levels"),
    [(8.0, [1, 2, 4, 8]), (6.0, [1, 2, 4, 6]), (2.0, [1, 2]), (0.25, [1, 0.5, 0.25]), (0.3, [1, 0.5, 0.3])],
)
def test_a_doubling_batch_keeps_each_size_for_an_equal_time(growth: float, levels: list[float]) -> None:
    strategy = BatchSize(growth=growth, shape="doubling")
    n = len(levels)
    for number, level in enumerate(levels):
        for within in (1e-9, 0.5, 1 - 1e-9):
            assert strategy.batch_factor((number + within) / n) == level
    assert strategy.batch_factor(1.0) == levels[-1]


def test_the_guard_goes_back_slower_and_at_last_stops() -> None:
    stage = Standing()
    guard = Guard(every=2, attempts=2, lower=0.1)

    def step(loss: float) -> None:
        stage.skipped = False
        guard.before_step(stage)
        stage.loss = torch.tensor(loss)
        guard.after_backward(stage)
        if not stage.skipped:
            with torch.no_grad():
                stage.model.weight.add_(1.0)
        stage.updates += 1

    begun = stage.model.weight.detach().clone()
    for _ in range(3):
        step(1.0)
    assert guard.rate_factor() == 1.0
    step(float("nan"))
    assert stage.skipped
    assert guard.rate_factor() == pytest.approx(0.1)
    torch.testing.assert_close(stage.model.weight.detach(), begun + 2)
    assert "back to the state of step 2" in stage.notes[0]
    step(11.0)
    assert guard.rate_factor() == pytest.approx(0.01)
    assert stage.stopped is None
    step(float("inf"))
    assert stage.failed
    assert "the weights are those of step 2" in str(stage.stopped)
    torch.testing.assert_close(stage.model.weight.detach(), begun + 2)


@pytest.mark.parametrize("first", [0.2, 2.3, -2.3, 50.0])
def test_a_loss_is_trouble_over_the_bound_times_the_first(first: float) -> None:
    for sign in (1, -1):
        assert trouble(sign * 9.9 * abs(first), first, 10.0) is None
        assert "over 10 times the first" in str(trouble(sign * 10.1 * abs(first), first, 10.0))


def test_a_gradient_that_is_not_finite_is_trouble() -> None:
    assert trouble(1.0, 1.0, 10.0, [torch.tensor([math.inf])]) == "the gradient's norm is inf"


def test_clipping_refuses_searches() -> None:
    with pytest.raises(OptionError, match="clipping doesn't go with SGD"):
        Clipping(norm=1.0).attach(Standing(step_kind="closure"))


def test_snapshots_at_the_ends_of_cycles() -> None:
    stage, snapshots = Standing(steps=9), Snapshots(cycles=3, keep=2)
    for step in range(1, 10):
        stage.progress = step / 9
        with torch.no_grad():
            stage.model.bias.fill_(step)
        snapshots.after_step(stage)
    assert snapshots.taken.steps == [6, 9]
    assert [float(state["bias"]) for state in snapshots.states()] == [6.0, 9.0]


def test_initialization_begins_at_the_marginals() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    targets = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    start = Initialization(scheme="he", output_bias=True)
    start.apply(model, seed=1, targets=targets, activation="softmax")
    shares = model(torch.randn(500, 4)).softmax(1).mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.02, rtol=0)
    with pytest.raises(ModelError, match="no output layer"):
        start.apply(nn.Linear(2, 3, bias=False), seed=1, targets=targets, activation="softmax")


def test_a_range_test_finds_the_stable_rates_of_a_quadratic() -> None:
    """Gradient descent on ``(a*w)**2 / 2`` is stable for rates below ``2 / a**2``."""
    curvature = 4.0
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.ones_(model.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    test = rate_range_test(
        model,
        [(torch.full((1, 1), math.sqrt(curvature)).double(), torch.zeros(1, 1).double())],
        lambda outputs, targets: outputs.square().mean() / 2,
        optimizer,
        lowest=1e-4, highest=100.0, steps=400, smoothing=0.0,
    )  # fmt: skip
    assert test.largest < 2 / curvature * 1.1
    assert test.ended.startswith("the loss exploded")
    assert model.weight.item() == 1.0
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.1


@pytest.mark.parametrize(("highest", "ends"), [(30.0, "the loss exploded"), (0.1, "the highest rate was")])
def test_a_range_test_is_a_training_with_rates_in_a_geometric_row(highest: float, ends: str) -> None:
    """By torch alone: all rates grow, a group's in its own ratio; losses smoothed as Adam smooths."""

    def begun() -> tuple[nn.Sequential, torch.optim.Optimizer]:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.4}]
        return model, torch.optim.SGD(groups, lr=0.1)

    generator = torch.Generator().manual_seed(4)
    batches = [torch.randn(2, 6, 2, generator=generator, dtype=torch.float64) for _ in range(3)]
    pairs = [(x, 0.2 * y[:, :1]) for x, y in batches]
    model, optimizer = begun()
    found = rate_range_test(
        model, pairs, nn.functional.mse_loss, optimizer,
        lowest=1e-3, highest=highest, steps=20, bound=3.0, smoothing=0.6,
    )  # fmt: skip

    model, optimizer = begun()
    losses: list[float] = []
    smoothed: list[float] = []
    rates = np.geomspace(1e-3, highest, 20)
    for number, rate in enumerate(rates):
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = rate, 4 * rate
        optimizer.zero_grad()
        x, y = pairs[number % 3]
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        losses.append(loss.item())
        shares = 0.6 ** np.arange(number, -1, -1)
        smoothed.append(float(shares @ losses / shares.sum()))
        if smoothed[-1] > 3.0 * min(smoothed):
            break
        optimizer.step()
    np.testing.assert_allclose(found.rates, rates[: len(losses)], rtol=1e-12)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-9)
    np.testing.assert_allclose(found.smoothed, smoothed, rtol=1e-9)
    assert found.ended.startswith(ends)
    assert (len(losses) < 20) == (highest == 30.0)


class Recording(Strategy):
    """Writes down where it is called."""

    name, priority = "recording", 1

    def __init__(self, calls: list[str]) -> None:
        self.calls, self.settings = calls, thalweg.strategies.Settings()

    def attach(self, trainer: Any) -> None:
        self.calls.append("attach")

    def before_training(self, trainer: Any) -> None:
        self.calls.append("before_training")

    def batch_factor(self, progress: float) -> float:
        self.calls.append("batch_factor")
        return 1.0

    def rate_factor(self) -> float:
        self.calls.append("rate_factor")
        return 1.0

    def batch(self, trainer: Any, inputs: Any, targets: Any, keys: Any) -> Any:
        self.calls.append("batch")
        return inputs, targets

    def before_step(self, trainer: Any) -> None:
        self.calls.append("before_step")

    def after_backward(self, trainer: Any) -> None:
        self.calls.append("after_backward")

    def after_step(self, trainer: Any) -> None:
        self.calls.append("after_step")

    def evaluation_weights(self, trainer: Any) -> Any:
        self.calls.append("evaluation_weights")
        return super().evaluation_weights(trainer)

    def at_evaluation(self, trainer: Any, scores: Scores) -> None:
        self.calls.append("at_evaluation")

    def finished(self, trainer: Any) -> None:
        self.calls.append("finished")

    def state_dict(self) -> dict[str, Any]:
        self.calls.append("state_dict")
        return {}

    def load_state_dict(self, state: Any) -> None:
        self.calls.append("load_state_dict")


HOOKS = [
    name for name, value in vars(Strategy).items() if callable(value) and not name.startswith("_")
]  # fmt: skip


def of_the_page() -> list[str]:
    """Return the hooks in the order in which they stand in the pseudocode of ``strategies/base.py``."""
    return list(dict.fromkeys(re.findall(r"\bstrategy\.(\w+)\(", thalweg.strategies.base.__doc__ or "")))


def test_every_hook_stands_in_the_page_and_the_page_has_no_other() -> None:
    assert sorted(of_the_page()) == sorted(HOOKS)


def test_the_loop_calls_hooks_in_the_order_of_the_page(tmp_path: Path) -> None:
    calls: list[str] = []
    x, y = torch.randn(8, 2), torch.randn(8)

    def train(**more: Any) -> None:
        thalweg.fit(
            nn.Linear(2, 1), (x, y), "mse", "sgd", strategies=[Recording(calls)], steps=2, batch_size=8,
            evaluations=2, hyperparameters={"lr": 0.1}, out=tmp_path / "run", checkpoint_seconds=0, **more,
        )  # fmt: skip

    train()
    seen = ["evaluation_weights", "at_evaluation", "state_dict"]
    step = ["batch_factor", "rate_factor", "batch", "before_step", "after_backward", "after_step"]
    # the last state is saved before what is done at the end
    called = [name for name in calls if name != "state_dict"]
    once = [*step, *seen[:2]]
    assert called == ["attach", "before_training", *seen[:2], *once, *once, "finished"]
    order = [*dict.fromkeys(calls)]
    assert order == [name for name in of_the_page() if name != "load_state_dict"]
    calls.clear()
    train(resume=True)
    assert calls[:2] == ["attach", "load_state_dict"]
    assert "before_training" not in calls


def test_names() -> None:
    assert set(names()) == set(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_its_settings_are_its_arguments(name: str) -> None:
    kind, settings = STRATEGIES[name]
    arguments = inspect.signature(kind).parameters
    assert {each: one.default for each, one in arguments.items() if one.default is not one.empty} == {
        each: field.default for each, field in settings.model_fields.items() if not field.is_required()
    }
    assert list(arguments) == list(settings.model_fields)
    with pytest.raises(OptionError, match=f"{name} has no setting 'nothing'"):
        kind(nothing=1)
