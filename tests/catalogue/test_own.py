"""Anybody's own: rules and classes from files and packages, and what is refused in one sentence."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from thalweg import catalogue, runtimes
from thalweg.errors import OptionError, RuleError
from thalweg.rules import rule

RULES = """
from thalweg.rules import rule, sqrt

def plain(p, g, *, lr=0.01):
    "Go down."
    return p - lr * g

@rule
def decorated(p, g, v, *, lr=3.0, beta=0.9, floor=1e-6, shift=0.0, weight_decay=0.0, nesterov=False, t):
    v = beta * v + (1 - beta) * g * g
    return p - lr / t * g / (sqrt(v) + floor), v

def branching(p, g, *, lr=0.01):
    if g > 0:
        return p
    return p - lr * g

def late(p, g=None, *, lr=0.01):
    return p

thing = 3
"""
CLASSES = """
import torch
from torch.optim import Optimizer

class Plain(torch.optim.SGD):
    pass

class NeedsName(Optimizer):
    def __init__(self, params, name, lr=0.1):
        super().__init__(params, {"lr": lr})

class NoRate(Optimizer):
    def __init__(self, params, lr, betas=(0.8, 0.99), count=10, flag=True):
        super().__init__(params, {"lr": lr, "betas": betas, "count": count})
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for _ in range(group["count"]):
                for p in group["params"]:
                    p -= group["lr"] * group["betas"][0] * p.grad

class Broken(Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})
    def step(self, closure=None):
        raise RuntimeError("no\\nway")

class Other:
    pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(RULES, encoding="utf-8")
    (tmp_path / "classes.py").write_text(CLASSES, encoding="utf-8")
    return tmp_path


def start() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3))


def follow(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    (p,) = optimizer.param_groups[0]["params"]
    for step in range(10):
        p.grad = torch.sin(p.detach() + step)
        optimizer.step()
    return p.detach().clone()


def run(entry: catalogue.Entry, values: dict[str, float]) -> torch.Tensor:
    """Run the script of an entry as winner.py would."""

    class Model:
        weight = start()

        def parameters(self) -> list[torch.nn.Parameter]:
            return [self.weight]

    script = entry.script(values)
    names: dict[str, Any] = {"torch": torch, "model": Model()}
    exec("\n".join(script.imports), names)
    return follow(eval(script.expression, names))


def refused(spec: object) -> str:
    with pytest.raises(RuleError) as caught:
        catalogue.resolve(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_plain_function_is_a_rule_that_runs_everywhere(folder: Path) -> None:
    spec = f"{folder}/mine.py:plain"
    entry = catalogue.resolve(spec)
    assert (entry.name, entry.title, entry.family, entry.summary) == (spec, "plain", "rule", "Go down.")
    (lr,) = entry.hyperparameters
    assert (lr.name, lr.default, lr.low, lr.high, lr.scale, lr.searched) == (
        "lr",
        0.01,
        1e-4,
        1.0,
        "log",
        True,
    )
    made = follow(entry.make([start()], lr=0.2))
    assert entry.rule is not None
    q = start().detach()
    for step in range(10):
        runtimes.apply(
            entry.rule,
            [q],
            [torch.sin(q + step)],
            {},
            entry.rule_hyperparameters({"lr": 0.2}),
            entry.options,
            1,
        )
    assert torch.equal(made, q)
    assert torch.equal(made, run(entry, {"lr": 0.2}))


def test_ranges_follow_a_rules_defaults(folder: Path) -> None:
    entry = catalogue.resolve(f"{folder}/mine.py:decorated")
    by_name = {hyper.name: hyper for hyper in entry.hyperparameters}
    assert [name for name, hyper in by_name.items() if hyper.searched] == ["lr"]
    assert (by_name["lr"].low, by_name["lr"].high) == (0.03, 300.0)
    assert (by_name["beta"].low, by_name["beta"].high, by_name["beta"].scale) == (0.5, 0.99, "complement")
    assert (by_name["floor"].low, by_name["floor"].high, by_name["floor"].scale) == (1e-8, 1e-4, "log")
    assert (by_name["shift"].low, by_name["shift"].high, by_name["shift"].scale) == (0.0, 1.0, "linear")
    assert by_name["weight_decay"].scale == "log"
    assert dict(entry.options) == {"nesterov": False}
    assert torch.equal(follow(entry.make([start()], beta=0.8)), run(entry, {"beta": 0.8}))


def test_torchs_classes() -> None:
    entry = catalogue.resolve("torch.optim:RAdam")
    assert entry.rule is None
    by_name = {hyper.name: hyper for hyper in entry.hyperparameters}
    assert set(by_name) == {"lr", "beta1", "beta2", "eps", "weight_decay"}
    assert (by_name["lr"].low, by_name["lr"].high, by_name["lr"].searched) == (1e-5, 1e-1, True)
    assert not any(hyper.searched for name, hyper in by_name.items() if name != "lr")
    values = {"lr": 0.05, "beta2": 0.9}
    made = follow(entry.make([start()], **values))
    assert torch.equal(made, follow(torch.optim.RAdam([start()], lr=0.05, betas=(0.9, 0.9))))
    assert torch.equal(made, run(entry, values))
    expression = "torch.optim.RAdam(model.parameters(), lr=0.05, betas=(0.9, 0.9))"
    assert entry.script(values) == catalogue.Script(imports=(), expression=expression)
    assert catalogue.resolve("thalweg.optim:Nesterov").script({}).imports == (
        "from thalweg.optim import Nesterov",
    )


@pytest.mark.parametrize("name", ["ASGD", "Adadelta", "Adamax", "NAdam", "Rprop", "SGD"])
def test_other_classes_of_torch(name: str) -> None:
    entry = catalogue.resolve(f"torch.optim:{name}")
    assert torch.equal(follow(entry.make([start()])), follow(getattr(torch.optim, name)([start()])))


def test_classes_from_files(folder: Path) -> None:
    entry = catalogue.resolve(f"{folder}/classes.py:NoRate")
    assert [hyper.name for hyper in entry.hyperparameters] == ["lr", "beta1", "beta2", "count"]
    assert entry.hyperparameters[0].default == 1e-3
    assert entry.make([start()]).param_groups[0]["count"] == 10
    made = follow(entry.make([start()], lr=0.01, beta1=0.5))
    assert torch.equal(made, run(entry, {"lr": 0.01, "beta1": 0.5}))
    assert entry.script({}).expression == "NoRate(model.parameters(), lr=0.001)"


def test_entries_travel_as_their_names(folder: Path) -> None:
    for spec in (f"{folder}/mine.py:plain", f"{folder}/classes.py:Plain", "torch.optim:RAdam"):
        entry = catalogue.resolve(spec)
        for twin in (pickle.loads(pickle.dumps(entry)), copy.deepcopy(entry)):
            assert twin.name == spec
            assert twin.rule is entry.rule
            assert twin.call.spelling == entry.call.spelling


@rule
def here(p: Any, g: Any, *, lr: float = 0.1) -> Any:
    return p - lr * g


def plainly(p: Any, g: Any, *, lr: float = 0.1) -> Any:
    return p - lr * g


def test_objects_themselves() -> None:
    adam = catalogue.get("adam")
    assert catalogue.resolve(adam) is adam
    assert catalogue.resolve(here).rule is here
    assert catalogue.resolve(plainly).title == "plainly"
    assert catalogue.resolve(torch.optim.RAdam).title == "RAdam"
    assert pickle.loads(pickle.dumps(catalogue.resolve(here))).rule is here


def test_what_is_refused(folder: Path) -> None:
    mine, classes = f"{folder}/mine.py", f"{folder}/classes.py"
    assert "did you mean 'plain'" in refused(f"{mine}:plan")
    assert "there is no file" in refused(f"{folder}/nowhere.py:plain")
    assert "is 3, neither a rule" in refused(f"{mine}:thing")
    assert "neither a rule" in refused(3)
    assert "if g > 0" in refused(f"{mine}:branching")
    assert "positional and has a default" in refused(f"{mine}:late")
    assert "is a class but no torch.optim.Optimizer" in refused(f"{classes}:Other")
    assert "needs an argument 'name'" in refused(f"{classes}:NeedsName")
    assert "RuntimeError: no way" in refused(f"{classes}:Broken")
    assert "only a base" in refused("torch.optim:Optimizer")
    assert "needs an argument 'defaults'" in refused("thalweg.optim:RuleOptimizer")
    assert "can't train a matrix and a vector" in refused("torch.optim:SparseAdam")


def test_a_class_is_tried_without_touching_anybodys_randomness() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    catalogue.resolve("torch.optim:RAdam")
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_legal_is_inferred_where_the_name_tells(folder: Path) -> None:
    by_name = {
        hyper.name: hyper.rule for hyper in catalogue.resolve(f"{folder}/mine.py:decorated").hyperparameters
    }
    fraction, least = "at least 0 and below 1", "at least 0"
    assert by_name == {"lr": least, "beta": fraction, "floor": "", "shift": "", "weight_decay": least}
    radam = catalogue.resolve("torch.optim:RAdam")
    assert [hyper.rule for hyper in radam.hyperparameters] == [least, fraction, fraction, least, least]
    with pytest.raises(OptionError, match=r"torch\.optim:RAdam: beta1 is 1\.5, but must be at least 0"):
        radam.make([start()], beta1=1.5)
    with pytest.raises(OptionError, match=r"mine\.py:decorated: lr is -1, but must be at least 0"):
        catalogue.resolve(f"{folder}/mine.py:decorated").make([start()], lr=-1)
    catalogue.resolve(f"{folder}/mine.py:decorated").make([start()], shift=-7)


def test_what_is_whole_is_said_by_the_type_and_not_by_a_default_of_zero() -> None:
    sgd = catalogue.resolve("torch.optim:SGD")
    assert not any(hyper.whole for hyper in sgd.hyperparameters)
    made = sgd.make([start()], momentum=0.5, weight_decay=0.01)
    assert made.param_groups[0]["weight_decay"] == 0.01
    whole = {hyper.name for hyper in catalogue.resolve("torch.optim:LBFGS").hyperparameters if hyper.whole}
    assert whole == {"max_iter", "history_size"}
