"""Schemes: moments, exact counts, closed forms, torch's own where it has the same, signals through depth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.errors import OptionError
from thalweg.initial.schemes import SCHEMES, draw
from thalweg.initial.weights import Numbers, Weight, dense, roles

SHAPE = (300, 200)


def moments(drawn: Tensor) -> tuple[float, float]:
    return float(drawn.mean()), float(drawn.var())


@pytest.mark.parametrize(
    ("scheme", "options", "variance"),
    [
        ("uniform", {"scale": 0.3}, 0.3**2 / 3),
        ("gaussian", {"scale": 0.3}, 0.3**2),
        ("inverse-root", {}, 1 / (3 * 200)),
        ("normalized", {}, 2 / 500),
        ("normalized", {"gain": 5 / 3, "distribution": "normal"}, 25 / 9 * 2 / 500),
        ("he", {}, 2 / 200),
        ("he", {"mode": "fan-out", "slope": 0.5, "distribution": "uniform"}, 2 / 1.25 / 300),
        ("orthogonal", {"gain": 2.0}, 4 / 300),
        ("sparse", {"k": 15, "scale": 2.0}, 15 / 200 * 4),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments(scheme: str, options: dict[str, Any], variance: float, dtype: torch.dtype) -> None:
    drawn = draw(SHAPE, scheme, seed=3, dtype=dtype, **options).double()
    count = drawn.numel()
    mean, measured = moments(drawn)
    # five standard errors; a normal's variance has a relative one of sqrt(2 / n), a sparse one's is larger
    kurtosis = 3 * 200 / 15 if scheme == "sparse" else 3
    assert abs(mean) < 5 * math.sqrt(variance / count)
    assert abs(measured / variance - 1) < 5 * math.sqrt((kurtosis - 1) / count)


@pytest.mark.parametrize(
    ("scheme", "options", "bound"),
    [
        ("uniform", {"scale": 0.3}, 0.3),
        ("inverse-root", {}, 1 / math.sqrt(200)),
        ("normalized", {}, math.sqrt(6 / 500)),
        ("he", {"distribution": "uniform"}, math.sqrt(6 / 200)),
    ],
)
def test_uniform_draws_fill_their_range_and_no_more(
    scheme: str, options: dict[str, Any], bound: float
) -> None:
    drawn = draw(SHAPE, scheme, seed=0, dtype=torch.float64, **options)
    assert -bound <= float(drawn.min()) < -0.999 * bound
    assert 0.999 * bound < float(drawn.max()) <= bound
    # the middle half holds half of them
    inside = float((drawn.abs() < bound / 2).double().mean())
    assert abs(inside - 0.5) < 5 * 0.5 / math.sqrt(drawn.numel())


def test_scales_are_torchs_where_torch_has_the_scheme() -> None:
    size = (512, 256, 3, 3)
    torch.manual_seed(0)
    pairs = [
        (draw(size, "normalized", seed=0), nn.init.xavier_uniform_(torch.empty(size))),
        (draw(size, "he", seed=0), nn.init.kaiming_normal_(torch.empty(size))),
        (
            draw(size, "he", seed=0, distribution="uniform", slope=math.sqrt(5)),
            nn.init.kaiming_uniform_(torch.empty(size), a=math.sqrt(5)),
        ),
        (draw(size, "orthogonal", seed=0, gain=3.0), nn.init.orthogonal_(torch.empty(size), gain=3.0)),
        (draw(size, "inverse-root", seed=0), nn.Conv2d(256, 512, 3).weight.detach()),
    ]
    for ours, torchs in pairs:
        quantiles = torch.linspace(0.02, 0.98, 25)
        some = torch.arange(0, ours.numel(), 3)
        a = torch.quantile(ours.flatten()[some], quantiles)
        b = torch.quantile(torchs.flatten()[some], quantiles)
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.01 * float(b.max()))


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30), (8, 4, 3, 3)])
def test_orthogonal_rows_or_columns(shape: tuple[int, ...]) -> None:
    matrix = draw(shape, "orthogonal", seed=1, gain=1.5, dtype=torch.float64).reshape(shape[0], -1)
    product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    torch.testing.assert_close(product, 2.25 * torch.eye(len(product), dtype=torch.float64))


def test_orthogonal_matrices_are_uniform_among_all() -> None:
    """Of a uniformly drawn orthogonal matrix the trace has mean 0 and variance 1."""
    traces = torch.stack([draw((6, 6), "orthogonal", seed=s).trace() for s in range(400)])
    assert abs(float(traces.mean())) < 5 / math.sqrt(400)
    assert abs(float(traces.var()) - 1) < 5 * math.sqrt(2 / 400)


@pytest.mark.parametrize("k", [1, 15, 40])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sparse_gives_each_unit_exactly_k(k: int, dtype: torch.dtype) -> None:
    drawn = draw((500, 40), "sparse", k=k, seed=2, dtype=dtype)
    assert (drawn != 0).sum(1).tolist() == [k] * 500


def test_sparse_counts_zeros_that_were_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numbers, "normal", lambda self, shape: torch.zeros(shape))
    assert (draw((5, 9), "sparse", k=4, scale=0.5, seed=0) == 0.5).sum(1).tolist() == [4] * 5


def test_sparse_counts_what_half_precision_rounds_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numbers, "normal", lambda self, shape: torch.full(shape, 1e-9))
    drawn = draw((5, 9), "sparse", k=4, seed=0, dtype=torch.float16)
    assert (drawn != 0).sum(1).tolist() == [4] * 5


def test_sparse_places_are_equally_likely() -> None:
    taken = (draw((20000, 10), "sparse", k=3, seed=5) != 0).double().mean(0)
    assert float((taken - 0.3).abs().max()) < 5 * math.sqrt(0.3 * 0.7 / 20000)


def test_sparse_counts_a_units_weights_in_every_convolution() -> None:
    for layer in (
        nn.Conv2d(8, 12, 3, groups=4),
        nn.ConvTranspose2d(8, 12, 3, groups=4),
        nn.ConvTranspose1d(6, 9, 4),
    ):
        weight = roles(layer)["weight"]
        assert isinstance(weight, Weight)
        layer.weight.data = draw(weight, "sparse", k=5, seed=0)
        assert layer.bias is not None
        layer.bias.data.zero_()
        # a unit's nonzero weights are those that any input reaches it through: count them by the gradient
        for unit in range(12 if layer.out_channels == 12 else 9):
            spread = [40] * (layer.weight.ndim - 2)
            output = layer(torch.ones(1, layer.in_channels, *spread))
            (gradient,) = torch.autograd.grad(output[0, unit].sum(), layer.weight)
            assert int(((gradient != 0) & (layer.weight != 0)).sum()) == 5


def test_the_matrix_of_a_transposed_convolution_is_that_of_the_plain_one() -> None:
    """Against torch: with a 1x1 kernel both are matrix products, group by group."""
    weight = roles(nn.ConvTranspose1d(6, 9, 1, groups=3))["weight"]
    assert isinstance(weight, Weight)
    matrix = torch.randn(9, 2)
    x = torch.randn(4, 6, 1)
    expected = nn.functional.conv1d(x, matrix.reshape(9, 2, 1), groups=3)
    got = nn.functional.conv_transpose1d(x, weight.arrange(matrix), groups=3)
    torch.testing.assert_close(got, expected)


def test_draws_depend_on_seed_and_name_alone_and_long_ones_too() -> None:
    one = draw((4, 5), "he", seed=0, name="a")
    assert torch.equal(one, draw((4, 5), "he", seed=0, name="a"))
    assert not torch.equal(one, draw((4, 5), "he", seed=1, name="a"))
    assert not torch.equal(one, draw((4, 5), "he", seed=0, name="b"))
    long = Numbers(0, "w").uniform((2**22 + 10,))
    assert torch.equal(long[:10], Numbers(0, "w").uniform((10,)))
    assert not torch.equal(long[-10:], long[:10])
    assert abs(float(long.double().mean()) - 0.5) < 5 / math.sqrt(12 * len(long))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_what_float32_rounds_to(scheme: str, dtype: torch.dtype) -> None:
    drawn = draw((30, 20), scheme, seed=0, dtype=dtype)
    assert drawn.dtype == dtype
    assert torch.equal(drawn, draw((30, 20), scheme, seed=0).to(dtype))


@pytest.mark.parametrize(
    ("scheme", "options", "said"),
    [
        ("xavier", {}, "there is no scheme 'xavier'"),
        ("he", {"gain": 2}, "the scheme 'he' has no option 'gain'"),
        ("uniform", {"scale": 0.0}, "scale = 0.0 isn't allowed"),
        ("gaussian", {"scale": math.nan}, "scale = nan isn't allowed"),
        ("normalized", {"distribution": "cauchy"}, "distribution = 'cauchy' isn't known"),
        ("he", {"mode": "fan_in"}, "mode = 'fan_in' isn't known; did you mean 'fan-in'"),
        ("orthogonal", {"gain": -1.0}, "gain = -1.0 isn't allowed"),
        ("sparse", {"k": 21}, "k = 21 nonzero weights don't fit a unit with 20: take 1 to 20"),
        ("sparse", {"k": 0}, "k = 0 nonzero weights"),
    ],
)
def test_what_isnt_allowed_is_said(scheme: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError) as caught:
        draw((30, 20), scheme, seed=0, **options)
    assert str(caught.value).startswith(said)


WIDTH, DEPTH = 512, 20


def ratios(scheme: str, activation: Any, x: Tensor) -> tuple[float, float]:
    """Mean over the layers of how the mean square of activations, and of gradients, changes."""
    weights = [
        draw((WIDTH, WIDTH), scheme, seed=7, name=f"{n}.weight", dtype=torch.float64) for n in range(DEPTH)
    ]
    layers = [x.requires_grad_()]
    for weight in weights:
        layers.append(activation(weight @ layers[-1]))
    direction = draw((WIDTH, 1), "gaussian", scale=1.0, seed=7, name="out", dtype=torch.float64).flatten()
    gradients = torch.autograd.grad((direction * layers[-1]).sum(), layers)
    squares = torch.stack([layer.detach().square().mean() for layer in layers])
    slopes = torch.stack([gradient.square().mean() for gradient in gradients])
    return float((squares[1:] / squares[:-1]).mean()), float((slopes[:-1] / slopes[1:]).mean())


def start() -> Tensor:
    return draw((WIDTH, 1), "gaussian", scale=1.0, seed=8, name="x", dtype=torch.float64).flatten()


def test_he_keeps_activations_and_gradients_under_relu() -> None:
    forward, backward = ratios("he", torch.relu, start())
    # over a layer the ratio varies by sqrt(5 / width): a rectified normal's square has mean 1/2, variance 5/4
    error = math.sqrt(5 / (WIDTH * DEPTH))
    assert abs(forward - 1) < 5 * error
    assert abs(backward - 1) < 5 * error
    halved, _ = ratios("normalized", torch.relu, start())
    assert abs(halved - 0.5) < 5 * error / 2


def test_normalized_keeps_activations_and_gradients_where_tanh_is_linear() -> None:
    forward, backward = ratios("normalized", torch.tanh, 1e-4 * start())
    error = math.sqrt(2 / (WIDTH * DEPTH))
    assert abs(forward - 1) < 5 * error
    assert abs(backward - 1) < 5 * error


def test_orthogonal_keeps_the_length_exactly() -> None:
    forward, backward = ratios("orthogonal", lambda h: h, start())
    assert abs(forward - 1) < 1e-12
    assert abs(backward - 1) < 1e-12


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(32, 64, 3, padding=1, groups=4),
        nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
        nn.ConvTranspose2d(64, 32, 6, stride=3, groups=8, padding=2),
        nn.Conv1d(64, 32, 5, dilation=2, padding=4),
    ],
)
def test_he_keeps_the_mean_square_through_convolutions(layer: nn.Module) -> None:
    weight = roles(layer)["weight"]
    assert isinstance(weight, Weight)
    layer.weight.data = draw(weight, "he", seed=0)
    layer.bias = None
    spread = [48] * (layer.weight.ndim - 2)
    x = torch.randn(8, layer.in_channels, *spread, generator=torch.Generator().manual_seed(0))
    y = layer(x)
    inner = y[(..., *[slice(12, -12)] * len(spread))]  # without the borders, where padding takes terms away
    ratio = float(inner.detach().square().mean() / x.square().mean() / 2)
    # what varies is the sum of the squared weights
    assert abs(ratio - 1) < 5 * math.sqrt(2 / weight.units / weight.fan_in) + 0.02


@pytest.mark.parametrize(
    ("layer", "fans"),
    [
        (nn.Linear(20, 30), (20, 30)),
        (nn.Bilinear(3, 4, 5), (12, 20)),
        (nn.Conv2d(8, 12, 3), (72, 108)),
        (nn.Conv2d(8, 12, 3, groups=4), (18, 27)),
        (nn.Conv2d(8, 12, 4, stride=2), (128, 48)),
        (nn.Conv1d(8, 8, 5, groups=8), (5, 5)),
        (nn.ConvTranspose2d(8, 12, 3), (72, 108)),
        (nn.ConvTranspose2d(8, 12, 4, stride=2, groups=2), (16, 96)),
    ],
)
def test_fans_count_terms(layer: nn.Module, fans: tuple[float, float]) -> None:
    weight = roles(layer)["weight"]
    assert isinstance(weight, Weight)
    assert (weight.fan_in, weight.fan_out) == fans


def test_fans_are_torchs_without_groups_and_strides() -> None:
    for shape in ((5, 7), (5, 7, 3), (5, 7, 3, 2)):
        fans = nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
        assert (dense(shape).fan_in, dense(shape).fan_out) == fans
