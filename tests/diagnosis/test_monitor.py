"""``Monitor`` sees what it should, and leaves a training as it is, to the last bit."""

from __future__ import annotations

import copy
import math
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import thalweg
from thalweg.diagnosis import Monitor, monitor
from thalweg.errors import OptionError
from thalweg.training.fitting import fit


class Drawing(Dataset[tuple[Tensor, Tensor]]):
    """Draws from torch's global generator, as augmentation does."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.randn(6) + index % 3, torch.tensor(index % 3)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3),
        nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip


def optimizer_of(kind: str, model: nn.Module) -> torch.optim.Optimizer:
    if kind == "momentum":
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return torch.optim.Adam(model.parameters(), lr=0.01)


def loop(kind: str, *, watched: bool, none: bool = True) -> tuple[Any, ...]:
    model = net()
    optimizer = optimizer_of(kind, model)
    torch.manual_seed(1)
    watch = Monitor(model, optimizer, layers_every=2, noise_every=3, share=1.0)
    if watched:
        watch.__enter__()
    for _ in range(3):
        for inputs, targets in DataLoader(Drawing(), batch_size=10, shuffle=True):
            optimizer.zero_grad(set_to_none=none)
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            if watched:
                watch.step(loss)
    if watched:
        watch.__exit__(None, None, None)
        assert watch.report.steps == list(range(15))
        assert all(len(looks) > 3 for looks in watch.report.layers.values())
        assert watch.report.noise
    assert not any(part._forward_hooks for part in model.modules())
    gradients = [p.grad for p in model.parameters()]
    modes = [part.training for part in model.modules()]
    return model.state_dict(), optimizer.state_dict(), gradients, modes, torch.get_rng_state()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("kind", ["momentum", "adam"])
@pytest.mark.parametrize("none", [True, False])
def test_a_loop_of_ones_own_ends_with_the_same_bits(kind: str, none: bool) -> None:
    assert same(loop(kind, watched=True, none=none), loop(kind, watched=False, none=none))


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_fit_ends_with_the_same_bits(optimizer: str) -> None:
    def trained(*strategies: Any) -> Any:
        torch.manual_seed(2)
        fitted = fit(
            net(), Drawing(), "cross-entropy", optimizer, epochs=2, batch_size=8, strategies=list(strategies)
        )
        return fitted.model.state_dict(), torch.get_rng_state()

    watch = Monitor(layers_every=1, noise_every=1, share=1.0)
    assert same(trained(watch), trained())
    assert len(watch.report.gradients) == 12
    assert set(watch.report.layers) == {"2", "5"}


def test_norms_are_those_of_gradient_update_and_weights() -> None:
    model = nn.Linear(3, 2, bias=False)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with Monitor(model, optimizer, share=1.0) as watch:
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        assert model.weight.grad is not None
        gradient = float(model.weight.grad.norm())
        optimizer.step()
        # who takes the gradient away before saying so is seen all the same
        optimizer.zero_grad()
        watch.step(loss)
    report = watch.report
    assert report.gradients == pytest.approx([gradient])
    assert report.updates == pytest.approx([0.5 * gradient])
    assert report.weights == pytest.approx([float(before.norm())])
    assert report.losses == pytest.approx([float(loss.detach())])


def test_noise_is_the_variance_of_gradients_over_their_squared_mean() -> None:
    gradients = torch.tensor([[1.0, 2.0], [3.0, 1.0], [2.0, 6.0], [0.0, 3.0]], dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    model = nn.Module()
    model.weight = weight
    optimizer = torch.optim.SGD([weight], lr=0.0)
    with Monitor(model, optimizer, noise_every=1, share=1.0) as watch:
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
            watch.step(0.0)
    variance = float(gradients.var(0, correction=1).sum())
    signal = float(gradients.mean(0).square().sum()) - variance / 4
    assert watch.report.noise[-1] == pytest.approx(variance / signal)


def train(model: nn.Module, rate: float, steps: int = 12, **settings: Any) -> list[str]:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    inputs = torch.randn(64, 6)
    with Monitor(model, optimizer, share=1.0, **settings) as watch:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (model(inputs) - inputs[:, :3]).square().mean()
            loss.backward()
            optimizer.step()
            watch.step(loss)
    return [finding.code for finding in watch.report.findings]


def test_what_goes_wrong_is_named_by_the_same_codes() -> None:
    assert train(nn.Linear(6, 3), 0.1) == []
    assert train(nn.Linear(6, 3), 1e30)[:2] == ["learning-rate-high", "nonfinite-loss"]
    assert train(nn.Linear(6, 3), 1e-9) == ["learning-rate-low"]
    dead = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(dead[0].bias, -50.0)
    assert "dying-relu" in train(dead, 0.1)
    full = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    nn.init.normal_(full[0].weight, std=100.0)
    assert "saturation" in train(full, 0.01)
    deep = nn.Sequential(
        *[part for _ in range(8) for part in (nn.Linear(6, 6), nn.Sigmoid())], nn.Linear(6, 3)
    )
    assert "vanishing-gradient" in train(deep, 0.1)


def test_watching_that_takes_too_long_looks_more_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def clock() -> float:
        # each look at the clock is a second later, and a step of the loop takes none
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(monitor, "time", SimpleNamespace(perf_counter=clock))
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer) as watch:
        for _ in range(200):
            loss = model(torch.ones(4, 2)).square().mean()
            loss.backward()
            optimizer.step()
            watch.step(loss)
    assert watch.report.thinned > 8
    assert len(watch.report.steps) < 100
    assert "% of the time; it looked at every" in str(watch.report)


def test_copies_of_a_watched_model_are_unwatched() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, share=1.0) as watch:
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            copied(torch.ones(3, 2))
        assert watch.report.layers == {}
        model(torch.ones(3, 2))
        assert len(watch.report.layers["1"]) == 1
    assert not math.isnan(watch.report.share)


def test_bad_input() -> None:
    with pytest.raises(OptionError, match="give model and optimizer, or neither"):
        Monitor(nn.Linear(1, 1))
    with pytest.raises(OptionError, match="layers_every"):
        Monitor(layers_every=0)
    with pytest.raises(OptionError, match="has to give it model and optimizer"), Monitor():
        pass
    assert thalweg.diagnosis.Monitor is Monitor


# What a loop gets wrong -------------------------------------------------------------------------------------


def looped(model: nn.Module, optimizer: torch.optim.Optimizer, *, zero: int, steps: int = 30) -> Monitor:
    """Train with a gradient set to zero before (1), after (2) or between (3) forward and backward, or not."""
    draws = torch.Generator().manual_seed(0)
    with Monitor(model, optimizer, share=1.0) as watch:
        for _ in range(steps):
            inputs = torch.randn(16, 6, generator=draws)
            if zero == 1:
                optimizer.zero_grad()
            for half in inputs.chunk(2):
                loss = nn.functional.mse_loss(model(half), half[:, :3])
                if zero == 3 and half is not None and half.data_ptr() == inputs.data_ptr():
                    optimizer.zero_grad(set_to_none=False)
                # two passes back for one step are no fault
                loss.backward()
            optimizer.step()
            watch.step(loss)
            if zero == 2:
                optimizer.zero_grad()
    return watch


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_gradients_that_are_never_set_to_zero_are_told(zero: int) -> None:
    model = net()
    watch = looped(model, torch.optim.SGD(model.parameters(), lr=1e-3), zero=zero)
    titles = [f.title for f in watch.report.findings if f.severity == "error"]
    assert titles == ([] if zero else ["gradients of earlier steps are never set to zero"])
    assert not any(p._backward_hooks for p in model.parameters())


def test_an_optimizer_of_another_model_is_told() -> None:
    model, other = net(), net()
    watch = looped(model, torch.optim.SGD(other.parameters(), lr=1e-3), zero=1)
    assert [f.code for f in watch.report.findings if f.severity == "error"] == ["frozen"]
    # a part may be meant
    watch = looped(model, torch.optim.SGD(model[4].parameters(), lr=1e-2), zero=1)
    assert not [f for f in watch.report.findings if f.severity == "error"]


@pytest.mark.parametrize(
    ("losses", "code", "severity"),
    [
        # nothing was learnt yet, so that no rate is at fault
        ([math.nan, math.nan], "input-values", "error"),
        ([2.3, 2e4, 40.0, 2.6], "learning-rate-high", "risk"),
        ([2.3, 4.0, 3.0, 2.6], "", ""),
    ],
)
def test_what_a_loss_tells_of_the_rate(losses: list[float], code: str, severity: str) -> None:
    model = nn.Linear(2, 1)
    with Monitor(model, torch.optim.SGD(model.parameters(), lr=0.1), share=1.0) as watch:
        for loss in losses:
            watch.step(loss)
        watch.report.gradients = [1.0] * len(losses)
        watch.report.updates, watch.report.weights = [0.5] * len(losses), [1.0] * len(losses)
    found = [f for f in watch.report.findings if f.severity != "advice"]
    assert [(f.code, f.severity) for f in found[:1]] == ([(code, severity)] if code else [])
    assert not any(f.code == "learning-rate-high" for f in found) or code == "learning-rate-high"


def test_a_gradient_of_zero_is_no_low_rate() -> None:
    model = nn.Sequential(nn.Linear(6, 1), nn.Softmax(dim=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, share=1.0) as watch:
        for _ in range(5):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy(model(torch.randn(8, 6)), torch.zeros(8, 1))
            loss.backward()
            optimizer.step()
            watch.step(loss)
    assert [(f.code, f.severity) for f in watch.report.findings] == [("vanishing-gradient", "error")]


def test_it_looks_more_often_again_once_watching_is_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was dear in the beginning doesn't make it blind for the rest."""
    clock = {"now": 0.0}
    monkeypatch.setattr(monitor.time, "perf_counter", lambda: clock["now"])
    model = nn.Linear(2, 1)
    with Monitor(model, torch.optim.SGD(model.parameters(), lr=0.1), share=0.05) as watch:
        seen = []
        for step in range(400):
            clock["now"] += 1.0
            if step < 100:
                # as if half of the time went into watching
                watch._spent += 0.5
            watch.step(1.0)
            seen.append(watch.report.thinned)
    assert max(seen) >= 8
    assert seen[-1] == 1


def test_a_model_that_was_left_in_evaluation_is_told() -> None:
    x = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
    for evaluating, said in ((True, True), (False, False)):
        model = net()
        model.train(not evaluating)
        found = thalweg.diagnose(
            model, (x, x[:, :3].argmax(1)), "cross-entropy", "adam", epochs=2, budget=200
        )
        assert any("evaluation mode" in note for note in found.notes) is said
        assert model.training is not evaluating
