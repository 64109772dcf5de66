"""The verdict of a race: from scores to one sentence, every pair, and what a careful reader has to know.

:func:`weigh` turns scores into :class:`Evidence`; :func:`compare_all` makes the verdict on one axis of it,
:func:`conclude` the sentence. The statistics are in :mod:`thalweg.racing.statistics`, what they are worth
is in docs/verdict.md, and what else to keep in mind says :mod:`thalweg.racing.caveats`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.racing import contrasts as contrasting
from thalweg.racing import statistics
from thalweg.racing.bootstrap import bootstrap_contrasts, with_test_noise
from thalweg.racing.contrasts import Contrasts
from thalweg.racing.results import AxisVerdict, Pair, Verdict
from thalweg.racing.statistics import Comparison
from thalweg.racing.tuning import withdrawal
from thalweg.racing.wording import listed, spoken_difference, spoken_range, spoken_score

__all__ = ["Evidence", "compare_all", "conclude", "mean_and_interval", "weigh"]

_MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is known about P optimizers after J replicates of S runs each; made by :func:`weigh`.

    Attributes:
        names: of the optimizers, in the order of ``scores``.
        scores: in the metric itself, NaN where a run diverged, [P, J, S].
        sign: 1 where higher is better, -1 where lower is.
        contrasts: of ``sign * scores``.
        ranked: of ranks within each replicate.
        n_train, n_test: examples to learn from and to test on, in one replicate.
        fixed_test: whether all replicates share one test set.
        overlap: correlation between splits that ``contrasts`` assume; ``None`` with a fixed test set.
    """

    names: tuple[str, ...]
    scores: NDArray[np.float64]
    sign: float
    contrasts: Contrasts
    ranked: Contrasts
    n_train: int
    n_test: int
    fixed_test: bool
    overlap: float | None

    @property
    def replicates(self) -> int:
        """How many replicates there are, J."""
        return int(self.scores.shape[1])

    @property
    def diverged(self) -> tuple[bool, ...]:
        """Whether any confirmation run diverged, by optimizer."""
        return tuple(bool(np.isnan(runs).any()) for runs in self.scores)

    @property
    def failed(self) -> tuple[bool, ...]:
        """Whether all confirmation runs diverged, by optimizer."""
        return tuple(bool(np.isnan(runs).all()) for runs in self.scores)

    def order(self, indices: Iterable[int]) -> list[int]:
        """Sort optimizers from best to worst: by mean, those with a diverged run last, by mean rank."""
        means, ranks = self.contrasts.means, self.ranked.means
        return sorted(indices, key=lambda i: (np.isnan(means[i]), -np.nan_to_num(means[i]), -ranks[i], i))


def weigh(
    names: Sequence[str],
    scores: ArrayLike,
    *,
    higher_is_better: bool,
    n_train: int,
    n_test: int,
    resolution: float = 0.0,
    resample: Callable[[NDArray[np.int64]], ArrayLike] | None = None,
    same_test_as: Evidence | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> Evidence:
    """Weigh the scores of the confirmation runs.

    Args:
        names: of the optimizers.
        scores: test scores in the metric, [P, J, S] in the order optimizer, replicate, seed; NaN where a
            run diverged.
        higher_is_better: of the metric.
        n_train: examples that a replicate learns from, those for validation included.
        n_test: test examples of a replicate.
        resolution: by how much one test example can change a score, averaged over seeds or not (accuracy:
            ``1 / n_test``; 0 where scores are continuous).
        resample: for one fixed test set: given how often each test example counts, [n_test], the score of
            every run, [P * J * S], in the same order. Without it every replicate has its own test split.
        same_test_as: instead of ``resample``, where these runs can't be scored anew: evidence on the same
            optimizers and fixed test set at another budget, whose noise due to test examples is taken over.
        seed: of the bootstrap.
        draws: of the bootstrap.

    >>> evidence = weigh(["sgd", "adam"], [[[0.8], [0.81], [0.8]], [[0.9], [0.91], [0.89]]],
    ...                  higher_is_better=True, n_train=300, n_test=100)
    >>> compare_all(evidence, margin=0.01, axis="work", budget="20 passes").could_be_best
    ['adam']
    """
    raw = np.asarray(scores, dtype=np.float64)
    assert raw.ndim == 3
    assert raw.shape[0] == len(names)
    sign = 1.0 if higher_is_better else -1.0
    fixed_test = resample is not None or (same_test_as is not None and same_test_as.fixed_test)
    overlap = None if fixed_test else contrasting.overlap(n_train, n_test)
    factor = contrasting.correction(raw.shape[1], overlap or 0.0)
    means = (sign * raw).mean(axis=-1)
    if resample is None and not fixed_test:
        contrasts = contrasting.split_contrasts(means, factor, resolution=resolution)
    elif resample is None:
        assert same_test_as is not None
        alone = contrasting.split_contrasts(means, factor)
        contrasts = with_test_noise(alone, same_test_as.contrasts, raw.shape[1], n_test)
    else:
        shape = (raw.shape[0], raw.shape[1], raw.shape[2])
        diverged = np.isnan(raw).ravel()

        def oriented(weights: NDArray[np.int64]) -> NDArray[np.float64]:
            values = sign * np.asarray(resample(weights), dtype=np.float64)
            return np.where(diverged, np.nan, values)

        contrasts = bootstrap_contrasts(
            oriented, shape, n_test, seed=seed, draws=draws, resolution=resolution
        )
    ranked = contrasting.split_contrasts(
        # a rank is a rounded thing: uniform within one, so known to 1/sqrt(12)
        contrasting.rank_scores(sign * raw),
        factor,
        resolution=1 / math.sqrt(12),
    )
    return Evidence(
        names=tuple(names),
        scores=raw,
        sign=sign,
        contrasts=contrasts,
        ranked=ranked,
        n_train=n_train,
        n_test=n_test,
        fixed_test=fixed_test,
        overlap=overlap,
    )


def mean_and_interval(evidence: Evidence, name: str) -> tuple[float | None, float | None, float | None]:
    """Return an optimizer's mean score and its interval, in the metric; ``None`` where a run diverged.

    The intervals of all optimizers hold at once, at 95 %.
    """
    index = evidence.names.index(name)
    if evidence.diverged[index]:
        return None, None, None
    mean = evidence.sign * float(evidence.contrasts.means[index])
    ends = statistics.interval(evidence.contrasts, index)
    if ends is None:
        return mean, None, None
    low, high = sorted(evidence.sign * end for end in ends)
    return mean, low, high


def compare_all(
    evidence: Evidence, *, margin: float, axis: Literal["work", "seconds"], budget: str
) -> AxisVerdict:
    """Return the verdict on every pair, and with it which optimizers could be the best, best first.

    Args:
        evidence: from :func:`weigh`, at equal work or at equal seconds.
        margin: the largest difference that doesn't matter, in the metric.
        axis: which of the two.
        budget: what was equal, in words.
    """
    contrasts, ranked, names = evidence.contrasts, evidence.ranked, evidence.names
    pairs = statistics.compare_pairs(contrasts, ranked, margin=margin, failed=evidence.failed)
    best = statistics.could_be_best(pairs, len(names))
    held: list[float | None] = [None] * len(pairs)
    if evidence.overlap is not None:
        held = statistics.holds_up_to(
            contrasts,
            ranked,
            pairs,
            replicates=evidence.replicates,
            correlation=evidence.overlap,
            margin=margin,
            failed=evidence.failed,
        )
    return AxisVerdict(
        axis=axis,
        budget=budget,
        could_be_best=[names[index] for index in evidence.order(best)],
        pairs=[
            Pair(
                a=names[pair.a],
                b=names[pair.b],
                difference=pair.difference,
                low=pair.low,
                high=pair.high,
                p_value=pair.p_value,
                verdict=pair.verdict,
                holds_up_to=holds,
            )
            for pair, holds in zip(pairs, held, strict=True)
        ],
        overlap=evidence.overlap,
        holds_up_to=_least_held(pairs, held, best),
        method=_method(evidence, margin),
    )


def _least_held(
    pairs: Sequence[Comparison], held: Sequence[float | None], best: Sequence[int]
) -> float | None:
    """The largest correlation at which all others are still behind somebody, and the best equal if all are.

    A pair that is equal among others that aren't settles nothing about who is best.
    """
    behind: dict[int, float] = {}
    equal: list[float] = []
    settled = all(p.verdict == "equivalent" for p in pairs if p.a in best and p.b in best)
    for pair, holds in zip(pairs, held, strict=True):
        if holds is None:
            continue
        if pair.loser is not None:
            behind[pair.loser] = max(holds, behind.get(pair.loser, 0.0))
        elif settled and pair.a in best and pair.b in best:
            equal.append(holds)
    return min([*behind.values(), *equal], default=None)


def _method(evidence: Evidence, margin: float) -> str:
    if evidence.overlap is None:
        source = (
            f"bootstrap of {evidence.n_test} test examples, and spread of {evidence.replicates} replicates"
        )
    else:
        factor = f"1/{evidence.replicates} + {evidence.overlap:.3g}/{1 - evidence.overlap:.3g}"
        source = (
            f"corrected resampled t over {evidence.replicates} splits whose scores correlate by "
            f"{evidence.overlap:.3g} (variance factor {factor})"
        )
    ranks = ", by rank where a run diverged" if any(evidence.diverged) else ""
    return (
        f"{source}{ranks}; all pairs at once by step-down studentized ranges on moderated variances, any "
        f"wrong difference at 5 %; could be best: no other is better; equivalent: two one-sided tests at "
        f"5 %, margin {margin:g}"
    )


def conclude(
    evidence: Evidence,
    verdict: AxisVerdict,
    *,
    metric: str,
    margin: float,
    regrets: Iterable[float | None] = (),
) -> Verdict:
    """Say it in one sentence, name the winner, and withdraw the verdict if an audit demands it.

    Args:
        evidence: what ``verdict`` was made of.
        verdict: at equal work.
        metric: its name.
        margin: as for :func:`compare_all`.
        regrets: of the audited settings, where settings were stopped early.

    Returns:
        ``winner`` is the best mean among those that could be the best, also where others could be too (the
        sentence says so); ``None`` where every optimizer had a diverged confirmation run. ``winner_mean`` is
        its mean less what being picked as the highest adds (:func:`thalweg.racing.statistics.shrunk_winner`).
    """
    leader = verdict.could_be_best[0]
    averaged = not all(evidence.diverged)
    reason = None
    regret = withdrawal(regrets, _gap(evidence, verdict))
    if regret is not None:
        size = spoken_difference(regret, metric) if math.isfinite(regret) else "without measure"
        reason = (
            f"a setting that was stopped early would have beaten its pool's best ({size} better), which is "
            f"more than half the gap to the next optimizer; race again without elimination"
        )
    sentence = f"the verdict is withdrawn: {reason}"
    if not reason:
        sentence = _sentence(evidence, verdict, metric, margin) + _reach(verdict)
    return Verdict(
        sentence=sentence,
        winner=leader if averaged else None,
        winner_mean=_winner_mean(evidence, verdict),
        work=verdict,
        withdrawn=reason is not None,
        withdrawn_reason=reason,
    )


def _winner_mean(evidence: Evidence, verdict: AxisVerdict) -> float | None:
    best = [evidence.names.index(name) for name in verdict.could_be_best]
    mean = statistics.shrunk_winner(evidence.contrasts, best)
    return None if mean is None else evidence.sign * mean


def _gap(evidence: Evidence, verdict: AxisVerdict) -> float | None:
    """From the best mean to the best one that is behind for sure."""
    means = dict(zip(evidence.names, evidence.contrasts.means.tolist(), strict=True))
    behind = [
        mean for name, mean in means.items() if name not in verdict.could_be_best and not math.isnan(mean)
    ]
    first = means[verdict.could_be_best[0]]
    return first - max(behind) if behind and not math.isnan(first) else None


def _sentence(evidence: Evidence, verdict: AxisVerdict, metric: str, margin: float) -> str:
    names = evidence.names
    if all(evidence.diverged):
        return (
            "no optimizer can be called best: each had a confirmation run that diverged; "
            "give spaces with lower learning rates"
        )
    means = {n: float(m) for n, m in zip(names, evidence.sign * evidence.contrasts.means, strict=True)}
    best = verdict.could_be_best
    behind = [names[i] for i in evidence.order(range(len(names))) if names[i] not in best]
    scored = [name for name in best if not math.isnan(means[name])]
    leader = best[0]
    if len(names) == 1:
        return f"{leader} raced alone: {spoken_score(means[leader], metric)}"
    equal = _equivalent_to(verdict, leader)
    within = f"within the margin of {spoken_difference(margin, metric)}"
    if len(best) == 1:
        sentence = f"{leader} is best: {spoken_score(means[leader], metric)}"
        second = behind[0]
        if math.isnan(means[second]):
            return f"{sentence}; each of the others had a confirmation run that diverged"
        sentence += f", {spoken_difference(means[leader] - means[second], metric)} ahead of {second}"
        sentence += ", the next" if len(behind) > 1 else ""
        if equal:
            are = "are" if len(equal) > 1 else "is"
            sentence += f"; yet {listed(equal)} {are} {within}, too close to matter"
        return sentence
    span = spoken_range(means[scored[0]], means[scored[-1]], metric) if scored else "compared by rank"
    close = (
        f"{spoken_difference(means[scored[0]] - means[scored[-1]], metric)} of each other" if scored else ""
    )
    lost = [name for name in best if name not in scored]
    if not behind:
        if len(equal) == len(names) - 1 and _all_equivalent(verdict, best):
            return f"all {len(names)} are equally good: {span}, each {within} of the others"
        diverged = f"; {listed(lost)} diverged at times" if lost else ""
        return (
            f"nothing can be told apart: {listed(best) if len(best) <= _MOST_NAMED else f'all {len(best)}'} "
            f"could be the best ({span}), and {evidence.replicates} splits can't say which{diverged}"
        )
    rest = listed(behind) if len(behind) <= _MOST_NAMED else f"the other {len(behind)}"
    are = "are" if len(behind) > 1 else "is"
    if _all_equivalent(verdict, best):
        return f"{listed(best)} are equally good: {span}, {within}; {rest} {are} behind"
    between = f"{span}, within {close}" if len(scored) > 1 else span
    diverged = f"; of these {listed(lost)} diverged at times" if lost else ""
    return f"{listed(best)} could each be the best ({between}){diverged}; {rest} {are} behind"


def _reach(verdict: AxisVerdict) -> str:
    """Say up to where the sentence holds, if that isn't all of what is looked at."""
    if verdict.holds_up_to is None or verdict.holds_up_to >= statistics.MOST_OVERLAP:
        return ""
    return f"; this holds if scores of different splits correlate by at most {verdict.holds_up_to:.2g}"


def _equivalent_to(verdict: AxisVerdict, name: str) -> list[str]:
    return [
        pair.b if pair.a == name else pair.a
        for pair in verdict.pairs
        if name in (pair.a, pair.b) and pair.verdict == "equivalent"
    ]


def _all_equivalent(verdict: AxisVerdict, names: Sequence[str]) -> bool:
    return all(p.verdict == "equivalent" for p in verdict.pairs if p.a in names and p.b in names)
