"""Blurred objectives against closed forms, and a blurred training against a loop in plain torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg
from thalweg.errors import ModelError, OptionError
from thalweg.randomness.noise import noise
from thalweg.stages.blurring import Blurred, BlurredLoss, Samples, blur
from thalweg.stages.progress import Ramp
from thalweg.strategies import Strategy
from thalweg.training import Fitted
from training import pairs

F64 = torch.float64
G = torch.Generator().manual_seed(0)
X = torch.randn(40, 5, generator=G, dtype=F64)
Y = (X.sum(1) > 0).long() + (X[:, 0] > 0.5).long()


def network(norm: bool = False) -> nn.Module:
    torch.manual_seed(3)
    middle: list[nn.Module] = [nn.BatchNorm1d(6)] if norm else []
    return nn.Sequential(nn.Linear(5, 6), *middle, nn.Tanh(), nn.Linear(6, 3)).double()


# Closed forms -------------------------------------------------------------------------------------------


def quadratic() -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    root = torch.randn(4, 4, generator=G, dtype=F64)
    a, centre = root @ root.T + torch.eye(4, dtype=F64), torch.randn(4, generator=G, dtype=F64)
    return (lambda theta: 0.5 * (theta - centre) @ a @ (theta - centre)), a, centre


@pytest.mark.parametrize("sigma", [0.1, 1.0])
def test_a_quadratic_keeps_its_minimum_and_gains_half_sigma_squared_times_the_trace(sigma: float) -> None:
    function, a, centre = quadratic()
    blurred = blur(function, sigma, samples=20_000)
    constant = 0.5 * sigma**2 * float(a.trace())
    # the variance of eps'A eps / 2 is |A|^2 / 2, and pairs have it twice
    error = sigma**2 * float(a.norm()) / math.sqrt(2) / math.sqrt(10_000)
    for theta in (centre, centre + 1.0, torch.zeros(4, dtype=F64)):
        assert float(blurred(theta) - function(theta)) == pytest.approx(constant, abs=4 * error)
    # antithetic draws leave no gradient at the minimum, whatever they are, and the true one elsewhere
    for theta in (centre, centre + 1.0):
        at = theta.clone().requires_grad_()
        (slope,) = torch.autograd.grad(blurred(at), at)
        torch.testing.assert_close(slope, a @ (theta - centre), atol=1e-10, rtol=1e-10)


def test_antithetic_draws_have_the_variance_of_their_formula() -> None:
    """(v / 2) * (1 + rho) of a pair: nothing of a linear function, all of an even one."""
    # each element has draws of its own
    theta, sigma = torch.full((100_000,), 0.7, dtype=F64), 0.5
    functions: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
        "linear": (lambda t: 3 * t, -1.0),
        "even around the point": (lambda t: (t - 0.7).square(), 1.0),
        # of e^(s eps): the covariance with e^(-s eps) is 1 - e^(s^2), the variance e^(s^2) (e^(s^2) - 1)
        "neither": (lambda t: t.exp(), -math.exp(-(sigma**2))),
    }
    for name, (function, rho) in functions.items():
        alone = blur(function, sigma, samples=1, antithetic=False)(theta)
        v = float(alone.var())
        pairs_of = blur(function, sigma, samples=2)(theta)
        assert float(pairs_of.var()) == pytest.approx(v / 2 * (1 + rho), rel=0.04, abs=1e-20), name
        # against as many independent draws: better by 1 + rho, and worse where rho is above 0
        independent = blur(function, sigma, samples=2, antithetic=False)(theta)
        assert float(pairs_of.var() / independent.var()) == pytest.approx(1 + rho, rel=0.04, abs=1e-20), name


def test_a_quartic_well_is_convex_exactly_from_sigma_squared_of_a_third() -> None:
    """J'' of (t^2 - 1)^2 + c*t, blurred, is 12*t^2 - 4 + 12*sigma^2."""

    def wells(t: Tensor) -> Tensor:
        return ((t.square() - 1).square() + 0.3 * t).sum()

    def bend(sigma: float, t: float) -> float:
        blurred = blur(wells, sigma, samples=200_000)
        return float(torch.autograd.functional.hessian(lambda at: blurred(at), torch.tensor([t], dtype=F64)))

    for sigma in (0.0, 0.4, 0.8):
        for t in (0.0, 0.5):
            assert bend(sigma, t) == pytest.approx(12 * t * t - 4 + 12 * sigma**2, abs=0.12)
    edge = math.sqrt(1 / 3)
    assert bend(0.97 * edge, 0.0) < 0 < bend(1.03 * edge, 0.0)


def test_draws_are_common_to_all_points_and_depend_on_seed_and_step_alone() -> None:
    def value(**more: Any) -> float:
        return float(blur(lambda t: t.exp().sum(), 0.3, samples=4, **more)(torch.ones(3)))

    torch.manual_seed(0)
    first = value(seed=1, step=2)
    torch.rand(3)
    assert value(seed=1, step=2) == first
    assert value(seed=1, step=3) != first
    assert value(seed=2, step=2) != first
    # so that a difference between points is smooth in the points
    blurred = blur(lambda t: t.sin().sum(), 0.3, samples=4)
    one, other = (blurred(torch.tensor([at], dtype=F64)) for at in (0.5, 0.5 + 1e-8))
    assert abs(float(other - one)) < 2e-8


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: blur(torch.sum, -1.0), "sigma is -1.0, but must be at least 0"),
        (lambda: blur(torch.sum, math.nan), "sigma is nan"),
        (lambda: blur(torch.sum, 1.0, samples=3), "samples is 3, but antithetic draws come in pairs"),
        (lambda: blur(torch.sum, 1.0, samples=0, antithetic=False), "samples is 0"),
        (lambda: Blurred(nn.Linear(1, 1), lambda s: s - 1), "sigma is -1 where 0 %"),
        (lambda: Blurred(nn.Linear(1, 1), 0.1, draws="once"), "draws is 'once', but must be step or fixed"),
    ],
)
def test_what_is_out_of_range_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        make()


# A model ------------------------------------------------------------------------------------------------


def drawn(
    model: nn.Module, samples: int, seed: int, step: int, antithetic: bool = True
) -> list[list[Tensor]]:
    """The noise of each copy, written down anew."""
    sizes = [p.numel() for p in model.parameters() if p.requires_grad]
    rows = samples // 2 if antithetic else samples
    half = noise(rows, sum(sizes), seed=seed, stream="blur", step=step).double()
    rows = torch.cat([half, -half]) if antithetic else half
    shapes = [p.shape for p in model.parameters() if p.requires_grad]
    return [
        [part.reshape(shape) for part, shape in zip(row.split(sizes), shapes, strict=True)] for row in rows
    ]


def copies_loss(model: nn.Module, x: Tensor, y: Tensor, sigma: float, draws: list[list[Tensor]]) -> Tensor:
    """The mean loss over copies, each a model of its own, gradients laid down in the model."""
    trained = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros((), dtype=F64)
    with torch.no_grad():
        for p in trained:
            p.grad = torch.zeros_like(p)
    for each in draws:
        with torch.no_grad():
            for p, eps in zip(trained, each, strict=True):
                p.add_(sigma * eps)
        loss = F.cross_entropy(model(x), y) / len(draws)
        slopes = torch.autograd.grad(loss, trained)
        total += loss.detach()
        with torch.no_grad():
            for p, eps, slope in zip(trained, each, slopes, strict=True):
                p.sub_(sigma * eps)
                p.grad += slope
    return total


class Odd(nn.Module):
    """What parameters are used for beside layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm = nn.Conv1d(1, 2, 2), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.first, self.tied, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3, False)
        self.tied.weight = self.first.weight
        self.scale = nn.Parameter(torch.ones(3))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x[:, None]).flatten(1))
        h = h + self.attention(h[:, None], h[:, None], h[:, None])[0][:, 0]
        h = self.tied(torch.tanh(self.first(h)))
        # by name, without a bias, with a shift of its own, and a weight as numbers among others
        h = F.linear(input=h, weight=self.first.weight) + self.first.weight.square().mean()
        h = F.linear(h, self.first.weight, torch.stack([self.first.bias, self.tied.bias]).sum(0))
        found: Tensor = F.linear(h, self.last.weight) * self.scale
        return found


def flat() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU()), nn.Linear(4, 4), nn.Linear(4, 3)
    ).double()


class Within(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.net(x)
        return found


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize(
    ("make", "frozen"),
    [
        (network, ["0.bias"]),
        (network, ["0.weight", "0.bias"]),
        (lambda: Within(network()), ["net.0.bias"]),
        (lambda: Within(network()), ["net.2.weight"]),
        (flat, ["1.0.weight"]),
        (Odd, []),
        (Odd, ["first.weight", "tied.bias", "attention.in_proj_weight"]),
    ],
)
def test_a_blurred_step_is_the_mean_over_copies(
    make: Callable[[], nn.Module], frozen: list[str], antithetic: bool
) -> None:
    for lanes in (True, False):
        model, twin = make(), make()
        for each in (model, twin):
            for name, p in each.named_parameters():
                p.requires_grad_(name not in frozen)
        blurred = Blurred(model, 0.3, 6, lanes=lanes, antithetic=antithetic)
        blurred.follow(progress=0.0, step=4, seed=9)
        outputs = blurred(X)
        assert isinstance(outputs, Samples)
        assert outputs.values.shape == (40, 6, 3)
        value = BlurredLoss("cross-entropy")(outputs, Y)
        value.backward()
        expected = copies_loss(twin, X, Y, 0.3, drawn(twin, 6, 9, 4, antithetic))
        torch.testing.assert_close(value.detach(), expected, rtol=1e-12, atol=0)
        for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
            if mine.requires_grad and other.grad is not None:
                torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12)
            else:
                assert mine.grad is None


@pytest.mark.parametrize("make", [network, lambda: Within(network()), Odd])
def test_inputs_and_gradients_have_gradients(make: Callable[[], nn.Module]) -> None:
    """Of what is computed before a blurred model, and through gradients, as curvature is."""
    found = []
    for lanes in (True, False):
        model, x = make(), X.clone().requires_grad_()
        blurred = Blurred(model, 0.3, 4, lanes=lanes)
        blurred.follow(progress=0.0, step=4, seed=9)
        value = BlurredLoss("cross-entropy")(blurred(x), Y)
        used = list(model.parameters())
        slopes = torch.autograd.grad(value, [x, *used], create_graph=True)
        bends = torch.autograd.grad(sum(s.square().sum() for s in slopes), [x, *used])
        found.append([*slopes, *bends])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_hooks_of_the_author_are_called_in_lanes_too() -> None:
    model = network()
    model[0].register_forward_hook(lambda module, given, output: 2 * output)
    values = []
    for lanes in (True, False):
        blurred = Blurred(model, 0.3, 4, lanes=lanes)
        blurred.follow(progress=0.0, step=4, seed=9)
        values.append(blurred(X).values)
    torch.testing.assert_close(*values)


def test_running_statistics_become_the_mean_of_those_of_the_copies() -> None:
    found = []
    for lanes in (True, False):
        model = network(norm=True)
        blurred = Blurred(model, 0.2, 4, lanes=lanes)
        blurred.follow(progress=0.0, step=0, seed=1)
        blurred(X)
        found.append({name: value.clone() for name, value in model.named_buffers()})
    copies = []
    for draws in drawn(network(norm=True), 4, 1, 0):
        model = network(norm=True)
        with torch.no_grad():
            for p, eps in zip(model.parameters(), draws, strict=True):
                p.add_(0.2 * eps)
        model(X)
        copies.append(dict(model.named_buffers()))
    for name in ("1.running_mean", "1.running_var"):
        expected = torch.stack([each[name] for each in copies]).mean(0)
        for each in found:
            torch.testing.assert_close(each[name], expected)
    assert [int(each["1.num_batches_tracked"]) for each in found] == [1, 1]


def test_a_model_that_cannot_be_computed_as_lanes_is_computed_copy_by_copy() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            out = self.net(x)
            return out if float(out.detach().sum()) > -1e9 else -out

    model = Looks()
    blurred, plain = Blurred(model, 0.3, 4), Blurred(network(), 0.3, 4)
    for each in (blurred, plain):
        each.follow(progress=0.0, step=0, seed=2)
    torch.testing.assert_close(blurred(X).values, plain(X).values)
    # trying it left no trace
    assert model.calls == 4


def test_a_recurrent_net_is_blurred_copy_by_copy() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.out = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.out(self.cell(x[:, :, None])[0][:, -1])
            return found

    torch.manual_seed(0)
    model = Last().double()
    twin = copy.deepcopy(model)
    blurred = Blurred(model, 0.3, 4)
    blurred.follow(progress=0.0, step=0, seed=2)
    value = BlurredLoss("cross-entropy")(blurred(X), Y)
    value.backward()
    torch.testing.assert_close(value.detach(), copies_loss(twin, X, Y, 0.3, drawn(twin, 4, 2, 0)))
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_evaluation_and_no_noise_are_the_plain_model() -> None:
    model = network()
    blurred = Blurred(model, Ramp(start=0.5, end=0.0), 2)
    blurred.follow(progress=0.5, step=0, seed=0)
    assert blurred.sigma == 0.25
    assert isinstance(blurred(X), Samples)
    blurred.follow(progress=1.0, step=9, seed=0)
    assert torch.equal(blurred(X), model(X))
    blurred.follow(progress=0.0, step=9, seed=0)
    assert torch.equal(blurred.eval()(X), model(X))


def test_fixed_draws_are_those_of_all_steps_and_fresh_ones_of_none() -> None:
    for draws, same in (("fixed", True), ("step", False)):
        blurred = Blurred(network(), 0.3, 2, draws=draws)
        found = []
        for step in (0, 1):
            blurred.follow(progress=0.0, step=step, seed=0)
            found.append(blurred(X).values)
            # within a step they are the same, as parts of a batch and a closure need
            assert torch.equal(blurred(X).values, found[-1])
        assert torch.equal(*found) == same


def test_of_nobody_told_noise_is_drawn_by_torchs_generator() -> None:
    blurred = Blurred(network(), 0.3, 2)
    torch.manual_seed(5)
    one, other = blurred(X).values, blurred(X).values
    torch.manual_seed(5)
    assert torch.equal(blurred(X).values, one)
    assert not torch.equal(one, other)


class Named(nn.Module):
    """Takes two inputs by name, and returns more than one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Tensor]:
        logits = self.net(x * scale)
        return {"logits": logits, "hidden": x, "size": logits.square().mean()}


def test_models_of_several_inputs_and_outputs_are_blurred() -> None:
    inputs = {"x": X, "scale": torch.full((40, 1), 0.5, dtype=F64)}
    blurred = Blurred(Named(), 0.3, 4)
    blurred.follow(progress=0.0, step=0, seed=2)
    outputs = blurred(inputs)
    assert [tuple(outputs.values[name].shape) for name in ("logits", "hidden", "size")] == [
        (40, 4, 3), (40, 4, 5), (4,)
    ]  # fmt: skip

    def own(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs["logits"], targets) + outputs["size"]

    each = [F.cross_entropy(outputs.values["logits"][:, k], Y) + outputs.values["size"][k] for k in range(4)]
    torch.testing.assert_close(BlurredLoss(own)(outputs, Y), torch.stack(each).mean())
    torch.testing.assert_close(
        BlurredLoss("cross-entropy")(outputs, Y), torch.stack(each).mean() - outputs.values["size"].mean()
    )


LOSSES: dict[str, tuple[Any, Tensor, Callable[[Tensor, Tensor], Tensor]]] = {
    "name": ("cross-entropy", Y, F.cross_entropy),
    "ignored": (nn.CrossEntropyLoss(ignore_index=1), Y, lambda o, t: F.cross_entropy(o, t, ignore_index=1)),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), Y, lambda o, t: F.cross_entropy(o, t, reduction="sum")),
    "mse": ("mse", X[:, :3], F.mse_loss),
    "own": (lambda o, t: (o - t).abs().mean().sqrt(), X[:, :3], lambda o, t: (o - t).abs().mean().sqrt()),
}


@pytest.mark.parametrize("case", LOSSES)
def test_the_loss_of_samples_is_the_mean_over_them_and_of_plain_outputs_itself(case: str) -> None:
    loss, targets, plain = LOSSES[case]
    values = torch.randn(40, 6, 3, generator=G, dtype=F64)
    expected = torch.stack([plain(values[:, k], targets) for k in range(6)]).mean()
    torch.testing.assert_close(BlurredLoss(loss)(Samples(values, 6), targets), expected)
    torch.testing.assert_close(BlurredLoss(loss)(values[:, 0], targets), plain(values[:, 0], targets))


def test_nothing_to_blur_is_said() -> None:
    with pytest.raises(ModelError, match="no parameter that is trained, so that there is nothing to blur"):
        Blurred(nn.Tanh(), 0.1)(X)


# A training ---------------------------------------------------------------------------------------------

SIGMA = Ramp(start=0.4, end=0.1)


def fitted(model: nn.Module | None = None, strategies: list[Strategy] | None = None, **more: Any) -> Fitted:
    return thalweg.fit(
        Blurred(network() if model is None else model, SIGMA, 4), (X, Y), BlurredLoss("cross-entropy"),
        lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.5), "constant", strategies or [],
        steps=12, batch_size=8, seed=6, validation=(X[:9], Y[:9]), metric="accuracy",
        validation_loss="cross-entropy", **more,
    )  # fmt: skip


def trained(
    model: nn.Module | None = None, strategies: list[Strategy] | None = None, **more: Any
) -> nn.Module:
    model = network() if model is None else model
    fitted(model, strategies, **more)
    return model


def by_hand() -> nn.Module:
    from thalweg.run.sampler import Batches

    model, order = network(), Batches(40, seed=6, size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    for step in range(12):
        chosen = order.take(0.0)
        copies_loss(model, X[chosen], Y[chosen], SIGMA(step / 12), drawn(model, 4, 6, step))
        optimizer.step()
    return model


def alike(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_blurred_training_is_what_a_loop_in_plain_torch_does(parts: int) -> None:
    alike(by_hand(), trained(accumulate=parts))


class Ends(Strategy):
    """Ends a training at a step without being asked."""

    observes = True

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def after_step(self, trainer: Any) -> None:
        if trainer.updates == self.at:
            raise pairs.Gone


def test_a_blurred_training_that_is_taken_up_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(network(norm=True), nn.Dropout(0.3))

    whole = trained(net())
    keeps = {"out": tmp_path / "run", "checkpoint_seconds": 0.0}
    with pytest.raises(pairs.Gone), pairs.written_at_once():
        trained(net(), [Ends(7)], **keeps)
    again = trained(net(), resume=True, **keeps)
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True)
    )
