"""The loss at other points, against closed forms, loops by hand and numpy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.curvature import (
    Interpolation,
    LossSurface,
    TrajectoryPlane,
    filter_normalized,
    interpolation,
    loss_surface,
    trajectory_plane,
)
from thalweg.errors import OptionError
from thalweg.layers.norm_statistics import estimate_batch_norm
from thalweg.randomness.generators import generator_states


def image_net(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(1)
    parts = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if norm else nn.Identity(), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*parts, nn.Dropout(0.2), nn.Linear(64, 3)).double()


def images(count: int = 26, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 6, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=generator)


def ragged(x: Tensor, y: Tensor, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(size), y.split(size), strict=True))


def everything(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {name: value.clone() for name, value in model.state_dict().items()}
    found |= {f"grad {name}": p.grad for name, p in model.named_parameters()}
    return found | {"modes": [part.training for part in model.modules()]}


def same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)


def trained(model: nn.Module, batches: list[tuple[Tensor, Tensor]], steps: int) -> list[dict[str, Tensor]]:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    points = [copy.deepcopy(model.state_dict())]
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        points.append(copy.deepcopy(model.state_dict()))
    optimizer.zero_grad()
    model.eval()
    return points


# A surface -----------------------------------------------------------------------------------------------


def test_the_surface_of_a_quadratic_is_its_closed_form_over_ragged_batches() -> None:
    # the mean of (w x - t)^2 is a quadratic of w with the Hessian 2 X'X / n
    x, _ = torch.randn(11, 3, dtype=torch.float64), None
    t = torch.randn(11, 1, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    w = model.weight.detach().clone()
    found = loss_surface(
        model, "mse", list(zip(x.split(4), t.split(4), strict=True)), span=2.0, points=5, seed=3
    )
    assert found.first.tolist() == found.second.tolist() == [-2, -1, 0, 1, 2]
    rest = (x @ w.T - t)[:, 0]
    centre, gradient, hessian = float(rest.square().mean()), 2 * x.T @ rest / 11, 2 * x.T @ x / 11
    # the two directions, from what the loss does along the axes
    again = loss_surface(
        model, lambda o, _: o.sum(), (torch.eye(3).double(), t[:3]), span=1.0, points=3, seed=3
    )
    assert found.centre == pytest.approx(centre)
    assert found.losses[2, 2] == pytest.approx(centre)
    one, two = (_direction(model, number, seed=3) for number in (0, 1))
    assert again.losses[1, 2] - again.centre == pytest.approx(float(one.sum()))
    assert again.losses[2, 1] - again.centre == pytest.approx(float(two.sum()))
    for i, b in enumerate(found.second):
        for j, a in enumerate(found.first):
            d = a * one + b * two
            assert found.losses[i, j] == pytest.approx(float(centre + gradient @ d + d @ hessian @ d / 2))
    # both are as long as the one filter there is
    assert float(one.norm()) == pytest.approx(float(w.norm()))
    assert found.normalized
    assert (found.statistics, found.note) == ("none", "")
    assert found.passes == 26


def _direction(model: nn.Linear, number: int, *, seed: int) -> Tensor:
    """A direction of a surface, element by element, from a loss that is linear in the weights."""
    found = []
    for place in range(3):
        one = torch.zeros(1, 3, dtype=torch.float64)
        one[0, place] = 1.0
        surface = loss_surface(model, lambda o, _: o.sum(), (one, one), points=3, seed=seed)
        moved = surface.losses[1, 2] if number == 0 else surface.losses[2, 1]
        found.append(float(moved) - surface.centre)
    return torch.tensor(found, dtype=torch.float64)


def test_filters_are_normalized_one_by_one_and_biases_stay() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(4, 2, 3, 3), torch.randn(4), torch.randn(5, 6), torch.zeros(2, 3)]
    drawn = [torch.randn_like(w) for w in weights]
    found = filter_normalized(drawn, weights)
    for place in (0, 2):
        for d, before, w in zip(found[place], drawn[place], weights[place], strict=True):
            by_hand = before * w.norm() / before.norm()
            torch.testing.assert_close(d, by_hand)
    assert not found[1].any()
    assert not found[3].any()
    # of a transposed convolution outputs lie along the second axis
    (other,) = filter_normalized([drawn[0]], [weights[0]], [1])
    torch.testing.assert_close(other[:, 1].norm(), weights[0][:, 1].norm())


def test_a_transposed_convolution_moves_by_its_own_filters() -> None:
    model = nn.ConvTranspose2d(2, 3, 2, bias=False)
    with torch.no_grad():
        model.weight[:, 1] *= 100
    lengths = model.weight.detach().square().sum((0, 2, 3)).sqrt()
    seen: list[Tensor] = []
    model.register_forward_hook(lambda *_: seen.append(model.weight.detach().clone()))
    x = torch.eye(2).reshape(2, 2, 1, 1)
    loss_surface(model, lambda o, _: o.square().mean(), (x, x), points=2)
    # the last four are x +- d1 +- d2
    first = (seen[-3] - seen[-4]) / 2
    torch.testing.assert_close(first.square().sum((0, 2, 3)).sqrt(), lengths, rtol=1e-4, atol=1e-4)


def test_directions_of_ones_own_are_taken_as_they_are_and_scores_are_of_all_outputs() -> None:
    model, (x, y) = image_net(norm=False).eval(), images()

    def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
        assert len(outputs) == 26
        return (outputs.argmax(1) == targets).double().mean()

    one, two = ([torch.randn_like(p) for p in model.parameters()] for _ in range(2))
    found = loss_surface(
        model, "cross-entropy", ragged(x, y), directions=(one, two), metric=accuracy, points=3, span=0.5
    )
    for i, b in enumerate(found.second):
        for j, a in enumerate(found.first):
            moved = copy.deepcopy(model)
            with torch.no_grad():
                for p, d, e in zip(moved.parameters(), one, two, strict=True):
                    p.add_(a * d + b * e)
                assert found.losses[i, j] == pytest.approx(float(F.cross_entropy(moved(x), y)))
                assert found.scores[i, j] == pytest.approx(float(accuracy(moved(x), y)))
    assert not found.normalized
    assert "whole direction" in found.unit


# Between two points --------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", ["estimated", "interpolated", "kept"])
def test_an_interpolation_is_a_loop_by_hand(statistics: str) -> None:
    model, (x, y) = image_net(), images()
    points = trained(model, ragged(x, y), 9)
    begin, end = points[0], points[-1]
    kept = copy.deepcopy(model)
    found = interpolation(model, "cross-entropy", ragged(x, y), begin, end, points=4, statistics=statistics)
    assert {0.0, 1.0} <= set(found.at)
    assert (found.at.min(), found.at.max()) == (-0.25, 1.25)
    assert found.statistics == statistics
    names = [name for name, _ in model.named_parameters()]
    for a, value in zip(found.at, found.losses, strict=True):
        moved = copy.deepcopy(kept)
        state = moved.state_dict()
        also = [] if statistics != "interpolated" else ["1.running_mean", "1.running_var"]
        for name in [*names, *also]:
            state[name] = (1 - a) * begin[name] + a * end[name]
        moved.load_state_dict(state)
        if statistics == "estimated":
            estimate_batch_norm(moved, [x])
        with torch.no_grad():
            assert value == pytest.approx(float(F.cross_entropy(moved.eval()(x), y)))
    squares = sum(float((end[n] - begin[n]).square().sum()) for n in names)
    assert found.distance == pytest.approx(squares**0.5)
    assert found.passes == len(found.at) * (2 if statistics == "estimated" else 1)


def test_a_barrier_is_over_the_chord() -> None:
    made = Interpolation(
        at=np.array([-0.5, 0.0, 0.5, 1.0, 1.5]), losses=np.array([9.0, 1.0, 4.0, 3.0, 9.0]),
        scores=np.full(5, np.nan), distance=1.0, statistics="none", passes=5,
    )  # fmt: skip
    assert made.barrier == 2.0


def test_frozen_parameters_move_between_points_too_and_a_frozen_model_can_be_looked_at() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)).double()
    begin, end = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        end[0].weight.add_(1.0)
    model.requires_grad_(False)
    x = torch.randn(5, 2, dtype=torch.float64)
    found = interpolation(model, "mse", (x, x[:, :1]), begin, end.state_dict(), low=0, high=1, points=2)
    for value, there in zip(found.losses, (begin, end), strict=True):
        assert value == pytest.approx(float(F.mse_loss(there(x), x[:, :1]).detach()))
    assert not any(p.requires_grad for p in model.parameters())
    assert loss_surface(model, "mse", (x, x[:, :1]), points=2).losses.shape == (2, 2)


# A trajectory --------------------------------------------------------------------------------------------


def test_the_plane_of_a_trajectory_is_numpys() -> None:
    model, (x, y) = image_net(), images()
    points = trained(model, ragged(x, y), 8)
    found = trajectory_plane(model, "cross-entropy", ragged(x, y), points, points=3)
    names = [name for name, _ in model.named_parameters()]
    rows = np.stack(
        [np.concatenate([(p[n] - points[-1][n]).flatten().numpy() for n in names]) for p in points]
    )
    left, singular, right = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(np.abs(found.path), np.abs(left[:, :2] * singular[:2]), atol=1e-9)
    assert found.shares == pytest.approx(tuple(singular[:2] ** 2 / (singular**2).sum()))
    assert found.share == pytest.approx(sum(found.shares))
    off = np.linalg.norm(rows - rows @ right[:2].T @ right[:2], axis=1)
    np.testing.assert_allclose(found.off, off, atol=1e-7)
    assert found.path[-1].tolist() == pytest.approx([0, 0])
    moved = copy.deepcopy(model)
    for place, loss in zip(points, found.path_losses, strict=True):
        moved.load_state_dict(place)
        estimate_batch_norm(moved, [x])
        assert loss == pytest.approx(float(F.cross_entropy(moved.eval()(x), y).detach()))
    signs = np.sign((found.path * (left[:, :2] * singular[:2])).sum(0))
    for i, b in enumerate(found.second):
        for j, a in enumerate(found.first):
            flat = torch.tensor((a * signs[0]) * right[0] + (b * signs[1]) * right[1])
            state, begin = dict(points[-1]), 0
            for n in names:
                state[n] = state[n] + flat[begin : begin + state[n].numel()].reshape(state[n].shape)
                begin += state[n].numel()
            moved.load_state_dict(state)
            estimate_batch_norm(moved, [x])
            assert found.losses[i, j] == pytest.approx(float(F.cross_entropy(moved.eval()(x), y).detach()))
    for k, axis in enumerate((found.first, found.second)):
        assert axis[0] < found.path[:, k].min()
        assert axis[-1] > found.path[:, k].max()


# What is left as it was, and refused ---------------------------------------------------------------------


def _surface(model: nn.Module, batches: Any, _: Any) -> LossSurface:
    return loss_surface(model, "cross-entropy", batches, points=2)


def _line(model: nn.Module, batches: Any, points: Any) -> Interpolation:
    return interpolation(model, "cross-entropy", batches, points[0], points[-1], points=2)


def _path(model: nn.Module, batches: Any, points: Any) -> TrajectoryPlane:
    return trajectory_plane(model, "cross-entropy", batches, points, points=2)


@pytest.mark.parametrize("compute", [_surface, _line, _path])
@pytest.mark.parametrize("training", [False, True])
def test_a_model_is_left_to_the_last_bit_and_dropout_is_one_function(
    compute: Callable[..., Any], training: bool
) -> None:
    model, (x, y) = image_net(), images()
    points = trained(model, ragged(x, y), 4)
    model.train(training)
    F.cross_entropy(model(x), y).backward()
    model[0].bias.grad = None
    before, states = everything(model), generator_states(torch.device("cpu"))
    found = compute(model, ragged(x, y), points)
    after = everything(model)
    assert all(same(before[name], after[name]) for name in before)
    assert all(same(a, b) for a, b in zip(states, generator_states(torch.device("cpu")), strict=True))
    assert found.statistics == ("batch" if training else "estimated")
    assert found.note
    assert np.array_equal(found.losses, compute(model, ragged(x, y), points).losses)


def test_an_error_on_the_way_brings_the_model_back() -> None:
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()
    calls = [0]

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] > 6:
            raise RuntimeError("enough")
        return F.mse_loss(outputs, targets)

    x = torch.ones(2, 2)
    with pytest.raises(RuntimeError, match="enough"):
        loss_surface(model, loss, (x, x[:, :1]), points=5)
    assert torch.equal(model.weight, before)


def test_losses_that_arent_finite_stand_as_they_are() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    one = torch.ones(1, 1)
    found = interpolation(
        model, lambda o, t: (o.log() - t).square().mean(), (one, one), {"weight": one}, {"weight": -one},
        low=0, high=1, points=3,
    )  # fmt: skip
    assert np.isfinite(found.losses[0])
    assert not np.isfinite(found.losses[1:]).any()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m, b, s: loss_surface(m, "mse", b, span=0.0), "span is 0.0"),
        (lambda m, b, s: loss_surface(m, "mse", b, points=1), "points is 1"),
        (lambda m, b, s: loss_surface(m, "mse", b, statistics="anew"), "statistics is 'anew'"),
        (lambda m, b, s: interpolation(m, "mse", b, s, {}), "end has no 'weight'"),
        (lambda m, b, s: interpolation(m, "mse", b, s, 3), "end is of type int"),
        (lambda m, b, s: interpolation(m, "mse", b, {**s, "weight": torch.ones(3, 1)}, s), r"is \[3, 1\]"),
        (lambda m, b, s: interpolation(m, "mse", b, s, s, low=0.5), "low is 0.5"),
        (lambda m, b, s: trajectory_plane(m, "mse", b, [s, s]), "at least 3 points"),
        (lambda m, b, s: trajectory_plane(m, "mse", b, [s, s, s]), "on one line"),
        (lambda m, b, s: trajectory_plane(m, "mse", b, [s, s, s], margin=-1), "margin is -1"),
    ],
)
def test_what_cant_be_is_refused_in_a_sentence(call: Callable[..., Any], said: str) -> None:
    model = nn.Linear(2, 1)
    x = torch.ones(3, 2)
    with pytest.raises(OptionError, match=said):
        call(model, (x, x[:, :1]), model.state_dict())
