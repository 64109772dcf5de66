"""What a signature says, and signatures that say nothing."""

from __future__ import annotations

import copy
import pickle

import pytest

from thalweg import rules
from thalweg.errors import OptionError, RuleError
from thalweg.rules import Rule, as_rule, rule


def test_signature():
    @rule(initial={"s": "first", "u": 2})
    def example(p, g, s, u, *, lr=0.1, first=3, flag=True, kind="a", t):
        """Said by its author."""
        return p, s, u

    assert isinstance(example, Rule)
    assert example.name == "example"
    assert example.states == ("s", "u")
    assert dict(example.hyperparameters) == {"lr": 0.1, "first": 3.0}
    assert dict(example.options) == {"flag": True, "kind": "a"}
    assert dict(example.initial) == {"s": "first", "u": 2}
    assert example.uses_step
    assert example.__doc__ == "Said by its author."
    assert example(1.0, 2.0, 3.0, 4.0, t=1) == (1.0, 3.0, 4.0)


def test_as_rule_finds_the_same_rule_again():
    def plain(p, g, *, lr=0.1):
        return p - lr * g

    assert as_rule(plain) is as_rule(plain)
    assert as_rule(rules.adam) is rules.adam


def test_copies_and_pickles_are_the_rule_itself():
    assert copy.deepcopy(rules.adam) is rules.adam
    assert pickle.loads(pickle.dumps(rules.adam)) is rules.adam


def bad_default(p, g, *, lr=0.1, other=None):
    return p


def no_default(p, g, *, lr):
    return p


def positional_default(p, g, m=0.0, *, lr=0.1):
    return p


def starred(p, g, *states, lr=0.1):
    return p


def open_ended(p, g, **hyper):
    return p


def alone(p, *, lr=0.1):
    return p


def defaulted_step(p, g, *, t=1):
    return p


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (bad_default, "other has the default None"),
        (no_default, "lr has no default"),
        (positional_default, "m is positional and has a default"),
        (starred, "[*]states can't be traced"),
        (open_ended, "[*][*]hyper can't be traced"),
        (alone, "the gradient come first"),
        (defaulted_step, "t is the step count"),
    ],
)
def test_signatures_that_are_refused(function, words):
    with pytest.raises(RuleError, match=words) as caught:
        as_rule(function)
    assert f"test_rule.py, line {function.__code__.co_firstlineno}" in str(caught.value)


def test_initial_must_name_what_there_is():
    with pytest.raises(RuleError, match="'sums', which is no state; did you mean 'sum'"):
        rule(initial={"sums": 0.0})(lambda p, g, sum: (p, sum))
    with pytest.raises(RuleError, match="'value', which is no hyperparameter"):
        rule(initial={"s": "value"})(lambda p, g, s, *, lr=0.1: (p, s))


@pytest.mark.parametrize("thing", [3, "adam", len, None])
def test_what_is_no_function_is_no_rule(thing):
    with pytest.raises(RuleError, match="is no rule"):
        as_rule(thing)


def test_settle():
    hyper, options = rules.sgd.settle({"lr": 2.0}, {"nesterov": True})
    assert hyper == {"lr": 2.0, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0}
    assert options == {"nesterov": True}
    with pytest.raises(OptionError, match="no hyperparameter 'momentun'; did you mean 'momentum'"):
        rules.sgd.settle({"momentun": 0.9}, {})
    with pytest.raises(OptionError, match="no option 'nestrov'; did you mean 'nesterov'"):
        rules.sgd.settle({}, {"nestrov": True})
    with pytest.raises(OptionError, match="option nesterov of rule sgd is 'yes'; give a bool"):
        rules.sgd.settle({}, {"nesterov": "yes"})
