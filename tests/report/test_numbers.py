# ruff: noqa: RUF001
from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.synthetic import make
from thalweg.report.numbers import ScoreFormat, count, duration, general, percent, shorten

BACK = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹−", "-0123456789-")


@given(st.floats(min_value=1e-30, max_value=1e30), st.integers(2, 6))
def test_general_keeps_the_digits_asked_for(value: float, digits: int):
    text = general(value, digits).replace("×10", "e").translate(BACK)
    text = (
        "1e" + text[2:]
        if "e" not in text and text.startswith("10") and "×" not in text and _power(value, digits)
        else text
    )
    assert float(text) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


def _power(value: float, digits: int) -> bool:
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return float(mantissa) == 1 and not -4 < int(exponent) < 5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.25, "−0.25"),
        (1e-7, "10⁻⁷"),
        (math.inf, "∞"),
        (99999.0, "10⁵"),
        (0.001, "0.001"),
        (12.0, "12"),
    ],
)
def test_general_spells(value: float, text: str):
    assert general(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0009996, "1 ms"), (59.0, "59 s"), (60.0, "1 min 0 s"), (3599.6, "1 h 0 min"), (None, "–")],
)
def test_duration(seconds: float | None, text: str):
    assert duration(seconds) == text


def test_count_and_percent():
    assert count(None) == "–"
    assert count(-1234) == "−1\u202f234"
    assert percent(1, 3) == "33 %"


@given(st.text(min_size=0, max_size=80), st.integers(8, 30))
def test_shorten_is_never_longer_and_keeps_both_ends(text: str, length: int):
    short = shorten(text, length)
    assert len(short) <= length
    if len(text) > length:
        head, tail = short.split("…", 1) if "…" not in text else (short[:3], short[-3:])
        assert text.startswith(head)
        assert text.endswith(tail)


def test_scores_show_a_tenth_of_the_margin():
    accuracy = ScoreFormat.of(make(["adam"]))
    assert accuracy(0.97251) == "0.9725"
    assert accuracy.signed(-0.0123) == "−0.0123"
    assert accuracy.signed(0.00001) == "0.0000"
    assert accuracy.interval(0.9, 0.95) == "0.9000 to 0.9500"
    assert accuracy(None, "diverged") == "diverged"
    error = ScoreFormat.of(make(["adam"], regression=True))
    assert error(4321.4) == "4\u202f321"
