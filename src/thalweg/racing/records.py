"""What a race has gathered so far, in the order in which it happened; plain values, no tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from thalweg.run.spec import Outcome, Setting

__all__ = ["Audit", "PoolRecord", "ReplicateRecord", "Tried", "final", "ranked"]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One setting of a pool, run once in the screening stage."""

    setting: Setting
    outcome: Outcome
    wave: int
    edges: Mapping[str, Literal["low", "high"]]
    eliminated_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class Audit:
    """An eliminated setting run to its end after all."""

    identity: str
    optimizer: str
    replicate: int
    chosen_as: Literal["best", "random"]
    validation: float | None
    regret: float | None


@dataclass(kw_only=True)
class PoolRecord:
    """One optimizer's pool in one replicate, from its first draw to its confirmation."""

    optimizer: str
    replicate: int
    tried: list[Tried] = field(default_factory=list)
    audits: list[Audit] = field(default_factory=list)
    extended: bool = False
    reruns: dict[str, list[Outcome]] = field(default_factory=dict)
    winner: Tried | None = None
    confirmations: list[Outcome] = field(default_factory=list)
    confirm_seeds: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class ReplicateRecord:
    """All pools of one replicate."""

    replicate: int
    pools: dict[str, PoolRecord]


def final(outcome: Outcome) -> float | None:
    """Return the validation metric after the last step, ``None`` for a run that diverged."""
    if outcome.diverged_at is not None or not outcome.validation:
        return None
    return outcome.validation[-1]


def ranked(tried: list[Tried], *, higher_is_better: bool) -> list[Tried]:
    """Order settings by final validation, best first; eliminated ones after all others, diverged last.

    Equal scores keep the order in which they were drawn, so that the library defaults win a tie.
    """

    def place(one: Tried) -> tuple[int, float]:
        value = final(one.outcome)
        if one.outcome.diverged_at is not None or (value is None and one.eliminated_at is None):
            return (2, 0.0)
        if value is None or one.eliminated_at is not None:
            return (1, 0.0)
        return (0, -value if higher_is_better else value)

    return sorted(tried, key=place)
