"""What falls back to eager, what is kept from step to step, and what happens without Numba."""

from __future__ import annotations

import logging

import pytest
import torch

from thalweg import rules, runtimes
from thalweg.errors import OptionError
from thalweg.runtimes import cpu, eager

needs_numba = pytest.mark.skipif("cpu" not in runtimes.available(), reason="Numba isn't installed")
HYPER = {"lr": 0.25, "momentum": 0.5}


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


def step(params, grads, cache=None, t=1, states=None, **more):
    if states is None:
        states = runtimes.initial_states(rules.sgd, params, HYPER, {})
    runtimes.apply(rules.sgd, params, grads, states, HYPER, {}, t, cache=cache, **more)
    return states


@needs_numba
def test_only_what_a_kernel_cannot_take_goes_eagerly(eagerly):
    transposed = torch.ones(3, 2).T
    params = [torch.ones(4), transposed, torch.ones(5), torch.ones(6, dtype=torch.float64), torch.ones(7)]
    params.append(torch.ones(8, dtype=torch.bfloat16))
    grads = [torch.full_like(p, 2.0) for p in params]
    grads[2] = torch.full((10,), 2.0)[::2]
    grads[4] = grads[4].double()
    cache = {}
    states = step(params, grads, cache)
    step(params, grads, cache, 2, states)
    assert eagerly == [(2, 3), (5,), (7,), (8,)] * 2
    for p, v in zip(params, states["momentum_buffer"], strict=True):
        torch.testing.assert_close(p, torch.full_like(p, 1 - 0.25 * 2 - 0.25 * 3))
        torch.testing.assert_close(v, torch.full_like(v, 3.0))
    assert states["momentum_buffer"][5].dtype == torch.float32
    assert params[1].stride() == (1, 2)


@needs_numba
def test_a_subclass_goes_eagerly(eagerly):
    class Wrapped(torch.Tensor):
        pass

    p = torch.ones(3).as_subclass(Wrapped)
    step([p], [torch.ones(3)])
    assert eagerly == [(3,)]
    step([torch.nn.Parameter(torch.ones(3))], [torch.ones(3)])
    assert eagerly == [(3,)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    p = torch.randn(50, generator=torch.Generator().manual_seed(0)).to(dtype)
    g = torch.randn(50, generator=torch.Generator().manual_seed(1)).to(dtype)
    wide = p.float()
    states = runtimes.initial_states(rules.adam, [p], {}, {})
    assert {tensors[0].dtype for tensors in states.values()} == {torch.float32}
    wide_states = runtimes.initial_states(rules.adam, [wide], {}, {})
    runtimes.apply(rules.adam, [p], [g], states, {"lr": 0.1}, {}, 1)
    runtimes.apply(rules.adam, [wide], [g.float()], wide_states, {"lr": 0.1}, {}, 1)
    assert torch.equal(p, wide.to(dtype))
    assert torch.equal(states["exp_avg_sq"][0], wide_states["exp_avg_sq"][0])


def test_the_second_moment_falls_in_bfloat16():
    p = torch.zeros(1, dtype=torch.bfloat16)
    states = runtimes.initial_states(rules.adam, [p], {}, {})
    states["exp_avg_sq"][0].fill_(1.0)
    for t in range(1, 1001):
        runtimes.apply(rules.adam, [p], [torch.zeros_like(p)], states, {}, {}, t)
    assert states["exp_avg_sq"][0].item() == pytest.approx(0.999**1000, rel=1e-4)


@needs_numba
def test_plans_follow_tensors_that_move(eagerly):
    p, cache = torch.nn.Parameter(torch.zeros(4)), {}
    states = step([p], [torch.ones(4)], cache)
    old = p.data
    p.data = torch.zeros(4)  # another address
    step([p], [torch.ones(4)], cache, 2, states)
    assert torch.equal(old, torch.full((4,), -0.25))
    torch.testing.assert_close(p.data, torch.full((4,), -0.25 * 1.5))
    states = {"momentum_buffer": [torch.full((4,), 8.0)]}  # another state
    step([p], [torch.zeros(4)], cache, 3, states)
    assert states["momentum_buffer"][0].tolist() == [4.0] * 4
    p.data = p.data.double()  # another type
    before = p.detach().clone()
    step([p], [torch.ones(4)], cache, 4, states)
    assert eagerly == [(4,)]
    torch.testing.assert_close(p.detach(), before - 0.25 * 3.0)
    assert sum(isinstance(key, tuple) for key in cache) == 1  # plans; scalars are kept under a name


@needs_numba
def test_gradients_of_another_kind_are_noticed(eagerly):
    p, cache = torch.zeros(4), {}
    states = step([p], [torch.ones(4)], cache)
    step([p], [torch.ones(8)[::2]], cache, 2, states)
    step([p], [torch.ones(4, dtype=torch.float64)], cache, 3, states)
    step([p], [torch.ones(4)], cache, 4, states)
    assert eagerly == [(4,), (4,)]
    v = [1.0, 1.5, 1.75, 1.875]
    torch.testing.assert_close(p, torch.full((4,), -0.25 * sum(v)))


@needs_numba
def test_gradients_at_a_new_address_every_step():
    p, cache, held = torch.zeros(4), {}, []
    states = None
    for t in range(1, 6):
        held.append(torch.full((4,), float(t)))
        states = step([p], [held[-1]], cache, t, states)
    v, x = 0.0, 0.0
    for t in range(1, 6):
        v = 0.5 * v + t
        x -= 0.25 * v
    torch.testing.assert_close(p, torch.full((4,), x))


@needs_numba
def test_few_plans_are_kept():
    cache = {}
    params = [torch.zeros(2) for _ in range(40)]
    for p in params:
        step([p], [torch.ones(2)], cache)
    assert len(cache) <= 16
    assert all(p.tolist() == [-0.25, -0.25] for p in params)


@pytest.mark.parametrize("runtime", runtimes.available())
def test_autograd_notices_the_step(runtime):
    p = torch.ones(3, requires_grad=True)
    loss = (p * p).sum()
    step([p], [torch.ones(3)], runtime=runtime)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("runtime", runtimes.available())
def test_nothing_to_do(runtime):
    assert step([], [], runtime=runtime) == {"momentum_buffer": []}
    empty = torch.zeros(0, 3)
    step([empty], [torch.zeros(0, 3)], runtime=runtime, cache={})


@pytest.mark.parametrize("runtime", runtimes.available())
def test_inside_inference_mode(runtime):
    with torch.inference_mode():
        p = torch.zeros(3)
        step([p], [torch.ones(3)], runtime=runtime)
        assert p.tolist() == [-0.25] * 3


def test_inside_vmap_it_is_eager():
    def one(p, g):
        p = p.clone()
        step([p], [g], states={"momentum_buffer": [torch.zeros_like(p)]})
        return p

    p, g = torch.zeros(3, 4), torch.arange(12.0).reshape(3, 4)
    torch.testing.assert_close(torch.vmap(one)(p, g), -0.25 * g)


def test_unknown_names():
    p = [torch.zeros(2)]
    with pytest.raises(OptionError, match="no hyperparameter 'rate'"):
        runtimes.apply(rules.sgd, p, p, {}, {"rate": 1.0}, {}, 1)
    with pytest.raises(OptionError, match="runtime is 'tpu'"):
        runtimes.apply(rules.sgd, p, p, {}, {}, {}, 1, runtime="tpu")


class TestWithoutNumba:
    @pytest.fixture(autouse=True)
    def absent(self, monkeypatch):
        monkeypatch.setattr(cpu, "_trouble", None)
        find = cpu.importlib.util.find_spec
        monkeypatch.setattr(
            cpu.importlib.util, "find_spec", lambda name: None if name == "numba" else find(name)
        )

    def test_it_works_and_says_so_once(self, caplog):
        p = torch.zeros(2)
        with caplog.at_level(logging.WARNING, logger="thalweg"):
            states = step([p], [torch.ones(2)])
            step([p], [torch.ones(2)], t=2, states=states)
        assert p.tolist() == [-0.625, -0.625]
        (record,) = caplog.records
        assert "run eagerly, which is slower: Numba isn't installed (pip install" in record.message

    def test_what_is_available(self):
        assert "cpu" not in runtimes.available()
        assert runtimes.describe().startswith("no CPU kernels: Numba isn't installed; ")

    def test_asked_for_it_is_refused(self):
        with pytest.raises(OptionError, match="there are no CPU kernels: Numba isn't installed"):
            step([torch.zeros(2)], [torch.ones(2)], runtime="cpu")


@needs_numba
def test_a_broken_numba(monkeypatch, caplog):
    def broken(program, dtype):
        raise ImportError("Numba needs NumPy 2.0 or less")

    monkeypatch.setattr(cpu, "_trouble", None)
    monkeypatch.setattr(cpu, "compiled", broken)
    p, cache = torch.zeros(2), {}
    with caplog.at_level(logging.WARNING, logger="thalweg"):
        states = step([p], [torch.ones(2)], cache)
        step([p], [torch.ones(2)], cache, 2, states)
    assert p.tolist() == [-0.625, -0.625]
    assert len(caplog.records) == 1
    assert "Numba needs NumPy 2.0 or less" in runtimes.describe()


@needs_numba
def test_a_numba_that_was_told_not_to_compile(monkeypatch):
    import numba

    monkeypatch.setattr(cpu, "_trouble", None)
    monkeypatch.setattr(numba.config, "DISABLE_JIT", True)
    p = torch.zeros(2)
    step([p], [torch.ones(2)])
    assert p.tolist() == [-0.25, -0.25]
    assert "NUMBA_DISABLE_JIT is set" in runtimes.describe()


@needs_numba
def test_describe():
    assert runtimes.available()[-2:] == ("cpu", "eager")
    assert runtimes.describe().startswith("CPU kernels by Numba ")


def test_scalars_hoisted_ahead_are_those_of_each_step():
    """Steps on, back and far ahead, and a schedule: a cache makes no difference to any bit."""
    generator = torch.Generator().manual_seed(0)
    kept, plain = ([torch.ones(7)] for _ in range(2))
    states, plain_states = (runtimes.initial_states(rules.adam, kept, {}, {}) for _ in range(2))
    cache = {}
    rates = [0.1] * 40 + [0.1 / t for t in range(1, 6)] + [0.2] * 3
    steps = [*range(1, 38), 3, 4, 500, *range(501, 509)]
    for rate, t in zip(rates, steps, strict=True):
        g = [torch.randn(7, generator=generator)]
        runtimes.apply(rules.adam, kept, g, states, {"lr": rate}, {}, t, cache=cache)
        runtimes.apply(rules.adam, plain, g, plain_states, {"lr": rate}, {}, t, runtime="eager")
        assert torch.equal(kept[0], plain[0])


def test_a_negative_zero_is_a_setting_of_its_own():
    rule = rules.as_rule(lambda p, g, *, lr=0.1: lr * g)
    p, g, cache = [torch.ones(1)], [torch.ones(1)], {}
    signs = []
    for lr in (0.0, -0.0, 0.0):
        runtimes.apply(rule, p, g, {}, {"lr": lr}, {}, 1, cache=cache)
        signs.append(torch.signbit(p[0]).item())
    assert signs == [False, True, False]
