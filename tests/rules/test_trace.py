"""What is hoisted, what is specialised, which states live, and which line is to blame."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thalweg import rules, runtimes
from thalweg.errors import RuleError
from thalweg.rules import as_rule, maximum, sqrt, trace, where

NONE = frozenset()


def ops(program):
    return [instruction.op for instruction in program.instructions]


def test_what_depends_on_scalars_alone_is_hoisted():
    program = trace(rules.adam, {}, frozenset({"weight_decay"}))
    assert sorted(ops(program)) == sorted(["mul"] * 6 + ["add"] * 3 + ["sqrt", "div", "div", "sub"])
    hyper = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    wanted = [0.9, 1 - 0.9, 0.1 / (1 - 0.9**3), 0.999, 1 - 0.999, math.sqrt(1 - 0.999**3), 1e-8]
    assert sorted(program.scalars(hyper, 3)) == sorted(wanted)


def test_hoisting_is_in_float64_for_float32_parameters():
    rule = as_rule(lambda p, g, *, beta=0.999: (1 - beta) * g)
    p = torch.zeros(1)
    runtimes.apply(rule, [p], [torch.ones(1)], {}, {"beta": 0.999}, {}, 1)
    assert p.item() == np.float32(1 - 0.999)
    assert p.item() != np.float32(1) - np.float32(0.999)


def test_nothing_is_reassociated():
    rule = as_rule(lambda p, g, *, a=0.1, b=0.3: a * g * b)
    assert ops(trace(rule, {}, NONE)) == ["mul", "mul"]
    grouped = as_rule(lambda p, g, *, a=0.1, b=0.3: a * b * g)
    assert ops(trace(grouped, {}, NONE)) == ["mul"]


def test_what_is_said_twice_is_computed_once():
    rule = as_rule(lambda p, g, *, lr=0.1: p - lr * (g * g) + sqrt(g * g))
    assert ops(trace(rule, {}, NONE)).count("mul") == 2


def test_every_kind_of_scalar_expression():
    def rule(p, g, *, a=2.0, b=-3.0, t):
        scalar = where(t > 2, a, b) + abs(b) - (-a) + sqrt(a) * rules.sign(b) / rules.minimum(a, b)
        return scalar * g + maximum(a, b) ** 2 - 2**a

    program = trace(as_rule(rule), {}, NONE)
    for t in (1, 5):
        first = (2.0 if t > 2 else -3.0) + 3.0 + 2.0 + math.sqrt(2.0) * -1.0 / -3.0
        assert sorted(program.scalars({"a": 2.0, "b": -3.0}, t)) == pytest.approx(sorted([first, 4.0, 4.0]))


def test_scalars_of_lanes():
    program = trace(rules.adam, {}, NONE)
    hyper = {**rules.adam.hyperparameters, "beta1": np.array([0.5, 0.9, 0.99]), "weight_decay": 0.1}
    together = program.scalars(hyper, np.array([1, 2, 30]))
    assert together.shape == (program.scalar_count, 3)
    for lane, (beta1, t) in enumerate([(0.5, 1), (0.9, 2), (0.99, 30)]):
        np.testing.assert_array_equal(together[:, lane], program.scalars({**hyper, "beta1": beta1}, t))


def test_powers_of_scalars_without_exceptions():
    rule = as_rule(lambda p, g, *, base=1.0, exponent=1.0: base**exponent * g)
    program = trace(rule, {}, NONE)
    cases = [(10.0, 400.0, math.inf), (-10.0, 401.0, -math.inf), (-10.0, 400.0, math.inf)]
    cases += [(0.0, -1.0, math.inf), (-0.0, -1.0, -math.inf), (-0.0, -2.0, math.inf), (0.9, 7.0, 0.9**7)]
    for base, exponent, wanted in cases:
        assert program.scalars({"base": base, "exponent": exponent}, 1)[0] == wanted
    assert np.isnan(program.scalars({"base": -2.0, "exponent": 0.5}, 1)[0])
    assert np.isinf(trace(as_rule(lambda p, g, *, a=0.0: 1 / a * g), {}, NONE).scalars({"a": 0.0}, 1)[0])


def test_a_hyperparameter_may_be_called_like_a_word():
    rule = as_rule(lambda p, g, *, power=2.0, where=3.0, t: p - (power**t + where) * g)
    assert trace(rule, {}, NONE).scalars({"power": 2.0, "where": 3.0}, 3)[0] == 11.0


def test_specialised_only_on_what_the_rule_asks():
    def rule(p, g, *, lr=0.1, decay=0.0):
        if decay:
            g = g + decay * p
        return p - lr * g

    made = as_rule(rule)
    plain = trace(made, {}, frozenset({"decay"}))
    assert trace(made, {}, frozenset({"decay", "lr"})) is plain
    decayed = trace(made, {}, NONE)
    assert len(decayed.instructions) == len(plain.instructions) + 2
    assert trace(made, {}, frozenset({"lr"})) is decayed
    assert trace(made, {}, NONE, maximize=True) is not decayed


@pytest.mark.parametrize("form", ["if decay != 0:", "if not decay == 0:", "if decay:"])
def test_ways_to_ask_for_zero(form):
    names = {}
    exec(f"def rule(p, g, *, decay=0.0):\n    {form}\n        g = g + decay * p\n    return p - g", names)
    rule = as_rule(names["rule"])
    assert ops(trace(rule, {}, frozenset({"decay"}))) == ["sub"]
    assert ops(trace(rule, {}, NONE)) == ["mul", "add", "sub"]


def test_live_states():
    assert trace(rules.adam, {}, NONE).states == ("exp_avg", "exp_avg_sq")
    assert trace(rules.adam, {"amsgrad": True}, NONE).states == ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    assert trace(rules.sgd, {}, frozenset({"momentum"})).states == ()
    read_only = as_rule(lambda p, g, anchor: (p - 0.1 * (p - anchor), anchor))
    assert trace(read_only, {}, NONE).states == ("anchor",)
    written_only = as_rule(lambda p, g, last: (p - g, g))
    assert trace(written_only, {}, NONE).states == ("last",)
    swapped = as_rule(lambda p, g, a, b: (p - g, b, a))
    assert trace(swapped, {}, NONE).states == ("a", "b")


def test_a_state_may_become_a_number():
    rule = as_rule(lambda p, g, last, *, lr=0.5: (p - lr * g, lr))
    for runtime in runtimes.available():
        p, states = torch.zeros(3), {"last": [torch.zeros(3)]}
        runtimes.apply(rule, [p], [torch.ones(3)], states, {"lr": 0.25}, {}, 1, runtime=runtime)
        assert states["last"][0].tolist() == [0.25] * 3


def test_evaluate_differentiates_twice():
    program = trace(rules.momentum, {}, frozenset({"weight_decay"}))
    p = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad((p**3).sum(), p, create_graph=True)
    scalars = program.scalars({"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}, 1)
    new_p, _ = program.evaluate(p, g, {"velocity": torch.zeros(2, dtype=torch.float64)}, scalars)
    (through,) = torch.autograd.grad(new_p.sum(), p)
    torch.testing.assert_close(through, 1 - 0.1 * 6 * p.detach())


def torch_function(p, g, *, lr=0.1):
    return p - lr * torch.sqrt(g)  # blame


def torch_other(p, g, *, lr=0.1):
    return p - lr * torch.linalg.norm(g)  # blame


def number(p, g, *, lr=0.1):
    return p - float(lr) * g  # blame


def mathematics(p, g, *, lr=0.1, t):
    return p - lr * g / math.sqrt(t)  # blame


def numpy_function(p, g, *, lr=0.1):
    return p - lr * np.sign(g)  # blame


def numpy_array(p, g, *, lr=0.1):
    return np.ones(3) * g  # blame


def tensor_constant(p, g, *, lr=0.1):
    return p - g * torch.ones(3)  # blame


def decision(p, g, *, lr=0.1):
    if g > 0:  # blame
        return p - lr
    return p + lr


def decision_on_step(p, g, *, lr=0.1, t):
    if t == 1:  # blame
        return p
    return p - lr * g


def chained(p, g, *, lr=0.1):
    return where(0 < g < 1, p, g)  # blame


def builtin_maximum(p, g, *, lr=0.1):
    return max(p, g)  # blame


def method(p, g, *, lr=0.1):
    return p - lr * g.sqrt()  # blame


def indexed(p, g, *, lr=0.1):
    return p - g[0]  # blame


def condition_as_number(p, g, *, lr=0.1):
    return p - lr * (g > 0)  # blame


def number_as_condition(p, g, *, lr=0.1):
    return where(g, p, g)  # blame


def tensor_exponent(p, g, *, lr=0.1):
    return p**g  # blame


def tensor_exponent_of_number(p, g, *, lr=0.1):
    return 2.0**g  # blame


def too_few(p, g, m, *, lr=0.1):
    return p - lr * g  # blame


def too_many(p, g, *, lr=0.1):
    return p, g  # blame


def nothing(p, g, *, lr=0.1):
    return None  # blame


def a_comparison(p, g, *, lr=0.1):
    return g > 0  # blame


def misspelled(p, g, *, lr=0.1):
    return p - rate * g  # noqa: F821  # blame


def other_operator(p, g, *, lr=0.1):
    return p // g  # blame


def text(p, g, *, lr=0.1):
    return p + "g"  # blame


def looped(p, g, *, lr=0.1):
    for part in g:  # blame
        p = p - part
    return p


def helper(g):
    return g.norm()  # blame


def through_a_helper(p, g, *, lr=0.1):
    return p - helper(g)


BLAMED = [
    (torch_function, "torch's sqrt can't be traced.*write sqrt from thalweg.rules"),
    (torch_other, "can't be traced.*arithmetic on one element"),
    (number, "float.*use arithmetic and the words"),
    (mathematics, "math.*use arithmetic and the words"),
    (numpy_function, "NumPy functions.*use arithmetic"),
    (numpy_array, "NumPy functions"),
    (tensor_constant, "torch's .* can't be traced|torch.Tensor can't be part"),
    (decision, "a Python decision.*use where"),
    (decision_on_step, "a Python decision.*use where"),
    (chained, "a chained comparison.*use where"),
    (builtin_maximum, "max.*minimum or maximum"),
    (method, "no attribute sqrt; write sqrt\\(x\\)"),
    (indexed, "one element"),
    (condition_as_number, "a comparison isn't a number; use it as the first argument of where"),
    (number_as_condition, "is no comparison; write where"),
    (tensor_exponent, "the exponent .* depends on a tensor"),
    (tensor_exponent_of_number, "the exponent .* depends on a tensor"),
    (too_few, "returns 1 value, not 2; return p, m"),
    (too_many, "returns 2 values, not 1; return p"),
    (nothing, "returns None, which is no number"),
    (a_comparison, "returns a comparison"),
    (misspelled, "NameError.*rate"),
    (other_operator, "TypeError.*//"),
    (text, "builtins.str can't be part of a traced rule"),
    (looped, "one element"),
]


@pytest.mark.parametrize(("function", "words"), BLAMED, ids=lambda x: getattr(x, "__name__", ""))
def test_the_line_to_blame(function, words):
    with pytest.raises(RuleError, match=words) as caught:
        trace(as_rule(function), {}, NONE)
    message = str(caught.value)
    assert __file__ in message
    assert "# blame" in message
    assert "\n" not in message
    line = int(message.split(", line ")[1].split(":")[0])
    first = function.__code__.co_firstlineno
    assert first < line <= first + 3


def test_the_line_of_a_helper_is_blamed():
    with pytest.raises(RuleError, match="no attribute norm") as caught:
        trace(as_rule(through_a_helper), {}, NONE)
    assert f"line {helper.__code__.co_firstlineno + 1}: `return g.norm()  # blame`" in str(caught.value)


def test_a_rule_without_a_file_is_blamed_too():
    names = {}
    exec("def rule(p, g):\n    return g.norm()", names)
    with pytest.raises(RuleError, match="<string>, line 2: a traced value has no attribute norm"):
        trace(as_rule(names["rule"]), {}, NONE)
