"""Newton's directions: whole Hessians, differences, blocks, modified eigenvalues, and Newton-CG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.errors import OptionError, nearest
from thalweg.secondorder.directions import Direction, State
from thalweg.secondorder.problem import HessianKind, Point, Problem
from thalweg.secondorder.searches import Fixed, Search
from thalweg.secondorder.vectors import Space, Vector
from thalweg.secondorder.wolfe import StrongWolfe

__all__ = ["Newton", "NewtonCG", "Normalized"]


@dataclass(frozen=True, kw_only=True)
class Newton(Direction):
    """``d = -(H + damping * I)^-1 g`` (O9).

    Args:
        hessian: ``"exact"`` (row by row through autograd), ``"finite-difference"`` (from gradients, O13), or
            ``"block"``: only the part of each tensor with itself (local to a set of variables, O13).
        damping: alpha of N 8.28, at least 0.
        modified: replace each eigenvalue by its magnitude, at least ``floor`` times the largest, so that the
            direction always leads downhill (the check that C s93-94 asks for). Without it the direction goes
            to the nearest stationary point of the quadratic, be it a saddle point.
        floor: above 0, only for ``modified``.

    On a strictly convex quadratic ``x - eta * H^-1 g`` converges for eta in (0, 2) and no other, and with
    damping for eta below ``2 * (largest + damping) / largest`` of the eigenvalues.

    Source: N Alg 8.8 and 8.28; C s80-96. Modified eigenvalues: Nocedal and Wright, 3.4.
    """

    natural: ClassVar[bool] = True
    hessian: HessianKind = "exact"
    damping: float = 0.0
    modified: bool = False
    floor: float = 1e-15

    def __post_init__(self) -> None:
        known = ("exact", "finite-difference", "block")
        if self.hessian not in known:
            raise OptionError(f"Newton: hessian is {self.hessian!r}; {nearest(self.hessian, known)}")
        if not 0 <= self.damping < float("inf"):
            raise OptionError(f"Newton: damping is {self.damping}; give a finite number of at least 0")
        if not 0 < self.floor <= 1:
            raise OptionError(f"Newton: floor is {self.floor}; give a number above 0 and at most 1")

    def usual_search(self) -> Search:
        """Return what goes with it: the slides' whole step, or a search where it leads downhill."""
        return StrongWolfe() if self.modified else Fixed()

    def begin(self, space: Space, point: Point) -> State:
        """Return the empty state."""
        return {}

    def propose(self, state: State, point: Point, problem: Problem) -> Vector:
        """Return Newton's direction at ``point``; NaN where the matrix is singular."""
        space, x, g = problem.space, point.x, point.gradient
        matrices = problem.hessian(x, self.hessian)
        groups = [[p] for p in g] if self.hessian == "block" else [g]
        found: Vector = []
        for matrix, group in zip(matrices, groups, strict=True):
            flat = space.ravel(group, "Newton")
            found += space.unravel(self.solve(matrix, flat), group)
        return found

    def solve(self, matrix: Tensor, g: Tensor) -> Tensor:
        """Return ``-(matrix + damping * I)^-1 g``, eigenvalues modified where that was asked for."""
        if self.modified:
            usable = torch.isfinite(matrix).all(-1).all(-1)
            values, vectors = torch.linalg.eigh(torch.where(usable[..., None, None], matrix, 0.0))
            largest = values.abs().amax(-1, keepdim=True) if values.shape[-1] else values
            tiny = torch.finfo(values.dtype).tiny
            lifted = torch.maximum(values.abs(), (self.floor * largest).clamp(min=tiny)) + self.damping
            d = -(vectors @ ((vectors.mT @ g[..., None]) / lifted[..., None]))[..., 0]
            return torch.where(usable[..., None], d, torch.nan)
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        d, info = torch.linalg.solve_ex(matrix + self.damping * eye, -g[..., None])
        return torch.where((info == 0)[..., None], d[..., 0], torch.nan)


@dataclass(frozen=True, kw_only=True)
class NewtonCG(Direction):
    """Newton's direction by conjugate gradients on ``H d = -g``, free of matrices (O9, O13).

    The inner iteration ends where the residual is below ``min(1/2, sqrt(|g|)) * |g|``, which makes the outer
    one converge superlinearly. Where a conjugate direction p has curvature ``p'Hp <= 0``, what can be gained
    along it is taken: its share ``r'r / |p'Hp|`` (at most its own length for no curvature) is added, and the
    inner iteration ends. All conjugate directions lead downhill, so their sum does.

    Args:
        max_products: of one inner iteration, at least 1; None: as many as there are elements.

    Source: Dembo and Steihaug, 1983; Nocedal and Wright, algorithm 7.1, which leaves p aside where this
    class goes along it.
    """

    natural: ClassVar[bool] = True
    max_products: int | None = None

    def __post_init__(self) -> None:
        if self.max_products is not None and self.max_products < 1:
            raise OptionError(
                f"NewtonCG: max_products is {self.max_products}; give a number of at least 1, or None"
            )

    def begin(self, space: Space, point: Point) -> State:
        """Return the empty state."""
        return {}

    def propose(self, state: State, point: Point, problem: Problem) -> Vector:
        """Return the direction; one product and one trip to the host an inner iteration."""
        space, g = problem.space, point.gradient
        size = sum(p.numel() for p in g) // (space.lanes or 1)
        tiny = torch.finfo(space.dtype(g)).eps
        r, p = g, space.negate(g)
        z = [torch.zeros_like(t) for t in g]
        rr = space.dot(r, r)
        norm = rr.sqrt()
        goal = (norm * norm.sqrt().clamp(max=0.5)) ** 2
        active = torch.ones_like(rr, dtype=torch.bool)
        for _ in range(self.max_products or 2 * size):
            hp = problem.product(point.x, p)
            bend, pp = space.dot(p, hp), space.dot(p, p)
            straight = bend <= tiny * pp
            share = torch.where(straight & (bend.abs() <= tiny * pp), torch.ones_like(rr), rr / bend.abs())
            step = torch.where(active, share, 0.0)
            z = space.where(active, space.add(z, step, p), z)
            r = space.where(active, space.add(r, step, hp), r)
            following = space.dot(r, r)
            active = active & ~straight & (following > goal)
            if not any(row[0] for row in problem.fetch([active])):
                break
            p = space.where(active, space.add(space.negate(r), following / rr, p), p)
            rr = torch.where(active, following, rr)
        return z


@dataclass(frozen=True)
class Normalized(Direction):
    """``d = -A^-1 g`` for a given quadratic ``1/2 x'Ax + b'x + c`` (O16).

    The update ``x - eta * A^-1 g`` is gradient descent in the coordinates ``A^(1/2) x``, in which all
    contours are circles and every direction has the same best rate.

    Args:
        matrix: A, symmetric and positive definite: ``[n, n]``, or ``[K, n, n]`` for lanes.

    Raises:
        OptionError: the matrix isn't symmetric and positive definite.

    Source: C s66-80.
    """

    natural: ClassVar[bool] = True
    matrix: Tensor

    def __post_init__(self) -> None:
        a = self.matrix
        if a.ndim not in (2, 3) or a.shape[-1] != a.shape[-2]:
            raise OptionError(f"Normalized: the matrix has shape {tuple(a.shape)}; give [n, n] or [K, n, n]")
        if not torch.allclose(a, a.mT) or bool(torch.linalg.cholesky_ex(a)[1].any()):
            raise OptionError(
                "Normalized: the matrix is not symmetric and positive definite; give that of a strictly "
                "convex quadratic"
            )

    def begin(self, space: Space, point: Point) -> State:
        """Return the empty state."""
        return {}

    def propose(self, state: State, point: Point, problem: Problem) -> Vector:
        """Return ``-A^-1 g``."""
        g = problem.space.ravel(point.gradient, "Normalized")
        if g.shape[-1] != self.matrix.shape[-1]:
            raise OptionError(
                f"Normalized: the matrix has {self.matrix.shape[-1]} rows, but x has {g.shape[-1]} elements"
            )
        d = torch.cholesky_solve(-g[..., None], torch.linalg.cholesky(self.matrix))[..., 0]
        return problem.space.unravel(d, point.gradient)
