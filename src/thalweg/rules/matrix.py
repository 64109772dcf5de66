"""The second kind of rule: one that needs a whole tensor at once, in torch operations, batched over lanes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from thalweg.rules.program import Floats
from thalweg.rules.rule import Rule, as_rule

__all__ = ["Begin", "MatrixRule", "matrix_rule", "rows"]

Begin = Callable[[Tensor, Mapping[str, Floats], Mapping[str, Any]], dict[str, Tensor]]
"""Parameter ``[K, ...]``, hyperparameters ``[K]`` and options to the states before the first step."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MatrixRule(Rule):
    """A rule over whole tensors: Muon's, SOAP's.

    The signature is read as an elementwise rule's, but it isn't traced. The function gets tensors
    ``[K, ...]`` (K = 1 without lanes) in the compute type, every hyperparameter as a float64 array ``[K]``,
    and ``t`` as an int; it returns new tensors, in which no lane may depend on another. What it computes from
    hyperparameters alone it computes on the arrays, and brings to tensors by :func:`rows`.

    Attributes:
        begin: makes the states before the first step; a state that a tensor doesn't need is ``[K, 0]``.
    """

    begin: Begin


def matrix_rule(*, begin: Begin) -> Callable[[Callable[..., Any]], MatrixRule]:
    """Make a matrix rule of a function (decorator).

    Args:
        begin: makes the states before the first step.

    Raises:
        RuleError: the signature isn't that of a rule.

    >>> @matrix_rule(begin=lambda p, hyper, options: {})
    ... def normalized(p, g, *, lr=0.1):
    ...     return p - rows(lr, p) * g / torch.linalg.matrix_norm(g, keepdim=True)
    >>> normalized
    <rule normalized>
    """

    def made(function: Callable[..., Any]) -> MatrixRule:
        read = as_rule(function)
        known = {field.name: getattr(read, field.name) for field in fields(Rule)}
        rule = MatrixRule(**known, begin=begin)
        object.__setattr__(rule, "__doc__", function.__doc__)
        function.__dict__["__thalweg_rule__"] = rule
        return rule

    return made


def rows(values: Any, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return numbers of lanes ``[K]`` as a tensor that broadcasts against ``like`` ``[K, ...]``.

    Args:
        values: float64 ``[K]``.
        like: gives device and number of axes, and the type unless ``dtype`` does.
    """
    cast = torch.from_numpy(values).to(device=like.device, dtype=dtype or like.dtype)
    return cast.reshape(-1, *(1,) * (like.ndim - 1))
