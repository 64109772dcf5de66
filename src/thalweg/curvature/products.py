"""Products with Hessians, Jacobians and Gauss-Newton matrices at one point, whose graph is at hand.

What is computed once is kept as long as the object lives: the graph of a gradient, of ``u -> J'u``, of the
loss on its outputs. Then a product is one or two passes back. Nothing here counts work or calls a function;
whoever does says so beside the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thalweg.curvature.differentiation import gradient_of, graph_of, jacobian, pull_many, pull_rows
from thalweg.curvature.vectors import Space, Vector

__all__ = ["GaussNewtonProducts", "HessianProducts", "JacobianProducts"]


class HessianProducts:
    """Products ``Hv = d/dt g(x + t v)`` with the Hessian of a value, by differentiating its gradient.

    Args:
        value: computed from ``leaves`` with a graph: a scalar, or ``[K]`` of which each element depends on
            its own lane alone.
        leaves: x.
        space: lanes or alone.

    Attributes:
        gradient: of the value, with a graph.

    Source: Pearlmutter, Fast exact multiplication by the Hessian, 1994.
    """

    def __init__(self, value: Tensor, leaves: Vector, space: Space) -> None:
        self.leaves, self.space = leaves, space
        with torch.enable_grad():
            self.gradient = graph_of(value.sum(), leaves)

    @property
    def graph(self) -> Vector:
        """What is differentiated for a product."""
        return self.gradient

    def product(self, v: Vector) -> Vector:
        """Return ``Hv``."""
        with torch.enable_grad():
            inner = self.space.dot(self.gradient, [t.detach() for t in v]).sum()
        return gradient_of(inner, self.leaves, retain=True)

    def matrix(self, block: Sequence[int], owner: str) -> Tensor:
        """Return the part of the Hessian that belongs to these tensors, ``[..., n, n]``, row by row.

        Raises:
            OptionError: a tensor is sharded; ``owner`` is the method that the message names.
        """
        with torch.enable_grad():
            flat = self.space.ravel([self.gradient[i] for i in block], owner)
        return pull_rows(flat, [self.leaves[i] for i in block], self.space)


class JacobianProducts:
    """Products ``Jv`` and ``J'u`` with the Jacobian of outputs.

    Args:
        outputs: of any shape, computed from ``leaves`` with a graph; with lanes ``[K, ...]``.
        leaves: x.
        space: lanes or alone.
    """

    def __init__(self, outputs: Tensor, leaves: Vector, space: Space) -> None:
        self.outputs, self.leaves, self.space = outputs, leaves, space
        self._linear: tuple[Tensor, Vector] | None = None

    @property
    def graph(self) -> Vector:
        """What is differentiated for a product, once there is one."""
        return [] if self._linear is None else self._linear[1]

    @property
    def linear(self) -> bool:
        """Whether the graph of ``u -> J'u`` is made, which the first ``Jv`` makes."""
        return self._linear is not None

    def push(self, v: Vector) -> Tensor:
        """Return ``Jv``, in the shape of the outputs, by differentiating ``u -> J'u``: it is linear in u."""
        if self._linear is None:
            u = torch.zeros_like(self.outputs, requires_grad=True)
            self._linear = u, graph_of(self.outputs, self.leaves, u)
        u, back = self._linear
        with torch.enable_grad():
            inner = self.space.dot(back, [t.detach() for t in v])
        return gradient_of(inner.sum(), [u], retain=True)[0]

    def pull(self, u: Tensor) -> Vector:
        """Return ``J'u``."""
        return gradient_of(self.outputs, self.leaves, u, retain=True)

    def flat(self) -> Tensor:
        """Return the outputs side by side, ``[m]`` or ``[K, m]``."""
        lanes = self.space.lanes
        if lanes is None:
            return self.outputs.reshape(-1)
        return self.outputs.reshape(lanes, self.outputs.numel() // lanes)

    def matrix(self) -> tuple[Tensor, int, bool]:
        """Return J, ``[..., m, n]``, how many passes it took, and whether they gave its columns."""
        return jacobian(self.flat(), self.leaves, self.space)


class GaussNewtonProducts(JacobianProducts):
    """Products with ``G = J'HJ``: J of the outputs, H the Hessian of a loss with respect to them (O10).

    Args:
        outputs, leaves, space: as for :class:`JacobianProducts`.
        loss: of outputs; None: half the sum of their squares, so that H is the identity.

    Source: N, C s95; the generalized matrix after Schraudolph, Fast curvature matrix-vector products, 2002.
    """

    def __init__(
        self, outputs: Tensor, leaves: Vector, space: Space, loss: Callable[[Tensor], Tensor] | None
    ) -> None:
        super().__init__(outputs, leaves, space)
        self._loss = loss
        self._slope: tuple[Tensor, Tensor] | None = None

    @property
    def gradient(self) -> Vector:
        """The gradient of the loss."""
        return self.pull(self.slope())

    def product(self, v: Vector) -> Vector:
        """Return ``Gv``."""
        return self.pull(self.bend(self.push(v)))

    def slope(self) -> Tensor:
        """Return the gradient of the loss with respect to the outputs: without a loss, the residuals."""
        return self.outputs.detach() if self._loss is None else self._at_outputs(self._loss)[1].detach()

    def bend(self, q: Tensor) -> Tensor:
        """Return ``Hq``."""
        if self._loss is None:
            return q
        z, slope = self._at_outputs(self._loss)
        return gradient_of(slope, [z], q, retain=True)[0]

    def matrix_from(self, j: Tensor) -> Tensor:
        """Return G, ``[..., n, n]``, from the Jacobian.

        ``HJ`` is made column by column on the loss alone: right for any loss, whether or not examples are
        apart in it.
        """
        if self._loss is None:
            return j.mT @ j
        z, slope = self._at_outputs(self._loss)
        width = j.shape[-1]
        hj = torch.zeros_like(j)
        if slope.requires_grad:
            columns = j.movedim(-1, 0)
            shaped = columns.reshape(width, *z.shape)
            (found,) = pull_many(slope, [z], width, lambda begin, end: shaped[begin:end])
            hj = found.reshape(columns.shape).movedim(0, -1)
        matrix = j.mT @ hj
        return (matrix + matrix.mT) / 2

    def _at_outputs(self, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Return outputs apart from x, and the gradient there with its graph; made once."""
        if self._slope is None:
            z = self.outputs.detach().requires_grad_()
            with torch.enable_grad():
                (slope,) = graph_of(loss(z).sum(), [z])
            self._slope = z, slope
        return self._slope
