"""Maxout, dropout and fractional max pooling against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.layers.units import Dropout, FractionalMaxPool2d, Maxout, dropout, maxout
from thalweg.randomness import streams
from thalweg.randomness.keyed import Keyed, RunDraws


def keyed(seed: int, step: int) -> Keyed:
    draws = RunDraws(seed, torch.device("cpu"))
    draws.step = step
    return Keyed(draws)


@pytest.mark.parametrize(("shape", "axis"), [((4, 6), 1), ((4, 6, 5), 1), ((4, 5, 6), -1), ((2, 6, 3, 3), 1)])
def test_maxout_is_the_largest_piece(shape: tuple[int, ...], axis: int) -> None:
    h = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out = maxout(h, 3, axis=axis)
    pieces = h.movedim(axis, -1)
    expected = torch.stack([pieces[..., :3].max(-1).values, pieces[..., 3:].max(-1).values], -1)
    assert torch.equal(out, expected.movedim(-1, axis))
    assert torch.equal(Maxout(3, axis=axis)(h), out)
    assert torch.autograd.gradcheck(lambda h: maxout(h, 3, axis=axis), (h,))


def test_maxout_units_are_convex_and_can_be_the_absolute_value() -> None:
    layer = nn.Sequential(nn.Linear(1, 2, bias=False), Maxout(2))
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.linspace(-3, 3, 13).unsqueeze(1)
    assert torch.equal(layer(x), x.abs())


def test_maxout_refuses_what_it_cant_divide() -> None:
    with pytest.raises(ModelError, match="5 features can't be divided into maxout units of 2 pieces"):
        maxout(torch.zeros(1, 5), 2)
    with pytest.raises(OptionError, match="pieces = 0"):
        Maxout(0)


@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_keeps_the_expectation(inverted: bool, dtype: torch.dtype) -> None:
    p, count = 0.3, 200_000
    x = torch.full((count,), 2.0, dtype=dtype)
    layer = Dropout(p, inverted=inverted)
    with keyed(0, 0):
        out = layer(x)
    kept = out[out != 0]
    expected = torch.tensor(2.0, dtype=dtype) * (1 / 0.7 if inverted else 1.0)
    torch.testing.assert_close(kept, expected.to(dtype).expand(len(kept)), rtol=1e-2, atol=0)
    assert abs(len(kept) / count - 0.7) < 5 * math.sqrt(0.21 / count)
    still = layer.eval()(x)
    torch.testing.assert_close(still, x if inverted else x * 0.7)


def test_both_kinds_drop_the_same_units_and_inverted_is_torchs() -> None:
    x = torch.randn(50)
    results = []
    for call in (
        lambda: dropout(x, 0.4, training=True),
        lambda: dropout(x, 0.4, training=True, inverted=False) / 0.6,
        lambda: F.dropout(x, 0.4),
    ):
        with keyed(3, 7):
            results.append(call())
    torch.testing.assert_close(results[0], results[1])
    assert torch.equal(results[0], results[2])
    torch.manual_seed(5)
    ours = dropout(x, 0.4, training=True)
    torch.manual_seed(5)
    assert torch.equal(ours, F.dropout(x, 0.4))


def test_the_mean_over_all_masks_is_the_evaluation_of_a_linear_layer() -> None:
    """Exact: every mask of four units, weighted by its chance."""
    x, w = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    p = 0.3
    mean = 0.0
    for number in range(16):
        mask = torch.tensor([(number >> bit) & 1 for bit in range(4)], dtype=torch.float64)
        chance = math.prod(1 - p if kept else p for kept in mask.tolist())
        mean += chance * float(w @ (x * mask))
    assert float(w @ dropout(x, p, training=False, inverted=False)) == pytest.approx(mean, rel=1e-12)


def test_dropout_refuses_rates_outside() -> None:
    for p in (-0.1, 1.0, math.nan):
        with pytest.raises(OptionError, match="isn't allowed: the chance to be dropped"):
            Dropout(p)


def starts(size: int, pooled: int, kernel: int, u: float) -> list[int]:
    """Where regions begin: Graham's pseudorandom sequence as torch computes it, the last at the border."""
    alpha = (size - kernel) / (pooled - 1)
    return [int((i + u) * alpha) - int(u * alpha) for i in range(pooled - 1)] + [size - kernel]


def pooled_by_hand(x: Tensor, shape: tuple[int, int], kernel: int, u: tuple[float, float]) -> Tensor:
    rows = starts(x.shape[0], shape[0], kernel, u[1])
    columns = starts(x.shape[1], shape[1], kernel, u[0])
    return torch.stack(
        [torch.stack([x[r : r + kernel, c : c + kernel].max() for c in columns]) for r in rows]
    )


def test_fractional_pooling_takes_the_largest_of_drawn_regions() -> None:
    x = torch.randn(2, 3, 11, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = FractionalMaxPool2d(2, output_ratio=(0.7, 0.6))
    with keyed(0, 5):
        out = layer(x)
    with keyed(0, 5):
        draws = torch.rand((2, 3, 2), dtype=torch.float64)
    for b in range(2):
        for c in range(3):
            u = (float(draws[b, c, 0]), float(draws[b, c, 1]))
            assert torch.equal(out[b, c], pooled_by_hand(x[b, c], (7, 8), 2, u))
    with keyed(0, 6):
        assert not torch.equal(layer(x), out)


def test_in_evaluation_it_is_the_mean_over_a_fixed_set() -> None:
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = FractionalMaxPool2d(2, output_ratio=0.6, draws=3, seed=4).eval()
    out = layer(x)
    torch.rand(5)
    assert torch.equal(layer(x), out)
    assert torch.equal(layer(x[1:]), out[1:])
    other = FractionalMaxPool2d(2, output_ratio=0.6, draws=3, seed=5).eval()
    assert not torch.equal(other(x), out)
    regions = streams.uniform((3, 2), seed=4, stream="layers/fractional-max-pool").tolist()
    by_hand = [pooled_by_hand(x[1, 2], (5, 5), 2, (u, v)) for u, v in regions]
    torch.testing.assert_close(out[1, 2], torch.stack(by_hand).mean(0))


def test_fractional_pooling_refuses_what_doesnt_fit() -> None:
    with pytest.raises(ModelError, match="doesn't fit"):
        FractionalMaxPool2d(3, output_ratio=0.9)(torch.zeros(1, 1, 5, 5))
    with pytest.raises(ModelError, match="doesn't fit"):
        FractionalMaxPool2d(output_ratio=0.5)(torch.zeros(1, 5, 5))
    with pytest.raises(OptionError, match=r"output_ratio = 1\.0 isn't allowed"):
        FractionalMaxPool2d(output_ratio=1.0)
    with pytest.raises(OptionError, match="must both be at least 1"):
        FractionalMaxPool2d(draws=0)
