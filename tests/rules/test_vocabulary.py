"""Every word at NaN, infinity, zeros and denormals: on numbers, arrays, tensors and both runtimes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thalweg import rules, runtimes
from thalweg.rules import vocabulary

DENORMAL = 1e-40  # denormal in float32 and bfloat16, normal in float64
EDGES = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 2.5, -3.0, DENORMAL, -DENORMAL, 5e-324, 1e30]


def root(a):
    return math.nan if a < 0 else math.sqrt(a)


def signed(a):
    return a if a != a or a == 0 else math.copysign(1.0, a)


def least(a, b):
    return math.nan if a != a or b != b else (a if a < b else b)


def most(a, b):
    return math.nan if a != a or b != b else (a if a > b else b)


EXPECTED = {
    "sqrt": lambda a, b: root(a),
    "abs": lambda a, b: math.fabs(a),
    "sign": lambda a, b: signed(a),
    "minimum": least,
    "maximum": most,
    "where": lambda a, b: a if a > b else b,
}
WORDS = {
    "sqrt": lambda a, b: rules.sqrt(a),
    "abs": lambda a, b: rules.abs(a),
    "sign": lambda a, b: rules.sign(a),
    "minimum": rules.minimum,
    "maximum": rules.maximum,
    "where": lambda a, b: rules.where(a > b, a, b),
}
# The same as rules: the gradient and the parameter are the two arguments.
RULES = {
    "sqrt": rules.as_rule(lambda p, g: rules.sqrt(g)),
    "abs": rules.as_rule(lambda p, g: rules.abs(g)),
    "sign": rules.as_rule(lambda p, g: rules.sign(g)),
    "minimum": rules.as_rule(lambda p, g: rules.minimum(g, p)),
    "maximum": rules.as_rule(lambda p, g: rules.maximum(g, p)),
    "where": rules.as_rule(lambda p, g: rules.where(g > p, g, p)),
}


def pairs(dtype):
    # Rounded to the type first, so that what is expected is computed from what is given.
    edges = torch.tensor(EDGES, dtype=dtype)
    a, b = torch.meshgrid(edges, edges, indexing="ij")
    return a.reshape(-1).clone(), b.reshape(-1).clone()


def same(given, expected):
    given, expected = np.asarray(given, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    np.testing.assert_array_equal(given, expected)
    finite = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(given[finite]), np.signbit(expected[finite]))


def expected(word, a, b, dtype):
    exact = [EXPECTED[word](x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    return torch.tensor(exact, dtype=dtype).double().numpy()


def test_every_word_is_here():
    assert set(EXPECTED) == set(vocabulary.__all__)


@pytest.mark.parametrize("word", EXPECTED)
def test_numbers_and_arrays(word):
    a, b = pairs(torch.float64)
    wanted = expected(word, a, b, torch.float64)
    same([WORDS[word](x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)], wanted)
    assert all(type(WORDS[word](x, 1.0)) is float for x in EDGES)
    same(WORDS[word](a.numpy(), b.numpy()), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("word", EXPECTED)
def test_tensors(word, dtype):
    a, b = pairs(dtype)
    result = WORDS[word](a, b)
    assert result.dtype == dtype
    same(result.double(), expected(word, a, b, dtype))


@pytest.mark.parametrize("runtime", ["eager", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("word", EXPECTED)
def test_runtimes(word, dtype, runtime):
    if runtime not in runtimes.available():
        pytest.skip("Numba isn't installed")
    a, b = pairs(dtype)
    wanted = expected(word, a, b, dtype)
    p = b.clone()
    runtimes.apply(RULES[word], [p], [a], {}, {}, {}, 1, runtime=runtime)
    assert p.dtype == dtype
    same(p.double(), wanted)


@pytest.mark.parametrize("runtime", ["eager", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_powers_are_products_and_roots(runtime, dtype):
    if runtime not in runtimes.available():
        pytest.skip("Numba isn't installed")
    a = torch.tensor(EDGES, dtype=dtype)
    for exponent, product in [
        (1, lambda x: x),
        (2, lambda x: x * x),
        (3, lambda x: x * x * x),
        (0.5, torch.sqrt),
        (-1, lambda x: 1 / x),
        (-2, lambda x: 1 / (x * x)),
        (-0.5, lambda x: 1 / torch.sqrt(x)),
    ]:
        rule = _power(exponent)
        p = torch.zeros_like(a)
        runtimes.apply(rule, [p], [a], {}, {}, {}, 1, runtime=runtime)
        same(p.double(), product(a).double())


def _power(exponent):
    return rules.as_rule(lambda p, g: g**exponent)


def test_any_other_power_runs_eagerly_everywhere():
    a = torch.tensor([0.5, 2.0, 3.0])
    p = torch.zeros(3)
    runtimes.apply(_power(1.7), [p], [a], {}, {}, {}, 1)
    torch.testing.assert_close(p, a**1.7)
    rule = rules.as_rule(lambda p, g, *, exponent=0.25: g**exponent)
    assert not rules.trace(rule, {}, frozenset()).portable
    runtimes.apply(rule, [p], [a], {}, {"exponent": 0.25}, {}, 1)
    torch.testing.assert_close(p, a**0.25)
