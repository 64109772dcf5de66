"""Rules: what they say of numbers whose truth is known, and how often they are wrong."""

from __future__ import annotations

import math
import random

import pytest
from scipy.stats import ttest_1samp

from thalweg.claims import Claim, Dots, Known, always, interval, judge, less, more, near, share
from thalweg.claims.rules import Test as Rule


def _rows(**columns: list[float]) -> list[dict[str, float]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _verdict(test: Rule, rows: list[dict[str, float]], *, exact: bool = False) -> str:
    return test.decide(rows, level=0.95, exact=exact).verdict


def test_an_interval_is_students() -> None:
    values = [1.0, 2.5, 2.0, 4.0, 3.1]
    found = interval(values, 0.9)
    low, high = ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert interval([3.0]).low == -math.inf
    assert interval([3.0, 5.0], exact=True).high == 5.0


def test_differences_are_taken_in_pairs() -> None:
    a = [float(k) for k in range(20)]
    b = [value - 0.1 - 0.01 * (k % 3) for k, value in enumerate(a)]
    # unpaired, the spread of 0 to 19 would hide a tenth
    assert _verdict(more("a", "b"), _rows(a=a, b=b)) == "holds"
    assert _verdict(less("a", "b"), _rows(a=a, b=b)) == "does not hold"


@pytest.mark.parametrize(
    ("mean", "verdict"), [(1.0, "holds"), (0.02, "can't be told"), (-1.0, "does not hold")]
)
def test_more_has_three_answers(mean: float, verdict: str) -> None:
    values = [mean + offset for offset in (-0.2, -0.1, 0.0, 0.1, 0.2)]
    assert _verdict(more("x"), _rows(x=values)) == verdict


def test_a_difference_that_doesnt_matter_is_no_difference() -> None:
    values = [0.001 * offset for offset in (-2, -1, 0, 1, 2)]
    assert _verdict(more("x", matters=0.01), _rows(x=values)) == "does not hold"
    assert _verdict(more("x"), _rows(x=values)) == "can't be told"


def test_a_bar_may_be_a_number() -> None:
    values = [2.9, 3.0, 3.1]
    assert _verdict(more("x", 2.0), _rows(x=values)) == "holds"
    assert _verdict(more("x", 4.0), _rows(x=values)) == "does not hold"
    assert "more than 2" in more("x", 2.0).decide(_rows(x=values), level=0.95, exact=False).said


def test_near_holds_within_and_fails_outside() -> None:
    values = [1.01, 0.99, 1.0, 1.02, 0.98]
    assert _verdict(near("x", 1.0, within=0.1), _rows(x=values)) == "holds"
    assert _verdict(near("x", 2.0, within=0.1), _rows(x=values)) == "does not hold"
    assert _verdict(near("x", 1.1, within=0.1), _rows(x=values)) == "can't be told"


def test_one_exception_breaks_a_law() -> None:
    assert _verdict(always("x"), _rows(x=[1, 1, 1])) == "holds"
    assert _verdict(always("x"), _rows(x=[1, 0, 1])) == "does not hold"


def test_shares_have_exact_intervals() -> None:
    # 5 of 5 is compatible with a half: 0.025 ** (1 / 5) = 0.478
    assert _verdict(share("x", above=0.5), _rows(x=[1.0] * 5)) == "can't be told"
    assert _verdict(share("x", above=0.5), _rows(x=[1.0] * 6)) == "holds"
    assert _verdict(share("x", above=0.5), _rows(x=[0.0] * 6)) == "does not hold"


def test_what_is_infinite_is_judged_by_signs() -> None:
    assert _verdict(more("x"), _rows(x=[math.inf, 1.0, 2.0, 1.0, 3.0, 1.0])) == "holds"
    assert _verdict(more("x"), _rows(x=[math.inf, 1.0])) == "can't be told"
    assert _verdict(more("x"), _rows(x=[math.nan] * 8)) == "does not hold"


def test_without_error_one_number_tells() -> None:
    assert _verdict(more("x"), _rows(x=[0.1])) == "can't be told"
    assert _verdict(more("x"), _rows(x=[0.1]), exact=True) == "holds"
    assert _verdict(more("x"), _rows(x=[0.0]), exact=True) == "does not hold"


def test_the_number_that_would_tell_does_in_most_trials() -> None:
    draws = random.Random(0)
    first = _rows(x=[0.3 + draws.gauss(0, 1) for _ in range(10)])
    decided = more("x").decide(first, level=0.95, exact=False)
    assert decided.needed is not None
    # by the spread that was seen; here the truth is known: (1.96 / 0.3)^2 is 43
    exact = more("x").decide(
        _rows(x=[0.3 + math.sqrt(9 / 10) * (-1) ** k for k in range(10)]), level=0.95, exact=False
    )
    assert exact.needed is not None
    assert 35 <= exact.needed <= 60


def _claim(*rule: Rule, conditions: tuple[str, ...] = ("",)) -> Claim:
    return Claim(
        title="A trial", topic="choosing", statement=".", sources=("O1",), places="K", setup=".", against=".",
        about=".", measure=lambda seed: {}, rule=rule, picture=Dots(values={"x": "x"}, axis="x"),
        known=(Known(verdict="holds", why="."),), conditions={name: {} for name in conditions},
    )  # fmt: skip


def test_a_claim_that_is_true_of_nothing_is_rarely_said_to_hold() -> None:
    """Two conditions, no effect: one holds in at most 2.5 % of 800 trials, and one fails in as many."""
    draws = random.Random(1)
    claim = _claim(more("x"), conditions=("a", "b"))
    verdicts = [
        judge(
            claim, {name: [{"x": draws.gauss(0, 1)} for _ in range(8)] for name in claim.conditions}
        ).verdict
        for _ in range(800)
    ]
    wrong = sum(verdict != "can't be told" for verdict in verdicts) / 800
    # four one-sided errors of 1.25 % each
    assert 0.02 < wrong < 0.08


_YES, _NO = [{"x": 1.0 + 0.01 * k} for k in range(5)], [{"x": -1.0 - 0.01 * k} for k in range(5)]
_OPEN = [{"x": (-1.0) ** k} for k in range(5)]


@pytest.mark.parametrize(
    ("rows", "verdict", "said"),
    [
        ([_YES, _YES], "holds", 'holds under all conditions: "0" and "1"'),
        ([_YES, _NO], "holds under named conditions", 'holds under "0"; does not hold under "1"'),
        ([_YES, _OPEN], "holds under named conditions", 'holds under "0"; can\'t be told under "1"'),
        ([_NO, _OPEN], "does not hold", 'does not hold under "0"; can\'t be told under "1"'),
        ([_OPEN, _OPEN], "can't be told", 'can\'t be told under "0" and "1"'),
        ([_NO], "does not hold", "does not hold"),
    ],
)
def test_conditions_are_joined(rows: list[list[dict[str, float]]], verdict: str, said: str) -> None:
    names = tuple(map(str, range(len(rows)))) if len(rows) > 1 else ("",)
    judged = judge(_claim(more("x"), conditions=names), dict(zip(names, rows, strict=True)))
    more_seeds = " from 5 seeds (some 209 would tell)" if "can't be told" in said else ""
    assert (judged.verdict, judged.sentence()) == (verdict, said + more_seeds)


def test_all_tests_of_a_rule_must_hold() -> None:
    rows = [{"x": 1.0 + 0.01 * k, "y": -1.0 - 0.01 * k} for k in range(5)]
    assert judge(_claim(more("x"), more("y")), {"": rows}).verdict == "does not hold"
    assert judge(_claim(more("x"), less("y", "x")), {"": rows}).verdict == "holds"


def test_more_parts_make_wider_intervals() -> None:
    rows = [{"x": value} for value in (0.2, 0.5, 0.9, 1.4, 0.05)]
    one = judge(_claim(more("x")), {"": rows}).conditions[0].tests[0].said
    many = judge(_claim(*[more("x")] * 5), {"": rows}).conditions[0].tests[0].said
    assert one != many
