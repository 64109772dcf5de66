"""The CPU runtime: one call of a compiled kernel for all tensors and lanes.

The kernel gets a table of raw addresses and a table of chunks, which its threads share out among them.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import operator
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.rules.program import Floats, Program
from thalweg.runtimes.kernels import Kernel, cache_folder, compiled
from thalweg.runtimes.tables import Group, chunks, plain

__all__ = ["CHUNK", "describe", "give_up", "group", "kind", "usable"]

CHUNK = 16384
"""Elements a thread takes at a time: the chunk of every column together fits a core's own cache."""

_SERIAL = 4 * CHUNK
_DTYPES: dict[torch.dtype, tuple[str, Any]] = {
    torch.float32: ("float32", np.float32),
    torch.float64: ("float64", np.float64),
}

_log = logging.getLogger("thalweg")
_trouble: str | None = None
_pool: tuple[int, ThreadPoolExecutor] | None = None


def usable() -> bool:
    """Say whether kernels can be compiled here; the first time that they can't, log why."""
    global _trouble
    if _trouble is None and importlib.util.find_spec("numba") is None:
        _say("Numba isn't installed")
    return _trouble is None


def _say(reason: str) -> None:
    global _trouble
    _trouble = reason
    _log.warning("optimizer steps run eagerly, which is slower: %s (pip install 'thalweg[fast]')", reason)


def describe() -> str:
    """Return one line about this runtime."""
    if not usable():
        return f"no CPU kernels: {_trouble}"
    from importlib.metadata import version

    return f"CPU kernels by Numba {version('numba')}, kept in {cache_folder()}"


def kind(tensors: Sequence[Tensor], lanes: int) -> torch.dtype | None:
    """Return the type of a parameter that a kernel can take with its gradient and states, or None."""
    dtype = tensors[0].dtype
    if dtype not in _DTYPES or any(tensor.dtype != dtype or not tensor.is_cpu for tensor in tensors):
        return None
    return dtype if plain(tensors, lanes) else None


def group(program: Program, kind: torch.dtype, columns: Sequence[list[Tensor]], lanes: int) -> Group:
    """Compile a program for tensors of a type.

    Raises:
        Exception: Numba is broken, or was told not to compile.
    """
    name, scalar = _DTYPES[kind]
    return _Group(compiled(program, name), scalar, columns, lanes)


def give_up(error: Exception) -> None:
    """Take no tensors from now on, and log why."""
    _say(f"Numba failed to compile a kernel ({type(error).__name__}: {error})")


class _Group(Group):
    """The tensors of one dtype within a plan, all of which one kernel takes."""

    def __init__(self, kernel: Kernel, scalar: Any, columns: Sequence[list[Tensor]], lanes: int) -> None:
        super().__init__(columns)
        self._kernel = kernel
        self._scalar = scalar
        self._elements = sum(self.sizes)
        self._chunks = chunks(self.sizes, lanes, CHUNK)

    def reaches(self, grads: Sequence[Tensor]) -> bool:
        return all(map(_is_cpu, grads))

    def aligned(self, addresses: Sequence[int]) -> bool:
        return True

    def launch(self, scalars: Floats) -> None:
        with np.errstate(over="ignore", under="ignore"):
            by_lane = scalars if scalars.ndim == 2 else scalars[:, np.newaxis]
            cast = np.ascontiguousarray(by_lane, dtype=self._scalar)
        counter = ctypes.c_int64(0)
        job = self.table, self._chunks, cast, ctypes.addressof(counter)
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
        torch.autograd.graph.increment_version(self.params)


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
