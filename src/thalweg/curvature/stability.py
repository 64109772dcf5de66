"""The learning rate beyond which an optimizer diverges on the quadratic that the loss is nearby (X9)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from thalweg.curvature.eigenvalues import Eigenpair, lanczos
from thalweg.curvature.operators import CurvatureOperator
from thalweg.curvature.preconditioned import Preconditioned
from thalweg.curvature.update_rules import UpdateRule, rule_of
from thalweg.errors import OptionError

__all__ = ["StabilityBound", "seen_by", "stability"]

SecondMoment = Literal["none", "state", "batches"]


@dataclass(frozen=True, kw_only=True)
class StabilityBound:
    """A learning rate beside the largest one at which the optimizer is stable on the local quadratic.

    Attributes:
        rate: the learning rate, of the first group that trains; others keep their ratio to it.
        limit: the rate at the bound; infinite where no curvature is positive.
        ratio: ``rate / limit``. Above 1 the distance along the sharpest direction grows with every step, as
            long as the loss is its quadratic. It explains a divergence; it isn't what the rate should be:
            the best rates of minibatch training lie from far below the bound up to it, and a live second
            moment adapts.
        error: what the ratio may be wrong by.
        converged: whether that is within the tolerance.
        sharpness: the largest eigenvalue of the preconditioned matrix at a rate of 1, so that
            ``limit = constant / sharpness``, where all groups have the same constant.
        constant: of the bound: 2 for gradient descent.
        said: the bound, in words.
        second_moment: whether it was that of the optimizer's state, or the mean of squared gradients of the
            batches, for an optimizer that has taken no step; or there is none.
        left_out: trained elements that the optimizer doesn't hold, or that never had a gradient.
        elements: all that are trained.
        products: what it took.
    """

    rate: float
    limit: float
    ratio: float
    error: float
    converged: bool
    sharpness: float
    constant: float
    said: str
    second_moment: SecondMoment
    left_out: int
    elements: int
    products: int
    pair: Eigenpair = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class _Scaled:
    """A matrix whose eigenvalue 1 is the bound at a rate of 1, and what it was made of."""

    matrix: Preconditioned
    rate: float
    constant: float
    second_moment: SecondMoment
    left_out: int


def stability(
    optimizer: torch.optim.Optimizer,
    operator: CurvatureOperator,
    *,
    tolerance: float = 0.01,
    most_products: int = 100,
    start: Any = None,
    seed: int = 0,
) -> StabilityBound:
    """Compare an optimizer's learning rate with its bound of stability.

    On a quadratic with the largest curvature lambda the bound is ``2 / lambda`` for gradient descent,
    ``2 (1 + b) / lambda`` for heavy ball, ``(2 + 2b) / ((1 + 2b) lambda)`` for Nesterov's momentum. For
    optimizers that divide by the root of a second moment, P, it is that of ``P^(-1/2) H P^(-1/2)`` with the
    second moment frozen: ``(2 + 2 b1) / ((1 - b1) lambda)`` for Adam. Weight decay that is added to the
    gradient is added to H; a decoupled one shrinks the parameter in the recursion.

    An element whose second moment is exactly zero has never had a gradient: it is projected out, since eps
    alone would make it the sharpest of all. Bias correction of the first moment, which passes, is left out.
    Groups of different momentum are each measured by their own constant, which is exact where directions
    don't mix.

    Args:
        optimizer: SGD, ASGD, Adagrad, Adadelta, RMSprop, Adam, AdamW, Adamax, NAdam, RAdam, SparseAdam of
            torch or this package, its Momentum, Nesterov and ScheduleFreeAdamW, or a class made from one.
        operator: :class:`Hessian`, or :class:`GaussNewtonMatrix`, of the loss that is trained.
        tolerance, most_products, start, seed: as for :func:`lanczos`.

    Raises:
        OptionError: an optimizer without such a bound, or that holds none of the operator's parameters.
        DataError: a product isn't finite.

    >>> from thalweg.curvature import Hessian
    >>> model = torch.nn.Linear(1, 1, bias=False).double()
    >>> x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    >>> bound = stability(sgd, Hessian(model, "mse", (x, x)))  # lambda is 5
    >>> round(bound.limit, 6), round(bound.ratio, 6)
    (0.6, 0.166667)

    Source: INDEX X9 (C s40-54); Cohen et al. 2021, 2022; see :mod:`thalweg.curvature.update_rules`.
    """
    rule = rule_of(optimizer)
    with operator.held():
        scaled = _scaled(optimizer, operator, rule)
        found = lanczos(
            scaled.matrix,
            ends="largest",
            tolerance=tolerance,
            most_products=most_products,
            start=start,
            seed=seed,
        )
    pair = found.largest
    limit = 1 / pair.value if pair.value > 0 else math.inf
    return StabilityBound(
        rate=scaled.rate,
        limit=limit,
        ratio=scaled.rate / limit,
        error=scaled.rate * pair.error,
        converged=pair.converged,
        sharpness=scaled.constant * pair.value,
        constant=scaled.constant,
        said=rule.said,
        second_moment=scaled.second_moment,
        left_out=scaled.left_out,
        elements=operator.vectors.size,
        products=found.products,
        pair=pair,
    )


def seen_by(optimizer: torch.optim.Optimizer, operator: CurvatureOperator) -> Preconditioned:
    """Return ``P^(-1/2) H P^(-1/2)`` as an optimizer sees it, so scaled that its bound on the rate is 1.

    The largest rate at which it is stable on the local quadratic is one over the largest eigenvalue.
    Arguments and errors: as for :func:`stability`.
    """
    return _scaled(optimizer, operator, rule_of(optimizer)).matrix


def _scaled(optimizer: torch.optim.Optimizer, operator: CurvatureOperator, rule: UpdateRule) -> _Scaled:
    name = type(optimizer).__name__
    parameters = operator.vectors.parameters
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    held = [p for p in parameters.values() if id(p) in groups]
    if not held:
        raise OptionError(
            f"stability: {name} holds none of the {len(parameters)} parameters of the matrix; give the "
            "optimizer of this model"
        )
    signs = {-1.0 if groups[id(p)].get("maximize") else 1.0 for p in held}
    if len(signs) > 1:
        raise OptionError("stability: some groups climb (maximize) and others descend; give one kind")
    rates = {id(group): float(group["lr"]) for group in groups.values()}
    first = groups[id(held[0])]
    rate = next((each for each in map(float, (groups[id(p)]["lr"] for p in held)) if each), 0.0)
    states = {id(p): optimizer.state.get(p, {}) for p in held}
    fresh = rule.divisor is not None and not any(states.values())
    squares = _squares(operator, rule, name) if fresh else {}
    scales, shifts, left_out, constant = [], [], 0, 0.0
    for p in parameters.values():
        if id(p) not in groups:
            scales.append(torch.zeros_like(p))
            shifts.append(torch.zeros_like(p))
            left_out += p.numel()
            continue
        group = groups[id(p)]
        state = states[id(p)]
        if fresh and rule.filled is not None:
            state = rule.filled(group, squares[id(p)])
        try:
            divisor = _divisor(rule, group, state, p)
            recursion = replace(rule.recursion(group, state), kept=rule.kept(group))
        except KeyError as missing:
            raise OptionError(
                f"stability: {name} has no {missing} among its options or states, by which the bound could "
                "be computed; scale the matrix yourself: lanczos(Preconditioned(operator, scale))"
            ) from None
        # rates that are all 0, as at the start of a warm-up, count as equal
        share = rates[id(group)] / rate if rate else 1.0
        scales.append((share / recursion.limit / divisor).sqrt().to(p.dtype))
        shifts.append(_shift(rule, group, divisor, p))
        left_out += int((scales[-1] == 0).sum())
        if group is first:
            constant = recursion.limit
    matrix = Preconditioned(
        operator, [s.detach() for s in scales], shift=[s.detach() for s in shifts], sign=signs.pop()
    )
    moment: SecondMoment = "none" if rule.divisor is None else "batches" if fresh else "state"
    return _Scaled(matrix=matrix, rate=rate, constant=constant, second_moment=moment, left_out=left_out)


def _divisor(rule: UpdateRule, group: Mapping[str, Any], state: Mapping[str, Any], p: Tensor) -> Tensor:
    if rule.divisor is None:
        return torch.ones_like(p)
    if not state:
        # others have stepped, this one has never had a gradient
        return torch.full_like(p, torch.inf)
    return rule.divisor(group, state).to(p.device)


def _shift(rule: UpdateRule, group: Mapping[str, Any], divisor: Tensor, p: Tensor) -> Tensor:
    """What weight decay adds to the diagonal."""
    decay = float(group.get("weight_decay", 0.0))
    where = rule.where_decay_acts(group)
    if where == "beside":
        # it isn't divided: in the scaled matrix it has to come out as it is
        return (decay * divisor).masked_fill(divisor.isinf(), 0.0).to(p.dtype)
    return torch.full_like(p, decay if where == "gradient" else 0.0)


def _squares(operator: CurvatureOperator, rule: UpdateRule, name: str) -> dict[int, Tensor]:
    """The mean over batches of squared gradients, by parameter."""
    if rule.filled is None:
        raise OptionError(f"stability: {name} has taken no step, so that it has no averages; take some first")
    found = operator.squared_gradients()
    return {id(p): each for p, each in zip(operator.vectors.leaves, found, strict=True)}
