"""Skip connections and stochastic depth: expectations by enumeration, rates by their closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.layers.residual import (
    Skip,
    StochasticDepth,
    drop_rates,
    set_stochastic_depth,
    skip_around,
    stochastic_depth,
)
from thalweg.randomness.keyed import Keyed, RunDraws


def keyed(seed: int, step: int) -> Keyed:
    draws = RunDraws(seed, torch.device("cpu"))
    draws.step = step
    return Keyed(draws)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("per", ["batch", "example"])
def test_evaluation_is_the_mean_of_training(inverted: bool, per: str) -> None:
    branch = torch.randn(4, 3, dtype=torch.float64)
    rate, passes = 0.3, 1000
    total, survivals = torch.zeros_like(branch), 0.0
    for step in range(passes):
        with keyed(0, step):
            out = stochastic_depth(branch, rate, training=True, per=per, inverted=inverted)
        kept = (out != 0).all(1)
        assert bool((kept == (out != 0).any(1)).all())  # rows are dropped whole
        assert per == "example" or len(set(kept.tolist())) == 1
        survivals += float(kept.double().mean())
        total += out
    count = passes * (4 if per == "example" else 1)
    assert abs(survivals / passes - 0.7) < 5 * math.sqrt(0.21 / count)
    expected = stochastic_depth(branch, rate, training=False, inverted=inverted)
    scale = 1 / 0.7 if inverted else 1.0
    assert torch.equal(expected, branch if inverted else (1 - rate) * branch)
    error = 5 * math.sqrt(0.21 / passes) * scale * branch.abs()
    assert bool(((total / passes - expected).abs() <= error).all())


def test_a_dropped_branch_passes_no_gradient_and_no_nan() -> None:
    layer = StochasticDepth(1 - 1e-9)
    branch = torch.full((2, 2), math.nan, requires_grad=True)
    with keyed(0, 0):
        out = layer(branch)
    assert torch.equal(out, torch.zeros(2, 2))
    (gradient,) = torch.autograd.grad(out.sum(), branch)
    assert torch.equal(gradient, torch.zeros(2, 2))


def test_saving_work_gives_the_same_and_calls_the_body_only_where_it_survives() -> None:
    calls = []

    class Body(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            return 2 * x

    x = torch.randn(3, 4)
    for inverted in (False, True):
        saving = Skip(Body(), drop=StochasticDepth(0.4, saves_work=True, inverted=inverted))
        plain = Skip(Body(), drop=StochasticDepth(0.4, inverted=inverted))
        calls.clear()
        for step in range(50):
            with keyed(1, step):
                one = saving(x)
            done = len(calls)
            with keyed(1, step):
                other = plain(x)
            del calls[done:]
            torch.testing.assert_close(one, other)
        assert 20 <= len(calls) <= 40
        torch.testing.assert_close(saving.eval()(x), plain.eval()(x))


def test_a_skip_adds_and_its_gradient_has_the_straight_path() -> None:
    body = nn.Linear(3, 3).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    out = Skip(body)(x)
    torch.testing.assert_close(out, x + x @ body.weight.T + body.bias)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, 1 + body.weight.sum(0).expand(2, 3))


@pytest.mark.parametrize(
    ("body", "shape", "kind"),
    [
        (nn.Linear(4, 4), (2, 4), nn.Identity),
        (nn.Linear(4, 7), (2, 4), nn.Linear),
        (nn.Linear(4, 7), (2, 5, 4), nn.Linear),
        (nn.Conv1d(3, 5, 3, padding=1), (2, 3, 9), nn.Conv1d),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1)),
            (1, 3, 15, 16),
            nn.Conv2d,
        ),
        (nn.Conv2d(3, 3, 3), (1, 3, 1 + 2, 3), nn.Conv2d),
        (nn.Conv3d(2, 3, 3, (1, 2, 3), 1), (1, 2, 6, 6, 6), nn.Conv3d),
    ],
)
def test_projections_lead_to_the_bodys_shape(body: nn.Module, shape: tuple[int, ...], kind: type) -> None:
    x = torch.randn(shape)
    skip = skip_around(body, x)
    assert type(skip.shortcut) is kind
    assert getattr(skip.shortcut, "bias", None) is None
    torch.testing.assert_close(skip(x), skip.shortcut(x) + body(x))


def test_shapes_that_no_projection_joins() -> None:
    with pytest.raises(ModelError, match=r"no projection leads from \[2, 3\] to \[2, 1, 3\]"):
        skip_around(nn.Unflatten(1, (1, 3)), torch.zeros(2, 3))
    with pytest.raises(ModelError, match=r"no projection leads from \[1, 2, 4, 4\] to \[1, 2, 8, 8\]"):
        skip_around(nn.ConvTranspose2d(2, 2, 2, 2), torch.zeros(1, 2, 4, 4))
    with pytest.raises(ModelError, match=r"can't add \[2, 4\] to \[2, 5\]: make it by skip_around"):
        Skip(nn.Linear(4, 5))(torch.zeros(2, 4))


def test_rates_grow_to_the_last_or_are_constant() -> None:
    rates = drop_rates(54, 0.5)
    assert rates == tuple(0.5 * block / 54 for block in range(1, 55))
    # the paper: with 54 blocks and a last survival of 0.5 about 40 are expected to be active
    assert sum(1 - rate for rate in rates) == pytest.approx(40.25)
    assert drop_rates(3, 0.2, "constant") == (0.2, 0.2, 0.2)
    with pytest.raises(OptionError, match="rule = 'square' isn't known"):
        drop_rates(3, 0.2, "square")
    with pytest.raises(OptionError, match=r"rate = 1 isn't allowed"):
        drop_rates(3, 1)


def test_a_models_blocks_get_their_rates_in_order() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop = nn.Linear(2, 2), StochasticDepth(0.0)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.drop(self.layer(x))
            return out

    own = StochasticDepth(0.0, inverted=True)
    model = nn.Sequential(Skip(nn.Linear(2, 2)), Branch(), Skip(Skip(nn.Linear(2, 2)), drop=own)).eval()
    assert set_stochastic_depth(model, 0.4) == {
        "0": 0.1,
        "1.drop": 0.2,
        "2": pytest.approx(0.3),
        "2.body": 0.4,
    }
    assert own.rate == pytest.approx(0.3)
    assert not model[0].drop.training
    x = torch.randn(3, 2)
    torch.testing.assert_close(model[0](x), x + 0.9 * model[0].body(x))
    with pytest.raises(ModelError, match="there are no residual blocks"):
        set_stochastic_depth(nn.Linear(2, 2), 0.4)


def test_settings_that_arent_allowed() -> None:
    with pytest.raises(OptionError, match=r"rate = -0.1 isn't allowed"):
        StochasticDepth(-0.1)
    with pytest.raises(OptionError, match="per = 'row' isn't known"):
        StochasticDepth(0.1, per="row")
    with pytest.raises(OptionError, match="saves_work needs per = 'batch'"):
        StochasticDepth(0.1, per="example", saves_work=True)
