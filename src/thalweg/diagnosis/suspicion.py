"""What may be wrong, before it was tried: a cause, how much speaks for it, and what would mend it."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.diagnosis.finding import Code, Finding, Remedy, Severity

__all__ = ["Suspicion"]


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A cause that is to be tried.

    Attributes:
        code: of the cause.
        weight: from 0 to 1, how much the code, the data and the first gradient speak for it.
        certain: whether it follows from these alone, so that no trial has to show it.
        title, evidence, cause: as of a :class:`~thalweg.diagnosis.finding.Finding`.
        remedy: that is tried.
        severity: of the finding that it becomes.
        factor: by which its remedy changes the learning rate; 1 where it doesn't.
        cost: how many times as long as the set-up's own the remedy trains.
    """

    code: Code
    weight: float
    title: str
    evidence: tuple[str, ...] = ()
    cause: str = ""
    remedy: Remedy | None = None
    certain: bool = False
    severity: Severity = "error"
    cost: float = 1.0
    factor: float = 1.0

    def finding(
        self, confidence: float, *, remedy: Remedy | None = None, evidence: tuple[str, ...] = ()
    ) -> Finding:
        """Return it as a finding."""
        return Finding(
            code=self.code,
            severity=self.severity,
            title=self.title,
            evidence=tuple(dict.fromkeys((*self.evidence, *evidence))),
            cause=self.cause or self.title,
            remedy=remedy or self.remedy,
            confidence=confidence,
        )
