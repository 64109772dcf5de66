"""A learning-rate range test: the loss while the rate grows from far too low to far too high."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.data.examples import pair
from thalweg.errors import DataError, OptionError
from thalweg.layers.holding import check_held, strangers, unreached
from thalweg.layers.modes import begin_training
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched
from thalweg.objectives import Loss
from thalweg.objectives.losses import no_gradient
from thalweg.run.targets import suited_loss
from thalweg.secondorder.closures import ClosureOptimizer

__all__ = ["RangeTest", "rate_range_test"]


@dataclass(frozen=True, kw_only=True)
class RangeTest:
    """The curve of a range test, and what it says.

    Attributes:
        rates: of each step, growing by the same factor.
        losses: on the batch of each step, before it.
        smoothed: their exponentially decaying mean, corrected for its beginning.
        steepest: the rate at which the smoothed loss falls fastest; ``None`` where it never falls.
        largest: the rate at which the smoothed loss is lowest: beyond it training becomes unstable.
        ended: why the test ended.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float | None
    largest: float
    ended: str


def rate_range_test(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    loss: str | Callable[[Any, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
    bound: float = 4.0,
    smoothing: float = 0.9,
) -> RangeTest:
    """Train a few steps while the rate grows geometrically, and take everything back afterwards.

    Args:
        model: trained from the point where it is. It and the optimizer are as before afterwards, also where
            an error ends the test: values, gradients, buffers, modes, options; so are all random generators,
            those of a DataLoader too. Batches that draw elsewhere go on from where they are.
        batches: (inputs, targets); begun anew where they are fewer than ``steps`` and can be.
        loss: a name, or a function of outputs and targets, as for :func:`thalweg.fit`.
        optimizer: over the model's parameters, any that takes gradients; its groups keep the
            ratios of their rates.
        lowest, highest: the ends of the range, for the first group.
        steps: at least 2.
        bound: the test ends where the smoothed loss is over this multiple of its best.
        smoothing: weight of the past in the smoothed loss, in ``[0, 1)``.

    Returns:
        The curve.

    Raises:
        UserError: a range or a number of steps that isn't one; no batches, or some that are no pairs of
            inputs and targets; a model that doesn't take the inputs; an optimizer that calls a closure, has
            no learning rate, or isn't over the model's parameters.

    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(64, 4)
    >>> model = nn.Linear(4, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> test = rate_range_test(model, [(x, x.sum(1, keepdim=True))], nn.functional.mse_loss, optimizer)
    >>> test.steepest < test.largest < 10, optimizer.param_groups[0]["lr"]
    (True, 0.1)

    Source: R7 (K, what a curve says of its rate); Smith 2017.
    """
    if not 0 < lowest < highest < math.inf:
        raise OptionError(f"a range from {lowest} to {highest} isn't one: give 0 < lowest < highest")
    if steps < 2:
        raise OptionError(f"steps = {steps} aren't enough for a curve: give 2 or more, such as 100")
    if not 0 <= smoothing < 1:
        raise OptionError(f"smoothing = {smoothing} isn't allowed: give a number in [0, 1)")
    _check_optimizer(optimizer, model)
    suited = suited_loss(loss, {})
    modules = [model, *([loss] if isinstance(loss, nn.Module) else [])]
    foreign = strangers(optimizer, *modules)
    place = next((p.device for p in model.parameters()), torch.device("cpu"))
    first = float(optimizer.param_groups[0]["lr"]) or 1.0
    shares = [float(group["lr"]) / first or 1.0 for group in optimizer.param_groups]
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean, best, ended = 0.0, math.inf, "the highest rate was reached"
    if not isinstance(batches, Iterable):
        raise DataError(
            f"batches are of type {type(batches).__name__}; give an iterable of (inputs, targets)"
        )
    with untouched(model, optimizer, batches):
        supply = iter(batches)
        begin_training(model)
        for number in range(steps):
            rate = lowest * (highest / lowest) ** (number / (steps - 1))
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share
            batch = next(supply, None)
            if batch is None:
                supply = iter(batches)
                batch = next(supply, None)
            if batch is None:
                if not losses:
                    raise OptionError("there are no batches to test rates on: give at least one")
                ended = "the batches were used up"
                break
            inputs, targets = pair(batch, place)
            if foreign:
                of_batch = partial(_loss_of, suited, model, inputs, targets)
                unreached(foreign, optimizer, model, of_batch)
                foreign = []
            optimizer.zero_grad()
            value = _loss_of(suited, model, inputs, targets)
            if not value.requires_grad:
                raise no_gradient(suited.name)
            value.backward()  # type: ignore[no-untyped-call]
            if not math.isfinite(value.item()):
                ended = f"the loss was no longer finite at a rate of {rate:.3g}"
                break
            rates.append(rate)
            losses.append(value.item())
            mean = smoothing * mean + (1 - smoothing) * losses[-1]
            smoothed.append(mean / (1 - smoothing ** (number + 1)))
            best = min(best, smoothed[-1])
            if smoothed[-1] > bound * best:
                ended = f"the loss exploded at a rate of {rate:.3g}"
                break
            optimizer.step()
    if not losses:
        raise OptionError(f"the loss isn't finite at a rate of {lowest:g}: mend the model or the data first")
    slopes = np.gradient(np.array(smoothed)) if len(smoothed) > 1 else np.zeros(1)
    low = int(np.argmin(slopes))
    return RangeTest(
        rates=tuple(rates),
        losses=tuple(losses),
        smoothed=tuple(smoothed),
        steepest=rates[low] if slopes[low] < 0 else None,
        largest=rates[int(np.argmin(smoothed))],
        ended=ended,
    )


def _loss_of(loss: Loss, model: nn.Module, inputs: Any, targets: Tensor) -> Tensor:
    return loss(outputs_of(model, inputs), targets)


def _check_optimizer(optimizer: Any, model: nn.Module) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise OptionError(
            f"the optimizer is {optimizer!r}; give one that is made over the model's parameters, such as "
            "torch.optim.SGD(model.parameters(), lr=0.1)"
        )
    name = type(optimizer).__name__
    if isinstance(optimizer, (ClosureOptimizer, torch.optim.LBFGS)):
        raise OptionError(
            f"{name} calls a closure and looks for the length of its steps, so that there is no range of "
            "rates to test; give an optimizer that takes gradients, such as torch.optim.SGD"
        )
    if any("lr" not in group for group in optimizer.param_groups):
        raise OptionError(f"{name} has no learning rate to test; give an optimizer that has")
    check_held(optimizer, model)
