"""Functions that change what they are given, or give what can't be differentiated: one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.secondorder import METHODS, least_squares, minimize

X0 = torch.tensor([3.0, 4.0], dtype=torch.float64)


def shifting(x: Tensor) -> Tensor:
    x -= 1
    return (x**2).sum()


def setting(x: Tensor) -> Tensor:
    x[0] = 0
    return (x**2).sum()


def without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        x.sub_(1)
    return (x**2).sum()


def through_data(x: Tensor) -> Tensor:
    x.data.sub_(1)
    return (x**2).sum()


def detached(x: Tensor) -> Tensor:
    half = x.detach()
    half.mul_(0.5)
    return (x**2).sum()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fun", [shifting, setting, without_gradients, through_data, detached])
def test_a_function_that_changes_x_is_refused(fun: Callable[[Tensor], Tensor], method: str) -> None:
    before = X0.clone()
    with pytest.raises(
        OptionError, match=r"^minimize: the function changes x in place; .*x = x - 1 in place"
    ):
        minimize(fun, X0, method=method)
    assert torch.equal(X0, before)


def test_residuals_and_lanes_and_structures_likewise() -> None:
    with pytest.raises(OptionError, match=r"^least_squares: the function changes x in place"):
        least_squares(lambda x: x.sub_(1), X0)
    with pytest.raises(OptionError, match=r"^minimize: the function changes x in place"):
        minimize(lambda x: (x.sub_(1) ** 2).sum(1), torch.ones(2, 2), lanes=True)
    with pytest.raises(OptionError, match=r"^minimize: the function changes x in place"):
        minimize(lambda x: (x["a"].sub_(1) ** 2).sum(), {"a": X0})


def test_a_copy_may_be_changed_and_tensors_of_ones_own() -> None:
    calls = torch.zeros(())

    def fun(x: Tensor) -> Tensor:
        calls.add_(1)
        y = x.clone()
        y -= 1
        return (y**2).sum()

    found = minimize(fun, X0)
    assert found.x.tolist() == pytest.approx([1, 1], abs=1e-6)
    assert calls.item() == found.counts.evaluations


def test_a_change_that_begins_later_is_refused_too() -> None:
    def fun(x: Tensor) -> Tensor:
        value = (x**2).sum()
        if value < 20:
            x.data.fill_(100.0)
        return value

    with pytest.raises(OptionError, match="changes x in place"):
        minimize(fun, X0, method="bfgs")


@pytest.mark.parametrize("method", ["lbfgs", "newton", "newton-cg"])
def test_tensors_that_a_gradient_needs(method: str) -> None:
    def fun(x: Tensor) -> Tensor:
        y = x.exp()
        y += 1
        return y.sum()

    with pytest.raises(OptionError, match="changes a tensor in place that its gradient needs"):
        minimize(fun, X0, method=method)
    with pytest.raises(OptionError, match="changes a tensor in place that its gradient needs"):
        least_squares(lambda x: x.exp().add_(1), X0)


@pytest.mark.parametrize(
    ("fun", "words"),
    [
        (
            lambda x: torch.tensor(np.square(x.numpy()).sum()),
            r"can't be differentiated by x; .*without numpy",
        ),
        (lambda x: (x.detach() ** 2).sum(), "can't be differentiated by x"),
        (lambda x: (x**2).sum() * 1j, "returned torch.complex128; it has to return real numbers"),
        (lambda x: (x**2).sum().long(), "can't be differentiated by x"),
        (lambda x: x**2, r"returned \(2,\); it has to return a tensor of shape \(\)"),
        (lambda x: (x**2).sum().item(), "returned float; it has to return a tensor"),
        (None, "the function is a NoneType"),
    ],
)
@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_what_a_function_gives(fun: Any, words: str) -> None:
    with pytest.raises(OptionError, match=f"^minimize: .*{words}"):
        minimize(fun, X0)


def test_mistakes_of_a_persons_own_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        minimize(lambda x: x @ torch.ones(3, dtype=torch.float64), X0)
    with pytest.raises(ZeroDivisionError):
        minimize(lambda x: x.sum() / (1 // 0), X0)


@pytest.mark.parametrize(
    ("x0", "words"),
    [
        (torch.tensor([3, 4]), r"a tensor is int64, whose numbers are whole; give double\(\) of it"),
        ([X0, torch.tensor([True])], "a tensor is bool, whose numbers are whole"),
        (X0.half(), "a tensor is float16, in which curvature drowns"),
        (X0.to_sparse(), r"sparse, which isn't minimized over; give to_dense\(\)"),
    ],
)
def test_where_to_start(x0: Any, words: str) -> None:
    for solve in (minimize, least_squares):
        with pytest.raises(OptionError, match=words):
            solve(lambda x: (x**2).sum(), x0)  # type: ignore[operator]
