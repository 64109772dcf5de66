"""Closures as functions to minimize: those that call backward, and those that return a graph."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from thalweg.curvature.differentiation import differentiable_twice
from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import OptionError
from thalweg.secondorder.objective_function import EvaluatedPoint, HessianKind, ObjectiveFunction
from thalweg.secondorder.processes import Exchange
from thalweg.secondorder.solution import BACKWARD, FORWARD, Tally

__all__ = [
    "Closure",
    "ClosureObjective",
    "GraphForward",
    "dense",
    "explaining",
    "scalar",
    "write",
]

Closure: TypeAlias = Callable[[], Any]


@torch.no_grad()
def write(params: list[Tensor], x: Vector) -> None:
    """Set parameters, or buffers, to ``x``."""
    for p, value in zip(params, x, strict=True):
        p.copy_(value)


class ClosureObjective(ObjectiveFunction):
    """A closure that computes the loss and calls ``backward``."""

    def __init__(
        self, closure: Closure, params: list[Tensor], owner: str, tally: Tally, *, maximize: bool = False
    ) -> None:
        super().__init__(Space(), tally)
        self._closure, self._params, self._owner = closure, params, owner
        self._maximize = maximize
        self._exchange = Exchange(params, backward=True)
        self._ahead: EvaluatedPoint | None = None

    def ahead(self, x: Vector) -> EvaluatedPoint:
        """Evaluate at ``x``, which is asked for again before long."""
        self._ahead = self.evaluate(x)
        return self._ahead

    def evaluate(self, x: Vector) -> EvaluatedPoint:
        """Put ``x`` into the parameters and call the closure."""
        if self._ahead is not None and self._ahead.x is x:
            found, self._ahead = self._ahead, None
            return found
        self.tally.call()
        self.tally.gradients += 1
        self.tally.passes += FORWARD + BACKWARD
        write(self._params, x)
        for p in self._params:
            # a closure that clears nothing would add to them, one that forgets backward leave old ones
            p.grad = None
        returned, groups = self._exchange.call(self._closure)
        value = self._exchange.mean(scalar(returned, x[0], self._owner), groups)
        grads = [p.grad for p in self._params]
        if all(grad is None for grad in grads):
            raise OptionError(
                f"{self._owner}: the closure left no gradients of the parameters; it has to call backward on "
                f"a loss that depends on them"
            )
        gradient = [
            torch.zeros_like(p) if grad is None else dense(grad)
            for p, grad in zip(self._params, grads, strict=True)
        ]
        if self._maximize:
            return EvaluatedPoint(x, -value, self.space.negate(gradient))
        return EvaluatedPoint(x, value, gradient)

    def product(self, x: Vector, v: Vector) -> Vector:
        """Return a product with the Hessian, from differences of gradients."""
        return self.difference_product(x, v)

    def hessian(self, x: Vector, kind: HessianKind) -> list[Tensor]:
        """Return the Hessian from differences of gradients."""
        return self.differences(x, kind)


def dense(grad: Tensor) -> Tensor:
    """Return a gradient with all its elements, as a tensor of its own."""
    return grad.to_dense() if grad.is_sparse else grad.detach().clone()


def scalar(loss: Any, like: Tensor, owner: str) -> Tensor:
    """Return the loss that a closure returned as a 0-dim tensor without graph."""
    if isinstance(loss, (int, float)):
        return torch.tensor(float(loss), dtype=torch.float64, device=like.device)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise OptionError(f"{owner}: the closure returned {got}; it has to return the loss, one number")
    return loss.detach().reshape(())


class GraphForward:
    """Evaluates a closure that returns its result with the graph, without calling ``backward``.

    Args:
        closure: what it is.
        params: what is trained.
        owner: whom errors name.
        wanted: what the closure has to return, in words.
        loss: of a result, one number, by which processes see whether they compute the same.
    """

    def __init__(
        self,
        closure: Closure,
        params: list[Tensor],
        owner: str,
        wanted: str,
        loss: Callable[[Tensor], Tensor],
    ) -> None:
        self._closure, self._params, self._owner = closure, params, owner
        self._wanted, self._loss = wanted, loss
        self._exchange = Exchange(params, backward=False)
        self._begun = False

    def __call__(self, x: Vector) -> tuple[Vector, Tensor]:
        """Return the parameters, which are set to ``x``, and the result there."""
        write(self._params, x)
        with differentiable_twice():
            result, groups = self._exchange.call(self._closure)
        if not isinstance(result, Tensor):
            raise OptionError(
                f"{self._owner}: the closure returned {type(result).__name__}; it has to return "
                f"{self._wanted} with the graph, without calling backward"
            )
        # further on a function may be a constant infinity, which has no graph
        if not result.requires_grad and (not self._begun or bool(result.isfinite().all())):
            self._refuse("has no graph (detached, or computed under no_grad) or")
        if groups and not self._begun and not self._exchange.agree(self._loss(result.detach()), groups):
            raise OptionError(
                f"{self._owner}: the closures of the processes return different losses, but it "
                f"differentiates the loss itself, for which DDP and FSDP average nothing; compute the whole "
                f"batch in every process, with DDP on the module itself (net.module), or take an optimizer "
                f"whose closure calls backward, such as LBFGS"
            )
        self._begun = True
        return self._params, result

    def refuse_unconnected(self) -> None:
        """Refuse a result that depends on no parameter; asked where all gradients are zero."""
        result, _ = self._exchange.call(self._closure)
        found = torch.autograd.grad(result.sum(), self._params, allow_unused=True)
        if all(gradient is None for gradient in found):
            self._refuse("")

    def _refuse(self, without: str) -> None:
        also = f"{without} " if without else ""
        raise OptionError(
            f"{self._owner}: what the closure returned {also}depends on no parameter of the optimizer; it "
            f"has to return {self._wanted} with the graph, without calling backward or detach"
        )


@contextlib.contextmanager
def explaining(owner: str) -> Iterator[None]:
    """Put in words what autograd says of a graph that can't be differentiated (again)."""
    try:
        yield
    except RuntimeError as error:
        if any(words in str(error) for words in ("double backward", "donated buffers")):
            raise OptionError(
                f"{owner}: a compiled model (torch.compile, its backends with aot_autograd) can't be "
                f"differentiated twice; call the model itself in the closure"
            ) from error
        if "second time" not in str(error):
            raise
        raise OptionError(
            f"{owner}: the closure has called backward, after which its graph is gone; return the result "
            f"without calling it"
        ) from error
