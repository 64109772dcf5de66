"""Student's t and the studentized range: how far apart the best and worst of m equal optimizers come out.

References: Tukey, "The problem of multiple comparisons" (1953). Hochberg and Tamhane, "Multiple comparison
procedures" (1987).
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

__all__ = ["quantile", "range_quantile", "range_tail", "tail"]

Array = NDArray[np.float64]


def tail(t: Array, dof: Array) -> Array:
    """Probability above t; scipy.stats says the same, with a tenth of a millisecond of checks each time."""
    return np.asarray(special.stdtr(dof, -t), dtype=np.float64)


def quantile(share: float, dof: float) -> float:
    """The t above which this much probability lies."""
    return float(-special.stdtrit(dof, share))


# Nodes for the studentized range: z of the least of m normals, and the share v**6 of spreads below one
_Z, _Z_WEIGHTS = (8.0 * part for part in np.polynomial.legendre.leggauss(64))
_V, _V_WEIGHTS = (0.5 * part for part in np.polynomial.legendre.leggauss(48))
_SHARES = (_V + 0.5) ** 6
_SHARE_WEIGHTS = 6 * (_V + 0.5) ** 5 * _V_WEIGHTS


def range_tail(t: ArrayLike, m: int, dof: ArrayLike) -> Array:
    """Return how probably the largest of all t of m equal optimizers exceeds t: the studentized range's tail.

    ``P(Q > sqrt(2) * t)`` with Q the range of m standard normals over an independent
    ``sqrt(chi2(dof)/dof)``; for m = 2 that is the two-sided tail of Student's t.

    Args:
        t: at least 0, [n].
        m: number of optimizers, at least 2.
        dof: degrees of freedom, positive, [n].

    >>> print(f"{range_tail(3.0, 2, 4.0):.4f} {range_tail(3.0, 7, 4.0):.4f}")
    0.0399 0.2258

    scipy.stats.studentized_range says the same and takes a tenth of a second for it.
    """
    t, dof = np.broadcast_arrays(np.asarray(t, dtype=np.float64), np.asarray(dof, dtype=np.float64))
    if m == 2:
        return 2 * tail(np.asarray(t), np.asarray(dof))
    spreads = np.sqrt(special.chdtri(dof[..., None], 1 - _SHARES) / dof[..., None])
    with np.errstate(invalid="ignore"):
        width = math.sqrt(2) * np.where(t[..., None] == 0, 0.0, t[..., None] * spreads)
    below = special.ndtr(_Z) - special.ndtr(_Z - width[..., None])
    density = m * _Z_WEIGHTS * np.exp(-(_Z**2) / 2) / math.sqrt(2 * math.pi)
    inside = (density * below ** (m - 1)).sum(axis=-1)
    return np.asarray(np.clip(((1 - inside) * _SHARE_WEIGHTS).sum(axis=-1), 0.0, 1.0), dtype=np.float64)


@functools.lru_cache(maxsize=4096)
def range_quantile(m: int, dof: float, *, share: float = 0.05) -> float:
    """Return the t that the largest of all t of m equal optimizers exceeds this seldom.

    >>> print(f"{range_quantile(2, 4.0):.3f} {range_quantile(7, 4.0):.3f}")
    2.776 4.987
    """
    if m == 2 or not math.isfinite(dof):
        return quantile(share / 2, dof)
    low = quantile(share / 2, dof)
    high = quantile(share / (m * (m - 1)), dof)  # Bonferroni's
    return float(
        optimize.brentq(lambda t: float(range_tail(t, m, dof)) - share, low * 0.9, high * 1.1, rtol=1e-5)
    )
