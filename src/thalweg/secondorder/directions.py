"""Which way: gradient, conjugate gradients and quasi-Newton directions, apart from how far.

A direction is a frozen object of settings with functions of a state: :meth:`Direction.begin` makes it,
:meth:`Direction.propose` reads it, :meth:`Direction.update` takes an accepted step up. The state is a plain
dictionary of tensors, lists of tensors and numbers, so that it can be saved in the middle of a run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from thalweg.curvature.vectors import Scalar, Space, Vector, is_sharded
from thalweg.errors import OptionError, nearest
from thalweg.secondorder.objective_function import EvaluatedPoint, ObjectiveFunction

__all__ = [
    "FORMULAS",
    "AcceptedStep",
    "BFGSDirection",
    "ConjugateGradientDirection",
    "Direction",
    "LBFGSDirection",
    "State",
    "SteepestDescentDirection",
]

State: TypeAlias = dict[str, Any]
Formula: TypeAlias = Literal[
    "fletcher-reeves", "polak-ribiere", "polak-ribiere+", "hestenes-stiefel", "dai-yuan", "hager-zhang"
]
FORMULAS = (
    "fletcher-reeves",
    "polak-ribiere",
    "polak-ribiere+",
    "hestenes-stiefel",
    "dai-yuan",
    "hager-zhang",
)


@dataclass(frozen=True)
class AcceptedStep:
    """A step that was accepted, in the lanes ``accepted``.

    Attributes:
        space: lanes or alone.
        accepted: which lanes took it.
        curved: which of them saw the slope rise along it, so that the pair (s, y) is worth keeping.
        step: how far along ``direction``.
        old, new: where it began and ended.
        shares: what part the step is of the first one that was tried, in each lane; None: not known.
    """

    space: Space
    accepted: Sequence[bool]
    curved: Sequence[bool]
    step: Scalar
    direction: Vector
    old: EvaluatedPoint
    new: EvaluatedPoint
    shares: Sequence[float] | None = None

    @property
    def mask(self) -> Tensor | None:
        """The lanes that took it, or None for all."""
        return self.space.mask(self.accepted, self.old.x)

    @cached_property
    def s(self) -> Vector:
        """How the point changed."""
        return self.space.scale(self.step, self.direction)

    @cached_property
    def y(self) -> Vector:
        """How the gradient changed."""
        return self.space.subtract(self.new.gradient, self.old.gradient)


class Direction(ABC):
    """Which way to go.

    Attributes:
        natural: whether a step of one is the natural length once something is known of the curvature.
        remembers: whether there is a memory to forget where a direction doesn't lead downhill.
        curved: whether it asks for the function's curvature at the points that it begins from.
    """

    natural: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    curved: ClassVar[bool] = False

    @abstractmethod
    def begin(self, space: Space, point: EvaluatedPoint) -> State:
        """Return the state before the first step."""

    @abstractmethod
    def propose(self, state: State, point: EvaluatedPoint, problem: ObjectiveFunction) -> Vector:
        """Return the direction at ``point``."""

    def update(self, state: State, step: AcceptedStep) -> State:
        """Return the state after an accepted step; tensors of the old state may be overwritten."""
        return state

    def forget(self, state: State, lanes: Sequence[bool], space: Space) -> State:
        """Return the state with the memory of these lanes lost."""
        return state

    def knows(self, state: State, lane: int) -> bool:
        """Whether anything is known of the curvature in a lane."""
        return True

    def recovers(self) -> bool:
        """Whether :meth:`forget` leads back to the gradient where a search found no step."""
        return self.remembers


@dataclass(frozen=True, kw_only=True)
class SteepestDescentDirection(Direction):
    """``d = -g`` (O15): with an exact search each direction is at right angles to the one before."""

    def begin(self, space: Space, point: EvaluatedPoint) -> State:
        """Return the empty state."""
        return {}

    def propose(self, state: State, point: EvaluatedPoint, problem: ObjectiveFunction) -> Vector:
        """Return ``-g``."""
        return problem.space.negate(point.gradient)


@dataclass(frozen=True, kw_only=True)
class ConjugateGradientDirection(Direction):
    """``d = -g + beta * d'``, with ``d'`` the direction before and beta 0 at the start (O11).

    With ``y = g - g'``:

    ================== =========================================================== ====================
    formula            beta                                                        source
    ================== =========================================================== ====================
    fletcher-reeves    ``g'g / (g_'g_)`` (N 8.30)                                  1964
    polak-ribiere      ``g'y / (g_'g_)`` (N 8.31)                                  1969
    polak-ribiere+     ``max(0, polak-ribiere)``                                   Gilbert, Nocedal 1992
    hestenes-stiefel   ``g'y / (d_'y)``                                            1952
    dai-yuan           ``g'g / (d_'y)``                                            1999
    hager-zhang        ``(y - 2 d_ |y|^2 / (d_'y))'g / (d_'y)``, at least          2005
                       ``-1 / (|d_| min(0.01, |g_|))``
    ================== =========================================================== ====================

    where ``_`` marks what belongs to the step before. A beta whose denominator is zero is zero.

    Args:
        formula: one of the names above.
        reset: go back to ``-g`` every so many steps (N Alg 8.9); None: never.
        orthogonality: go back to ``-g`` where ``|g'g_| >= orthogonality * |g|^2`` (Powell, 1977);
            None: never.
    """

    remembers: ClassVar[bool] = True
    formula: Formula = "polak-ribiere+"
    reset: int | None = None
    orthogonality: float | None = None

    def __post_init__(self) -> None:
        if self.formula not in FORMULAS:
            raise OptionError(
                f"ConjugateGradient: there is no formula {self.formula!r}; {nearest(self.formula, FORMULAS)}"
            )
        if self.reset is not None and self.reset < 1:
            raise OptionError(
                f"ConjugateGradient: reset is {self.reset}; give a number of steps of at least 1, or None"
            )
        if self.orthogonality is not None and not self.orthogonality > 0:
            raise OptionError(
                f"ConjugateGradient: orthogonality is {self.orthogonality}; give a number above 0, or None"
            )

    def begin(self, space: Space, point: EvaluatedPoint) -> State:
        """Return a state without a direction before."""
        zero = [torch.zeros_like(g) for g in point.gradient]
        return {"direction": zero, "gradient": zero, "count": [0] * (space.lanes or 1)}

    def propose(self, state: State, point: EvaluatedPoint, problem: ObjectiveFunction) -> Vector:
        """Return ``-g + beta * d'``."""
        space, g = problem.space, point.gradient
        downhill = space.negate(g)
        fresh = [count == 0 for count in state["count"]]
        if all(fresh):
            return downhill
        beta = self._beta(space, g, state["gradient"], state["direction"])
        if self.orthogonality is not None:
            near = space.dot(g, state["gradient"]).abs() < self.orthogonality * space.dot(g, g)
            beta = torch.where(near, beta, 0.0)
        onwards = space.add(downhill, beta, state["direction"])
        return space.where(space.mask(fresh, g), downhill, onwards) if any(fresh) else onwards

    def _beta(self, space: Space, g: Vector, before: Vector, d: Vector) -> Scalar:
        y = space.subtract(g, before)
        if self.formula == "hager-zhang":
            dy = space.dot(d, y)
            bend = space.dot(y, g) - 2 * space.dot(y, y) * space.dot(d, g) / dy
            least = -1 / (space.norm(d) * space.norm(before).clamp(max=0.01))
            return torch.where(dy == 0, 0.0, torch.maximum(bend / dy, least))
        above = space.dot(g, g) if self.formula in ("fletcher-reeves", "dai-yuan") else space.dot(g, y)
        if self.formula in ("hestenes-stiefel", "dai-yuan"):
            below = space.dot(d, y)
        else:
            below = space.dot(before, before)
        beta = torch.where(below == 0, 0.0, above / below)
        return beta.clamp(min=0.0) if self.formula == "polak-ribiere+" else beta

    def update(self, state: State, step: AcceptedStep) -> State:
        """Remember the direction and the gradient where it began."""
        space, mask = step.space, step.mask
        counts = [count + taken for count, taken in zip(state["count"], step.accepted, strict=True)]
        if self.reset is not None:
            counts = [count % self.reset for count in counts]
        return {
            "direction": space.where(mask, step.direction, state["direction"]),
            "gradient": space.where(mask, step.old.gradient, state["gradient"]),
            "count": counts,
        }

    def forget(self, state: State, lanes: Sequence[bool], space: Space) -> State:
        """Go back to ``-g`` in these lanes."""
        counts = [0 if lost else count for count, lost in zip(state["count"], lanes, strict=True)]
        return {**state, "count": counts}

    def knows(self, state: State, lane: int) -> bool:
        """Whether there is a direction before."""
        return bool(state["count"][lane])


Initial: TypeAlias = Literal["scaled", "identity"]


def _check_initial(owner: str, initial: str) -> None:
    if initial not in ("scaled", "identity"):
        raise OptionError(f"{owner}: initial is {initial!r}; {nearest(initial, ['scaled', 'identity'])}")


@dataclass(frozen=True, kw_only=True)
class BFGSDirection(Direction):
    """``d = -M g``, where M approximates the inverse Hessian from pairs ``s = x - x'``, ``y = g - g'`` (O12).

    ``M = (I - r s y') M (I - r y s') + r s s'`` with ``r = 1 / s'y``, from the identity. The matrix is dense:
    ``n * n`` numbers, for lanes ``[K, n, n]``. A pair without positive curvature leaves it as it is.

    Args:
        initial: ``"scaled"`` multiplies the identity by ``s'y / y'y`` before the first pair is taken up
            (Nocedal and Wright, 6.20); ``"identity"`` leaves it.

    Source: N (8.33) with its sign put right, ``-M g``; Nocedal and Wright, 6.17.
    """

    natural: ClassVar[bool] = True
    remembers: ClassVar[bool] = True
    initial: Initial = "scaled"

    def __post_init__(self) -> None:
        _check_initial("BFGS", self.initial)

    def begin(self, space: Space, point: EvaluatedPoint) -> State:
        """Return the identity."""
        flat = space.ravel(point.gradient, "BFGS")
        eye = torch.eye(flat.shape[-1], dtype=flat.dtype, device=flat.device)
        matrix = eye.expand(*flat.shape, flat.shape[-1]).clone() if space.lanes else eye
        return {"matrix": matrix, "count": [0] * (space.lanes or 1)}

    def propose(self, state: State, point: EvaluatedPoint, problem: ObjectiveFunction) -> Vector:
        """Return ``-M g``."""
        g = problem.space.ravel(point.gradient, "BFGS")
        return problem.space.unravel(-(state["matrix"] @ g[..., None])[..., 0], point.gradient)

    def update(self, state: State, step: AcceptedStep) -> State:
        """Take the pair up in the lanes where the slope rose."""
        if not any(step.curved):
            return state
        space = step.space
        s, y = space.ravel(step.s, "BFGS"), space.ravel(step.y, "BFGS")
        matrix = state["matrix"]
        sy = (s * y).sum(-1)
        if self.initial == "scaled":
            first = [count == 0 for count in state["count"]]
            if any(first):
                scaled = (sy / (y * y).sum(-1))[..., None, None] * matrix
                matrix = space.choose(space.mask(first, step.old.x), scaled, matrix)
        my = (matrix @ y[..., None])[..., 0]
        # both terms of rank one and the one of rank two are s u' + u s'
        sy, ymy = sy[..., None], (y * my).sum(-1)[..., None]
        u = ((1 + ymy / sy) / 2 * s - my) / sy
        half = s[..., :, None] * u[..., None, :]
        updated = matrix + half + half.mT
        return {
            "matrix": space.choose(space.mask(step.curved, step.old.x), updated, state["matrix"]),
            "count": [count + kept for count, kept in zip(state["count"], step.curved, strict=True)],
        }

    def forget(self, state: State, lanes: Sequence[bool], space: Space) -> State:
        """Go back to the identity in these lanes."""
        matrix = state["matrix"]
        eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device).expand_as(matrix)
        counts = [0 if lost else count for count, lost in zip(state["count"], lanes, strict=True)]
        return {"matrix": space.choose(space.mask(lanes, [matrix]), eye, matrix), "count": counts}

    def knows(self, state: State, lane: int) -> bool:
        """Whether a pair was taken up."""
        return bool(state["count"][lane])


@dataclass(frozen=True, kw_only=True)
class LBFGSDirection(Direction):
    """``d = -M g`` with M made anew from the last ``history`` pairs, through inner products alone (O12).

    Args:
        history: how many pairs are kept, at least 1.
        initial: M before the pairs: ``s'y / y'y`` of the newest pair times the identity (``"scaled"``), or
            the ``"identity"``.

    Alone the pairs are a list, over which two loops run. Among lanes they lie in ``[K, history, ...]``,
    where each lane writes at its own place, and the two loops are two triangular systems, for all lanes and
    pairs at once: with R the upper triangle of ``S Y'`` in order of age, D its diagonal and c the scale of
    the identity, ``r = c (g - Y' R^-1 S g)`` and ``M g = r + S' R^-T (D R^-1 S g - Y r)``. A pair without
    positive curvature is not kept.

    Source: N; Nocedal, Updating quasi-Newton matrices with limited storage, 1980 (two loops); Byrd, Nocedal
    and Schnabel, Representations of quasi-Newton matrices, 1994 (the triangle).
    """

    natural: ClassVar[bool] = True
    remembers: ClassVar[bool] = True
    history: int = 10
    initial: Initial = "scaled"

    def __post_init__(self) -> None:
        if self.history < 1:
            raise OptionError(f"LBFGS: history is {self.history}; give a number of pairs of at least 1")
        _check_initial("LBFGS", self.initial)

    def begin(self, space: Space, point: EvaluatedPoint) -> State:
        """Return a state without pairs."""
        if space.lanes is None:
            return {"pairs": []}
        g, k = point.gradient, space.lanes
        room = [p.new_zeros((k, self.history, *p.shape[1:])) for p in g]
        ones = torch.ones(k, dtype=space.dtype(g), device=g[0].device)
        return {
            "s": room,
            "y": [r.clone() for r in room],
            "products": ones.new_zeros(k, self.history, self.history),
            "scale": ones,
            "count": [0] * k,
        }

    def propose(self, state: State, point: EvaluatedPoint, problem: ObjectiveFunction) -> Vector:
        """Return ``-M g``."""
        if "unfinished" in state:
            self._finish(state, problem.space, point.gradient)
        if problem.space.lanes is None:
            return self._alone(state["pairs"], point.gradient, problem.space)
        return self._among_lanes(state, point.gradient, problem.space)

    def _alone(self, pairs: list[tuple[Vector, Vector, Scalar]], g: Vector, space: Space) -> Vector:
        """Two loops, in as few operations as can be: on small problems their number is what takes time."""
        flat = len(g) == 1 and g[0].ndim == 1 and not is_sharded(g)

        def dot(a: Vector, b: Vector) -> Scalar:
            return torch.dot(a[0], b[0]) if flat else space.dot(a, b)

        d, shares = space.negate(g), []
        for s, y, inverse in reversed(pairs):
            share = dot(s, d) * inverse
            d = [torch.addcmul(p, share, q, value=-1) for p, q in zip(d, y, strict=True)]
            shares.append(share)
        if pairs and self.initial == "scaled":
            _, y, inverse = pairs[-1]
            d = space.scale(1 / (inverse * dot(y, y)), d)
        for (s, y, inverse), share in zip(pairs, reversed(shares), strict=True):
            share = torch.addcmul(share, inverse, dot(y, d), value=-1)
            d = [torch.addcmul(p, share, q) for p, q in zip(d, s, strict=True)]
        return d

    def _among_lanes(self, state: State, g: Vector, space: Space) -> Vector:
        used = min(max(state["count"]), self.history)
        if used == 0:
            return space.negate(g)
        s, y = ([room[:, :used] for room in state[name]] for name in ("s", "y"))
        products = state["products"][:, :used, :used]
        order = back = None
        if max(state["count"]) > used:
            # places from the oldest pair to the newest, and back
            begins = (torch.tensor(state["count"], device=g[0].device) - used).clamp(min=0)[:, None]
            ages = torch.arange(used, device=g[0].device)
            order, back = (begins + ages) % used, (ages - begins) % used
            products = products.take_along_dim(order[:, :, None], 1).take_along_dim(order[:, None, :], 2)
        r = products.triu()
        diagonal = r.diagonal(dim1=1, dim2=2)
        # a place without a pair holds zeros, and with a one here it does nothing
        r = r + torch.diag_embed((diagonal == 0).to(r.dtype))
        a = torch.linalg.solve_triangular(r, _inner(s, g, order)[..., None], upper=True)[..., 0]
        rest = space.subtract(g, _combined(y, a, back))
        if self.initial == "scaled":
            rest = space.scale(state["scale"], rest)
        b = (diagonal * a - _inner(y, rest, order))[..., None]
        b = torch.linalg.solve_triangular(r.mT, b, upper=False)[..., 0]
        return space.negate(space.add(rest, 1.0, _combined(s, b, back)))

    def update(self, state: State, step: AcceptedStep) -> State:
        """Keep the pair in the lanes where the slope rose."""
        if not any(step.curved):
            return state
        space, s, y = step.space, step.s, step.y
        if space.lanes is None:
            return {"pairs": [*state["pairs"], (s, y, 1 / space.dot(s, y))][-self.history :]}
        device = s[0].device
        lanes = [lane for lane, kept in enumerate(step.curved) if kept]
        rows = torch.tensor(lanes, device=device)
        places = torch.tensor([state["count"][lane] % self.history for lane in lanes], device=device)
        for room, new in ((state["s"], s), (state["y"], y)):
            for kept, fresh in zip(room, new, strict=True):
                kept[rows, places] = fresh[rows]
        products = state["products"]
        products[rows, places] = _inner(state["y"], s)[rows]
        products[rows, :, places] = _inner(state["s"], y)[rows]
        state["scale"][rows] = (space.dot(s, y) / space.dot(y, y))[rows]
        counts = [count + kept for count, kept in zip(state["count"], step.curved, strict=True)]
        return {**state, "count": counts}

    def _finish(self, state: State, space: Space, gradient: Vector) -> None:
        """Add the pair of a state of torch.optim.LBFGS whose change of gradient ends here."""
        s, before = state.pop("unfinished")
        y = space.subtract(gradient, before)
        bend = space.dot(s, y)
        if float(bend) > 1e-10:
            state["pairs"] = [*state["pairs"], (s, y, 1 / bend)][-self.history :]

    def forget(self, state: State, lanes: Sequence[bool], space: Space) -> State:
        """Drop the pairs of these lanes."""
        if space.lanes is None:
            return {"pairs": []}
        lost = torch.tensor(list(lanes), device=state["scale"].device)
        for tensor in (*state["s"], *state["y"], state["products"]):
            tensor[lost] = 0
        counts = [0 if gone else count for count, gone in zip(state["count"], lanes, strict=True)]
        return {**state, "count": counts, "scale": torch.where(lost, 1.0, state["scale"])}

    def knows(self, state: State, lane: int) -> bool:
        """Whether there is a pair."""
        return bool(state["pairs"] or "unfinished" in state if "pairs" in state else state["count"][lane])


def _inner(rooms: list[Tensor], v: Vector, order: Tensor | None = None) -> Tensor:
    """Return inner products of what lies at each place with v, ``[K, places]``, in the given order."""
    parts = []
    for room, p in zip(rooms, v, strict=True):
        k, places = room.shape[:2]
        size = p.numel() // k
        parts.append((room.reshape(k, places, size) @ p.reshape(k, size, 1))[..., 0])
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total if order is None else total.take_along_dim(order, 1)


def _combined(rooms: list[Tensor], shares: Tensor, back: Tensor | None) -> Vector:
    """Return the sum of what lies at each place, times its share ``[K, places]``, brought back to places."""
    if back is not None:
        shares = shares.take_along_dim(back, 1)
    made = []
    for room in rooms:
        k, places = room.shape[:2]
        flat = room.reshape(k, places, room[0, 0].numel())
        made.append((shares.to(room.dtype)[:, None, :] @ flat).reshape(k, *room.shape[2:]))
    return made
