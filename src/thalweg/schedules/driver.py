"""What moves an optimizer's hyperparameters: the driver, and the one schedule that looks at measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from thalweg.errors import OptionError, nearest
from thalweg.schedules.base import require
from thalweg.settings.tables import is_number

__all__ = ["Driver", "Factor", "Plateau", "as_factor"]


class Factor(Protocol):
    """Anything that gives a factor for a step: every schedule, :class:`Plateau`, or a function."""

    def __call__(self, step: int, /) -> float: ...


class Plateau:
    """Multiply by ``decay`` whenever a metric has stopped getting better, again and again (R5: C s99).

    A measurement is better when it beats the best so far by more than ``threshold * abs(best)``, or by more
    than ``threshold`` with ``relative=False``. NaN is never better, nor is the worst infinity, than which
    every other measurement is better. After more than ``patience`` measurements
    in a row that aren't better the factor falls, and ``cooldown`` measurements pass before counting begins
    again. It is torch's ``ReduceLROnPlateau`` for any hyperparameter, apart from the optimizer; torch's
    relative threshold has the wrong sign where the best is negative, this one hasn't.

    Args:
        higher_is_better: ``True`` for an accuracy, ``False`` for a loss.
        decay: within 0 and 1, both excluded.
        patience: measurements, at least 0.
        threshold: at least 0.
        relative: how ``threshold`` is meant.
        cooldown: measurements, at least 0.
        minimum: the factor never falls below it; within 0 and 1.

    Raises:
        OptionError: for an argument outside its range.

    >>> plateau = Plateau(higher_is_better=False, patience=1)
    >>> [plateau.observe(loss) for loss in (1.0, 0.5, 0.5, 0.5, 0.4)]
    [1.0, 1.0, 1.0, 0.1, 0.1]
    """

    def __init__(
        self,
        *,
        higher_is_better: bool,
        decay: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        relative: bool = True,
        cooldown: int = 0,
        minimum: float = 0.0,
    ) -> None:
        require(0 < decay < 1, "decay", decay, "within 0 and 1, both excluded")
        require(patience >= 0, "patience", patience, "at least 0")
        require(threshold >= 0, "threshold", threshold, "at least 0")
        require(cooldown >= 0, "cooldown", cooldown, "at least 0")
        require(0 <= minimum <= 1, "minimum", minimum, "within 0 and 1")
        self.higher_is_better = higher_is_better
        self.decay = decay
        self.patience = patience
        self.threshold = threshold
        self.relative = relative
        self.cooldown = cooldown
        self.minimum = minimum
        self.factor = 1.0
        self.best: float | None = None
        self.bad = 0
        self.resting = 0

    def __call__(self, step: int, /) -> float:
        """Return the present factor, whatever the step."""
        return self.factor

    def observe(self, metric: float) -> float:
        """Take a measurement into account; return the factor from now on."""
        if self._better(float(metric)):
            self.best, self.bad = float(metric), 0
        else:
            self.bad += 1
        if self.resting > 0:
            self.resting -= 1
            self.bad = 0
        if self.bad > self.patience:
            self.factor = max(self.factor * self.decay, self.minimum)
            self.resting, self.bad = self.cooldown, 0
        return self.factor

    def state_dict(self) -> dict[str, Any]:
        """Return what changes: the factor, the best metric and the counts."""
        return {"factor": self.factor, "best": self.best, "bad": self.bad, "resting": self.resting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken."""
        self.factor, self.best = state["factor"], state["best"]
        self.bad, self.resting = state["bad"], state["resting"]

    def _better(self, metric: float) -> bool:
        best = self.best
        if best is None:
            best = -math.inf if self.higher_is_better else math.inf
        margin = self.threshold * abs(best) if self.relative else self.threshold
        if math.isinf(best):
            # any finite measurement is better than the worst there is; infinity less infinity would be NaN
            margin = 0.0
        return metric > best + margin if self.higher_is_better else metric < best - margin


class Driver:
    """Drive hyperparameters of a torch optimizer: each is its base value times its schedule's factor.

    The base values are those of every parameter group when the driver first sees it, so groups may differ and
    may be added later. Making a driver sets the values of step 0; ``step()`` after each ``optimizer.step()``
    sets those of the next.

    Args:
        optimizer: any torch optimizer.
        schedules: by the hyperparameter's name in the parameter groups: ``"lr"``, ``"momentum"``,
            ``"weight_decay"``; ``"betas.0"`` is the first of a pair.

    Raises:
        OptionError: for a name that the groups don't have, or whose value isn't a number.

    >>> from thalweg.schedules import Linear, build
    >>> optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    >>> driver = Driver(optimizer, {"lr": Linear(total=10), "betas.0": build("constant", total=10)})
    >>> for _ in range(5):
    ...     driver.step()
    >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]
    (0.05, (0.9, 0.999))
    """

    def __init__(self, optimizer: torch.optim.Optimizer, schedules: Mapping[str, Factor]) -> None:
        self.optimizer = optimizer
        self.schedules = dict(schedules)
        self.count = 0
        self._bases: list[dict[str, float]] = []
        self._apply()

    def step(self) -> None:
        """Go on to the next step, and set its values."""
        self.count += 1
        self._apply()

    def go_to(self, step: int) -> None:
        """Go to a step, and set its values."""
        self.count = step
        self._apply()

    def observe(self, metric: float) -> None:
        """Hand a measurement to every :class:`Plateau` among the schedules, and set the values again."""
        for plateau in {id(p): p for p in self.schedules.values() if isinstance(p, Plateau)}.values():
            plateau.observe(metric)
        self._apply()

    def values(self) -> list[dict[str, float]]:
        """Return the present values, by name, of each group."""
        return [
            {name: _read(group, name) for name in self.schedules} for group in self.optimizer.param_groups
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the step, the base values, and the state of every :class:`Plateau`."""
        plateaus = {name: p.state_dict() for name, p in self.schedules.items() if isinstance(p, Plateau)}
        return {"step": self.count, "bases": [dict(base) for base in self._bases], "plateaus": plateaus}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken, whatever the optimizer's groups hold now."""
        self.count = state["step"]
        self._bases = [dict(base) for base in state["bases"]]
        for name, plateau in self.schedules.items():
            if isinstance(plateau, Plateau):
                plateau.load_state_dict(state["plateaus"][name])
        self._apply()

    def _apply(self) -> None:
        for group in self.optimizer.param_groups[len(self._bases) :]:
            self._bases.append({name: _read(group, name) for name in self.schedules})
        factors = {
            name: as_factor(schedule(self.count), self.count, name)
            for name, schedule in self.schedules.items()
        }
        for group, base in zip(self.optimizer.param_groups, self._bases, strict=True):
            for name, factor in factors.items():
                _write(group, name, base[name] * factor)


def as_factor(value: Any, step: int, name: str = "lr") -> float:
    """Return what a schedule gives as a number, if a hyperparameter can be multiplied by it.

    Raises:
        OptionError: it is no number, or NaN, infinite or negative.

    >>> as_factor(0.5, 3)
    0.5
    >>> as_factor(float("nan"), 3)
    Traceback (most recent call last):
    thalweg.errors.OptionError: the schedule of lr gives nan at step 3; give a finite number of at least 0
    """
    try:
        factor = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, RuntimeError):
        factor = math.nan
    # a line down to zero may end a rounding below it
    if not -1e-9 <= factor < math.inf:
        raise OptionError(
            f"the schedule of {name} gives {value!r} at step {step}; give a finite number of at least 0"
        )
    return factor


def _read(group: Mapping[str, Any], name: str) -> float:
    key, _, index = name.partition(".")
    numbers = {k: v for k, v in group.items() if k != "params" and _numeric(v)}
    if key not in numbers:
        known = [
            k if not isinstance(v, (tuple, list)) else f"{k}.{i}"
            for k, v in numbers.items()
            for i in _slots(v)
        ]
        raise OptionError(f"the optimizer has no number {name!r} to drive; {nearest(name, known)}")
    value = numbers[key]
    if isinstance(value, (tuple, list)):
        if index not in _slots(value):
            near = nearest(name, [f"{key}.{i}" for i in _slots(value)])
            raise OptionError(f"{key!r} of the optimizer has {len(value)} numbers, {name!r} is none; {near}")
        value = value[int(index)]
    elif index:
        raise OptionError(
            f"{key!r} of the optimizer is one number, so {name!r} can't be driven: leave out the index"
        )
    return float(value)


def _write(group: dict[str, Any], name: str, value: float) -> None:
    key, _, index = name.partition(".")
    present = group[key]
    if isinstance(present, torch.Tensor):
        present.fill_(value)
    elif isinstance(present, (tuple, list)):
        slot = int(index)
        old = present[slot]
        if isinstance(old, torch.Tensor):
            old.fill_(value)
        else:
            group[key] = type(present)((*present[:slot], value, *present[slot + 1 :]))
    else:
        group[key] = value


def _numeric(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return bool(value) and all(_numeric(item) and not isinstance(item, (tuple, list)) for item in value)
    if isinstance(value, torch.Tensor):
        return value.numel() == 1
    return is_number(value)


def _slots(value: Any) -> list[str]:
    return [str(i) for i in range(len(value))] if isinstance(value, (tuple, list)) else [""]
