"""CPU kernels: Python source made from a program, compiled by Numba, kept in the user's cache folder.

A kernel walks over a table of chunks. Any number of threads may run it on the same table at once: each
takes the next chunk from a shared counter, so a thread that comes late, or never, does no harm.
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
from typing import Any

from thalweg.rules.program import Program
from thalweg.runtimes.printing import PYTHON, output_names, scalar_names, statements

__all__ = ["cache_folder", "compiled", "from_folder", "in_memory", "kernel_source"]

Kernel = Callable[..., None]

# Everything a kernel needs stands in its own file: the file's name is a hash of all of it, so a cached
# kernel can't be stale. Each column of the table is an alias scope of its own, since the compiler could
# not otherwise know that parameter, gradient and states never overlap, and would check or not vectorise.
_TEMPLATE = """\
from math import sqrt

from llvmlite import ir
from numba import njit, types
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


@intrinsic
def take(typing, counter):
    def code(context, builder, signature, args):
        word = ir.IntType(64)
        pointer = builder.inttoptr(args[0], word.as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(word, 1), "monotonic")

    return types.int64(types.int64), code


{accessors}
zero = SCALAR(0)
one = SCALAR(1)


@njit(
    types.void(types.int64[:, ::1], types.int64[:, ::1], SCALAR[:, ::1], types.int64),
    nogil=True,
    cache={cache},
    error_model="numpy",
)
def kernel(table, chunks, scalars, counter):
    at = take(counter)
    while at < chunks.shape[0]:
        row = chunks[at, 0]
        lane = chunks[at, 1]
        start = chunks[at, 2]
        stop = chunks[at, 3]
{prologue}
        for i in range(start, stop):
{body}
        at = take(counter)
"""

_VERSION = "2"
_compiled: dict[str, Kernel] = {}
_lock = threading.Lock()


def _fresh_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_lock)


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
    prologue = [f"a{k} = table[row, {k}]" for k in range(columns)]
    prologue += [f"{name} = scalars[{s}, lane]" for s, name in enumerate(scalar_names(program))]
    body = [f"x{k} = load{k}(a{k}, i)" for k in range(columns)]
    body += statements(program, PYTHON)
    body += [f"store{k}(a{k}, i, {name})" for k, name in zip(written, output_names(program), strict=True)]
    return _TEMPLATE.format(
        dtype=dtype,
        columns=columns,
        cache=cache,
        accessors="\n".join(accessors),
        prologue="\n".join(" " * 8 + line for line in prologue),
        body="\n".join(" " * 12 + line for line in body),
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
    import numba

    if getattr(numba.config, "DISABLE_JIT", False):
        raise RuntimeError("NUMBA_DISABLE_JIT is set")
    source = kernel_source(program, dtype)
    with _lock:
        if source not in _compiled:
            try:
                module = from_folder(source, f"numba {numba.__version__}")
            except Exception:  # anything may be wrong with a folder; compiling needs none
                module = in_memory(kernel_source(program, dtype, cache=False))
            _compiled[source] = module.kernel
        return _compiled[source]


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
