"""What schedules multiply learning rates by, step by step."""

from __future__ import annotations

import math

from thalweg import schedules
from thalweg.run.factors import Factors


def test_factors_are_the_schedules_step_by_step() -> None:
    names = ["cosine", "constant", "cosine", "linear"]
    table = Factors(names, 9).at([2, 1, 3])
    for column, name in enumerate(["cosine", "constant", "linear"]):
        schedule = schedules.build(name, total=9)
        assert table[:, column].tolist() == [schedule(step) for step in range(9)]


def test_a_plateau_falls_after_three_evaluations_without_gain_and_only_its_own() -> None:
    factors, twin = (
        Factors(["plateau", "plateau", "constant"], 10),
        Factors(["plateau"] * 2 + ["constant"], 10),
    )
    assert not factors.observe(2, 3, 1.0)
    assert not factors.observe(0, 0, 1.0)  # before the first step nothing was learned
    for step, loss in enumerate([1.0, 2.0, 2.0], 1):
        assert factors.observe(0, step, loss)
        assert factors.at([0])[step, 0] == 1.0
    twin.load(factors.state(), 3)
    for each in (factors, twin):
        each.observe(0, 4, math.nan)
        assert each.at([0, 1, 2])[4:].tolist() == [[0.1, 1.0, 1.0]] * 6
