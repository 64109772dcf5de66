"""What a diagnosis says: findings, worst first, each with its evidence, its cause and its remedy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from thalweg.diagnosis.setup import Setup

__all__ = ["CAUSES", "MECHANISMS", "Code", "Finding", "Remedy", "Severity", "seen_as"]

Severity: TypeAlias = Literal["error", "risk", "advice"]
"""``error``: training can't become what it should; ``risk``: it is held back; ``advice``: worth knowing."""

Code: TypeAlias = str

CAUSES: Mapping[Code, str] = {
    "output-activation": "what the last layer ends with doesn't fit the loss",
    "output-units": "the last layer has another number of outputs than the targets ask for",
    "hidden-activation": "the functions between the layers stop the learning signal, or there are none",
    "loss-function": "the loss doesn't fit the targets, or doesn't measure what it should",
    "learning-rate-high": "the learning rate is too high",
    "learning-rate-low": "the learning rate is too low",
    "optimizer": "another optimizer gets much further in as many steps",
    "epochs-few": "training ends before it has got anywhere",
    "batch-large": "batches are so large that there are too few steps",
    "batch-small": "batches are so small that noise hides the gradient",
    "input-scale": "inputs are far from mean 0 and spread 1",
    "target-scale": "targets are far from mean 0 and spread 1",
    "input-values": "inputs aren't finite numbers",
    "labels": "targets don't go with their inputs",
    "split-mismatch": "validation data are not like training data",
    "initialization": "the first weights stop the learning signal, or make it explode",
    "capacity": "the model is too small for the task",
    "depth": "the model is too deep for the way it is built",
    "regularization": "weight decay or dropout is too strong",
    "frozen": "parts of the model are never trained",
    "order": "examples come sorted, so that a batch shows one kind of them",
    "batch-norm": "statistics of batch norm don't stand for the data",
}
"""Codes of causes: what a person can change."""

MECHANISMS: Mapping[Code, str] = {
    "vanishing-gradient": "gradients shrink from the last layer to the first",
    "exploding-gradient": "some gradients are far larger than all others",
    "dying-relu": "units give zero for every example",
    "saturation": "units sit where their function is flat",
    "symmetric-units": "units of a layer are copies of each other",
    "nonfinite-loss": "the loss became infinite or NaN",
    "oscillating-loss": "the loss jumps up and down",
    "slow-convergence": "the loss was still falling at the end",
    "constant-output": "the model gives the same for every example",
    "underfitting": "the model doesn't fit its own training data",
    "overfitting": "the model fits training data and not the others",
    "saddle": "the training stands at a saddle",
    "ill-conditioned": "some directions are far steeper than others",
    "cliff": "the loss has a cliff",
    "gradient-noise": "gradients of batches point in very different directions",
    "imbalance": "some classes are much rarer than others",
    "output-bias": "the first predictions are far from the mean of the targets",
}
"""Codes of mechanisms: what a cause brings about, seen as evidence."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """A change of a set-up that mends what a finding names.

    Attributes:
        text: what to change, in a sentence.
        change: from a set-up to one with the change; ``None`` where only the person can make it, such as
            labels that have to be coded anew.
        code: lines to write in place of one's own, where there are such.
        settings: the change as values of a recipe by dotted key, where it is one of settings alone.
        measured: what was measured, in words; empty where it wasn't tried.
    """

    text: str
    change: Callable[[Setup], Setup] | None = field(default=None, repr=False)
    code: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    measured: str = ""

    def apply(self, setup: Setup) -> Setup:
        """Return the set-up with the change; the one given stays as it is.

        Raises:
            OptionError: only the person can make the change.
        """
        if self.change is None:
            raise setup.only_by_hand(self.text)
        return self.change(setup)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        code: stable; one of :data:`CAUSES` or :data:`MECHANISMS`.
        severity: see :data:`Severity`.
        title: a short sentence.
        evidence: what was measured, a sentence each.
        cause: the likely cause, in words.
        remedy: what to change; ``None`` where nothing has to be.
        confidence: from 0 to 1; 1 where it follows from the code or the data alone.
    """

    code: Code
    severity: Severity
    title: str
    evidence: tuple[str, ...]
    cause: str
    remedy: Remedy | None = None
    confidence: float = 1.0

    def __str__(self) -> str:
        lines = [f"{self.severity}: {self.title} [{self.code}], {self.sure}"]
        lines += [f"    {line}" for line in self.evidence]
        if self.remedy is not None:
            lines.append(f"  remedy: {self.remedy.text}")
            lines += [f"    {line}" for line in self.remedy.code.splitlines()]
            if self.remedy.measured:
                lines.append(f"    {self.remedy.measured}")
        return "\n".join(lines)

    @property
    def sure(self) -> str:
        """The confidence in words."""
        words = ((0.95, "certain"), (0.75, "very likely"), (0.5, "likely"), (0.0, "possible"))
        return next(word for least, word in words if self.confidence >= least)


def seen_as(
    code: Code,
    *evidence: str,
    cause: str = "see the findings before this one",
    remedy: Remedy | None = None,
    confidence: float = 0.9,
) -> Finding:
    """Return a mechanism that was seen, as advice beneath its cause."""
    return Finding(
        code=code,
        severity="advice",
        title=MECHANISMS[code],
        evidence=evidence,
        cause=cause,
        remedy=remedy,
        confidence=confidence,
    )
