"""The order of a diagnosis: look, mend what is certain, train a short while, try what may be wrong.

1. **Look** at data, model, loss and one gradient (:mod:`~thalweg.diagnosis.facts`). What follows from these
   alone is certain; it is taken out of the set-up before anything is trained, since its symptoms would be
   taken for others.
2. **Train** the set-up as it is. Where it reaches nearly all that can be reached, nothing is wrong.
3. **Try** each change that may mend it, at equal gradient evaluations. A cause is named by what its change
   wins of the gap to the best, and by how much the first look speaks for it: nearly everything is cured by
   Adam, and few trainings are ill for want of it.
4. **Confirm** with another seed, and put changes together where one alone isn't enough.
"""

from __future__ import annotations

import math
from dataclasses import replace

from thalweg.diagnosis import changes
from thalweg.diagnosis.changes import Change
from thalweg.diagnosis.curved import curved, rate_against_bound
from thalweg.diagnosis.data_checks import advice
from thalweg.diagnosis.facts import Facts, gather
from thalweg.diagnosis.finding import Finding, Remedy
from thalweg.diagnosis.mechanisms import mechanisms
from thalweg.diagnosis.misfits import misfit
from thalweg.diagnosis.neighbours import Learnable, learnable, related
from thalweg.diagnosis.output_bias import output_bias
from thalweg.diagnosis.pace import rate_remedy
from thalweg.diagnosis.signals import signal_of
from thalweg.diagnosis.through_time import forgets
from thalweg.diagnosis.trial import TrialRun
from thalweg.diagnosis.trying import (
    FINE,
    OF_STEPS,
    SHARE,
    Patient,
    TriedChange,
    both_of,
    later,
    length_of,
    suspicions_of,
    together,
    trials,
)
from thalweg.errors import ModelError, UserError

__all__ = ["examine"]

# By at least so much skill more has to be in reach.
_LEAST_GAP = 0.12
# A second cause is named where it alone wins this share of what the first one wins.
_ALSO = 0.75
_ROUNDS = 2
# Steps of a trial by which something can be told.
_FEWEST_STEPS = 20
# Rates whose skill differs by less are as good as each other.
_AS_GOOD = 0.02
# Of a skill that is known no better than this, the fit to training data counts as well.
_ROUGH = 0.06
# By the first look alone, so much has to speak for a cause that only helps together with other steps.
_SURE_OF = 0.8


def examine(patient: Patient) -> None:
    """Carry a diagnosis out; its findings are in the patient afterwards."""
    facts = patient.facts
    known = learnable(facts)
    facts = _certain(patient, facts, known)
    if patient.facts.judge.kind == "other":
        # shapes that don't go together hide what is predicted
        patient.facts = replace(patient.facts, judge=facts.judge)
    if facts.traced is None or (facts.problem and not math.isfinite(facts.loss)):
        if not patient.findings:
            change = misfit(facts) or "a diagnosis needs one batch that goes through"
            raise ModelError(
                f"the model or its loss can't be computed on these data ({facts.problem}); {change}"
            )
        return
    for round_ in range(_ROUNDS):
        found = _round(patient, facts, known, round_)
        if found is None:
            break
        facts = gather(found(facts.setup), seed=patient.seed)
        patient.before = changes.then(patient.before, found)
        if patient.spent > 0.8 * patient.budget:
            break
    if patient.base is not None and patient.findings:
        _join(patient)
        _explain(patient, patient.base)
    patient.findings += advice(patient.facts)
    if not {"target-scale", "output-activation", "output-units", "loss-function", "labels"} & {
        finding.code for finding in patient.findings
    }:
        # what is wrong with targets or outputs moves the first predictions too
        patient.findings += output_bias(patient.facts)
    order = {"error": 0, "risk": 1, "advice": 2}
    patient.findings.sort(key=lambda finding: order[finding.severity])


def _join(patient: Patient) -> None:
    """Let the remedy of a certain fault say what is needed beside it, where that was found behind it."""
    first, *others = patient.findings
    second = next((each for each in others if each.confidence < 1 and each.remedy is not None), None)
    if first.confidence < 1 or first.remedy is None or first.remedy.change is None or second is None:
        return
    assert second.remedy is not None
    if second.remedy.change is None or sum(each.confidence == 1 for each in patient.findings) > 1:
        return
    # its change makes the first one's too
    both = replace(
        both_of(first.remedy, second.remedy), change=second.remedy.change, measured=second.remedy.measured
    )
    patient.findings = [replace(first, remedy=both), *others]


def _explain(patient: Patient, base: TrialRun) -> None:
    """Add what was seen, and what curvature says, to findings that were made without them."""
    facts = patient.facts
    seen, cost = curved(facts, base, seed=patient.seed, most=patient.budget - patient.spent)
    patient.spent += cost
    codes = {finding.code for finding in patient.findings}
    if "learning-rate-low" in codes:
        # it stands still since its steps are short, wherever it is
        seen = [each for each in seen if each.code != "saddle"]
    if "learning-rate-high" in codes or not base.finite:
        said, cost = rate_against_bound(facts, seed=patient.seed)
        patient.spent += cost
        if said:
            patient.findings = [
                replace(each, evidence=(*each.evidence, said)) if each.code == "learning-rate-high" else each
                for each in patient.findings
            ]
    patient.findings += [*mechanisms(facts, base, signal_of(facts)), *seen]


# What is certain --------------------------------------------------------------------------------------------


def _certain(patient: Patient, facts: Facts, known: Learnable | None) -> Facts:
    """Name what is certain, and take it out, until nothing certain is left."""
    named: set[tuple[str, str]] = set()
    for _ in range(4):
        sure = [s for s in suspicions_of(facts, known) if s.certain and (s.code, s.title) not in named]
        if not sure:
            break
        for suspicion in sure:
            if suspicion.code in {f.code for f in patient.findings}:
                continue
            named.add((suspicion.code, suspicion.title))
            patient.findings.append(suspicion.finding(1.0))
            remedy = suspicion.remedy
            if remedy is not None and remedy.change is not None:
                try:
                    facts = gather(remedy.apply(facts.setup), seed=patient.seed)
                    patient.before = changes.then(patient.before, remedy.apply)
                    break
                except (UserError, RuntimeError, ValueError, TypeError) as problem:
                    patient.notes.append(f"the remedy of {suspicion.code} couldn't be applied: {problem}")
        else:
            break
    return facts


# What is tried ----------------------------------------------------------------------------------------------


def _round(patient: Patient, facts: Facts, known: Learnable | None, number: int) -> Change | None:
    """Train, try, name a cause; return what mends it where there may be another, or ``None``."""
    planned = facts.setup.steps
    length = max(1, min(planned, int(patient.budget / 24)))
    whole = length >= planned
    first = not number and not patient.findings
    patient.say("training as it is", patient.spent / patient.budget)
    if not number and length < min(planned, _FEWEST_STEPS):
        patient.notes.append(
            f"the budget of {patient.budget:.0f} gradient evaluations lets trials take {length} of {planned} "
            "steps, by which little can be told; give more"
        )
    base = patient.try_(facts.setup, length if whole else min(planned, 3 * length), keep=True)
    score = patient.value(base)
    if number == 0:
        patient.base, patient.score, patient.reached = base, score, score
    if score >= FINE and base.finite:
        return None
    if number == 0 and _only_by_hand(patient, facts, known, score):
        return None
    tried = list(trials(patient, facts, known, base, length, whole=whole))
    held = score if whole else max(score, later(base, planned, patient))
    tried += together(patient, facts, tried, held, length)
    if not tried:
        _say_that_it_raises(patient, base)
        return None
    best = max(tried, key=lambda each: each.score)
    again = patient.try_(best.setup, length_of(best, length), seed=patient.seed + 1)
    reached = 0.5 * (best.score + patient.value(again))
    patient.reached = max(patient.reached, reached)
    if base.finite and not _ill(patient, tried, held, reached, number):
        if first and (whole or length >= _FEWEST_STEPS):
            _without_remedy(patient, facts, base, known, held, reached)
        return None
    if base.finite and held > 0.2 * reached:
        # a training that went badly by chance isn't ill
        other = patient.value(patient.try_(facts.setup, base.planned, seed=patient.seed + 1))
        held = max(held, other)
        if not _ill(patient, tried, held, reached, number):
            return None
    named = _name(patient, tried, held, reached)
    if not named:
        _say_that_it_raises(patient, base)
        return None
    top = named[0]
    remedy = _remedy(patient, facts, top, tried, held, length)
    gap = max(1e-9, reached - held)
    for place, each in enumerate(named):
        share = min(1.0, max(0.0, each.score - held) / gap)
        sure = min(0.95, 0.25 + 0.7 * share * each.suspicion.weight)
        found = patient.after(remedy if place == 0 else each.remedy)
        gained = _measured(held, each.score, equal=each.suspicion.cost == 1)
        said = f"skill is {held:.2f}, and {reached:.2f} can be reached in as many gradient evaluations"
        patient.findings.append(
            each.suspicion.finding(
                sure if place == 0 else 0.8 * sure,
                remedy=replace(found, measured=found.measured or gained),
                evidence=(said if base.finite else base.failed,),
            )
        )
    return None if top.suspicion.code in OF_STEPS or len(named) > 1 else top.remedy.apply


def _doesnt_fit(patient: Patient, tried: list[TriedChange]) -> bool:
    """Say whether a model doesn't fit its training data and could, where others are too few to judge by."""
    base = patient.base
    if base is None or not patient.judged or patient.error < _ROUGH or base.training > 0.6:
        return False
    better = [t for t in tried if t.suspicion.cost == 1 and t.score >= patient.value(base)]
    return max((t.trial.training for t in better), default=-1.0) > max(base.training, 0.0) + 0.3


def _say_that_it_raises(patient: Patient, base: TrialRun) -> None:
    """A training that ends in an error, and that no change mends, isn't healthy."""
    if not base.raised:
        return
    said = f"the training raises at step {base.steps}: {base.failed}"
    if not patient.findings:
        raise ModelError(f"{said}; a diagnosis needs a training that goes through")
    patient.notes.append(said)


def _measured(before: float, after: float, *, equal: bool) -> str:
    how = "measured at equal gradient evaluations" if equal else "measured"
    return f"{how}: skill {max(before, -1.0):.2f} as it is, {after:.2f} with this change"


def _ill(patient: Patient, tried: list[TriedChange], held: float, reached: float, number: int) -> bool:
    """Say whether so much more can be reached that something is wrong.

    Where the first look speaks strongly for a cause, less has to be won by its change.
    """
    best = max(tried, key=lambda each: each.score).trial
    # what also fits its training data better isn't better by the chance of a few held-out examples
    fits = patient.base is not None and best.training > patient.base.training + 0.15
    needed = max(_LEAST_GAP if not number else 0.2, (1.2 if fits else 2.5) * patient.error)
    if reached - max(held, 0.0) >= needed and held <= SHARE * reached:
        return True
    if _doesnt_fit(patient, tried):
        return True
    strong = [t.score for t in tried if t.suspicion.weight >= 0.9]
    return not number and max(strong, default=-1.0) - max(held, 0.0) >= max(0.06, 1.5 * patient.error)


def _only_by_hand(patient: Patient, facts: Facts, known: Learnable | None, score: float) -> bool:
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


def _without_remedy(
    patient: Patient, facts: Facts, base: TrialRun, known: Learnable | None, held: float, reached: float
) -> None:
    """Say what is known where no change helps."""
    ceiling = max(0.0, _ceiling(known))
    most = max(held, reached)
    if most < 0.3 and ceiling > most + 0.3:
        strong = [s for s in suspicions_of(facts, known) if s.weight >= 0.85]
        if strong:
            said = f"nearest neighbours reach a skill of {ceiling:.2f}, and this training {most:.2f}"
            first = max(strong, key=lambda s: s.weight)
            patient.findings.append(
                first.finding(0.6, evidence=(said, "no change that was tried was enough"))
            )
        else:
            patient.findings.append(_too_small(patient, base, ceiling))
    elif most < 0.1 and (forgotten := forgets(facts, seed=patient.seed)) is not None:
        patient.findings.append(forgotten)
    elif max(most, ceiling) < 0.05 and not related(facts):
        patient.findings.append(_nothing_to_learn(patient, known))


def _name(patient: Patient, tried: list[TriedChange], held: float, best: float) -> list[TriedChange]:
    """Choose the causes: by what their change wins, times how much speaks for them."""
    gap = max(1e-9, best - max(held, 0.0))
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


def _remedy(
    patient: Patient, facts: Facts, top: TriedChange, tried: list[TriedChange], held: float, length: int
) -> Remedy:
    """Put the first cause's change together with what else helps, where it alone isn't enough."""
    remedy = top.remedy
    best, chosen = top.score, remedy
    generic = max((each.score for each in tried if each.suspicion.code == "generic"), default=-1.0)
    goal = max(each.score for each in tried)
    if best < max(generic, goal - 0.03) and top.suspicion.code != "epochs-few":
        for extra in _extras(facts, top, tried):
            if patient.spent + length > 0.95 * patient.budget:
                break
            both = both_of(remedy, extra)
            try:
                trial = patient.try_(both.apply(facts.setup), length_of(top, length))
            except (UserError, RuntimeError, ValueError, TypeError):
                continue
            score = patient.value(trial)
            if score > best + 0.02:
                best, chosen = score, both
        if best < generic - 0.02:
            # what is advised to everybody gets further than the cause's own change
            best, chosen = generic, next(t for t in tried if t.suspicion.code == "generic").remedy
    if top.suspicion.code == "epochs-few":
        return _as_long(tried, top, held)
    if top.suspicion.factor != 1 and chosen is remedy:
        best, chosen = _finer(patient, facts, top, tried)
    measured = _measured(held, best, equal=top.suspicion.cost == 1)
    return replace(chosen, measured=measured)


def _as_long(tried: list[TriedChange], top: TriedChange, held: float) -> Remedy:
    """Return what gets nearly as far within as many gradients, where there is such; else the longer training.

    Too few epochs, too large a batch and too small a rate are often one thing.
    """
    same = ("learning-rate-low", "batch-large", "optimizer", "generic")
    others = [t for t in tried if t.suspicion.code in same and t.partner is None]
    best = max(others, key=lambda each: each.score, default=None)
    if best is None or best.score < held + 0.5 * (top.score - held):
        return replace(top.remedy, measured=_measured(held, top.score, equal=False))
    return replace(
        best.remedy,
        text=f"{top.remedy.text}; or, within as many gradient evaluations, {best.remedy.text}",
        measured=_measured(held, best.score, equal=True),
    )


def _finer(
    patient: Patient, facts: Facts, top: TriedChange, tried: list[TriedChange]
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


def _extras(facts: Facts, top: TriedChange, tried: list[TriedChange]) -> list[Remedy]:
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


# Where no change helps --------------------------------------------------------------------------------------


def _ceiling(known: Learnable | None) -> float:
    if known is None:
        return 0.0
    found = known.training if math.isnan(known.across) else known.across
    return 0.0 if math.isnan(found) else found


def _too_small(patient: Patient, base: TrialRun, ceiling: float) -> Finding:
    return Finding(
        code="capacity",
        severity="risk",
        title="the model doesn't get as far as its nearest neighbours would",
        evidence=(
            f"nearest neighbours reach a skill of {ceiling:.2f}, and this training "
            f"{max(0.0, patient.value(base)):.2f}; no change of rate, optimizer, scale or first weights "
            "closed the gap",
        ),
        cause="the model is too small, or built in a way that can't express what is to be learnt",
        remedy=Remedy(text="use a larger model, or one that suits the data"),
        confidence=0.5,
    )


def _nothing_to_learn(patient: Patient, known: Learnable | None) -> Finding:
    tried = "neither this training nor any change of it" + (" nor nearest neighbours" if known else "")
    return Finding(
        code="labels",
        severity="error",
        title="nothing of the targets can be told from the inputs",
        evidence=(f"{tried} predicts better than a constant",),
        cause="targets don't go with their inputs, or the inputs hold nothing of them",
        remedy=Remedy(text="look at a few pairs of inputs and targets by eye, where they are read"),
        confidence=0.6,
    )
