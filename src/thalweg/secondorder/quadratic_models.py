"""Gauss-Newton models as matrices, and what all models have in common (O10)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from thalweg.curvature.vectors import Scalar, Space, Vector
from thalweg.errors import OptionError, nearest

__all__ = [
    "DenseModel",
    "GaussNewtonModel",
    "LinearSolve",
    "Outputs",
    "Residuals",
    "SolverName",
]

SolverName: TypeAlias = Literal["dense", "cg"]


@dataclass(frozen=True, kw_only=True)
class LinearSolve:
    """How the linear system of a Gauss-Newton model is solved.

    Args:
        solver: ``"dense"``: through the Jacobian as a matrix, ``m * n`` numbers; ``"cg"``: by conjugate
            gradients on products ``J'(H(Jv))``, which need no more memory than a gradient does.
        max_products: of one solution by ``"cg"``, at least 1; None: twice the number of elements or
            outputs, whichever are fewer.
        accuracy: ``"cg"`` ends where the residual of the system is below this part of ``|g|``; in (0, 1).
    """

    # whom errors name: what a person writes to an optimizer or as a method
    called: ClassVar[str]
    solver: SolverName = "dense"
    max_products: int | None = None
    accuracy: float = 0.01

    def __post_init__(self) -> None:
        owner = self.called
        if self.solver not in ("dense", "cg"):
            raise OptionError(
                f"{owner}: there is no solver {self.solver!r}; {nearest(self.solver, ['dense', 'cg'])}"
            )
        if self.max_products is not None and self.max_products < 1:
            raise OptionError(
                f"{owner}: max_products is {self.max_products}; give a number of at least 1, or None"
            )
        if self.max_products is not None and self.solver == "dense":
            raise OptionError(
                f"{owner}: max_products is {self.max_products}, but solver='dense' makes no products; "
                f"leave it out, or give solver='cg'"
            )
        if not 0 < self.accuracy < 1:
            raise OptionError(f"{owner}: accuracy is {self.accuracy}; give a number above 0 and below 1")


class GaussNewtonModel(ABC):
    """The quadratic ``g'd + 1/2 d'Gd`` that stands for the function around a point."""

    @abstractmethod
    def size(self) -> Scalar:
        """Return a curvature that is typical of the largest: what a first damping is measured by."""

    @abstractmethod
    def damped(self, mu: Scalar, scale: Tensor | None, near: Vector | None) -> tuple[Vector, Scalar]:
        """Return ``d = -(G + mu * D)^-1 g``, and how much the model promises that the value will fall.

        Args:
            mu: above 0.
            scale: the diagonal of D, ``[..., n]``; None: the identity.
            near: a direction that d may resemble.
        """

    @abstractmethod
    def undamped(self, cosine: Scalar | None = None) -> Vector:
        """Return the shortest d that minimizes the quadratic: ``-G^+ g``.

        Args:
            cosine: that of the angle between d and ``-g`` has to be at least this: directions of least
                curvature are left out until it is, all but one.
        """

    @abstractmethod
    def bend(self, d: Vector) -> Scalar:
        """Return ``d'Gd``."""


class DenseModel(GaussNewtonModel):
    """A model that has a matrix.

    Attributes:
        diagonal: of G: ``[..., n]``.
    """

    diagonal: Tensor
    _parts: ClassVar[tuple[str, ...]]

    def __init__(self, space: Space, gradient: Vector) -> None:
        self._space, self._like = space, gradient
        self._g = space.ravel(gradient, "a Jacobian")

    def keep(self, renewed: Tensor, before: DenseModel) -> None:
        """Be the model ``before`` in all lanes but those that are ``renewed``, ``[K]``."""
        for name in ("_g", "diagonal", *self._parts):
            setattr(self, name, self._space.choose(renewed, getattr(self, name), getattr(before, name)))

    @abstractmethod
    def _damped(self, damping: Tensor) -> Tensor:
        """Return ``-(G + diag(damping))^-1 g``."""

    @abstractmethod
    def _undamped(self, cosine: Scalar | None) -> Tensor:
        """Return ``-G^+ g`` where everything is finite."""

    @abstractmethod
    def _bend(self, d: Tensor) -> Tensor:
        """Return ``d'Gd``."""

    def size(self) -> Scalar:
        """Return the largest element of the diagonal."""
        return self.diagonal.amax(-1)

    def damped(self, mu: Scalar, scale: Tensor | None, near: Vector | None) -> tuple[Vector, Scalar]:
        """Solve it at once."""
        ones = torch.ones_like(self._g)
        d = self._damped(mu[..., None] * (ones if scale is None else scale))
        promise = -torch.linalg.vecdot(self._g, d) - self._bend(d) / 2
        return self._space.unravel(d, self._like), promise

    def undamped(self, cosine: Scalar | None = None) -> Vector:
        """Solve it at once; NaN where the model isn't finite."""
        return self._space.unravel(self._undamped(cosine), self._like)

    def bend(self, d: Vector) -> Scalar:
        """Return ``d'Gd``."""
        return self._bend(self._space.ravel(d, "a Jacobian"))


class Residuals(DenseModel):
    """``G = J'J`` and ``g = J'r``, solved through J itself, whose condition number is the root of G's."""

    _parts = ("_r", "_j")

    def __init__(self, space: Space, gradient: Vector, r: Tensor, j: Tensor) -> None:
        super().__init__(space, gradient)
        # what the outputs are computed in may be wider or narrower than what they are computed from
        self._r, self._j = r.to(self._g.dtype), j.to(self._g.dtype)
        self.diagonal = (self._j * self._j).sum(-2)

    def _damped(self, damping: Tensor) -> Tensor:
        stacked = torch.cat([self._j, torch.diag_embed(damping.sqrt())], dim=-2)
        right = torch.cat([-self._r, torch.zeros_like(damping)], dim=-1)
        q, r = torch.linalg.qr(stacked)
        found: Tensor = torch.linalg.solve_triangular(r, q.mT @ right[..., None], upper=True)[..., 0]
        return found

    def _undamped(self, cosine: Scalar | None) -> Tensor:
        matrix, usable = _usable(self._j)
        u, sizes, vt = torch.linalg.svd(matrix, full_matrices=False)
        along = (u.mT @ self._r[..., None])[..., 0]
        parts = _kept(along / sizes, sizes, max(matrix.shape[-2:]))
        # the gradient's part along a right singular vector is its size times that of r along the left one
        shortest = (vt.mT @ _within(parts, along * sizes, self._g, cosine)[..., None])[..., 0]
        return torch.where(usable, -shortest, torch.nan)

    def _bend(self, d: Tensor) -> Tensor:
        along = (self._j @ d[..., None])[..., 0]
        found: Tensor = torch.linalg.vecdot(along, along)
        return found


class Outputs(DenseModel):
    """``G = J'HJ`` with H the Hessian of a convex loss with respect to the outputs."""

    _parts = ("_matrix",)

    def __init__(self, space: Space, gradient: Vector, matrix: Tensor) -> None:
        super().__init__(space, gradient)
        self._matrix = matrix.to(self._g.dtype)
        self.diagonal = self._matrix.diagonal(dim1=-2, dim2=-1).clone()

    def _damped(self, damping: Tensor) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(self._matrix + torch.diag_embed(damping))
        d = torch.cholesky_solve(-self._g[..., None], factor)[..., 0]
        return torch.where((info == 0)[..., None], d, torch.nan)

    def _undamped(self, cosine: Scalar | None) -> Tensor:
        matrix, usable = _usable(self._matrix)
        values, vectors = torch.linalg.eigh(matrix)
        values, vectors = values.flip(-1), vectors.flip(-1)
        along = (vectors.mT @ self._g[..., None])[..., 0]
        parts = _kept(along / values, values, matrix.shape[-1])
        shortest = (vectors @ _within(parts, along, self._g, cosine)[..., None])[..., 0]
        return torch.where(usable, -shortest, torch.nan)

    def _bend(self, d: Tensor) -> Tensor:
        found: Tensor = torch.linalg.vecdot(d, (self._matrix @ d[..., None])[..., 0])
        return found


def _kept(parts: Tensor, sizes: Tensor, count: int) -> Tensor:
    """Return parts with zeros where the curvature is rounding, as a pseudo-inverse has them."""
    least = sizes[..., :1].abs() * (count * torch.finfo(sizes.dtype).eps)
    return torch.where(sizes > least, parts, 0.0)


def _within(parts: Tensor, slopes: Tensor, g: Tensor, cosine: Scalar | None) -> Tensor:
    """Leave out parts from the last one on until the cosine is reached.

    Args:
        parts: of the solution, along orthonormal directions from the most curvature to the least.
        slopes: the gradient's parts along them.
        g: the gradient.
        cosine: between the solution and the gradient; None: all parts.
    """
    if cosine is None:
        return parts
    lengths = (parts * parts).cumsum(-1).sqrt() * torch.linalg.vector_norm(g, dim=-1, keepdim=True)
    fits = (parts * slopes).cumsum(-1) >= cosine[..., None] * lengths
    places = torch.arange(parts.shape[-1], device=parts.device)
    last = torch.where(fits, places, 0).amax(-1, keepdim=True)
    return torch.where(places <= last, parts, 0.0)


def _usable(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix with zeros in the lanes where it isn't finite, and which lanes are."""
    usable = torch.isfinite(matrix).all(-1).all(-1)
    return torch.where(usable[..., None, None], matrix, 0.0), usable[..., None]
