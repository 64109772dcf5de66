"""Bounds of numbers: what they take, and what is asked for instead, in words."""

from __future__ import annotations

import math

import pytest

from thalweg import catalogue, optim
from thalweg.errors import OptionError
from thalweg.optim.base import check_bounds
from thalweg.settings.bounds import ABOVE_ZERO, ANY, BETAS, FRACTION, FROM_ZERO, Bounds, PairBounds


@pytest.mark.parametrize(
    ("bounds", "taken", "refused", "asked"),
    [
        (FROM_ZERO, (0, 1e300), (-1e-300, math.inf, math.nan), "a finite number of at least 0"),
        (ABOVE_ZERO, (1e-300,), (0, math.inf, math.nan), "a finite number above 0"),
        (FRACTION, (0, 0.999), (1, -0.1, math.nan), "a number of at least 0 and below 1"),
        (ANY, (-1, math.inf), (), "a number"),
        (Bounds(least=1), (1, math.inf), (0.999, math.nan), "a number of at least 1"),
        (Bounds(above=0, below=1), (0.5,), (0, 1), "a number above 0 and below 1"),
        (Bounds(least=1, whole=True), (1, 5), (0,), "a whole number of at least 1"),
        (Bounds(least=1, whole=True, optional=True), (1,), (0,), "a whole number of at least 1, or None"),
        (Bounds(least=1, most=99, whole=True), (1, 99), (0, 100), "a whole number from 1 to 99"),
    ],
)
def test_what_they_take_and_ask_for(
    bounds: Bounds, taken: tuple[float, ...], refused: tuple[float, ...], asked: str
) -> None:
    assert all(bounds.hold(number) for number in taken)
    assert not any(bounds.hold(number) for number in refused)
    assert bounds.asked() == asked


def test_a_reason_is_told_where_it_is_one() -> None:
    bounds = Bounds(above=0, below=1, why="since nothing is left then")
    assert bounds.asked(0.0) == "a number over 0, since nothing is left then"
    assert bounds.asked(1.5) == "a number above 0 and below 1"


def test_pairs_of_them() -> None:
    rising = PairBounds(first=FROM_ZERO, second=FROM_ZERO, rising=True, optional=True, asked="two that rise")
    check_bounds("One", "sizes", (1, 1), rising)
    check_bounds("One", "sizes", None, rising)
    for wrong in ((2, 1), (-1, 1)):
        with pytest.raises(OptionError, match=r"^One: step_sizes is .*; give two that rise$"):
            check_bounds("One", "step_sizes", wrong, rising)
    for none, name in ((None, "betas"), (0.9, "betas")):
        with pytest.raises(OptionError, match=r"^One: betas is .*; give two numbers such as"):
            check_bounds("One", name, none, BETAS)
    with pytest.raises(OptionError, match=r"^One: betas\[0\] is 1; give a number of at least 0 and below 1$"):
        check_bounds("One", "betas", (1, 0.5), BETAS)


def test_a_row_has_the_bounds_of_its_class() -> None:
    beta1 = next(one for one in catalogue.get("adam").hyperparameters if one.name == "beta1")
    betas = optim.Adam.bounds["betas"]
    assert isinstance(betas, PairBounds)
    assert (beta1.least, beta1.above, beta1.most, beta1.below) == (0, None, None, 1)
    assert (betas.first.least, betas.first.below) == (0, 1)
    ceiling = next(one for one in catalogue.get("rprop").hyperparameters if one.name == "step_size_max")
    assert (ceiling.least, ceiling.not_under) == (0, "step_size_min")


def test_a_class_of_ones_own_is_checked_by_its_bounds() -> None:
    import torch

    class Mine(optim.Adam):
        bounds = {**optim.Adam.bounds, "lr": Bounds(most=1)}  # noqa: RUF012

    with pytest.raises(OptionError, match=r"^Mine: lr is 2; give a number at most 1$"):
        Mine([torch.nn.Parameter(torch.ones(1))], lr=2)
