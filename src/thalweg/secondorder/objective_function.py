"""A function to minimize, as solvers see it: values, gradients and curvature, all of them counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from thalweg.curvature.differences import difference_matrix, difference_product
from thalweg.curvature.differentiation import gradient_of
from thalweg.curvature.products import HessianProducts
from thalweg.curvature.vectors import Scalar, Space, Vector
from thalweg.errors import OptionError, nearest
from thalweg.randomness.generators import undisturbed
from thalweg.secondorder.solution import BACKWARD, CURVED, FORWARD, Tally

__all__ = [
    "AutogradObjective",
    "EvaluatedPoint",
    "HessianKind",
    "ObjectiveFunction",
    "TensorStructure",
    "blocks_of",
    "check_tensors",
    "forward_of",
    "joined",
]

HessianKind: TypeAlias = Literal["exact", "finite-difference", "block"]
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class EvaluatedPoint:
    """Where a minimization stands: the point, the value and the gradient there."""

    x: Vector
    value: Scalar
    gradient: Vector


def joined(space: Space, mask: Tensor | None, a: EvaluatedPoint, b: EvaluatedPoint) -> EvaluatedPoint:
    """Return the point ``a`` in the lanes of the mask, all where it is None, and ``b`` in the others."""
    return EvaluatedPoint(
        space.where(mask, a.x, b.x),
        space.choose(mask, a.value, b.value),
        space.where(mask, a.gradient, b.gradient),
    )


class ObjectiveFunction(ABC):
    """A function of a vector.

    Args:
        space: lanes or alone.
        tally: where everything is counted.

    Attributes:
        keeps_graphs: whether curvature will be asked for at points that were evaluated: what was computed
            there is then kept until the next evaluation, so that the function isn't called again.
    """

    def __init__(self, space: Space, tally: Tally) -> None:
        self.space, self.tally = space, tally
        self.keeps_graphs = False

    @abstractmethod
    def evaluate(self, x: Vector) -> EvaluatedPoint:
        """Return value and gradient at ``x``; one evaluation and one gradient."""

    def settle(self, x: Vector) -> None:  # noqa: B027 - most problems keep nothing of an evaluation
        """Take note that what was evaluated last stands for ``x`` too, in all lanes where curvature counts.

        Among lanes ``x`` joins the trials of those that have just arrived with the points of the others. Each
        lane's value depends on its own x alone, so the graph of the trials has the curvature of every lane
        that begins from its trial; what it says of the others is not used.
        """

    @abstractmethod
    def product(self, x: Vector, v: Vector) -> Vector:
        """Return the product of the Hessian at ``x`` with ``v``."""

    @abstractmethod
    def hessian(self, x: Vector, kind: HessianKind) -> list[Tensor]:
        """Return the Hessian at ``x``: one matrix ``[..., n, n]``, or one for each tensor (``"block"``)."""

    def fetch(self, scalars: Sequence[Scalar]) -> list[list[float]]:
        """Bring scalars to the host in one trip; a row for each lane."""
        self.tally.round_trips += 1
        columns = torch.stack([s.to(torch.float64) for s in scalars], dim=-1)
        rows: list[list[float]] = columns.reshape(-1, len(scalars)).tolist()
        return rows

    def differences(self, x: Vector, kind: HessianKind) -> list[Tensor]:
        """Return a Hessian from central differences of gradients, made symmetric (O13)."""
        self.tally.hessians += 1
        return [difference_matrix(self._gradient, x, block, self.space) for block in blocks_of(x, kind)]

    def difference_product(self, x: Vector, v: Vector) -> Vector:
        """Return a product of the Hessian from a central difference of gradients along ``v``."""
        self.tally.products += 1
        return difference_product(self._gradient, x, v, self.space)

    def _gradient(self, x: Vector) -> Vector:
        return self.evaluate(x).gradient


def blocks_of(x: Vector, kind: HessianKind) -> list[list[int]]:
    """Return which tensors a matrix is of: each alone, or all together."""
    return [[i] for i in range(len(x))] if kind == "block" else [list(range(len(x)))]


class TensorStructure:
    """A tensor, a list or a dictionary of tensors, as a list and back.

    Raises:
        OptionError: something else, or tensors that can't be minimized over.
    """

    def __init__(self, x0: Any, owner: str, lanes: bool = False) -> None:
        self._keys: list[Any] | None = None
        self._kind: type = Tensor
        if isinstance(x0, Tensor):
            tensors = [x0]
        elif isinstance(x0, dict):
            self._kind, self._keys, tensors = dict, list(x0), list(x0.values())
        elif isinstance(x0, (list, tuple)):
            self._kind, tensors = type(x0) if type(x0) in (list, tuple) else list, list(x0)
        else:
            raise OptionError(
                f"{owner}: x0 is a {type(x0).__name__}; give a tensor, or a list or dictionary of tensors"
            )
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                raise OptionError(
                    f"{owner}: x0 holds a {type(tensor).__name__}; give tensors of float32 or float64"
                )
        check_tensors(tensors, owner)
        self.space = Space(_lanes(tensors, owner) if lanes else None)
        self.x = [tensor.detach().clone() for tensor in tensors]

    def pack(self, tensors: Sequence[Tensor]) -> Any:
        """Return tensors in the structure that was given."""
        if self._kind is dict:
            assert self._keys is not None
            return dict(zip(self._keys, tensors, strict=True))
        return tensors[0] if self._kind is Tensor else self._kind(tensors)


def check_tensors(tensors: Sequence[Tensor], owner: str) -> None:
    """Refuse what can't be minimized over, with one sentence."""
    if not any(tensor.numel() for tensor in tensors):
        raise OptionError(f"{owner}: there is nothing to minimize over; give at least one element")
    for tensor in tensors:
        if tensor.layout != torch.strided:
            raise OptionError(
                f"{owner}: a tensor is sparse, which isn't minimized over; give to_dense() of it"
            )
        if tensor.dtype in _WHOLE:
            raise OptionError(
                f"{owner}: a tensor is {str(tensor.dtype).removeprefix('torch.')}, whose numbers are whole; "
                "give double() of it, or float()"
            )
        if tensor.dtype not in (torch.float32, torch.float64):
            raise OptionError(
                f"{owner}: a tensor is {str(tensor.dtype).removeprefix('torch.')}, in which curvature drowns "
                f"in rounding or has no meaning; give float32 or float64"
            )
        if tensor.device != tensors[0].device:
            raise OptionError(
                f"{owner}: tensors are on {tensors[0].device} and {tensor.device}; bring them to one device"
            )


def _lanes(tensors: Sequence[Tensor], owner: str) -> int:
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in tensors}
    if len(sizes) != 1 or 0 in sizes:
        raise OptionError(
            f"{owner}: with lanes=True every tensor is [K, ...] with the same K of at least 1, but the "
            f"shapes are {', '.join(str(tuple(tensor.shape)) for tensor in tensors)}"
        )
    return int(next(iter(sizes)))


class AutogradObjective(ObjectiveFunction):
    """A function that autograd differentiates.

    Args:
        forward: returns the tensors that stand for ``x``, which want gradients, and the value computed from
            them: a scalar, or ``[K]`` of which each element depends on its own lane alone.
        space: lanes or alone.
        tally: where everything is counted.
    """

    def __init__(
        self, forward: Callable[[Vector], tuple[Vector, Tensor]], space: Space, tally: Tally
    ) -> None:
        super().__init__(space, tally)
        self._forward = forward
        self._seen: tuple[Vector, Vector, Tensor] | None = None
        self._curvature: tuple[Vector, HessianProducts] | None = None

    def evaluate(self, x: Vector) -> EvaluatedPoint:
        """Return value and gradient at ``x``."""
        # a closure computes on its parameters, which are overwritten now: graphs are of no more use
        self._curvature = self._seen = None
        leaves, value = self._call(x)
        self.tally.gradients += 1
        self.tally.passes += BACKWARD
        gradient = gradient_of(value.sum(), leaves, retain=self.keeps_graphs)
        if self.keeps_graphs:
            self._seen = x, leaves, value
        return EvaluatedPoint(x, value.detach(), gradient)

    def settle(self, x: Vector) -> None:
        """Take note that the last evaluation stands for ``x`` too."""
        if self._seen is not None:
            self._seen = x, *self._seen[1:]

    def _call(self, x: Vector) -> tuple[Vector, Tensor]:
        self.tally.call()
        self.tally.passes += FORWARD
        return self._forward(x)

    def product(self, x: Vector, v: Vector) -> Vector:
        """Return the product of the Hessian with ``v``, by differentiating the gradient (Pearlmutter)."""
        products = self._products(x)
        self.tally.products += 1
        self.tally.passes += CURVED
        return products.product(v)

    def hessian(self, x: Vector, kind: HessianKind) -> list[Tensor]:
        """Return the Hessian, row by row; with ``"block"`` the part of each tensor with itself (O13)."""
        if kind == "finite-difference":
            return self.differences(x, "finite-difference")
        if kind not in ("exact", "block"):
            known = ["exact", "finite-difference", "block"]
            raise OptionError(f"Newton: there is no Hessian called {kind!r}; {nearest(kind, known)}")
        self.space.ravel(x, "an exact Hessian")
        products = self._products(x)
        self.tally.hessians += 1
        matrices = [products.matrix(block, "an exact Hessian") for block in blocks_of(x, kind)]
        rows = sum(matrix.shape[-1] for matrix in matrices)
        self.tally.products += rows
        self.tally.passes += CURVED * rows
        return matrices

    def _products(self, x: Vector) -> HessianProducts:
        if self._curvature is None or self._curvature[0] is not x:
            at_hand = self._seen is not None and self._seen[0] is x
            leaves, value = self._seen[1:] if self._seen is not None and at_hand else self._call(x)
            self.tally.gradients += 1
            self.tally.passes += BACKWARD
            self._curvature = x, HessianProducts(value, leaves, self.space)
        return self._curvature[1]


def forward_of(
    function: Callable[[Any], Tensor], structure: TensorStructure, owner: str, *, scalar: bool = True
) -> Callable[[Vector], tuple[Vector, Tensor]]:
    """Return what evaluates ``function`` at detached copies of ``x``; ``scalar``: a value for each lane.

    Raises:
        OptionError: when it is evaluated: it changes ``x``, or gives something else, or nothing that can be
            differentiated.
    """
    if not callable(function):
        raise OptionError(f"{owner}: the function is a {type(function).__name__}; give one of x")
    expected = () if structure.space.lanes is None else (structure.space.lanes,)
    begun = False

    def forward(x: Vector) -> tuple[Vector, Tensor]:
        nonlocal begun
        # copies, so that a function that changes what it was given changes nothing of ours
        leaves = [t.detach().clone().requires_grad_() for t in x]
        try:
            with torch.enable_grad():
                value = function(structure.pack(leaves))
        except RuntimeError as problem:
            if begun or (why := _refusal(function, structure, x)) is None:
                raise
            raise OptionError(f"{owner}: {why}") from problem
        if any(leaf._version for leaf in leaves) or not _are_unchanged(leaves, x, begun):
            raise OptionError(f"{owner}: {_CHANGES}")
        if not isinstance(value, Tensor) or (scalar and tuple(value.shape) != expected):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            wanted = f"a tensor of shape {expected}" if scalar else "a tensor"
            raise OptionError(f"{owner}: the function returned {got}; it has to return {wanted}")
        if value.is_complex():
            raise OptionError(
                f"{owner}: the function returned {value.dtype}; it has to return real numbers, such "
                "as abs() of it"
            )
        if tuple(value.shape[:1]) != expected and not scalar and expected:
            raise OptionError(
                f"{owner}: the function returned {tuple(value.shape)}; with lanes=True it has to return "
                f"[{expected[0]}, ...], of which each part depends on its own lane alone"
            )
        # further on a function may have a wall or a plateau
        if not begun and not value.requires_grad and bool(value.isfinite().all()):
            raise OptionError(
                f"{owner}: what the function returned can't be differentiated by x; compute it from x by "
                f"operations of torch, without detach, numpy or no_grad"
            )
        begun = True
        return leaves, value

    return forward


_CHANGES = (
    "the function changes x in place; let it compute from x without that: x = x - 1 in place of x -= 1, or "
    "x = x.clone() first"
)


def _refusal(function: Callable[[Any], Any], structure: TensorStructure, x: Vector) -> str | None:
    """Say why a function fails on tensors that want gradients, if it doesn't on others."""

    def works(track: bool) -> bool:
        copies = [t.detach().clone().requires_grad_(track) for t in x]
        try:
            with undisturbed(), torch.set_grad_enabled(track):
                function(structure.pack([copy.clone() for copy in copies]))
        except Exception:
            return False
        return True

    if works(track=True):
        return _CHANGES
    if works(track=False):
        return (
            "the function can't be differentiated by x; compute it from x by operations of torch, without "
            "numpy and without changing tensors in place"
        )
    return None


def _are_unchanged(leaves: Vector, x: Vector, begun: bool) -> bool:
    """Whether what a function was given still has its values: ``x.data`` is changed without a count.

    To see it waits for an accelerator, where it is asked once; of shards it isn't asked.
    """
    for after, before in zip(leaves, x, strict=True):
        if type(before) is not Tensor or (begun and not before.is_cpu):
            continue
        one, other = after.detach(), before.detach()
        if not torch.equal(one, other) and not torch.equal(one.nan_to_num(), other.nan_to_num()):
            return False
    return True
