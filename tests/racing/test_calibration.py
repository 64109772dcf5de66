"""The verdict on simulated races with known truth: a small sample of what docs/verdict.md shows in full.

Thousands of races are judged at once by a twin of the library's comparison, which is held to it here.
Seeds are fixed; the bounds leave room for three standard errors of a rate.
"""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest

from scripts import script
from thalweg.racing import statistics
from thalweg.racing.contrasts import correction, split_contrasts


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    return script("benchmarks/verdict_calibration.py")


def rates(calibration: ModuleType, name: str, races: int = 3000, *, optimizers: int = 0, splits: int = 5):
    truth = next(
        one
        for one in calibration.TRUTHS
        if one.name == name and one.splits == splits and (not optimizers or len(one.means) == optimizers)
    )
    return calibration.rates(truth, races, seed=1)


def at_most(rate: float, races: int) -> float:
    return rate + 3 * math.sqrt(rate * (1 - rate) / races)


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        *((f"{count} equal", splits) for count in (2, 7) for splits in (2, 3, 5, 10)),
        ("12 equal", 5),
        *((f"{count} equal, overlap {r}", 5) for count in (2, 7) for r in ("0", "0.25", "0.4", "0.6")),
        ("7 equal, overlap 0.6", 10),
        ("7 equal, one wild", 5),
        ("7 equal, one steady", 5),
        ("7 equal, two wilder", 3),
        ("7 equal, heavy tails (t, 3 df)", 5),
        ("7 equal, skewed (exponential)", 5),
        ("one of 2 falls by 30 in 5 % of runs", 5),
        ("all of 7 fall by 30 in 5 % of runs", 5),
        ("two equal, others behind", 5),
        ("siblings move together", 5),
        ("accuracy on 40 examples, two", 5),
    ],
)
def test_no_best_one_is_put_behind_by_a_claim_that_says_to_hold(
    calibration: ModuleType, name: str, splits: int
) -> None:
    found = rates(calibration, name, splits=splits)
    assert found.best_behind <= at_most(0.05, found.races)
    assert found.wrong_difference <= at_most(0.05, found.races)
    assert found.best_behind <= found.best_behind_at_all


def test_what_overlaps_more_than_is_assumed_is_no_excuse_for_silence(calibration: ModuleType) -> None:
    # the claim is made, and says that it doesn't hold there
    found = rates(calibration, "7 equal, overlap 0.6")
    assert found.best_behind_at_all > 0.2
    assert found.best_behind < 0.06


@pytest.mark.parametrize(
    ("name", "splits", "least"),
    # what the procedure before this one found (all pairs by Holm, assumed correlation 0.2), less 5 points
    [
        ("a ladder", 5, 0.349),
        ("a ladder", 3, 0.095),
        ("a ladder", 10, 0.546),
        ("heavy tails, ladder", 5, 0.415),
        ("two wild ones far behind", 5, 0.171),
        ("accuracy, two behind", 5, 0.213),
        ("two equal, others behind", 5, 0.387),
        ("two steady leaders", 5, 0.352),
    ],
)
def test_differences_are_found(calibration: ModuleType, name: str, splits: int, least: float) -> None:
    found = rates(calibration, name, 1500, splits=splits)
    assert found.found >= least
    assert found.size < 6.5


def test_one_far_ahead_is_named_alone(calibration: ModuleType) -> None:
    assert rates(calibration, "one ahead by 5", 1500).alone > 0.7


def test_the_correction_takes_away_what_being_picked_adds(calibration: ModuleType) -> None:
    found = rates(calibration, "7 equal")
    assert found.too_high > 0.75
    assert abs(found.corrected) < 0.15
    assert found.covered >= 0.95
    assert abs(rates(calibration, "one ahead by 5").corrected) < 0.3
    assert rates(calibration, "7 equal, overlap 0.4").covered >= 0.95


def test_equivalence_is_claimed_seldom_at_the_margin_and_often_well_within(calibration: ModuleType) -> None:
    found = rates(calibration, "two differ by just the margin")
    assert found.at_margin <= at_most(0.05, found.races)
    assert rates(calibration, "7 equal, margin 3 sd", 500).equivalent > 0.6
    few = rates(calibration, "accuracy on 12 examples, by the margin", 1000)
    assert few.at_margin <= at_most(0.05, few.races)


@pytest.mark.parametrize(("examples", "margin"), [(12, 0.3), (30, 0.2), (100, 0.04)])
def test_few_examples_of_a_fixed_test_set_prove_no_equality(
    calibration: ModuleType, examples: int, margin: float
) -> None:
    found = rates(calibration, f"fixed test set of {examples}, by the margin of {margin:g}", 100)
    assert found.at_margin <= at_most(0.05, found.races)


def test_a_fixed_test_set(calibration: ModuleType) -> None:
    equal = rates(calibration, "fixed test set of 300, all equal", 30)
    assert equal.best_behind <= 0.15
    ladder = rates(calibration, "fixed test set of 300, ladder", 30)
    assert ladder.best_behind == 0
    assert ladder.found > 0.7


@pytest.mark.parametrize(
    ("optimizers", "splits", "resolution", "margin"),
    [(2, 5, 0.0, 0.5), (3, 5, 0.0, 0.5), (7, 5, 0.0, 0.5), (7, 3, 0.3, 0.5), (4, 10, 0.0, 1.0)],
)
def test_the_library_judges_as_a_twin_written_apart(
    calibration: ModuleType, optimizers: int, splits: int, resolution: float, margin: float
) -> None:
    random = np.random.default_rng(splits)
    y = random.standard_normal((50, optimizers, splits)) * random.uniform(0.2, 3, (50, optimizers, 1))
    y += random.uniform(0, 6, (50, optimizers, 1))
    factor = correction(splits, 0.25)
    twin = calibration.judged(y, factor, margin=margin, resolution=resolution)
    lasting = {r: calibration.said_to_hold(y, r, margin=margin, resolution=resolution) for r in (0.25, 0.6)}
    for index, one in enumerate(y):
        contrasts = split_contrasts(one, factor, resolution=resolution)
        compared = statistics.compare_pairs(contrasts, margin=margin)
        ours = calibration.from_library(compared, optimizers)
        for part in ("different", "equivalent", "best"):
            assert getattr(ours, part)[0].tolist() == getattr(twin, part)[index].tolist()
        said = twin.different[index]
        assert ours.sign[0][said].tolist() == twin.sign[index][said].tolist()
        if index < 10:
            held = statistics.holds_up_to(
                contrasts, None, compared, replicates=splits, correlation=0.25, margin=margin
            )
            for r, twin_held in lasting.items():
                expected = (twin_held.different | twin_held.equivalent)[index].tolist()
                assert [h is not None and h >= r - 1e-9 for h in held] == expected


def test_it_excludes_more_than_others_that_keep_the_rate(calibration: ModuleType) -> None:
    methods = dict(calibration.METHODS)
    for _, means, spreads in calibration.POWER:
        y = np.random.default_rng(0).standard_normal((500, 7, 5)) * np.array(spreads)[:, None]
        y += np.array(means)[:, None]
        excluded = {name: float((~method(y)[:, 1:]).mean()) for name, method in methods.items()}
        assert excluded["moderated, step-down (ours)"] > excluded["all pairs, Holm"] + 0.05
