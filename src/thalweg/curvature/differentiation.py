"""Gradients, and rows and columns of Jacobians, of what autograd has recorded.

Source: INDEX O9, O10. Products with a Hessian by differentiating the gradient: Pearlmutter, Fast exact
multiplication by the Hessian, 1994.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import OptionError

__all__ = [
    "Counted",
    "check_twice",
    "counted_bytes",
    "differentiable_twice",
    "gradient_of",
    "graph_of",
    "jacobian",
    "not_twice",
    "outside_inference",
    "pull_many",
    "pull_rows",
]

# How many passes are computed at once: enough for the overhead of one to vanish, few enough for memory.
_AT_ONCE = 64
_OVERWRITTEN = ("modified by an inplace operation", "in-place operation", "inplace operation")


_NOT_TWICE = (
    "is not implemented",
    "once_differentiable",
    "double backward",
    "differentiable twice",
    "twice differentiable",
)


def not_twice(problem: BaseException) -> bool:
    """Say whether an error is that an operation's gradient can't be differentiated.

    >>> not_twice(RuntimeError("derivative for aten::_flash_attention_backward is not implemented"))
    True
    """
    said = str(problem)
    derivative = "derivative" in said or "different" in said or "backward" in said
    return isinstance(problem, RuntimeError) and derivative and any(words in said for words in _NOT_TWICE)


def check_twice(gradient: Vector) -> None:
    """Raise the error of a gradient that can't be differentiated, which autograd may pass by in silence.

    Of a function that is marked as differentiable once, it goes past the mark without a word where only
    derivatives with respect to given tensors are asked for.
    """
    seen, open_nodes = set(), [t.grad_fn for t in gradient if t.grad_fn is not None]
    while open_nodes:
        node = open_nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if "Error" in node.name():
            raise RuntimeError("what is marked as once_differentiable can't be differentiated twice")
        open_nodes += [below for below, _ in node.next_functions if below is not None]


@dataclass
class Counted:
    """Bytes that graphs hold."""

    total: int = 0


@contextmanager
def counted_bytes() -> Iterator[Counted]:
    """Count the bytes that are kept for backward passes by what is computed within, each storage once."""
    counted, seen = Counted(), set()

    def pack(tensor: Tensor) -> Tensor:
        if type(tensor) is Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                counted.total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield counted


@contextmanager
def differentiable_twice(*modules: nn.Module) -> Iterator[None]:
    """Compute what is called within by operations that can be differentiated again.

    Fused attention can't, nor can recurrent layers by cuDNN.

    Args:
        modules: that are called; where none of them is recurrent, cuDNN stays as it is.
    """
    recurrent = any(isinstance(part, nn.RNNBase) for module in modules for part in module.modules())
    plain = torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()
    with sdpa_kernel(SDPBackend.MATH), plain:
        yield


def outside_inference(tensor: Tensor) -> Tensor:
    """Return a tensor that autograd may keep: a copy of one that was made in inference mode."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


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


def jacobian(outputs: Tensor, leaves: Vector, space: Space) -> tuple[Tensor, int, bool]:
    """Return the Jacobian ``[..., m, n]``, how many passes it took, and whether they gave its columns.

    Rows come from one backward pass each; where n is smaller, columns from differentiating ``u -> J'u``,
    which is linear in u. Many passes are computed at once. A pass serves all lanes, since each output
    depends on its own lane alone.

    Args:
        outputs: flat, ``[m]`` or ``[K, m]``, computed from ``leaves``.
        leaves: n elements together, in each lane.
        space: lanes or alone.
    """
    lanes = space.lanes or 1
    m, n = outputs.shape[-1], sum(leaf.numel() for leaf in leaves) // lanes
    if not outputs.requires_grad:
        return outputs.new_zeros((*outputs.shape, n)), 0, False
    if m <= n:
        return pull_rows(outputs, leaves, space), m, False
    u = torch.zeros_like(outputs, requires_grad=True)
    with torch.enable_grad():
        flat = space.ravel(graph_of(outputs, leaves, u), "a Jacobian")
    return pull_rows(flat, [u], space).mT, n, True
