"""Schedules by name, and K at once."""

import math

import numpy as np
import pytest

from thalweg import schedules
from thalweg.errors import OptionError

EXPECTED = {
    "constant": schedules.Constant(),
    "step": schedules.Step(every=100, gamma=0.5),
    "exponential": schedules.Exponential(rate=-math.log(0.01) / 600),
    "inverse-time": schedules.InverseTime(rate=19 / 600),
    "inverse-square": schedules.InverseSquare(rate=9 / 600),
    "piecewise": schedules.Piecewise(boundaries=(300, 450), factors=(1.0, 0.1, 0.01)),
    "linear": schedules.Linear(total=600),
    "polynomial": schedules.Polynomial(total=600),
    "cosine": schedules.Cosine(total=600),
    "one-cycle": schedules.OneCycle(total=600, peak_at=180),
    "warmup-stable-decay": schedules.WarmupStableDecay(total=600, warmup=30, decay=120),
}
FINAL = {
    "exponential": 0.01,
    "inverse-time": 0.05,
    "inverse-square": 0.01,
    "linear": 0,
    "cosine": 0,
    "polynomial": 0,
}


def test_names_are_the_table():
    assert schedules.names() == (*EXPECTED, "plateau")
    assert [row.name for row in schedules.describe()] == [*EXPECTED, "plateau"]
    assert all(row.formula and row.summary and row.source for row in schedules.describe())


@pytest.mark.parametrize("name", EXPECTED)
def test_from_the_name_alone(name):
    assert schedules.build(name, total=600) == EXPECTED[name]
    assert schedules.build(name, total=600)(600) == pytest.approx(
        FINAL.get(name, schedules.build(name, total=600)(600))
    )


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("total", [1, 2, 3, 7, 1000])
def test_any_length(name, total):
    factors = schedules.build(name, total=total)(np.arange(total + 1))
    assert np.isfinite(factors).all()
    assert (factors[:-1] > 0).all()
    assert (factors <= 1).all()


@pytest.mark.parametrize("name", EXPECTED)
def test_warmup_before_any(name):
    schedule = schedules.build(name, total=600, warmup=60)
    assert 0 < schedule(0) < schedule(30) < 1
    if name != "warmup-stable-decay":
        assert schedule == schedules.build(name, total=600, warmup=0.1)
        rest = schedules.build(name, total=540)
        assert schedule(np.arange(60, 700)).tolist() == rest(np.arange(640)).tolist()


def test_options():
    assert schedules.build("step", total=60, every=10, gamma=0.1) == schedules.Step(every=10, gamma=0.1)
    assert schedules.build("cosine", total=60, final=0.1, cycles=3) == schedules.Cosine(
        total=60, final=0.1, cycles=3
    )
    piecewise = schedules.build("piecewise", total=60, boundaries=[0.5], factors=[1, 0.2])
    assert piecewise == schedules.Piecewise(boundaries=(30,), factors=(1, 0.2))
    assert schedules.build("exponential", total=50, final=0.2)(50) == pytest.approx(0.2, rel=1e-14)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "cosin"}, "did you mean 'cosine'"),
        ({"name": "plateau"}, "looks at measurements"),
        ({"name": "cosine", "finl": 0.1}, "has no option 'finl'; did you mean 'final'"),
        ({"name": "cosine", "final": "low"}, "'low' but must be a number, such as 0.0"),
        ({"name": "cosine", "final": True}, "must be a number"),
        ({"name": "cosine", "final": math.nan}, "must be a number"),
        ({"name": "cosine", "cycles": 1.5}, "a whole number"),
        ({"name": "piecewise", "factors": 3}, "a list of numbers"),
        ({"name": "cosine", "warmup": 10}, "fewer than the 10 steps"),
        ({"name": "cosine", "warmup": -1}, "warmup"),
        ({"name": "exponential", "final": 0}, "final"),
        ({"name": "inverse-time", "final": 0}, "final"),
        ({"name": "inverse-square", "final": 2}, "final"),
        ({"name": "cosine", "total": 0}, "total of a schedule is 0"),
    ],
)
def test_bad_options(arguments, words):
    with pytest.raises(OptionError, match=words):
        schedules.build(**({"total": 10} | arguments))


def test_many_at_once():
    lanes = [schedules.build(name, total=50) for name in EXPECTED] * 2
    steps = np.arange(50)
    table = schedules.evaluate(lanes, steps)
    assert table.shape == (2 * len(EXPECTED), 50)
    for k, schedule in enumerate(lanes):
        assert table[k].tolist() == [schedule(int(step)) for step in steps]
    for step in (0, 17, 49):
        assert schedules.evaluate(lanes, step).tolist() == table[:, step].tolist()
    assert schedules.evaluate([], 3).shape == (0,)


def test_many_at_once_with_plateaus():
    falling = schedules.Plateau(higher_is_better=False, patience=0)
    lanes = [falling, schedules.Constant(), schedules.Plateau(higher_is_better=False)]
    falling.observe(1.0)
    falling.observe(1.0)
    assert schedules.evaluate(lanes, 5).tolist() == [0.1, 1.0, 1.0]
    assert schedules.evaluate(lanes, np.arange(2)).tolist() == [[0.1, 0.1], [1.0, 1.0], [1.0, 1.0]]


def test_which_schedules_go_on_falling_beyond_their_end():
    falling = {"step", "exponential", "inverse-time", "inverse-square"}
    for name in schedules.names()[:-1]:
        schedule = schedules.build(name, total=30)
        beyond = schedule(np.arange(30, 400))
        if name in falling:
            assert beyond[-1] < beyond[0] / 3, name
            assert bool((np.diff(beyond) <= 0).all()), name
        else:
            assert bool((beyond == schedule(30)).all()), name
