"""Traced values: what a rule is called with while it is written down, and who is to blame when it can't be.

Values that depend on hyperparameters and the step alone are *scalars*; the others are *tensors*. Equal
expressions are one value, so that what a rule says twice is computed once.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FrameType, TracebackType
from typing import Any, NoReturn

import numpy as np
import torch

from thalweg.errors import RuleError, nearest
from thalweg.rules import vocabulary

__all__ = ["Tape", "Traced", "blame", "blame_exception"]

_WORDS = vocabulary.__all__
_COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
# Frames in these places are never the user's: ours that stand between, and the libraries'.
_OURS = tuple(os.path.join(os.path.dirname(__file__), name) for name in ("graph.py", "vocabulary.py"))
_LIBRARIES = tuple(os.path.dirname(str(module.__file__)) + os.sep for module in (np, torch))


class Tape:
    """Interns the values of one trace and answers Python's questions about hyperparameters.

    Args:
        zero: the hyperparameters that are 0.

    Attributes:
        decisions: hyperparameter to "is it zero?", for each that the rule decided on.
    """

    def __init__(self, zero: frozenset[str]) -> None:
        self.zero = zero
        self.decisions: dict[str, bool] = {}
        self._values: dict[tuple[Any, ...], Traced] = {}

    def value(
        self, op: str, *args: Traced, name: str = "", number: float = 0.0, tensor: bool | None = None
    ) -> Traced:
        """Return the one value of this operation and these arguments."""
        key = (op, name, number.hex(), *map(id, args))
        known = self._values.get(key)
        if known is None:
            is_tensor = any(arg.is_tensor for arg in args) if tensor is None else tensor
            known = self._values[key] = Traced(self, op, args, name, number, is_tensor)
        return known

    def lift(self, other: Any) -> Traced:
        """Turn what a rule computes with into a traced value."""
        if isinstance(other, Traced):
            return other
        if isinstance(other, bool | int | float | np.floating | np.integer):
            return self.value("const", number=float(other))
        raise blame(
            f"a {type(other).__module__}.{type(other).__name__} can't be part of a traced rule",
            "use numbers, the rule's own arguments and the words of thalweg.rules",
        )


class Traced:
    """One value of a rule while it is traced.

    Attributes:
        op: ``input``, ``hyper``, ``scalar`` (a state that is one number), ``const``, an operation or a word.
        args: what it is computed from.
        name: of an input, a hyperparameter or a scalar state.
        number: of a constant.
        is_tensor: whether it depends on the parameter, the gradient or a state.
    """

    __slots__ = ("args", "is_tensor", "name", "number", "op", "tape")

    def __init__(
        self, tape: Tape, op: str, args: tuple[Traced, ...], name: str, number: float, is_tensor: bool
    ) -> None:
        self.tape = tape
        self.op = op
        self.args = args
        self.name = name
        self.number = number
        self.is_tensor = is_tensor

    @property
    def is_condition(self) -> bool:
        """Whether this is a comparison."""
        return self.op in _COMPARISONS

    def _make(self, op: str, *args: Any) -> Traced:
        values = [self.tape.lift(arg) for arg in args]
        if any(value.is_condition for value in values):
            raise blame("a comparison isn't a number", "use it as the first argument of where(...)")
        return self.tape.value(op, *values)

    def __rule_word__(self, word: str, args: tuple[Any, ...]) -> Traced:
        if word != "where":
            return self._make(word, *args)
        condition, *sides = args
        if isinstance(condition, bool):
            return self.tape.lift(sides[0] if condition else sides[1])
        if not isinstance(condition, Traced) or not condition.is_condition:
            raise blame("the first argument of where(...) is no comparison", "write where(x > 0, a, b)")
        values = [self.tape.lift(side) for side in sides]
        if any(value.is_condition for value in values):
            raise blame("a comparison isn't a number", "give where(...) numbers to choose from")
        if any(value.is_tensor for value in values) and not condition.is_tensor:
            # Hoisted values are numbers, so a hoisted condition goes to the kernel as 1.0 or 0.0.
            held = self.tape.value("truth", condition)
            condition = self.tape.value("ne", held, self.tape.lift(0.0), tensor=True)
        return self.tape.value("where", condition, *values)

    def __add__(self, other: Any) -> Traced:
        return self._make("add", self, other)

    def __radd__(self, other: Any) -> Traced:
        return self._make("add", other, self)

    def __sub__(self, other: Any) -> Traced:
        return self._make("sub", self, other)

    def __rsub__(self, other: Any) -> Traced:
        return self._make("sub", other, self)

    def __mul__(self, other: Any) -> Traced:
        return self._make("mul", self, other)

    def __rmul__(self, other: Any) -> Traced:
        return self._make("mul", other, self)

    def __truediv__(self, other: Any) -> Traced:
        return self._make("div", self, other)

    def __rtruediv__(self, other: Any) -> Traced:
        return self._make("div", other, self)

    def __neg__(self) -> Traced:
        return self._make("neg", self)

    def __pos__(self) -> Traced:
        return self

    def __abs__(self) -> Traced:
        return self._make("abs", self)

    def __pow__(self, exponent: Any) -> Traced:
        power = self.tape.lift(exponent)
        if power.is_tensor:
            raise blame("the exponent of ** depends on a tensor", "use a number or a hyperparameter")
        if not self.is_tensor or power.op != "const":
            return self._make("pow", self, power)
        return self._power(power.number)

    def _power(self, exponent: float) -> Traced:
        if exponent < 0:
            return 1.0 / self._power(-exponent)
        if exponent == 0.5:
            return self._make("sqrt", self)
        if exponent == 1.0:
            return self
        if exponent == 2.0:
            return self * self
        if exponent == 3.0:
            return self * self * self
        return self._make("pow", self, exponent)

    def __rpow__(self, base: Any) -> Traced:
        if self.is_tensor:
            raise blame("the exponent of ** depends on a tensor", "use a number or a hyperparameter")
        return self._make("pow", base, self)

    def __lt__(self, other: Any) -> Traced:
        return self._make("lt", self, other)

    def __le__(self, other: Any) -> Traced:
        return self._make("le", self, other)

    def __gt__(self, other: Any) -> Traced:
        return self._make("gt", self, other)

    def __ge__(self, other: Any) -> Traced:
        return self._make("ge", self, other)

    def __eq__(self, other: object) -> Traced:  # type: ignore[override]
        return self._make("eq", self, other)

    def __ne__(self, other: object) -> Traced:  # type: ignore[override]
        return self._make("ne", self, other)

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        if self.op == "hyper" and self.name != "t":
            return not self._is_zero()
        if self.op in ("eq", "ne"):
            left, right = self.args
            if left.op == "hyper" and left.name != "t" and right.op == "const" and right.number == 0.0:
                return left._is_zero() == (self.op == "eq")
        raise blame(
            "a Python decision (if, and, or, not, min, max, a chained comparison) has no answer here",
            "use where(condition, a, b), minimum or maximum; only a hyperparameter can be asked, "
            "and only whether it is zero",
        )

    def _is_zero(self) -> bool:
        return self.tape.decisions.setdefault(self.name, self.name in self.tape.zero)

    def _no_number(self, *_: Any) -> NoReturn:
        raise blame(
            "a traced value has no number yet, so float(), int(), round() and math.* can't take it",
            f"use arithmetic and the words {', '.join(_WORDS)} of thalweg.rules",
        )

    __float__ = __int__ = __index__ = __complex__ = __round__ = __trunc__ = __floor__ = __ceil__ = _no_number

    def _no_array(self, *_: Any, **__: Any) -> NoReturn:
        raise blame(
            "NumPy functions and arrays can't take a traced value",
            f"use arithmetic and the words {', '.join(_WORDS)} of thalweg.rules",
        )

    __array__ = __array_ufunc__ = __array_function__ = _no_array

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> NoReturn:
        name = getattr(function, "__name__", str(function))
        same = f"write {name} from thalweg.rules" if name in _WORDS else f"the words are {', '.join(_WORDS)}"
        raise blame(f"torch's {name} can't be traced", f"a rule is arithmetic on one element; {same}")

    def _one_element(self, *_: Any) -> NoReturn:
        raise blame(
            "a traced value is one element, without a shape, a length or parts",
            "write the rule for one element; what needs a whole tensor is no elementwise rule",
        )

    __getitem__ = __setitem__ = __len__ = __contains__ = __matmul__ = __rmatmul__ = _one_element

    def __iter__(self) -> Iterator[Any]:
        self._one_element()

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        remedy = (
            f"write {name}(x) with {name} from thalweg.rules" if name in _WORDS else nearest(name, _WORDS)
        )
        raise blame(f"a traced value has no attribute {name}", remedy)


def blame(trouble: str, remedy: str, *, place: tuple[CodeType, int] | None = None) -> RuleError:
    """Return the error that names file, line and source line of the nearest frame that is the user's.

    Args:
        trouble: what can't be done.
        remedy: what to write instead.
        place: code and line, where the stack doesn't say it.
    """
    if place is None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not _theirs(frame.f_code):
            frame = frame.f_back
        assert frame is not None
        place = frame.f_code, frame.f_lineno
    code, line = place
    text = linecache.getline(code.co_filename, line).strip()
    shown = f": `{text}`" if text else ""
    return RuleError(f"{code.co_filename}, line {line}{shown}: {trouble}; {remedy}")


def blame_exception(error: Exception, function: Callable[..., Any]) -> RuleError:
    """Return the error for anything that a rule raised while it was traced."""
    place = function.__code__, function.__code__.co_firstlineno
    step: TracebackType | None = error.__traceback__
    entered = False
    while step is not None:
        entered = entered or step.tb_frame.f_code is function.__code__
        if entered and _theirs(step.tb_frame.f_code):
            place = step.tb_frame.f_code, step.tb_lineno
        step = step.tb_next
    reason = " ".join(str(error).split()).rstrip(".") or "without a message"
    return blame(
        f"{type(error).__name__} while the rule was traced ({reason})",
        f"a rule is arithmetic and the words {', '.join(_WORDS)}",
        place=place,
    )


def _theirs(code: CodeType) -> bool:
    return code.co_filename not in _OURS and not code.co_filename.startswith(_LIBRARIES)
