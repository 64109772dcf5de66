"""Trials of a diagnosis: a set-up as it is, with one change, and with two."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from torch import Tensor

from thalweg.diagnosis import changes
from thalweg.diagnosis.changes import Change
from thalweg.diagnosis.data_checks import suspect_data
from thalweg.diagnosis.endings import suspect_endings
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Finding, Remedy
from thalweg.diagnosis.neighbours import Learnable
from thalweg.diagnosis.pace import rate_remedy, suspect_pace
from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.signals import signal_of, suspect_signals
from thalweg.diagnosis.structure import suspect_structure
from thalweg.diagnosis.suspicion import Suspicion
from thalweg.diagnosis.trial import TrialRun, train
from thalweg.errors import UserError

__all__ = [
    "FINE",
    "OF_STEPS",
    "SHARE",
    "Patient",
    "TriedChange",
    "both_of",
    "later",
    "length_of",
    "suspicions_of",
    "together",
    "trials",
]

FINE = 0.9
"""A training whose skill is this near to 1 has nothing to mend."""

SHARE = 0.8
"""Below this share of what can be reached, something is wrong."""

OF_STEPS = ("learning-rate-high", "learning-rate-low", "optimizer", "epochs-few", "batch-large")
"""After one of these nothing else is looked for: what steps bring depends on all of them together."""


# What a skill on the examples that are learnt from differs by from seed to seed.
_OF_TRAINING = 0.04


@dataclass
class TriedChange:
    """A suspicion, and what its change brought."""

    suspicion: Suspicion
    setup: Setup
    trial: TrialRun
    score: float
    partner: Suspicion | None = None

    @property
    def remedy(self) -> Remedy:
        """What was tried."""
        assert self.suspicion.remedy is not None
        return self.suspicion.remedy


@dataclass
class Patient:
    """A set-up under diagnosis, with the budget that is left.

    Attributes:
        facts: of the set-up as it was given.
        budget: gradients that may be computed.
        spent: that were.
        say: told what is being done.
        seed: of all trials.
        before: what was mended so far.
    """

    facts: Facts
    budget: float
    seed: int = 0
    spent: float = 0.0
    say: Callable[[str, float], None] = lambda what, share: None
    unit: int = 32
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    base: TrialRun | None = None
    score: float = math.nan
    reached: float = math.nan
    before: Change = lambda setup: setup

    def after(self, remedy: Remedy) -> Remedy:
        """Return a remedy of the set-up as it was mended so far, as one of the set-up that was given."""
        return replace(remedy, change=changes.then(self.before, remedy.apply))

    @property
    def judged(self) -> bool:
        """Whether other examples than those learnt from decide."""
        return self.facts.held.validation is not None

    def try_(self, setup: Setup, steps: int, *, seed: int | None = None, keep: bool = False) -> TrialRun:
        """Train a set-up as long as so many steps of the one under diagnosis."""
        scaled = max(1, round(steps * self.unit / setup.batch_size))
        trial = train(
            setup,
            self.facts.judge,
            self.facts.held,
            steps=scaled,
            unit=self.unit,
            keep=keep,
            seed=self.seed if seed is None else seed,
        )
        self.spent += trial.gradients
        return trial

    def value(self, trial: TrialRun) -> float:
        """Return the skill that decides; a failure is -1, and less than nothing counts as nothing."""
        found = trial.score(judged=self.judged)
        return -1.0 if math.isnan(found) else found

    @property
    def error(self) -> float:
        """Standard error of a skill, of so many judged examples."""
        if not self.judged:
            # how well a model fits what it learns from is no sample of anything
            return _OF_TRAINING
        part = self.facts.held.validation or self.facts.held.training
        targets = part[1]
        count = len(targets) if isinstance(targets, Tensor) else 1
        if self.facts.judge.kind != "classes":
            return 0.5 / math.sqrt(max(1, count))
        number = self.facts.judge.numbers(targets)
        assert number is not None
        most = float(number.bincount().max()) / len(number)
        return 0.4 / math.sqrt(len(number)) / max(0.05, 1 - most)


def length_of(tried: TriedChange, length: int) -> int:
    """Return how many steps of the set-up a trial takes, in steps of its own batches."""
    return round(length * tried.suspicion.cost)


def trials(
    patient: Patient, facts: Facts, known: Learnable | None, base: TrialRun, length: int, *, whole: bool
) -> Iterator[TriedChange]:
    """Try all that may be wrong, one change at a time, what is likeliest first, within the budget."""
    suspicions = [*suspicions_of(facts, known), *suspect_pace(facts, base), *_generic(facts)]
    suspicions.sort(key=lambda each: -each.weight)
    there = {finding.code for finding in patient.findings}
    allowed = patient.budget * 0.85
    rates: list[TriedChange] = []
    for suspicion in suspicions:
        remedy = suspicion.remedy
        if remedy is None or remedy.change is None or suspicion.code in there:
            continue
        if suspicion.code == "epochs-few" and not whole:
            continue
        if patient.spent + length * suspicion.cost > allowed:
            break
        patient.say(f"trying: {remedy.text}", patient.spent / patient.budget)
        try:
            setup = remedy.apply(facts.setup)
            trial = patient.try_(setup, round(length * suspicion.cost))
        except (UserError, RuntimeError, ValueError, TypeError):
            continue
        made = TriedChange(suspicion, setup, trial, patient.value(trial))
        rates.append(made)
        yield made
    yield from _further(
        patient, facts, [t for t in rates if t.suspicion.code.startswith("learning-rate")], length
    )


def _further(patient: Patient, facts: Facts, rates: list[TriedChange], length: int) -> Iterator[TriedChange]:
    """Go on to larger rates while the training hardly moves, and to smaller ones while it breaks."""
    for code, factor in (("learning-rate-low", 10.0), ("learning-rate-high", 0.1)):
        way = [each for each in rates if each.suspicion.code == code]
        if not way:
            continue
        last = way[-1]
        total = last.suspicion.factor
        for _ in range(4):
            still = max(last.trial.moved.values(), default=0.0) < 0.05 and last.trial.finite
            best = last.score >= max(each.score for each in rates) and last.score < FINE
            goes_on = (still or best) if factor > 1 else (not last.trial.finite or best)
            if not goes_on or patient.spent + length > 0.9 * patient.budget:
                break
            total *= factor
            remedy = rate_remedy(facts, total)
            suspicion = replace(last.suspicion, remedy=remedy, factor=total)
            setup = remedy.apply(facts.setup)
            trial = patient.try_(setup, length)
            last = TriedChange(suspicion, setup, trial, patient.value(trial))
            rates.append(last)
            yield last


def _generic(facts: Facts) -> Iterator[Suspicion]:
    """What is advised to everybody: Adam at 1e-3 on scaled inputs. It names no cause."""
    scaled = isinstance(facts.setup.inputs, Tensor) and facts.setup.inputs.dtype.is_floating_point
    change = changes.then(changes.standardized_inputs, changes.adam()) if scaled else changes.adam()
    yield Suspicion(
        code="generic",
        weight=0.75,
        title="",
        remedy=Remedy(
            text="standardize inputs, and use Adam with a rate of 0.001",
            change=change,
            code="torch.optim.Adam(model.parameters(), lr=0.001)",
        ),
    )


def later(base: TrialRun, planned: int, patient: Patient) -> float:
    """Guess the skill at the end of a training that was cut short: it grows with log steps."""
    if len(base.points) < 3 or not base.finite:
        return -1.0
    ends = [
        (p.step, p.validation if patient.judged and not math.isnan(p.validation) else p.training)
        for p in base.points
    ]
    (s0, v0), (s1, v1) = ends[-3], ends[-1]
    slope = max(0.0, (v1 - v0) / math.log(s1 / s0)) if s1 > s0 else 0.0
    return min(1.0, v1 + slope * math.log(planned / s1)) if planned > s1 else v1


def together(
    patient: Patient, facts: Facts, tried: list[TriedChange], held: float, length: int
) -> Iterator[TriedChange]:
    """Try changes two at a time, where none helps much alone, or where much speaks for one that doesn't.

    Of two faults each hides what mending the other would bring.
    """
    best = max((each.score for each in tried), default=-1.0)
    if best < held - 1e-9 or held >= SHARE:
        return
    looked = [t for t in tried if t.suspicion.code not in (*OF_STEPS, "generic", "batch-small")]
    strong = [t for t in looked if t.suspicion.weight >= (0.6 if best < 0.4 else 0.85)][:4]
    steps = sorted(
        (t for t in tried if t.suspicion.code in OF_STEPS and t.suspicion.cost == 1), key=lambda t: -t.score
    )
    partners: list[TriedChange] = []
    codes: set[str] = set()
    for each in steps:
        if each.suspicion.code not in codes:
            codes.add(each.suspicion.code)
            partners.append(each)
    for place, one in enumerate(strong):
        if one.score > best - 0.05:
            continue
        others = [t for t in strong[place + 1 :] if t.suspicion.code != one.suspicion.code]
        for other in [*partners[:3], *others[:2]]:
            if patient.spent + length > 0.9 * patient.budget:
                return
            remedy = both_of(one.remedy, other.remedy)
            try:
                setup = remedy.apply(facts.setup)
                trial = patient.try_(setup, length)
            except (UserError, RuntimeError, ValueError, TypeError):
                continue
            score = patient.value(trial)
            if score > max(one.score, other.score) + 0.04:
                joined = replace(one.suspicion, remedy=remedy)
                yield TriedChange(joined, setup, trial, score, partner=other.suspicion)


def both_of(one: Remedy, other: Remedy) -> Remedy:
    """Return two remedies as one."""
    return Remedy(
        text=f"{one.text}; and {other.text}",
        change=changes.then(one.apply, other.apply),
        code=f"{one.code}\n{other.code}".strip(),
        settings={**one.settings, **other.settings},
    )


def suspicions_of(facts: Facts, known: Learnable | None) -> list[Suspicion]:
    """Return all that may be wrong by the first look."""
    signal = signal_of(facts)
    return [
        *suspect_endings(facts),
        *suspect_data(facts, known),
        *suspect_signals(facts, signal),
        *suspect_structure(facts, signal),
    ]
