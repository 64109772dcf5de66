"""The surfaces again, one loop a formula, in NumPy: from the papers, not from the code under test.

Each of :data:`RESIDUALS` takes a vector and gives the list of residuals ``f_1 ... f_m`` of More, Garbow and
Hillstrom, in their order and numbering.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

Vector = Sequence[float]


def rosenbrock(x: Vector) -> list[float]:
    return [10 * (x[1] - x[0] ** 2), 1 - x[0]]


def freudenstein_roth(x: Vector) -> list[float]:
    a, b = x
    return [-13 + a - 2 * b + 5 * b**2 - b**3, -29 + a - 14 * b + b**2 + b**3]


def powell_badly_scaled(x: Vector) -> list[float]:
    return [10**4 * x[0] * x[1] - 1, math.exp(-x[0]) + math.exp(-x[1]) - 1.0001]


def brown_badly_scaled(x: Vector) -> list[float]:
    return [x[0] - 10**6, x[1] - 2 * 10**-6, x[0] * x[1] - 2]


def beale(x: Vector) -> list[float]:
    return [y - x[0] * (1 - x[1] ** i) for i, y in enumerate([1.5, 2.25, 2.625], 1)]


def jennrich_sampson(x: Vector) -> list[float]:
    return [2 + 2 * i - math.exp(i * x[0]) - math.exp(i * x[1]) for i in range(1, 11)]


def helical_valley(x: Vector) -> list[float]:
    theta = math.atan(x[1] / x[0]) / (2 * math.pi) + (0 if x[0] > 0 else 0.5)
    return [10 * (x[2] - 10 * theta), 10 * (math.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]]


def bard(x: Vector) -> list[float]:
    measured = [0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39]
    found = []
    for u, y in enumerate(measured, 1):
        v = 16 - u
        w = min(u, v)
        found.append(y - (x[0] + u / (v * x[1] + w * x[2])))
    return found


def gaussian(x: Vector) -> list[float]:
    half = [0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521]
    found = []
    for i, y in enumerate([*half, 0.3989, *reversed(half)], 1):
        t = (8 - i) / 2
        found.append(x[0] * math.exp(-x[1] * (t - x[2]) ** 2 / 2) - y)
    return found


def meyer(x: Vector) -> list[float]:
    measured = [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744]
    measured += [8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872]
    return [x[0] * math.exp(x[1] / (45 + 5 * i + x[2])) - y for i, y in enumerate(measured, 1)]


def gulf(x: Vector) -> list[float]:
    found = []
    for i in range(1, 100):
        t = i / 100
        y = 25 + (-50 * math.log(t)) ** (2 / 3)
        found.append(math.exp(-(abs(y - x[1]) ** x[2]) / x[0]) - t)
    return found


def box_3d(x: Vector) -> list[float]:
    found = []
    for i in range(1, 11):
        t = 0.1 * i
        found.append(math.exp(-t * x[0]) - math.exp(-t * x[1]) - x[2] * (math.exp(-t) - math.exp(-10 * t)))
    return found


def powell_singular(x: Vector) -> list[float]:
    a, b, c, d = x
    return [a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2]


def wood(x: Vector) -> list[float]:
    a, b, c, d = x
    return [
        10 * (b - a**2),
        1 - a,
        90**0.5 * (d - c**2),
        1 - c,
        10**0.5 * (b + d - 2),
        10**-0.5 * (b - d),
    ]


def kowalik_osborne(x: Vector) -> list[float]:
    ys = [0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246]
    us = [4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625]
    return [y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3]) for y, u in zip(ys, us, strict=True)]


def brown_dennis(x: Vector) -> list[float]:
    found = []
    for i in range(1, 21):
        t = i / 5
        found.append((x[0] + t * x[1] - math.exp(t)) ** 2 + (x[2] + x[3] * math.sin(t) - math.cos(t)) ** 2)
    return found


def osborne_1(x: Vector) -> list[float]:
    measured = """
        0.844 0.908 0.932 0.936 0.925 0.908 0.881 0.850 0.818 0.784 0.751 0.718 0.685 0.658 0.628 0.603 0.580
        0.558 0.538 0.522 0.506 0.490 0.478 0.467 0.457 0.448 0.438 0.431 0.424 0.420 0.414 0.411 0.406"""
    found = []
    for i, y in enumerate(map(float, measured.split()), 1):
        t = 10 * (i - 1)
        found.append(y - (x[0] + x[1] * math.exp(-t * x[3]) + x[2] * math.exp(-t * x[4])))
    return found


def biggs_exp6(x: Vector) -> list[float]:
    found = []
    for i in range(1, 14):
        t = 0.1 * i
        y = math.exp(-t) - 5 * math.exp(-10 * t) + 3 * math.exp(-4 * t)
        found.append(x[2] * math.exp(-t * x[0]) - x[3] * math.exp(-t * x[1]) + x[5] * math.exp(-t * x[4]) - y)
    return found


def osborne_2(x: Vector) -> list[float]:
    measured = """
        1.366 1.191 1.112 1.013 0.991 0.885 0.831 0.847 0.786 0.725 0.746 0.679 0.608 0.655 0.616 0.606 0.602
        0.626 0.651 0.724 0.649 0.649 0.694 0.644 0.624 0.661 0.612 0.558 0.533 0.495 0.500 0.423 0.395 0.375
        0.372 0.391 0.396 0.405 0.428 0.429 0.523 0.562 0.607 0.653 0.672 0.708 0.633 0.668 0.645 0.632 0.591
        0.559 0.597 0.625 0.739 0.710 0.729 0.720 0.636 0.581 0.428 0.292 0.162 0.098 0.054"""
    found = []
    for i, y in enumerate(map(float, measured.split()), 1):
        t = (i - 1) / 10
        model = x[0] * math.exp(-t * x[4])
        model += x[1] * math.exp(-((t - x[8]) ** 2) * x[5])
        model += x[2] * math.exp(-((t - x[9]) ** 2) * x[6])
        model += x[3] * math.exp(-((t - x[10]) ** 2) * x[7])
        found.append(y - model)
    return found


def watson(x: Vector) -> list[float]:
    n, found = len(x), []
    for i in range(1, 30):
        t = i / 29
        slope = sum((j - 1) * x[j - 1] * t ** (j - 2) for j in range(2, n + 1))
        value = sum(x[j - 1] * t ** (j - 1) for j in range(1, n + 1))
        found.append(slope - value**2 - 1)
    return [*found, x[0], x[1] - x[0] ** 2 - 1]


def extended_rosenbrock(x: Vector) -> list[float]:
    found = []
    for i in range(1, len(x) // 2 + 1):
        found += [10 * (x[2 * i - 1] - x[2 * i - 2] ** 2), 1 - x[2 * i - 2]]
    return found


def extended_powell_singular(x: Vector) -> list[float]:
    found = []
    for i in range(0, len(x), 4):
        found += powell_singular(x[i : i + 4])
    return found


def penalty_1(x: Vector) -> list[float]:
    return [1e-5**0.5 * (one - 1) for one in x] + [sum(one**2 for one in x) - 0.25]


def penalty_2(x: Vector) -> list[float]:
    n, a = len(x), 1e-5
    found = [x[0] - 0.2]
    for i in range(2, n + 1):
        y = math.exp(i / 10) + math.exp((i - 1) / 10)
        found.append(a**0.5 * (math.exp(x[i - 1] / 10) + math.exp(x[i - 2] / 10) - y))
    for i in range(n + 1, 2 * n):
        found.append(a**0.5 * (math.exp(x[i - n] / 10) - math.exp(-1 / 10)))
    return [*found, sum((n - j + 1) * x[j - 1] ** 2 for j in range(1, n + 1)) - 1]


def variably_dimensioned(x: Vector) -> list[float]:
    total = sum(j * (one - 1) for j, one in enumerate(x, 1))
    return [one - 1 for one in x] + [total, total**2]


def trigonometric(x: Vector) -> list[float]:
    n = len(x)
    cosines = sum(math.cos(one) for one in x)
    return [n - cosines + i * (1 - math.cos(one)) - math.sin(one) for i, one in enumerate(x, 1)]


def brown_almost_linear(x: Vector) -> list[float]:
    n = len(x)
    return [x[i] + sum(x) - (n + 1) for i in range(n - 1)] + [math.prod(x) - 1]


def discrete_boundary_value(x: Vector) -> list[float]:
    n = len(x)
    h = 1 / (n + 1)
    ends = [0.0, *x, 0.0]
    return [
        2 * ends[i] - ends[i - 1] - ends[i + 1] + h**2 * (ends[i] + i * h + 1) ** 3 / 2
        for i in range(1, n + 1)
    ]


def discrete_integral(x: Vector) -> list[float]:
    n, found = len(x), []
    h = 1 / (n + 1)
    t = [j * h for j in range(n + 1)]
    for i in range(1, n + 1):
        lower = sum(t[j] * (x[j - 1] + t[j] + 1) ** 3 for j in range(1, i + 1))
        upper = sum((1 - t[j]) * (x[j - 1] + t[j] + 1) ** 3 for j in range(i + 1, n + 1))
        found.append(x[i - 1] + h * ((1 - t[i]) * lower + t[i] * upper) / 2)
    return found


def broyden_tridiagonal(x: Vector) -> list[float]:
    ends = [0.0, *x, 0.0]
    return [(3 - 2 * ends[i]) * ends[i] - ends[i - 1] - 2 * ends[i + 1] + 1 for i in range(1, len(x) + 1)]


def broyden_banded(x: Vector) -> list[float]:
    n, found = len(x), []
    for i in range(1, n + 1):
        near = [j for j in range(max(1, i - 5), min(n, i + 1) + 1) if j != i]
        found.append(x[i - 1] * (2 + 5 * x[i - 1] ** 2) + 1 - sum(x[j - 1] * (1 + x[j - 1]) for j in near))
    return found


def linear_full_rank(x: Vector) -> list[float]:
    n, m = len(x), 10
    return [(x[i] if i < n else 0) - 2 / m * sum(x) - 1 for i in range(m)]


def linear_rank_1(x: Vector) -> list[float]:
    return [i * sum(j * one for j, one in enumerate(x, 1)) - 1 for i in range(1, 11)]


def linear_rank_1_zero(x: Vector) -> list[float]:
    n, m = len(x), 10
    total = sum(j * x[j - 1] for j in range(2, n))
    return [-1.0] + [(i - 1) * total - 1 for i in range(2, m)] + [-1.0]


def chebyquad(x: Vector) -> list[float]:
    n, found = len(x), []
    for i in range(1, n + 1):
        polynomial = np.polynomial.chebyshev.Chebyshev.basis(i, domain=[0, 1])
        integral = polynomial.integ()
        found.append(sum(polynomial(one) for one in x) / n - (integral(1.0) - integral(0.0)))
    return found


# by their numbers in the paper
RESIDUALS: list[Callable[[Vector], list[float]]] = [
    rosenbrock, freudenstein_roth, powell_badly_scaled, brown_badly_scaled, beale, jennrich_sampson,
    helical_valley, bard, gaussian, meyer, gulf, box_3d, powell_singular, wood, kowalik_osborne, brown_dennis,
    osborne_1, biggs_exp6, osborne_2, watson, extended_rosenbrock, extended_powell_singular, penalty_1,
    penalty_2, variably_dimensioned, trigonometric, brown_almost_linear, discrete_boundary_value,
    discrete_integral, broyden_tridiagonal, broyden_banded, linear_full_rank, linear_rank_1,
    linear_rank_1_zero, chebyquad,
]  # fmt: skip


def squares(x: Vector) -> float:
    return sum(one**2 for one in x)


VALUES: dict[str, Callable[[Vector], float]] = {
    "booth": lambda x: (x[0] + 2 * x[1] - 7) ** 2 + (2 * x[0] + x[1] - 5) ** 2,
    "chained-rosenbrock": lambda x: sum(
        100 * (x[i + 1] - x[i] ** 2) ** 2 + (1 - x[i]) ** 2 for i in range(len(x) - 1)
    ),
    "cliff": lambda x: (math.prod([x[0]] * 9) * x[1] - 1) ** 2 + (x[1] - 1) ** 2,
    "himmelblau": lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2,
    "matyas": lambda x: 0.26 * (x[0] ** 2 + x[1] ** 2) - 0.48 * x[0] * x[1],
    "monkey-saddle": lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2,
    "rastrigin": lambda x: 10 * len(x) + sum(one**2 - 10 * math.cos(2 * math.pi * one) for one in x),
    "ravine": lambda x: 0.01 * x[0] ** 2 + 100 * (x[1] - math.sin(x[0])) ** 2,
    "saddle": lambda x: x[0] ** 2 - x[1] ** 2,
}
