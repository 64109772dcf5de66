"""Claims of the lectures as experiments, each with a verdict that follows from what was measured."""

from thalweg.claims.carrying_out import ClaimsWatcher, run
from thalweg.claims.claim import TOPICS, Claim, Known, Size
from thalweg.claims.judging import ClaimResult, Judged, JudgedCondition, judge
from thalweg.claims.picture import Dots, Lines
from thalweg.claims.registry import get, names
from thalweg.claims.rules import Decided, MeanInterval, Test, always, interval, less, more, near, share

__all__ = [
    "TOPICS",
    "Claim",
    "ClaimResult",
    "ClaimsWatcher",
    "Decided",
    "Dots",
    "Judged",
    "JudgedCondition",
    "Known",
    "Lines",
    "MeanInterval",
    "Size",
    "Test",
    "always",
    "get",
    "interval",
    "judge",
    "less",
    "more",
    "names",
    "near",
    "run",
    "share",
]
