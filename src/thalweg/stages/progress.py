"""Numbers that change within a stage: functions of how much of it is done, from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from torch import nn

from thalweg.errors import OptionError
from thalweg.settings.tables import is_number, one_of, whole_number
from thalweg.strategies.base import Strategy, Trainer

__all__ = ["Changing", "Follower", "Ramp", "by_progress", "following", "looked_at", "said_of"]

Changing: TypeAlias = float | Callable[[float], float]
"""A number, or a function from the part of the stage that is done, 0 to 1, to one."""

_LOOKED_AT = tuple(each / 20 for each in range(21))


@runtime_checkable
class Follower(Protocol):
    """A part of a model, or a loss, that is told where the training is, before each step and evaluation."""

    def follow(self, *, progress: float, step: int, seed: int) -> None:
        """Go with the training.

        Args:
            progress: part of the stage that is done, from 0 to 1.
            step: how many steps were taken in it.
            seed: of the stage.
        """


class _Following(Strategy):
    """Tells parts of the model, and the loss, where the training is."""

    name: ClassVar[str] = "following"
    # before everybody else, who may compute with the model
    priority: ClassVar[int] = 0

    def __init__(self, followers: Sequence[Follower]) -> None:
        super().__init__()
        self._followers = followers

    def before_step(self, trainer: Trainer) -> None:
        self._tell(trainer)

    def evaluation_weights(self, trainer: Trainer) -> AbstractContextManager[Any]:
        self._tell(trainer)
        return nullcontext()

    def _tell(self, trainer: Trainer) -> None:
        for each in self._followers:
            each.follow(progress=trainer.progress, step=trainer.updates, seed=trainer.seed)


def following(model: nn.Module, loss: Any = None) -> list[Strategy]:
    """Return the strategy that tells every :class:`Follower` in a model, and the loss, if there is one.

    >>> following(nn.Linear(1, 1))
    []
    """
    others = loss.modules() if isinstance(loss, nn.Module) else (loss,)
    found = [part for part in (*model.modules(), *others) if isinstance(part, Follower)]
    return [_Following(found)] if found else []


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A number that goes from ``start`` to ``end`` while the first ``until`` of a stage is done, and stays.

    With s the part that is done and ``q = min(1, s / until)``:

    - ``"linear"``: ``start + (end - start) * q``
    - ``"root"``: ``sqrt(start^2 + (end^2 - start^2) * q)``, fast first (Platanios et al. 2019)
    - ``"geometric"``: ``start^(1 - q) * end^q``, equal factors in equal times
    - ``"cosine"``: ``end + (start - end) * (1 + cos(pi * q)) / 2``
    - ``"steps"``: one of ``levels`` values, equally far apart, in each of as many equal times

    Args:
        start, end: finite; above 0 for ``"geometric"``, at least 0 for ``"root"``.
        until: above 0, at most 1.
        shape: see above.
        levels: at least 2.

    Raises:
        OptionError: a value out of range.

    >>> pace = Ramp(start=0.2, end=1.0, until=0.5)
    >>> [round(pace(share), 6) for share in (0.0, 0.25, 0.5, 1.0)]
    [0.2, 0.6, 1.0, 1.0]

    Source: P7, P8 (N); Platanios et al., Competence-based curriculum learning, 2019.
    """

    start: float
    end: float = 1.0
    until: float = 1.0
    shape: Literal["linear", "root", "geometric", "cosine", "steps"] = "linear"
    levels: int = 5

    def __post_init__(self) -> None:
        for name in ("start", "end", "until"):
            value = getattr(self, name)
            if not is_number(value) or not math.isfinite(value):
                raise OptionError(f"{name} of a ramp is {value!r}, but must be a finite number")
            object.__setattr__(self, name, float(value))
        one_of("shape of a ramp", self.shape, ("linear", "root", "geometric", "cosine", "steps"))
        object.__setattr__(self, "levels", whole_number("levels of a ramp", self.levels, least=2))
        if not 0 < self.until <= 1:
            raise OptionError(f"until of a ramp is {self.until:g}, but must be above 0 and at most 1")
        least = min(self.start, self.end)
        if self.shape == "geometric" and least <= 0:
            raise OptionError(f"a geometric ramp goes over {least:g}, but has to stay above 0; take 'linear'")
        if self.shape == "root" and least < 0:
            raise OptionError(f"a ramp by roots goes over {least:g}, but can't go below 0; take 'linear'")

    def __call__(self, progress: float) -> float:
        """Return the number where ``progress`` of the stage is done."""
        q = min(1.0, max(0.0, progress / self.until))
        if q == 1.0:
            return self.end
        if self.shape == "root":
            return math.sqrt(self.start**2 + (self.end**2 - self.start**2) * q)
        if self.shape == "geometric":
            return float(self.start ** (1 - q) * self.end**q)
        if self.shape == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * q)) / 2
        if self.shape == "steps":
            q = math.floor(q * self.levels) / (self.levels - 1)
        return self.start + (self.end - self.start) * q


def by_progress(
    name: str, value: Changing, *, least: float = -math.inf, most: float = math.inf
) -> Callable[[float], float]:
    """Return what changes as a function of progress, after a look at it from beginning to end.

    Args:
        name: of it, for messages.
        value: a number, or a function of progress.
        least, most: it has to stay within.

    Raises:
        OptionError: it is neither, or leaves its range.

    >>> by_progress("sigma", 0.5)(0.3)
    0.5
    >>> by_progress("pace", lambda share: 2 * share, least=0, most=1)
    Traceback (most recent call last):
    thalweg.errors.OptionError: pace is 1.1 where 55 % of a stage is done, but must stay within 0 and 1
    """
    if is_number(value):
        fixed = float(value)
        if not (math.isfinite(fixed) and least <= fixed <= most):
            raise OptionError(f"{name} is {value!r}, but must be {_within(least, most)}")
        return lambda progress: fixed
    if not callable(value):
        raise OptionError(
            f"{name} is {value!r}; give a number, or a function of the part of a stage that is done, such as "
            "thalweg.stages.Ramp(start=0.2)"
        )
    for progress in _LOOKED_AT:
        found = value(progress)
        if not is_number(found) or not math.isfinite(found) or not least <= found <= most:
            shown = f"{found:g}" if is_number(found) else repr(found)
            raise OptionError(
                f"{name} is {shown} where {100 * progress:.0f} % of a stage is done, but must "
                f"{'stay ' if math.isfinite(max(least, -most)) else 'be '}{_within(least, most)}"
            )
    return value


def looked_at(value: Callable[[float], float]) -> list[float]:
    """Return what changes at a few places, by which it is told apart from another on resume.

    >>> looked_at(lambda share: share)[:3]
    [0.0, 0.05, 0.1]
    """
    return [float(value(progress)) for progress in _LOOKED_AT]


def said_of(value: Changing) -> float | list[float]:
    """Return what changes as plain values: a number, or :func:`looked_at`."""
    return float(value) if is_number(value) else looked_at(value)  # type: ignore[arg-type]


def _within(least: float, most: float) -> str:
    if math.isinf(least) and math.isinf(most):
        return "a finite number"
    if math.isinf(most):
        return f"at least {least:g}"
    if math.isinf(least):
        return f"at most {most:g}"
    return f"within {least:g} and {most:g}"
