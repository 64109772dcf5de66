"""Arithmetic of lists of tensors through inner products: alone, sharded, or K lanes at once.

A vector is a list of tensors. Alone, a scalar is a tensor without dimensions; among lanes, where every
tensor is ``[K, ...]``, it is ``[K]``. Nothing here flattens tensors that are sharded over processes, so that
what is written with these few operations holds for them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.runtimes.dtensors import is_dtensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["Scalar", "Space", "Vector", "is_sharded"]

Vector: TypeAlias = list[Tensor]
Scalar: TypeAlias = Tensor


def is_sharded(vector: Sequence[Tensor]) -> bool:
    """Whether any tensor is spread over processes."""
    return any(is_dtensor(tensor) for tensor in vector)


@dataclass(frozen=True)
class Space:
    """The space in which a problem lives: one list of tensors, or ``lanes`` of them side by side.

    Args:
        lanes: K, where every tensor is ``[K, ...]``; None for one problem alone.

    >>> space = Space()
    >>> a, b = [torch.tensor([3.0, 4.0])], [torch.tensor([1.0, 2.0])]
    >>> float(space.dot(a, b)), float(space.norm(a)), space.add(a, 2.0, b)[0].tolist()
    (11.0, 5.0, [5.0, 8.0])
    >>> Space(lanes=2).dot([torch.ones(2, 3)], [torch.ones(2, 3)]).tolist()
    [3.0, 3.0]
    """

    lanes: int | None = None

    def dot(self, a: Vector, b: Vector) -> Scalar:
        """Return the inner product, summed over all tensors: 0-dim, or ``[K]``."""
        parts = [self._inner(p, q) for p, q in zip(a, b, strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def norm(self, a: Vector) -> Scalar:
        """Return the Euclidean norm."""
        return self.dot(a, a).sqrt()

    def norm_1(self, a: Vector) -> Scalar:
        """Return the sum of magnitudes."""
        parts = [self._reduced(p.abs(), "sum") for p in a]
        return torch.stack(parts).sum(0)

    def norm_max(self, a: Vector) -> Scalar:
        """Return the largest magnitude; NaN where any element is NaN."""
        parts = [self._reduced(p.abs(), "amax") for p in a if p.numel()]
        return torch.stack(parts).amax(0)

    def scale(self, s: Scalar | float, a: Vector) -> Vector:
        """Return ``s * a``."""
        return [self.spread(s, p) * p for p in a]

    def add(self, a: Vector, s: Scalar | float, b: Vector) -> Vector:
        """Return ``a + s * b``."""
        return [p + self.spread(s, q) * q for p, q in zip(a, b, strict=True)]

    def subtract(self, a: Vector, b: Vector) -> Vector:
        """Return ``a - b``."""
        return [p - q for p, q in zip(a, b, strict=True)]

    def negate(self, a: Vector) -> Vector:
        """Return ``-a``."""
        return [-p for p in a]

    def where(self, mask: Tensor | None, a: Vector, b: Vector) -> Vector:
        """Return ``a`` in the lanes that ``mask`` names and ``b`` in the others; ``a`` where it is None."""
        if mask is None:
            return a
        return [torch.where(self._beside(mask, p), p, q) for p, q in zip(a, b, strict=True)]

    def choose(self, mask: Tensor | None, a: Scalar, b: Scalar) -> Scalar:
        """Return scalars or matrices of ``a`` in the lanes of ``mask`` and of ``b`` in the others."""
        return a if mask is None else torch.where(self._beside(mask, a), a, b)

    def spread(self, s: Scalar | float, like: Tensor) -> Tensor | float:
        """Shape a scalar so that it multiplies ``like`` lane by lane, in its type."""
        if not isinstance(s, Tensor):
            return s
        return self._beside(s.to(like.dtype), like)

    def scalar(self, values: Sequence[float], like: Vector) -> Scalar:
        """Return numbers of the host, one a lane, as a scalar in the type and place of ``like``."""
        made = torch.tensor(list(values), dtype=self.dtype(like), device=like[0].device)
        return made[0] if self.lanes is None else made

    def mask(self, chosen: Sequence[bool], like: Vector) -> Tensor | None:
        """Return lanes as a mask ``[K]``; None where all are chosen."""
        return None if all(chosen) else torch.tensor(list(chosen), device=like[0].device)

    def dtype(self, like: Vector) -> torch.dtype:
        """Return the type of scalars: the widest among the tensors."""
        wide = torch.float32
        for tensor in like:
            wide = torch.promote_types(wide, tensor.dtype)
        return wide

    def ravel(self, a: Vector, owner: str) -> Tensor:
        """Return all elements side by side, ``[n]`` or ``[K, n]``.

        Raises:
            OptionError: a tensor is sharded; ``owner`` is the method that the message names.
        """
        if is_sharded(a):
            raise OptionError(
                f"{owner}: the parameters are sharded over processes, and it needs them as one vector; "
                f"use a method that is free of matrices, such as 'lbfgs', 'cg-pr+' or 'newton-cg'"
            )
        if len(a) == 1 and a[0].ndim == (1 if self.lanes is None else 2):
            return a[0]
        return torch.cat([self._rows(p) for p in a], dim=-1)

    def unravel(self, flat: Tensor, like: Vector) -> Vector:
        """Return the elements of ``flat`` in the shapes of ``like``: what :meth:`ravel` put together."""
        sizes = [p.numel() // (self.lanes or 1) for p in like]
        parts = torch.split(flat, sizes, dim=-1)
        return [part.reshape(p.shape).to(p.dtype) for part, p in zip(parts, like, strict=True)]

    def _inner(self, p: Tensor, q: Tensor) -> Tensor:
        if self.lanes is None and not is_dtensor(p):
            return torch.dot(p.reshape(-1), q.reshape(-1))
        return self._reduced(p * q, "sum")

    def _reduced(self, p: Tensor, reduction: str) -> Tensor:
        if is_dtensor(p):
            # a shard can't always be flattened, but a sum over all of it needs no shape
            return _total(p) if reduction == "sum" else _largest(p)
        reduced: Tensor = getattr(self._rows(p), reduction)(-1)
        return reduced

    def _rows(self, p: Tensor) -> Tensor:
        return p.reshape(-1) if self.lanes is None else p.reshape(self.lanes, p.numel() // self.lanes)

    @staticmethod
    def _beside(s: Tensor, like: Tensor) -> Tensor:
        return s if s.ndim == 0 else s.reshape(s.shape + (1,) * (like.ndim - s.ndim))


def _total(terms: DTensor) -> Tensor:
    total: Any = terms.sum()
    return total.full_tensor()  # type: ignore[no-any-return]


def _largest(magnitudes: DTensor) -> Tensor:
    """Return the largest element; a process may have none of them, for which torch knows no maximum."""
    # here it has been imported: there is one
    from torch.distributed.tensor import DTensor, Shard

    own = magnitudes.to_local()
    top = own.amax() if own.numel() else own.new_zeros(())
    places = [Shard(0) if place.is_shard() else place for place in magnitudes.placements]
    tops = DTensor.from_local(top.reshape(1), magnitudes.device_mesh, places, run_check=False)
    largest: Tensor = tops.full_tensor().amax()
    return largest
