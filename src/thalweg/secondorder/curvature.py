"""Gauss-Newton models: what residuals, or outputs and a convex loss, say about curvature (O10)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.secondorder.problem import HessianKind, Point, Problem, gradient_of
from thalweg.secondorder.solution import BACKWARD, FORWARD, TANGENT, Tally
from thalweg.secondorder.vectors import Space, Vector

__all__ = ["CompositeProblem", "GaussNewtonModel", "gradient_of_graph", "jacobian"]

Loss: TypeAlias = Callable[[Tensor], Tensor]


class GaussNewtonModel(ABC):
    """The quadratic ``g'd + 1/2 d'Gd`` that stands for the function around a point.

    Attributes:
        gradient: g, flat: ``[n]``.
        diagonal: of G: ``[n]``.
    """

    gradient: Tensor
    diagonal: Tensor

    @abstractmethod
    def damped(self, damping: Tensor) -> Tensor:
        """Return ``-(G + diag(damping))^-1 g``; damping is ``[n]`` and above 0."""

    @abstractmethod
    def undamped(self) -> Tensor:
        """Return the shortest d that minimizes the quadratic: ``-G^+ g``."""

    @abstractmethod
    def bend(self, d: Tensor) -> Tensor:
        """Return ``d'Gd``."""


class _Residuals(GaussNewtonModel):
    """``G = J'J`` and ``g = J'r``, solved through J itself, whose condition number is the root of G's."""

    def __init__(self, r: Tensor, j: Tensor) -> None:
        self._r, self._j = r, j
        self.gradient = j.mT @ r
        self.diagonal = (j * j).sum(0)

    def damped(self, damping: Tensor) -> Tensor:
        stacked = torch.cat([self._j, torch.diag(damping.sqrt())])
        right = torch.cat([-self._r, torch.zeros_like(damping)])
        q, r = torch.linalg.qr(stacked)
        found: Tensor = torch.linalg.solve_triangular(r, (q.mT @ right)[:, None], upper=True)[:, 0]
        return found

    def undamped(self) -> Tensor:
        shortest: Tensor = torch.linalg.pinv(self._j) @ self._r
        return -shortest

    def bend(self, d: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vecdot(self._j @ d, self._j @ d)
        return found


class _Outputs(GaussNewtonModel):
    """``G = J'HJ`` with H the Hessian of a convex loss with respect to the outputs."""

    def __init__(self, g: Tensor, matrix: Tensor) -> None:
        self.gradient, self._matrix = g, matrix
        self.diagonal = matrix.diagonal().clone()

    def damped(self, damping: Tensor) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(self._matrix + torch.diag(damping))
        d = torch.cholesky_solve(-self.gradient[:, None], factor)[:, 0]
        return torch.where(info == 0, d, torch.nan)

    def undamped(self) -> Tensor:
        shortest: Tensor = torch.linalg.pinv(self._matrix, hermitian=True) @ self.gradient
        return -shortest

    def bend(self, d: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vecdot(d, self._matrix @ d)
        return found


class CompositeProblem(Problem):
    """Half the sum of squared residuals, or a convex loss of outputs.

    Args:
        forward: returns the tensors that stand for ``x``, and residuals or outputs of any shape.
        loss: from outputs to a scalar, convex in them; None: they are residuals, ``1/2 sum r^2``.
        tally: where everything is counted.
    """

    def __init__(
        self, forward: Callable[[Vector], tuple[Vector, Tensor]], loss: Loss | None, tally: Tally
    ) -> None:
        super().__init__(Space(), tally)
        self._forward, self.loss = forward, loss

    def evaluate(self, x: Vector) -> Point:
        """Return value and gradient at ``x``."""
        self.tally.evaluations += 1
        self.tally.gradients += 1
        self.tally.passes += FORWARD + BACKWARD
        leaves, outputs = self._forward(x)
        value = self._value(outputs)
        return Point(x, value.detach(), gradient_of(value, leaves))

    def value(self, x: Vector) -> Tensor:
        """Return the value alone; one evaluation, no gradient."""
        self.tally.evaluations += 1
        self.tally.passes += FORWARD
        return self._value(self._forward(x)[1]).detach()

    def product(self, x: Vector, v: Vector) -> Vector:
        """Return the product of the Hessian with ``v``, from differences of gradients."""
        return self.difference_product(x, v)

    def hessian(self, x: Vector, kind: HessianKind) -> list[Tensor]:
        """Return the Hessian from differences of gradients."""
        return self.differences(x, kind)

    def model(self, x: Vector) -> GaussNewtonModel:
        """Return the Gauss-Newton model around ``x``; one Jacobian."""
        self.tally.hessians += 1
        self.space.ravel(x, "a Jacobian")
        leaves, outputs = self._forward(x)
        flat = outputs.reshape(-1)
        j, passes = jacobian(flat, leaves, self.space)
        self.tally.products += passes
        self.tally.passes += FORWARD + (BACKWARD if passes == flat.numel() else TANGENT) * passes
        self.tally.passes += 0.0 if passes == flat.numel() else BACKWARD
        if self.loss is None:
            return _Residuals(flat.detach(), j)
        z = outputs.detach().requires_grad_()
        with torch.enable_grad():
            slope = gradient_of_graph(self._value(z), z).reshape(-1)
        # H J column by column on the loss alone: right for any loss, whether or not examples are apart
        columns = [gradient_of(slope @ column, [z], retain=True)[0].reshape(-1) for column in j.unbind(-1)]
        hj = torch.stack(columns, dim=-1)
        matrix = j.mT @ hj
        return _Outputs(j.mT @ slope.detach(), (matrix + matrix.mT) / 2)

    def _value(self, outputs: Tensor) -> Tensor:
        with torch.enable_grad():
            if self.loss is None:
                return (outputs * outputs).sum() / 2
            value = self.loss(outputs)
        if not isinstance(value, Tensor) or value.ndim != 0:
            raise OptionError("least_squares: the loss has to return a scalar tensor")
        return value


def gradient_of_graph(value: Tensor, z: Tensor) -> Tensor:
    """Return a gradient that can be differentiated again."""
    if not value.requires_grad:
        return torch.zeros_like(z)
    (gradient,) = torch.autograd.grad(
        value, [z], create_graph=True, allow_unused=True, materialize_grads=True
    )
    return gradient


def jacobian(outputs: Tensor, leaves: Vector, space: Space) -> tuple[Tensor, int]:
    """Return the Jacobian ``[m, n]`` of flat outputs, and how many passes it took: the smaller of m and n.

    Rows come from one backward pass each; columns from differentiating ``u -> J'u``, which is linear in u.

    Args:
        outputs: ``[m]``, computed from ``leaves``.
        leaves: n elements together.
        space: alone.
    """
    m, n = outputs.numel(), sum(leaf.numel() for leaf in leaves)
    if not outputs.requires_grad:
        return outputs.new_zeros((m, n)), 0
    if m <= n:
        rows = [space.ravel(gradient_of(outputs[i], leaves, retain=True), "a Jacobian") for i in range(m)]
        return (torch.stack(rows) if rows else outputs.new_zeros((0, n))), m
    u = torch.zeros_like(outputs, requires_grad=True)
    back = torch.autograd.grad(
        outputs, leaves, u, create_graph=True, allow_unused=True, materialize_grads=True
    )
    flat = space.ravel(list(back), "a Jacobian")
    columns = [gradient_of(flat[i], [u], retain=True)[0] for i in range(n)]
    return torch.stack(columns, dim=-1), n
