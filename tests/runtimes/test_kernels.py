"""The cache folder, a second process, threads, and forked children."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from thalweg import rules, runtimes
from thalweg.runtimes import kernels

pytestmark = pytest.mark.skipif("cpu" not in runtimes.available(), reason="Numba isn't installed")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("THALWEG_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "_compiled", {})
    return tmp_path / "kernels"


def descend():
    p = torch.ones(5)
    runtimes.apply(rules.sgd, [p], [torch.full((5,), 2.0)], {}, {"lr": 0.25}, {}, 1, runtime="cpu")
    return p.tolist()


def files(folder):
    # what Python keeps of a source it has imported depends on how Python was started
    found = (path.suffix for path in folder.rglob("*") if path.is_file())
    return sorted(suffix for suffix in found if suffix != ".pyc")


def test_where_kernels_are_kept(monkeypatch):
    monkeypatch.setenv("THALWEG_CACHE_DIR", "/a")
    assert kernels.cache_folder() == Path("/a/kernels")
    monkeypatch.delenv("THALWEG_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert kernels.cache_folder() == Path("/b/thalweg/kernels")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert kernels.cache_folder() == Path.home() / ".cache" / "thalweg" / "kernels"


def test_source_and_machine_code_are_kept(folder, monkeypatch):
    assert descend() == [0.5] * 5
    assert files(folder) == [".nbc", ".nbi", ".py"]
    monkeypatch.setattr(kernels, "_compiled", {})
    assert descend() == [0.5] * 5
    assert files(folder) == [".nbc", ".nbi", ".py"]
    assert next(iter(kernels._compiled.values())).kernel.cache_hits


def test_a_changed_rule_is_another_file(folder):
    for sign in (1, -1):
        rule = rules.as_rule((lambda p, g: p - g) if sign == 1 else (lambda p, g: p + g))
        p = torch.zeros(2)
        runtimes.apply(rule, [p], [torch.ones(2)], {}, {}, {}, 1, runtime="cpu")
        assert p.tolist() == [-sign, -sign]
    assert len(list(folder.glob("*.py"))) == 2


@pytest.mark.parametrize("suffix", [".py", ".nbi", ".nbc"])
def test_damaged_files_do_no_harm(folder, monkeypatch, suffix):
    descend()
    for path in folder.rglob(f"*{suffix}"):
        path.write_bytes(path.read_bytes()[:40])
    monkeypatch.setattr(kernels, "_compiled", {})
    assert descend() == [0.5] * 5


def test_a_folder_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("THALWEG_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(kernels, "_compiled", {})
    assert descend() == [0.5] * 5
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernels.os, "replace", full)
    assert descend() == [0.5] * 5
    assert files(folder) == []


def test_kernels_are_vectorised(folder):
    program = rules.trace(rules.rmsprop, {"centered": True}, frozenset({"weight_decay"}))
    kernel = kernels.compiled(program, "float32")
    assembly = kernel._library.get_asm_str()
    packed = ("sqrtps", "fsqrt\tv", "fsqrt.4s")
    assert any(word in assembly for word in packed)
    assert "vfmadd" not in assembly


def run_python(code, **environment):
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


SECOND = """
import torch
from thalweg import rules, runtimes
from thalweg.runtimes import kernels
p = torch.ones(5)
runtimes.apply(rules.sgd, [p], [torch.full((5,), 2.0)], {}, {"lr": 0.25}, {}, 1, runtime="cpu")
(module,) = kernels._compiled.values()
print(p[0].item(), module.kernel.cache_hits)
"""


def test_the_second_process_compiles_nothing(folder):
    assert descend() == [0.5] * 5
    assert not next(iter(kernels._compiled.values())).kernel.cache_hits
    assert run_python(SECOND) == ["0.5", "1"]


FORKED = """
import os
import numpy as np, torch
from thalweg import rules, runtimes
torch.set_num_threads(2)
# Made before the fork and by NumPy: torch's own operations on two threads hang in a forked child.
p, g, m, v = (torch.from_numpy(np.full(500_000, x, dtype=np.float32)) for x in (0, 1, 0, 0))
states, cache = {"exp_avg": [m], "exp_avg_sq": [v]}, {}
def step(t):
    runtimes.apply(rules.adam, [p], [g], states, {"lr": 0.5}, {}, t, runtime="cpu", cache=cache)
    return np.unique(np.round(p.numpy(), 4)).tolist()
first = step(1)
child = os.fork()
if child == 0:
    os._exit(0 if step(2) == [-1.0] else 1)
_, status = os.waitpid(child, 0)
print(*first, os.waitstatus_to_exitcode(status), *step(2))
"""


def test_a_forked_child_steps():
    assert run_python(FORKED) == ["-0.5", "0", "-1.0"]


FORKED_WHILE_COMPILING = """
import os, signal, threading
import torch
from numba.core.compiler_lock import global_compiler_lock
from thalweg import rules, runtimes
from thalweg.runtimes import kernels
torch.set_num_threads(1)
def step(rule):
    p = torch.ones(5)
    runtimes.apply(rule, [p], [torch.full((5,), 2.0)], {}, {"lr": 0.25}, {}, 1, runtime="cpu")
    return p.tolist()
step(rules.sgd)
compiling, forking = threading.Event(), threading.Event()
def compile():
    with kernels._lock, global_compiler_lock:  # what a compilation holds
        compiling.set()
        forking.wait()
        forking.clear()
        forking.wait(0.5)  # nobody sets it: long enough for a fork that doesn't wait
thread = threading.Thread(target=compile)
thread.start()
compiling.wait()
os.register_at_fork(before=forking.set)  # called before the package's own
child = os.fork()
if child == 0:
    signal.alarm(60)
    os._exit(0 if step(rules.as_rule(lambda p, g, *, lr=1.0: p + lr * g)) == [1.5] * 5 else 1)
_, status = os.waitpid(child, 0)
thread.join()
print(os.waitstatus_to_exitcode(status), *step(rules.as_rule(lambda p, g, *, lr=1.0: p - 2 * lr * g))[:1])
"""


def test_a_fork_waits_for_a_compilation_in_another_thread(folder):
    assert run_python(FORKED_WHILE_COMPILING) == ["0", "0.0"]


FORKED_WHILE_STEPPING = """
import os, signal
import numpy as np, torch
from thalweg import rules, runtimes
from thalweg.runtimes import team
torch.set_num_threads(2)
p, g = (torch.from_numpy(np.full(500_000, x, dtype=np.float32)) for x in (0, 1))
def step():
    runtimes.apply(rules.sgd, [p], [g], {}, {"lr": 0.5}, {}, 1, runtime="cpu")
    return np.unique(p.numpy()).tolist()
team._threads = team._Team()
step()
(helper,) = team._threads.take(1)  # as a step in another thread would
child = os.fork()
if child == 0:
    signal.alarm(60)
    right = step() == [-1.0]
    os._exit(0 if right and helper not in team._threads.everyone and team._threads.idle else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), *step())
"""


def test_a_fork_while_another_thread_steps(folder):
    assert run_python(FORKED_WHILE_STEPPING) == ["0", "-1.0"]


EXITING = """
import atexit, torch
from thalweg import rules, runtimes
torch.set_num_threads(2)
p, g = [torch.zeros(500_000)], [torch.ones(500_000)]
def step():
    runtimes.apply(rules.sgd, p, g, {}, {"lr": 0.5}, {}, 1, runtime="cpu")
    print(p[0].min().item(), p[0].max().item(), flush=True)
atexit.register(step)
step()
"""


def test_a_step_while_the_interpreter_exits():
    assert run_python(EXITING) == ["-0.5", "-0.5", "-1.0", "-1.0"]


def test_several_threads_step_at_once():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    failures = []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        p = [torch.randn(200_000, generator=generator)]
        twin = [p[0].clone()]
        states = runtimes.initial_states(rules.adam, p, {}, {})
        twin_states = runtimes.initial_states(rules.adam, twin, {}, {})
        cache = {}
        for t in range(1, 11):
            g = [torch.randn(200_000, generator=generator)]
            runtimes.apply(rules.adam, p, g, states, {}, {}, t, runtime="cpu", cache=cache)
            runtimes.apply(rules.adam, twin, g, twin_states, {}, {}, t, runtime="eager")
        if not np.array_equal(p[0].numpy(), twin[0].numpy()):
            failures.append(seed)

    try:
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert not any(worker.is_alive() for worker in workers)
        assert failures == []
    finally:
        torch.set_num_threads(before)
