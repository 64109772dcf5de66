"""``least_squares``: residuals, or outputs under a convex loss, to their minimum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thalweg.errors import OptionError, nearest
from thalweg.secondorder.composite import CompositeObjective
from thalweg.secondorder.damping import GaussNewtonDirection, LevenbergMarquardtMethod, descend_damped
from thalweg.secondorder.minimizing import Watch, named_search, solution_of, with_points
from thalweg.secondorder.objective_function import TensorStructure, forward_of
from thalweg.secondorder.quadratic_models import SolverName
from thalweg.secondorder.searches import Backtracking, Search
from thalweg.secondorder.solution import Solution, Tally
from thalweg.secondorder.solver import descend
from thalweg.secondorder.termination import DescentLimits

__all__ = [
    "least_squares",
]

_METHODS: dict[str, GaussNewtonDirection | LevenbergMarquardtMethod] = {
    "gauss-newton": GaussNewtonDirection(),
    "levenberg-marquardt": LevenbergMarquardtMethod(),
}


def least_squares(
    residuals: Callable[[Any], Tensor],
    x0: Any,
    *,
    method: str | GaussNewtonDirection | LevenbergMarquardtMethod = "levenberg-marquardt",
    loss: Callable[[Tensor], Tensor] | None = None,
    search: str | Search | None = None,
    tolerance: float = 1e-8,
    tolerance_change: float = 0.0,
    max_iterations: int = 500,
    max_evaluations: int | None = None,
    callback: Watch | None = None,
    solver: SolverName = "dense",
    max_products: int | None = None,
    lanes: bool = False,
) -> Solution:
    """Minimize ``1/2 sum r(x)^2``, or ``loss(outputs(x))`` for a convex loss, by Gauss-Newton models.

    Args:
        residuals: takes what has the structure of ``x0``, returns residuals (or outputs) of any shape.
            With ``lanes`` they are ``[K, ...]``, of which each part depends on its own lane of ``x0`` alone.
        x0: where to start: a float32 or float64 tensor, or a list or dictionary of them; it is left alone.
            With ``lanes`` every tensor is ``[K, ...]``.
        method: ``"levenberg-marquardt"``, ``"gauss-newton"``, or such an object with settings of its own.
        loss: from outputs to a scalar, convex in them, cross-entropy say; with ``lanes`` to ``[K]``; None:
            they are residuals.
        search: how far along Gauss-Newton's direction; None: backtracking from the whole step.
        tolerance: the largest magnitude in the gradient ``J'r`` at which it counts as zero.
        tolerance_change: end where a step changes the value by less than this part of it; 0: never.
        max_iterations: accepted steps.
        max_evaluations: calls of the function, whatever they are for; with ``lanes`` a call serves all of
            them. None: no limit.
        callback: called with an ``IterationRecord`` after each accepted step, whose ``x`` is a copy of the
            point; a true answer ends the run (or the lane).
        solver: ``"dense"``: the Jacobian as a matrix; ``"cg"``: conjugate gradients on products with it, for
            many parameters, or sharded ones. A method that is an object has its own.
        max_products: of ``"cg"`` in one direction; None: twice the number of elements or
            outputs, whichever are fewer.
        lanes: solve K independent problems at once.

    Returns:
        A ``Solution``, whose ``value`` is half the sum of squares; in the trace of Levenberg-Marquardt
        ``step`` is the damping.

    Raises:
        OptionError: an argument that can't be used, or sharded tensors under ``solver="dense"``.

    >>> import torch
    >>> t = torch.linspace(0, 2, 9, dtype=torch.float64)
    >>> y = 3 * torch.exp(-1.5 * t)
    >>> found = least_squares(lambda p: p[0] * torch.exp(p[1] * t) - y, torch.ones(2, dtype=torch.float64))
    >>> print(found.status, [round(v, 6) for v in found.x.tolist()])
    The gradient is within the tolerance. [3.0, -1.5]

    Two curves side by side:

    >>> ys = torch.stack([y, 2 * torch.exp(-0.5 * t)])
    >>> def both(p):
    ...     return p[:, :1] * torch.exp(p[:, 1:] * t) - ys
    >>> found = least_squares(both, torch.ones(2, 2, dtype=torch.float64), lanes=True)
    >>> found.converged, [round(v, 6) for v in found.x.flatten().tolist()]
    (True, [3.0, -1.5, 2.0, -0.5])

    Source: INDEX O10; the generalized Gauss-Newton matrix after Schraudolph, 2002.
    """
    made = _METHODS.get(method) if isinstance(method, str) else method
    if not isinstance(made, (GaussNewtonDirection, LevenbergMarquardtMethod)):
        raise OptionError(f"least_squares: there is no method {method!r}; {nearest(str(method), _METHODS)}")
    if isinstance(method, str):
        made = replace(made, solver=solver, max_products=max_products)
    elif solver != "dense" or max_products is not None:
        raise OptionError(
            "least_squares: the method is an object, which has a solver and max_products of its own; "
            f"give them to it: {type(method).__name__}(solver='cg')"
        )
    if search is not None and isinstance(made, LevenbergMarquardtMethod):
        raise OptionError(
            "least_squares: Levenberg-Marquardt takes no search, since its damping decides how far to go; "
            "leave search out, or use method='gauss-newton'"
        )
    limits = DescentLimits(
        tolerance=tolerance,
        tolerance_change=tolerance_change,
        max_iterations=max_iterations,
        max_evaluations=max_evaluations,
    )
    # whatever surrounds the call: without graphs every gradient would count as zero
    with torch.inference_mode(False), torch.enable_grad():
        structure, tally = TensorStructure(x0, "least_squares", lanes), Tally()
        forward = forward_of(residuals, structure, "least_squares", scalar=False)
        problem = CompositeObjective(forward, loss, tally, structure.space, lasting=True)
        told = with_points(callback, structure)
        if isinstance(made, GaussNewtonDirection):
            way = Backtracking() if search is None else named_search(search)
            found = descend(problem, structure.x, made, way, limits=limits, callback=told, lowest=True)
        else:
            found = descend_damped(problem, structure.x, made, limits=limits, callback=told, lowest=True)
    return solution_of(found, structure, tally)
