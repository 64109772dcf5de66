"""Steps that autograd goes through: the rule's own function on tensors, hyperparameters among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.optim.views import real
from thalweg.rules import Rule
from thalweg.settings.tables import is_number

__all__ = ["LOW_PRECISION", "begin", "never_zero", "plain", "step"]

LOW_PRECISION = (torch.float16, torch.bfloat16)


class _NeverZero(Tensor):
    """A hyperparameter that is differentiated: the branch of a rule for those that are zero is a constant."""

    # what is computed from it is a plain tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> Any:
        return False if _is_zero(other) else Tensor.__eq__(self, other)

    def __ne__(self, other: object) -> Any:
        return True if _is_zero(other) else Tensor.__ne__(self, other)

    __hash__ = Tensor.__hash__


def _is_zero(value: object) -> bool:
    return is_number(value) and value == 0


def never_zero(hyper: Mapping[str, Any]) -> dict[str, float]:
    """Return numbers with which a rule has the states that derivatives at these hyperparameters need."""
    return {
        name: (plain(value) or 1.0) if _is_differentiated(value) else plain(value)
        for name, value in hyper.items()
    }


def begin(rule: Rule, name: str, value: Tensor, hyper: Mapping[str, Any]) -> Tensor:
    """Return a first state as part of the graph, where it is a hyperparameter that is differentiated."""
    number: Any = hyper.get(str(rule.initial.get(name)))
    return value * 0 + number.reshape(()) if _is_differentiated(number) else value


def step(
    p: Tensor,
    row: dict[str, Any],
    live: tuple[str, ...],
    scalars: tuple[str, ...],
    settings: tuple[Rule, Mapping[str, Any], Mapping[str, Any]],
    t: int,
    *,
    maximize: bool,
) -> None:
    """Step one parameter through autograd; the parameter is overwritten, states are replaced.

    Args:
        p: the parameter, with a gradient.
        row: its states.
        live: the states that these settings need, tensors.
        scalars: those that are one number, whose graph is kept too.
        settings: rule, hyperparameters, options.
        t: step, from 1.
        maximize: climb.
    """
    assert p.grad is not None
    rule, hyper, options = settings
    # one element may come with axes, along which it would spread
    hyper = {name: value.reshape(()) if isinstance(value, Tensor) else value for name, value in hyper.items()}
    given = {
        name: value.as_subclass(_NeverZero) if _is_differentiated(value) else value
        for name, value in hyper.items()
    }
    # The parameter is overwritten below; autograd may still need what it was.
    tensors = real([p.clone(), -p.grad if maximize else p.grad])
    if p.dtype in LOW_PRECISION:
        tensors = [tensor.float() for tensor in tensors]
    # A state that isn't live is handed through unread: any number will do.
    states: list[Any] = []
    for name in rule.states:
        if name in live:
            states += real([row[name]])
        elif name in scalars:
            states.append(_scalar(rule, name, row, hyper))
        else:
            states.append(0.0)
    new = rule(*tensors, *states, **given, **options, **({"t": t} if rule.uses_step else {}))
    new = new if isinstance(new, tuple) else (new,)
    if p.is_complex():
        whole = [p.shape, *(row[name].shape if name in live else () for name in rule.states)]
        new = tuple(
            torch.view_as_complex(value) if isinstance(value, Tensor) and value.ndim > len(shape) else value
            for value, shape in zip(new, whole, strict=True)
        )
    for name, value in zip(rule.states, new[1:], strict=True):
        if name in live:
            row[name] = value
        elif name in scalars:
            row[name] = torch.as_tensor(value, dtype=torch.float64)
    p.copy_(new[0])


def _scalar(rule: Rule, name: str, row: Mapping[str, Any], hyper: Mapping[str, Any]) -> Any:
    if name in row:
        held = row[name]
        # a number of a column that steps without a graph overwrite, or one of the graph
        return held if held.requires_grad else held.item()
    initial = rule.initial.get(name, 0.0)
    return hyper[initial] if isinstance(initial, str) else initial


def _is_differentiated(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def plain(value: Any) -> float:
    """Return a hyperparameter as a number; it may be a tensor of one element."""
    return value.item() if isinstance(value, Tensor) else float(value)
