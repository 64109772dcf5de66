"""A traced rule as straight-line code: inputs, hoisted scalars, instructions, outputs.

Values are numbered: first the parameter, the gradient and the live states, then the hoisted scalars,
then one value an instruction. What depends on scalars alone is Python source, run in float64 once a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.rules import vocabulary

__all__ = ["Instruction", "Program", "compute_dtype", "scalar_tensors"]

Floats = np.ndarray[Any, np.dtype[np.float64]]

_TORCH: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "neg": torch.neg,
    "pow": torch.pow,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    **{word: getattr(vocabulary, word) for word in vocabulary.__all__},
}


@dataclass(frozen=True)
class Instruction:
    """``op`` applied to the values numbered ``args``."""

    op: str
    args: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Program:
    """One specialisation of a rule.

    Attributes:
        name: of the rule.
        states: the live states: those that are read, or handed back changed.
        inputs: names of the first values: ``p``, ``g`` and the live states.
        scalar_source: Python source of ``hoist(hyperparameters..., t)``.
        scalar_count: how many scalars are hoisted.
        instructions: the elementwise work, in order.
        outputs: number of the value of the new parameter, then of each live state.
        decisions: hyperparameter to "it is zero", as this specialisation supposes.
        portable: whether every operation is the same, to the bit, on every runtime.
    """

    name: str
    states: tuple[str, ...]
    inputs: tuple[str, ...]
    scalar_source: str
    scalar_count: int
    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]
    decisions: Mapping[str, bool]
    portable: bool
    _hoist: Callable[..., tuple[Any, ...]] = field(init=False, repr=False)
    _releases: tuple[tuple[int, ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Underscored, so that no hyperparameter hides one of them.
        names: dict[str, Any] = {f"_{word}": getattr(vocabulary, word) for word in vocabulary.__all__}
        names |= {"_power": _power, "_where": np.where}
        exec(compile(self.scalar_source, f"<scalars of {self.name}>", "exec"), names)
        object.__setattr__(self, "_hoist", names["hoist"])
        first = len(self.inputs) + self.scalar_count
        last: dict[int, int] = {}
        for at, instruction in enumerate(self.instructions):
            last |= dict.fromkeys(instruction.args, at)
        for kept in self.outputs:
            last.pop(kept, None)
        releases: list[list[int]] = [[] for _ in self.instructions]
        for number, at in last.items():
            if number >= first:
                releases[at].append(number)
        object.__setattr__(self, "_releases", tuple(map(tuple, releases)))

    def scalars(self, hyper: Mapping[str, Any], t: Any) -> Floats:
        """Compute the hoisted scalars on the host in float64.

        Args:
            hyper: every hyperparameter of the rule, a float or an array ``[K]``.
            t: the step count from 1, an int or an int array ``[K]``.

        Returns:
            float64 ``[S]``, or ``[S, K]`` where anything given is an array.
        """
        given = {name: np.asarray(value, dtype=np.float64)[()] for name, value in hyper.items()}
        with np.errstate(all="ignore"):
            values = self._hoist(**given, t=np.asarray(t, dtype=np.float64)[()])
        lanes = next((len(value) for value in given.values() if value.ndim), np.size(t) if np.ndim(t) else 0)
        if not lanes:
            return np.array(values, dtype=np.float64).reshape(self.scalar_count)
        result = np.empty((self.scalar_count, lanes))
        for row, value in enumerate(values):
            result[row] = value
        return result

    def evaluate(
        self, p: Tensor, g: Tensor, states: Mapping[str, Tensor], scalars: Floats | Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute one step with torch operations, on any device, under autograd and vmap.

        Args:
            p: parameter, ``[...]``, or ``[K, ...]`` with scalars ``[S, K]``.
            g: gradient, of the same shape.
            states: name to tensor, for each of ``self.states``.
            scalars: what :meth:`scalars` returned, or the same as tensors that broadcast against ``p``.

        Returns:
            The new parameter and states, in the compute dtype: float64 for float64, else float32.
        """
        dtype = compute_dtype(p.dtype)
        if isinstance(scalars, np.ndarray):
            scalars = scalar_tensors(scalars, p)
        values: list[Any] = [p.to(dtype), g.to(dtype), *(states[name].to(dtype) for name in self.states)]
        values += scalars
        for instruction, released in zip(self.instructions, self._releases, strict=True):
            values.append(_TORCH[instruction.op](*[values[number] for number in instruction.args]))
            for number in released:
                values[number] = None
        new_p, *new_states = [values[number].broadcast_to(p.shape) for number in self.outputs]
        return new_p, dict(zip(self.states, new_states, strict=True))


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type that a rule computes in, and keeps its states in, for a parameter's type.

    >>> compute_dtype(torch.bfloat16)
    torch.float32
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def scalar_tensors(scalars: Floats, p: Tensor) -> list[Tensor]:
    """Cast hoisted scalars to the compute dtype, shaped to broadcast against ``p``."""
    cast = torch.from_numpy(scalars).to(compute_dtype(p.dtype)).to(p.device)
    shape = (scalars.shape[1],) + (1,) * (p.ndim - 1) if scalars.ndim == 2 else ()
    return [row.reshape(shape) for row in cast.unbind()]


def _power(base: Any, exponent: Any) -> Any:
    # NumPy's pow has other bits for an array than for a number, and a lane must not depend on its company.
    if np.ndim(base) or np.ndim(exponent):
        bases, exponents = (part.tolist() for part in np.broadcast_arrays(base, exponent))
        try:
            return np.array(list(map(math.pow, bases, exponents)))
        except (OverflowError, ValueError):
            return np.array([_power(b, e) for b, e in zip(bases, exponents, strict=True)])
    try:
        return np.float64(math.pow(base, exponent))
    except OverflowError:
        return np.float64(-math.inf if base < 0 and exponent % 2 == 1 else math.inf)
    except ValueError:
        odd = exponent % 2 == 1
        return np.float64(math.nan if base else math.copysign(math.inf, base) if odd else math.inf)
