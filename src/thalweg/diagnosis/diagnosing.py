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
from thalweg.diagnosis.mechanisms import mechanisms
from thalweg.diagnosis.misfits import misfit
from thalweg.diagnosis.naming import TrialRound, contradicted, ill, named
from thalweg.diagnosis.neighbours import Learnable, learnable
from thalweg.diagnosis.output_bias import output_bias
from thalweg.diagnosis.remedies import measured, polished, remedy_of
from thalweg.diagnosis.signals import signal_of
from thalweg.diagnosis.trial import TrialRun
from thalweg.diagnosis.trying import (
    FINE,
    OF_STEPS,
    Patient,
    both_of,
    later,
    length_of,
    suspicions_of,
    together,
    trials,
)
from thalweg.diagnosis.unmended import only_by_hand, without_remedy
from thalweg.errors import ModelError, UserError

__all__ = ["examine"]

_ROUNDS = 2
# Steps of a trial by which something can be told.
_FEWEST_STEPS = 20


def examine(patient: Patient) -> None:
    """Carry a diagnosis out; its findings are in the patient afterwards."""
    facts = patient.facts
    known = learnable(facts)
    facts = _certain(patient, facts, known)
    if patient.facts.judge.kind == "other":
        # shapes that don't go together hide what is predicted
        patient.facts = replace(patient.facts, judge=facts.judge)
    if any(each.code == "split-mismatch" for each in patient.findings):
        # what is mended in the validation data is judged by
        patient.facts = replace(patient.facts, held=facts.held)
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
        _finish(patient, facts)
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


def _finish(patient: Patient, facts: Facts) -> None:
    """Let the remedy of a fault that is certain, and alone, say what gets further in as many gradients."""
    ills = [each for each in patient.findings if each.severity != "advice"]
    base = patient.base
    if len(ills) != 1 or base is None or not base.finite or facts.judge.kind == "other":
        return
    if ills[0].code in ("labels", "split-mismatch", "input-values"):
        # data are read anew, and the training isn't at fault
        return
    first = ills[0]
    if first.confidence < 1 or first.remedy is None or first.remedy.change is None:
        return
    best, found = polished(patient, facts, None, patient.score, base.planned, own=False)
    if found is not None:
        said = measured(patient.score, best, equal=True).replace("as it is", "with the first of these alone")
        remedy = replace(both_of(first.remedy, found), change=patient.after(found).change, measured=said)
        patient.findings = [
            replace(each, remedy=remedy) if each is first else each for each in patient.findings
        ]


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
    seen = _tried(patient, facts, known, number)
    if seen is None or (seen.base.finite and not _confirmed(patient, seen, known)):
        return None
    return _mended(patient, seen)


def _tried(patient: Patient, facts: Facts, known: Learnable | None, number: int) -> TrialRound | None:
    """Train as it is, and with each change; ``None`` where nothing is left to be tried."""
    planned = facts.setup.steps
    length = max(1, min(planned, int(patient.budget / 24)))
    whole = length >= planned
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
    if patient.facts.judge.kind == "other" and base.finite and base.training >= FINE:
        # a loss on other examples may be large for a few that a model is too sure of
        return None
    if number == 0 and only_by_hand(patient, facts, known, score):
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
    return contradicted(
        TrialRound(
            number=number,
            facts=facts,
            base=base,
            length=length,
            whole=whole,
            tried=tuple(tried),
            held=held,
            reached=reached,
        )
    )


def _confirmed(patient: Patient, seen: TrialRound, known: Learnable | None) -> bool:
    """Say whether a training that went through is ill, and not so by chance."""
    if not seen.tried or not ill(patient, seen):
        if not seen.number and not patient.findings and (seen.whole or seen.length >= _FEWEST_STEPS):
            without_remedy(patient, seen, known)
        return False
    if seen.held <= 0.2 * seen.reached:
        return True
    # a training that went badly by chance isn't ill
    other = patient.value(patient.try_(seen.facts.setup, seen.base.planned, seed=patient.seed + 1))
    return ill(patient, replace(seen, held=max(seen.held, other)))


def _mended(patient: Patient, seen: TrialRound) -> Change | None:
    """Name causes, each with its remedy; return the first one's where more may be wrong behind it."""
    found = named(patient, seen)
    if not found:
        _say_that_it_raises(patient, seen.base)
        return None
    top = found[0]
    remedy = remedy_of(patient, seen, top)
    gap = max(1e-9, seen.reached - seen.held)
    for place, each in enumerate(found):
        share = min(1.0, max(0.0, each.score - seen.held) / gap)
        sure = min(0.95, 0.25 + 0.7 * share * each.suspicion.weight)
        mends = patient.after(remedy if place == 0 else each.remedy)
        gained = measured(seen.held, each.score, equal=each.suspicion.cost == 1)
        said = (
            f"skill is {seen.held:.2f}, and {seen.reached:.2f} can be reached in as many gradient evaluations"
        )
        patient.findings.append(
            each.suspicion.finding(
                sure if place == 0 else 0.8 * sure,
                remedy=replace(mends, measured=mends.measured or gained),
                evidence=(said if seen.base.finite else seen.base.failed,),
            )
        )
    return None if top.suspicion.code in OF_STEPS or len(found) > 1 else top.remedy.apply


def _say_that_it_raises(patient: Patient, base: TrialRun) -> None:
    """A training that ends in an error, and that no change mends, isn't healthy."""
    if not base.raised:
        return
    said = f"the training raises at step {base.steps}: {base.failed}"
    if not patient.findings:
        raise ModelError(f"{said}; a diagnosis needs a training that goes through")
    patient.notes.append(said)
