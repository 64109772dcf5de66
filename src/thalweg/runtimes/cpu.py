"""The CPU runtime: one call of a compiled kernel for all tensors and lanes.

The kernel gets a table of raw addresses and a table of chunks. Both are kept from step to step and
checked against the tensors each time, since an address that has gone stale must never be written to.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import operator
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.rules.program import Floats, Program
from thalweg.runtimes.kernels import Kernel, cache_folder, compiled

__all__ = ["CHUNK", "Plan", "describe", "usable"]

CHUNK = 16384
"""Elements a thread takes at a time: the chunk of every column together fits a core's own cache."""

_SERIAL = 4 * CHUNK
_DTYPES: dict[torch.dtype, tuple[str, Any]] = {
    torch.float32: ("float32", np.float32),
    torch.float64: ("float64", np.float64),
}
_PLAIN = {Tensor, torch.nn.Parameter}

_log = logging.getLogger("thalweg")
_trouble: str | None = None
_pool: tuple[int, ThreadPoolExecutor] | None = None


def usable() -> bool:
    """Say whether kernels can be compiled here; the first time that they can't, log why."""
    global _trouble
    if _trouble is None and importlib.util.find_spec("numba") is None:
        _give_up("Numba isn't installed")
    return _trouble is None


def _give_up(reason: str) -> None:
    global _trouble
    _trouble = reason
    _log.warning("optimizer steps run eagerly, which is slower: %s (pip install 'thalweg[fast]')", reason)


def describe() -> str:
    """Return one line about this runtime."""
    if not usable():
        return f"no CPU kernels: {_trouble}"
    from importlib.metadata import version

    return f"CPU kernels by Numba {version('numba')}, kept in {cache_folder()}"


class Plan:
    """Which of some tensors the kernels take, and the tables for those.

    Args:
        program: a portable program.
        columns: parameters, gradients, then each live state: lists of equal length.
        lanes: K, the number of lanes whose scalars differ; 1 where there are none.

    Attributes:
        rest: positions of the tensors that no kernel can take.
    """

    def __init__(self, program: Program, columns: Sequence[Sequence[Tensor]], lanes: int) -> None:
        self._lanes = lanes
        taken: dict[torch.dtype, list[int]] = {}
        self.rest: list[int] = []
        for i, tensors in enumerate(zip(*columns, strict=True)):
            if _eligible(tensors, lanes):
                taken.setdefault(tensors[0].dtype, []).append(i)
            else:
                self.rest.append(i)
        self._groups: list[_Group] = []
        for dtype, positions in taken.items():
            all_of_them = len(positions) == len(columns[0])
            name, scalar = _DTYPES[dtype]
            try:
                kernel = compiled(program, name)
            except Exception as error:  # a Numba that doesn't fit its Python or NumPy can fail in any way
                _give_up(f"Numba failed to compile a kernel ({type(error).__name__}: {error})")
                self.rest = list(range(len(columns[0])))
                self._groups = []
                return
            chosen = [[column[i] for i in positions] for column in columns]
            self._groups.append(
                _Group(kernel, dtype, scalar, None if all_of_them else positions, chosen, lanes)
            )

    def fits(self, columns: Sequence[Sequence[Tensor]]) -> bool:
        """Say whether this is still the plan for these tensors, and take the gradients' addresses."""
        for i in self.rest:
            if _eligible([column[i] for column in columns], self._lanes):
                return False
        return all(group.fits(columns) for group in self._groups)

    def launch(self, scalars: Floats) -> None:
        """Run the kernels, in place, on the tensors that :meth:`fits` saw last.

        Args:
            scalars: hoisted, float64 ``[S]`` or ``[S, K]``.
        """
        for group in self._groups:
            group.launch(scalars)


class _Group:
    """The tensors of one dtype within a plan, all of which one kernel takes."""

    def __init__(
        self,
        kernel: Kernel,
        dtype: torch.dtype,
        scalar: Any,
        positions: list[int] | None,
        columns: list[list[Tensor]],
        lanes: int,
    ) -> None:
        self._kernel = kernel
        self._dtypes = {dtype}
        self._scalar = scalar
        self._positions = positions
        self._params = columns[0]
        # Gradients come and go; the states' objects stay, and holding them keeps their identity.
        self._states = columns[2:]
        self._sizes = list(map(Tensor.numel, columns[0]))
        self._elements = sum(self._sizes)
        self._table = np.array([list(map(Tensor.data_ptr, c)) for c in columns], dtype=np.int64).T.copy()
        self._addresses = [self._table[:, k].tolist() for k in range(len(columns))]
        self._chunks = _chunks(self._sizes, lanes)

    def fits(self, columns: Sequence[Sequence[Tensor]]) -> bool:
        if self._positions is not None:
            columns = [[column[i] for i in self._positions] for column in columns]
        params, grads, *states = columns
        for mine, given in zip(self._states, states, strict=True):
            if not all(map(operator.is_, mine, given)):
                return False
        if not (set(map(type, grads)) <= _PLAIN and all(map(_is_cpu, grads))):
            return False
        for tensors in (params, grads):
            if not (
                set(map(_dtype, tensors)) == self._dtypes
                and all(map(Tensor.is_contiguous, tensors))
                and list(map(Tensor.numel, tensors)) == self._sizes
            ):
                return False
        for k, tensors in enumerate(columns):
            try:
                addresses = list(map(Tensor.data_ptr, tensors))
            except RuntimeError:  # a gradient without storage of its own
                return False
            if addresses != self._addresses[k]:
                if k != 1:
                    return False
                self._addresses[1] = addresses
                self._table[:, 1] = addresses
        return True

    def launch(self, scalars: Floats) -> None:
        with np.errstate(over="ignore", under="ignore"):
            by_lane = scalars if scalars.ndim == 2 else scalars[:, np.newaxis]
            cast = np.ascontiguousarray(by_lane, dtype=self._scalar)
        counter = ctypes.c_int64(0)
        job = self._table, self._chunks, cast, ctypes.addressof(counter)
        extra = 0
        if self._elements > _SERIAL:
            extra = min(torch.get_num_threads(), len(self._chunks)) - 1
        futures = _start(extra, self._kernel, job)
        try:
            self._kernel(*job)
        finally:
            for future in futures:
                if not future.cancel():
                    future.result()
        torch.autograd.graph.increment_version(self._params)


def _start(extra: int, kernel: Kernel, job: tuple[Any, ...]) -> list[Future[None]]:
    # Threads of our own, since an OpenMP pool doesn't survive a fork and takes one caller at a time.
    # A child that was forked has no threads: the process id tells.
    global _pool
    if extra <= 0:
        return []
    if _pool is None or _pool[0] != os.getpid():
        _pool = os.getpid(), ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="thalweg")
    try:
        return [_pool[1].submit(kernel, *job) for _ in range(extra)]
    except RuntimeError:  # the interpreter is shutting down
        return []


_is_cpu = operator.attrgetter("is_cpu")
_dtype = operator.attrgetter("dtype")


def _eligible(tensors: Sequence[Tensor], lanes: int) -> bool:
    p = tensors[0]
    if p.dtype not in _DTYPES or (lanes > 1 and (p.ndim == 0 or p.shape[0] != lanes)) or p.is_inference():
        return False
    for tensor in tensors:
        if not (
            type(tensor) in _PLAIN
            and tensor.is_cpu
            and tensor.layout == torch.strided
            and tensor.dtype == p.dtype
            and tensor.shape == p.shape
            and tensor.is_contiguous()
        ):
            return False
        try:
            tensor.data_ptr()
        except RuntimeError:  # inside vmap and its like there is no storage
            return False
    return True


def _chunks(sizes: Iterable[int], lanes: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Rows of (tensor, lane, first element, end)."""
    rows = []
    for tensor, size in enumerate(sizes):
        width = size // lanes
        for lane in range(lanes):
            low, high = lane * width, (lane + 1) * width
            rows += [(tensor, lane, start, min(start + CHUNK, high)) for start in range(low, high, CHUNK)]
    return np.array(rows, dtype=np.int64).reshape(-1, 4)
