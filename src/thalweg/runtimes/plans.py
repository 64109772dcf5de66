"""Which tensors go to which kernel, and the tables of addresses that a kernel gets.

Both are kept from step to step and checked against the tensors each time, since an address that has gone
stale must never be written to.

A plan gives each tensor to the first taker that can take it (a module with ``kind``, ``group`` and
``give_up``: the CPU's, the GPU's). A group holds the addresses of one launch, and checks them against the
tensors before each step.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from thalweg.rules.program import Floats, Program

__all__ = ["PLAIN", "Integers", "Plan", "Taker", "TensorGroup", "chunks", "plain"]

Integers = np.ndarray[Any, np.dtype[np.int64]]

PLAIN = frozenset({Tensor, torch.nn.Parameter})
"""The classes whose storage means what it seems to."""


class TensorGroup(ABC):
    """The tensors within a plan that one kernel takes.

    Args:
        columns: parameters, gradients, then each live state: lists of equal length.

    Attributes:
        params: the parameters.
        sizes: elements of each.
        table: addresses, int64 ``[tensors, columns]``.
        moved: whether gradients' addresses changed since :meth:`launch` last looked.
    """

    def __init__(self, columns: Sequence[list[Tensor]]) -> None:
        self.params = columns[0]
        self.sizes = list(map(Tensor.numel, columns[0]))
        self.table: Integers = np.array(
            [list(map(Tensor.data_ptr, column)) for column in columns], dtype=np.int64
        ).T.copy()
        self.moved = True
        # Gradients come and go; the states' objects stay, and holding them keeps their identity.
        self._states = columns[2:]
        self._dtypes = {columns[0][0].dtype}
        self._addresses = [self.table[:, k].tolist() for k in range(len(columns))]

    def fits(self, columns: Sequence[Sequence[Tensor]]) -> bool:
        """Say whether this is still the group of these tensors, and take the gradients' addresses."""
        params, grads, *states = columns
        for mine, given in zip(self._states, states, strict=True):
            if not all(map(operator.is_, mine, given)):
                return False
        if not (PLAIN.issuperset(map(type, grads)) and self.reaches(grads)):
            return False
        for tensors in (params, grads):
            if not (
                set(map(_dtype, tensors)) == self._dtypes
                and all(map(Tensor.is_contiguous, tensors))
                and list(map(Tensor.numel, tensors)) == self.sizes
            ):
                return False
        for k, tensors in enumerate(columns):
            try:
                addresses = list(map(Tensor.data_ptr, tensors))
            except RuntimeError:  # a gradient without storage of its own
                return False
            if addresses != self._addresses[k]:
                if k != 1 or not self.aligned(addresses):
                    return False
                self._addresses[1] = addresses
                self.table[:, 1] = addresses
                self.moved = True
        return True

    @abstractmethod
    def reaches(self, grads: Sequence[Tensor]) -> bool:
        """Say whether the kernel can read these gradients where they are, now."""

    @abstractmethod
    def aligned(self, addresses: Sequence[int]) -> bool:
        """Say whether gradients at these addresses are what the kernel was compiled for."""

    @abstractmethod
    def launch(self, scalars: Floats) -> None:
        """Run the kernel, in place, on the tensors that :meth:`fits` saw last."""


class Taker(Protocol):
    """A runtime with kernels: a module that has these functions."""

    def kind(self, tensors: Sequence[Tensor], lanes: int) -> Any:
        """Return what a parameter, its gradient and states must share with others in a kernel, or None."""

    def group(self, program: Program, kind: Any, columns: Sequence[list[Tensor]], lanes: int) -> TensorGroup:
        """Compile the kernel for tensors of a kind."""

    def give_up(self, error: Exception) -> None:
        """Take no tensors from now on, and log why."""


class Plan:
    """Which of some tensors go to which kernels, and the tables for those.

    Args:
        takers: runtimes; each tensor goes to the first that can take it.
        program: a portable program.
        columns: parameters, gradients, then each live state: lists of equal length.
        lanes: K, the number of lanes whose scalars differ; 1 where there are none.

    Attributes:
        rest: positions of the tensors that no kernel can take.
    """

    def __init__(
        self, takers: Sequence[Taker], program: Program, columns: Sequence[Sequence[Tensor]], lanes: int
    ) -> None:
        self._takers = takers
        self._lanes = lanes
        taken: dict[tuple[int, Any], list[int]] = {}
        self.rest: list[int] = []
        for i, tensors in enumerate(zip(*columns, strict=True)):
            choice = self._choice(tensors)
            if choice is None:
                self.rest.append(i)
            else:
                taken.setdefault(choice, []).append(i)
        self._groups: list[tuple[list[int] | None, TensorGroup]] = []
        for (at, kind), positions in taken.items():
            chosen = [[column[i] for i in positions] for column in columns]
            try:
                group = takers[at].group(program, kind, chosen, lanes)
            except (
                Exception
            ) as error:  # a compiler that doesn't fit its Python or machine can fail in any way
                takers[at].give_up(error)
                self.rest += positions
                continue
            all_of_them = len(positions) == len(columns[0])
            self._groups.append((None if all_of_them else positions, group))

    def _choice(self, tensors: Sequence[Tensor]) -> tuple[int, Any] | None:
        for at, taker in enumerate(self._takers):
            kind = taker.kind(tensors, self._lanes)
            if kind is not None:
                return at, kind
        return None

    def fits(self, takers: Sequence[Taker], columns: Sequence[Sequence[Tensor]]) -> bool:
        """Say whether this is still the plan for these tensors, and take the gradients' addresses."""
        if takers != self._takers:
            return False
        for i in self.rest:
            if self._choice([column[i] for column in columns]) is not None:
                return False
        for positions, group in self._groups:
            own = columns if positions is None else [[column[i] for i in positions] for column in columns]
            if not group.fits(own):
                return False
        return True

    def launch(self, scalars: Floats) -> None:
        """Run the kernels, in place, on the tensors that :meth:`fits` saw last.

        Args:
            scalars: hoisted, float64 ``[S]`` or ``[S, K]``.
        """
        for _, group in self._groups:
            group.launch(scalars)


_dtype = operator.attrgetter("dtype")


def plain(tensors: Sequence[Tensor], lanes: int) -> bool:
    """Say whether these, of one parameter, are dense and contiguous, with storage, and of one shape."""
    p = tensors[0]
    if (lanes > 1 and (p.ndim == 0 or p.shape[0] != lanes)) or p.is_inference():
        return False
    for tensor in tensors:
        if not (
            type(tensor) in PLAIN
            and tensor.layout == torch.strided
            and tensor.shape == p.shape
            and tensor.is_contiguous()
        ):
            return False
        try:
            tensor.data_ptr()
        except RuntimeError:  # inside vmap and its like there is no storage
            return False
    return True


def chunks(sizes: Iterable[int], lanes: int, most: int) -> Integers:
    """Return rows of (tensor, lane, first element, end), none of more than ``most`` elements.

    >>> chunks([5, 0, 4], 1, 4).tolist()
    [[0, 0, 0, 4], [0, 0, 4, 5], [2, 0, 0, 4]]
    """
    rows = []
    for tensor, size in enumerate(sizes):
        width = size // lanes
        for lane in range(lanes):
            low, high = lane * width, (lane + 1) * width
            rows += [(tensor, lane, start, min(start + most, high)) for start in range(low, high, most)]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)
