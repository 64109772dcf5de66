"""The remedy of a cause that was named: its own change, and what else helps beside it.

Where another remedy than the cause's own gets further at equal gradient evaluations, such as what is advised
to everybody, it is taken; where a rate is at fault, those between the ones that were tried are looked at too.
At last it is looked at whether rates should fall.
"""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from thalweg.diagnosis import changes
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Remedy
from thalweg.diagnosis.naming import TrialRound
from thalweg.diagnosis.pace import rate_remedy
from thalweg.diagnosis.trying import OF_STEPS, Patient, TriedChange, both_of, length_of
from thalweg.errors import UserError

__all__ = ["measured", "polished", "remedy_of"]

# Skills that differ by less are as good as each other.
_AS_GOOD = 0.02
# A falling rate is taken unless it is worse by more, since it is better as a rule.
_NO_WORSE = 0.005


def measured(before: float, after: float, *, equal: bool) -> str:
    """Say what a change brought."""
    how = "measured at equal gradient evaluations" if equal else "measured"
    return f"{how}: skill {max(before, -1.0):.2f} as it is, {after:.2f} with this change"


def remedy_of(patient: Patient, seen: TrialRound, top: TriedChange) -> Remedy:
    """Put the first cause's change together with what else helps, where it alone isn't enough."""
    facts, length = seen.facts, seen.length
    if top.suspicion.code == "epochs-few":
        return _as_long(patient, seen, top)
    generic = next((each for each in seen.tried if each.suspicion.code == "generic"), None)
    best, chosen = top.score, top.remedy
    if best < max(generic.score if generic else -1.0, seen.best.score - 0.03):
        for extra in _extras(facts, top, seen.tried):
            if patient.spent + length > 0.95 * patient.budget:
                break
            both = both_of(top.remedy, extra)
            score = _score(patient, facts, both, length_of(top, length))
            if score > best + 0.02:
                best, chosen = score, both
        if generic is not None and best < generic.score - 0.02:
            # what is advised to everybody gets further than the cause's own change
            best, chosen = generic.score, generic.remedy
    if top.suspicion.factor != 1 and chosen is top.remedy:
        best, chosen = _finer(patient, facts, top, seen.tried)
    own = top.suspicion.code not in OF_STEPS
    best, better = polished(patient, facts, chosen, best, length_of(top, length), own=own)
    return replace(better or chosen, measured=measured(seen.held, best, equal=top.suspicion.cost == 1))


def polished(
    patient: Patient, facts: Facts, remedy: Remedy | None, best: float, steps: int, *, own: bool
) -> tuple[float, Remedy | None]:
    """Look whether a remedy gets further with a rate that falls, or with Adam at a larger one that falls.

    Args:
        patient: whose budget is spent.
        facts: of the set-up that the remedy changes.
        remedy: so far; ``None``: nothing has to be changed.
        best: its skill.
        steps: of a trial.
        own: whether its change has to be kept, whatever the optimizer.

    Returns:
        The best skill, and the remedy that reaches it; ``None``: the one that was given.
    """
    better: Remedy | None = None
    if facts.scheduled or not math.isfinite(facts.rate):
        return best, better
    falls = Remedy(
        text="let the learning rate fall to 0 along half a cosine",
        change=changes.falling,
        code="torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)   # .step() after each step",
        settings={"schedule": {"name": "cosine"}},
    )
    candidates = [(falls if remedy is None else both_of(remedy, falls), -_NO_WORSE)]
    scaled = isinstance(facts.setup.inputs, Tensor) and facts.setup.inputs.dtype.is_floating_point
    for rate in (3e-3, 1e-3):
        strong = both_of(
            Remedy(
                text=f"{'standardize inputs, and ' if scaled else ''}use Adam with a rate of {rate:g}",
                change=changes.then(changes.standardized_inputs, changes.adam(rate))
                if scaled
                else changes.adam(rate),
                code=f"torch.optim.Adam(model.parameters(), lr={rate:g})",
                settings={"optimizer": {"name": "adam", "lr": rate}},
            ),
            falls,
        )
        candidates.append((both_of(remedy, strong) if own and remedy is not None else strong, _AS_GOOD))
    for candidate, least in candidates:
        if patient.spent + steps > 0.97 * patient.budget:
            break
        score = _score(patient, facts, candidate, steps)
        if score > best + (least if remedy is not None else _AS_GOOD):
            best, better = score, candidate
    return best, better


def _score(patient: Patient, facts: Facts, remedy: Remedy, steps: int) -> float:
    """Return the skill that a remedy brings; -1 where it can't be carried out."""
    try:
        return patient.value(patient.try_(remedy.apply(facts.setup), steps))
    except (UserError, RuntimeError, ValueError, TypeError):
        return -1.0


def _as_long(patient: Patient, seen: TrialRound, top: TriedChange) -> Remedy:
    """Return what gets nearly as far within as many gradients, where there is such; else the longer training.

    Too few epochs, too large a batch and too small a rate are often one thing.
    """
    same = ("learning-rate-low", "batch-large", "optimizer", "generic")
    others = [t for t in seen.tried if t.suspicion.code in same and t.partner is None]
    best = max(others, key=lambda each: each.score, default=None)
    if best is None or best.score < seen.held + 0.5 * (top.score - seen.held):
        return replace(top.remedy, measured=measured(seen.held, top.score, equal=False))
    score, better = polished(patient, seen.facts, best.remedy, best.score, seen.length, own=False)
    found = better or best.remedy
    return replace(
        found,
        text=f"{top.remedy.text}; or, within as many gradient evaluations, {found.text}",
        measured=measured(seen.held, score, equal=True),
    )


def _finer(
    patient: Patient, facts: Facts, top: TriedChange, tried: tuple[TriedChange, ...]
) -> tuple[float, Remedy]:
    """Look between the decades for a better rate, and take the middle one of those that are as good.

    One at the edge of the good ones is good by the luck of a seed.
    """
    known = [
        (t.suspicion.factor, t.score, t.remedy)
        for t in tried
        if t.suspicion.code == top.suspicion.code and t.partner is None
    ]
    for between in (3.0, 0.3):
        if patient.spent + top.trial.planned > 0.95 * patient.budget:
            break
        factor = between * top.suspicion.factor
        remedy = rate_remedy(facts, factor)
        score = patient.value(patient.try_(remedy.apply(facts.setup), top.trial.planned))
        known.append((factor, score, remedy))
    best = max(score for _, score, _ in known)
    good = sorted((each for each in known if each[1] >= best - _AS_GOOD), key=lambda each: each[0])
    _, score, remedy = good[(len(good) - 1) // 2]
    return score, remedy


def _extras(facts: Facts, top: TriedChange, tried: tuple[TriedChange, ...]) -> list[Remedy]:
    """Return what may help beside the first cause's change."""
    steps = top.suspicion.code in OF_STEPS
    others = sorted((t for t in tried if t.suspicion.code != top.suspicion.code), key=lambda t: -t.score)
    # two rates, or a rate and another optimizer, say different things of the same
    others = [t for t in others if not steps or t.suspicion.code not in (*OF_STEPS, "generic")]
    extras = [t.remedy for t in others[:3] if t.suspicion.code != "epochs-few"]
    if steps:
        return extras
    adam = Remedy(
        text="use Adam with a rate of 0.001",
        change=changes.adam(),
        code="torch.optim.Adam(model.parameters(), lr=0.001)",
        settings={"optimizer": {"name": "adam", "lr": 1e-3}},
    )
    rates = [rate_remedy(facts, factor) for factor in (10.0, 0.1)] if math.isfinite(facts.rate) else []
    return [adam, *rates, *extras]
