"""The tracer: calls a rule once and keeps what it computed as a :class:`~thalweg.rules.program.Program`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from thalweg.errors import RuleError
from thalweg.rules.graph import Tape, Traced, blame, blame_exception
from thalweg.rules.program import Instruction, Program
from thalweg.rules.rule import Rule

__all__ = ["trace"]

_HOST = {
    "add": "({} + {})",
    "sub": "({} - {})",
    "mul": "({} * {})",
    "div": "({} / {})",
    "neg": "(-{})",
    "abs": "_abs({})",
    "pow": "_power({}, {})",
    "sqrt": "_sqrt({})",
    "sign": "_sign({})",
    "minimum": "_minimum({}, {})",
    "maximum": "_maximum({}, {})",
    "where": "_where({}, {}, {})",
    "truth": "_where({}, 1.0, 0.0)",
    "lt": "({} < {})",
    "le": "({} <= {})",
    "gt": "({} > {})",
    "ge": "({} >= {})",
    "eq": "({} == {})",
    "ne": "({} != {})",
}

# Few rules times few options: a list to look through is faster than a key that holds every hyperparameter.
_traced: WeakKeyDictionary[Rule, dict[tuple[Any, ...], list[Program]]] = WeakKeyDictionary()


def trace(
    rule: Rule, options: Mapping[str, bool | str], zero: frozenset[str], *, maximize: bool = False
) -> Program:
    """Write a rule down as a program.

    The result is kept: only options and those zeros that the rule decides on lead to another trace.

    Args:
        rule: the rule.
        options: its static options; those left out have their default.
        zero: the hyperparameters that are 0.
        maximize: climb: the gradient's sign is changed first.

    Raises:
        RuleError: the rule can't be traced; the message names file, line, the line itself and a remedy.
        OptionError: an option that the rule doesn't have.

    >>> from thalweg.rules.rule import as_rule
    >>> program = trace(as_rule(lambda p, g, *, lr=0.1, t: p - lr / (1 + t) * g), {}, frozenset())
    >>> [instruction.op for instruction in program.instructions]
    ['mul', 'sub']
    >>> program.scalars({"lr": 0.5}, t=4)
    array([0.1])
    """
    _, chosen = rule.settle({}, options)
    programs = _traced.setdefault(rule, {}).setdefault((maximize, *chosen.values()), [])
    for program in programs:
        if all((name in zero) == is_zero for name, is_zero in program.decisions.items()):
            return program
    program = _trace(rule, chosen, zero, maximize)
    programs.append(program)
    return program


def _trace(rule: Rule, options: Mapping[str, bool | str], zero: frozenset[str], maximize: bool) -> Program:
    tape = Tape(zero)
    p, g = (tape.value("input", name=name, tensor=True) for name in ("p", "g"))
    states = [_state(rule, tape, name) for name in rule.states]
    names = [*rule.hyperparameters, *(["t"] if rule.uses_step else [])]
    keywords: dict[str, Any] = {name: tape.value("hyper", name=name) for name in names}
    try:
        returned = rule.function(p, -g if maximize else g, *states, **keywords, **options)
    except RuleError:
        raise
    except Exception as error:
        raise blame_exception(error, rule.function) from error
    new_p, *new_states = _results(rule, tape, returned)

    live = _live(states, new_p, new_states)
    needed = [i for i, state in enumerate(states) if id(state) in live or new_states[i] is not state]
    kept = [i for i in needed if states[i].is_tensor]
    held = [i for i in needed if not states[i].is_tensor]
    inputs = [p, g, *(states[i] for i in kept)]
    outputs = [new_p, *(new_states[i] for i in kept)]
    order = _tensor_order(outputs)
    scalars = _boundary(order, outputs)
    numbers = {id(value): number for number, value in enumerate([*inputs, *scalars])}
    instructions = []
    for value in order:
        numbers[id(value)] = len(numbers)
        instructions.append(Instruction(value.op, tuple(numbers[id(arg)] for arg in value.args)))
    return Program(
        name=rule.name,
        states=tuple(rule.states[i] for i in kept),
        inputs=tuple(value.name for value in inputs),
        scalar_states=tuple(rule.states[i] for i in held),
        scalar_source=_scalar_source(
            [*rule.hyperparameters, "t", *(rule.states[i] for i in held)],
            [*scalars, *(new_states[i] for i in held)],
        ),
        scalar_count=len(scalars),
        instructions=tuple(instructions),
        outputs=tuple(numbers[id(value)] for value in outputs),
        decisions=dict(tape.decisions),
        portable=all(instruction.op != "pow" for instruction in instructions),
    )


def _state(rule: Rule, tape: Tape, name: str) -> Traced:
    if name in rule.scalars:
        return tape.value("scalar", name=name, tensor=False)
    return tape.value("input", name=name, tensor=True)


def _results(rule: Rule, tape: Tape, returned: Any) -> list[Traced]:
    needed = 1 + len(rule.states)
    results = list(returned) if isinstance(returned, tuple | list) else [returned]
    code = rule.function.__code__
    if len(results) != needed:
        raise blame(
            f"rule {rule.name} returns {len(results)} value{'s' * (len(results) != 1)}, not {needed}",
            f"return {', '.join(('p', *rule.states))}, in this order",
            place=(code, _last_return(rule)),
        )
    for result in results:
        number = isinstance(result, Traced | int | float) and not isinstance(result, bool)
        if not number or (isinstance(result, Traced) and result.is_condition):
            what = "a comparison" if isinstance(result, Traced | bool) else repr(result)
            raise blame(
                f"rule {rule.name} returns {what}, which is no number",
                "return the new parameter and states",
                place=(code, _last_return(rule)),
            )
    lifted = [tape.lift(result) for result in results]
    for name, result in zip(rule.states, lifted[1:], strict=True):
        if name in rule.scalars and result.is_tensor:
            raise blame(
                f"{name} is one number, but is returned as something that differs from element to element",
                "compute it from hyperparameters, t and other scalars, or take it out of scalars=",
                place=(code, _last_return(rule)),
            )
    return lifted


def _last_return(rule: Rule) -> int:
    first = rule.function.__code__.co_firstlineno
    try:
        lines, first = inspect.getsourcelines(rule.function)
    except OSError:
        return first
    returns = [at for at, line in enumerate(lines) if line.strip().startswith("return")]
    return first + (returns[-1] if returns else 0)


def _live(states: list[Traced], new_p: Traced, new_states: list[Traced]) -> set[int]:
    # A state that only hands itself back is not thereby read.
    roots = [new_p, *(new for old, new in zip(states, new_states, strict=True) if new is not old)]
    return {id(value) for value in _reached(roots) if value.op in ("input", "scalar")}


def _reached(roots: list[Traced]) -> list[Traced]:
    """Everything the roots are computed from, arguments first."""
    order: list[Traced] = []
    seen: set[int] = set()
    pending = [(root, False) for root in reversed(roots)]
    while pending:
        value, ready = pending.pop()
        if ready:
            order.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            pending.append((value, True))
            pending += [(arg, False) for arg in reversed(value.args)]
    return order


def _tensor_order(outputs: list[Traced]) -> list[Traced]:
    return [value for value in _reached(outputs) if value.is_tensor and value.op != "input"]


def _boundary(order: list[Traced], outputs: list[Traced]) -> list[Traced]:
    """Scalars that tensors are computed from, and those that are results themselves."""
    used = [arg for value in order for arg in value.args] + outputs
    return list({id(value): value for value in used if not value.is_tensor}.values())


def _scalar_source(names: list[str], scalars: list[Traced]) -> str:
    lines = [f"def hoist({', '.join(names)}):"]
    spelled: dict[int, str] = {}
    for value in _reached(scalars):
        if value.op in ("hyper", "scalar"):
            spelled[id(value)] = value.name
        elif value.op == "const":
            spelled[id(value)] = _literal(value.number)
        else:
            spelled[id(value)] = f"h{len(spelled)}_"
            call = _HOST[value.op].format(*(spelled[id(arg)] for arg in value.args))
            lines.append(f"    {spelled[id(value)]} = {call}")
    results = "".join(f"{spelled[id(value)]}, " for value in scalars)
    return "\n".join([*lines, f"    return ({results})", ""])


def _literal(number: float) -> str:
    return f"({number!r})" if number - number == 0 else f"float({str(number)!r})"
