"""Races with known truth, thousands of them: is the verdict right as often as it says?

``python -m benchmarks.verdict_calibration`` prints the tables of docs/verdict.md; ``--write`` puts them
there.

A simulated score is ``mean_p + split_j + own_pj + seed_pjs``: an optimizer's true mean, an effect of the
split that all optimizers share, what the split, its tuning and its draw of settings do to this optimizer
alone (sd ``spread_p``), and the seeds. ``own`` is correlated between splits by test/(train + test), as
Nadeau and Bengio assume, since training sets overlap.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from thalweg.racing.verdict import judge, weigh

Array = NDArray[np.float64]
DOC = Path(__file__).parent.parent / "docs" / "verdict.md"
TRAIN, TEST = 800, 200


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A kind of race. ``noise`` is one of those that :func:`scores` tells apart."""

    name: str
    means: tuple[float, ...]
    spreads: tuple[float, ...] = field(default=())
    splits: int = 5
    seeds: int = 2
    noise: str = "normal"
    margin: float = 1.0
    seed_sd: float = 0.5

    @property
    def sd(self) -> Array:
        return np.array(self.spreads or (1.0,) * len(self.means))


SEVEN = (0.0,) * 7
LADDER = (0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -10.0)
TRUTHS = [
    Truth(name="all equal", means=SEVEN),
    Truth(name="all equal, 3 splits", means=SEVEN, splits=3),
    Truth(name="all equal, 10 splits", means=SEVEN, splits=10),
    Truth(name="two, equal", means=(0.0, 0.0)),
    Truth(name="two equal, others behind", means=(0.0, 0.0, -3.0, -3.0, -4.0, -6.0, -9.0)),
    Truth(name="a ladder", means=LADDER),
    Truth(name="a ladder, 3 splits", means=LADDER, splits=3),
    Truth(name="a ladder, 10 splits", means=LADDER, splits=10),
    Truth(name="best is the steady one", means=SEVEN, spreads=(0.2, 1, 1, 1, 1, 1, 1)),
    Truth(name="best is the wild one", means=SEVEN, spreads=(5, 1, 1, 1, 1, 1, 1)),
    Truth(
        name="two wild ones far behind", means=(0, -1, -2, -3, -3, -30, -30), spreads=(1, 1, 1, 1, 1, 10, 10)
    ),
    Truth(name="two steady leaders", means=(0, 0, -3, -3, -4, -5, -6), spreads=(0.2, 0.2, 1, 1, 1, 1, 1)),
    Truth(name="heavy tails (t, 3 df)", means=SEVEN, noise="t3"),
    Truth(name="heavy tails, ladder", means=LADDER, noise="t3"),
    Truth(name="siblings move together", means=(0, 0, 0, 0, -3, -3, -3), noise="siblings"),
    Truth(name="siblings, but overlap apart", means=(0, 0, 0, 0, -3, -3, -3), noise="siblings apart"),
    Truth(name="skewed (exponential), equal spreads", means=SEVEN, noise="skewed"),
    Truth(name="skewed, best is the wild one", means=SEVEN, spreads=(5, 1, 1, 1, 1, 1, 1), noise="skewed"),
    Truth(name="accuracy on 40 examples, ties", means=(0.97,) * 7, noise="accuracy", margin=0.02),
    Truth(name="accuracy on 40 examples, two", means=(0.97, 0.97), noise="accuracy", margin=0.02),
    Truth(name="accuracy, two behind", means=(0.97,) * 5 + (0.9, 0.8), noise="accuracy", margin=0.02),
    Truth(name="two differ by just the margin", means=(0.0, -1.0), spreads=(0.3, 0.3), seed_sd=0.1),
    Truth(name="equivalent, margin 3 sd", means=SEVEN, margin=3.0),
    Truth(
        name="the two last diverge in half their runs", means=(0, 0, -1, -3, -3, -3, -3), noise="diverging"
    ),
    Truth(name="fixed test set of 300, all equal", means=(1.5,) * 5, noise="fixed", margin=0.03),
    Truth(name="fixed test set of 300, ladder", means=(2.2, 2.0, 1.5, 1.0, 0.5), noise="fixed", margin=0.03),
]


def scores(truth: Truth, random: np.random.Generator) -> Array:
    """Draw the scores of one race, [P, J, S]; NaN where a run diverged."""
    optimizers, splits = len(truth.means), truth.splits
    if truth.noise == "accuracy":
        hard = random.random((splits, 40, 1)) < 0.5  # the other half nobody gets wrong
        chance = np.where(hard, 2 * np.array(truth.means)[:, None, None, None] - 1, 1.0)
        hits = random.random((optimizers, splits, 40, truth.seeds)) < chance
        return np.asarray(hits.mean(axis=2), dtype=np.float64)
    if truth.noise == "t3":
        own = random.standard_t(3, (optimizers, splits)) / math.sqrt(3)
    elif truth.noise == "skewed":
        own = 1 - random.exponential(size=(optimizers, splits))
    else:
        own = random.standard_normal((optimizers, splits))
    lasting = random.standard_normal((optimizers, 1))
    if truth.noise.startswith("siblings"):
        own[:3] = 0.9 * random.standard_normal(splits) + math.sqrt(1 - 0.81) * own[:3]
    if truth.noise == "siblings":
        lasting[:3] = 0.9 * random.standard_normal() + math.sqrt(1 - 0.81) * lasting[:3]
    overlap = TEST / (TRAIN + TEST)
    own = truth.sd[:, None] * (math.sqrt(overlap) * lasting + math.sqrt(1 - overlap) * own)
    split = 3 * random.standard_normal(splits)
    seeds = (
        truth.seed_sd * truth.sd[:, None, None] * random.standard_normal((optimizers, splits, truth.seeds))
    )
    drawn = np.array(truth.means)[:, None, None] + split[None, :, None] + own[..., None] + seeds
    if truth.noise == "diverging":
        drawn[-2:][random.random(drawn[-2:].shape) < 0.5] = np.nan
    return np.asarray(drawn, dtype=np.float64)


def fixed_hits(truth: Truth, random: np.random.Generator, examples: int = 300) -> Array:
    """Draw right and wrong on one test set, [P, J, S, N]: examples differ, and so do retrained networks."""
    shape = (len(truth.means), truth.splits, truth.seeds, examples)
    hard = random.standard_normal(examples)
    trained = 0.15 * random.standard_normal((len(truth.means), truth.splits, 1, 1))
    logits = np.array(truth.means)[:, None, None, None] + trained + 1.5 * hard
    return (random.random(shape) < 1 / (1 + np.exp(-logits))).astype(np.float64)


@dataclass(kw_only=True)
class Tally:
    """Counts over races of one truth."""

    races: int = 0
    best_held: float = 0
    alone: int = 0
    size: int = 0
    wrong_difference: int = 0
    at_margin: int = 0
    at_margin_equivalent: int = 0
    different: int = 0
    different_found: int = 0
    equivalent: int = 0
    equivalent_found: int = 0


def tally(truth: Truth, races: int, seed: int = 0) -> Tally:
    """Judge simulated races and count what was right.

    The best is any of those with the highest true mean: the rate is the mean over them of being in the set.
    A wrong difference is better or worse said of a pair that is truly equal, or the wrong way round;
    equivalence at the margin is equivalent said of a pair that truly differs by just the margin.
    """
    random = np.random.default_rng(seed)
    names = [f"o{index}" for index in range(len(truth.means))]
    found = Tally(races=races)
    best = [name for name, mean in zip(names, truth.means, strict=True) if mean == max(truth.means)]
    loses = set(names[-2:]) if truth.noise == "diverging" else set()
    for _ in range(races):
        if truth.noise == "fixed":
            hits = fixed_hits(truth, random)
            drawn = hits.mean(axis=-1)

            def resample(weights: NDArray[np.int64], hits: Array = hits) -> Array:
                return np.asarray(hits @ weights / weights.sum()).ravel()

            evidence = weigh(
                names, drawn, higher_is_better=True, n_train=TRAIN, n_test=300, resample=resample, draws=200
            )
        else:
            drawn = scores(truth, random)
            resolution = 1 / 40 if truth.noise == "accuracy" else 0.0
            evidence = weigh(
                names, drawn, higher_is_better=True, n_train=TRAIN, n_test=TEST, resolution=resolution
            )
        verdict = judge(evidence, margin=truth.margin, axis="work", budget="")
        could = verdict.could_be_best
        found.best_held += sum(name in could for name in best) / len(best)
        found.size += len(could)
        found.alone += len(could) == 1
        wrong_difference = False
        for pair in verdict.pairs:
            true = truth.means[names.index(pair.a)] - truth.means[names.index(pair.b)]
            if loses & {pair.a, pair.b}:
                continue
            said = {"better": 1, "worse": -1}.get(pair.verdict, 0)
            wrong_difference |= said != 0 and said != np.sign(true)
            at_margin = math.isclose(abs(true), truth.margin)
            found.at_margin += at_margin
            found.at_margin_equivalent += at_margin and pair.verdict == "equivalent"
            found.different += true != 0
            found.different_found += true != 0 and said == np.sign(true)
            found.equivalent += abs(true) < truth.margin
            found.equivalent_found += abs(true) < truth.margin and pair.verdict == "equivalent"
        found.wrong_difference += wrong_difference
    return found


def row(truth: Truth, found: Tally) -> list[str]:
    """Return one row of the table: percentages, with a dash where there was nothing to count."""

    def share(part: float, whole: float) -> str:
        return f"{100 * part / whole:.1f}" if whole else "-"

    return [
        truth.name,
        f"{len(truth.means)} x {truth.splits}",
        str(found.races),
        share(found.best_held, found.races),
        f"{found.size / found.races:.1f}",
        share(found.wrong_difference, found.races),
        share(found.at_margin_equivalent, found.at_margin) if truth.noise != "fixed" else "-",
        share(found.different_found, found.different),
        share(found.equivalent_found, found.equivalent) if truth.noise != "fixed" else "-",
    ]


HEADER = [
    "truth",
    "optimizers x splits",
    "races",
    "best in the set",
    "size of the set",
    "any wrong difference",
    "equivalence at the margin",
    "differences found",
    "equivalents found",
]


# What was chosen from ------------------------------------------------------------------------------------


def kept(y: Array, *, lend: str, step_down: bool, level: float = 0.95) -> NDArray[np.bool_]:
    """Sets for many races at once, written apart from the library: independent splits, factor 1/J.

    Args:
        y: [N, P, J].
        lend: ``"none"``: each pair's own variance; ``"median"``: the library's; ``"pooled"``: the mean of
            all pairs' variances with (P - 1)(J - 1) degrees of freedom and Dunnett's critical values.
        step_down: whether who is excluded stops counting.

    Returns:
        Who is in the set, [N, P].
    """
    races, optimizers, splits = y.shape
    means = y.mean(axis=-1)
    left = np.ones((races, optimizers), dtype=bool)
    variances = np.var(y[:, :, None] - y[:, None], axis=-1, ddof=1)
    while True:
        both = left[:, :, None] & left[:, None, :]
        pairs = np.where(both & ~np.eye(optimizers, dtype=bool), variances, np.nan).reshape(races, -1)
        count = left.sum(axis=1)
        pairs[count < 2] = 1.0
        bar = np.empty(races)
        used = variances
        if lend == "median":
            middle = np.nanmedian(pairs, axis=1)[:, None, None]
            several = (count > 2)[:, None, None]
            used = np.where(several, ((splits - 1) * variances + middle) / splits, variances)
        elif lend == "pooled":
            used = np.broadcast_to(np.nanmean(pairs, axis=1)[:, None, None], variances.shape)
        for m in range(2, optimizers + 1):
            if lend == "pooled":
                bar[count == m] = dunnett(m, (m - 1) * (splits - 1), level)
            else:
                dof = splits - 1 + (lend == "median" and m > 2)
                bar[count == m] = stats.t.isf((1 - level) / (m - 1), dof)
        bar[count < 2] = np.inf
        with np.errstate(invalid="ignore"):
            t = (means[:, :, None] - means[:, None, :]) / np.sqrt(used / splits)
        t = np.where(both & ~np.eye(optimizers, dtype=bool), t, -np.inf)
        out: NDArray[np.bool_] = left & (t.max(axis=1) > bar[:, None])
        left &= ~out
        if not step_down or not out.any():
            return left


_DUNNETT: dict[tuple[int, int, float], float] = {}


def dunnett(m: int, dof: int, level: float) -> float:
    """One-sided critical value for m - 1 comparisons with one, equal variances, simulated once."""
    key = (m, dof, level)
    if key not in _DUNNETT:
        random = np.random.default_rng(0)
        z = random.standard_normal((200_000, m))
        spread = np.sqrt(random.chisquare(dof, 200_000) / dof)
        _DUNNETT[key] = float(np.quantile((z[:, 1:] - z[:, :1]).max(axis=1) / (math.sqrt(2) * spread), level))
    return _DUNNETT[key]


METHODS: list[tuple[str, Callable[[Array], NDArray[np.bool_]]]] = [
    ("own variances, Bonferroni", lambda y: kept(y, lend="none", step_down=False)),
    ("own variances, step-down", lambda y: kept(y, lend="none", step_down=True)),
    ("one pooled variance, Dunnett", lambda y: kept(y, lend="pooled", step_down=False)),
    ("one pooled variance, step-down", lambda y: kept(y, lend="pooled", step_down=True)),
    ("moderated variances, single step", lambda y: kept(y, lend="median", step_down=False)),
    ("moderated variances, step-down (ours)", lambda y: kept(y, lend="median", step_down=True)),
]

POWER: list[tuple[str, tuple[float, ...], tuple[float, ...]]] = [
    ("ladder", (0, -1, -1.5, -2, -3, -5, -8), (1,) * 7),
    ("one ahead", (0,) + (-2,) * 6, (1,) * 7),
    ("steady leaders", (0, -0.8, -2.5, -3, -3, -4, -5), (0.3, 0.3, 1, 1, 1, 1, 1)),
    ("two wild", (0, -1, -2, -3, -3, -20, -20), (1, 1, 1, 1, 1, 10, 10)),
]


def worst_miss(
    method: Callable[[Array], NDArray[np.bool_]], optimizers: int, splits: int, races: int, *, skewed: bool
) -> float:
    """Return how often the best is missed in the worst of many truths, as a share of races."""
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
                    held = method(noise * spreads[:, None] + means[:, None])[:, :tied].mean(axis=0)
                    worst = max(worst, float(1 - held.min()))
    return worst


def methods_table(races: int, optimizers: int = 7, splits: int = 5) -> list[list[str]]:
    """Compare ways to make the set: the worst miss rates, and how many of the six inferior are excluded."""
    rows = [
        ["method", "best missed at worst, %", "skewed, %", *[f"excluded: {name}" for name, _, _ in POWER]]
    ]
    for name, method in METHODS:
        cells = [name]
        for skewed in (False, True):
            cells.append(f"{100 * worst_miss(method, optimizers, splits, races, skewed=skewed):.1f}")
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


def main() -> None:
    """Print the tables, or write them between their marks in docs/verdict.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--races", type=int, default=4000, help="races a truth (a fixed test set: a tenth)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/verdict.md")
    options = parser.parse_args()
    rows = [HEADER]
    for truth in TRUTHS:
        began = time.perf_counter()
        races = options.races // 10 if truth.noise == "fixed" else options.races
        rows.append(row(truth, tally(truth, races)))
        print(" | ".join(rows[-1]), f"({time.perf_counter() - began:.0f} s)", flush=True)
    tables = {"rates": markdown(rows), "methods": markdown(methods_table(2 * options.races))}
    if options.write:
        text = DOC.read_text(encoding="utf-8")
        for name, table in tables.items():
            begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
            before, after = text.split(begin)[0], text.split(end)[1]
            text = f"{before}{begin}\n{table}\n{end}{after}"
        DOC.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
