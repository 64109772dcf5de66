"""Anybody's own optimizer as a row: rules, functions and torch classes, by name."""

from __future__ import annotations

import copyreg
import inspect
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from thalweg.catalogue.entry import Call, Entry, Hyperparameter
from thalweg.catalogue.second_order import OF_RUN
from thalweg.catalogue.table import get
from thalweg.errors import RuleError
from thalweg.optim.custom import from_rule
from thalweg.rules import MatrixRule, Rule, as_rule, trace
from thalweg.settings.plugins import is_file_spec, load_object
from thalweg.settings.tables import as_whole, is_number

__all__ = ["refusal_by_name", "resolve"]

# An entry is its name: other processes look it up, so that rules from files travel too.
copyreg.pickle(Entry, lambda entry: (resolve, (entry.name,)))

# what anybody means by these names; of any other name nothing is known
_FROM_ZERO = ("eps", "lr", "weight_decay")
_FRACTIONS = ("beta", "beta1", "beta2", "momentum")


def resolve(spec: object) -> Entry:
    """Return the entry of a name, ``"file.py:my_rule"``, ``"file.py:Class"`` or ``"torch.optim:RAdam"``.

    A rule, or a plain function of a rule's form, runs in lanes, and its ``lr`` is searched over 1e-4 to 1,
    or over two decades either way of its default where that lies outside. Of an optimizer class ``lr``
    is searched over two decades either way of its default, and, where its step needs a closure, the size
    of its batches too. All else keeps its default unless given a
    range. Both are tried once, so that what can't be raced is refused here.

    Args:
        spec: as above; a rule, function or class itself, if it can be imported by name; or an entry.

    Raises:
        RuleError: nothing of that name; the file raises; neither rule nor optimizer class; a rule that
            can't be traced; a class that needs arguments, or can't take a step.

    >>> resolve("torch.optim:RAdam").hyperparameters[0].high
    0.1
    """
    if isinstance(spec, Entry):
        return spec
    if isinstance(spec, str):
        if ":" not in spec:
            return get(spec)
        found, name = load_object(spec), spec
    else:
        found = spec
        of = spec.function if isinstance(spec, Rule) else spec
        name = f"{getattr(of, '__module__', '')}:{getattr(of, '__qualname__', '')}"
    if isinstance(found, type):
        return _of_class(name, found)
    if isinstance(found, Rule) or inspect.isfunction(found):
        return _of_rule(name, as_rule(found))
    raise RuleError(
        f"{spec if isinstance(spec, str) else 'what was given'} is {found!r}, neither a rule (a function of "
        f"parameter, gradient and states) nor an optimizer class; name one of these"
    )


def _of_rule(spec: str, rule: Rule) -> Entry:
    if not isinstance(rule, MatrixRule):
        trace(
            rule, rule.options, frozenset(name for name, value in rule.hyperparameters.items() if not value)
        )
    imports, name = _imports(spec)
    return Entry(
        name=spec,
        title=rule.name,
        family="rule",
        formula="",
        summary=_first_sentence(rule.function, f"The rule {rule.name}."),
        source=spec,
        hyperparameters=tuple(
            _guessed(name, default, 1e-4, 1.0) for name, default in rule.hyperparameters.items()
        ),
        rule=rule,
        options=rule.options,
        call=Call(
            target=from_rule(rule),
            spelling=f"thalweg.optim.from_rule({name})",
            imports=("import thalweg.optim", *imports),
            always=("lr",),
        ),
    )


def _of_class(spec: str, found: type) -> Entry:
    if not issubclass(found, Optimizer):
        raise RuleError(f"{spec} is a class but no torch.optim.Optimizer; derive it from that")
    if found is Optimizer or inspect.isabstract(found):
        raise RuleError(f"{spec} is only a base of optimizers; name one that can be made")
    hyperparameters: list[Hyperparameter] = []
    pairs: dict[str, tuple[str, str]] = {}
    always: tuple[str, ...] = ()
    for parameter in list(inspect.signature(found).parameters.values())[1:]:
        name, default = parameter.name, parameter.default
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if default is parameter.empty:
            if name != "lr":
                raise RuleError(
                    f"{spec} needs an argument {name!r}, which a race can't choose; give it a default"
                )
            default, always = 1e-3, ("lr",)
        if _is_pair(name, default):
            pairs[name] = ("beta1", "beta2")
            hyperparameters += [_guessed(f"beta{i}", float(beta)) for i, beta in enumerate(default, 1)]
        elif is_number(default):
            whole = _is_whole(parameter.annotation, default)
            hyperparameters.append(replace(_guessed(name, float(default)), whole=whole))
    imports, name = _imports(spec)
    closure = inspect.signature(found.step).parameters.get("closure")
    wants_closure = closure is not None and closure.default is closure.empty
    entry = Entry(
        name=spec,
        title=found.__name__,
        family="class",
        formula="",
        summary=_first_sentence(found, f"The optimizer class {found.__name__}."),
        source=spec,
        hyperparameters=(*hyperparameters, *(OF_RUN if wants_closure else ())),
        rule=None,
        options={},
        call=Call(target=found, spelling=name, imports=imports, pairs=pairs, always=always),
        step_kind="closure" if wants_closure else "gradient",
    )
    _try(entry)
    return entry


def _try(entry: Entry) -> None:
    """Take two steps on a matrix and a vector."""
    params = [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]
    with torch.random.fork_rng(devices=[]):
        try:
            optimizer = entry.make(params)

            def closure() -> torch.Tensor:
                optimizer.zero_grad()
                value = sum((p * p).sum() for p in params)
                assert isinstance(value, torch.Tensor)
                value.backward()  # type: ignore[no-untyped-call]
                return value

            for _ in range(2):
                if entry.step_kind == "closure":
                    optimizer.step(closure)  # type: ignore[arg-type]
                    continue
                for p in params:
                    p.grad = torch.full_like(p, 0.1)
                optimizer.step()
        except Exception as problem:
            said = " ".join(str(problem).split())
            raise RuleError(
                f"{entry.name} can't train a matrix and a vector ({type(problem).__name__}: {said}); "
                f"name an optimizer that takes any parameters"
            ) from problem


def _is_pair(name: str, default: object) -> bool:
    return name == "betas" and isinstance(default, tuple) and len(default) == 2


def _is_whole(annotation: object, default: float) -> bool:
    """Whether a number counts something: by its type or, where none is given, by a default such as 10."""
    if annotation is inspect.Parameter.empty:
        return as_whole(default) is not None and abs(default) > 1
    return annotation in (int, "int")


def refusal_by_name(name: str, value: Any) -> str | None:
    """Say why no optimizer can have such a value, where the name of the hyperparameter alone tells.

    >>> refusal_by_name("lr", -1)
    'is -1, but must be at least 0; give one such as 0.001'
    >>> refusal_by_name("shift", -1)
    """
    return _guessed(name, 1e-3).refusal(value) if name in _FROM_ZERO else None


def _guessed(name: str, default: float, low: float = math.inf, high: float = -math.inf) -> Hyperparameter:
    """What is known of a number by its name and default; only ``lr`` is searched by itself."""
    guessed = _ranged(name, default, low, high)
    if name in _FROM_ZERO and default >= 0:
        return replace(guessed, least=0.0)
    if name in _FRACTIONS and 0 <= default < 1:
        return replace(guessed, least=0.0, below=1.0)
    return guessed


def _ranged(name: str, default: float, low: float, high: float) -> Hyperparameter:
    if name == "lr" and default > 0:
        if not low <= default <= high:
            low, high = _rounded(default / 100), _rounded(default * 100)
        return Hyperparameter(name=name, default=default, low=low, high=high, searched=True)
    if 0.5 <= default < 1:
        far, near = min(0.5, 10 * (1 - default)), (1 - default) / 10
        low, high = round(1 - far, 12), round(1 - near, 12)
        return Hyperparameter(name=name, default=default, low=low, high=high, scale="complement")
    if default > 0:
        return Hyperparameter(
            name=name, default=default, low=_rounded(default / 100), high=_rounded(default * 100)
        )
    if name.endswith("decay") and default == 0:
        return Hyperparameter(name=name, default=default, low=1e-6, high=1e-1)
    width = 2 * abs(default) or 1.0
    return Hyperparameter(name=name, default=default, low=min(0.0, -width if default else 0.0),
                          high=0.0 if default else width, scale="linear")  # fmt: skip


def _rounded(value: float) -> float:
    return float(f"{value:.12g}")


def _imports(spec: str) -> tuple[tuple[str, ...], str]:
    """The lines that bring the object of a spec into a script, and what it is called there."""
    place, _, name = spec.rpartition(":")
    if place == "torch.optim":
        return (), f"torch.optim.{name}"
    outer = name.partition(".")[0]
    if not is_file_spec(spec):
        return (f"from {place} import {outer}",), name
    path = Path(place).resolve()
    # The file's own folder is where it finds what lies beside it, as when it is run.
    lines = ("import runpy", "import sys", f"sys.path.append({str(path.parent)!r})")
    return (*lines, f"{outer} = runpy.run_path({str(path)!r})[{outer!r}]"), name


def _first_sentence(documented: object, otherwise: str) -> str:
    lines = (getattr(documented, "__doc__", None) or "").strip().splitlines()
    return lines[0].strip() if lines else otherwise
