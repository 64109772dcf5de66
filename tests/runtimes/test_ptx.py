"""What the GPU runtime's kernels become, compiled ahead of time for named GPUs: no GPU is needed."""

from __future__ import annotations

import re

import pytest
import torch

from runtimes import gpucases
from thalweg import rules
from thalweg.runtimes import gpu, kernels, printing

triton = pytest.importorskip("triton", reason="Triton isn't installed")

CASES = gpucases.cases()
HALVES = [torch.float16, torch.bfloat16]
ARCHITECTURES = [80, 90]


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("THALWEG_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(gpu, "_compiled", {})


def compiled(program, dtype, aligned, architecture):
    return translated(gpu.compiled(program, dtype, aligned), dtype, architecture, gpu.OPTIONS)


def translated(kernel, dtype, architecture, options):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    scalars = "*fp64" if dtype == torch.float64 else "*fp32"
    source = ASTSource(kernel, {"table": "*i64", "chunks": "*i64", "scalars": scalars})
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options).asm


def check_arithmetic(ptx, program, dtype):
    """Every operation is rounded once, to the nearest, in the compute type."""
    own, other = ("f64", "f32") if dtype == torch.float64 else ("f32", "f64")
    for loose in ("approx", ".ftz", "div.full", "rcp.", "rsqrt", "fma.", f".{other}"):
        assert loose not in ptx, loose
    # what has no rounding written to it may be contracted later on
    assert not re.search(r"\b(add|sub|mul|mad|fma|div|sqrt)\.f\d", ptx)
    assert not re.search(r"\b(min|max)\.(\w+\.)*f\d", ptx)
    operations = {instruction.op for instruction in program.instructions}
    assert ("div" in operations) == (f"div.rn.{own}" in ptx)
    assert ("sqrt" in operations) == (f"sqrt.rn.{own}" in ptx)


@pytest.mark.parametrize(("at", "case"), list(enumerate(CASES)), ids=list(map(gpucases.name_of, CASES)))
def test_every_rule(at, case):
    program = gpucases.program_of(*case)
    ptx = compiled(program, torch.float32, True, ARCHITECTURES[at % 2])["ptx"]
    check_arithmetic(ptx, program, torch.float32)
    used = {number for instruction in program.instructions for number in instruction.args}
    read = (used | set(program.outputs)) & set(range(len(program.inputs)))
    # 1024 elements are two vectors for each of 128 threads
    assert ptx.count("ld.global.v4.b32") == 2 * len(read)
    assert ptx.count("st.global.v4.b32") == 2 * len(program.outputs)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES])
def test_every_type(dtype, aligned, architecture):
    program = gpucases.program_of(rules.adam, {"weight_decay": 0.1}, {"amsgrad": True})
    ptx = compiled(program, dtype, aligned, architecture)["ptx"]
    check_arithmetic(ptx, program, dtype)
    vector = "v2.b64" if dtype == torch.float64 else "v4.b32"
    if not aligned:
        assert not re.search(r"(ld|st)\.global\.v\d", ptx)
    elif dtype in HALVES:  # parameter and gradient are one vector each, and the three states two
        assert ptx.count(f"ld.global.{vector}") == 8
        assert ptx.count(f"st.global.{vector}") == 7
    else:
        each = 4 if dtype == torch.float64 else 2
        assert ptx.count(f"ld.global.{vector}") == 5 * each
        assert ptx.count(f"st.global.{vector}") == 4 * each
    if dtype in HALVES:
        short = {torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
        conversions = set(re.findall(r"\bcvt\.[\w.]*f16\w*\.f32", ptx))
        assert conversions
        assert conversions <= {f"cvt.rn.{short}.f32", f"cvt.rn.{short}x2.f32"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code_of_a_rule_without_division(architecture):
    # a division's own code has multiply-adds in it, so only here their absence says something
    program = gpucases.program_of(rules.sgd, {"momentum": 0.9, "weight_decay": 0.1}, {"nesterov": True})
    machine = compiled(program, torch.float32, True, architecture)["sass"]
    assert "FFMA" not in machine
    assert "DADD" not in machine
    assert "FMUL" in machine
    assert "FADD" in machine
    assert "LDG.E.128" in machine
    assert "STG.E.128" in machine


def test_what_is_refused_above_is_what_triton_does_by_itself(monkeypatch):
    """The plain spellings, without hints and with Triton's own options."""
    spelled = {**printing.TRITON["float32"], "div": "{} / {}", "sqrt": "tl.sqrt({})"}
    monkeypatch.setattr(gpu, "TRITON", {"float32": spelled})
    source = gpu.kernel_source(gpucases.program_of(rules.adam, {}, {}), torch.float32, True)
    kernel = kernels.in_memory(re.sub(r"tl\.multiple_of\((\w+), 16\)", r"\1", source)).kernel
    ptx = translated(kernel, torch.float32, 80, {"num_warps": 4})["ptx"]
    assert "div.full.f32" in ptx
    assert "sqrt.approx" in ptx
    assert "fma.rn.f32" in ptx
    assert "ld.global.v4" not in ptx


def test_compiling_before_the_first_launch(monkeypatch):
    """What the runtime asks of Triton while it makes a plan, for a GPU that isn't there."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Absent:
        def get_current_target(self):
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self):
            return 0

        def get_current_stream(self, device):
            return 0

    before = driver._active
    driver.set_active(Absent())
    try:
        program = gpucases.program_of(rules.adam, {}, {})
        columns = [[torch.zeros(4)] for _ in program.inputs]
        kind = gpu.KernelKind(torch.device("cpu"), torch.float32, True)
        gpu.group(program, kind, columns, 1)
        kernel = gpu.compiled(program, torch.float32, True)
        (made,) = kernel.device_caches[0][0].values()
        # the launch, with as many scalars as there are, finds what was compiled without any
        arguments = [torch.zeros(n, dtype=torch.int64) for n in (8, 8)] + [torch.zeros(6)]
        assert kernel.warmup(*arguments, grid=(7,), **gpu.OPTIONS) is made
        check_arithmetic(made.asm["ptx"], program, torch.float32)
    finally:
        driver._active = before
