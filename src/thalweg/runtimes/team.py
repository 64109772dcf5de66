"""Threads that share a job's work with the caller, and the one call that a step makes.

Where torch's own threads are GNU OpenMP's, a job runs on those: after a backward pass they wait for the
next parallel operation, wide awake, and any other thread would have to fight for a core with them. Where
there are none, as on macOS, or where they are dead, as in a forked child, threads of our own do it. Such a
thread sleeps on a lock of the interpreter's in compiled code and never comes back to Python: waking it,
sharing out work and waiting for it need neither the interpreter nor its global lock, whose code and data a
step that swept through memory has driven far from the processor.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thalweg.runtimes.kernels import JOB, SLOT, compiled_source
from thalweg.runtimes.plans import Integers

__all__ = ["run"]

# What a thread and its callers share: the job that waits for it with its slot there, and whether it is done
# (each with a cache line of its own); two locks, one that it sleeps on, and one that a caller sleeps on who
# waits for it; and the interpreter's functions for locks, which need no more than that.
_BOX = {"job": 0, "slot": 1, "done": 16, "wake": 32, "finished": 33, "acquire": 34, "release": 35}
_BOX_WORDS = 48
# Looks at "done" before going to sleep: about a tenth of a millisecond, more than a chunk takes and less than
# is lost with a thread that must be woken.
_PATIENCE = 100_000

_SOURCE = """\
from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic

I64 = types.int64


def place(builder, args):
    pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
    return builder.gep(pointer, [args[1]])


@intrinsic
def read(typing, address, index):
    def code(context, builder, signature, args):
        return builder.load_atomic(place(builder, args), "acquire", 8)

    return I64(I64, I64), code


@intrinsic
def write(typing, address, index, value):
    def code(context, builder, signature, args):
        builder.store_atomic(args[2], place(builder, args), "release", 8)
        return context.get_dummy_value()

    return types.void(I64, I64, I64), code


@intrinsic
def exchange(typing, address, index, value):
    def code(context, builder, signature, args):
        return builder.atomic_rmw("xchg", place(builder, args), args[2], "acq_rel")

    return I64(I64, I64, I64), code


@intrinsic
def call(typing, function, argument):
    def code(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
        return context.get_dummy_value()

    return types.void(I64, I64), code


@intrinsic
def work(typing, kernel, job, slot):
    def code(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64), ir.IntType(64)])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(I64, I64, I64), code


@intrinsic
def wait(typing, function, lock):
    def code(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(64), ir.IntType(32)])
        forever = ir.Constant(ir.IntType(32), 1)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1], forever])
        return context.get_dummy_value()

    return types.void(I64, I64), code


@intrinsic
def ask(typing, function):
    def code(context, builder, signature, args):
        kind = ir.FunctionType(ir.IntType(32), [])
        answer = builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return builder.zext(answer, ir.IntType(64))

    return I64(I64), code


@intrinsic
def parallel(typing, function, task, argument, threads):
    def code(context, builder, signature, args):
        word, half = ir.IntType(64), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [word, word, half, half])
        number = builder.trunc(args[3], half)
        builder.call(
            builder.inttoptr(args[0], kind.as_pointer()), [args[1], args[2], number, ir.Constant(half, 0)]
        )
        return context.get_dummy_value()

    return types.void(I64, I64, I64, I64), code


@njit(types.void(I64), cache={cache})
def begin(job):
    for k in range(read(job, {slot_count})):
        slot = job + 8 * ({slots} + {words} * k)
        write(slot, {counter}, read(slot, {begin}))


@cfunc(types.void(I64), cache={cache})
def share(job):
    work(read(job, {kernel}), job, ask(read(job, {thread_number})) % read(job, {slot_count}))


@cfunc(types.void(I64, I64, I64), cache={cache})
def conduct_openmp(job, fork_and_join, task):
    begin(job)
    parallel(fork_and_join, task, job, read(job, {slot_count}))


@cfunc(types.void(I64, I64), cache={cache})
def conduct(job, count):
    begin(job)
    for k in range(1, count + 1):
        box = read(job, {slots} + {words} * k + {box})
        write(box, {done}, 0)
        write(box, {slot}, k)
        write(box, {job}, job)
        call(read(box, {release}), read(box, {wake}))
    work(read(job, {kernel}), job, 0)
    for k in range(1, count + 1):
        box = read(job, {slots} + {words} * k + {box})
        if exchange(box, {job}, 0) == 0:
            patience = {patience}
            while patience > 0 and read(box, {done}) == 0:
                patience -= 1
            wait(read(box, {acquire}), read(box, {finished}))


@cfunc(types.void(I64), cache={cache})
def serve(box):
    job = 1
    while job >= 0:
        wait(read(box, {acquire}), read(box, {wake}))
        job = exchange(box, {job}, 0)
        if job > 0:
            work(read(job, {kernel}), job, read(box, {slot}))
            write(box, {done}, 1)
            call(read(box, {release}), read(box, {finished}))
"""


def _program() -> Any:
    places = {**JOB, **SLOT, **_BOX, "patience": _PATIENCE}
    return compiled_source(_SOURCE.format(cache=True, **places), _SOURCE.format(cache=False, **places))


class _Worker:
    """A thread, and the box through which it gets its jobs."""

    def __init__(self, program: Any) -> None:
        api = ctypes.pythonapi
        allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", api))
        acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(
            ("PyThread_acquire_lock", api)
        )
        self._box = box = np.zeros(_BOX_WORDS, dtype=np.int64)
        self.address = box.ctypes.data
        for name, function in (("acquire", acquire), ("release", api.PyThread_release_lock)):
            box[_BOX[name]] = ctypes.cast(function, ctypes.c_void_p).value or 0
        for name in ("wake", "finished"):
            lock = allocate()
            acquire(lock, 1)
            box[_BOX[name]] = lock
        # The interpreter doesn't wait for a daemon when it ends, and this one never asks for anything of it.
        threading.Thread(
            target=program.serve.ctypes, args=(self.address,), name="thalweg", daemon=True
        ).start()


class _Team:
    """The threads of this process."""

    def __init__(self) -> None:
        self.program = _program()
        # A box must outlive its thread, which lives as long as the process.
        self.everyone: list[_Worker] = []
        # Appending and popping are indivisible: callers in several threads share out what is there.
        self.idle: list[_Worker] = []

    def take(self, wanted: int) -> list[_Worker]:
        taken: list[_Worker] = []
        while len(taken) < wanted:
            try:
                taken.append(self.idle.pop())
            except IndexError:
                if len(self.everyone) >= (os.cpu_count() or 1):
                    break
                try:
                    worker = _Worker(self.program)
                except RuntimeError:  # the interpreter is shutting down, or the system has no more threads
                    break
                self.everyone.append(worker)
                taken.append(worker)
        return taken

    def run(self, job: Integers) -> None:
        workers = self.take(int(job[JOB["slot_count"]]) - 1)
        try:
            for k, worker in enumerate(workers, 1):
                job[JOB["slots"] + SLOT["words"] * k + SLOT["box"]] = worker.address
            self.program.conduct.ctypes(job.ctypes.data, len(workers))
        finally:
            self.idle += reversed(workers)  # so that each has the same slot the next time


class _OpenMP:
    """Torch's threads, by the functions with which a compiler would use them."""

    def __init__(self) -> None:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        self.fork_and_join, self.thread_number = (
            ctypes.cast(function, ctypes.c_void_p).value or 0
            for function in (library.GOMP_parallel, library.omp_get_thread_num)
        )
        self.program = _program()

    def run(self, job: Integers) -> None:
        job[JOB["thread_number"]] = self.thread_number
        self.program.conduct_openmp.ctypes(job.ctypes.data, self.fork_and_join, self.program.share.address)


def _openmp() -> _OpenMP | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return _OpenMP()
    except (AttributeError, OSError):  # torch was built without
        return None


_threads: _OpenMP | _Team | None = None
_forked = False


def _forget() -> None:
    # A child that was forked has none of its parent's threads, and OpenMP doesn't know.
    global _threads, _forked
    _threads, _forked = None, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def run(job: Integers) -> None:
    """Run a job's kernel in this thread, and in others beside it as far as there are idle ones.

    Args:
        job: laid out as :data:`~thalweg.runtimes.kernels.JOB` says, with a slot for each thread.
    """
    global _threads
    threads = _threads
    if threads is None:
        threads = _threads = (None if _forked else _openmp()) or _Team()
    threads.run(job)
