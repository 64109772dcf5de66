"""From the numbers of a claim to its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thalweg.claims.claim import Claim, SizeName
from thalweg.claims.rules import Decided, Verdict

__all__ = ["ClaimResult", "Judged", "JudgedCondition", "judge"]

_LEVEL = 0.95
_ALONE: tuple[Verdict, ...] = ("holds", "does not hold", "can't be told")


@dataclass(frozen=True, kw_only=True)
class JudgedCondition:
    """What came out under one condition.

    Attributes:
        name: of the condition; empty where there is only one.
        verdict: of all tests: it holds where all do, and doesn't where one doesn't.
        tests: what each test says.
    """

    name: str
    verdict: Verdict
    tests: tuple[Decided, ...]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A claim's verdict.

    Attributes:
        claim: its name.
        verdict: ``holds`` where it does under all conditions, ``holds under named conditions`` where it does
            under some; where it holds under none, ``does not hold`` if it fails under one, else ``can't be
            told``.
        conditions: what came out under each.
        seeds: how many were measured.
    """

    claim: str
    verdict: Verdict
    conditions: tuple[JudgedCondition, ...]
    seeds: int

    @property
    def needed(self) -> int | None:
        """How many seeds would tell what can't be told, by the spread that was seen."""
        found = [test.needed for each in self.conditions for test in each.tests if test.needed is not None]
        return max(found) if found else None

    def sentence(self) -> str:
        """Say the verdict in one sentence."""
        if len(self.conditions) == 1:
            words: str = self.verdict
            if self.verdict == "can't be told" and self.needed is not None:
                words += f" from {self.seeds} seeds; some {self.needed:,} would tell"
            return words
        by: dict[Verdict, list[str]] = {
            one: [each.name for each in self.conditions if each.verdict == one] for one in _ALONE
        }
        if self.verdict == "holds":
            return f"holds under all conditions: {_quoted(by['holds'])}"
        parts = [f"{verdict} under {_quoted(names)}" for verdict, names in by.items() if names]
        if by["can't be told"] and self.needed is not None:
            parts[-1] += f" from {self.seeds} seeds (some {self.needed:,} would tell)"
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """What was measured of a claim, and its verdict.

    Attributes:
        claim: the claim.
        judged: the verdict, with what each test says.
        numbers: of each condition: one mapping a seed, of numbers and lists.
        seconds: of computing, all seeds and conditions together.
        size: ``quick`` or ``full``.
        digest: of the claim's file when it was measured: see :meth:`thalweg.claims.claim.Claim.digest`.
    """

    claim: Claim
    judged: Judged
    numbers: Mapping[str, Sequence[Mapping[str, Any]]]
    seconds: float
    size: SizeName
    digest: str

    def __repr__(self) -> str:
        return f"{self.claim.name}: {self.judged.sentence()}"


def judge(claim: Claim, numbers: Mapping[str, Sequence[Mapping[str, Any]]]) -> Judged:
    """Judge what was measured.

    Each test under each condition has an interval at ``1 - 0.05 / (tests * conditions)``, so that a claim of
    many parts isn't wrong more often than one of few.

    Args:
        claim: that the numbers are of.
        numbers: of each condition: one mapping a seed.
    """
    level = 1 - (1 - _LEVEL) / (len(claim.rule) * len(numbers))
    conditions = []
    for name, rows in numbers.items():
        tests = tuple(test.decide(rows, level=level, exact=claim.exact) for test in claim.rule)
        conditions.append(JudgedCondition(name=name, verdict=_joined(tests), tests=tests))
    verdicts = [each.verdict for each in conditions]
    if "holds" in verdicts:
        verdict: Verdict = "holds" if set(verdicts) == {"holds"} else "holds under named conditions"
    else:
        verdict = "does not hold" if "does not hold" in verdicts else "can't be told"
    seeds = min(len(rows) for rows in numbers.values())
    return Judged(claim=claim.name, verdict=verdict, conditions=tuple(conditions), seeds=seeds)


def _quoted(names: Sequence[str]) -> str:
    """Names of conditions, which may have commas in them."""
    quoted = [f'"{name}"' for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def _joined(tests: Sequence[Decided]) -> Verdict:
    verdicts = [each.verdict for each in tests]
    if "does not hold" in verdicts:
        return "does not hold"
    return "can't be told" if "can't be told" in verdicts else "holds"
