"""A function to minimize, as solvers see it: values, gradients and curvature, all of them counted."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from thalweg.errors import OptionError, nearest
from thalweg.generators import undisturbed
from thalweg.secondorder.solution import BACKWARD, CURVED, FORWARD, Tally
from thalweg.secondorder.vectors import Scalar, Space, Vector

__all__ = [
    "FunctionProblem",
    "HessianKind",
    "Point",
    "Problem",
    "Structure",
    "check_tensors",
    "forward_of",
    "gradient_of",
    "graph_of",
    "joined",
    "pull_many",
    "pull_rows",
]

HessianKind: TypeAlias = Literal["exact", "finite-difference", "block"]
# How many passes are computed at once: enough for the overhead of one to vanish, few enough for memory.
_AT_ONCE = 64
_WHOLE = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_OVERWRITTEN = ("modified by an inplace operation", "in-place operation", "inplace operation")


@dataclass(frozen=True)
class Point:
    """Where a minimization stands: the point, the value and the gradient there."""

    x: Vector
    value: Scalar
    gradient: Vector


def joined(space: Space, mask: Tensor | None, a: Point, b: Point) -> Point:
    """Return the point ``a`` in the lanes of the mask, all where it is None, and ``b`` in the others."""
    return Point(
        space.where(mask, a.x, b.x),
        space.choose(mask, a.value, b.value),
        space.where(mask, a.gradient, b.gradient),
    )


class Problem(ABC):
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
    def evaluate(self, x: Vector) -> Point:
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
        blocks = [[i] for i in range(len(x))] if kind == "block" else [list(range(len(x)))]
        self.tally.hessians += 1
        return [self._difference_block(x, block) for block in blocks]

    def _difference_block(self, x: Vector, block: list[int]) -> Tensor:
        part = [x[i] for i in block]
        flat = self.space.ravel(part, "a finite-difference Hessian")
        width = torch.finfo(flat.dtype).eps ** (1 / 3)
        columns = []
        for j in range(flat.shape[-1]):
            h = width * flat[..., j].abs().clamp(min=1.0)
            ends = []
            for sign in (1.0, -1.0):
                moved = flat.clone()
                moved[..., j] += sign * h
                there = list(x)
                for i, tensor in zip(block, self.space.unravel(moved, part), strict=True):
                    there[i] = tensor
                gradient = self.evaluate(there).gradient
                ends.append(self.space.ravel([gradient[i] for i in block], "a finite-difference Hessian"))
            columns.append((ends[0] - ends[1]) / (2 * h)[..., None])
        matrix = torch.stack(columns, dim=-1)
        return (matrix + matrix.mT) / 2

    def difference_product(self, x: Vector, v: Vector) -> Vector:
        """Return a product of the Hessian from a central difference of gradients along ``v``."""
        self.tally.products += 1
        dtype = self.space.dtype(x)
        size = self.space.norm_max(v).clamp(min=torch.finfo(dtype).tiny)
        h = torch.finfo(dtype).eps ** (1 / 3) * self.space.norm_max(x).clamp(min=1.0) / size
        ahead = self.evaluate(self.space.add(x, h, v)).gradient
        behind = self.evaluate(self.space.add(x, -h, v)).gradient
        return self.space.scale(0.5 / h, self.space.subtract(ahead, behind))


class Structure:
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


class FunctionProblem(Problem):
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
        self._linear: tuple[Vector, Vector, Vector] | None = None

    def evaluate(self, x: Vector) -> Point:
        """Return value and gradient at ``x``."""
        # a closure computes on its parameters, which are overwritten now: graphs are of no more use
        self._linear = self._seen = None
        leaves, value = self._call(x)
        self.tally.gradients += 1
        self.tally.passes += BACKWARD
        gradient = gradient_of(value.sum(), leaves, retain=self.keeps_graphs)
        if self.keeps_graphs:
            self._seen = x, leaves, value
        return Point(x, value.detach(), gradient)

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
        leaves, gradient = self._gradient_graph(x)
        self.tally.products += 1
        self.tally.passes += CURVED
        with torch.enable_grad():
            inner = self.space.dot(gradient, [t.detach() for t in v]).sum()
        return gradient_of(inner, leaves, retain=True)

    def hessian(self, x: Vector, kind: HessianKind) -> list[Tensor]:
        """Return the Hessian, row by row; with ``"block"`` the part of each tensor with itself (O13)."""
        if kind == "finite-difference":
            return self.differences(x, "finite-difference")
        if kind not in ("exact", "block"):
            known = ["exact", "finite-difference", "block"]
            raise OptionError(f"Newton: there is no Hessian called {kind!r}; {nearest(kind, known)}")
        owner = "an exact Hessian"
        self.space.ravel(x, owner)
        leaves, gradient = self._gradient_graph(x)
        self.tally.hessians += 1
        blocks = [[i] for i in range(len(x))] if kind == "block" else [list(range(len(x)))]
        matrices = []
        for block in blocks:
            with torch.enable_grad():
                flat = self.space.ravel([gradient[i] for i in block], owner)
            self.tally.products += flat.shape[-1]
            self.tally.passes += CURVED * flat.shape[-1]
            matrices.append(pull_rows(flat, [leaves[i] for i in block], self.space))
        return matrices

    def _gradient_graph(self, x: Vector) -> tuple[Vector, Vector]:
        if self._linear is None or self._linear[0] is not x:
            at_hand = self._seen is not None and self._seen[0] is x
            leaves, value = self._seen[1:] if self._seen is not None and at_hand else self._call(x)
            self.tally.gradients += 1
            self.tally.passes += BACKWARD
            with torch.enable_grad():
                self._linear = x, leaves, graph_of(value.sum(), leaves)
        return self._linear[1], self._linear[2]


def forward_of(
    function: Callable[[Any], Tensor], structure: Structure, owner: str, *, scalar: bool = True
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


def _refusal(function: Callable[[Any], Any], structure: Structure, x: Vector) -> str | None:
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


def gradient_of(value: Tensor, leaves: Vector, u: Tensor | None = None, *, retain: bool = False) -> Vector:
    """Return the gradient of a scalar, or ``J'u`` of any tensor; zeros for what it doesn't depend on."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return _derivatives(value, leaves, u, retain_graph=retain)


def graph_of(value: Tensor, leaves: Vector, u: Tensor | None = None) -> Vector:
    """Return a gradient as :func:`gradient_of` does, but one that can be differentiated again."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return _derivatives(value, leaves, u, create_graph=True)


def _derivatives(value: Tensor, leaves: Vector, u: Tensor | None, **options: bool) -> Vector:
    try:
        found = torch.autograd.grad(value, leaves, u, allow_unused=True, materialize_grads=True, **options)
    except RuntimeError as problem:
        if not any(words in str(problem) for words in _OVERWRITTEN):
            raise
        raise OptionError(
            "the function changes a tensor in place that its gradient needs, so that there is none; compute "
            f"without that, y = y + 1 in place of y += 1 ({' '.join(str(problem).split())[:160]})"
        ) from problem
    return list(map(_dense, found))


def _dense(gradient: Tensor) -> Tensor:
    """Fill the gradient of an embedding with ``sparse=True``, whose other rows count as zero."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def pull_rows(outputs: Tensor, inputs: Vector, space: Space) -> Tensor:
    """Return the Jacobian, ``[..., m, n]``, of ``[..., m]`` with respect to tensors of n elements together.

    A row is one pass back, which serves all lanes where each lane of ``outputs`` depends on its own alone.
    """
    m = outputs.shape[-1]

    def units(begin: int, end: int) -> Tensor:
        rows = outputs.new_zeros((end - begin, *outputs.shape))
        rows[range(end - begin), ..., range(begin, end)] = 1
        return rows

    found = pull_many(outputs, inputs, m, units)
    lead = (m,) if space.lanes is None else (m, space.lanes)
    flat = [
        rows.reshape(*lead, leaf.numel() // (space.lanes or 1))
        for rows, leaf in zip(found, inputs, strict=True)
    ]
    return torch.cat(flat, dim=-1).movedim(0, -2)


def pull_many(
    outputs: Tensor, inputs: Vector, count: int, vectors: Callable[[int, int], Tensor]
) -> list[Tensor]:
    """Return ``J'u`` for many u: for each input ``[count, *input.shape]``.

    Several are computed in one batched backward pass; where that isn't possible (an operation without a
    batching rule, not enough memory) one after the other.

    Args:
        outputs: with a graph, which is kept.
        inputs: that ``outputs`` was computed from.
        count: how many u there are.
        vectors: from ``begin, end`` to these of them, ``[end - begin, *outputs.shape]``.
    """
    parts: list[list[Tensor]] = []
    batched = True
    for begin in range(0, count, _AT_ONCE):
        chunk = vectors(begin, min(begin + _AT_ONCE, count))
        if batched:
            try:
                found = _pull_batched(outputs, inputs, chunk)
            except RuntimeError:
                batched = False
        if not batched:
            each = [gradient_of(outputs, inputs, u, retain=True) for u in chunk]
            found = [torch.stack(rows) for rows in zip(*each, strict=True)]
        parts.append(found)
    if not parts:
        return [leaf.new_zeros((0, *leaf.shape)) for leaf in inputs]
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def _pull_batched(outputs: Tensor, inputs: Vector, chunk: Tensor) -> list[Tensor]:
    with warnings.catch_warnings():
        # where an operation is batched by a loop, that is slower than it could be but right
        warnings.filterwarnings("ignore", message="There is a performance drop")
        found = torch.autograd.grad(
            outputs, inputs, chunk, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    return [
        leaf.new_zeros((len(chunk), *leaf.shape)) if rows is None else rows
        for rows, leaf in zip(found, inputs, strict=True)
    ]
