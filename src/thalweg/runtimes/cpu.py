"""The CPU runtime: one call of a compiled kernel for all tensors and lanes.

The kernel gets a table of raw addresses and a table of chunks, which its threads share out among them.
"""

from __future__ import annotations

import importlib.util
import logging
import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thalweg.rules.program import Floats, Program
from thalweg.runtimes import team
from thalweg.runtimes.kernels import JOB, SLOT, Kernel, cache_folder, compiled
from thalweg.runtimes.plans import TensorGroup, chunks, plain

__all__ = ["CHUNK", "describe", "give_up", "group", "kind", "usable"]

CHUNK = 16384, 131072
"""The fewest and the most elements that a thread takes at a time, unless a tensor has fewer.

Large ones keep two threads out of the memory that the other one's processor has begun to fetch, which makes
an eighth of a difference; of small ones there are enough to share out where there is little to do.
"""

_CHUNKS = 64
_SERIAL = 4 * CHUNK[0]
_DTYPES = {torch.float32: "float32", torch.float64: "float64"}

_log = logging.getLogger("thalweg")
_trouble: str | None = None


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


def group(program: Program, kind: torch.dtype, columns: Sequence[list[Tensor]], lanes: int) -> TensorGroup:
    """Compile a program for tensors of a type.

    Raises:
        Exception: Numba is broken, or was told not to compile.
    """
    return _CpuGroup(compiled(program, _DTYPES[kind]), program.scalar_count, columns, lanes)


def give_up(error: Exception) -> None:
    """Take no tensors from now on, and log why."""
    _say(f"Numba failed to compile a kernel ({type(error).__name__}: {error})")


class _CpuGroup(TensorGroup):
    """The tensors of one dtype within a plan, all of which one kernel takes."""

    def __init__(self, kernel: Kernel, scalars: int, columns: Sequence[list[Tensor]], lanes: int) -> None:
        super().__init__(columns)
        self._kernel = kernel
        self._scalars = np.zeros((scalars, lanes))
        self._elements = elements = sum(self.sizes)
        self._chunks = chunks(self.sizes, lanes, min(max(elements // _CHUNKS, CHUNK[0]), CHUNK[1]))
        self._ends = np.cumsum(self._chunks[:, 3] - self._chunks[:, 2])
        self._threads = 0
        self._divide(1)

    def _divide(self, threads: int) -> None:
        """Make the job anew for a number of threads, with as many elements for each."""
        shares = np.arange(1, threads) / threads
        bounds = [0, *np.searchsorted(self._ends, self._elements * shares), len(self._chunks)]
        self._job = np.zeros(JOB["slots"] + SLOT["words"] * threads, dtype=np.int64)
        for name, value in {
            "kernel": self._kernel.address,
            "chunks": self._chunks.ctypes.data,
            "table": self.table.ctypes.data,
            "scalars": self._scalars.ctypes.data,
            "lanes": self._scalars.shape[1],
            "slot_count": threads,
        }.items():
            self._job[JOB[name]] = value
        slots = self._job[JOB["slots"] :].reshape(threads, SLOT["words"])
        slots[:, SLOT["begin"]], slots[:, SLOT["end"]] = bounds[:-1], bounds[1:]
        self._threads, self._address = threads, self._job.ctypes.data

    def reaches(self, grads: Sequence[Tensor]) -> bool:
        return all(map(_is_cpu, grads))

    def aligned(self, addresses: Sequence[int]) -> bool:
        return True

    def launch(self, scalars: Floats) -> None:
        self._scalars[...] = scalars.reshape(self._scalars.shape)
        threads = torch.get_num_threads() if self._elements > _SERIAL else 1
        if threads != self._threads:
            self._divide(threads)
        if threads > 1:
            team.run(self._job)
        else:
            self._job[JOB["slots"] + SLOT["counter"]] = 0
            self._kernel.ctypes(self._address, 0)
        torch.autograd.graph.increment_version(self.params)


_is_cpu = operator.attrgetter("is_cpu")
