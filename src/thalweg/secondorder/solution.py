"""What a minimization found: the point, why it ended there, what it cost, and the way to it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from torch import Tensor

__all__ = [
    "BACKWARD",
    "CURVED",
    "FORWARD",
    "TANGENT",
    "Counts",
    "IterationRecord",
    "OutOfEvaluations",
    "Solution",
    "Status",
    "Tally",
]

# Work, in forward passes, by counting matrix products: in a layer ``z = W a`` on a batch
# - the value takes one, ``W a``;
# - a gradient takes two more on its way back, ``W'd`` for the layer below and ``d a'`` for the weights;
# - a product with the Jacobian takes two, ``W a_`` and ``W_ a``, where the graph of ``u -> J'u`` is at hand,
#   and one with its transpose is a backward pass;
# - a product with the Hessian differentiates a graph of these three (the value and the gradient's two), each
#   of which takes two on its way back.
# What is elementwise, and the loss, are not counted. On a net where nothing but the layers costs anything
# a product is two gradients with their values; 1.4 to 2 is what is measured.
FORWARD = 1.0
BACKWARD = 2.0
TANGENT = 2.0
CURVED = 2.0 * (FORWARD + BACKWARD)


class Status(Enum):
    """Why a minimization ended; ``str`` of it is a sentence.

    >>> print(Status.CONVERGED)
    The gradient is within the tolerance.
    >>> Status.CONVERGED.converged, Status.ITERATION_LIMIT.converged
    (True, False)
    """

    CONVERGED = "The gradient is within the tolerance."
    SMALL_CHANGE = "The last step changed the value by less than the tolerance."
    ITERATION_LIMIT = "The limit of iterations was reached before the gradient was within the tolerance."
    EVALUATION_LIMIT = "The limit of evaluations was reached before the gradient was within the tolerance."
    STOPPED = "The callback asked to stop."
    SEARCH_FAILED = "No step along the direction met the conditions of the search; the point was restored."
    NOT_DESCENT = "The direction does not lead downhill, and the search needs one that does."
    NO_DIRECTION = "The direction is not finite: the curvature is singular, or the gradient overflowed."
    NEGATIVE_CURVATURE = "The curvature along the direction is not positive, so that no exact step exists."
    UNBOUNDED = (
        "The function falls without bound: it reached minus infinity, or still fell after many of the "
        "longest steps in a row."
    )
    NOT_FINITE = "The function or its gradient is not finite at the start."

    def __str__(self) -> str:
        return self.value

    @property
    def converged(self) -> bool:
        """Whether a tolerance was met."""
        return self in (Status.CONVERGED, Status.SMALL_CHANGE)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a minimization cost.

    Attributes:
        iterations: accepted steps.
        evaluations: calls of the function, every one of them: at the start, in searches, for Hessians from
            differences.
        gradients: gradients; those within products and Hessians have counts of their own.
        products: products of a Hessian or a Jacobian with a vector, those that made a matrix included.
        hessians: Hessian or Jacobian matrices.
        round_trips: times that the host waited for numbers of the device.
        passes: all of it together, in forward passes of a layered network, by counting the products of
            matrices that a layer takes: 1 for a value, 3 for a value with its gradient, 6 for a product with
            the Hessian beside 2 for the graph of the gradient, which all products at a point share (3 where
            the value's own graph is gone), 4 for a product with a Gauss-Newton matrix beside 3 likewise, 2
            for each row or column of a Jacobian.
    """

    iterations: int = 0
    evaluations: int = 0
    gradients: int = 0
    products: int = 0
    hessians: int = 0
    round_trips: int = 0
    passes: float = 0.0


class OutOfEvaluations(Exception):
    """The function has been called as often as it may be."""


@dataclass
class Tally:
    """Counts while they grow.

    Attributes:
        allowed: how many evaluations there may be; None: any number.
    """

    iterations: int = 0
    evaluations: int = 0
    gradients: int = 0
    products: int = 0
    hessians: int = 0
    round_trips: int = 0
    passes: float = 0.0
    allowed: int | None = field(default=None, kw_only=True)

    def allow(self, more: int | None) -> None:
        """Allow so many evaluations from now on, where nothing was said before; None: any number."""
        if more is not None and self.allowed is None:
            self.allowed = self.evaluations + more

    def call(self) -> None:
        """Count a call of the function, just before it is made.

        Raises:
            OutOfEvaluations: there may be no more. Whoever counts is who calls, so that no method can exceed
                its limit, whatever it evaluates for.
        """
        if self.allowed is not None and self.evaluations >= self.allowed:
            raise OutOfEvaluations
        self.evaluations += 1

    def counts(self) -> Counts:
        """Return them as they are now."""
        return Counts(**{f.name: getattr(self, f.name) for f in fields(Counts)})


@dataclass(frozen=True, kw_only=True)
class IterationRecord:
    """One accepted step; number 0 is the start.

    Attributes:
        iteration: number of the step.
        value: of the function after it.
        gradient_norm: largest magnitude in the gradient there.
        step: how far along the direction (for Levenberg-Marquardt: the damping).
        evaluations: of the function so far.
        lane: which lane; None alone.
        x: the point, in the structure that was given, a copy: for callbacks alone. None in a ``trace``, which
            would otherwise hold every point of the way.
    """

    iteration: int
    value: float
    gradient_norm: float
    step: float
    evaluations: int
    lane: int | None = None
    x: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Solution:
    """What a minimization found.

    Attributes:
        x: the point, in the structure that was given: the last one where a tolerance was met there, otherwise
            the one with the lowest value of all steps, which is nearly always the last one too.
        value: of the function there; a tensor ``[K]`` for lanes.
        gradient_norm: largest magnitude in the gradient there; a tensor ``[K]`` for lanes.
        status: why it ended; for lanes the first that isn't convergence, or convergence.
        counts: what it cost; for lanes iterations are those of all together, and everything else is counted
            once for all of them, as it was computed.
        trace: every accepted step, the start first; for lanes those of the lane in ``lanes``.
        lanes: for lanes, what each of them found; otherwise empty.
    """

    x: Any
    value: float | Tensor
    gradient_norm: float | Tensor
    status: Status
    counts: Counts
    trace: tuple[IterationRecord, ...] = field(default=(), repr=False)
    lanes: tuple[Solution, ...] = field(default=(), repr=False)

    @property
    def converged(self) -> bool:
        """Whether a tolerance was met, in every lane."""
        return all(lane.converged for lane in self.lanes) if self.lanes else self.status.converged
