"""The table: frozen, true to the classes, and the same optimizer three ways: class, rule, script."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import thalweg
from thalweg import catalogue, optim, runtimes
from thalweg.catalogue import Entry
from thalweg.errors import OptionError, RuleError

CLASSES = {
    "sgd": optim.SGD,
    "momentum": optim.SGD,
    "nesterov": optim.SGD,
    "adagrad": optim.Adagrad,
    "rmsprop": optim.RMSprop,
    "adam": optim.Adam,
    "nadam": optim.NAdam,
    "adamw": optim.AdamW,
    "rprop": optim.Rprop,
    "quickprop": optim.Quickprop,
    "schedule-free": optim.ScheduleFreeAdamW,
    "lion": optim.Lion,
    "muon": optim.Muon,
    "soap": optim.SOAP,
}
NAMES = tuple(CLASSES)
SECOND = (
    "lbfgs",
    "bfgs",
    "cg-fr",
    "cg-pr",
    "cg-pr+",
    "cg-hs",
    "cg-dy",
    "cg-hz",
    "newton",
    "newton-cg",
    "gauss-newton",
    "levenberg-marquardt",
    "steepest-descent",
)
RACED = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
# What must be 0, or is a whole number, which no search space has.
UNLISTED = {
    "nesterov": {"dampening"},
    "muon": {"ns_steps"},
    "soap": {"precondition_frequency", "max_precondition_dim"},
}
FAMILIES = ("descent", "adaptive", "sign", "curvature", "matrix", "averaging")
every_entry = pytest.mark.parametrize("entry", [catalogue.get(name) for name in NAMES], ids=NAMES)


def away_from_defaults(entry: Entry) -> dict[str, float]:
    """A value of every hyperparameter, inside its range."""
    values = {}
    for hyper in entry.hyperparameters:
        middle = (
            (hyper.low * hyper.high) ** 0.5 if hyper.scale == "log" else 0.4 * hyper.low + 0.6 * hyper.high
        )
        values[hyper.name] = round(middle, 6)
    if entry.options.get("nesterov"):
        values.pop("dampening", None)
    return values


def gradients(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(7, generator=generator, dtype=torch.float64)


def follow(optimizer: torch.optim.Optimizer, steps: int = 25) -> torch.Tensor:
    (p,) = optimizer.param_groups[0]["params"]
    for step in range(steps):
        p.grad = gradients(step) + 0.1 * p.detach()
        optimizer.step()
    return p.detach().clone()


def start() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))


def test_names_and_order() -> None:
    assert catalogue.names() == NAMES + SECOND
    assert tuple(name for name in NAMES if catalogue.get(name).raced) == RACED
    assert all(catalogue.get(name).name == name for name in NAMES)
    with pytest.raises(RuleError, match=r"there is no optimizer 'adma'; did you mean 'adam'"):
        catalogue.get("adma")
    with pytest.raises(RuleError, match=r"your own: 'file\.py:name'"):
        catalogue.resolve("lamb")


@every_entry
def test_frozen(entry: Entry) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.title = "other"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.hyperparameters[0].low = 0.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        entry.options["nesterov"] = False  # type: ignore[index]
    with pytest.raises(TypeError):
        entry.call.fixed["nesterov"] = False  # type: ignore[index]


@every_entry
def test_words_are_there(entry: Entry) -> None:
    assert entry.summary.endswith(".")
    assert re.match(r"O\d+;|[A-Z][a-z]+ (and [A-Z][a-z]+|et al\.) \d{4};", entry.source)
    assert entry.family in FAMILIES
    assert len({hyper.name for hyper in entry.hyperparameters}) == len(entry.hyperparameters)


@every_entry
def test_defaults_are_those_of_class_rule_and_torch(entry: Entry) -> None:
    assert entry.rule is not None
    listed = {hyper.name: hyper.default for hyper in entry.hyperparameters}
    in_class = {
        name: parameter.default
        for name, parameter in inspect.signature(CLASSES[entry.name]).parameters.items()
        if isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool)
    }
    for pair, parts in entry.call.pairs.items():
        values = inspect.signature(CLASSES[entry.name]).parameters[pair].default
        in_class |= dict(zip(parts, values, strict=True))
    # SGD's own default has no momentum; the rows that are named after it do.
    own = {"momentum": 0.9} if entry.name in ("momentum", "nesterov") else {}
    for name, default in listed.items():
        assert default == own.get(name, in_class[name]), name
        assert default == own.get(name, entry.rule.hyperparameters[name]), name
    assert set(in_class) - set(listed) == UNLISTED.get(entry.name, set())
    assert set(entry.options) == set(entry.rule.options)


@every_entry
def test_spaces(entry: Entry) -> None:
    searched = [hyper for hyper in entry.hyperparameters if hyper.searched]
    assert searched[0].name == "lr"
    assert len(searched) <= 4
    for hyper in entry.hyperparameters:
        assert hyper.low < hyper.high
        assert hyper.scale != "log" or hyper.low > 0
        assert hyper.scale != "complement" or 0 <= hyper.low < hyper.high < 1
        off = hyper.default == 0 and not hyper.searched
        assert hyper.low <= hyper.default <= hyper.high or off
        if hyper.searched:
            # A default at the very edge would be flagged as a tuning failure.
            assert hyper.low < hyper.default < hyper.high


@every_entry
@pytest.mark.parametrize("which", ["defaults", "others"])
def test_class_rule_lanes_and_torch_script_are_one_optimizer(entry: Entry, which: str) -> None:
    values = {} if which == "defaults" else away_from_defaults(entry)
    p = start()
    made = follow(entry.make([p], **values))

    assert entry.rule is not None
    hyper = entry.rule_hyperparameters(values)
    assert set(hyper) == set(entry.rule.hyperparameters)
    q = start().detach()
    states = runtimes.initial_states(entry.rule, [q], hyper, entry.options)
    for step in range(25):
        g = gradients(step) + 0.1 * q
        runtimes.apply(entry.rule, [q], [g], states, hyper, entry.options, step + 1)
    torch.testing.assert_close(made, q, rtol=0, atol=0)

    class Model:
        def __init__(self) -> None:
            self.weight = start()

        def parameters(self) -> list[torch.nn.Parameter]:
            return [self.weight]

    script = entry.script(values)
    # torch's Muon refuses what is no matrix.
    in_torch = hasattr(torch.optim, CLASSES[entry.name].__name__) and entry.name != "muon"
    assert script.imports == (() if in_torch else ("import thalweg.optim",))
    assert script.expression.startswith("torch.optim." if in_torch else "thalweg.optim.")
    plain = eval(script.expression, {"torch": torch, "thalweg": thalweg, "model": Model()})
    # The numbers that torch keeps beside its states have the default type.
    torch.set_default_dtype(torch.float64)
    try:
        torch.testing.assert_close(made, follow(plain), rtol=1e-11, atol=1e-11)
    finally:
        torch.set_default_dtype(torch.float32)


def test_scripts_are_short_and_complete() -> None:
    assert (
        catalogue.get("adam").script({"lr": 0.003}).expression
        == "torch.optim.Adam(model.parameters(), lr=0.003, betas=(0.9, 0.999), eps=1e-08)"
    )
    assert (
        catalogue.get("sgd").script({"lr": 0.5}).expression == "torch.optim.SGD(model.parameters(), lr=0.5)"
    )
    assert (
        catalogue.get("momentum").script({"weight_decay": 1e-4}).expression
        == "torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=0.0001)"
    )
    assert "betas=(0.5, 0.999)" in catalogue.get("adamw").script({"beta1": 0.5}).expression


@every_entry
def test_unknown_hyperparameters(entry: Entry) -> None:
    for call in (
        lambda v: entry.make([start()], **v),
        entry.rule_hyperparameters,
        entry.script,
    ):
        with pytest.raises(
            OptionError, match=rf"{entry.name} has no hyperparameter 'lrr'; did you mean 'lr'"
        ):
            call({"lrr": 0.1})


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        (
            "adam",
            {"beta1": 2},
            r"adam: beta1 is 2, but must be at least 0 and below 1 \(from 1 on nothing is",
        ),
        (
            "sgd",
            {"momentum": 1.5},
            r"momentum is 1\.5, but must be at least 0 and below 1 .*; give one such as 0",
        ),
        ("sgd", {"lr": math.nan}, r"sgd: lr is nan, but must be a finite number; give one such as 0\.001"),
        ("sgd", {"lr": True}, "lr is True, but must be a finite number"),
        ("sgd", {"lr": "fast"}, "lr is 'fast', but must be a finite number"),
        ("quickprop", {"growth": -3}, "growth is -3, but must be at least 1"),
        ("lbfgs", {"max_iter": 2.5}, r"max_iter is 2\.5, but must be a whole number, at least 1; give 2"),
        (
            "lbfgs",
            {"batch_factor": 0.5},
            r"batch_factor is 0\.5, but must be at least 1; give one such as 16",
        ),
        (
            "rprop",
            {"step_size_max": 1e-8},
            "step_size_max is 1e-08, but must be at least step_size_min, which is",
        ),
    ],
)
def test_values_that_make_no_sense(name: str, given: dict[str, Any], said: str) -> None:
    entry = catalogue.get(name)
    calls: list[Callable[[dict[str, Any]], Any]] = [
        lambda values: entry.make([start()], **values),
        entry.script,
        entry.of_run,
    ]
    if entry.rule is not None:
        calls.append(entry.rule_hyperparameters)
    for call in calls:
        with pytest.raises(OptionError, match=said) as caught:
            call(given)
        assert "\n" not in str(caught.value)


def test_groups_are_looked_at_too() -> None:
    adam, sgd = catalogue.get("adam"), catalogue.get("sgd")
    for groups in ([{"params": [start()], "betas": (0.9, 1.0)}], ({"params": [start()], "eps": -1},)):
        with pytest.raises(OptionError, match=r"adam: (beta2 is 1\.0|eps is -1), but must be at least 0"):
            adam.make(groups)
    with pytest.raises(OptionError, match=r"sgd: momentum is 1\.5, but must be"):
        sgd.make(iter([{"params": [start()], "momentum": 1.5}]))
    assert len(sgd.make(p for p in [start(), start()]).param_groups[0]["params"]) == 2
    with pytest.raises(
        OptionError, match=r"step_size_max is 0\.1, but must be at least step_size_min, which is 1;"
    ):
        catalogue.get("rprop").make([{"params": [start()], "step_sizes": (1.0, 0.1)}])


@every_entry
def test_an_entry_travels_as_its_name(entry: Entry) -> None:
    assert pickle.loads(pickle.dumps(entry)) is entry
    assert copy.deepcopy(entry) is entry


def test_groups_can_be_made_too() -> None:
    groups: list[dict[str, Any]] = [{"params": [start()], "lr": 0.5}, {"params": [start()]}]
    made = catalogue.get("adamw").make(groups, lr=0.1)
    assert [group["lr"] for group in made.param_groups] == [0.5, 0.1]
