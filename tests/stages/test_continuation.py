"""Series of objectives: their stages, the three ways in which they fail, homotopies."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg
from stages import test_blurring
from thalweg.errors import ModelError, OptionError
from thalweg.run.sampler import Batches
from thalweg.stages.blurring import Blurred
from thalweg.stages.continuation import (
    Curvature,
    FoundMinimum,
    compare,
    continuation,
    curvature_when_blurred,
    minimize_by_continuation,
    never_convex,
)
from thalweg.stages.homotopy import FromLinear, HomotopyLoss, from_linear, homotopy
from thalweg.stages.progress import Ramp
from thalweg.stages.stage import GIVEN
from training import pairs

F64 = torch.float64
G = torch.Generator().manual_seed(0)
X = torch.randn(40, 5, generator=G, dtype=F64)
Y = (X.sum(1) > 0).long() + (X[:, 0] > 0.5).long()


def network(activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(5, 6), activation(), nn.Linear(6, 4), activation(), nn.Linear(4, 3)
    ).double()


def wells(t: Tensor) -> Tensor:
    """Two wells, of which the one at -1.04 is the lower."""
    return ((t.square() - 1).square() + 0.3 * t).sum()


def bowl(t: Tensor) -> Tensor:
    return -t.square().sum()


# What it finds ------------------------------------------------------------------------------------------


def test_a_double_well_goes_to_the_right_basin_with_it_and_to_the_wrong_one_without() -> None:
    found = minimize_by_continuation(wells, torch.tensor([1.5], dtype=F64), [1.0, 0.6, 0.3], samples=32)
    assert found.direct.item() == pytest.approx(0.960, abs=2e-3)
    assert found.point.item() == pytest.approx(-1.0355, abs=2e-3)
    assert found.value < found.direct_value
    # of sigma 1 it is convex, of 0.3 it isn't at the saddle
    assert not found.curvatures[0].curves_down
    assert found.failures == []
    assert found.work[0] > found.work[1]
    at_saddle = curvature_when_blurred(wells, torch.zeros(1, dtype=F64), sigmas=[0.3, 1.0], samples=256)
    for each in at_saddle:
        assert each.value == pytest.approx(-4 + 12 * each.sigma**2, abs=5 * each.error)
    assert [each.curves_down for each in at_saddle] == [True, False]


def test_what_stays_concave_is_said_to_be_never_convex() -> None:
    """Every sigma leaves the Hessian of -theta'theta at -2."""
    sigmas = [0.1, 1.0, 10.0, 1000.0]
    found = curvature_when_blurred(bowl, torch.randn(4, generator=G, dtype=F64), sigmas=sigmas)
    assert [each.sigma for each in found] == sigmas
    for each in found:
        assert each.value == pytest.approx(-2.0, rel=1e-6)
    failure = never_convex(found)
    assert failure is not None
    assert failure.failure == "not convex"
    assert "at each sigma from 0.1 to 1000 the blurred function curves down" in str(failure)
    capped = minimize_by_continuation(
        lambda t: bowl(t) + 0.01 * t.pow(4).sum(), torch.ones(2, dtype=F64), [0.1, 0.2]
    )
    assert [each.failure for each in capped.failures][:1] == ["not convex"]


def test_a_blurred_minimum_that_tracks_to_the_worse_well_is_said() -> None:
    """A deep narrow well, which blurring fills, beside a wide shallow one."""

    def function(t: Tensor) -> Tensor:
        return (0.1 * (t + 2).square() - 2 * torch.exp(-(((t - 1) / 0.1) ** 2))).sum()

    found = minimize_by_continuation(function, torch.tensor([1.05], dtype=F64), [1.0, 0.5])
    assert found.point.item() == pytest.approx(-2.0, abs=1e-3)
    assert found.direct.item() == pytest.approx(1.0, abs=0.01)
    assert {each.failure for each in found.failures} == {"worse minimum", "too many steps"}


@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_the_curvature_of_a_model_is_that_of_its_hessian(sigma: float) -> None:
    """Without noise the smallest eigenvalue, by torch; with noise the mean of Hessians bounds it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    data = X[:, :2], X[:, :1]
    [found] = curvature_when_blurred(
        model, data, "mse", sigmas=[sigma], samples=2, antithetic=False, repeats=40, most_products=20
    )
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    shapes = [p.shape for p in model.parameters()]

    def of(flat: Tensor) -> Tensor:
        parts = [part.reshape(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        outputs = torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (data[0],))
        return F.mse_loss(outputs, data[1])

    at = torch.cat([p.detach().flatten() for p in model.parameters()])
    if sigma == 0:
        smallest = torch.linalg.eigvalsh(torch.autograd.functional.hessian(of, at))[0]
        assert found.value == pytest.approx(float(smallest), rel=0.01, abs=1e-3)
        assert found.error < 1e-12
        return
    draws = torch.randn(300, len(at), generator=G, dtype=F64)
    each = [torch.autograd.functional.hessian(of, at + sigma * draw) for draw in draws]
    mean = torch.stack(each).mean(0)
    # along no direction does the true one curve down further than along its own
    assert found.value > float(torch.linalg.eigvalsh(mean)[0]) - 4 * found.error - 0.05
    assert not model.training or all(part.training for part in model.modules())


def test_outcomes_are_compared_in_pairs() -> None:
    # a difference that is the same in all pairs is seen beneath a spread between pairs
    direct = [FoundMinimum(value, 10) for value in (1.0, 2.0, 3.0, 4.0)]
    worse = [FoundMinimum(each.value + 0.1 + 0.001 * n, 40) for n, each in enumerate(direct)]
    kinds = [each.failure for each in compare(worse, direct)]
    assert kinds == ["worse minimum", "too many steps"]
    same = [FoundMinimum(each.value + d, 40) for each, d in zip(direct, (0.1, -0.1, 0.12, -0.1), strict=True)]
    assert "worse minimum" not in [each.failure for each in compare(same, direct)]
    better = [FoundMinimum(each.value - 0.5, 40) for each in direct]
    assert compare(better, direct) == []
    # what the direct one reached on its way counts too
    curve = [(1.0, 9.0), (5.0, 0.4), (10.0, 0.6)]
    [slow] = compare([FoundMinimum(0.5, 40)], [FoundMinimum(0.6, 10, curve)])
    assert slow.failure == "too many steps"
    assert "at 5 against 40 for 0.5" in slow.sentence
    [alone] = compare([FoundMinimum(0.7, 5)], [FoundMinimum(0.6, 10)])
    assert "in a single pair, which may be chance" in alone.sentence
    for bad in (([], []), ([FoundMinimum(1, 1)], []), ([FoundMinimum(math.nan, 1)], [FoundMinimum(1, 1)])):
        with pytest.raises(OptionError, match=r"pairs|no value"):
            compare(*bad)
    assert never_convex([]) is None
    assert never_convex([Curvature(1.0, -1.0, 0.5)]) is None


# Stages -------------------------------------------------------------------------------------------------


def test_the_stages_of_a_continuation() -> None:
    stages = continuation(
        network(),
        "cross-entropy",
        [Ramp(start=0.3, end=0.1), 0.1, 0],
        epochs=[3, 2, 4],
        samples=4,
        metric="accuracy",
    )
    assert [(each.name, each.epochs) for each in stages] == [("blur 1", 3), ("blur 2", 2), ("blur 3", 4)]
    assert stages[2].build is None
    assert stages[2].loss == "cross-entropy"
    assert stages[2].validation_loss is GIVEN
    for each in stages[:2]:
        assert each.build is not None
        built = each.build(network())
        assert isinstance(built, Blurred)
        assert built.samples == 4
        assert (each.validation_loss, each.metric) == ("cross-entropy", "accuracy")
    assert len({str(each.about) for each in stages}) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sigmas": []}, "sigmas is empty"), ({"sigmas": [0.1, -1.0]}, "sigma is -1.0"),
        ({"sigmas": [0.1, 0.0], "epochs": [1, 2, 3]}, "epochs are 3 numbers for 2 sigmas"),
        ({"sigmas": [0.1], "samples": 5}, "samples is 5, but antithetic"), ({"loss": "mes"}, "no loss 'mes'"),
        ({"model": "mlp"}, "the model is of type str"),
    ],
)  # fmt: skip
def test_a_continuation_that_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        continuation(**{"model": network(), "loss": "cross-entropy", "sigmas": [0.1], **given})


def series(model: nn.Module, stop: int | None = None, **more: Any) -> thalweg.training.Fitted:
    stages = continuation(
        model, "cross-entropy", [Ramp(start=0.4, end=0.2), 0.1, 0], steps=[5, 4, 3], samples=4, seed=6
    )
    if stop is not None:
        stages[1] = dataclasses.replace(stages[1], adds=[test_blurring.Ends(stop)])
    return thalweg.fit(
        model, (X, Y), "cross-entropy", functools.partial(torch.optim.SGD, lr=0.2), stages=stages,
        batch_size=8, validation=(X[:9], Y[:9]), metric="accuracy", evaluations=2, **more,
    )  # fmt: skip


def test_a_series_of_blurred_objectives_as_a_loop_in_plain_torch_does(tmp_path: Path) -> None:
    model, twin = network(), network()
    fitted = series(model)
    for sigma, steps in ((Ramp(start=0.4, end=0.2), 5), (lambda s: 0.1, 4), (lambda s: 0.0, 3)):
        order, optimizer = Batches(40, seed=6, size=8), torch.optim.SGD(twin.parameters(), lr=0.2)
        for step in range(steps):
            chosen, now = order.take(0.0), sigma(step / steps)
            noise = test_blurring.drawn(twin, 4, 6, step)
            test_blurring.copies_loss(twin, X[chosen], Y[chosen], now, noise)
            optimizer.step()
    test_blurring.alike(twin, model)
    assert list(model.state_dict()) == list(network().state_dict())
    # what is judged is the model without noise, by the loss that was given
    with torch.no_grad():
        loss = F.cross_entropy(twin(X[:9]), Y[:9])
    assert fitted.curve[-1].validation_loss == pytest.approx(float(loss), rel=1e-9)
    # ended in the middle of the second stage and taken up again it comes to the same bits
    other = network()
    with pytest.raises(pairs.Gone), pairs.written_at_once():
        series(other, 2, out=tmp_path / "run", checkpoint_seconds=0.0)
    again = network()
    series(again, out=tmp_path / "run", resume=True, checkpoint_seconds=0.0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_stages_judge_nothing_where_nobody_judges() -> None:
    model = network()
    stages = continuation(model, "cross-entropy", [0.1, 0], steps=2, metric="accuracy")
    thalweg.fit(model, (X, Y), "cross-entropy", functools.partial(torch.optim.SGD, lr=0.1), stages=stages)
    stages = from_linear(model, steps=2) + homotopy("mse", "mae", steps=2)
    thalweg.fit(model, (X, X[:, :3]), "mse", functools.partial(torch.optim.SGD, lr=0.1), stages=stages)
    assert not any(part._forward_hooks for part in model.modules())


# Homotopies ---------------------------------------------------------------------------------------------


def test_a_loss_turns_into_another_as_a_loop_in_plain_torch_does() -> None:
    [stage] = homotopy("mse", lambda o, t: (o - t).abs().mean(), t=lambda s: s, steps=12)
    model, twin, goals = network(), network(), X[:, :3]
    thalweg.fit(
        model, (X, goals), stage.loss, lambda p: torch.optim.SGD(p, lr=0.1), steps=12, batch_size=8, seed=4
    )
    order, optimizer = Batches(40, seed=4, size=8), torch.optim.SGD(twin.parameters(), lr=0.1)
    for step in range(12):
        chosen, t = order.take(0.0), step / 12
        outputs = twin(X[chosen])
        value = (1 - t) * F.mse_loss(outputs, goals[chosen]) + t * (outputs - goals[chosen]).abs().mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)
    with pytest.raises(OptionError, match=r"t is 1\.5"):
        HomotopyLoss("mse", "mae", 1.5)


def mixed(model: nn.Sequential, x: Tensor, t: float, a: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    for number in (0, 2):
        x = F.linear(x, model[number].weight, model[number].bias)
        x = (1 - t) * x + t * a(x)
    return F.linear(x, model[4].weight, model[4].bias)


def test_a_net_that_begins_linear_as_a_loop_in_plain_torch_does() -> None:
    model, twin, t = network(), network(), Ramp(start=0.0, until=0.5)
    [stage] = from_linear(model, t=t, steps=12)
    assert stage.build is not None
    built = stage.build(model)
    thalweg.fit(
        built, (X, Y), "cross-entropy", lambda p: torch.optim.SGD(p, lr=0.1), steps=12, batch_size=8, seed=4,
        validation=(X, Y), metric="accuracy",
    )  # fmt: skip
    order, optimizer = Batches(40, seed=4, size=8), torch.optim.SGD(twin.parameters(), lr=0.1)
    for step in range(12):
        chosen = order.take(0.0)
        optimizer.zero_grad()
        F.cross_entropy(mixed(twin, X[chosen], t(step / 12)), Y[chosen]).backward()
        optimizer.step()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("inplace", [False, True])
def test_activations_are_mixed_and_put_back(inplace: bool) -> None:
    model = network(lambda: nn.ReLU(inplace=inplace))
    expected = model(X).detach()
    before = {name: list(vars(part)) for name, part in model.named_modules()}
    built = FromLinear(model, lambda s: s)
    for progress in (0.0, 0.3, 1.0):
        built.follow(progress=progress, step=0, seed=0)
        torch.testing.assert_close(built(X), mixed(model, X, progress, torch.relu))
    built.follow(progress=0.3, step=0, seed=0)
    # a copy goes its own way
    other = copy.deepcopy(built)
    other.follow(progress=0.0, step=0, seed=0)
    torch.testing.assert_close(other(X), mixed(model, X, 0.0))
    torch.testing.assert_close(built(X), mixed(model, X, 0.3, torch.relu))
    assert torch.equal(built.eval()(X), expected)
    built.training = True
    built.close()
    assert torch.equal(model(X), expected)
    assert {name: list(vars(part)) for name, part in model.named_modules()} == before
    assert [part.inplace for part in model if isinstance(part, nn.ReLU)] == [inplace] * 2
    assert not any(part._forward_hooks for part in model.modules())


def test_which_parts_begin_linear() -> None:
    ends = nn.Sequential(network(), nn.Sigmoid())
    hooked = [name for name, part in ends.named_modules() if part in set(_hooked(FromLinear(ends), ends))]
    assert hooked == ["0.1", "0.3"]
    model = network()
    assert _hooked(FromLinear(model, parts=["3"]), model) == [model[3]]
    with pytest.raises(ModelError, match="has no part that is an activation"):
        FromLinear(nn.Sequential(nn.Linear(1, 1), nn.Sigmoid()))
    with pytest.raises(OptionError, match="'act' of parts matches no parameter or part"):
        FromLinear(network(), parts=["act"])
    with pytest.raises(OptionError, match="parts is '3'; give a list"):
        from_linear(network(), parts="3", epochs=1)
    wide = FromLinear(network(), parts=["0"])
    with pytest.raises(ModelError, match="doesn't give what it takes in shape"):
        wide(X)


def _hooked(built: FromLinear, model: nn.Module) -> list[nn.Module]:
    return [part for part in model.modules() if part._forward_hooks]
