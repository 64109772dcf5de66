"""Eager and CPU, lanes and alone: the same bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from thalweg import rules, runtimes

pytestmark = pytest.mark.skipif("cpu" not in runtimes.available(), reason="Numba isn't installed")

EDGES = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e-40, -1e-40, 5e-324, 1e38, -1e38, 1.0]
CASES = [
    (rules.sgd, {}, {}),
    (rules.sgd, {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}, {}),
    (rules.sgd, {"momentum": 0.9}, {"nesterov": True}),
    (rules.momentum, {"weight_decay": 0.1}, {}),
    (rules.averaged_momentum, {}, {}),
    (rules.nesterov, {}, {}),
    (rules.adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}, {}),
    (rules.rmsprop, {}, {}),
    (rules.rmsprop, {"momentum": 0.9, "weight_decay": 0.1}, {"centered": True, "eps_inside": True}),
    (rules.adam, {}, {}),
    (rules.adam, {"weight_decay": 0.1}, {"amsgrad": True}),
    (rules.adam, {}, {"bias_correction": False}),
    (rules.adamw, {}, {}),
    (rules.nadam, {"weight_decay": 0.1}, {}),
    (rules.nadam, {"weight_decay": 0.1}, {"decoupled": True}),
    (rules.schedule_free_adamw, {"weight_decay": 0.1, "warmup_steps": 5.0, "r": 0.5}, {}),
    (rules.rprop, {}, {}),
    (rules.rprop, {"step_size_max": 0.1}, {"overshoot": "back"}),
    (rules.rprop, {}, {"limits": False, "overshoot": "reverse"}),
    (rules.lion, {"weight_decay": 0.1}, {}),
    (rules.lion, {"weight_decay": 0.1}, {"decoupled": False}),
    (rules.quickprop, {"weight_decay": 0.1}, {}),
    (rules.quickprop, {}, {"safe": False}),
]


def bits(tensor):
    """The bits, with every NaN alike."""
    array = tensor.detach().numpy().copy()
    array[np.isnan(array)] = np.nan
    return array.view(np.uint64 if array.dtype == np.float64 else np.uint32)


def tensors(seed, dtype, shapes, edges=True):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]
    if edges:
        for tensor in made:
            flat = tensor.view(-1)
            chosen = torch.tensor(EDGES[: flat.numel()], dtype=dtype)
            flat[torch.randperm(flat.numel(), generator=generator)[: len(chosen)]] = chosen
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rule", "hyper", "options"), CASES)
def test_eager_and_cpu(rule, hyper, options, dtype):
    shapes = [(3,), (17, 5), (), (2, 0), (1,), (40000,)]
    start = tensors(1, dtype, shapes)
    results = {}
    for runtime in ("eager", "cpu"):
        params = [p.clone() for p in start]
        states = runtimes.initial_states(rule, params, hyper, options)
        for name in states:
            if name in rule.scalars:
                continue
            for state, noise in zip(states[name], tensors(2, dtype, shapes), strict=True):
                state += noise
        cache = {}
        for t in (1, 2, 3):
            grads = tensors(10 + t, dtype, shapes)
            runtimes.apply(rule, params, grads, states, hyper, options, t, runtime=runtime, cache=cache)
        results[runtime] = params, states
    for eager, cpu in zip(results["eager"][0], results["cpu"][0], strict=True):
        np.testing.assert_array_equal(bits(eager), bits(cpu))
    for name in results["eager"][1]:
        for eager, cpu in zip(results["eager"][1][name], results["cpu"][1][name], strict=True):
            np.testing.assert_array_equal(bits(eager), bits(cpu))


@pytest.mark.parametrize("runtime", ["eager", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rule", "hyper", "options"), CASES)
def test_lanes_and_alone(rule, hyper, options, dtype, runtime):
    lanes, shapes = 5, [(7, 3), (9,), ()]
    draws = np.random.default_rng(3)
    each = {name: draws.uniform(0.01, 0.9, lanes) for name in rule.hyperparameters}
    each = {
        name: values for name, values in each.items() if name in {"lr", "eps", *hyper} or draws.random() < 0.5
    }
    for name, value in rule.hyperparameters.items():
        if value == 0.0 and name not in hyper:
            each.pop(name, None)
    steps = np.array([1, 2, 7, 30, 1000])
    start = [tensors(lane, dtype, shapes) for lane in range(lanes)]
    grads = [[tensors(100 * s + lane, dtype, shapes) for lane in range(lanes)] for s in range(3)]

    def stack(lists):
        return [torch.stack(parts) for parts in zip(*lists, strict=True)]

    together = stack(start)
    states = runtimes.initial_states(rule, together, each, options, lanes=True)
    cache = {}
    for s in range(3):
        runtimes.apply(
            rule,
            together,
            stack(grads[s]),
            states,
            each,
            options,
            steps + s,
            lanes=True,
            runtime=runtime,
            cache=cache,
        )
    for lane in range(lanes):
        alone = [p.clone() for p in start[lane]]
        own = {name: float(values[lane]) for name, values in each.items()}
        own_states = runtimes.initial_states(rule, alone, own, options)
        for s in range(3):
            t = int(steps[lane]) + s
            runtimes.apply(rule, alone, grads[s][lane], own_states, own, options, t, runtime=runtime)
        for joint, single in zip(together, alone, strict=True):
            np.testing.assert_array_equal(bits(joint[lane]), bits(single))
        for name in states:
            for joint, single in zip(states[name], own_states[name], strict=True):
                np.testing.assert_array_equal(bits(joint[lane]), bits(single))


@pytest.mark.parametrize("runtime", ["eager", "cpu"])
def test_a_lane_does_not_depend_on_its_company(runtime):
    rates = np.array([0.1, 0.01, 0.001, 0.5])
    shapes = [(4, 20001), (4, 3)]
    p, g = tensors(1, torch.float32, shapes), tensors(2, torch.float32, shapes)
    full = [x.clone() for x in p]
    states = runtimes.initial_states(rules.adam, full, {"lr": rates}, {}, lanes=True)
    runtimes.apply(rules.adam, full, g, states, {"lr": rates}, {}, 3, lanes=True, runtime=runtime)
    order = [2, 0]
    part = [x[order].clone() for x in p]
    states = runtimes.initial_states(rules.adam, part, {"lr": rates[order]}, {}, lanes=True)
    runtimes.apply(
        rules.adam,
        part,
        [x[order] for x in g],
        states,
        {"lr": rates[order]},
        {},
        3,
        lanes=True,
        runtime=runtime,
    )
    for whole, chosen in zip(full, part, strict=True):
        np.testing.assert_array_equal(bits(whole[order]), bits(chosen))


@pytest.mark.parametrize("runtime", ["eager", "cpu"])
@pytest.mark.parametrize("name", ["momentum", "weight_decay", "dampening"])
@pytest.mark.parametrize("rule", [rules.sgd, rules.momentum, rules.rmsprop, rules.adam, rules.adamw])
def test_a_zero_among_lanes(rule, name, runtime):
    if name not in rule.hyperparameters:
        pytest.skip(f"{rule.name} has no {name}")
    values = np.array([0.0, 0.5])
    base = {"momentum": 0.9} if rule is rules.sgd else {}
    shapes = [(101,)]
    together = [torch.stack(tensors(1, torch.float32, shapes, edges=False) * 2)]
    states = runtimes.initial_states(rule, together, {**base, name: values}, {}, lanes=True)
    alone = tensors(1, torch.float32, shapes, edges=False)
    own_states = runtimes.initial_states(rule, alone, {**base, name: 0.0}, {})
    for t in range(1, 6):
        grads = tensors(10 + t, torch.float32, shapes, edges=False)
        runtimes.apply(
            rule,
            together,
            [torch.stack(grads * 2)],
            states,
            {**base, name: values},
            {},
            t,
            lanes=True,
            runtime=runtime,
        )
        runtimes.apply(rule, alone, grads, own_states, {**base, name: 0.0}, {}, t, runtime=runtime)
    assert torch.equal(together[0][0], alone[0])
    assert not torch.equal(together[0][1], alone[0])


def test_one_lane_and_lanes_with_one_setting():
    shapes = [(1, 6), (3, 6)]
    for shape, rate in itertools.product(shapes, [0.1, "array"]):
        lr = np.full(shape[0], 0.1) if rate == "array" else rate
        p, g = torch.ones(shape), torch.full(shape, 2.0)
        runtimes.apply(rules.sgd, [p], [g], {}, {"lr": lr}, {}, 1, lanes=True)
        torch.testing.assert_close(p, torch.full(shape, 0.8), rtol=0, atol=1e-7)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_bits(threads):
    before = torch.get_num_threads()
    try:
        results = []
        for count in (1, threads):
            torch.set_num_threads(count)
            p, g = tensors(1, torch.float32, [(300001,)]), tensors(2, torch.float32, [(300001,)])
            states = runtimes.initial_states(rules.adam, p, {}, {})
            for t in (1, 2):
                runtimes.apply(rules.adam, p, g, states, {}, {}, t, runtime="cpu")
            results.append(bits(p[0]))
        np.testing.assert_array_equal(*results)
    finally:
        torch.set_num_threads(before)


def test_initial_values_of_lanes():
    params = [torch.zeros(2, 3), torch.zeros(2)]
    made = runtimes.initial_states(
        rules.adagrad, params, {"initial_accumulator_value": np.array([0.5, 2.0])}, {}, lanes=True
    )
    assert made["sum"][0].tolist() == [[0.5] * 3, [2.0] * 3]
    assert made["sum"][1].tolist() == [0.5, 2.0]
