"""Newton, Gauss-Newton and Levenberg-Marquardt as ``torch.optim.Optimizer``: closures that return a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import OptionError
from thalweg.secondorder import damping as damping_of
from thalweg.secondorder import newton
from thalweg.secondorder.arguments import BOUNDS, LineSearch, checked_rate, line_search, whole
from thalweg.secondorder.closure_objective import ClosureObjective, GraphForward, explaining, scalar
from thalweg.secondorder.closures import ClosureOptimizer, ClosureStep, Params, limits_of
from thalweg.secondorder.composite import CompositeObjective, Loss
from thalweg.secondorder.damping import descend_damped
from thalweg.secondorder.descent_loop import DescentMemory, DescentResult
from thalweg.secondorder.directions import Direction
from thalweg.secondorder.objective_function import AutogradObjective, HessianKind
from thalweg.secondorder.quadratic_models import SolverName
from thalweg.secondorder.searches import Fixed, Search
from thalweg.secondorder.termination import DescentLimits
from thalweg.settings.bounds import ABOVE_ZERO, Bounds
from thalweg.settings.declared import arguments_of

__all__ = [
    "GaussNewton",
    "LevenbergMarquardt",
    "Newton",
    "NewtonCG",
]


class _LossOptimizer(ClosureOptimizer):
    """Those whose closure returns the loss."""

    calls_backward: ClassVar[bool] = False

    def _on_loss(
        self,
        asked: ClosureStep,
        direction: Direction,
        search: Search,
        limits: DescentLimits,
    ) -> tuple[Vector, Any]:
        """Minimize what a closure returns with its graph."""
        sign = -1 if asked.state["maximize"] else 1
        forward = GraphForward(
            asked.closure,
            asked.params,
            self._name,
            "the loss",
            lambda loss: scalar(loss, loss, self._name),
        )

        def of_loss(x: Vector) -> tuple[Vector, Tensor]:
            leaves, value = forward(x)
            scalar(value, value, self._name)
            return leaves, sign * value.reshape(())

        with explaining(self._name):
            problem = AutogradObjective(of_loss, Space(), asked.tally)
            found = self._descend(problem, asked, direction, search, limits)
            if self._slope == 0:
                forward.refuse_unconnected()
            return found


class Newton(_LossOptimizer):
    """Newton's method (O9, O13).

    Args:
        params: parameters, or groups that all have the same options.
        lr: eta, below 2 on a convex quadratic; what a search begins with.
        damping: alpha, added to the diagonal of the Hessian.
        hessian: ``"exact"``, ``"finite-difference"``, or ``"block"`` (each tensor with itself alone).
        modified: replace eigenvalues by their magnitudes, so that the direction leads downhill.
        max_iter: iterations in a step.
        tolerance_grad: end where no element of the gradient is larger.
        line_search_fn: as for :class:`thalweg.optim.LBFGS`; None: the whole step, as on the slide.
        maximize: climb instead of descend.

    The closure returns the loss **without** calling ``backward``, since the gradient is differentiated again;
    for ``"finite-difference"`` it calls ``backward``, as elsewhere. ``step`` returns the loss before it.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1,
        damping: float = 0.0,
        hessian: HessianKind = "exact",
        modified: bool = False,
        max_iter: int = 1,
        tolerance_grad: float = 1e-9,
        line_search_fn: LineSearch = None,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _check(self, settings: dict[str, Any]) -> None:
        self._parts(settings)

    def _parts(self, settings: Mapping[str, Any]) -> tuple[Direction, Search, DescentLimits]:
        direction = newton.NewtonDirection(
            hessian=settings["hessian"], damping=settings["damping"], modified=settings["modified"]
        )
        rate = checked_rate(self._name, settings["lr"])
        name = settings["line_search_fn"]
        search = Fixed(step=rate) if name is None else line_search(self._name, name, rate)
        limits = limits_of(settings)
        return direction, search, limits

    def _advance(self, asked: ClosureStep) -> tuple[Vector, Any]:
        direction, search, limits = self._parts(asked.settings)
        if asked.settings["hessian"] == "finite-difference":
            maximize = bool(asked.settings["maximize"])
            problem = ClosureObjective(
                asked.closure, asked.params, self._name, asked.tally, maximize=maximize
            )
            return self._descend(problem, asked, direction, search, limits)
        return self._on_loss(asked, direction, search, limits)


class NewtonCG(_LossOptimizer):
    """Newton's method by conjugate gradients, without a matrix, using negative curvature (O9, O13).

    Args:
        params: parameters, or groups that all have the same options; sharded ones too.
        lr: what a search begins with, or the part of the direction that is taken without one.
        max_products: products with the Hessian in one iteration, at least 1; None: twice as many as there are
            elements, which the accuracy asked for seldom needs.
        max_iter: iterations in a step.
        max_eval: calls of the closure for a gradient in a step; None: no limit.
        tolerance_grad: end where no element of the gradient is larger.
        tolerance_change: end where the loss changes by less, relative to the larger of it and 1.
        line_search_fn: as for :class:`thalweg.optim.LBFGS`; None: the whole direction times ``lr``.
        maximize: climb instead of descend.

    The closure returns the loss **without** calling ``backward``. ``step`` returns the loss before it.
    Nothing is carried from step to step but the length of the first try, so each may have its own batch.

    >>> import torch
    >>> w = torch.nn.Parameter(torch.tensor([0.1, 0.1], dtype=torch.float64))
    >>> optimizer = NewtonCG([w], max_products=2)
    >>> for _ in range(8):
    ...     _ = optimizer.step(lambda: w[0] ** 2 - w[1] ** 2 / 2 + w[1] ** 4 / 4)
    >>> print([round(abs(value), 6) for value in w.tolist()])
    [0.0, 1.0]
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1,
        max_products: int | None = None,
        max_iter: int = 1,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-9,
        tolerance_change: float = 0.0,
        line_search_fn: LineSearch = "strong_wolfe",
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _check(self, settings: dict[str, Any]) -> None:
        self._parts(settings)

    def _parts(self, settings: Mapping[str, Any]) -> tuple[Direction, Search, DescentLimits]:
        rate, name = checked_rate(self._name, settings["lr"]), settings["line_search_fn"]
        search = Fixed(step=rate) if name is None else line_search(self._name, name, rate)
        limits = limits_of(settings)
        return newton.NewtonCGDirection(max_products=whole(settings["max_products"])), search, limits

    def _advance(self, asked: ClosureStep) -> tuple[Vector, Any]:
        direction, search, limits = self._parts(asked.settings)
        return self._on_loss(asked, direction, search, limits)


def _inner(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: settings[name] for name in ("solver", "accuracy")}
    return {**kept, "max_products": whole(settings["max_products"])}


class _CompositeOptimizer(ClosureOptimizer):
    """Those whose closure returns residuals, or outputs and a convex loss of them."""

    calls_backward: ClassVar[bool] = False

    def _composite(
        self, asked: ClosureStep, run: Callable[[CompositeObjective], tuple[Vector, Any]]
    ) -> tuple[Vector, Any]:
        """Run on what a closure returns: residuals, or outputs and a loss."""

        def outputs() -> Any:
            result, problem.loss = self._parted(asked.closure())
            return result

        def value(result: Tensor) -> Tensor:
            return self._value(result, problem.loss)

        wanted = "residuals, or a pair of outputs and a convex loss of them,"
        forward = GraphForward(outputs, asked.params, self._name, wanted, value)
        problem = CompositeObjective(forward, None, asked.tally)
        with explaining(self._name):
            found = run(problem)
            if self._slope == 0:
                forward.refuse_unconnected()
            return found

    def _parted(self, result: Any) -> tuple[Tensor, Loss | None]:
        """Return residuals and None, or outputs and what checks and computes their loss."""
        loss: Loss | None = None
        if isinstance(result, tuple) and len(result) == 2 and callable(result[1]):
            result, given = result

            def loss(outputs: Tensor) -> Tensor:
                return self._checked(given(outputs), outputs)

        if not isinstance(result, Tensor):
            raise OptionError(
                f"{self._name}: the closure returned {type(result).__name__}; it has to return "
                f"residuals, or a pair of outputs and a convex loss of them"
            )
        if result.ndim == 0 and loss is None:
            raise OptionError(
                f"{self._name}: the closure returned one number, as a loss is; it has to return the "
                f"residuals, whose squares are summed, or a pair of outputs and a convex loss of them; a "
                f"single residual is a tensor of shape [1]"
            )
        return result, loss

    def _checked(self, value: Any, outputs: Tensor) -> Tensor:
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise OptionError(
                f"{self._name}: the closure's loss of outputs returned {got}; return one number"
            )
        if outputs.requires_grad and not _depends(value, outputs):
            raise OptionError(
                f"{self._name}: the closure's loss doesn't depend on the outputs that it is given; compute "
                f"it from its argument"
            )
        return value.reshape(())

    def _value(self, result: Tensor, loss: Loss | None) -> Tensor:
        return result.square().sum() / 2 if loss is None else loss(result)

    def _returned(self, found: Any) -> Any:
        result, loss = self._parted(found)
        return self._value(result.detach(), loss).detach()


def _depends(value: Tensor, on: Tensor) -> bool:
    if not value.requires_grad:
        return False
    (slope,) = torch.autograd.grad(value, [on], retain_graph=True, allow_unused=True)
    return slope is not None


class GaussNewton(_CompositeOptimizer):
    """Gauss-Newton, of residuals or of outputs under a convex loss (O10).

    Args:
        params: parameters, or groups that all have the same options.
        lr: how much of the direction is taken; what a search begins with.
        max_iter: iterations in a step.
        tolerance_grad: end where no element of the gradient is larger.
        line_search_fn: as for :class:`thalweg.optim.LBFGS`; None: the same part of every direction.
        solver: ``"dense"``: the Jacobian as a matrix; ``"cg"``: conjugate gradients on products with it, for
            nets of any size and sharded parameters.
        max_products: of ``"cg"`` in one iteration; None: twice the number of elements or
            outputs, whichever are fewer.
        accuracy: of ``"cg"``: what part of the gradient may be left.

    The closure returns residuals of any shape (the loss is half the sum of their squares), or a pair:
    outputs, and a function from them to a scalar that is convex in them, such as cross-entropy against the
    batch's labels. It doesn't call ``backward``. ``step`` returns the loss before the step.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1,
        max_iter: int = 1,
        tolerance_grad: float = 1e-9,
        line_search_fn: LineSearch = "backtracking",
        solver: SolverName = "dense",
        max_products: int | None = None,
        accuracy: float = 0.01,
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _parts(
        self, settings: Mapping[str, Any]
    ) -> tuple[damping_of.GaussNewtonDirection, Search, DescentLimits]:
        rate, name = checked_rate(self._name, settings["lr"]), settings["line_search_fn"]
        search = Fixed(step=rate) if name is None else line_search(self._name, name, rate)
        direction = damping_of.GaussNewtonDirection(**_inner(settings))
        return direction, search, limits_of(settings)

    def _check(self, settings: dict[str, Any]) -> None:
        self._parts(settings)

    def _advance(self, asked: ClosureStep) -> tuple[Vector, Any]:
        direction, search, limits = self._parts(asked.settings)
        return self._composite(
            asked, lambda problem: self._descend(problem, asked, direction, search, limits)
        )


class LevenbergMarquardt(_CompositeOptimizer):
    """Levenberg-Marquardt with adaptive damping, of residuals or of outputs under a convex loss (O10).

    Args:
        params: parameters, or groups that all have the same options.
        damping: the first one, as a part of the largest element on the diagonal of the Gauss-Newton matrix.
        scale: ``"identity"`` or ``"diagonal"``: what is added to the matrix, times the damping.
        max_iter: accepted steps in a step.
        max_eval: calls of the closure for a value in a step; None: no limit.
        tolerance_grad: end where no element of the gradient is larger.
        solver, max_products, accuracy: as for :class:`GaussNewton`; ``"cg"`` needs ``scale="identity"``.

    The closure is that of :class:`GaussNewton`. From step to step the damping carries over, which says how
    far models of this function are to be trusted, whatever the batch; and with ``"cg"`` the last direction,
    where the next solution begins. Where a step finds nothing, the damping is as before it.
    """

    bounds: ClassVar[Mapping[str, Bounds]] = {**BOUNDS, "damping": ABOVE_ZERO}

    def __init__(
        self,
        params: Params,
        damping: float = 1e-3,
        scale: Literal["identity", "diagonal"] = "identity",
        max_iter: int = 1,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-9,
        solver: SolverName = "dense",
        max_products: int | None = None,
        accuracy: float = 0.1,
    ) -> None:
        super().__init__(params, arguments_of(locals()))

    def _parts(
        self, settings: Mapping[str, Any]
    ) -> tuple[damping_of.LevenbergMarquardtMethod, DescentLimits]:
        limits = limits_of(settings)
        method = damping_of.LevenbergMarquardtMethod(
            damping=settings["damping"], scale=settings["scale"], **_inner(settings)
        )
        return method, limits

    def _check(self, settings: dict[str, Any]) -> None:
        self._parts(settings)

    def _advance(self, asked: ClosureStep) -> tuple[Vector, Any]:
        method, limits = self._parts(asked.settings)

        def run(problem: CompositeObjective) -> tuple[Vector, Any]:
            def damped(memory: DescentMemory | None) -> DescentResult:
                return descend_damped(problem, asked.x, method, limits=limits, memory=memory)

            return self._remembering(damped, asked)

        return self._composite(asked, run)
