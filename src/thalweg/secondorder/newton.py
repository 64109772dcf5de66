"""Newton's directions: whole Hessians, differences, blocks, modified eigenvalues, and Newton-CG."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import OptionError, nearest
from thalweg.secondorder.directions import AcceptedStep, Direction, State
from thalweg.secondorder.objective_function import EvaluatedPoint, HessianKind, ObjectiveFunction
from thalweg.secondorder.searches import Fixed, Search
from thalweg.secondorder.wolfe import StrongWolfe

__all__ = [
    "CurvatureDirection",
    "NewtonCGDirection",
    "NewtonDirection",
    "NormalizedDirection",
]


class CurvatureDirection(Direction):
    """A direction from curvature at the point itself, which the gradient replaces where it misleads.

    Where curvature is zero or rounding, a direction from it is too long for any search, or none at all. After
    a search that found no step the lane mistrusts curvature, and goes along ``-g`` once.
    """

    natural: ClassVar[bool] = True
    remembers: ClassVar[bool] = True
    curved: ClassVar[bool] = True

    @abstractmethod
    def from_curvature(self, state: State, point: EvaluatedPoint, problem: ObjectiveFunction) -> Vector:
        """Return the direction at ``point``."""

    def begin(self, space: Space, point: EvaluatedPoint) -> State:
        """Return a state in which no lane mistrusts curvature."""
        return {"mistrusts": [False] * (space.lanes or 1)}

    def propose(self, state: State, point: EvaluatedPoint, problem: ObjectiveFunction) -> Vector:
        """Return the direction from curvature, or ``-g`` in the lanes that mistrust it."""
        space, g = problem.space, point.gradient
        mistrusts = _mistrusts(state, space.lanes or 1)
        if all(mistrusts):
            return space.negate(g)
        d = self.from_curvature(state, point, problem)
        return space.where(space.mask(mistrusts, g), space.negate(g), d) if any(mistrusts) else d

    def update(self, state: State, step: AcceptedStep) -> State:
        """Trust curvature again in the lanes that have moved."""
        before = _mistrusts(state, len(step.accepted))
        trusting = [was and not moved for was, moved in zip(before, step.accepted, strict=True)]
        return {**state, "mistrusts": trusting}

    def forget(self, state: State, lanes: Sequence[bool], space: Space) -> State:
        """Mistrust curvature in these lanes."""
        before = _mistrusts(state, len(lanes))
        return {**state, "mistrusts": [was or now for was, now in zip(before, lanes, strict=True)]}

    def knows(self, state: State, lane: int) -> bool:
        """Whether curvature is trusted."""
        return not _mistrusts(state, lane + 1)[lane]


def _mistrusts(state: State, count: int) -> list[bool]:
    # states that were saved before there was anything to mistrust are empty
    found: list[bool] = state.get("mistrusts", [False] * count)
    return found


@dataclass(frozen=True, kw_only=True)
class NewtonDirection(CurvatureDirection):
    """``d = -(H + damping * I)^-1 g`` (O9).

    Args:
        hessian: ``"exact"`` (row by row through autograd), ``"finite-difference"`` (from gradients, O13), or
            ``"block"``: only the part of each tensor with itself (local to a set of variables, O13).
        damping: alpha of N 8.28, at least 0.
        modified: replace each eigenvalue by its magnitude, so that the direction always leads downhill (the
            check that C s93-94 asks for), and go along the gradient where there is no curvature. Without it
            the direction goes to the nearest stationary point of the quadratic, be it a saddle point.
        floor: only for ``modified``: eigenvalues whose magnitude is at most this part of the largest count as
            zero; in (0, 1]. None: the precision of the type times the number of elements, below which an
            eigenvalue is rounding.

    Along eigenvectors without curvature a modified direction has the gradient's part over the smallest
    curvature that doesn't count as zero, all of them together no longer than x itself, or 1. Where all
    curvature is zero (a loss that is linear here) it is the gradient, of length 1 at most. Where a search
    finds no step along a modified direction, curvature has misled it, and the next one is the gradient's.

    On a strictly convex quadratic ``x - eta * H^-1 g`` converges for eta in (0, 2) and no other, and with
    damping for eta below ``2 * (largest + damping) / largest`` of the eigenvalues.

    Source: N Alg 8.8 and 8.28; C s80-96. Modified eigenvalues: Nocedal and Wright, 3.4.
    """

    hessian: HessianKind = "exact"
    damping: float = 0.0
    modified: bool = False
    floor: float | None = None

    def __post_init__(self) -> None:
        known = ("exact", "finite-difference", "block")
        if self.hessian not in known:
            raise OptionError(f"Newton: hessian is {self.hessian!r}; {nearest(self.hessian, known)}")
        if not 0 <= self.damping < float("inf"):
            raise OptionError(f"Newton: damping is {self.damping}; give a finite number of at least 0")
        if self.floor is not None and not 0 < self.floor <= 1:
            raise OptionError(f"Newton: floor is {self.floor}; give a number above 0 and at most 1, or None")

    def usual_search(self) -> Search:
        """Return what goes with it: the slides' whole step, or a search where it leads downhill."""
        return StrongWolfe() if self.modified else Fixed()

    def from_curvature(self, state: State, point: EvaluatedPoint, problem: ObjectiveFunction) -> Vector:
        """Return Newton's direction at ``point``; NaN where the matrix is singular and isn't modified."""
        space, x, g = problem.space, point.x, point.gradient
        matrices = problem.hessian(x, self.hessian)
        groups = [[p] for p in g] if self.hessian == "block" else [g]
        found: Vector = []
        reach = space.norm(x)
        for matrix, group in zip(matrices, groups, strict=True):
            flat = space.ravel(group, "Newton")
            found += space.unravel(self.solve(matrix, flat, reach), group)
        return found

    def solve(self, matrix: Tensor, g: Tensor, reach: Tensor | float = 1.0) -> Tensor:
        """Return ``-(matrix + damping * I)^-1 g``, eigenvalues modified where that was asked for.

        Args:
            matrix: ``[..., n, n]``.
            g: ``[..., n]``.
            reach: how far a modified direction may go where there is no curvature; 1 where it is less.
        """
        eps = torch.finfo(matrix.dtype).eps * matrix.shape[-1]
        if self.modified:
            usable = torch.isfinite(matrix).all(-1).all(-1)
            values, vectors = torch.linalg.eigh(torch.where(usable[..., None, None], matrix, 0.0))
            sizes = values.abs()
            largest = sizes.amax(-1, keepdim=True) if sizes.shape[-1] else sizes
            least = (eps if self.floor is None else self.floor) * largest
            flat = sizes <= least
            along = (vectors.mT @ g[..., None])[..., 0]
            along = along / (torch.where(flat, torch.where(largest > 0, least, 1.0), sizes) + self.damping)
            blind = torch.where(flat, along, 0.0)
            # squares of large numbers overflow before their root does
            top = blind.abs().amax(-1, keepdim=True) if blind.shape[-1] else blind
            top = top.clamp(min=torch.finfo(g.dtype).tiny)
            length = top * torch.linalg.vector_norm(blind / top, dim=-1, keepdim=True)
            most = torch.as_tensor(reach, dtype=g.dtype, device=g.device).clamp(min=1.0)[..., None]
            most = torch.where(largest > 0, most, 1.0)
            along = torch.where(flat & (length > most), along * (most / length), along)
            d = -(vectors @ along[..., None])[..., 0]
            return torch.where(usable[..., None], d, torch.nan)
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
        loaded = matrix + self.damping * eye
        d, info = torch.linalg.solve_ex(loaded, -g[..., None])
        d = d[..., 0]
        # a solution that is longer than any can be whose curvature isn't rounding
        size = torch.linalg.matrix_norm(loaded) * torch.linalg.vector_norm(d, dim=-1) * eps
        usable = (info == 0) & (size <= torch.linalg.vector_norm(g, dim=-1))
        return torch.where(usable[..., None], d, torch.nan)

    def recovers(self) -> bool:
        """Whether the gradient takes over: not from the slide's own direction, which may lead uphill."""
        return self.modified


@dataclass(frozen=True, kw_only=True)
class NewtonCGDirection(CurvatureDirection):
    """Newton's direction by conjugate gradients on ``H d = -g``, free of matrices (O9, O13).

    The inner iteration ends where the residual is below ``min(1/2, sqrt(|g|)) * |g|``, which makes the outer
    one converge superlinearly. Where a conjugate direction p has curvature ``p'Hp <= 0``, what can be gained
    along it is taken: its share ``r'r / |p'Hp|`` is added, and the inner iteration ends. Where the curvature
    is zero, ``|p'Hp| <= eps * |p| |Hp|``, the share is that of the direction before, and of the first one
    ``min(1, 1 / |g|_1)``: a step along the gradient. All conjugate directions lead downhill, so their sum
    does. Where a search finds no step along it, the next direction is the gradient's.

    Args:
        max_products: of one inner iteration, at least 1; None: as many as there are elements.

    Source: Dembo and Steihaug, 1983; Nocedal and Wright, algorithm 7.1, which leaves p aside where this
    class goes along it.
    """

    max_products: int | None = None

    def __post_init__(self) -> None:
        if self.max_products is not None and self.max_products < 1:
            raise OptionError(
                f"NewtonCG: max_products is {self.max_products}; give a number of at least 1, or None"
            )

    def from_curvature(self, state: State, point: EvaluatedPoint, problem: ObjectiveFunction) -> Vector:
        """Return the direction; one product and one trip to the host an inner iteration."""
        space, g = problem.space, point.gradient
        size = sum(p.numel() for p in g) // (space.lanes or 1)
        eps = torch.finfo(space.dtype(g)).eps
        r, p = g, space.negate(g)
        z = [torch.zeros_like(t) for t in g]
        rr = space.dot(r, r)
        norm = rr.sqrt()
        goal = (norm * norm.sqrt().clamp(max=0.5)) ** 2
        usual = (1 / space.norm_1(g)).clamp(max=1.0)
        active = torch.ones_like(rr, dtype=torch.bool)
        for _ in range(self.max_products or 2 * size):
            hp = problem.product(point.x, p)
            bend = space.dot(p, hp)
            rounding = eps * space.norm(p) * space.norm(hp)
            # nothing can be said of what overflows either
            straight, flat = ~(bend > rounding), ~(bend.abs() > rounding)
            share = torch.where(flat, usual, rr / bend.abs())
            step = torch.where(active, share, 0.0)
            z = space.where(active, space.add(z, step, p), z)
            r = space.where(active, space.add(r, step, hp), r)
            following = space.dot(r, r)
            active = active & ~straight & (following > goal)
            if not any(row[0] for row in problem.fetch([active])):
                break
            p = space.where(active, space.add(space.negate(r), following / rr, p), p)
            rr = torch.where(active, following, rr)
            usual = torch.where(active, share, usual)
        return z


@dataclass(frozen=True)
class NormalizedDirection(Direction):
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

    def begin(self, space: Space, point: EvaluatedPoint) -> State:
        """Return the empty state."""
        return {}

    def propose(self, state: State, point: EvaluatedPoint, problem: ObjectiveFunction) -> Vector:
        """Return ``-A^-1 g``."""
        g = problem.space.ravel(point.gradient, "Normalized")
        if g.shape[-1] != self.matrix.shape[-1]:
            raise OptionError(
                f"Normalized: the matrix has {self.matrix.shape[-1]} rows, but x has {g.shape[-1]} elements"
            )
        d = torch.cholesky_solve(-g[..., None], torch.linalg.cholesky(self.matrix))[..., 0]
        return problem.space.unravel(d, point.gradient)
