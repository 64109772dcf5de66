"""Residuals, or outputs and a convex loss, as a function to minimize: its Gauss-Newton models (O10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from thalweg.curvature.differentiation import gradient_of
from thalweg.curvature.products import GaussNewtonProducts
from thalweg.curvature.vectors import Scalar, Space, Vector
from thalweg.errors import OptionError
from thalweg.secondorder.objective_function import EvaluatedPoint, HessianKind, ObjectiveFunction
from thalweg.secondorder.quadratic_models import GaussNewtonModel, LinearSolve, Outputs, Residuals
from thalweg.secondorder.solution import BACKWARD, FORWARD, TANGENT, Tally

__all__ = [
    "CompositeObjective",
]

Loss: TypeAlias = Callable[[Tensor], Tensor]


class _Products(GaussNewtonModel):
    """``G = J'HJ`` by products alone, solved by conjugate gradients.

    What is kept is the image of d among the outputs, so that the residual is made anew from it in each
    iteration, as in CGLS: it doesn't drift away from d where the system is badly conditioned. An iteration
    takes one product and one trip to the host.
    """

    def __init__(self, problem: CompositeObjective, point: EvaluatedPoint, inner: LinearSolve) -> None:
        self._problem, self._point, self._inner = problem, point, inner

    def size(self) -> Scalar:
        """Return the Rayleigh quotient ``g'Gg / g'g``; one product."""
        g = self._point.gradient
        return self.bend(g) / self._problem.space.dot(g, g)

    def bend(self, d: Vector) -> Scalar:
        """Return ``d'Gd``; one product."""
        image = self._problem.push(self._point.x, d)
        return self._problem.space.dot([image], [self._problem.bend(self._point.x, image)])

    def undamped(self, cosine: Scalar | None = None) -> Vector:
        """Return what conjugate gradients find from zero, which in exact arithmetic is the shortest.

        They go along directions of much curvature first, so that ending them early leaves the others out.
        """
        return self._solve(None, None, cosine)[0]

    def damped(self, mu: Scalar, scale: Tensor | None, near: Vector | None) -> tuple[Vector, Scalar]:
        """Solve it to the accuracy asked for, from the best multiple of ``near``."""
        assert scale is None
        return self._solve(mu, near)

    def _solve(
        self, mu: Scalar | None, near: Vector | None, cosine: Scalar | None = None
    ) -> tuple[Vector, Scalar]:
        problem, x, g = self._problem, self._point.x, self._point.gradient
        space = problem.space
        slope = problem.slope(x)
        count = self._inner.max_products
        if count is None:
            # in exact arithmetic the rank is enough, which neither elements nor outputs exceed
            count = 2 * min(sum(p.numel() for p in g), slope.numel()) // (space.lanes or 1)
        d = [torch.zeros_like(p) for p in g]
        image, force, r = torch.zeros_like(slope), torch.zeros_like(slope), g
        if near is not None and count > 1:
            count -= 1
            usable = torch.isfinite(space.norm(near))
            near = space.where(usable, near, d)
            image, force, bend = self._along(near, mu)
            share = -space.dot(g, near) / bend
            share = torch.where((bend > 0) & torch.isfinite(share), share, 0.0)
            d = space.scale(share, near)
            (image,), (force,) = space.scale(share, [image]), space.scale(share, [force])
            r = self._residual(d, slope + force, mu)
        rr = space.dot(r, r)
        goal = self._inner.accuracy**2 * space.dot(g, g)
        active = rr > goal
        p = space.negate(r)
        for left in reversed(range(count)):
            along, pushed, bend = self._along(p, mu)
            share = rr / bend
            active = active & (bend > 0) & torch.isfinite(share)
            share = torch.where(active, share, 0.0)
            if cosine is not None and left + 1 < count:
                beyond = space.add(d, share, p)
                fits = -space.dot(g, beyond) >= cosine * space.norm(g) * space.norm(beyond)
                active = active & fits
                share = torch.where(active, share, 0.0)
            d = space.where(active, space.add(d, share, p), d)
            (image,) = space.where(active, space.add([image], share, [along]), [image])
            (force,) = space.where(active, space.add([force], share, [pushed]), [force])
            if left == 0:
                break
            r = self._residual(d, slope + force, mu)
            following = space.dot(r, r)
            active = active & (following > goal)
            if not any(row[0] for row in problem.fetch([active])):
                break
            p = space.where(active, space.add(space.negate(r), following / rr, p), p)
            rr = torch.where(active, following, rr)
        return d, -space.dot(g, d) - space.dot([image], [force]) / 2

    def _along(self, p: Vector, mu: Scalar | None) -> tuple[Tensor, Tensor, Scalar]:
        """Return ``Jp``, ``HJp`` and ``p'(G + mu)p``; half a product."""
        problem, space = self._problem, self._problem.space
        image = problem.push(self._point.x, p)
        force = problem.bend(self._point.x, image)
        bend = space.dot([image], [force])
        return image, force, bend if mu is None else bend + mu * space.dot(p, p)

    def _residual(self, d: Vector, force: Tensor, mu: Scalar | None) -> Vector:
        """Return the gradient of the damped quadratic at d; the other half."""
        back = self._problem.pull(self._point.x, force)
        return back if mu is None else self._problem.space.add(back, mu, d)


class CompositeObjective(ObjectiveFunction):
    """Half the sum of squared residuals, or a convex loss of outputs.

    Args:
        forward: returns the tensors that stand for ``x``, and residuals or outputs of any shape; with lanes
            they are ``[K, ...]``, of which each depends on its own lane of ``x`` alone.
        loss: from outputs to a scalar (with lanes ``[K]``), convex in them; None: they are residuals,
            ``1/2 sum r^2``.
        tally: where everything is counted.
        space: lanes or alone.
        lasting: whether a graph outlives the next call of ``forward``: not where that computes on parameters,
            which are overwritten. One by products then stays until the next model is made, so that a trial
            that fails costs no second call at the point where it began.
    """

    def __init__(
        self,
        forward: Callable[[Vector], tuple[Vector, Tensor]],
        loss: Loss | None,
        tally: Tally,
        space: Space | None = None,
        *,
        lasting: bool = False,
    ) -> None:
        super().__init__(Space() if space is None else space, tally)
        self._forward, self.loss, self._lasting = forward, loss, lasting
        self._graph: tuple[Vector, GaussNewtonProducts] | None = None
        self._of_model: tuple[Vector, GaussNewtonProducts] | None = None

    def evaluate(self, x: Vector) -> EvaluatedPoint:
        """Return value and gradient at ``x``."""
        products = self._at(x)
        self.tally.gradients += 1
        self.tally.passes += BACKWARD
        value = self._value(products.outputs)
        return EvaluatedPoint(x, value.detach(), gradient_of(value.sum(), products.leaves, retain=True))

    def settle(self, x: Vector) -> None:
        """Take note that the last evaluation stands for ``x`` too."""
        if self._graph is not None:
            self._graph = x, self._graph[1]

    def product(self, x: Vector, v: Vector) -> Vector:
        """Return the product of the Hessian with ``v``, from differences of gradients."""
        return self.difference_product(x, v)

    def hessian(self, x: Vector, kind: HessianKind) -> list[Tensor]:
        """Return the Hessian from differences of gradients."""
        return self.differences(x, kind)

    def model(self, point: EvaluatedPoint, inner: LinearSolve) -> GaussNewtonModel:
        """Return the Gauss-Newton model around a point; for a dense one, one Jacobian."""
        if inner.solver == "cg":
            self._of_model = (point.x, self._at(point.x)) if self._lasting else None
            return _Products(self, point, inner)
        space = self.space
        space.ravel(point.x, "a Jacobian")
        self.tally.hessians += 1
        products = self._at(point.x)
        j, passes, columns = products.matrix()
        self.tally.products += passes
        self.tally.passes += (BACKWARD + TANGENT * passes) if columns else BACKWARD * passes
        if self.loss is None:
            return Residuals(space, point.gradient, products.flat().detach(), j)
        return Outputs(space, point.gradient, products.matrix_from(j))

    def push(self, x: Vector, v: Vector) -> Tensor:
        """Return ``Jv``; half a product."""
        products = self._at(x)
        self.tally.products += 1
        self.tally.passes += TANGENT if products.linear else TANGENT + BACKWARD
        return products.push(v)

    def pull(self, x: Vector, u: Tensor) -> Vector:
        """Return ``J'u``; the other half."""
        products = self._at(x)
        self.tally.passes += BACKWARD
        return products.pull(u)

    def slope(self, x: Vector) -> Tensor:
        """Return the gradient of the loss with respect to the outputs: the residuals themselves."""
        return self._at(x).slope()

    def bend(self, x: Vector, q: Tensor) -> Tensor:
        """Return ``Hq``, with H the Hessian of the loss with respect to the outputs."""
        return self._at(x).bend(q)

    def _at(self, x: Vector) -> GaussNewtonProducts:
        """Return what is computed at ``x``; a closure computes on its parameters, so only the last holds."""
        for kept in (self._graph, self._of_model):
            if kept is not None and kept[0] is x:
                return kept[1]
        self._graph = None
        self.tally.call()
        self.tally.passes += FORWARD
        leaves, outputs = self._forward(x)
        loss = None if self.loss is None else self._value
        products = GaussNewtonProducts(outputs, leaves, self.space, loss)
        self._graph = x, products
        return products

    def _value(self, outputs: Tensor) -> Tensor:
        expected = () if self.space.lanes is None else (self.space.lanes,)
        with torch.enable_grad():
            if self.loss is None:
                return self.space.dot([outputs], [outputs]) / 2
            value = self.loss(outputs)
        if not isinstance(value, Tensor) or tuple(value.shape) != expected:
            what = f"a tensor of shape {expected}" if expected else "a scalar tensor"
            raise OptionError(f"least_squares: the loss has to return {what}")
        return value
