"""Which causes are named: whether anything is wrong at all, and what each change wins."""

from __future__ import annotations

from dataclasses import dataclass, replace

from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.trial import TrialRun
from thalweg.diagnosis.trying import OF_STEPS, SHARE, Patient, TriedChange

__all__ = ["TrialRound", "contradicted", "ill", "named"]

# By at least so much skill more has to be in reach.
_LEAST_GAP = 0.12
# A second cause is named where it alone wins this share of what the first one wins.
_ALSO = 0.75
# Of a skill that is known no better than this, the fit to training data counts as well.
_ROUGH = 0.06
# By the first look alone, so much has to speak for a cause that only helps together with other steps.
_SURE_OF = 0.8


@dataclass(frozen=True, kw_only=True)
class TrialRound:
    """What was tried of a set-up.

    Attributes:
        number: of the round; the second one looks at what the first one's remedy leaves.
        facts: of the set-up.
        base: its training as it is.
        length: steps of a trial.
        whole: whether that is a whole training.
        tried: changes, and what they brought.
        held: the skill that the set-up reaches as it is, as far as that is known.
        reached: that of the best change, over two seeds.
    """

    number: int
    facts: Facts
    base: TrialRun
    length: int
    whole: bool
    tried: tuple[TriedChange, ...]
    held: float
    reached: float

    @property
    def best(self) -> TriedChange:
        """What was best."""
        return max(self.tried, key=lambda each: each.score)


def ill(patient: Patient, seen: TrialRound) -> bool:
    """Say whether so much more can be reached that something is wrong.

    Where the first look speaks strongly for a cause, less has to be won by its change.
    """
    first = not seen.number
    # what also fits its training data better isn't better by the chance of a few held-out examples
    fits = patient.base is not None and seen.best.trial.training > patient.base.training + 0.15
    needed = max(_LEAST_GAP if first else 0.2, (1.2 if fits else 2.5) * patient.error)
    if seen.reached - max(seen.held, 0.0) >= needed and seen.held <= SHARE * seen.reached:
        return True
    if _doesnt_fit(patient, seen.tried):
        return True
    strong = [t.score for t in seen.tried if t.suspicion.weight >= 0.9]
    return first and max(strong, default=-1.0) - max(seen.held, 0.0) >= max(0.06, 1.5 * patient.error)


def _doesnt_fit(patient: Patient, tried: tuple[TriedChange, ...]) -> bool:
    """Say whether a model doesn't fit its training data and could, where others are too few to judge by."""
    base = patient.base
    if base is None or not patient.judged or patient.error < _ROUGH or base.training > 0.6:
        return False
    better = [t for t in tried if t.suspicion.cost == 1 and t.score >= patient.value(base)]
    return max((t.trial.training for t in better), default=-1.0) > max(base.training, 0.0) + 0.3


def contradicted(seen: TrialRound) -> TrialRound:
    """Leave rates out where a higher and a lower one win alike: then the training went badly by chance."""
    gap = _ALSO * (seen.reached - seen.held)
    won = {t.suspicion.code for t in seen.tried if t.partner is None and t.score - seen.held >= gap}
    if not seen.base.finite or not {"learning-rate-high", "learning-rate-low"} <= won:
        return seen
    others = tuple(t for t in seen.tried if not t.suspicion.code.startswith("learning-rate"))
    best = max((t.score for t in others if t.suspicion.code != "generic"), default=seen.held)
    return replace(seen, tried=others, reached=min(seen.reached, max(best, seen.held)))


def named(patient: Patient, seen: TrialRound) -> list[TriedChange]:
    """Choose the causes: by what their change wins, times how much speaks for them."""
    tried, held = seen.tried, seen.held
    gap = max(1e-9, seen.reached - max(held, 0.0))
    top: dict[str, tuple[float, TriedChange]] = {}
    for each in tried:
        if each.suspicion.code == "generic":
            continue
        won = min(1.0, (each.score - max(held, 0.0)) / gap)
        if each.score - held < max(0.06, 1.5 * patient.error):
            continue
        # what takes longer too wins more
        rank = won * each.suspicion.weight * (1.0 if each.suspicion.cost == 1 else 0.8)
        if rank > top.get(each.suspicion.code, (0.0, each))[0]:
            top[each.suspicion.code] = rank, each
    ranked = sorted(top.values(), key=lambda pair: -pair[0])
    if not ranked:
        return []
    first, chosen = ranked[0]
    if chosen.partner is not None:
        # two changes were needed: both are causes, if the first look speaks for both
        mate = next((t for t in tried if t.suspicion is chosen.partner), None)
        if mate is not None and mate.suspicion.code in OF_STEPS and chosen.suspicion.weight < _SURE_OF:
            return [mate]
        return [chosen] if mate is None or mate.suspicion.code == "optimizer" else [chosen, mate]
    also = [each for rank, each in ranked[1:2] if rank >= _ALSO * first]
    # Adam cures most rates that are too high, which says nothing against the optimizer
    if chosen.suspicion.code == "learning-rate-high":
        also = [each for each in also if each.suspicion.code != "optimizer"]
    return [chosen, *also]
