"""The GPU runtime has the eager one's bits: through Triton's interpreter, and on a GPU if there is one."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from runtimes import gpucases
from thalweg import optim, rules, runtimes
from thalweg.errors import OptionError
from thalweg.runtimes import choose, cpu, eager, gpu

pytest.importorskip("triton", reason="Triton isn't installed")

CASES = gpucases.cases()
SHAPES = [(3,), (17, 5), (), (2, 0), (1,), (1500,), (2, 1024)]
HYPER = {"lr": 0.25, "momentum": 0.5}

on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (gpu.BUILT and torch.cuda.is_available()), reason="there is no CUDA device"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("THALWEG_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(gpu, "_compiled", {})
    monkeypatch.setattr(gpu, "_trouble", None)
    return tmp_path / "kernels"


@pytest.fixture
def interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return "cpu"


@pytest.fixture
def device(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return "cuda"


def run(runtime, rule, hyper, options, params, grads, *, lanes=False, steps=None):
    """Return all columns after some steps; where tensors lie is up to the caller."""
    states = runtimes.initial_states(rule, params, hyper, options, lanes=lanes)
    cache = {}
    for t, g in enumerate(grads, 1):
        at = t if steps is None else steps + t
        runtimes.apply(rule, params, g, states, hyper, options, at, lanes=lanes, runtime=runtime, cache=cache)
    return {"p": params, **states}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        for x, y in zip(a[name], b[name], strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(gpucases.bits(x), gpucases.bits(y), err_msg=name)


def both(case, dtype, where, lanes=False, steps=None, hyper=None, shapes=SHAPES, rounds=3):
    rule, usual, options = case
    hyper = usual if hyper is None else hyper
    found = []
    for runtime, place in (("eager", "cpu"), ("gpu", where)):
        params = gpucases.tensors(1, dtype, shapes, place)
        grads = [gpucases.tensors(seed, dtype, shapes, place) for seed in range(2, 2 + rounds)]
        found.append(run(runtime, rule, hyper, options, params, grads, lanes=lanes, steps=steps))
    same(*found)


@pytest.fixture
def eagerly(monkeypatch):
    """The shapes of the tensors that went through torch operations."""
    seen = []
    real = eager.step

    def spy(program, params, *rest):
        seen.extend(tuple(p.shape) for p in params)
        real(program, params, *rest)

    monkeypatch.setattr(eager, "step", spy)
    return seen


@pytest.fixture
def launches(monkeypatch):
    """How many programs each launch had."""
    seen = []
    real = gpu.compiled

    class Counted:
        def __init__(self, kernel):
            self.kernel, self.warmup = kernel, kernel.warmup

        def __getitem__(self, grid):
            seen.append(grid[0])
            return self.kernel[grid]

    monkeypatch.setattr(gpu, "compiled", lambda *arguments: Counted(real(*arguments)))
    return seen


class TestBits:
    @pytest.mark.parametrize("case", CASES, ids=gpucases.name_of)
    def test_every_rule(self, interpreter, case):
        both(case, torch.float32, interpreter)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
    @pytest.mark.parametrize("case", CASES[::3], ids=gpucases.name_of)
    def test_other_types(self, interpreter, case, dtype):
        both(case, dtype, interpreter, rounds=2)

    @pytest.mark.parametrize("case", CASES[::3], ids=gpucases.name_of)
    def test_bfloat16(self, interpreter, case):
        # Triton's interpreter cuts bfloat16 off where a GPU rounds it (test_ptx.py): one unit in the last
        # place.
        rule, hyper, options = case
        found = []
        for runtime in ("eager", "gpu"):
            params, grads = ([torch.randn(700, generator=g).bfloat16()] for g in map(seeded, (1, 2)))
            found.append(run(runtime, rule, hyper, options, params, [grads]))
        a, b = (columns.pop("p")[0].view(torch.int16).int() for columns in found)
        assert int((a - b).abs().max()) <= 1
        same(*found)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("width", [5, 8])
    def test_lanes(self, interpreter, dtype, width):
        lr = np.array([0.1, 0.0, 1e-3])
        for case in CASES[::4]:
            both(
                case,
                dtype,
                interpreter,
                lanes=True,
                shapes=[(3, width), (3, 0), (3,), (3, 2, 700)],
                hyper={**case[1], **({"lr": lr} if "lr" in case[0].hyperparameters else {})},
                steps=np.array([0, 7, 40]) if case[0].uses_step else None,
                rounds=1,
            )

    def test_where_addresses_are_not_aligned(self, interpreter, launches):
        # one float after an aligned address, and ends that no vector reaches
        found = []
        for runtime in ("eager", "gpu"):
            whole = [torch.randn(3000, generator=seeded(seed)) for seed in (1, 2)]
            params, grads = ([x[1:1100], x[1200:2201], x[2204:2209]] for x in whole)
            found.append(run(runtime, rules.adam, {}, {}, params, [grads, grads]))
        same(*found)
        # the first by itself; the others start where 16 bytes do
        assert launches == [2, 2, 2, 2]

    def test_nothing_beside_the_tensors_is_touched(self, interpreter):
        whole = torch.zeros(4096)
        params, grads = [whole[8:1045], whole[2052:3076]], [torch.ones(1037), torch.ones(1024)]
        run("gpu", rules.sgd, {"lr": 0.5}, {}, params, [grads])
        touched = torch.zeros(4096)
        touched[8:1045] = touched[2052:3076] = -0.5
        assert torch.equal(whole, touched)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class TestPlans:
    def test_one_launch_for_all_of_a_kind(self, interpreter, launches):
        params = [torch.ones(n) for n in range(1, 100)] + [torch.ones(3, dtype=torch.float64)]
        run("gpu", rules.sgd, {}, {}, params, [[torch.ones_like(p) for p in params]] * 2)
        assert launches == [99, 1] * 2

    def test_an_empty_tensor_alone_is_no_launch(self, interpreter, launches):
        run("gpu", rules.sgd, {}, {}, [torch.ones(0, 3)], [[torch.ones(0, 3)]])
        run("gpu", rules.sgd, {}, {}, [], [[]])
        assert launches == []

    def test_only_what_a_kernel_cannot_take_goes_eagerly(self, interpreter, eagerly):
        params = [torch.ones(4), torch.ones(3, 2).T, torch.ones(5), torch.ones(8, dtype=torch.bfloat16)]
        params.append(torch.ones(6, dtype=torch.complex64))
        grads = [torch.full_like(p, 2.0) for p in params]
        grads[2] = torch.full((10,), 2.0)[::2]
        found = []
        for runtime in ("gpu", "eager"):
            own = [p.clone() for p in params[:4]]
            found.append(run(runtime, rules.sgd, HYPER, {}, own, [grads[:4]]))
            if runtime == "gpu":
                assert eagerly == [(2, 3), (5,)]
        same(*found)
        assert gpu.kind([params[4], grads[4]], 1) is None

    def test_gradients_that_move(self, interpreter, launches):
        p, whole, states, cache = torch.zeros(8), torch.ones(64), None, {}
        for t, start in enumerate((0, 0, 16, 17, 20), 1):
            states = states or runtimes.initial_states(rules.sgd, [p], HYPER, {})
            g = [whole[start : start + 8]]
            runtimes.apply(rules.sgd, [p], g, states, HYPER, {}, t, runtime="gpu", cache=cache)
            whole *= 2
        v = x = 0.0
        for t in range(5):
            v = 0.5 * v + 2.0**t
            x -= 0.25 * v
        assert p.tolist() == [x] * 8
        assert len(launches) == 5
        assert sum(isinstance(key, tuple) for key in cache) == 1  # plans; scalars are kept under a name

    def test_scalars_follow_the_step(self, interpreter):
        p, cache = torch.zeros(4), {}
        states = {}
        for t, lr in enumerate((0.5, 0.5, 0.25), 1):
            g = [torch.ones(4)]
            runtimes.apply(rules.sgd, [p], g, states, {"lr": lr}, {}, t, runtime="gpu", cache=cache)
        assert p.tolist() == [-1.25] * 4

    def test_autograd_notices_the_step(self, interpreter):
        p = torch.ones(3, requires_grad=True)
        loss = (p * p).sum()
        run("gpu", rules.sgd, {}, {}, [p], [[torch.ones(3)]])
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


class TestSource:
    def test_it_is_kept_under_a_hash(self, interpreter, folder):
        for rule in (rules.sgd, rules.momentum, rules.sgd):
            run("gpu", rule, {}, {}, [torch.ones(2)], [[torch.ones(2)]])
        files = sorted(path.suffix for path in folder.iterdir() if path.is_file())
        assert files == [".py", ".py"]

    def test_a_folder_that_cannot_be(self, interpreter, folder, monkeypatch):
        folder.parent.joinpath("file").write_text("in the way")
        monkeypatch.setenv("THALWEG_CACHE_DIR", str(folder.parent / "file"))
        p = [torch.ones(3)]
        run("gpu", rules.sgd, {"lr": 0.25}, {}, p, [[torch.ones(3)]])
        assert p[0].tolist() == [0.75] * 3


class TestFallingBack:
    @pytest.fixture
    def as_if_cuda(self, interpreter, monkeypatch):
        """CPU tensors count as a GPU's where runtimes are chosen."""
        monkeypatch.setattr(gpu, "BUILT", True)
        monkeypatch.setattr(choose, "_is_cuda", lambda tensor: True)

    @pytest.fixture
    def absent(self, monkeypatch):
        find = gpu.importlib.util.find_spec
        monkeypatch.setattr(
            gpu.importlib.util, "find_spec", lambda name: None if name == "triton" else find(name)
        )

    def test_auto_takes_kernels(self, as_if_cuda, eagerly, launches):
        p = [torch.nn.Parameter(torch.ones(3))]
        p[0].grad = torch.ones(3)
        optim.Adam(p, lr=0.5).step()
        assert (eagerly, launches) == ([], [1])

    def test_without_triton(self, as_if_cuda, absent, eagerly, caplog):
        with caplog.at_level(logging.WARNING, logger="thalweg"):
            found = run("auto", rules.sgd, HYPER, {}, [torch.zeros(2)], [[torch.ones(2)]] * 2)
        assert found["p"][0].tolist() == [-0.625] * 2
        assert eagerly == [(2,)] * 2
        (record,) = caplog.records
        assert (
            "on the GPU run eagerly, which is slower: Triton isn't installed (pip install" in record.message
        )
        assert "gpu" not in runtimes.available()
        assert "no GPU kernels: Triton isn't installed" in runtimes.describe()
        with pytest.raises(OptionError, match="runtime is 'gpu', but there are no GPU kernels: Triton isn't"):
            run("gpu", rules.sgd, {}, {}, [torch.zeros(2)], [[torch.ones(2)]])

    def test_a_kernel_that_does_not_compile(self, as_if_cuda, eagerly, caplog, monkeypatch):
        class Broken:
            def warmup(self, *_, **__):
                raise RuntimeError("PTX assembly aborted")

        monkeypatch.setattr(gpu, "compiled", lambda *_: Broken())
        with caplog.at_level(logging.WARNING, logger="thalweg"):
            found = run("auto", rules.sgd, HYPER, {}, [torch.zeros(2)], [[torch.ones(2)]] * 2)
        assert found["p"][0].tolist() == [-0.625] * 2
        assert eagerly == [(2,)] * 2
        (record,) = caplog.records
        assert "Triton failed to compile a kernel (RuntimeError: PTX assembly aborted)" in record.message
        assert "PTX assembly aborted" in runtimes.describe()

    def test_without_a_gpu(self, monkeypatch):
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        monkeypatch.setattr(gpu, "BUILT", False)
        assert "gpu" not in runtimes.available()
        assert "no GPU kernels: there is no NVIDIA GPU" in runtimes.describe()
        with pytest.raises(OptionError, match="there are no GPU kernels: there is no NVIDIA GPU"):
            run("gpu", rules.sgd, {}, {}, [torch.zeros(2)], [[torch.ones(2)]])

    @pytest.mark.skipif(not cpu.usable(), reason="Numba isn't installed")
    def test_a_cpu_tensor_is_not_interpreted_unasked(self, interpreter, launches, eagerly):
        assert runtimes.available()[0] == "gpu"
        assert ", interpreted on the CPU, kept in " in runtimes.describe()
        run("auto", rules.sgd, {}, {}, [torch.zeros(2)], [[torch.ones(2)]])
        assert (launches, eagerly) == ([], [])


class TestOnAGpu:
    pytestmark = on_a_gpu

    @pytest.mark.parametrize("case", CASES, ids=gpucases.name_of)
    def test_every_rule_has_the_bits_of_the_cpu(self, device, case):
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
            both(case, dtype, device)

    def test_lanes(self, device):
        hyper = {"lr": np.array([0.1, 0.0, 1e-3])}
        for width in (5, 8):
            shapes = [(3, width), (3, 0), (3,), (3, 2, 700)]
            case = rules.adam, {}, {}
            both(case, torch.float32, device, True, np.array([0, 7, 40]), hyper, shapes)

    def test_eager_operations_on_the_gpu_agree(self, device):
        found = []
        for runtime in ("eager", "gpu"):
            params, grads = (gpucases.tensors(seed, torch.float32, SHAPES, device) for seed in (1, 2))
            found.append(run(runtime, rules.adamw, {}, {}, params, [grads] * 3))
        same(*found)

    def test_auto_takes_it(self, device, eagerly, launches):
        model = torch.nn.Linear(40, 30, device=device)
        optimizer = optim.AdamW(model.parameters())
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(8, 40, device=device)).square().sum().backward()
            optimizer.step()
        assert eagerly == []
        assert len(launches) == 3
        assert runtimes.available()[0] == "gpu"

    def test_another_stream(self, device):
        found = []
        for runtime, place in (("eager", "cpu"), ("gpu", device)):
            params = [torch.zeros(200_000, device=place)]
            states, cache = runtimes.initial_states(rules.adam, params, {}, {}), {}
            side = torch.cuda.Stream() if place == "cuda" else None
            for t in range(1, 9):
                with torch.cuda.stream(side if t % 2 else None):
                    g = [torch.full((200_000,), float(t), device=place)]
                    runtimes.apply(rules.adam, params, g, states, {}, {}, t, runtime=runtime, cache=cache)
                if side is not None:
                    torch.cuda.synchronize()
            found.append({"p": params, **states})
        same(*found)
