"""Levenberg-Marquardt: a Gauss-Newton model, diagonally loaded, with a damping that adapts (O10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from thalweg.errors import OptionError, nearest
from thalweg.secondorder.curvature import CompositeProblem
from thalweg.secondorder.directions import Direction, State
from thalweg.secondorder.problem import Point, Problem
from thalweg.secondorder.solution import Record, Status
from thalweg.secondorder.solver import Callback, Limits
from thalweg.secondorder.vectors import Space, Vector

__all__ = ["Damped", "GaussNewton", "LevenbergMarquardt", "descend_damped"]


@dataclass(frozen=True, kw_only=True)
class GaussNewton(Direction):
    """``d = -G^+ g`` with ``G = J'J`` of the residuals, or ``J'HJ`` under a convex loss (O10).

    The pseudo-inverse gives the shortest minimizer where the Jacobian lacks rank. G is positive
    semidefinite, so that d never leads uphill.
    """

    natural: ClassVar[bool] = True

    def begin(self, space: Space, point: Point) -> State:
        """Return the empty state."""
        return {}

    def propose(self, state: State, point: Point, problem: Problem) -> Vector:
        """Return the direction at ``point``."""
        assert isinstance(problem, CompositeProblem)
        return problem.space.unravel(problem.model(point.x).undamped(), point.gradient)


@dataclass(frozen=True, kw_only=True)
class LevenbergMarquardt:
    """``d = -(G + mu * D)^-1 g`` with a damping mu that follows how well the model predicts (O10).

    The gain is the decrease of the function over that of the model. A step with a gain above 0 is taken, and
    mu is multiplied by ``max(1/3, 1 - (2 * gain - 1)^3)``; otherwise it is multiplied by 2, then 4, 8, ...,
    and tried again from the same point. A value that isn't finite counts as no gain. Where the model promises
    no more than rounding, a step is taken if the gradient becomes smaller.

    Args:
        damping: the first mu, as a part of the largest element on G's diagonal; above 0.
        scale: D is the ``"identity"`` (N 8.28, C s95), or the largest ``"diagonal"`` of G so far (Marquardt,
            Moré), which makes the method independent of the units of the parameters.

    Source: Levenberg 1944, Marquardt 1963; the change of mu after Nielsen, Damping parameter in Marquardt's
    method, 1999.
    """

    damping: float = 1e-3
    scale: Literal["identity", "diagonal"] = "identity"

    def __post_init__(self) -> None:
        if not 0 < self.damping < math.inf:
            raise OptionError(f"LevenbergMarquardt: damping is {self.damping}; give a finite number above 0")
        if self.scale not in ("identity", "diagonal"):
            known = ["identity", "diagonal"]
            raise OptionError(f"LevenbergMarquardt: scale is {self.scale!r}; {nearest(self.scale, known)}")


@dataclass(frozen=True)
class Damped:
    """How a run ended; ``memory`` is what the next one needs."""

    x: Vector
    value: float
    gradient_norm: float
    status: Status
    trace: tuple[Record, ...]
    memory: State


def descend_damped(
    problem: CompositeProblem,
    x: Vector,
    settings: LevenbergMarquardt,
    *,
    limits: Limits,
    callback: Callback | None = None,
    memory: State | None = None,
) -> Damped:
    """Minimize by Levenberg-Marquardt from ``x``, whose tensors are left alone.

    Args:
        problem: residuals, or outputs and a loss.
        x: where to start.
        settings: the damping.
        limits: when to end.
        callback: called with a ``Record`` after each accepted step; a true answer ends the run.
        memory: damping and scale that an earlier run ended with.
    """
    space, tally = problem.space, problem.tally
    started = tally.evaluations
    model = problem.model(x)
    (value, norm, largest), *_ = problem.fetch(
        [problem.value(x), model.gradient.abs().amax(), model.diagonal.amax()]
    )
    scale = _scale(settings, model.diagonal, None if memory is None else memory["scale"])
    mu = memory["mu"] if memory is not None else settings.damping * (largest if largest > 0 else 1.0)
    if memory is None and settings.scale == "diagonal":
        mu = settings.damping
    growth = memory["growth"] if memory is not None else 2.0
    trace: list[Record] = []
    iterations = 0

    def note(step: float) -> Record:
        evaluations = tally.evaluations - started
        trace.append(
            Record(iteration=iterations, value=value, gradient_norm=norm, step=step, evaluations=evaluations)
        )
        return trace[-1]

    note(0.0)
    status = Status.CONVERGED if norm <= limits.tolerance else None
    if not (math.isfinite(value) and math.isfinite(norm)):
        status = Status.NOT_FINITE
    while status is None:
        if iterations >= limits.max_iterations:
            status = Status.ITERATION_LIMIT
            break
        if limits.max_evaluations is not None and tally.evaluations - started >= limits.max_evaluations:
            status = Status.EVALUATION_LIMIT
            break
        d = model.damped(mu * scale)
        # by what the model says that the value will fall: -(g'd + d'Gd / 2)
        promise = -(model.gradient @ d) - model.bend(d) / 2
        there = space.add(x, 1.0, space.unravel(d, x))
        (after, predicted), *_ = problem.fetch([problem.value(there), promise])
        gain = (value - after) / predicted if predicted > 0 else -math.inf
        if after == -math.inf:
            status = Status.UNBOUNDED
            break
        noise = 10 * torch.finfo(space.dtype(x)).eps * abs(value)
        # where values no longer differ beyond rounding, the gradient tells whether a step is one forward
        level = abs(after - value) <= noise and 0 < predicted <= noise
        following = problem.model(there) if level or (math.isfinite(after) and gain > 0) else None
        if following is not None:
            ((reached,),) = problem.fetch([following.gradient.abs().amax()])
            if level and not reached < norm:
                following = None
        if following is not None:
            gain = 1.0 if level else gain
            change, x, value, norm, model = abs(value - after), there, after, reached, following
            scale = _scale(settings, model.diagonal, scale)
            used = mu
            mu, growth = mu * max(1 / 3, 1 - (2 * gain - 1) ** 3), 2.0
            iterations += 1
            tally.iterations += 1
            record = note(used)
            stopped = callback is not None and callback(record)
            if norm <= limits.tolerance:
                status = Status.CONVERGED
            elif stopped:
                status = Status.STOPPED
            elif limits.tolerance_change > 0 and change <= limits.tolerance_change * max(1.0, abs(value)):
                status = Status.SMALL_CHANGE
        else:
            mu, growth = mu * growth, growth * 2
            if not mu < 1e50:
                status = Status.SEARCH_FAILED
    return Damped(x, value, norm, status, tuple(trace), {"mu": mu, "growth": growth, "scale": scale})


def _scale(settings: LevenbergMarquardt, diagonal: Tensor, before: Tensor | None) -> Tensor:
    if settings.scale == "identity":
        return torch.ones_like(diagonal)
    if before is not None:
        return torch.maximum(diagonal, before)
    # a parameter that nothing depends on yet is damped like the others
    return torch.where(diagonal > 0, diagonal, 1.0)
