"""The GPU runtime: one launch of a Triton kernel for all tensors and lanes of a kind.

The kernel gets a table of raw addresses, a table of chunks and the hoisted scalars, all in the device's
memory; each block of threads takes one chunk. Where all addresses allow it, a thread reads and writes 16
bytes at a time. Nothing is contracted, approximated or flushed, so that the bits are those of the CPU.

With ``TRITON_INTERPRET=1`` in the environment Triton's interpreter runs the same kernels on CPU tensors,
for those who ask for this runtime by name. That is slow, and made for tests.

Plain contiguous tensors of float32, float64, float16 or bfloat16 take one launch for each device, dtype and
alignment, and two small copies where scalars and gradients' addresses changed. Everything else runs
eagerly: other strides, tensor subclasses, general powers, GPUs of other makers; so does a kernel that
Triton fails to compile, which is found out before anything is written, and logged once.

How far this is known: the bits through Triton's interpreter, which cuts bfloat16 off where a GPU rounds,
and the PTX and machine code of every rule as compiled for sm_80 and sm_90. The tests marked ``gpu`` and
``benchmarks/gpu_step.py`` are what to run first where there is a GPU.
"""

from __future__ import annotations

import importlib.util
import logging
import operator
import os
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.rules.program import Floats, Program, compute_dtype
from thalweg.runtimes.kernels import cache_folder, from_folder, in_memory
from thalweg.runtimes.plans import TensorGroup, chunks, plain
from thalweg.runtimes.printing import TRITON, output_names, scalar_names, statements

__all__ = [
    "BUILT",
    "CHUNK",
    "OPTIONS",
    "KernelKind",
    "compiled",
    "describe",
    "give_up",
    "group",
    "interpreted",
    "kernel_source",
    "kind",
    "there",
    "usable",
]

BUILT = torch.version.cuda is not None
"""Whether this torch can use an NVIDIA GPU, if there is one; of other makers' none was compiled for."""

CHUNK = 1024
"""Elements a block of threads takes: two reads of 16 bytes a thread and column in float32."""

OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
"""How kernels are compiled."""

_WIDTH = 16
_DTYPES: dict[torch.dtype, str] = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}

# `multiple_of` marks a value wherever it is used, hence a pointer of its own for each column, and an end
# that is computed anew. What follows from a division and a product the compiler sees by itself.
_TEMPLATE = """\
import triton
import triton.language as tl


@triton.jit
def kernel(table, chunks, scalars):
    at = tl.program_id(0)
    row = tl.load(chunks + 4 * at)
    lane = tl.load(chunks + 4 * at + 1)
    start = tl.load(chunks + 4 * at + 2)
    count = tl.load(chunks + 4 * at + 3) - start
    i = tl.arange(0, {chunk})
{prologue}
{branches}
"""

_ALIGNED = """\
    if count % {step} == 0:
        inside = i < count // {step} * {step}
{body}
    else:
        inside = i < count
{body}"""

_log = logging.getLogger("thalweg")
_trouble: str | None = None
_compiled: dict[tuple[bool, str], Any] = {}
_lock = threading.Lock()


class KernelKind(NamedTuple):
    """What the tensors of a kernel have in common."""

    device: torch.device
    dtype: torch.dtype
    aligned: bool


def interpreted() -> bool:
    """Say whether Triton's interpreter takes the place of a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def there() -> bool:
    """Say whether there is a GPU, or the interpreter in its place."""
    return interpreted() or (BUILT and torch.cuda.is_available())


def usable() -> bool:
    """Say whether kernels can be compiled, given that there is a GPU; log why not, the first time."""
    global _trouble
    if _trouble is None and importlib.util.find_spec("triton") is None:
        _trouble = "Triton isn't installed"
        _warn(f"{_trouble} (pip install triton)")
    return _trouble is None


def give_up(error: Exception) -> None:
    """Take no tensors from now on, and log why."""
    global _trouble
    _trouble = f"Triton failed to compile a kernel ({type(error).__name__}: {error})"
    _warn(_trouble)


def _warn(reason: str) -> None:
    _log.warning("optimizer steps on the GPU run eagerly, which is slower: %s", reason)


def describe() -> str:
    """Return one line about this runtime.

    >>> describe().split()[0] in ("GPU", "no")
    True
    """
    if not there():
        return "no GPU kernels: there is no NVIDIA GPU that this torch can use"
    if not usable():
        return f"no GPU kernels: {_trouble}"
    from importlib.metadata import version

    how = ", interpreted on the CPU" if interpreted() else ""
    return f"GPU kernels by Triton {version('triton')}{how}, kept in {cache_folder()}"


def kind(tensors: Sequence[Tensor], lanes: int) -> KernelKind | None:
    """Return what a parameter that a kernel can take, with its gradient and states, shares with others."""
    p = tensors[0]
    if p.dtype not in _DTYPES or (p.is_cuda if interpreted() else not p.is_cuda):
        return None
    wanted = (p.dtype, p.dtype, *(compute_dtype(p.dtype),) * (len(tensors) - 2))
    for tensor, dtype in zip(tensors, wanted, strict=True):
        if tensor.dtype != dtype or tensor.device != p.device:
            return None
    if not plain(tensors, lanes):
        return None
    aligned = all(tensor.data_ptr() % _WIDTH == 0 for tensor in tensors)
    if lanes > 1:
        aligned = aligned and p.numel() // lanes * p.element_size() % _WIDTH == 0
    return KernelKind(p.device, p.dtype, aligned)


def group(program: Program, kind: KernelKind, columns: Sequence[list[Tensor]], lanes: int) -> TensorGroup:
    """Compile a program for tensors of a kind.

    Raises:
        Exception: Triton is broken, or doesn't know this GPU.
    """
    return _GpuGroup(compiled(program, kind.dtype, kind.aligned), kind, columns, lanes)


def kernel_source(program: Program, dtype: torch.dtype, aligned: bool) -> str:
    """Print the kernel of a program.

    Args:
        program: a portable program.
        dtype: the parameters' type, one of float32, float64, float16 and bfloat16.
        aligned: whether every chunk starts at an address that is a multiple of 16, in all columns.
    """
    computed = _DTYPES[compute_dtype(dtype)]
    width = len(program.inputs)
    kept = [_DTYPES[dtype]] * 2 + [computed] * (width - 2)
    scalars = scalar_names(program)
    prologue = [f"{c} = tl.load(scalars + {len(scalars)} * lane + {s})" for s, c in enumerate(scalars)]
    body = []
    for k, own in enumerate(kept):
        size = getattr(torch, own).itemsize
        prologue += [
            f"n{k} = tl.load(table + {width} * row + {k}) + {size} * start",
            f"a{k} = n{k}.to(tl.pointer_type(tl.{own}))",
        ]
        if aligned:
            prologue.append(f"a{k} = tl.multiple_of(a{k}, {_WIDTH})")
        widen = "" if own == computed else f".to(tl.{computed})"
        body.append(f"x{k} = tl.load(a{k} + i, mask=inside){widen}")
    body += statements(program, TRITON[computed])
    written = [k for k in range(width) if k != 1]
    for k, name in zip(written, output_names(program), strict=True):
        narrow = "" if kept[k] == computed else f".to(tl.{kept[k]})"
        body.append(f"tl.store(a{k} + i, {name}{narrow}, mask=inside)")
    if aligned:
        step = _WIDTH // dtype.itemsize
        branches = _ALIGNED.format(step=step, body="\n".join(" " * 8 + line for line in body))
    else:
        branches = "\n".join(" " * 4 + line for line in ("inside = i < count", *body))
    lines = "\n".join(" " * 4 + line for line in prologue)
    return _TEMPLATE.format(chunk=CHUNK, prologue=lines, branches=branches)


def compiled(program: Program, dtype: torch.dtype, aligned: bool) -> Any:
    """Return the kernel of a program as Triton's function, which compiles when it is first launched.

    Raises:
        Exception: Triton is broken.
    """
    import triton

    source = kernel_source(program, dtype, aligned)
    key = interpreted(), source
    with _lock:
        if key not in _compiled:
            try:
                module = from_folder(source, f"triton {triton.__version__}")
            except Exception:  # anything may be wrong with a folder; Triton needs the lines alone
                module = in_memory(source)
            _compiled[key] = module.kernel
        return _compiled[key]


class _GpuGroup(TensorGroup):
    """The tensors of one kind within a plan."""

    def __init__(self, kernel: Any, kind: KernelKind, columns: Sequence[list[Tensor]], lanes: int) -> None:
        super().__init__(columns)
        self._kernel = kernel
        self._kind = kind
        self._scalar = np.float64 if kind.dtype == torch.float64 else np.float32
        self._stream = _stream(kind.device)
        self._count = 0
        self._given = b""
        with _on(kind.device):
            rows = chunks(self.sizes, lanes, CHUNK)
            self._count = len(rows)
            self._chunks = _copied(rows, kind.device)
            self._table = _copied(self.table, kind.device)
            self._scalars = torch.zeros(0, dtype=compute_dtype(kind.dtype), device=kind.device)
            # Compiled before anything is written, so that a failure leaves all as it was.
            kernel.warmup(self._table, self._chunks, self._scalars, grid=(1,), **OPTIONS)
        self.moved = False

    def reaches(self, grads: Sequence[Tensor]) -> bool:
        # What was copied for one stream need not be there yet for another.
        device = self._kind.device
        return set(map(_device, grads)) == {device} and _stream(device) == self._stream

    def aligned(self, addresses: Sequence[int]) -> bool:
        return not self._kind.aligned or all(address % _WIDTH == 0 for address in addresses)

    def launch(self, scalars: Floats) -> None:
        if not self._count:
            return
        with np.errstate(all="ignore"), _on(self._kind.device):
            by_lane = scalars.T if scalars.ndim == 2 else scalars
            cast = np.ascontiguousarray(by_lane, dtype=self._scalar)
            given = cast.tobytes()
            if given != self._given or self._scalars.numel() != cast.size:
                self._given, self._scalars = given, _copied(cast, self._kind.device)
            if self.moved:
                self._table = _copied(self.table, self._kind.device)
                self.moved = False
            self._kernel[(self._count,)](self._table, self._chunks, self._scalars, **OPTIONS)
        torch.autograd.graph.increment_version(self.params)


_device = operator.attrgetter("device")


def _on(device: torch.device) -> Any:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _stream(device: torch.device) -> int:
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _copied(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    # A copy from ordinary memory that needn't wait is staged at once, so the array may change thereafter.
    return torch.from_numpy(array).to(device, non_blocking=True, copy=True)
