"""What tuning was worth: the best of k settings, the typical one, and what stopping some may have cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from thalweg.racing.results import BestOfK

__all__ = ["best_of_k", "medoid", "regret", "withdrawal"]


def best_of_k(pools: Sequence[Sequence[float | None]], *, higher_is_better: bool) -> BestOfK:
    """Say how good the best of k settings would have been, for every k: exact, without sampling.

    Of a pool of n values sorted from best to worst, k drawn without replacement have the i-th (from 1)
    as their best with probability ``C(n - i, k - 1) / C(n, k)``. The distribution is the mean over the
    replicates' pools; a quantile is the smallest value whose probability reaches the level.

    Args:
        pools: one a replicate: validation score of each setting, ``None`` where it diverged, which is
            worse than any score.
        higher_is_better: of the metric.

    Returns:
        Median, 10 % and 90 % points in the metric's own order (``low <= median <= high``) for k from 1 to
        the size of the smallest pool; ``None`` where the point falls on a diverged setting.

    >>> best_of_k([[0.5, 0.9, 0.7]], higher_is_better=True).median
    [0.7, 0.9, 0.9]
    >>> best_of_k([[None, 3.0, None]], higher_is_better=False).high
    [None, None, 3.0]
    """
    worst = -math.inf if higher_is_better else math.inf
    ordered = [
        sorted((worst if value is None else value for value in pool), reverse=higher_is_better)
        for pool in pools
    ]
    values = np.array([value for pool in ordered for value in pool])
    ascending = np.argsort(values, kind="stable")
    points: dict[float, list[float | None]] = {0.1: [], 0.5: [], 0.9: []}
    sizes = list(range(1, min((len(pool) for pool in ordered), default=0) + 1))
    for k in sizes:
        chances = np.concatenate([_chances(len(pool), k) for pool in ordered]) / len(ordered)
        reached = np.cumsum(chances[ascending])
        for level, found in points.items():
            # a hair under the level, so that rounding doesn't push the quantile one value up
            value = float(values[ascending[np.searchsorted(reached, level - 1e-9)]])
            found.append(value if math.isfinite(value) else None)
    return BestOfK(k=sizes, median=points[0.5], low=points[0.1], high=points[0.9])


def _chances(n: int, k: int) -> NDArray[np.float64]:
    """Chance [n] that the i-th best of n is the best of k drawn, each from the one before."""
    i = np.arange(1, n)
    return k / n * np.cumprod(np.concatenate([[1.0], np.maximum(0, n - i - k + 1) / (n - i)]))


def medoid(points: Sequence[Mapping[str, float | str]], preference: Sequence[float]) -> int:
    """Return the point that is most like the others: the least sum of distances to them.

    The distance of two points is the sum over their names: of numbers, how far they are apart; of words, 0
    where they are the same and else 1, as of a name that only one of them has.

    Args:
        points: numbers on the scale on which they were searched, 0 and 1 at the ends of the space.
        preference: of each point, bigger is better; between points that are as typical it decides, then the
            order.

    >>> medoid([{"lr": 0.1}, {"lr": 0.5}, {"lr": 0.6}, {"lr": 0.9}], [0.0, 1.0, 2.0, 0.0])
    2
    """

    def apart(a: Mapping[str, float | str], b: Mapping[str, float | str]) -> float:
        total = 0.0
        for name in {*a, *b}:
            x, y = a.get(name), b.get(name)
            if isinstance(x, str) or isinstance(y, str) or x is None or y is None:
                total += x != y
            else:
                total += min(1.0, abs(x - y))
        return total

    # rounded, so that sums taken in another order don't break ties
    sums = [round(sum(apart(a, b) for b in points), 9) for a in points]
    return min(range(len(points)), key=lambda i: (sums[i], -preference[i], i))


def regret(audited: float | None, best: float | None, *, higher_is_better: bool) -> float | None:
    """Return by how much an eliminated setting, run to its end after all, beats the pool's best.

    Args:
        audited: its validation score at the end; ``None`` where it diverged.
        best: the best score of the settings that weren't eliminated; ``None`` where all of them diverged.
        higher_is_better: of the metric.

    Returns:
        At least 0; ``None`` where only the audited setting has a score, so that no number says what was lost.

    >>> round(regret(0.95, 0.93, higher_is_better=True), 2), regret(None, 0.93, higher_is_better=True)
    (0.02, 0.0)
    """
    if audited is None:
        return 0.0
    if best is None:
        return None
    return max(0.0, audited - best if higher_is_better else best - audited)


def withdrawal(regrets: Iterable[float | None], gap: float | None) -> float | None:
    """Return the regret that withdraws the verdict, or ``None`` where the verdict stands.

    The verdict stands while no regret exceeds half the gap to the next optimizer.

    Args:
        regrets: of all audited settings; ``None`` counts as infinite.
        gap: from the optimizer with the best mean to the best that is behind it for sure;
            ``None`` where the verdict puts nobody behind, and so can't be wrong about it.

    >>> withdrawal([0.0, 0.004], gap=0.006), withdrawal([0.0, 0.002], gap=0.006)
    (0.004, None)
    """
    largest = max((math.inf if value is None else value for value in regrets), default=0.0)
    return largest if gap is not None and largest > gap / 2 else None
