"""What is said where no change of ours helps: faults that only the person can mend, and targets of noise."""

from __future__ import annotations

import math

from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Finding, Remedy
from thalweg.diagnosis.naming import TrialRound
from thalweg.diagnosis.neighbours import Learnable, related
from thalweg.diagnosis.through_time import forgets
from thalweg.diagnosis.trying import Patient, suspicions_of

__all__ = ["only_by_hand", "without_remedy"]


def only_by_hand(patient: Patient, facts: Facts, known: Learnable | None, score: float) -> bool:
    """Name what much speaks for and no change of ours can mend."""
    found = [
        s
        for s in suspicions_of(facts, known)
        if not s.certain and (s.remedy is None or s.remedy.change is None) and s.weight >= 0.9
    ]
    if not found or score >= 0.75:
        return False
    patient.findings += [s.finding(0.75) for s in found[:2]]
    return True


def without_remedy(patient: Patient, seen: TrialRound, known: Learnable | None) -> None:
    """Say what is known where no change helps."""
    ceiling = max(0.0, _ceiling(known))
    facts, most = seen.facts, max(seen.held, seen.reached)
    if most < 0.3 and ceiling > most + 0.3:
        strong = [s for s in suspicions_of(facts, known) if s.weight >= 0.85]
        if strong:
            asked = known.by if known else "nearest neighbours"
            said = f"{asked} reach a skill of {ceiling:.2f}, and this training {most:.2f}"
            first = max(strong, key=lambda s: s.weight)
            patient.findings.append(
                first.finding(0.6, evidence=(said, "no change that was tried was enough"))
            )
        else:
            patient.findings.append(_too_small(max(0.0, patient.value(seen.base)), ceiling))
    elif most < 0.1 and (forgotten := forgets(facts, seed=patient.seed)) is not None:
        patient.findings.append(forgotten)
    elif max(most, ceiling) < 0.05 and not related(facts):
        patient.findings.append(_nothing_to_learn(asked=known is not None))


def _ceiling(known: Learnable | None) -> float:
    if known is None:
        return 0.0
    found = known.training if math.isnan(known.across) else known.across
    return 0.0 if math.isnan(found) else found


def _too_small(reached: float, ceiling: float) -> Finding:
    return Finding(
        code="capacity",
        severity="risk",
        title="the model doesn't get as far as its nearest neighbours would",
        evidence=(
            f"nearest neighbours reach a skill of {ceiling:.2f}, and this training "
            f"{reached:.2f}; no change of rate, optimizer, scale or first weights "
            "closed the gap",
        ),
        cause="the model is too small, or built in a way that can't express what is to be learnt",
        remedy=Remedy(text="use a larger model, or one that suits the data"),
        confidence=0.5,
    )


def _nothing_to_learn(*, asked: bool) -> Finding:
    tried = "neither this training nor any change of it" + (" nor nearest neighbours" if asked else "")
    return Finding(
        code="labels",
        severity="error",
        title="nothing of the targets can be told from the inputs",
        evidence=(f"{tried} predicts better than a constant",),
        cause="targets don't go with their inputs, or the inputs hold nothing of them",
        remedy=Remedy(text="look at a few pairs of inputs and targets by eye, where they are read"),
        confidence=0.6,
    )
