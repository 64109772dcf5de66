"""``minimize``: a function of a tensor, a list or a dictionary of tensors, to its minimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from thalweg.curvature.vectors import Vector
from thalweg.errors import OptionError, nearest
from thalweg.secondorder.descent_loop import DescentResult
from thalweg.secondorder.directions import (
    BFGSDirection,
    ConjugateGradientDirection,
    Direction,
    LBFGSDirection,
    SteepestDescentDirection,
)
from thalweg.secondorder.newton import NewtonCGDirection, NewtonDirection
from thalweg.secondorder.objective_function import AutogradObjective, TensorStructure, forward_of
from thalweg.secondorder.searches import Backtracking, Exact, Fixed, Search, Values
from thalweg.secondorder.solution import IterationRecord, Solution, Tally
from thalweg.secondorder.solver import descend
from thalweg.secondorder.termination import Callback, DescentLimits
from thalweg.secondorder.wolfe import HagerZhang, StrongWolfe

__all__ = [
    "METHODS",
    "SEARCHES",
    "Watch",
    "minimize",
    "named_search",
    "solution_of",
    "with_points",
]

Watch: TypeAlias = Callable[[IterationRecord], Any]

# Which search goes with which direction, and the constants. Conjugate directions need a minimum along the
# line that is nearly exact: c2 = 0.1 (Nocedal and Wright, 3.1; Fletcher-Reeves needs it below one half).
# All of them go back to the gradient where two successive gradients are far from orthogonal, |g'g_| >=
# 0.2 |g|^2 (Powell, 1977), without which Fletcher-Reeves and Dai-Yuan can take thousands of tiny steps.
# So does Hager and Zhang's formula: with their own search instead, and without restarts, it takes a third
# more evaluations. Quasi-Newton directions want few trials more than good ones: the literature's c2 is
# 0.9, and 0.7 saves a twentieth of the evaluations. What was measured was measured on the problems of
# benchmarks/minimize.py.
_CG = StrongWolfe(c2=0.1)
_QUASI_NEWTON = StrongWolfe(c2=0.7)
METHODS: dict[str, tuple[Direction, Search]] = {
    "steepest-descent": (SteepestDescentDirection(), StrongWolfe(c2=0.4)),
    "cg-fr": (ConjugateGradientDirection(formula="fletcher-reeves", orthogonality=0.2), _CG),
    "cg-pr": (ConjugateGradientDirection(formula="polak-ribiere", orthogonality=0.2), _CG),
    "cg-pr+": (ConjugateGradientDirection(formula="polak-ribiere+", orthogonality=0.2), _CG),
    "cg-hs": (ConjugateGradientDirection(formula="hestenes-stiefel", orthogonality=0.2), _CG),
    "cg-dy": (ConjugateGradientDirection(formula="dai-yuan", orthogonality=0.2), _CG),
    "cg-hz": (ConjugateGradientDirection(formula="hager-zhang", orthogonality=0.2), _CG),
    "bfgs": (BFGSDirection(), _QUASI_NEWTON),
    "lbfgs": (LBFGSDirection(), _QUASI_NEWTON),
    "newton": (NewtonDirection(modified=True), StrongWolfe()),
    "newton-cg": (NewtonCGDirection(), StrongWolfe()),
}

SEARCHES: dict[str, Callable[[], Search]] = {
    "backtracking": Backtracking,
    "exact": Exact,
    "fixed": Fixed,
    "hager-zhang": HagerZhang,
    "strong-wolfe": StrongWolfe,
    "values": Values,
}


def minimize(
    fun: Callable[[Any], Tensor],
    x0: Any,
    *,
    method: str | Direction = "lbfgs",
    search: str | Search | None = None,
    tolerance: float = 1e-6,
    tolerance_change: float = 0.0,
    max_iterations: int = 1000,
    max_evaluations: int | None = None,
    callback: Watch | None = None,
    lanes: bool = False,
) -> Solution:
    """Minimize a function whose gradient autograd can compute.

    Args:
        fun: takes what has the structure of ``x0`` and returns a scalar tensor; with ``lanes`` it returns
            ``[K]``, of which each element depends on its own lane of ``x`` alone.
        x0: where to start: a float32 or float64 tensor, or a list or dictionary of them; it is left alone.
            With ``lanes`` every tensor is ``[K, ...]``.
        method: a name of ``METHODS``, or a direction: ``NewtonDirection(damping=0.1)``.
        search: a name of ``SEARCHES``, or a search: ``Fixed(step=0.5)``; None: the method's own.
        tolerance: the largest magnitude in the gradient at which it counts as zero.
        tolerance_change: end where a step changes the value by less than this part of it; 0: never.
        max_iterations: accepted steps.
        max_evaluations: calls of the function, whatever they are for; with ``lanes`` a call serves all of
            them. None: no limit.
        callback: called with an ``IterationRecord`` after each accepted step, whose ``x`` is a copy of the
            point; a true answer ends the run (or the lane).
        lanes: minimize K independent problems at once.

    Returns:
        A ``Solution``; whether it converged stands in its ``status``. Where a search failed, ``x`` is the
        point that it began from. Its value is never above that at ``x0``, but for rounding and with fixed
        steps.

    Raises:
        OptionError: an argument that can't be used, or sharded tensors under a method with a matrix.

    >>> import torch
    >>> def rosenbrock(x):
    ...     return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    >>> solution = minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64))
    >>> print(solution.status, [round(v, 6) for v in solution.x.tolist()])
    The gradient is within the tolerance. [1.0, 1.0]

    Three problems side by side, each with its own centre:

    >>> centres = torch.arange(6.0, dtype=torch.float64).reshape(3, 2)
    >>> found = minimize(lambda x: ((x - centres) ** 2).sum(1), torch.zeros_like(centres), lanes=True)
    >>> found.converged, bool(torch.allclose(found.x, centres))
    (True, True)

    Source: INDEX O9, O11-O16.
    """
    direction, own = _method(method)
    limits = DescentLimits(
        tolerance=tolerance,
        tolerance_change=tolerance_change,
        max_iterations=max_iterations,
        max_evaluations=max_evaluations,
    )
    # whatever surrounds the call: without graphs every gradient would count as zero
    with torch.inference_mode(False), torch.enable_grad():
        structure = TensorStructure(x0, "minimize", lanes)
        tally = Tally()
        problem = AutogradObjective(forward_of(fun, structure, "minimize"), structure.space, tally)
        found = descend(
            problem,
            structure.x,
            direction,
            own if search is None else named_search(search),
            limits=limits,
            callback=with_points(callback, structure),
            lowest=True,
        )
    return solution_of(found, structure, tally)


def _method(method: str | Direction) -> tuple[Direction, Search]:
    if isinstance(method, str):
        if method not in METHODS:
            raise OptionError(f"minimize: there is no method {method!r}; {nearest(method, METHODS)}")
        return METHODS[method]
    if not isinstance(method, Direction):
        raise OptionError(
            f"minimize: method is a {type(method).__name__}; "
            f"give a name of METHODS or a direction such as LBFGSDirection()"
        )
    for direction, search in METHODS.values():
        if direction == method:
            return method, search
    if isinstance(method, NewtonDirection):
        return method, method.usual_search()
    for direction, search in METHODS.values():
        if type(direction) is type(method):
            return method, search
    return method, StrongWolfe()


def named_search(search: str | Search) -> Search:
    """Return the search of that name; a search is returned as it is."""
    if isinstance(search, Search):
        return search
    if not isinstance(search, str) or search not in SEARCHES:
        raise OptionError(f"minimize: there is no search {search!r}; {nearest(str(search), SEARCHES)}")
    return SEARCHES[search]()


def with_points(callback: Watch | None, structure: TensorStructure) -> Callback | None:
    """Return a callback that hands a copy of the point on, in the structure that was given.

    One that raises ``StopIteration`` asks to stop, as with SciPy.
    """
    if callback is None:
        return None

    def told(record: IterationRecord, x: Vector) -> Any:
        try:
            return callback(replace(record, x=structure.pack([tensor.clone() for tensor in x])))
        except StopIteration:
            return True

    return told


def solution_of(found: DescentResult, structure: TensorStructure, tally: Tally) -> Solution:
    """Return what a run found in the structure that was given."""
    if structure.space.lanes is None:
        return Solution(
            x=structure.pack(found.point.x),
            value=found.values[0],
            gradient_norm=found.gradient_norms[0],
            status=found.statuses[0],
            counts=tally.counts(),
            trace=found.traces[0],
        )
    lanes = tuple(
        Solution(
            x=structure.pack([t[k] for t in found.point.x]),
            value=found.values[k],
            gradient_norm=found.gradient_norms[k],
            status=found.statuses[k],
            counts=found.counts[k],
            trace=found.traces[k],
        )
        for k in range(structure.space.lanes)
    )
    poor = [lane.status for lane in lanes if not lane.converged]
    return Solution(
        x=structure.pack(found.point.x),
        value=torch.tensor(found.values, dtype=torch.float64),
        gradient_norm=torch.tensor(found.gradient_norms, dtype=torch.float64),
        status=poor[0] if poor else lanes[0].status,
        counts=tally.counts(),
        lanes=lanes,
    )
