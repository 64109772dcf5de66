"""A rule: one optimizer step for one element, written as on the slide.

A state that a specialisation hands back unchanged and reads nowhere is not allocated (``amsgrad=False``). A
power that is no product or root (``g**1.7``) makes the rule run eagerly.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, overload

from thalweg.errors import OptionError, RuleError, nearest
from thalweg.settings.tables import is_number

__all__ = ["Rule", "as_rule", "rule"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Rule:
    """An elementwise update rule: a pure function and what its signature says.

    Made by :func:`rule` or :func:`as_rule`. Calling it calls the function itself, on tensors, floats or
    anything with arithmetic.

    Attributes:
        name: of the function.
        function: ``f(p, g, *states, *, hyperparameters, options, t) -> p`` or ``(p, *states)``.
        states: names of the states, in order.
        hyperparameters: name to default, numbers that may differ from step to step and lane to lane.
        options: name to default, ``bool`` or ``str``: static choices.
        initial: state to its first value, a number or the name of a hyperparameter, or of the parameter
            itself; 0 if left out.
        uses_step: whether the function takes ``t``, the step count from 1.
        parameter: what the function calls the parameter.
        scalars: the states that are one number rather than one for each element.
        shown: a rule that makes of the parameter what is to be evaluated and used; None: the parameter is.
    """

    name: str
    function: Callable[..., Any]
    states: tuple[str, ...]
    hyperparameters: Mapping[str, float]
    options: Mapping[str, bool | str]
    initial: Mapping[str, float | str]
    uses_step: bool
    parameter: str = "p"
    scalars: tuple[str, ...] = ()
    shown: Rule | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<rule {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # The module's name for the function is bound to the rule, so the function alone can't be pickled.
        return _load, (self.function.__module__, self.function.__qualname__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rule:
        return self

    def settle(
        self, hyper: Mapping[str, Any], options: Mapping[str, bool | str]
    ) -> tuple[dict[str, Any], dict[str, bool | str]]:
        """Fill in the defaults of what was left out.

        Raises:
            OptionError: a name that the rule doesn't have, or an option of the wrong kind.

        >>> settled, _ = as_rule(lambda p, g, *, lr=0.1: p - lr * g).settle({"lr": 1.0}, {})
        >>> settled
        {'lr': 1.0}
        """
        settled = {**self.hyperparameters, **hyper}
        if len(settled) != len(self.hyperparameters):
            self._unknown("hyperparameter", hyper, self.hyperparameters)
        chosen = {**self.options, **options}
        if len(chosen) != len(self.options):
            self._unknown("option", options, self.options)
        for name, value in options.items():
            if type(value) is not type(self.options[name]):
                raise OptionError(
                    f"option {name} of rule {self.name} is {value!r}; "
                    f"give a {type(self.options[name]).__name__} such as {self.options[name]!r}"
                )
        return settled, chosen

    def _unknown(self, kind: str, given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        name = next(name for name in given if name not in known)
        raise OptionError(f"rule {self.name} has no {kind} {name!r}; {nearest(name, known)}")


@overload
def rule(function: Callable[..., Any], /) -> Rule: ...
@overload
def rule(
    *, initial: Mapping[str, float | str] = ..., scalars: Sequence[str] = ..., shown: Rule | None = ...
) -> Callable[[Callable[..., Any]], Rule]: ...
def rule(
    function: Callable[..., Any] | None = None,
    /,
    *,
    initial: Mapping[str, float | str] | None = None,
    scalars: Sequence[str] = (),
    shown: Rule | None = None,
) -> Rule | Callable[[Callable[..., Any]], Rule]:
    """Make a rule of a function (decorator).

    Args:
        function: positional parameters are the parameter, the gradient and the states; keyword-only ones
            are hyperparameters (numeric default), options (``bool`` or ``str`` default) and ``t`` (no
            default), the step count from 1. It returns the new parameter and states, in order.
        initial: state to its first value: a number, or the name of a hyperparameter or of the parameter
            itself; others start at 0.
        scalars: states that are one number, not one for each element: a product or a sum over the steps of
            what depends on hyperparameters, the step and other such states alone. They are kept in float64
            and computed once a step, as everything is that depends on scalars alone.
        shown: a rule over some of the same states and hyperparameters, whose new parameter is what should
            be evaluated and used, where that isn't the parameter itself (a mean, for instance).

    The function may ask ``if decay:`` of a hyperparameter, to leave out work and states while it is 0. Among
    lanes of which only some have a zero, all take the branch of the others: it must come to the same there.

    Raises:
        RuleError: the signature isn't of this form.

    >>> @rule
    ... def heavy_ball(p, g, v, *, lr=0.1, a=0.9):
    ...     v = a * v - lr * g
    ...     return p + v, v
    >>> heavy_ball.states, dict(heavy_ball.hyperparameters)
    (('v',), {'lr': 0.1, 'a': 0.9})
    >>> heavy_ball(1.0, 2.0, 0.0, lr=0.5, a=0.9)
    (0.0, -1.0)
    """
    if function is None:
        return lambda decorated: _read(decorated, initial or {}, scalars, shown)
    return _read(function, initial or {}, scalars, shown)


def as_rule(function_or_rule: Callable[..., Any] | Rule) -> Rule:
    """Return a rule as it is, and make one of a plain function.

    The same function gives the same rule every time, so that what was compiled for it is found again.

    Raises:
        RuleError: not a function, or its signature isn't that of a rule.

    >>> as_rule(lambda p, g, *, lr=0.1: p - lr * g).hyperparameters["lr"]
    0.1
    """
    if isinstance(function_or_rule, Rule):
        return function_or_rule
    if not inspect.isfunction(function_or_rule):
        raise RuleError(f"{function_or_rule!r} is no rule; give a function f(p, g, *states, *, lr=...)")
    known: Rule | None = function_or_rule.__dict__.get("__thalweg_rule__")
    if known is None:
        known = _read(function_or_rule, {})
        function_or_rule.__dict__["__thalweg_rule__"] = known
    return known


def _load(module: str, qualname: str) -> Rule:
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return as_rule(found)


def _read(
    function: Callable[..., Any],
    initial: Mapping[str, float | str],
    scalars: Sequence[str] = (),
    shown: Rule | None = None,
) -> Rule:
    code = function.__code__
    place = f"{code.co_filename}, line {code.co_firstlineno}: rule {function.__name__}"
    positional: list[str] = []
    hyperparameters: dict[str, float] = {}
    options: dict[str, bool | str] = {}
    uses_step = False
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            if default is not parameter.empty:
                raise RuleError(
                    f"{place}: {name} is positional and has a default; "
                    f"put hyperparameters and options after a lone * in the signature"
                )
            positional.append(name)
        elif parameter.kind is not parameter.KEYWORD_ONLY:
            raise RuleError(f"{place}: {parameter} can't be traced; name every state and hyperparameter")
        elif name == "t" and default is parameter.empty:
            uses_step = True
        elif name == "t":
            raise RuleError(f"{place}: t has the default {default!r}; t is the step count and has none")
        elif isinstance(default, bool | str):
            options[name] = default
        elif is_number(default):
            hyperparameters[name] = float(default)
        else:
            given = "no default" if default is parameter.empty else f"the default {default!r}"
            raise RuleError(
                f"{place}: {name} has {given}; give a number for a hyperparameter, "
                f"True, False or a string for an option (only t, the step count, has none)"
            )
    if len(positional) < 2:
        raise RuleError(f"{place} takes {positional}; the parameter and the gradient come first")
    states = tuple(positional[2:])
    for state, value in initial.items():
        if state not in states:
            raise RuleError(f"{place}: initial names {state!r}, which is no state; {nearest(state, states)}")
        if isinstance(value, str) and value not in hyperparameters and value != positional[0]:
            raise RuleError(
                f"{place}: the initial value of {state} is {value!r}, which is no hyperparameter; "
                f"{nearest(value, hyperparameters)}"
            )
        if value == positional[0] and state in scalars:
            raise RuleError(
                f"{place}: {state} is one number and can't begin as the parameter; give it a number"
            )
    for state in scalars:
        if state not in states:
            raise RuleError(f"{place}: scalars names {state!r}, which is no state; {nearest(state, states)}")
    if shown is not None:
        foreign = [*(set(shown.states) - set(states)), *(set(shown.hyperparameters) - set(hyperparameters))]
        if foreign:
            raise RuleError(
                f"{place}: {shown.name}, which says what is shown, asks for {foreign[0]!r}, which this rule "
                f"doesn't have; let it take states and hyperparameters of this rule alone"
            )
    made = Rule(
        name=function.__name__,
        function=function,
        states=states,
        hyperparameters=MappingProxyType(hyperparameters),
        options=MappingProxyType(options),
        initial=MappingProxyType(dict(initial)),
        uses_step=uses_step,
        parameter=positional[0],
        scalars=tuple(scalars),
        shown=shown,
    )
    # help() on a rule shows what its author wrote, not what a rule is.
    object.__setattr__(made, "__doc__", function.__doc__)
    return made
