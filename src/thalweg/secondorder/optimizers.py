"""Steepest descent, conjugate and quasi-Newton methods as torch optimizers: closures that call backward."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from thalweg.curvature.vectors import Vector
from thalweg.errors import OptionError, nearest
from thalweg.secondorder import directions
from thalweg.secondorder.arguments import LineSearch, checked_rate, line_search, whole
from thalweg.secondorder.closure_objective import ClosureObjective
from thalweg.secondorder.closures import ClosureOptimizer, ClosureStep, Params, limits_of
from thalweg.secondorder.descent_loop import DescentMemory, DescentResult
from thalweg.secondorder.directions import Direction, Formula
from thalweg.secondorder.searches import Fixed, Search
from thalweg.secondorder.solver import descend
from thalweg.secondorder.termination import DescentLimits
from thalweg.settings.tables import is_number

__all__ = [
    "BFGS",
    "LBFGS",
    "NonlinearCG",
    "SteepestDescent",
]


def _common(
    max_iter: int,
    max_eval: int | None,
    grad: float,
    change: float,
    *,
    factor: float = 1.25,
    spare: int = 26,
) -> dict[str, Any]:
    # spare: enough for a search that has begun to come to its end, also where an iteration is all there is
    usual = spare
    if is_number(max_iter) and math.isfinite(max_iter):
        usual += int(max_iter * factor)
    return {
        "max_iter": max_iter,
        "max_eval": usual if max_eval is None else max_eval,
        "tolerance_grad": grad,
        "tolerance_change": change,
    }


class _GradientOptimizer(ClosureOptimizer):
    """Those whose closure calls ``backward``."""

    @abstractmethod
    def _pair(self, settings: Mapping[str, Any]) -> tuple[Direction, Search]:
        """Return direction and search."""

    def _check(self, settings: dict[str, Any]) -> None:
        self._pair(settings)
        limits_of(settings)

    def _advance(self, asked: ClosureStep) -> tuple[Vector, Any]:
        direction, search = self._pair(asked.settings)
        return self._descend(self._problem(asked), asked, direction, search, limits_of(asked.settings))

    def _problem(self, asked: ClosureStep) -> ClosureObjective:
        maximize = bool(asked.settings["maximize"])
        return ClosureObjective(asked.closure, asked.params, self._name, asked.tally, maximize=maximize)


class LBFGS(_GradientOptimizer):
    """Limited-memory BFGS with torch's arguments (O12).

    Args:
        params: parameters, or groups that all have the same options.
        lr: the step where there is no search; what the first step of a search is multiplied by otherwise.
        max_iter: iterations in a step.
        max_eval: calls of the closure in a step; None: ``max_iter * 5 // 4 + 1``, and 25 more with a search,
            which could otherwise be cut off.
        tolerance_grad: end where no element of the gradient is larger.
        tolerance_change: end where the loss changes by less, relative to the larger of it and 1.
        history_size: how many pairs are kept.
        line_search_fn: ``"strong_wolfe"``, ``"hager_zhang"``, ``"backtracking"``, or None: fixed steps.
        maximize: climb instead of descend; torch doesn't have this.

    The closure clears gradients, computes the loss, calls ``backward`` and returns the loss. It may be
    another batch's in each ``step``: pairs of older batches stay, and say what they saw of the curvature.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([-1.2, 1.0], dtype=torch.float64))
    >>> optimizer = LBFGS([w], line_search_fn="strong_wolfe", max_iter=60, max_eval=100)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2
    ...     loss.backward()
    ...     return loss
    >>> _ = optimizer.step(closure)
    >>> print([round(value, 4) for value in w.tolist()])
    [1.0, 1.0]

    Deviations from torch.optim.LBFGS: after the last iteration of a step the closure is called once more, so
    that every pair of the history comes from one batch; a loss that isn't finite shortens the step; the
    search is another, with fewer trips to the host.
    """

    torchs_state: ClassVar[bool] = True

    def __init__(
        self,
        params: Params,
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: LineSearch = None,
        *,
        maximize: bool = False,
    ) -> None:
        spare = 1 if line_search_fn is None else 26
        common = _common(max_iter, max_eval, tolerance_grad, tolerance_change, spare=spare)
        own = {"lr": lr, "history_size": history_size, "line_search_fn": line_search_fn, "maximize": maximize}
        super().__init__(params, {**common, **own})

    def _pair(self, settings: Mapping[str, Any]) -> tuple[Direction, Search]:
        search = line_search(self._name, settings["line_search_fn"], checked_rate(self._name, settings["lr"]))
        return directions.LBFGSDirection(history=whole(settings["history_size"])), search


class BFGS(_GradientOptimizer):
    """BFGS with the whole inverse Hessian, for few parameters (O12).

    Arguments as those of :class:`LBFGS`, without a history; the search is strong Wolfe unless told otherwise.
    The matrix stays from step to step, whatever the batch; each pair in it comes from one.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        line_search_fn: LineSearch = "strong_wolfe",
        *,
        maximize: bool = False,
    ) -> None:
        common = _common(max_iter, max_eval, tolerance_grad, tolerance_change)
        own = {"lr": lr, "line_search_fn": line_search_fn, "maximize": maximize}
        super().__init__(params, {**common, **own})

    def _pair(self, settings: Mapping[str, Any]) -> tuple[Direction, Search]:
        search = line_search(self._name, settings["line_search_fn"], checked_rate(self._name, settings["lr"]))
        return directions.BFGSDirection(), search


class NonlinearCG(_GradientOptimizer):
    """Nonlinear conjugate gradients (O11).

    Args:
        params: parameters, or groups that all have the same options.
        lr: what the first step of a search is multiplied by.
        formula: of beta: ``"fletcher-reeves"``, ``"polak-ribiere"``, ``"polak-ribiere+"``,
            ``"hestenes-stiefel"``, ``"dai-yuan"`` or ``"hager-zhang"``.
        reset: go back to the gradient every so many iterations; None: only where successive gradients are
            far from orthogonal (Powell), or the direction turns uphill.
        max_iter, tolerance_grad, tolerance_change: as for :class:`LBFGS`.
        max_eval: calls of the closure in a step; None: ``max_iter * 3 + 25``.
        line_search_fn: as for :class:`LBFGS`, but there has to be one.
        sgd_steps: the first so many calls of ``step`` are plain gradient steps (N: a few iterations of
            stochastic gradient descent first).
        sgd_lr: their learning rate.
        maximize: climb instead of descend.

    The direction before stays from step to step, so that ``max_iter=1`` is the algorithm too. beta compares
    two gradients: where a step's batch is another than the one before (the loss at the same point is
    another), the earlier one is computed anew, of this batch at the point before, for one more call of the
    closure. With a reset, or once in many iterations, this costs next to nothing (N Alg 8.9 leaves it open).
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1,
        formula: Formula = "polak-ribiere+",
        reset: int | None = None,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        line_search_fn: LineSearch = "strong_wolfe",
        sgd_steps: int = 0,
        sgd_lr: float = 0.01,
        *,
        maximize: bool = False,
    ) -> None:
        common = _common(max_iter, max_eval, tolerance_grad, tolerance_change, factor=3, spare=25)
        own = {"lr": lr, "formula": formula, "reset": reset, "line_search_fn": line_search_fn}
        own["maximize"] = maximize
        super().__init__(params, {**common, **own, "sgd_steps": sgd_steps, "sgd_lr": sgd_lr})

    def _pair(self, settings: Mapping[str, Any]) -> tuple[Direction, Search]:
        if settings["line_search_fn"] is None:
            raise OptionError(
                f"{self._name}: line_search_fn is None, but conjugate directions need a search; "
                f"give 'strong_wolfe'"
            )
        if settings["formula"] not in list(directions.FORMULAS):
            known = nearest(str(settings["formula"]), directions.FORMULAS)
            raise OptionError(f"{self._name}: there is no formula {settings['formula']!r}; {known}")
        rate = checked_rate(self._name, settings["lr"])
        search = line_search(self._name, settings["line_search_fn"], rate, c2=0.1)
        direction = directions.ConjugateGradientDirection(
            formula=settings["formula"], reset=settings["reset"], orthogonality=0.2
        )
        return direction, search

    def _advance(self, asked: ClosureStep) -> tuple[Vector, Any]:
        settings, problem = asked.settings, self._problem(asked)
        taken = asked.state.setdefault("sgd_steps", 0)
        if taken >= settings["sgd_steps"]:
            return self._conjugate(asked, problem)
        asked.state["sgd_steps"] = taken + 1
        search = Fixed(step=settings["sgd_lr"])
        limits = DescentLimits(tolerance=0.0, max_iterations=1)
        found = descend(problem, asked.x, directions.SteepestDescentDirection(), search, limits=limits)
        self.status = found.statuses[0]
        return found.point.x, None

    def _conjugate(self, asked: ClosureStep, problem: ClosureObjective) -> tuple[Vector, Any]:
        direction, search = self._pair(asked.settings)
        space, x, state = problem.space, asked.x, asked.state
        limits = limits_of(asked.settings)

        def run(memory: DescentMemory | None) -> DescentResult:
            problem.tally.allow(limits.max_evaluations)
            if limits.max_evaluations is not None and limits.max_evaluations < 3:
                # no room for the earlier gradient beside the start and a trial: begin anew
                memory = None
            if memory is not None and any(memory.state["count"]):
                now, last = problem.ahead(x), state["last"]
                ((value, norm),) = problem.fetch([now.value, space.norm_max(now.gradient)])
                if (value, norm) != (last["value"], last["norm"]):
                    before = space.add(x, -last["step"], memory.state["direction"])
                    memory.state["gradient"] = problem.evaluate(before).gradient
            found = descend(problem, x, direction, search, limits=limits, memory=memory)
            moved = found.traces[0][-1]
            step = moved.step if moved.iteration else state.get("last", {"step": 0.0})["step"]
            state["last"] = {"value": found.values[0], "norm": found.gradient_norms[0], "step": step}
            return found

        return self._remembering(run, asked)


class SteepestDescent(_GradientOptimizer):
    """Steepest descent with a line search (O15).

    Arguments as those of :class:`BFGS`, but there has to be a search. With an exact one each direction would
    be at right angles to the one before, whence the zig-zag of N fig 8.6: what other directions are to be
    compared with. The first step of a search supposes that the loss falls as much as the last time.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        line_search_fn: LineSearch = "strong_wolfe",
        *,
        maximize: bool = False,
    ) -> None:
        common = _common(max_iter, max_eval, tolerance_grad, tolerance_change)
        own = {"lr": lr, "line_search_fn": line_search_fn, "maximize": maximize}
        super().__init__(params, {**common, **own})

    def _pair(self, settings: Mapping[str, Any]) -> tuple[Direction, Search]:
        name, rate = settings["line_search_fn"], checked_rate(self._name, settings["lr"])
        if name is None:
            raise OptionError(
                f"{self._name}: line_search_fn is None; give 'strong_wolfe', or use SGD for steps "
                f"of a fixed rate"
            )
        return directions.SteepestDescentDirection(), line_search(self._name, name, rate, c2=0.4)
