"""Races with known truth, thousands of them: is the verdict right as often as it says?

``python -m benchmarks.verdict_calibration`` prints the tables of docs/verdict.md; ``--write`` puts them
there.

A simulated score is ``mean_p + split_j + own_pj + seed_pjs``: an optimizer's true mean, an effect of the
split that all optimizers share, what the split, its tuning and its draw of settings do to this optimizer
alone (sd ``spread_p``), and the seeds. ``own`` is correlated between splits by ``overlap``, since training
sets overlap; Nadeau and Bengio take test/(train + test) for it, 0.2 here.

Thousands of races are judged at once by :func:`judged`, a twin of the library's comparison that is written
apart from it, with SciPy's studentized range; a test holds the two together. Where runs diverge and on
fixed test sets the library itself judges race by race.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from thalweg.racing import statistics
from thalweg.racing.contrasts import correction
from thalweg.racing.verdict import weigh

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
DOC = Path(__file__).parent.parent / "docs" / "verdict.md"
TRAIN, TEST = 800, 200
NEAR = TEST / (TRAIN + TEST)
# Correlations that holds_up_to tries, from the one that is assumed
TRIED = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A kind of race.

    Attributes:
        noise: one of those that :func:`scores` tells apart, or of :func:`fixed_hits`.
        overlap: correlation between splits of what they do to one optimizer.
        falls: (share of runs, by how much) of the first optimizer, or of all.
        falling: what of its score stays 0 on average: the usual one, or the mean with the falls.
        examples: of a fixed test set.
    """

    name: str
    means: tuple[float, ...]
    spreads: tuple[float, ...] = field(default=())
    splits: int = 5
    seeds: int = 2
    noise: str = "normal"
    margin: float = 1.0
    seed_sd: float = 0.5
    overlap: float = NEAR
    falls: tuple[float, float] | None = None
    falling: Literal["usual", "mean", "all"] = "usual"
    examples: int = 300

    @property
    def sd(self) -> Array:
        """The spread of each optimizer."""
        return np.array(self.spreads or (1.0,) * len(self.means))

    @property
    def fixed(self) -> bool:
        """Whether all replicates share one test set."""
        return self.noise.startswith("fixed")

    @property
    def true_means(self) -> Array:
        """Expected score of each optimizer, falls included."""
        means = np.array(self.means)
        if self.falls is not None and self.falling == "usual":
            means[0] -= self.falls[0] * self.falls[1]
        return means


def equal(optimizers: int, splits: int = 5, name: str = "", **options: object) -> Truth:
    """Return a truth with nobody better than another."""
    return Truth(
        name=name or f"{optimizers} equal",
        means=(0.0,) * optimizers,
        splits=splits,
        **options,  # type: ignore[arg-type]
    )


LADDER = (0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -10.0)
WILD = (5.0, 1, 1, 1, 1, 1, 1)
TRUTHS = [
    # all are equal: numbers of optimizers and splits, correlations
    *(equal(2, splits) for splits in (2, 3, 5, 10)),
    *(equal(7, splits) for splits in (2, 3, 5, 10)),
    equal(3),
    equal(12),
    equal(12, 10),
    *(
        equal(optimizers, splits, f"{optimizers} equal, overlap {overlap:g}", overlap=overlap)
        for overlap in (0.0, 0.25, 0.4, 0.6)
        for optimizers, splits in ((2, 5), (7, 5), (2, 10), (7, 10))
    ),
    # they vary differently, or not normally
    equal(3, 3, "3 equal, one wild", spreads=(5, 1, 1)),
    equal(7, 5, "7 equal, one wild", spreads=WILD),
    equal(7, 5, "7 equal, one steady", spreads=(0.2, 1, 1, 1, 1, 1, 1)),
    equal(7, 3, "7 equal, two wilder", spreads=(1, 1, 0.2, 0.2, 0.2, 0.2, 0.2)),
    equal(2, 5, "2 equal, heavy tails (t, 3 df)", noise="t3"),
    equal(7, 5, "7 equal, heavy tails (t, 3 df)", noise="t3"),
    equal(7, 10, "7 equal, heavy tails (t, 3 df)", noise="t3"),
    equal(2, 5, "2 equal, skewed (exponential)", noise="skewed"),
    equal(7, 5, "7 equal, skewed (exponential)", noise="skewed"),
    equal(2, 5, "2 equal, skewed, one 3 times as wild", noise="skewed", spreads=(3, 1)),
    equal(7, 5, "7 equal, skewed, one 3 times as wild", noise="skewed", spreads=(3, 1, 1, 1, 1, 1, 1)),
    equal(2, 5, "2 equal, skewed, one 5 times as wild", noise="skewed", spreads=(5, 1)),
    # runs that collapse to a finite bad score
    equal(2, 5, "one of 2 falls by 30 in 5 % of runs", falls=(0.05, 30.0)),
    equal(7, 5, "one of 7 falls by 30 in 5 % of runs", falls=(0.05, 30.0)),
    equal(2, 5, "both of 2 fall by 30 in 5 % of runs", falls=(0.05, 30.0), falling="all"),
    equal(7, 5, "all of 7 fall by 30 in 5 % of runs", falls=(0.05, 30.0), falling="all"),
    equal(2, 5, "one of 2 falls by 10 in 5 %, else better by 0.5", falls=(0.05, 10.0), falling="mean"),
    equal(2, 5, "one of 2 falls by 60 in 5 %, else better by 3", falls=(0.05, 60.0), falling="mean"),
    # some are better
    Truth(name="two equal, others behind", means=(0.0, 0.0, -3.0, -3.0, -4.0, -6.0, -9.0)),
    Truth(name="one ahead by 5", means=(0.0, -5.0, -5.0, -5.0, -5.0, -5.0, -5.0)),
    Truth(name="a ladder", means=LADDER),
    Truth(name="a ladder", means=LADDER, splits=3),
    Truth(name="a ladder", means=LADDER, splits=10),
    Truth(
        name="two wild ones far behind", means=(0, -1, -2, -3, -3, -30, -30), spreads=(1, 1, 1, 1, 1, 10, 10)
    ),
    Truth(name="two steady leaders", means=(0, 0, -3, -3, -4, -5, -6), spreads=(0.2, 0.2, 1, 1, 1, 1, 1)),
    Truth(name="heavy tails, ladder", means=LADDER, noise="t3"),
    Truth(name="siblings move together", means=(0, 0, 0, 0, -3, -3, -3), noise="siblings"),
    Truth(name="siblings, but overlap apart", means=(0, 0, 0, 0, -3, -3, -3), noise="siblings apart"),
    Truth(name="accuracy on 40 examples, ties", means=(0.97,) * 7, noise="accuracy", margin=0.02),
    Truth(name="accuracy on 40 examples, two", means=(0.97, 0.97), noise="accuracy", margin=0.02),
    Truth(name="accuracy on 12 examples, by the margin", means=(1.0, 0.9), noise="accuracy", margin=0.1),
    Truth(name="accuracy, two behind", means=(0.97,) * 5 + (0.9, 0.8), noise="accuracy", margin=0.02),
    Truth(name="two differ by just the margin", means=(0.0, -1.0), spreads=(0.3, 0.3), seed_sd=0.1),
    Truth(name="7 equal, margin 3 sd", means=(0.0,) * 7, margin=3.0),
    Truth(
        name="the two last diverge in half their runs", means=(0, 0, -1, -3, -3, -3, -3), noise="diverging"
    ),
    # one test set for all replicates
    Truth(name="fixed test set of 300, all equal", means=(1.5,) * 5, noise="fixed", margin=0.03),
    *(
        Truth(
            name=f"fixed test set of {examples}, two equal",
            means=(0.8, 0.8),
            noise="fixed, apart",
            margin=0.03,
            examples=examples,
        )
        for examples in (12, 30, 100)
    ),
    Truth(name="fixed test set of 300, ladder", means=(2.2, 2.0, 1.5, 1.0, 0.5), noise="fixed", margin=0.03),
    *(
        Truth(
            name=f"fixed test set of {examples}, by the margin of {margin:g}",
            means=(1.0, 1.0 - margin),
            noise="fixed, alike",
            margin=margin,
            examples=examples,
        )
        for examples, margin in ((12, 0.3), (30, 0.1), (30, 0.2), (100, 0.04), (100, 0.08), (1000, 0.005))
    ),
    Truth(
        name="fixed test set of 10000, by the margin of 0.005",
        means=(1.0, 0.995),
        noise="fixed, alike",
        margin=0.005,
        examples=10_000,
    ),
]


def scores(truth: Truth, races: int, random: np.random.Generator) -> Array:
    """Draw the scores of many races, [N, P, J, S]; NaN where a run diverged."""
    shape = (races, len(truth.means), truth.splits, truth.seeds)
    if truth.noise == "accuracy":
        examples = 12 if "12" in truth.name else 40
        hard = random.random((races, 1, truth.splits, 1, examples)) < 0.5  # the rest nobody gets wrong
        chance = np.where(hard, 2 * np.array(truth.means)[:, None, None, None] - 1, 1.0)
        return np.asarray((random.random((*shape, examples)) < chance).mean(axis=-1), dtype=np.float64)
    if truth.noise == "t3":
        own = random.standard_t(3, shape[:3]) / math.sqrt(3)
    elif truth.noise == "skewed":
        own = 1 - random.exponential(size=shape[:3])
    else:
        own = random.standard_normal(shape[:3])
    lasting = random.standard_normal((*shape[:2], 1))
    if truth.noise.startswith("siblings"):
        own[:, :3] = 0.9 * random.standard_normal((races, 1, truth.splits)) + math.sqrt(0.19) * own[:, :3]
    if truth.noise == "siblings":
        lasting[:, :3] = 0.9 * random.standard_normal((races, 1, 1)) + math.sqrt(0.19) * lasting[:, :3]
    own = truth.sd[:, None] * (math.sqrt(truth.overlap) * lasting + math.sqrt(1 - truth.overlap) * own)
    split = 3 * random.standard_normal((races, 1, truth.splits, 1))
    seeds = truth.seed_sd * truth.sd[:, None, None] * random.standard_normal(shape)
    drawn = np.array(truth.means)[:, None, None] + split + own[..., None] + seeds
    if truth.falls is not None:
        share, depth = truth.falls
        who = slice(None) if truth.falling == "all" else slice(0, 1)
        fell = random.random(drawn[:, who].shape) < share
        drawn[:, who] -= depth * fell
        if truth.falling == "mean":
            drawn[:, who] += share * depth
    if truth.noise == "diverging":
        drawn[:, -2:][random.random(drawn[:, -2:].shape) < 0.5] = np.nan
    return np.asarray(drawn, dtype=np.float64)


def fixed_hits(truth: Truth, random: np.random.Generator) -> Array:
    """Draw right and wrong on one test set, [P, J, S, N]: examples differ, and so do retrained networks.

    ``"fixed, apart"``: all runs of an optimizer agree, and the optimizers err on examples of their own.
    ``"fixed, alike"``: so that the better one is right wherever the worse one is.
    """
    shape = (len(truth.means), truth.splits, truth.seeds, truth.examples)
    if truth.noise != "fixed":
        draws = (truth.examples,) if truth.noise == "fixed, alike" else (shape[0], 1, 1, truth.examples)
        right = random.random(draws) < np.array(truth.means)[:, None, None, None]
        return np.broadcast_to(right, shape).astype(np.float64)
    hard = random.standard_normal(truth.examples)
    trained = 0.15 * random.standard_normal((len(truth.means), truth.splits, 1, 1))
    logits = np.array(truth.means)[:, None, None, None] + trained + 1.5 * hard
    return (random.random(shape) < 1 / (1 + np.exp(-logits))).astype(np.float64)


# The library's comparison, written apart from it, for many races at once ---------------------------------


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Verdicts on N races, K pairs (a, b) of P optimizers each.

    Attributes:
        sign: 1 where a was ahead of b, else -1, [N, K].
        different: whether that is said to be a difference, [N, K].
        equivalent: whether the pair is said to be equivalent, [N, K].
        best: who could be the best, [N, P].
    """

    sign: Array
    different: Flags
    equivalent: Flags
    best: Flags


@functools.cache
def critical(m: int, dof: float, tail: float = 0.05) -> float:
    """Return the critical |t| of all pairs of m."""
    if m == 2:
        return float(stats.t.isf(tail / 2, dof))
    return float(stats.studentized_range.isf(tail, m, dof)) / math.sqrt(2)


def judged(
    y: Array,
    factor: float,
    *,
    margin: float = 0.0,
    resolution: float = 0.0,
    lent: float = 1.0,
    lent_dof: float = 0.5,
    step_down: bool = True,
    near: Flags | None = None,
) -> Judged:
    """Judge many races.

    Args:
        y: scores, seeds averaged, [N, P, J].
        factor: of the variance of a mean difference.
        margin, resolution: as in the library.
        lent, lent_dof: how much the median pair's variance counts, and how many degrees of freedom.
        step_down: whether who is behind stops counting.
        near: instead of testing for equivalence.
    """
    races, optimizers, splits = y.shape
    a, b = np.triu_indices(optimizers, 1)
    apart = y[:, a] - y[:, b]
    difference = apart.mean(axis=-1)
    variance = factor * np.maximum(np.var(apart, axis=-1, ddof=1), resolution**2)
    dof = splits - 1
    example = factor * resolution
    with np.errstate(divide="ignore", invalid="ignore"):
        own = np.where(difference == 0, 0.0, np.abs(difference) / np.sqrt(variance))

    def within(used: Array, freedom: float | Array) -> Flags:
        reach = stats.t.isf(0.05, freedom) * np.sqrt(np.maximum(used, margin * example))
        return np.asarray(np.abs(difference) + example / 2 + reach < margin, dtype=bool)

    equivalent = within(variance, dof) if near is None else near
    alone = equivalent
    agreed = own >= stats.t.isf(0.025, dof)
    loser = np.where(difference > 0, b, a)
    left = np.ones((races, optimizers), dtype=bool)
    different = np.zeros(difference.shape, dtype=bool)
    while True:
        both = left[:, a] & left[:, b]
        count = left.sum(axis=1)
        pairs = np.where(both, variance, np.nan)
        pairs[count < 2] = 1.0
        several = (count > 2)[:, None]
        middle = np.nanmedian(pairs, axis=1, keepdims=True)
        used = np.where(several, (dof * variance + lent * middle) / (dof + lent), variance)
        bar = np.full((races, 1), np.inf)
        for m in np.unique(count[count > 1]).tolist():
            bar[count == m] = critical(m, dof + lent_dof if m > 2 and lent > 0 else dof)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(difference == 0, 0.0, np.abs(difference) / np.sqrt(used))
        if near is None:
            freedom = np.where(several, dof + (lent_dof if lent > 0 else 0), dof)
            # who has left keeps what was said of the two while both were there
            equivalent = np.where(both, alone & within(used, freedom), equivalent)
        found = both & agreed & ~equivalent & (t >= bar)
        different |= found
        out = np.zeros_like(left)
        row, pair = np.nonzero(found)
        out[row, loser[row, pair]] = True
        left &= ~out
        if not step_down or not out.any():
            return Judged(sign=np.sign(difference), different=different, equivalent=equivalent, best=left)


def said_to_hold(y: Array, overlap: float, **options: float) -> Judged:
    """Judge many races as the library does, and keep the claims that say to hold at this correlation."""
    splits = y.shape[-1]
    found = judged(y, correction(splits, TRIED[0]), **options)
    different, equivalent = found.different, found.equivalent
    for tried in TRIED[1:]:
        if tried < overlap + 0.05 - 1e-9:
            factor = correction(splits, tried)
            different = different & judged(y, factor, near=found.equivalent, **options).different
            equivalent = equivalent & judged(y, factor, **options).equivalent
    return Judged(sign=found.sign, different=different, equivalent=equivalent, best=found.best)


def from_library(compared: Sequence[statistics.Comparison], optimizers: int) -> Judged:
    """Return one race judged by the library, [1, ...]."""
    verdicts = [one.verdict for one in compared]
    sign = np.array([[-1.0 if verdict == "worse" else 1.0 for verdict in verdicts]])
    best = np.zeros((1, optimizers), dtype=bool)
    best[0, statistics.could_be_best(compared, optimizers)] = True
    return Judged(
        sign=sign,
        different=np.array([[verdict in ("better", "worse") for verdict in verdicts]]),
        equivalent=np.array([[verdict == "equivalent" for verdict in verdicts]]),
        best=best,
    )


# Counting ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of races, or of pairs, over races of one truth; NaN where there was nothing to count.

    Attributes:
        best_behind: a truly best optimizer is worse than another by a pair that says to hold at the true
            correlation.
        best_behind_at_all: by any pair, whatever it says.
        size: how many could be the best.
        alone: only one could.
        wrong_difference: better or worse is said of a pair that is equal, or the wrong way round; of pairs
            that say to hold.
        at_margin: equivalent is said of a pair that differs by just the margin.
        found: of pairs that differ, those that are said to.
        equivalent: of pairs within the margin, those that are said to be.
        too_high, corrected: winner's mean less its true one, as measured and without what being picked adds.
        covered: the winner's interval holds its true mean.
    """

    races: int
    best_behind: float
    best_behind_at_all: float
    size: float
    alone: float
    wrong_difference: float
    at_margin: float
    found: float
    equivalent: float
    too_high: float
    corrected: float
    covered: float


def _behind(judged: Judged, best: Flags) -> Flags:
    """Whether any of the truly best is worse than another, [N]."""
    a, b = np.triu_indices(len(best), 1)
    loser = np.where(judged.sign > 0, b, a)
    return np.asarray((judged.different & best[loser]).any(axis=1), dtype=bool)


def _share(flags: Flags, of: Flags | None = None) -> float:
    counted = flags if of is None else flags[:, of]
    return float(counted.mean()) if counted.size else math.nan


def rates(truth: Truth, races: int, seed: int = 0) -> Rates:
    """Judge simulated races and count what was right."""
    random = np.random.default_rng(seed)
    optimizers = len(truth.means)
    true = truth.true_means
    if truth.fixed or truth.noise == "diverging":
        one_by_one = [_judge_alone(truth, random) for _ in range(races)]
        said = Judged(
            **{
                part: np.concatenate([getattr(one, part) for one, _ in one_by_one])
                for part in ("sign", "different", "equivalent", "best")
            }
        )
        holds, lead = said, np.array([lead for _, lead in one_by_one])
    else:
        drawn = scores(truth, races, random)
        y = drawn.mean(axis=-1)
        resolution = (1 / 12 if "12" in truth.name else 1 / 40) if truth.noise == "accuracy" else 0.0
        options = {"margin": truth.margin, "resolution": resolution}
        said = judged(y, correction(truth.splits, TRIED[0]), **options)
        holds = said_to_hold(y, truth.overlap, **options)
        lead = leads(y, said.best, true, correction(truth.splits, TRIED[0]), resolution)
    a, b = np.triu_indices(optimizers, 1)
    best = np.isclose(true, true.max())
    compared = np.ones(len(a), dtype=bool)
    if truth.noise == "diverging":
        # whoever diverges has no score, and so no true difference
        compared = (a < optimizers - 2) & (b < optimizers - 2)
        best[-2:] = False
    gap = true[a] - true[b]
    differ = compared & ~np.isclose(gap, 0)
    wrong = holds.different & ((holds.sign != np.sign(gap)) | np.isclose(gap, 0))
    right = said.different & (said.sign == np.sign(gap))
    exact = compared & np.isclose(np.abs(gap), truth.margin)
    scored = truth.noise in ("normal", "t3", "skewed") and truth.falls is None
    return Rates(
        races=races,
        best_behind=float(_behind(holds, best).mean()),
        best_behind_at_all=float(_behind(said, best).mean()),
        size=float(said.best.sum(axis=1).mean()),
        alone=float((said.best.sum(axis=1) == 1).mean()),
        wrong_difference=float(wrong[:, compared].any(axis=1).mean()),
        at_margin=_share(said.equivalent, exact),
        found=_share(right, differ),
        equivalent=_share(said.equivalent, compared & (np.abs(gap) < truth.margin) & ~exact)
        if not truth.fixed
        else math.nan,
        too_high=float(lead[:, 0].mean()) if scored else math.nan,
        corrected=float(lead[:, 1].mean()) if scored else math.nan,
        covered=float(lead[:, 2].mean()) if scored else math.nan,
    )


def _judge_alone(truth: Truth, random: np.random.Generator) -> tuple[Judged, tuple[float, float, float]]:
    """Judge one race by the library."""
    names = [f"o{index}" for index in range(len(truth.means))]
    if truth.fixed:
        hits = fixed_hits(truth, random)
        flat = hits.reshape(-1, truth.examples)
        evidence = weigh(
            names,
            hits.mean(axis=-1),
            higher_is_better=True,
            n_train=TRAIN,
            n_test=truth.examples,
            resolution=1 / truth.examples,
            resample=lambda weights: np.asarray(flat @ weights / weights.sum()),
            seed=int(random.integers(2**31)),
            draws=200,
        )
    else:
        drawn = scores(truth, 1, random)[0]
        evidence = weigh(names, drawn, higher_is_better=True, n_train=TRAIN, n_test=TEST)
    compared = statistics.compare_pairs(evidence.contrasts, evidence.ranked, margin=truth.margin)
    return from_library(compared, len(names)), (math.nan, math.nan, math.nan)


def leads(y: Array, best: Flags, true: Array, factor: float, resolution: float) -> Array:
    """Return of each race's winner: mean less its true one, the same corrected, and whether it is covered."""
    races, optimizers, splits = y.shape
    means = np.where(best, y.mean(axis=-1), np.nan)
    who = np.nanargmax(means, axis=1)
    row = np.arange(races)
    highest, centre = means[row, who], np.nanmean(means, axis=1)
    a, b = np.triu_indices(optimizers, 1)
    pairs = factor * np.maximum(np.var(y[:, a] - y[:, b], axis=-1, ddof=1), resolution**2)
    count = best.sum(axis=1)
    among = best[:, a] & best[:, b]
    noise = np.where(among, pairs, 0).sum(axis=1) / np.maximum(1, among.sum(axis=1)) / 2
    squares = np.where(best, (means - centre[:, None]) ** 2, 0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(count > 1, np.maximum(0, 1 - noise / (squares / (count - 1))), 1.0)
    corrected = np.where(squares > 0, centre + kept * (highest - centre), highest)
    spread = factor * np.maximum(np.var(y[row, who], axis=-1, ddof=1), resolution**2)
    half = stats.t.isf(0.025 / optimizers, splits - 1) * np.sqrt(spread)
    off = highest - true[who]
    return np.stack([off, corrected - true[who], np.abs(off) <= half], axis=1)


HEADER = [
    "truth",
    "optimizers x splits",
    "races",
    "a best one put behind, %",
    "whatever the range said, %",
    "any wrong difference, %",
    "equivalent at the margin, %",
    "could be the best",
    "one alone, %",
    "differences found, %",
    "equivalents found, %",
    "winner's mean too high",
    "corrected",
    "interval covers, %",
]


def row(truth: Truth, found: Rates) -> list[str]:
    """Return one row of the table: a dash where there was nothing to count."""

    def share(part: float) -> str:
        return "-" if math.isnan(part) else f"{100 * part:.1f}"

    def sized(value: float) -> str:
        return "-" if math.isnan(value) else f"{value:.2f}"

    return [
        truth.name,
        f"{len(truth.means)} x {truth.splits}",
        str(found.races),
        share(found.best_behind),
        share(found.best_behind_at_all),
        share(found.wrong_difference),
        share(found.at_margin),
        f"{found.size:.1f}",
        share(found.alone),
        share(found.found),
        share(found.equivalent),
        sized(found.too_high),
        sized(found.corrected),
        share(found.covered),
    ]


# What was chosen from ------------------------------------------------------------------------------------


def hsu(y: Array) -> Flags:
    """Sets by one-sided comparisons with each rival at 5 %/(m - 1), moderated variances, step-down."""
    races, optimizers, splits = y.shape
    means = y.mean(axis=-1)
    left = np.ones((races, optimizers), dtype=bool)
    variances = np.var(y[:, :, None] - y[:, None], axis=-1, ddof=1)
    while True:
        both = left[:, :, None] & left[:, None, :] & ~np.eye(optimizers, dtype=bool)
        pairs = np.where(both, variances, np.nan).reshape(races, -1)
        count = left.sum(axis=1)
        pairs[count < 2] = 1.0
        middle = np.nanmedian(pairs, axis=1)[:, None, None]
        used = np.where((count > 2)[:, None, None], ((splits - 1) * variances + middle) / splits, variances)
        bar = np.full(races, np.inf)
        for m in range(2, optimizers + 1):
            bar[count == m] = stats.t.isf(0.05 / (m - 1), splits - 1 + (m > 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            t = (means[:, :, None] - means[:, None, :]) / np.sqrt(used / splits)
        out: Flags = left & (np.where(both, t, -np.inf).max(axis=1) > bar[:, None])
        left &= ~out
        if not out.any():
            return left


def holm(y: Array) -> Flags:
    """Sets by all pairs: two-sided t tests on moderated variances, adjusted by Holm."""
    races, optimizers, splits = y.shape
    a, b = np.triu_indices(optimizers, 1)
    apart = y[:, a] - y[:, b]
    variances = np.var(apart, axis=-1, ddof=1)
    used = ((splits - 1) * variances + np.median(variances, axis=1, keepdims=True)) / splits
    p = 2 * stats.t.sf(np.abs(apart.mean(axis=-1)) / np.sqrt(used / splits), splits)
    order = np.argsort(p, axis=1)
    scaled = np.take_along_axis(p, order, 1) * np.arange(len(a), 0, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.maximum.accumulate(scaled, axis=1), 1)
    best = np.ones((races, optimizers), dtype=bool)
    race, pair = np.nonzero(adjusted <= 0.05)
    best[race, np.where(apart.mean(axis=-1) > 0, b, a)[race, pair]] = False
    return best


def tukey(y: Array) -> Flags:
    """Sets by all pairs on one pooled variance, a single step."""
    _, optimizers, splits = y.shape
    left = (
        y - y.mean(axis=1, keepdims=True) - y.mean(axis=2, keepdims=True) + y.mean(axis=(1, 2), keepdims=True)
    )
    dof = (optimizers - 1) * (splits - 1)
    se = np.sqrt(2 * (left**2).sum(axis=(1, 2)) / dof / splits)
    means = y.mean(axis=-1)
    return np.asarray(means > (means.max(axis=1) - critical(optimizers, dof) * se)[:, None], dtype=bool)


def _best(**options: object) -> Callable[[Array], Flags]:
    return lambda y: judged(y, 1 / y.shape[-1], **options).best  # type: ignore[arg-type]


METHODS: list[tuple[str, Callable[[Array], Flags]]] = [
    ("against each rival, one-sided, step-down (Hsu)", hsu),
    ("all pairs, Holm", holm),
    ("one pooled variance, Tukey", tukey),
    ("own variances, step-down", _best(lent=0.0)),
    ("moderated, a whole degree of freedom lent, step-down", _best(lent_dof=1.0)),
    ("moderated, single step", _best(step_down=False)),
    ("moderated, step-down (ours)", _best()),
]

POWER: list[tuple[str, tuple[float, ...], tuple[float, ...]]] = [
    ("ladder", (0, -1, -1.5, -2, -3, -5, -8), (1,) * 7),
    ("one ahead", (0,) + (-3,) * 6, (1,) * 7),
    ("steady leaders", (0, -0.8, -2.5, -3, -3, -4, -5), (0.3, 0.3, 1, 1, 1, 1, 1)),
    ("two wild", (0, -1, -2, -3, -3, -20, -20), (1, 1, 1, 1, 1, 10, 10)),
]


def worst_miss(
    method: Callable[[Array], Flags], optimizers: int, splits: int, races: int, *, skewed: bool = False
) -> float:
    """Return how often any of the best is missed in the worst of many truths, as a share of races."""
    worst = 0.0
    random = np.random.default_rng(7)
    shape = (races, optimizers, splits)
    noise = 1 - random.exponential(size=shape) if skewed else random.standard_normal(shape)
    for tied in (2, 3, optimizers):
        for steady in (0.2, 1.0, 5.0):
            for others in (0.2, 1.0, 5.0):
                for gap in (1.5, 5.0) if tied < optimizers else (0.0,):
                    spreads = np.full(optimizers, others)
                    spreads[:tied] = 1.0
                    spreads[0] = steady
                    means = np.zeros(optimizers)
                    means[tied:] = -gap * max(1.0, others)
                    held = method(noise * spreads[:, None] + means[:, None])[:, :tied].all(axis=1)
                    worst = max(worst, float(1 - held.mean()))
    return worst


def methods_table(races: int, optimizers: int = 7, splits: int = 5) -> list[list[str]]:
    """Compare ways to make the set: the worst miss rates, and how many of the six inferior are excluded."""
    rows = [
        [
            "method",
            "a best one missed at worst, %",
            "with 3 splits, %",
            "skewed, %",
            *[f"excluded: {name}" for name, _, _ in POWER],
        ]
    ]
    for name, method in METHODS:
        misses = [
            worst_miss(method, optimizers, splits, races),
            worst_miss(method, optimizers, 3, races),
            worst_miss(method, optimizers, splits, races, skewed=True),
        ]
        cells = [name, *(f"{100 * miss:.1f}" for miss in misses)]
        for _, means, spreads in POWER:
            noise = np.random.default_rng(9).standard_normal((races, optimizers, splits))
            y = noise * np.array(spreads)[:, None] + np.array(means)[:, None]
            cells.append(f"{6 * float((~method(y)[:, 1:]).mean()):.2f}")
        rows.append(cells)
        print(" | ".join(cells), flush=True)
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)


def one_in(truth: Truth) -> int:
    """Return of how many races one is simulated: those that the library judges one by one take long."""
    if truth.examples > 1000:
        return 80
    if truth.noise == "fixed, apart" or "all equal" in truth.name:
        return 10
    return 20 if truth.fixed or truth.noise == "diverging" else 1


def write(tables: dict[str, list[list[str]]], *, anew: bool) -> None:
    """Put tables between their marks; not anew, only the rows with the same first two cells are replaced."""
    text = DOC.read_text(encoding="utf-8")
    for name, rows in tables.items():
        begin, end = f"<!-- {name}: begin -->\n", f"\n<!-- {name}: end -->"
        before, rest = text.split(begin)
        old, after = rest.split(end)
        table = markdown(rows)
        if not anew:
            made = {line.split("|")[1] + line.split("|")[2]: line for line in table.split("\n")[2:]}
            table = "\n".join(
                made.get(line.split("|")[1] + line.split("|")[2], line) for line in old.split("\n")
            )
        text = f"{before}{begin}{table}{end}{after}"
    DOC.write_text(text, encoding="utf-8")


def main() -> None:
    """Print the tables, or write them between their marks in docs/verdict.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--races", type=int, default=20_000, help="races a truth (one by one: fewer)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/verdict.md")
    parser.add_argument("--only", metavar="TEXT", help="truths with this in their name, and no other table")
    options = parser.parse_args()
    rows = [HEADER]
    for truth in (one for one in TRUTHS if options.only is None or options.only in one.name):
        began = time.perf_counter()
        races = options.races // one_in(truth)
        rows.append(row(truth, rates(truth, races)))
        print(" | ".join(rows[-1]), f"({time.perf_counter() - began:.0f} s)", flush=True)
    tables = {"rates": rows}
    if options.only is None:
        tables["methods"] = methods_table(options.races // 2)
    if options.write:
        write(tables, anew=options.only is None)


if __name__ == "__main__":
    main()
