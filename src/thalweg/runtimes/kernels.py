"""CPU kernels: Python source made from a program, compiled by Numba, kept in the user's cache folder.

A kernel is a C function of the address of its job and the number of a slot. The job says where the chunks,
the tensors' addresses and the scalars are, and gives each slot a range of chunks of its own, with a counter.
Any number of threads may run it on the same job at once, each in a slot: it takes chunks of its own range,
then of the others', so a thread that comes late, or never, does no harm; and what a thread had in its caches
at one step it finds there at the next.
"""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from thalweg.rules.program import Program
from thalweg.runtimes.printing import PYTHON, output_names, scalar_names, statements

__all__ = [
    "JOB",
    "SLOT",
    "Kernel",
    "cache_folder",
    "compiled",
    "compiled_source",
    "from_folder",
    "in_memory",
    "kernel_source",
]

JOB: dict[str, int] = {
    "kernel": 0,
    "chunks": 1,
    "table": 2,
    "scalars": 3,
    "lanes": 4,
    "slot_count": 5,
    "thread_number": 6,
    # The rest, from here on: the slots.
    "slots": 16,
}
"""Where in a job, int64 words, each thing stands: counts, addresses of contiguous arrays and of functions."""

SLOT: dict[str, int] = {"counter": 0, "begin": 1, "end": 2, "box": 3, "words": 16}
"""Where in a slot each thing stands, and how long one is: to a thread's counter no other is near."""


class Kernel(Protocol):
    """A function that Numba compiled for callers from C."""

    address: int
    ctypes: Callable[..., None]
    cache_hits: int


# Everything a kernel needs stands in its own file: the file's name is a hash of all of it, so a cached
# kernel can't be stale. Each column of the table is an alias scope of its own, since the compiler could
# not otherwise know that parameter, gradient and states never overlap, and would check or not vectorise.
_TEMPLATE = """\
from math import sqrt

from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic

SCALAR = types.{dtype}
COLUMNS = {columns}


def tagged(builder, instruction, column):
    module = builder.module
    domain = module.add_metadata([ir.MetaDataString(module, "thalweg")])
    scopes = [
        module.add_metadata([ir.MetaDataString(module, "thalweg column %d" % k), domain])
        for k in range(COLUMNS)
    ]
    instruction.set_metadata("alias.scope", module.add_metadata([scopes[column]]))
    others = [scope for k, scope in enumerate(scopes) if k != column]
    instruction.set_metadata("noalias", module.add_metadata(others))
    return instruction


def element(context, builder, args):
    pointer = builder.inttoptr(args[0], context.get_value_type(SCALAR).as_pointer())
    return builder.gep(pointer, [args[1]])


def loader(column):
    @intrinsic
    def load(typing, address, index):
        def code(context, builder, signature, args):
            return tagged(builder, builder.load(element(context, builder, args)), column)

        return SCALAR(types.int64, types.int64), code

    return load


def storer(column):
    @intrinsic
    def store(typing, address, index, value):
        def code(context, builder, signature, args):
            tagged(builder, builder.store(args[2], element(context, builder, args)), column)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, SCALAR), code

    return store


def word(kind):
    @intrinsic
    def load(typing, address, index):
        def code(context, builder, signature, args):
            pointer = builder.inttoptr(args[0], context.get_value_type(kind).as_pointer())
            return builder.load(builder.gep(pointer, [args[1]]))

        return kind(types.int64, types.int64), code

    return load


@intrinsic
def take(typing, counter):
    def code(context, builder, signature, args):
        word = ir.IntType(64)
        pointer = builder.inttoptr(args[0], word.as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(word, 1), "monotonic")

    return types.int64(types.int64), code


{accessors}
integer = word(types.int64)
number = word(types.float64)
zero = SCALAR(0)
one = SCALAR(1)


@cfunc(types.void(types.int64, types.int64), cache={cache}, error_model="numpy")
def kernel(job, slot):
    chunks = integer(job, {chunks})
    table = integer(job, {table})
    scalars = integer(job, {scalars})
    lanes = integer(job, {lanes})
    slots = integer(job, {slot_count})
    for turn in range(slots):
        place = job + 8 * ({slots} + {words} * ((slot + turn) % slots))
        end = integer(place, {end})
        at = take(place)
        while at < end:
            row = integer(chunks, 4 * at)
            lane = integer(chunks, 4 * at + 1)
            start = integer(chunks, 4 * at + 2)
            stop = integer(chunks, 4 * at + 3)
{prologue}
            for i in range(start, stop):
{body}
            at = take(place)
"""

_VERSION = "3"
_compiled: dict[str, Any] = {}
_lock = threading.RLock()
# How long a fork waits for a compilation in another thread. It may wait for the forking thread in turn, that
# of an import for instance, so not for ever; longer than any compilation takes.
_FORK_SECONDS = 30.0
_held_for_fork = False


# Numba has a lock of its own, which nobody frees in a child: only between two compilations may one be made.
def _before_fork() -> None:
    global _held_for_fork
    _held_for_fork = _lock.acquire(timeout=_FORK_SECONDS)


def _after_fork() -> None:
    if _held_for_fork:
        _lock.release()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def kernel_source(program: Program, dtype: str, *, cache: bool = True) -> str:
    """Print the kernel of a program.

    Args:
        program: a portable program.
        dtype: ``"float32"`` or ``"float64"``.
        cache: whether Numba is to keep what it compiles beside the file.
    """
    columns = len(program.inputs)
    written = [k for k in range(columns) if k != 1]
    accessors = [f"load{k} = loader({k})" for k in range(columns)]
    accessors += [f"store{k} = storer({k})" for k in written]
    prologue = [f"a{k} = integer(table, row * COLUMNS + {k})" for k in range(columns)]
    prologue += [
        f"{name} = SCALAR(number(scalars, {s} * lanes + lane))"
        for s, name in enumerate(scalar_names(program))
    ]
    body = [f"x{k} = load{k}(a{k}, i)" for k in range(columns)]
    body += statements(program, PYTHON)
    body += [f"store{k}(a{k}, i, {name})" for k, name in zip(written, output_names(program), strict=True)]
    return _TEMPLATE.format(
        dtype=dtype,
        columns=columns,
        cache=cache,
        accessors="\n".join(accessors),
        prologue="\n".join(" " * 12 + line for line in prologue),
        body="\n".join(" " * 16 + line for line in body),
        **JOB,
        **SLOT,
    )


def cache_folder() -> Path:
    """Return where kernels are kept.

    ``$THALWEG_CACHE_DIR/kernels``, else ``$XDG_CACHE_HOME/thalweg/kernels``, else
    ``~/.cache/thalweg/kernels``.
    """
    own = os.environ.get("THALWEG_CACHE_DIR")
    if own:
        return Path(own).expanduser() / "kernels"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "thalweg" / "kernels"


def compiled(program: Program, dtype: str) -> Kernel:
    """Return the kernel of a program, from memory, from the cache folder, or newly compiled.

    A folder that can't be written, or what is damaged in it, costs the compilation only.

    Raises:
        Exception: Numba is broken, or was told not to compile.
    """
    kept, unkept = (kernel_source(program, dtype, cache=cache) for cache in (True, False))
    kernel: Kernel = compiled_source(kept, unkept).kernel
    return kernel


def compiled_source(kept: str, unkept: str) -> Any:
    """Return the module of a source: from memory, from the cache folder, or newly compiled.

    Args:
        kept: source whose functions Numba keeps beside its file.
        unkept: the same without that, for where there can be no file.

    Raises:
        Exception: Numba is broken, or was told not to compile.
    """
    import numba

    if getattr(numba.config, "DISABLE_JIT", False):
        raise RuntimeError("NUMBA_DISABLE_JIT is set")
    with _lock:
        if kept not in _compiled:
            try:
                module = from_folder(kept, f"numba {numba.__version__}")
            except Exception:  # anything may be wrong with a folder; compiling needs none
                module = in_memory(unkept)
            _compiled[kept] = module
        return _compiled[kept]


def from_folder(source: str, compiler: str) -> Any:
    """Import generated source from the cache folder, where it is written if need be.

    Args:
        source: all that the module needs.
        compiler: what will compile it, with its version: part of the file's name.

    Raises:
        Exception: the folder can't be written, or something in it is damaged.
    """
    folder = cache_folder()
    path = folder / f"{_name(source, compiler)}.py"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        whole = path.read_text(encoding="utf-8") == source
    except (OSError, UnicodeDecodeError):
        whole = False
    if not whole:
        handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(source)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def in_memory(source: str) -> Any:
    """Make a module of generated source without a file; ``inspect`` finds its lines all the same."""
    name = _name(source, "memory")
    place = f"<{name}>"
    linecache.cache[place] = len(source), None, source.splitlines(keepends=True), place
    module = ModuleType(name)
    exec(compile(source, place, "exec"), module.__dict__)
    return module


def _name(source: str, compiler: str) -> str:
    tag = hashlib.blake2b(f"{_VERSION} {compiler} {source}".encode(), digest_size=12).hexdigest()
    return f"thalweg_kernel_{tag}"
