"""Prints a program's instructions as statements; what an operation looks like is a dialect's business."""

from __future__ import annotations

from collections.abc import Mapping

from thalweg.rules.program import Program

__all__ = ["PYTHON", "TRITON", "output_names", "scalar_names", "statements"]

PYTHON: Mapping[str, str] = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "neg": "-{}",
    "abs": "abs({})",
    "sqrt": "sqrt({})",
    "sign": "one if {0} > zero else (-one if {0} < zero else {0})",
    "minimum": "{0} if ({0} < {1}) | ({0} != {0}) else {1}",
    "maximum": "{0} if ({0} > {1}) | ({0} != {0}) else {1}",
    "where": "{1} if {0} else {2}",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "gt": "{} > {}",
    "ge": "{} >= {}",
    "eq": "{} == {}",
    "ne": "{} != {}",
}
"""Python's own spelling. ``zero`` and ``one`` are constants of the compute type."""

# Triton's own division and root are approximate in float32, and the exact ones exist for float32 alone. Its
# unary minus is 0 - x, which loses the sign of a zero, as its minimum does.
_TRITON_ANY: Mapping[str, str] = {
    **{op: PYTHON[op] for op in ("add", "sub", "mul", "lt", "le", "gt", "ge", "eq", "ne")},
    "neg": "{} * -1.0",
    "abs": "tl.abs({})",
    "sign": "tl.where({0} > 0.0, 1.0, tl.where({0} < 0.0, -1.0, {0}))",
    "minimum": "tl.where(({0} < {1}) | ({0} != {0}), {0}, {1})",
    "maximum": "tl.where(({0} > {1}) | ({0} != {0}), {0}, {1})",
    "where": "tl.where({}, {}, {})",
}

TRITON: Mapping[str, Mapping[str, str]] = {
    "float32": {**_TRITON_ANY, "div": "tl.div_rn({}, {})", "sqrt": "tl.sqrt_rn({})"},
    "float64": {**_TRITON_ANY, "div": "{} / {}", "sqrt": "tl.sqrt({})"},
}
"""Triton's spelling on blocks, by compute type, where every operation is rounded once, to the nearest."""


def statements(program: Program, dialect: Mapping[str, str]) -> list[str]:
    """Print one assignment an instruction.

    The inputs are called ``x0, x1, ...``, the scalars ``c0, c1, ...``, the results ``v0, v1, ...``.

    Args:
        program: a portable program.
        dialect: operation to a format string over its arguments.

    >>> from thalweg.rules import as_rule, trace
    >>> rule = as_rule(lambda p, g, *, lr=0.1: p - lr * g)
    >>> statements(trace(rule, {}, frozenset()), PYTHON)
    ['v0 = c0 * x1', 'v1 = x0 - v0']
    """
    names = _names(program)
    first = len(program.inputs) + program.scalar_count
    return [
        f"{names[first + at]} = {dialect[instruction.op].format(*(names[n] for n in instruction.args))}"
        for at, instruction in enumerate(program.instructions)
    ]


def scalar_names(program: Program) -> list[str]:
    """Return the names of the hoisted scalars."""
    return [f"c{i}" for i in range(program.scalar_count)]


def output_names(program: Program) -> list[str]:
    """Return what the new parameter and each new live state are called."""
    names = _names(program)
    return [names[number] for number in program.outputs]


def _names(program: Program) -> list[str]:
    inputs = [f"x{i}" for i in range(len(program.inputs))]
    return [*inputs, *scalar_names(program), *(f"v{i}" for i in range(len(program.instructions)))]
