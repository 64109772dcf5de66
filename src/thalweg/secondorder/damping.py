"""Levenberg-Marquardt: a Gauss-Newton model, diagonally loaded, with a damping that adapts (O10)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from thalweg.curvature.vectors import Scalar, Vector
from thalweg.errors import OptionError, nearest
from thalweg.secondorder.composite import CompositeObjective
from thalweg.secondorder.descent_loop import Descent, DescentMemory, DescentResult
from thalweg.secondorder.directions import AcceptedStep, State
from thalweg.secondorder.newton import CurvatureDirection
from thalweg.secondorder.objective_function import EvaluatedPoint, ObjectiveFunction, joined
from thalweg.secondorder.quadratic_models import DenseModel, GaussNewtonModel, LinearSolve
from thalweg.secondorder.solution import Status
from thalweg.secondorder.termination import Callback, DescentLane, DescentLimits

__all__ = [
    "GaussNewtonDirection",
    "LevenbergMarquardtMethod",
    "descend_damped",
]

# A step that is less than this part of Gauss-Newton's shows that its model misleads.
_SHORT = 0.1
_STRICTER = 10.0


@dataclass(frozen=True, kw_only=True)
class GaussNewtonDirection(LinearSolve, CurvatureDirection):
    """``d = -G^+ g`` with ``G = J'J`` of the residuals, or ``J'HJ`` under a convex loss (O10).

    The pseudo-inverse gives the shortest minimizer where the Jacobian lacks rank. G is positive
    semidefinite, so that d never leads uphill; but near points where J loses rank it is long and at nearly
    right angles to the gradient. Where a search takes less than a tenth of the whole step, the next d leaves
    the directions of least curvature out until its angle to ``-g`` has ten times the cosine (one half at
    most); each step of at least a half divides what is asked for by ten. Without this the method can take
    hundreds of tiny steps towards a point where the gradient isn't zero (Powell, 1970). Where G has no
    curvature along the gradient at all (a loss that is linear in the outputs), d goes along the gradient.

    Args:
        solver: ``"dense"``, or ``"cg"``: conjugate gradients on products ``J'(H(Jv))`` from zero, which in
            exact arithmetic go to the shortest minimizer too; ended before, they have left out the directions
            of little curvature.
        max_products: of ``"cg"`` in one direction; None: twice the number of elements or
            outputs, whichever are fewer.
        accuracy: of ``"cg"``: what part of the gradient may be left.

    Source: N, C s95; the generalized matrix after Schraudolph, 2002; by products: Martens, Deep learning via
    Hessian-free optimization, 2010.
    """

    called: ClassVar[str] = "GaussNewton"

    def from_curvature(self, state: State, point: EvaluatedPoint, problem: ObjectiveFunction) -> Vector:
        """Return the direction at ``point``."""
        assert isinstance(problem, CompositeObjective)
        return problem.model(point, self).undamped(state.get("cosine"))

    def update(self, state: State, step: AcceptedStep) -> State:
        """Ask for a smaller angle to the gradient after a short step, for less after a long one."""
        state = super().update(state, step)
        before: Tensor | None = state.get("cosine")
        shares = [1.0] * len(step.accepted) if step.shares is None else step.shares
        taken = [share if went else 1.0 for share, went in zip(shares, step.accepted, strict=True)]
        if before is None and min(taken) >= _SHORT:
            return state
        space, g, d = step.space, step.old.gradient, step.direction
        cosine = -space.dot(g, d) / (space.norm(g) * space.norm(d))
        before = torch.zeros_like(cosine) if before is None else before
        share = space.scalar(shares, g)
        asked = torch.where(
            share < _SHORT,
            (_STRICTER * cosine).clamp(max=0.5),
            torch.where(share >= 0.5, before / _STRICTER, before),
        )
        return {**state, "cosine": space.choose(step.mask, asked, before)}


@dataclass(frozen=True, kw_only=True)
class LevenbergMarquardtMethod(LinearSolve):
    """``d = -(G + mu * D)^-1 g`` with a damping mu that follows how well the model predicts (O10).

    The gain is the decrease of the function over that of the model. A step with a gain above 0 is taken, and
    mu is multiplied by ``max(1/3, 1 - (2 * gain - 1)^3)``; otherwise it is multiplied by 2, then 4, 8, ...,
    and tried again from the same point. A value that isn't finite counts as no gain. Where the model promises
    no more than rounding, a step is taken if the gradient becomes smaller.

    Args:
        damping: the first mu, as a part of the largest element on G's diagonal (with ``"cg"``, which knows no
            diagonal, of ``g'Gg / g'g``); above 0.
        scale: D is the ``"identity"`` (N 8.28, C s95), or the largest ``"diagonal"`` of G so far (Marquardt,
            Moré), which makes the method independent of the units of the parameters; not with ``"cg"``.
        solver: ``"dense"``, or ``"cg"``: conjugate gradients on products ``J'(H(Jv))``, from the best
            multiple of the direction before.
        max_products: of ``"cg"`` in one direction; None: twice the number of elements or
            outputs, whichever are fewer.
        accuracy: of ``"cg"``: what part of the gradient may be left.

    Source: Levenberg 1944, Marquardt 1963; the change of mu after Nielsen, Damping parameter in Marquardt's
    method, 1999; by products and from the direction before: Martens, Deep learning via Hessian-free
    optimization, 2010.
    """

    called: ClassVar[str] = "LevenbergMarquardt"
    damping: float = 1e-3
    scale: Literal["identity", "diagonal"] = "identity"
    # what damping leaves out needs no accuracy
    accuracy: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.damping < math.inf:
            raise OptionError(f"LevenbergMarquardt: damping is {self.damping}; give a finite number above 0")
        if self.scale not in ("identity", "diagonal"):
            known = ["identity", "diagonal"]
            raise OptionError(f"LevenbergMarquardt: scale is {self.scale!r}; {nearest(self.scale, known)}")
        if self.scale == "diagonal" and self.solver == "cg":
            raise OptionError(
                "LevenbergMarquardt: scale is 'diagonal', but solver='cg' makes no matrix that has one; "
                "give scale='identity', or solver='dense'"
            )


@dataclass
class _DampedLane(DescentLane):
    """One lane with its damping; ``trusted`` is that of its last accepted step."""

    mu: float = math.nan
    trusted: float = math.nan
    growth: float = 2.0


def descend_damped(
    problem: CompositeObjective,
    x: Vector,
    settings: LevenbergMarquardtMethod,
    *,
    limits: DescentLimits,
    callback: Callback | None = None,
    memory: DescentMemory | None = None,
    lowest: bool = False,
) -> DescentResult:
    """Minimize by Levenberg-Marquardt from ``x``, whose tensors are left alone.

    A round solves and evaluates once, for all lanes, and brings their numbers to the host in one trip.

    Args:
        problem: residuals, or outputs and a loss.
        x: where to start.
        settings: the damping.
        limits: when to end.
        callback: called with an ``IterationRecord`` after each accepted step; a true answer ends
            the lane.
        memory: what an earlier run handed on, of another batch perhaps: damping, scale, the last direction.
        lowest: where no tolerance was met, return the lowest point of the way instead of the last one.
    """
    return _DampedDescent(problem, settings, limits, callback).run(x, memory, lowest)


class _DampedDescent(Descent[_DampedLane]):
    problem: CompositeObjective

    def __init__(
        self,
        problem: CompositeObjective,
        settings: LevenbergMarquardtMethod,
        limits: DescentLimits,
        callback: Callback | None,
    ) -> None:
        super().__init__(problem, limits, callback)
        self.settings = settings

    def lane(self, number: int, value: float, norm: float, memory: DescentMemory | None) -> _DampedLane:
        mu = math.nan if memory is None or "mu" not in memory.state else memory.state["mu"][number]
        return _DampedLane(number, value, norm, mu, mu)

    def begin(self, memory: DescentMemory | None) -> None:
        kept: State = {} if memory is None else memory.state
        x = self.point.x
        kind = torch.finfo(self.space.dtype(x))
        self._eps, self._tiny = kind.eps, kind.tiny
        self._mu = self.space.scalar(kept["mu"], x) if "mu" in kept else None
        self._scale_of: Tensor | None = kept.get("scale")
        self._near: Vector | None = kept.get("direction")
        self._model: GaussNewtonModel | None = None
        self._before: GaussNewtonModel | None = None
        self._renewed: Tensor | None = None

    def memory(self) -> DescentMemory:
        state: State = {} if self._mu is None else {"mu": [lane.trusted for lane in self.lanes]}
        state |= {} if self._scale_of is None else {"scale": self._scale_of}
        if self._near is not None and self.settings.solver != "dense":
            state["direction"] = self._near
        return DescentMemory(state, [None] * len(self.lanes))

    def round(self) -> None:
        """Evaluate where the damped models lead, of a new model where the last step was taken."""
        problem, space, lanes, point = self.problem, self.space, self.lanes, self.point
        model = self._model
        if model is None:
            self._model = model = problem.model(point, self.settings)
            if self._renewed is not None and isinstance(model, DenseModel):
                assert isinstance(self._before, DenseModel)
                model.keep(self._renewed, self._before)
            self._scale_of = self._scale(model, self._scale_of)
            self._mu = self._first(model) if self._mu is None else self._mu
        assert self._mu is not None
        self._near, promise = model.damped(self._mu, self._scale_of, self._near)
        mask = space.mask([lane.status is None for lane in lanes], point.x)
        there = space.where(mask, space.add(point.x, 1.0, self._near), point.x)
        trial = problem.evaluate(there)
        rows = problem.fetch([trial.value, space.norm_max(trial.gradient), promise, self._mu])
        taken = [self._decide(lane, row) for lane, row in zip(lanes, rows, strict=True)]
        self._mu = space.scalar([lane.mu for lane in lanes], point.x)
        if any(taken):
            self._renewed = space.mask(taken, point.x)
            self._before, self._model = model, None
            # a matrix of the trial serves the lanes that take it; the others keep theirs
            new = joined(space, self._renewed, trial, point)
            self.move(new, taken, evaluated=self.settings.solver == "dense")

    def _first(self, model: GaussNewtonModel) -> Scalar:
        """Return the first damping, computed where the tensors are."""
        size = model.size()
        if self.settings.scale == "diagonal":
            return torch.full_like(size, self.settings.damping)
        return self.settings.damping * torch.where(size > 0, size, 1.0)

    def _scale(self, model: GaussNewtonModel, before: Tensor | None) -> Tensor | None:
        if self.settings.scale == "identity":
            return None
        assert isinstance(model, DenseModel)
        if before is not None:
            return torch.maximum(model.diagonal, before)
        # a parameter that nothing depends on yet is damped like the others
        return torch.where(model.diagonal > 0, model.diagonal, 1.0)

    def _decide(self, lane: _DampedLane, row: list[float]) -> bool:
        """Whether a lane takes the step; its damping follows."""
        if lane.status is not None:
            return False
        value, norm, promise, lane.mu = row
        lane.evaluations += 1
        if math.isnan(lane.trusted):
            lane.trusted = lane.mu
        if value == -math.inf:
            lane.status = Status.UNBOUNDED
            return False
        gain = (lane.value - value) / promise if promise > 0 else -math.inf
        # where values no longer differ beyond rounding, the gradient tells whether a step is one forward
        noise = 10 * self._eps * abs(lane.value)
        level = abs(value - lane.value) <= noise and 0 < promise <= noise
        finite = math.isfinite(value) and math.isfinite(norm)
        taken = norm < lane.norm if level else finite and gain > 0
        if taken:
            self._arrive(lane, value, norm, 1.0 if level else gain)
        else:
            lane.mu, lane.growth = lane.mu * lane.growth, lane.growth * 2
            if not lane.mu < 1e50:
                lane.status = Status.SEARCH_FAILED
        if lane.status is None:
            lane.heed(self.limits)
        return taken

    def _arrive(self, lane: _DampedLane, value: float, norm: float, gain: float) -> None:
        used = lane.mu
        # below the smallest number of the type it would be zero, and grow no more
        lane.mu = lane.trusted = max(used * max(1 / 3, 1 - (2 * gain - 1) ** 3), self._tiny)
        lane.growth = 2.0
        self.problem.tally.iterations += 1
        lane.arrive(value, norm, used, self.limits)
