"""Gradients of any size in single precision, beside torch's own class: where squares overflow or vanish."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contract.subjects import SUBJECTS, Subject

FIRST_ORDER = [subject for subject in SUBJECTS if subject.step_kind == "gradient"]
SIZES = [3e38, 1e30, 1e19, 1e-19, 1e-30, 1e-40]

# Those that torch has under the same name, but which don't do the same at extremes, and why.
OTHERWISE = {
    "muon": "torch's takes matrices alone, and no step where squares overflow (tests/optim/test_muon.py)",
    "rmsprop:momentum=0.5:centered=True": "infinity less infinity is NaN in torch on some processors",
    "rprop:overshoot=back:step_sizes=None": "torch doesn't go back",
}
TWINS = [subject for subject in FIRST_ORDER if subject.torchs is not None and subject.name not in OTHERWISE]


def path(make: Callable[[Any], Any], size: float) -> Tensor:
    """Six steps, the third and the fourth with gradients of that size; the parameter after each of them."""
    p = nn.Parameter(torch.linspace(-1, 1, 12).reshape(4, 3))
    optimizer = make([p])
    generator = torch.Generator().manual_seed(0)
    found = []
    for step in range(6):
        noise = torch.rand(4, 3, generator=generator) * 2 - 1
        p.grad = noise * (size if step in (2, 3) else 1)
        optimizer.step()
        found.append(p.detach().clone())
    return torch.stack(found)


def of_torch(subject: Subject) -> Callable[[Any], Any]:
    group = subject.make([nn.Parameter(torch.zeros(1))]).param_groups[0]
    known = inspect.signature(subject.torchs).parameters
    options = {name: value for name, value in group.items() if name in known and name != "params"}
    return lambda params: subject.torchs(params, **options)


@pytest.mark.parametrize("subject", FIRST_ORDER, ids=lambda subject: subject.name)
def test_no_finite_gradient_makes_a_nan(subject: Subject) -> None:
    for size in SIZES:
        assert not path(subject.make, size).isnan().any(), size


@pytest.mark.parametrize("subject", TWINS, ids=lambda subject: subject.name)
def test_steps_at_extremes_are_torchs(subject: Subject) -> None:
    sizes = [*SIZES, float("inf"), float("nan")]
    if subject.name.startswith("rprop"):
        # signs are compared here; torch multiplies gradients, which may vanish, and takes NaN for zero
        sizes = [size for size in SIZES if size >= 1e-19]
    for size in sizes:
        ours, theirs = path(subject.make, size), path(of_torch(subject), size)
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6, equal_nan=True)


def test_what_is_otherwise_is_there() -> None:
    assert set(OTHERWISE) <= {subject.name for subject in FIRST_ORDER}
