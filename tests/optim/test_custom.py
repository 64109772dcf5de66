"""A person's own rule: plain functions, rules and files become optimizers."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from thalweg import optim, rules
from thalweg.errors import OptionError, RuleError
from thalweg.optim.custom import OptimizerFactory

from .problems import close, parameters, set_gradients, train


@rules.rule(initial={"scale": "start"})
def careful(
    p: Any,
    g: Any,
    scale: Any,
    v: Any,
    *,
    lr: float = 0.1,
    momentum: float = 0.5,
    start: float = 2.0,
    signed: bool = False,
    t: int,
) -> Any:
    scale = rules.maximum(0.9 * scale, rules.abs(g))
    v = momentum * v + (rules.sign(g) if signed else g / scale)
    return p - lr / t**0.5 * v, scale, v


@pytest.mark.parametrize("signed", [False, True])
def test_against_the_function_itself(signed: bool) -> None:
    a, b = parameters(), [p.detach().clone() for p in parameters()]
    optimizer = optim.from_rule(careful, signed=signed)(a, lr=0.03)
    state = [(torch.full_like(p, 2.0), torch.zeros_like(p)) for p in b]
    for step in range(50):
        set_gradients(a, step)
        for i, (p, (scale, v)) in enumerate(zip(b, state, strict=True)):
            g = a[i].grad
            scale = torch.maximum(0.9 * scale, g.abs())  # type: ignore[union-attr]
            v = 0.5 * v + (g.sign() if signed else g / scale)  # type: ignore[union-attr, operator]
            b[i] = p - 0.03 / (step + 1) ** 0.5 * v
            state[i] = (scale, v)
        optimizer.step()
        close([p.detach() for p in a], b)
    names = {"step", "v"} if signed else {"step", "scale", "v"}
    assert set(optimizer.state[a[0]]) >= names


def test_plain_functions_and_files(tmp_path: Path) -> None:
    text = "def descend(p, g, *, lr=0.5):\n    return p - lr * g\n"
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    a, b = parameters(), parameters()
    ours = optim.from_rule(f"{tmp_path}/mine.py:descend")(a, lr=0.25)
    train(ours, a, range(5))
    theirs = torch.optim.SGD(b, lr=0.25, foreach=False)
    train(theirs, b, range(5))
    close(a, b)
    # An optimizer of a rule from a file is pickled with it.
    held_params, held = pickle.loads(pickle.dumps((a, ours)))
    train(held, held_params, range(5, 8))
    train(ours, a, range(5, 8))
    close(list(held_params), a)


def test_defaults_groups_and_the_face() -> None:
    factory = optim.from_rule(careful, lr=0.7)
    assert factory == OptimizerFactory(careful, {"lr": 0.7})
    params = parameters()
    optimizer = factory([{"params": params[:1]}, {"params": params[1:], "momentum": 0.1}], start=3.0)
    first, second = ({k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups)
    assert first == {
        "lr": 0.7, "momentum": 0.5, "start": 3.0, "signed": False, "maximize": False, "differentiable": False,
    }  # fmt: skip
    assert second == {**first, "momentum": 0.1}
    assert repr(optimizer).startswith("careful (")
    assert pickle.loads(pickle.dumps(factory)) == factory


def test_wrong_names_and_values() -> None:
    with pytest.raises(OptionError, match=r"rule careful has no setting 'momentun'; did you mean 'momentum'"):
        optim.from_rule(careful, momentun=0.1)
    factory = optim.from_rule(careful)
    with pytest.raises(OptionError, match=r"no setting 'Ir'"):
        factory(parameters(), Ir=0.1)
    with pytest.raises(OptionError, match=r"careful: lr is 'fast'; give a number"):
        factory(parameters(), lr="fast")
    with pytest.raises(OptionError, match=r"option signed of rule careful is 'yes'"):
        factory(parameters(), signed="yes")
    with pytest.raises(RuleError, match="no rule"):
        optim.from_rule(3)  # type: ignore[arg-type]

    def clash(p: Any, g: Any, *, lr: float = 0.1, maximize: bool = False) -> Any:
        return p - lr * g

    with pytest.raises(OptionError, match="called maximize"):
        optim.from_rule(clash)
