"""Clipping against closed forms, against torch, and against the slide written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from thalweg.errors import OptionError
from thalweg.optim.clipping import clip_by_norm, clip_by_unit, clip_by_value, total_norm


def drawn(seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in ((4, 3), (7,), (2, 3, 2), ())]


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0, math.inf])
def test_the_norm_is_that_of_one_long_vector(p: float) -> None:
    tensors = drawn()
    long = torch.cat([tensor.flatten() for tensor in tensors])
    expected = long.abs().max() if p == math.inf else long.abs().pow(p).sum() ** (1 / p)
    torch.testing.assert_close(total_norm(tensors, p), expected)
    torch.testing.assert_close(total_norm(tensors, p), nn.utils.get_total_norm(tensors, p))


def test_the_norm_of_mixed_and_of_half_precision() -> None:
    tensors = drawn()
    mixed = [tensors[0].float(), tensors[1], tensors[2].bfloat16(), tensors[3].half()]
    long = torch.cat([tensor.double().flatten() for tensor in mixed])
    for power in (1.0, 2.0, 3.0, math.inf):
        expected = torch.linalg.vector_norm(long, power)
        torch.testing.assert_close(total_norm(mixed, power), expected, rtol=1e-6, atol=0)
    large = torch.full((100,), 1000.0, dtype=torch.float16)
    assert float(total_norm([large])) == 10000.0  # its square has no place in half precision
    assert float(total_norm([])) == 0.0


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_clipping_by_norm_scales_to_exactly_the_bound(p: float) -> None:
    gradients, before = drawn(), drawn()
    bound = 0.25 * float(total_norm(before, p))
    norm, factor = clip_by_norm(gradients, bound, p)
    torch.testing.assert_close(norm, total_norm(before, p))
    assert float(factor) == pytest.approx(0.25)
    assert float(total_norm(gradients, p)) == pytest.approx(bound, rel=1e-12)
    for gradient, old in zip(gradients, before, strict=True):
        torch.testing.assert_close(gradient, 0.25 * old)


def test_clipping_by_norm_is_torchs_but_for_its_tiny_summand() -> None:
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in drawn()]
    for parameter, gradient in zip(parameters, drawn(), strict=True):
        parameter.grad = gradient
    nn.utils.clip_grad_norm_(parameters, 0.7)
    gradients = drawn()
    clip_by_norm(gradients, 0.7)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=0)


def test_small_gradients_and_none_stay_to_the_bit() -> None:
    gradients = drawn()
    assert float(clip_by_norm(gradients, 1e6).factor) == 1.0
    assert all(torch.equal(a, b) for a, b in zip(gradients, drawn(), strict=True))
    zero = [torch.zeros(3)]
    assert float(clip_by_norm(zero, 1.0).factor) == 1.0
    assert zero[0].tolist() == [0.0] * 3
    clip_by_norm([], 1.0)


def test_gradients_that_arent_finite() -> None:
    gradients = [torch.tensor([1.0, math.nan]), torch.tensor([3.0])]
    assert math.isnan(float(clip_by_norm(gradients, 0.1).norm))
    assert gradients[1].tolist() == [3.0]
    overflowing = [torch.tensor([1e30, -1e30]), torch.tensor([3.0])]
    assert math.isinf(float(clip_by_norm(overflowing, 0.1).norm))
    assert overflowing[0].tolist() == [0.0, 0.0]
    values = torch.tensor([math.nan, math.inf, -math.inf])
    clip_by_value([values], 2.0)
    assert math.isnan(float(values[0]))
    assert values[1:].tolist() == [2.0, -2.0]


def test_clipping_by_value() -> None:
    gradients = drawn()
    clip_by_value(gradients, 0.5)
    for gradient, old in zip(gradients, drawn(), strict=True):
        expected = [min(max(v, -0.5), 0.5) for v in old.flatten().tolist()]
        assert gradient.flatten().tolist() == expected


@pytest.mark.parametrize("share", [0.01, 0.3, 5.0])
def test_clipping_by_unit_is_the_papers_formula_unit_by_unit(share: float) -> None:
    weights, gradients = drawn(1), drawn()
    weights[0][2] = 0.0  # a unit without weights is bounded by the floor
    clip_by_unit(weights, gradients, share, floor=1e-2)
    for weight, gradient, old in zip(weights, gradients, drawn(), strict=True):
        units = [(weight, gradient, old)] if old.ndim < 2 else zip(weight, gradient, old, strict=True)
        for w, g, before in units:
            length = math.sqrt(sum(v * v for v in before.flatten().tolist()))
            bound = share * max(math.sqrt(sum(v * v for v in w.flatten().tolist())), 1e-2)
            expected = before * (bound / length) if length > bound else before
            torch.testing.assert_close(g, expected)


def test_clipping_by_unit_of_half_precision_and_of_what_isnt_finite() -> None:
    weight = torch.full((2, 100), 100.0, dtype=torch.float16)
    gradient = torch.full((2, 100), 1000.0, dtype=torch.float16)
    clip_by_unit([weight], [gradient], 0.1)
    torch.testing.assert_close(gradient, torch.full((2, 100), 10.0, dtype=torch.float16))
    gradient = torch.tensor([[math.nan, 1.0], [3.0, 4.0], [0.0, 0.0]])
    clip_by_unit([torch.ones(3, 2)], [gradient], 0.1)
    assert float(gradient[0, 1]) == 1.0
    torch.testing.assert_close(gradient[1].norm(), torch.tensor(0.1 * math.sqrt(2)))
    assert gradient[2].tolist() == [0.0, 0.0]


def test_bounds_that_arent_allowed() -> None:
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(OptionError, match="largest = "):
            clip_by_norm([], wrong)
        with pytest.raises(OptionError, match="largest = "):
            clip_by_value([], wrong)
        with pytest.raises(OptionError, match="share = "):
            clip_by_unit([], [], wrong)
    with pytest.raises(OptionError, match="floor = 0"):
        clip_by_unit([], [], floor=0)
    with pytest.raises(OptionError, match="p = 0"):
        total_norm([], 0)
