"""The shapes: constant, falling in steps, along a curve, or up and down again."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from thalweg.schedules.base import Schedule, Steps, require

__all__ = [
    "Constant",
    "Cosine",
    "Exponential",
    "InverseSquare",
    "InverseTime",
    "Linear",
    "OneCycle",
    "Piecewise",
    "Polynomial",
    "Step",
    "WarmupStableDecay",
]


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """``factor``, always.

    >>> Constant()(10)
    1.0
    """

    factor: float = 1.0

    def _factors(self, steps: Steps) -> Steps:
        return np.full_like(steps, self.factor)

    def _expression(self, step: str) -> str:
        return f"{self.factor!r}"


@dataclass(frozen=True, kw_only=True)
class Step(Schedule):
    """``gamma ** floor(step / every)``: halved every so many steps (R1: S).

    Args:
        every: steps between two falls, at least 1.
        gamma: above 0.

    >>> Step(every=10, gamma=0.5)(25)
    0.25
    """

    every: int
    gamma: float = 0.5

    def __post_init__(self) -> None:
        require(self.every >= 1, "every", self.every, "at least 1")
        require(self.gamma > 0, "gamma", self.gamma, "above 0")

    def _factors(self, steps: Steps) -> Steps:
        return np.power(self.gamma, np.floor(steps / self.every))

    def _expression(self, step: str) -> str:
        return f"{self.gamma!r} ** ({step} // {self.every!r})"


@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """``exp(-rate * step)`` (R2: S, C s99); torch's ``ExponentialLR`` with ``gamma = exp(-rate)``.

    Args:
        rate: per step, at least 0.

    >>> round(Exponential(rate=0.1)(10), 4)
    0.3679
    """

    rate: float

    def __post_init__(self) -> None:
        require(self.rate >= 0, "rate", self.rate, "at least 0")

    def _factors(self, steps: Steps) -> Steps:
        return np.exp(-self.rate * steps)

    def _expression(self, step: str) -> str:
        return f"math.exp({-self.rate!r} * {step})"


@dataclass(frozen=True, kw_only=True)
class InverseTime(Schedule):
    """``1 / (1 + rate * step)`` (R3: S; R4: C s99, which calls it linear and has ``rate`` 1).

    Args:
        rate: per step, at least 0.

    >>> InverseTime(rate=1.0)(4)
    0.2
    """

    rate: float = 1.0

    def __post_init__(self) -> None:
        require(self.rate >= 0, "rate", self.rate, "at least 0")

    def _factors(self, steps: Steps) -> Steps:
        return 1.0 / (1.0 + self.rate * steps)

    def _expression(self, step: str) -> str:
        return f"1 / (1 + {self.rate!r} * {step})"


@dataclass(frozen=True, kw_only=True)
class InverseSquare(Schedule):
    """``1 / (1 + rate * step)**2`` (R4: C s99, which calls it quadratic and has ``rate`` 1).

    Args:
        rate: per step, at least 0.

    >>> InverseSquare(rate=1.0)(4)
    0.04
    """

    rate: float = 1.0

    def __post_init__(self) -> None:
        require(self.rate >= 0, "rate", self.rate, "at least 0")

    def _factors(self, steps: Steps) -> Steps:
        base = 1.0 + self.rate * steps
        return 1.0 / (base * base)

    def _expression(self, step: str) -> str:
        return f"1 / (1 + {self.rate!r} * {step}) ** 2"


@dataclass(frozen=True, kw_only=True)
class Piecewise(Schedule):
    """``factors[i]`` between ``boundaries[i-1]`` (inclusive) and ``boundaries[i]``.

    Args:
        boundaries: steps in rising order.
        factors: one more than there are boundaries.

    >>> [Piecewise(boundaries=(10, 20), factors=(1.0, 0.1, 0.01))(step) for step in (9, 10, 20)]
    [1.0, 0.1, 0.01]
    """

    boundaries: tuple[int, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "factors", tuple(self.factors))
        ordered = all(a <= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False))
        require(ordered, "boundaries", list(self.boundaries), "in rising order")
        enough = len(self.factors) == len(self.boundaries) + 1
        require(enough, "factors", list(self.factors), "one more than the boundaries")

    def _factors(self, steps: Steps) -> Steps:
        return np.asarray(self.factors, dtype=np.float64)[
            np.searchsorted(self.boundaries, steps, side="right")
        ]

    def _expression(self, step: str) -> str:
        pieces = zip(self.factors, self.boundaries, strict=False)
        chain = " else ".join(f"{factor!r} if {step} < {boundary!r}" for factor, boundary in pieces)
        return f"({chain} else {self.factors[-1]!r})" if chain else f"{self.factors[-1]!r}"


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """A straight line from 1 to ``final`` at step ``total``: ``1 - (1 - final) * step / total``.

    Args:
        total: steps, at least 1.
        final: the value kept from then on, at least 0.

    >>> Linear(total=10)(5)
    0.5
    """

    total: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _require_span(self.total, self.final)

    def _factors(self, steps: Steps) -> Steps:
        return _towards(self.final, 1.0 - _progress(steps, self.total))

    def _expression(self, step: str) -> str:
        return _towards_expression(self.final, f"(1 - {_progress_expression(step, self.total)})")


@dataclass(frozen=True, kw_only=True)
class Polynomial(Schedule):
    """``final + (1 - final) * (1 - step / total)**power``.

    Args:
        total: steps, at least 1.
        power: above 0.
        final: the value kept from step ``total`` on, at least 0.

    >>> Polynomial(total=10, power=2.0)(5)
    0.25
    """

    total: int
    power: float = 2.0
    final: float = 0.0

    def __post_init__(self) -> None:
        _require_span(self.total, self.final)
        require(self.power > 0, "power", self.power, "above 0")

    def _factors(self, steps: Steps) -> Steps:
        return _towards(self.final, np.power(1.0 - _progress(steps, self.total), self.power))

    def _expression(self, step: str) -> str:
        unit = f"(1 - {_progress_expression(step, self.total)}) ** {self.power!r}"
        return _towards_expression(self.final, unit)


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """``final + (1 - final) * (1 + cos(pi * p)) / 2``, ``p`` going from 0 to 1 in each of equal ``cycles``.

    Args:
        total: steps of all cycles together, at least 1.
        final: the value at the end of a cycle, kept from step ``total`` on, at least 0.
        cycles: more than 1 are warm restarts.

    >>> Cosine(total=10)(5), Cosine(total=10, cycles=2)(5)
    (0.5, 1.0)

    Source: Loshchilov and Hutter, "SGDR", 2017.
    """

    total: int
    final: float = 0.0
    cycles: int = 1

    def __post_init__(self) -> None:
        _require_span(self.total, self.final)
        require(self.cycles >= 1, "cycles", self.cycles, "at least 1")

    def _factors(self, steps: Steps) -> Steps:
        # Counted in steps * cycles, so that whole steps begin a cycle exactly.
        phase = np.where(steps < self.total, np.remainder(steps * self.cycles, self.total) / self.total, 1.0)
        return _towards(self.final, 0.5 * (1.0 + np.cos(math.pi * phase)))

    def _expression(self, step: str) -> str:
        phase = _progress_expression(step, self.total)
        if self.cycles > 1:
            within = f"{step} * {self.cycles!r} % {self.total!r} / {self.total!r}"
            phase = f"({within} if {step} < {self.total!r} else 1)"
        return _towards_expression(self.final, f"0.5 * (1 + math.cos(math.pi * {phase}))")


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """Half a cosine from ``start`` up to ``peak`` at ``peak_at``, another down to ``final`` at ``total``.

    torch's ``OneCycleLR`` counts to the last step done instead: its ``total_steps=n, pct_start=p`` is
    ``total=n - 1, peak_at=p * n - 1`` here, with its ``max_lr`` as the base value. With ``start`` and
    ``final`` above ``peak`` it is the cycle of the momentum.

    Args:
        total: steps, at least 1.
        peak_at: step of the peak, within 0 and ``total``.
        start, peak, final: values, at least 0.

    >>> [round(OneCycle(total=10, peak_at=3)(step), 6) for step in (0, 3, 10)]
    [0.04, 1.0, 4e-06]

    Source: Smith and Topin, "Super-convergence", 2018.
    """

    total: int
    peak_at: float
    start: float = 0.04
    peak: float = 1.0
    final: float = 4e-6

    def __post_init__(self) -> None:
        _require_span(self.total, self.final)
        require(0 <= self.peak_at <= self.total, "peak_at", self.peak_at, "within 0 and total")
        require(min(self.start, self.peak) >= 0, "start", self.start, "at least 0, as peak")

    def _factors(self, steps: Steps) -> Steps:
        up = steps / max(self.peak_at, 1e-300)
        down = (steps - self.peak_at) / max(self.total - self.peak_at, 1e-300)
        rising = self.peak + (self.start - self.peak) * 0.5 * (1.0 + np.cos(math.pi * np.clip(up, 0.0, 1.0)))
        falling = self.final + (self.peak - self.final) * 0.5 * (
            1.0 + np.cos(math.pi * np.clip(down, 0.0, 1.0))
        )
        return np.where(steps < self.peak_at, rising, falling)

    def _expression(self, step: str) -> str:
        def half(begin: float, end: float, progress: str) -> str:
            return f"{end!r} + {(begin - end) * 0.5!r} * (1 + math.cos(math.pi * {progress}))"

        length = max(self.total - self.peak_at, 1e-300)
        falling = half(self.peak, self.final, f"min(({step} - {self.peak_at!r}) / {length!r}, 1)")
        if self.peak_at == 0:
            return f"({falling})"
        rising = half(self.start, self.peak, f"{step} / {self.peak_at!r}")
        return f"({rising} if {step} < {self.peak_at!r} else {falling})"


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Schedule):
    """Up over ``warmup`` steps, 1 until ``decay`` steps before ``total``, then a straight line to ``final``.

    Args:
        total: steps, at least 1.
        warmup: steps; the first has ``1 / (warmup + 1)``.
        decay: steps.
        final: the value kept from step ``total`` on, at least 0.

    >>> [WarmupStableDecay(total=20, warmup=4, decay=10)(step) for step in (0, 4, 10, 15, 20)]
    [0.2, 1.0, 1.0, 0.5, 0.0]

    Source: Hu et al., "MiniCPM", 2024.
    """

    total: int
    warmup: int
    decay: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _require_span(self.total, self.final)
        require(self.warmup >= 0 and self.decay >= 0, "warmup", self.warmup, "at least 0, as decay")
        require(self.warmup + self.decay <= self.total, "total", self.total, "at least warmup plus decay")

    def _factors(self, steps: Steps) -> Steps:
        rising = np.minimum((steps + 1.0) / (self.warmup + 1), 1.0)
        left = np.clip((self.total - steps) / max(self.decay, 1e-300), 0.0, 1.0)
        return np.where(steps < self.warmup, rising, _towards(self.final, left))

    def _expression(self, step: str) -> str:
        falling = f"1.0 if {step} < {self.total!r} else {self.final!r}"
        if self.decay:
            left = f"max(min(({self.total!r} - {step}) / {self.decay!r}, 1), 0)"
            falling = _towards_expression(self.final, left)
        rising = f"({step} + 1) / {self.warmup + 1!r} if {step} < {self.warmup!r} else "
        return f"({rising if self.warmup else ''}{falling})"


def _require_span(total: int, final: float) -> None:
    require(total >= 1, "total", total, "at least 1")
    require(final >= 0, "final", final, "at least 0")


def _progress(steps: Steps, total: int) -> Steps:
    return np.minimum(steps / total, 1.0)


def _progress_expression(step: str, total: int) -> str:
    return f"min({step} / {total!r}, 1)"


def _towards(final: float, unit: Steps) -> Steps:
    return final + (1.0 - final) * unit


def _towards_expression(final: float, unit: str) -> str:
    return f"{final!r} + {1.0 - final!r} * {unit}" if final else unit
