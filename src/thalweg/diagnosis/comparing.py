"""Whether a remedy really helps: the set-up as it is and the changed one, trained for a short while, paired.

Of each pair both are trained from one seed and judged by the same examples, others than those of the next
pair: other ones are held out, or validation data are drawn with replacement. What is compared is the mean of
the differences of skill, with Student's interval over the pairs, so that it holds for other examples too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from scipy import stats

from thalweg.diagnosis.diagnosis import Diagnosis
from thalweg.diagnosis.facts import gather
from thalweg.diagnosis.setup import Setup, rows_of
from thalweg.diagnosis.skill import Judge
from thalweg.diagnosis.trial import HeldOut, held_out, train
from thalweg.errors import Interrupted, OptionError
from thalweg.execution.executors import Executor, RunList, SequentialExecutor
from thalweg.objectives.nests import count_of
from thalweg.randomness.generators import undisturbed
from thalweg.randomness.streams import seed32
from thalweg.run.problem import Problem
from thalweg.run.spec import Outcome, Run, Setting, Workload
from thalweg.settings.tables import whole_number

__all__ = ["PairedTrials", "compare_setups", "try_remedies"]

_LEVEL = 0.95
# Of one set-up, so that a pair is about a minute at most of what a diagnosis may cost.
_MOST_STEPS = 600


@dataclass(frozen=True, kw_only=True)
class PairedTrials:
    """What pairs of short trainings came to.

    Attributes:
        before, after: skill of each seed, as it is and changed.
        steps: of each training as it is; the changed one has as many gradient evaluations.
        judged: whether skill is on examples that nothing was learnt from.
    """

    before: Sequence[float]
    after: Sequence[float]
    steps: int
    judged: bool = True

    @property
    def difference(self) -> float:
        """Mean gain in skill."""
        return sum(b - a for a, b in zip(self.before, self.after, strict=True)) / len(self.before)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean gain, by Student's t over the pairs.

        >>> low, high = PairedTrials(before=[0.1, 0.2, 0.1], after=[0.8, 0.9, 0.9], steps=100).interval
        >>> round(low, 2), round(high, 2)
        (0.59, 0.88)
        """
        gains = [b - a for a, b in zip(self.before, self.after, strict=True)]
        mean, n = self.difference, len(gains)
        spread = math.sqrt(sum((gain - mean) ** 2 for gain in gains) / (n - 1))
        half = float(stats.t.ppf(0.5 + _LEVEL / 2, n - 1)) * spread / math.sqrt(n)
        return mean - half, mean + half

    @property
    def helps(self) -> bool | None:
        """Whether the change helps; ``None`` where the pairs don't settle it."""
        low, high = self.interval
        return True if low > 0 else False if high < 0 else None

    def __str__(self) -> str:
        verdict = {True: "the change helps", False: "the change harms", None: "no difference is seen"}
        low, high = self.interval
        before, after = (sum(each) / len(self.before) for each in (self.before, self.after))
        return (
            f"{verdict[self.helps]}: skill {before:.2f} as it is, {after:.2f} with the change, a gain of "
            f"{self.difference:+.2f} ({low:+.2f} to {high:+.2f} at 95 %, {len(self.before)} pairs of seeds, "
            f"{self.steps:,} steps each)"
        )


def try_remedies(
    found: Diagnosis, *, seeds: int = 3, steps: int | None = None, executor: Executor | None = None
) -> PairedTrials:
    """Train a diagnosed set-up as it is and with its remedies, paired over seeds.

    Args:
        found: a diagnosis with a remedy that code can carry out.
        seeds: how many pairs, at least 2.
        steps: of each; by default the set-up's own, and at most 600.
        executor: carries the trainings out; by default here, one after another.

    Raises:
        OptionError: no remedy can be applied by itself.

    >>> import thalweg, torch
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(200, 4)
    >>> model = torch.nn.Linear(4, 1)
    >>> found = thalweg.diagnose(
    ...     model, (x, x.sum(1, keepdim=True)), "mse", torch.optim.SGD(model.parameters(), lr=1e-6)
    ... )
    >>> try_remedies(found, seeds=2, steps=70).helps
    True
    """
    return compare_setups(found.setup, found.repaired(), seeds=seeds, steps=steps, executor=executor)


def compare_setups(
    before: Setup,
    after: Setup,
    *,
    seeds: int = 3,
    steps: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> PairedTrials:
    """Train two set-ups of one task for a short while, paired over seeds.

    Args:
        before, after: of the same data; the first one's own examples and task judge both.
        seeds, steps, executor: as for :func:`try_remedies`.
        progress: called with what is being done, and the share that is done.

    Raises:
        OptionError: fewer than two pairs.
        Interrupted: the executor was stopped.
    """
    seeds = whole_number("seeds", seeds)
    if seeds < 2:
        raise OptionError(f"seeds is {seeds}, and one pair has no interval; give at least 2")
    say = progress or (lambda what, share: None)
    steps = min(before.steps, _MOST_STEPS) if steps is None else whole_number("steps", steps)
    with undisturbed():
        facts = gather(before, seed=0)
    arms = {"before": before, "after": after}
    scores: dict[tuple[str, int], float] = {}
    judged = facts.held.validation is not None
    asked = RunList(
        train=_TrainsSetups(
            arms,
            facts.judge,
            [_held(before, seed) for seed in range(seeds)],
            steps,
            before.batch_size,
        ),
        # a pair after the other, so that an early end leaves whole ones
        groups=[[_run(arm, seed)] for seed in range(seeds) for arm in arms],
        # the set-ups have their own data and lengths
        problem=cast("Problem", None),
        workload=Workload(epochs=1, batch_size=before.batch_size, evaluations=1),
    )

    def ended(number: int, outcomes: list[Outcome]) -> None:
        for each in outcomes:
            arm, _, seed = each.identity.partition("/")
            value = each.validation[-1]
            scores[arm, int(seed)] = -1.0 if value is None else value
        say("comparing, paired over seeds", len(scores) / (2 * seeds))

    say("comparing, paired over seeds", 0.0)
    with undisturbed():
        (executor or SequentialExecutor()).carry_out(
            [asked], ended=ended, advanced=lambda done: None, stop=lambda: False
        )
    return PairedTrials(
        before=[scores["before", seed] for seed in range(seeds)],
        after=[scores["after", seed] for seed in range(seeds)],
        steps=steps,
        judged=judged,
    )


def _held(setup: Setup, seed: int) -> HeldOut:
    held = held_out(setup, seed=seed)
    if not held.own or held.validation is None:
        return held
    inputs, targets = held.validation
    count = count_of(targets)
    drawn = torch.Generator().manual_seed(seed32(seed, "diagnosis", "judged"))
    places = torch.randint(count, (count,), generator=drawn)
    return replace(held, validation=(rows_of(inputs, places), rows_of(targets, places)))


def _run(arm: str, seed: int) -> Run:
    return Run(identity=f"{arm}/{seed}", setting=Setting(optimizer=arm, hyperparameters={}), seed=seed)


@dataclass(frozen=True)
class _TrainsSetups:
    """Trains runs that stand for set-ups, as :class:`~thalweg.execution.executors.Train` says."""

    arms: dict[str, Setup]
    judge: Judge
    held: Sequence[HeldOut]
    steps: int
    unit: int

    def __call__(
        self,
        runs: Sequence[Run],
        asked: RunList,
        *,
        stop: Callable[[], bool],
        advanced: Callable[[float], None],
    ) -> list[Outcome]:
        """Train runs to their ends; a failure is a skill of -1."""
        found = []
        for run in runs:
            if stop():
                raise Interrupted("interrupted")
            setup = self.arms[run.setting.optimizer]
            # as many gradients of examples for both
            steps = max(1, round(self.steps * self.unit / setup.batch_size))
            held = self.held[run.seed]
            trial = train(setup, self.judge, held, steps=steps, seed=run.seed, points=1, unit=self.unit)
            score = trial.score(judged=held.validation is not None)
            found.append(
                Outcome(
                    identity=run.identity,
                    steps=[trial.steps],
                    train_loss=[trial.losses[-1] if trial.losses else None],
                    validation_loss=[None],
                    validation=[None if math.isnan(score) else score],
                    stopped=trial.failed or None,
                )
            )
            advanced(float(trial.steps))
        return found
