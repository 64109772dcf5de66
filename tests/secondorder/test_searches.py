"""Every search meets its own conditions wherever it accepts, and says so where it doesn't."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize._dcsrch import DCSRCH

from thalweg.errors import OptionError
from thalweg.secondorder.searches import (
    Backtracking,
    Exact,
    Fixed,
    Search,
    SearchOutcome,
    SearchResult,
    SearchTrial,
    Values,
    cubic_minimum,
)
from thalweg.secondorder.wolfe import HagerZhang, StrongWolfe

Phi = Callable[[float], tuple[float, float]]


def run(
    search: Search, phi: Phi, first: float = 1.0, curvature: float = math.nan
) -> tuple[SearchOutcome, list[SearchTrial]]:
    """Return how a search ended and every trial; the kept one is checked to be one that was asked for."""
    value, slope = phi(0.0)
    start = SearchTrial(0.0, value, slope, curvature)
    noise = 10 * np.finfo(float).eps * abs(value)
    course = search.course(start, first, noise)
    trials: list[SearchTrial] = []
    kept = None
    try:
        ask = next(course)
        assert ask.step == first
        while True:
            if ask.keep:
                kept = trials[-1]
            with np.errstate(all="ignore"):
                trials.append(SearchTrial(ask.step, *map(float, phi(ask.step))))
            ask = course.send(trials[-1])
    except StopIteration as end:
        outcome: SearchOutcome = end.value
    if outcome.result is SearchResult.ACCEPTED:
        assert outcome.trial is (kept if outcome.kept else trials[-1])
    return outcome, trials


def random_function(rng: np.random.Generator) -> Phi:
    """A smooth function of one variable, falling at 0 and bounded below: a bowl with waves on it."""
    scale = 10 ** rng.uniform(-4, 4)
    height = 10 ** rng.uniform(-3, 3)
    centre, bend = rng.uniform(0.05, 3), rng.uniform(0.1, 2)
    waves = [(rng.normal() * 0.3, rng.uniform(0.5, 8), rng.uniform(0, 6)) for _ in range(rng.integers(0, 4))]
    power = rng.choice([2.0, 4.0])
    offset = rng.normal() * 10 ** rng.uniform(-3, 2)

    def raw(a: float) -> tuple[float, float]:
        t = a / scale
        value = bend * abs(t - centre) ** power
        slope = bend * power * abs(t - centre) ** (power - 1) * np.sign(t - centre)
        for amplitude, rate, phase in waves:
            value += amplitude * np.sin(rate * t + phase)
            slope += amplitude * rate * np.cos(rate * t + phase)
        return value, slope

    at_zero = raw(0.0)[1]
    tilt = min(0.0, -0.1 - at_zero)

    def phi(a: float) -> tuple[float, float]:
        value, slope = raw(a)
        t = a / scale
        # the tilt makes it fall at 0 and is gone further out, so that the function stays bounded
        value += tilt * t * math.exp(-t)
        slope += tilt * (1 - t) * math.exp(-t)
        return float(height * value + offset), float(height * slope / scale)

    return phi


def functions(count: int, seed: int) -> list[tuple[Phi, float]]:
    rng = np.random.default_rng(seed)
    return [(random_function(rng), 10 ** rng.uniform(-5, 5)) for _ in range(count)]


def armijo(c1: float, start: tuple[float, float], trial: SearchTrial) -> bool:
    return trial.value <= start[0] + c1 * trial.step * start[1]


@pytest.mark.parametrize("c2", [0.1, 0.4, 0.9])
def test_strong_wolfe_holds_wherever_it_accepts(c2: float) -> None:
    search, used = StrongWolfe(c1=1e-4, c2=c2), []
    for phi, first in functions(1500, 1):
        outcome, trials = run(search, phi, first)
        assert outcome.result is SearchResult.ACCEPTED, (outcome, trials)
        value, slope = phi(0.0)
        trial = outcome.trial
        assert trial is not None
        assert abs(trial.slope) <= c2 * abs(slope)
        near = abs(trial.value - value) <= 1e-14 * abs(value)
        approximate = near and trial.slope <= (2e-4 - 1) * slope
        assert armijo(1e-4, (value, slope), trial) or approximate
        used.append(len(trials))
    assert np.mean(used) < {0.1: 9, 0.4: 7.5, 0.9: 7}[c2]
    assert max(used) <= 40


def test_hager_zhang_holds_wherever_it_accepts() -> None:
    search, used = HagerZhang(), []
    for phi, first in functions(2000, 2):
        outcome, trials = run(search, phi, first)
        assert outcome.result is SearchResult.ACCEPTED, (outcome, trials)
        value, slope = phi(0.0)
        trial = outcome.trial
        assert trial is not None
        assert trial.slope >= 0.9 * slope
        wolfe = trial.value - value <= 0.1 * trial.step * slope
        approximate = trial.slope <= (0.2 - 1) * slope and trial.value <= value + 1e-6 * abs(value) + 1e-300
        assert wolfe or approximate
        used.append(len(trials))
    assert np.mean(used) < 4.5
    assert max(used) <= 60


@pytest.mark.parametrize("c1", [1e-4, 0.3])
def test_backtracking_holds_wherever_it_accepts(c1: float) -> None:
    used = []
    for phi, first in functions(1500, 3):
        outcome, trials = run(Backtracking(c1=c1), phi, first)
        assert outcome.result is SearchResult.ACCEPTED
        assert outcome.trial is not None
        value, slope = phi(0.0)
        near = abs(outcome.trial.value - value) <= 1e-14 * abs(value)
        assert armijo(c1, (value, slope), outcome.trial) or (
            near and outcome.trial.slope <= (2 * c1 - 1) * slope
        )
        for before, after in pairwise(trials):
            assert 0.1 * before.step * (1 - 1e-12) <= after.step <= 0.5 * before.step
        assert not any(armijo(c1, phi(0.0), trial) for trial in trials[:-1])
        used.append(len(trials))
    assert np.mean(used) < 5
    assert max(used) <= 60


def test_values_takes_the_best_of_those_tried() -> None:
    search = Values(steps=(4.0, 1.0, 0.25, 0.05))
    kept = 0
    for phi, first in functions(1500, 4):
        outcome, trials = run(search, phi, 4 * first)
        assert outcome.result is SearchResult.ACCEPTED
        trial = outcome.trial
        assert trial is not None
        assert len(trials) % 4 == 0
        last = trials[-4:]
        assert [t.step for t in last] == pytest.approx([f * last[0].step / 4 for f in search.steps])
        assert trial.value == min(t.value for t in last) < phi(0.0)[0]
        kept += outcome.kept
    assert 200 < kept < 1500


def test_fixed_takes_its_step_wherever_it_leads() -> None:
    for phi, first in functions(1500, 5):
        outcome, trials = run(Fixed(step=first), phi, first)
        assert outcome.trial == trials[0]
        assert len(trials) == 1


def test_exact_is_the_minimum_of_a_quadratic_in_one_trial() -> None:
    rng = np.random.default_rng(6)
    for _ in range(500):
        bend, slope = 10 ** rng.uniform(-6, 6), -(10 ** rng.uniform(-6, 6))
        phi = lambda a, bend=bend, slope=slope: (slope * a + bend * a * a / 2, slope + bend * a)  # noqa: E731
        outcome, trials = run(Exact(), phi, -slope / bend, curvature=bend)
        assert outcome.result is SearchResult.ACCEPTED
        assert len(trials) == 1
        assert abs(trials[0].slope) <= 1e-12 * abs(slope)


def test_exact_holds_wherever_it_accepts() -> None:
    """Where the function is no quadratic, and the curvature as wrong as that."""
    halved = 0
    for phi, first in functions(1500, 9):
        value, slope = phi(0.0)
        outcome, trials = run(Exact(), phi, first, curvature=-slope / first)
        assert outcome.result is SearchResult.ACCEPTED
        assert outcome.trial is not None
        assert outcome.trial.value <= value + 1e-14 * abs(value)
        assert [t.step for t in trials] == [first * 0.5**i for i in range(len(trials))]
        assert not any(t.value <= value for t in trials[:-1])
        halved += len(trials) > 1
    assert 200 < halved < 1500


def test_a_quadratic_takes_two_trials_wherever_the_first_falls_short() -> None:
    rng = np.random.default_rng(10)
    for search in (StrongWolfe(c2=0.1), HagerZhang(sigma=0.1)):
        for _ in range(300):
            minimum, bend = 10 ** rng.uniform(-4, 4), 10 ** rng.uniform(-4, 4)
            phi = lambda a, m=minimum, b=bend: (b * (a - m) ** 2 / 2, b * (a - m))  # noqa: E731
            outcome, trials = run(search, phi, minimum * rng.uniform(0.25, 0.5))
            assert outcome.result is SearchResult.ACCEPTED
            assert len(trials) == 2
            assert trials[1].step == pytest.approx(minimum)


def test_exact_goes_back_where_the_function_is_no_quadratic() -> None:
    outcome, trials = run(
        Exact(), lambda a: (abs(a - 0.1) * 1.0, math.copysign(1.0, a - 0.1)), 3.0, curvature=0.3
    )
    assert outcome.result is SearchResult.ACCEPTED
    assert outcome.trial is not None
    assert outcome.trial.value <= 0.1
    assert len(trials) == 5


ALL: list[Search] = [StrongWolfe(), StrongWolfe(c2=0.1), HagerZhang(), Backtracking(), Values()]


@pytest.mark.parametrize("search", [*ALL, Exact()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("slope", [1.0, 0.0, math.nan])
def test_what_does_not_lead_downhill_is_refused_before_a_trial(search: Search, slope: float) -> None:
    outcome, trials = run(search, lambda a: (a * slope, slope))
    assert outcome.result is SearchResult.NOT_DESCENT
    assert trials == []


@pytest.mark.parametrize("search", ALL, ids=lambda s: type(s).__name__)
def test_a_lying_slope_fails_in_a_bounded_number_of_trials(search: Search) -> None:
    outcome, trials = run(search, lambda a: (a, -1.0 if a == 0 else 1.0))
    assert outcome.result is SearchResult.FAILED
    assert len(trials) <= 64


@pytest.mark.parametrize("search", ALL, ids=lambda s: type(s).__name__)
def test_nothing_but_nan_fails(search: Search) -> None:
    outcome, trials = run(search, lambda a: (0.0, -1.0) if a == 0 else (math.nan, math.nan))
    assert outcome.result is SearchResult.FAILED
    assert len(trials) <= 64


@pytest.mark.parametrize("search", [*ALL, Fixed()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("beyond", [(math.nan, math.nan), (math.inf, math.inf), (1.0, math.nan)])
def test_a_cliff_of_nan_shortens_the_step(search: Search, beyond: tuple[float, float]) -> None:
    rng = np.random.default_rng(7)
    for _ in range(200):
        edge = 10 ** rng.uniform(-6, -1)

        def phi(a: float, edge: float = edge) -> tuple[float, float]:
            # -log of the distance to the edge: falls, then rises without bound just before it
            if a >= edge:
                return beyond
            return -a * 20 / edge - math.log(edge - a), -20 / edge + 1 / (edge - a)

        outcome, trials = run(search, phi)
        assert outcome.result is SearchResult.ACCEPTED, (outcome, trials)
        assert outcome.trial is not None
        assert 0 < outcome.trial.step < edge
        assert outcome.trial.finite


@pytest.mark.parametrize("search", [StrongWolfe(), HagerZhang()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("phi", [lambda a: (-a, -1.0), lambda a: (-a - a * a, -1 - 2 * a)])
def test_what_still_falls_at_the_largest_step_is_taken_as_limited(search: Search, phi: Phi) -> None:
    """It may be unbounded, or its minimum may lie further away: the next search tells."""
    outcome, trials = run(search, phi)
    assert outcome.result is SearchResult.ACCEPTED
    assert outcome.limited
    assert outcome.trial is trials[-1]
    assert outcome.trial.step >= search.largest  # type: ignore[attr-defined]
    assert len(trials) < 25


@pytest.mark.parametrize("search", ALL, ids=lambda s: type(s).__name__)
def test_a_flat_function_whose_slope_claims_a_fall_fails(search: Search) -> None:
    for value in (0.0, 1.0, -3e5):
        outcome, trials = run(search, lambda a, value=value: (value, -1.0))
        assert outcome.result is SearchResult.FAILED
        assert len(trials) <= 64


@pytest.mark.parametrize("search", [*ALL, Fixed()], ids=lambda s: type(s).__name__)
def test_a_plateau_beyond_a_slope_is_a_place_to_stop(search: Search) -> None:
    outcome, _ = run(search, lambda a: (-a, -1.0) if a < 0.3 else (-0.3, 0.0))
    assert outcome.result is SearchResult.ACCEPTED
    assert outcome.trial is not None
    assert outcome.trial.value == -0.3


@pytest.mark.parametrize("search", [*ALL, Fixed(), Exact()], ids=lambda s: type(s).__name__)
def test_minus_infinity_is_unbounded(search: Search) -> None:
    outcome, _ = run(search, lambda a: (0.0, -1.0) if a == 0 else (-math.inf, -1.0), curvature=1.0)
    assert outcome.result is SearchResult.UNBOUNDED


def test_negative_curvature_has_no_exact_step() -> None:
    for curvature in (-1.0, 0.0, math.nan):
        outcome, _ = run(Exact(), lambda a: (-a, -1.0), curvature=curvature)
        assert outcome.result is SearchResult.NEGATIVE_CURVATURE


@pytest.mark.parametrize("search", [StrongWolfe(c2=0.1), HagerZhang()], ids=lambda s: type(s).__name__)
def test_a_flat_function_at_the_limit_of_precision_is_accepted(search: Search) -> None:
    """Just before a minimum with a large value, values are all equal and slopes still tell."""
    outcome, _ = run(search, lambda a: (1e8, 1e-12 * (a - 1)), first=3.0)
    assert outcome.result is SearchResult.ACCEPTED
    assert outcome.trial is not None
    assert abs(outcome.trial.slope) <= 0.9e-12


@given(st.floats(-3, 3), st.floats(0.1, 3), st.floats(-5, 5), st.floats(0.1, 4), st.floats(-4, -0.1))
def test_cubic_minimum_finds_that_of_any_cubic(
    centre: float, bend: float, third: float, right: float, left: float
) -> None:
    def p(t: float) -> tuple[float, float]:
        return bend * t * t / 2 + third * t**3 / 6, bend * t + third * t * t / 2

    a = SearchTrial(centre + left, *p(left))
    b = SearchTrial(centre + right, *p(right))
    assert cubic_minimum(a, b) == pytest.approx(centre, abs=1e-5)
    assert cubic_minimum(b, a) == pytest.approx(centre, abs=1e-5)


def test_strong_wolfe_needs_no_more_trials_than_scipys() -> None:
    ours, theirs = 0, 0
    for phi, first in functions(400, 8):
        ours += len(run(StrongWolfe(c2=0.4), phi, first)[1])
        counted = []

        def value(a: float, phi: Phi = phi, counted: list[float] = counted) -> float:
            counted.append(a)
            return phi(a)[0]

        found = DCSRCH(value, lambda a, phi=phi: phi(a)[1], 1e-4, 0.4, 1e-16, 1e-100, 1e20)
        assert found(first, *phi(0.0), maxiter=100)[0] is not None
        theirs += len(counted)
    assert ours <= 1.05 * theirs


def more_thuente(number: int) -> Phi:
    """The six functions of Moré and Thuente, Line search algorithms with guaranteed decrease, 1994."""
    if number == 1:
        return lambda a: (-a / (a * a + 2), (a * a - 2) / (a * a + 2) ** 2)
    if number == 2:
        return lambda a: (
            (a + 0.004) ** 5 - 2 * (a + 0.004) ** 4,
            5 * (a + 0.004) ** 4 - 8 * (a + 0.004) ** 3,
        )
    if number == 3:

        def oscillating(a: float, beta: float = 0.01, waves: int = 39) -> tuple[float, float]:
            if a <= 1 - beta:
                base, slope = 1 - a, -1.0
            elif a >= 1 + beta:
                base, slope = a - 1, 1.0
            else:
                base, slope = (a - 1) ** 2 / (2 * beta) + beta / 2, (a - 1) / beta
            turn = waves * math.pi * a / 2
            return (
                base + 2 * (1 - beta) / (waves * math.pi) * math.sin(turn),
                slope + (1 - beta) * math.cos(turn),
            )

        return oscillating
    first, second = {4: (1e-3, 1e-3), 5: (1e-2, 1e-3), 6: (1e-3, 1e-2)}[number]

    def gamma(beta: float) -> float:
        return math.sqrt(1 + beta * beta) - beta

    def yanai(a: float) -> tuple[float, float]:
        left, right = math.hypot(1 - a, second), math.hypot(a, first)
        return (
            gamma(first) * left + gamma(second) * right,
            gamma(first) * (a - 1) / left + gamma(second) * a / right,
        )

    return yanai


@pytest.mark.parametrize("first", [1e-3, 1e-1, 1e1, 1e3])
@pytest.mark.parametrize(
    ("number", "c1", "c2"),
    [
        (1, 1e-3, 0.1),
        (2, 1e-4, 1e-3),
        (2, 0.1, 0.11),
        (3, 0.1, 0.11),
        (4, 1e-3, 2e-3),
        (5, 1e-3, 2e-3),
        (6, 1e-3, 2e-3),
    ],
)
def test_more_and_thuentes_functions(number: int, c1: float, c2: float, first: float) -> None:
    """Their conditions or nearly (c2 has to be above c1 here), from their first steps."""
    phi = more_thuente(number)
    outcome, trials = run(StrongWolfe(c1=c1, c2=c2), phi, first)
    value, slope = phi(0.0)
    assert outcome.result is SearchResult.ACCEPTED
    trial = outcome.trial
    assert trial is not None
    assert trial.value <= value + c1 * trial.step * slope
    assert abs(trial.slope) <= c2 * abs(slope)
    assert len(trials) <= 30


def never_worse(search: Search, phi: Phi, first: float, slack: float = 0.0) -> SearchOutcome:
    outcome, trials = run(search, phi, first)
    if outcome.result is SearchResult.ACCEPTED:
        assert outcome.trial is not None
        lowest = min(t.value for t in trials if t.finite)
        assert outcome.trial.value <= lowest + slack + 4e-16 * abs(lowest), (outcome, trials)
        assert outcome.trial.value <= phi(0.0)[0] + slack
    return outcome


def test_no_point_is_accepted_that_is_worse_than_one_tried() -> None:
    def fall_and_waves(a: float) -> tuple[float, float]:
        if a < 1:
            return -1.5 * math.pi * (a - 1), -1.5 * math.pi
        turn = 1.5 * math.pi * a - math.pi
        return math.cos(turn), -1.5 * math.pi * math.sin(turn)

    for first in (0.1, 1.0, 3.0, 10.0):
        for search in (StrongWolfe(), StrongWolfe(c2=0.1), HagerZhang(), HagerZhang(sigma=0.2)):
            assert never_worse(search, fall_and_waves, first, 1e-5).result is SearchResult.ACCEPTED
    for phi, first in functions(1000, 12):
        never_worse(StrongWolfe(), phi, first)
        never_worse(StrongWolfe(c2=0.1), phi, first)
        never_worse(HagerZhang(), phi, first, 1.1e-6 * abs(phi(0.0)[0]))


def test_at_a_kink_the_lowest_step_is_taken() -> None:
    """There the slope jumps past every c2: no step meets the second condition."""
    for kink in (0.3, 1.0, 47.0, 2e5):
        for search in (StrongWolfe(), StrongWolfe(c2=0.1)):
            outcome = never_worse(
                search, lambda a, k=kink: (abs(a - k), -1.0 if a < k else 1.0), 1.0, 1e-5 * kink
            )
            assert outcome.result is SearchResult.ACCEPTED
            assert outcome.trial is not None
            assert outcome.trial.step == pytest.approx(kink, rel=1e-3)


@pytest.mark.parametrize(
    "search",
    [StrongWolfe(c1=0.3), Backtracking(c1=0.3), HagerZhang(delta=0.3)],
    ids=lambda s: type(s).__name__,
)
def test_the_approximate_condition_is_the_derivative_of_the_first(search: Search) -> None:
    """phi'(a) <= (2 * c1 - 1) * phi'(0): with c1 = 0.3 at most 0.4 where it was -1 at the start."""

    def accepted(slope: float, value: float, step: float = 1.0) -> bool:
        course = search.course(SearchTrial(0.0, 1e8, -1.0), step, noise=1.0)
        next(course)
        try:
            course.send(SearchTrial(step, value, slope))
        except StopIteration as end:
            return bool(end.value.result is SearchResult.ACCEPTED)
        return False

    for value in (1e8, 1e8 + 0.5):
        assert accepted(0.399, value)
        assert not accepted(0.401, value)
        assert accepted(-0.899, value)
        assert not accepted(-0.901, value)
    assert not accepted(0.0, 1e8 + 200)


@pytest.mark.parametrize("value", [1e-4, 1.0, 1e5, -1e5])
def test_hager_and_zhangs_value_may_rise_by_its_part_of_the_magnitude_at_the_start(value: float) -> None:
    search, start = HagerZhang(epsilon=1e-3), SearchTrial(0.0, value, -1.0)
    for slope, fits in ((-0.5, True), (0.79, True), (0.81, False), (-0.91, False)):
        assert search.satisfied(start, SearchTrial(1.0, value + 0.9e-3 * abs(value), slope), 0.0) == fits
        assert not search.satisfied(start, SearchTrial(1.0, value + 1.1e-3 * abs(value), slope), 0.0)


@pytest.mark.parametrize("search", [StrongWolfe(), Backtracking()], ids=lambda s: type(s).__name__)
def test_an_equal_value_is_no_decrease_where_values_tell(search: Search) -> None:
    """The function falls and rises again: at 1 the value is that at the start, and the slope is mild."""

    def bump(a: float) -> tuple[float, float]:
        # a cubic with phi(0) = phi(1) = v and slopes -1 and 0.5
        return 1e3 + a * (a - 1) * (1 - 0.5 * a), -1 + 3 * a - 1.5 * a * a

    assert bump(1.0) == (1e3, 0.5)
    start = SearchTrial(0.0, *bump(0.0))
    noise = 3.7e-11 * 1e3
    course = search.course(start, 1.0, noise)
    next(course)
    following = course.send(SearchTrial(1.0, *bump(1.0)))
    assert 0 < following.step < 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: StrongWolfe(c1=0.6), "c1 is 0.6"),
        (lambda: StrongWolfe(c1=0.2, c2=0.1), "c2 is 0.1"),
        (lambda: StrongWolfe(trials=0), "trials is 0"),
        (lambda: HagerZhang(delta=0.7), "delta is 0.7"),
        (lambda: HagerZhang(sigma=0.01), "sigma is 0.01"),
        (lambda: HagerZhang(gamma=1.0), "gamma is 1.0"),
        (lambda: HagerZhang(rho=1.0), "rho is 1.0"),
        (lambda: HagerZhang(epsilon=-1.0), "epsilon is -1.0"),
        (lambda: Backtracking(c1=0.0), "c1 is 0.0"),
        (lambda: Fixed(step=-1.0), "step is -1.0"),
        (lambda: Fixed(step=math.nan), "step is nan"),
        (lambda: Values(steps=()), "no steps"),
        (lambda: Values(steps=(1.0, -2.0)), "a step is -2.0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Search], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        make()
