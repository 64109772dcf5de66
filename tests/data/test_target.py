from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from thalweg.data import load, prepare
from thalweg.data.stored import TablePreparation, store
from thalweg.data.target import check_options, encode, fit_target, read_target
from thalweg.errors import DataError, OptionError

Same = Callable[..., object]


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (np.array(["a", "b"] * 10, dtype=object), "classification"),
        (np.array([True, False] * 10), "classification"),
        (np.array([3, 7, 9, 3] * 10), "classification"),
        (np.array([1.0, 2.0] * 10), "classification"),
        (np.array([1.5, 2.5] * 10), "regression"),
        (np.arange(40), "regression"),
        (np.arange(15), "regression"),
        (np.repeat(np.arange(30), 6), "regression"),
    ],
)
def test_task_is_inferred(raw: np.ndarray, kind: str) -> None:
    assert read_target(raw).task.kind == kind


def test_labels_from_zero_on_are_classes_where_labels_are_expected() -> None:
    assert read_target(np.repeat(np.arange(30), 6), labelled=True).task.kind == "classification"


def test_classes_are_in_order_and_counted() -> None:
    target = read_target(np.array([9] * 6 + [3] * 8 + [7] * 10), name="y")
    assert target.task.classes == ("3", "7", "9")
    assert target.counts == [8, 10, 6]
    assert target.values.tolist() == [2] * 6 + [0] * 8 + [1] * 10
    assert not target.plain
    assert any("3 different whole numbers" in note for note in target.notes)


def test_whole_fractions_are_labelled_without_a_point() -> None:
    assert read_target(np.array([1.0, 2.0] * 10)).task.classes == ("1", "2")


def test_asking_settles_the_task() -> None:
    assert read_target(np.array([1, 2] * 10), asked="regression").task.kind == "regression"
    assert read_target(np.arange(4).repeat(10) * 0.5, asked="classification").task.classes == (
        "0",
        "0.5",
        "1",
        "1.5",
    )
    assert read_target(np.array([1, 2] * 10), asked="custom").task.kind == "custom"


def test_several_numbers_an_example_are_a_custom_task() -> None:
    assert read_target(np.zeros((10, 3))).task.kind == "custom"
    with pytest.raises(DataError, match=r"shape \[10, 3\], but regression needs one value"):
        read_target(np.zeros((10, 3)), asked="regression")


def test_one_class_only() -> None:
    with pytest.raises(DataError, match=r"the target 'sold' is 'yes' in every row"):
        read_target(np.array(["yes"] * 30), name="sold")


def test_rare_class() -> None:
    with pytest.raises(DataError, match=r"the class 'c' of the target 'y' has 4 of 44 rows"):
        read_target(np.array(["a", "b"] * 20 + ["c"] * 4), name="y")
    assert read_target(np.array(["a", "b"] * 20 + ["c"] * 5)).counts == [20, 20, 5]


def test_labels_that_do_not_fit() -> None:
    with pytest.raises(DataError, match=r"holds text, such as 'a', so it can't be regressed"):
        read_target(np.array(["a", "b"] * 10), asked="regression")
    with pytest.raises(
        DataError, match=r"20 different values in 20 rows, too many to be classes; use task='regression'"
    ):
        read_target(np.arange(20) / 7, asked="classification")
    with pytest.raises(
        DataError, match=r"20 different values in 20 rows, too many to be classes; choose another"
    ):
        read_target(np.array([str(i) for i in range(20)]))


def test_equal_numbers_and_few_rows() -> None:
    with pytest.raises(DataError, match=r"is 2.5 in every row; there is nothing to predict"):
        read_target(np.full(30, 2.5))
    with pytest.raises(DataError, match=r"there are 9 rows"):
        read_target(np.arange(9) / 7)


def test_skew_is_pointed_out() -> None:
    notes = read_target(np.array(["no"] * 90 + ["yes"] * 10)).notes
    assert any("90% of the rows are 'no'" in note and "balanced-accuracy" in note for note in notes)
    assert not read_target(np.array(["no"] * 60 + ["yes"] * 40)).notes


def test_test_part_is_encoded_alike() -> None:
    target = read_target(np.array(["a", "b"] * 10))
    assert encode(np.array(["b", "a"]), target).tolist() == [1, 0]
    with pytest.raises(DataError, match=r"the test part has the label 'z', which no training row has"):
        encode(np.array(["a", "z"]), target)
    numbers = read_target(np.arange(20) / 7)
    with pytest.raises(DataError, match=r"isn't made of numbers"):
        encode(np.array(["a"]), numbers)


def test_unknown_words() -> None:
    with pytest.raises(
        OptionError, match=r"^task is 'regresion', but must be classification, regression or custom"
    ):
        check_options(task="regresion", missing=None)
    with pytest.raises(OptionError, match=r"^missing is 'mean'"):
        check_options(task=None, missing="mean")


# Ends of the range ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e200, 1e300, 1e-300, 1e-200, 2.0**-1060])
def test_targets_of_any_size_keep_what_they_say(factor: float) -> None:
    plain = np.random.default_rng(0).normal(3, 1, 200).round(2)
    parts = [plain[:120], plain[120:160], plain[160:]]
    task, expected = fit_target(read_target(plain, asked="regression").task, parts, scaled=True)
    extreme = read_target(plain * factor, asked="regression")
    same, found = fit_target(extreme.task, [part * factor for part in parts], scaled=True)
    digits = 1e-6 if factor > 1e-307 else 1e-3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=digits, rtol=digits)
    assert same.center == pytest.approx(task.center * factor, rel=digits)
    assert same.scale == pytest.approx(task.scale * factor, rel=digits)
    assert same.spread == pytest.approx(plain.std() * factor, rel=digits)


def test_the_whole_range_of_float64_is_standardised() -> None:
    values = np.linspace(-1, 1, 100) * 1.7e308
    task, (train, *_) = fit_target(read_target(values).task, [values, values[:5], values[5:9]], scaled=True)
    assert task.scale == pytest.approx(np.linspace(-1, 1, 100).std() * 1.7e308)
    torch.testing.assert_close(
        train.double(),
        torch.tensor(np.linspace(-1, 1, 100) / np.linspace(-1, 1, 100).std()),
        atol=1e-6,
        rtol=1e-6,
    )


def test_a_power_of_two_changes_no_bit() -> None:
    values = np.random.default_rng(0).normal(5, 2, 50)
    parts = [values[:30], values[30:40], values[40:]]
    task = read_target(values).task
    _, plain = fit_target(task, parts, scaled=True)
    _, far = fit_target(task, [np.ldexp(part, 700) for part in parts], scaled=True)
    for a, b in zip(plain, far, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["1e200", "1e-300"])
def test_columns_and_targets_of_any_size_in_a_table(folder: Path, same_as_script: Same, name: str) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"a": rng.normal(size=60), "b": rng.normal(size=60), "y": rng.normal(size=60)})
    frame.write_csv("t.csv")
    plain = prepare(load("t.csv", target="y"), seed=0, replicate=0)
    frame.select("a", pl.col("b", "y") * float(name)).write_csv("far.csv")
    source = load("far.csv", target="y")
    far = prepare(source, seed=0, replicate=0)
    for part in ("train", "validation", "test"):
        for which in ("inputs", "targets"):
            a, b = (getattr(getattr(each, part), which) for each in (plain, far))
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    same_as_script(source)
    stored = store(source, far.indices, None)
    assert isinstance(stored, TablePreparation)
    again = TablePreparation.model_validate_json(stored.model_dump_json())
    inputs, _ = again.apply(pl.read_csv("far.csv")[far.indices["test"]])
    torch.testing.assert_close(inputs, far.test.inputs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("factor", [1e200, 1e39, 1e-300])
def test_targets_taken_as_given_that_float32_can_not_hold_are_refused(factor: float) -> None:
    y = torch.randn(60, dtype=torch.float64) * factor
    with pytest.raises(DataError, match=r"targets are taken as given, as float32, and of values up to"):
        prepare(load((torch.randn(60, 2), y)), seed=0, replicate=0)


# Labels -----------------------------------------------------------------------------------------------------


def test_classes_that_are_numbers_keep_the_digits_that_tell_them_apart() -> None:
    for values, names in (
        ([1000001.0, 1000002.0], ("1000001", "1000002")),
        ([0.1, 0.1 + 2**-50], ("0.1", "0.1000000000000009")),
        (np.float32([0.1, 0.2]), ("0.1", "0.2")),
        ([1.0, 2.0], ("1", "2")),
        ([-0.5, 1e30], ("-0.5", "1e+30")),
    ):
        target = read_target(np.array(list(values) * 10), asked="classification")
        assert target.task.classes == names


@pytest.mark.parametrize("values", [[1, "1"], [True, 1], ["a", b"a"], [None, "a"]])
def test_labels_of_several_kinds_are_refused(values: list[object]) -> None:
    with pytest.raises(DataError, match=r"the target 'y' mixes .* among its labels; make all of them"):
        read_target(np.array(values * 10, dtype=object), name="y", asked="classification")


@pytest.mark.parametrize("values", [["1", "1.0"], ["1", " 1"], ["a", "a "], ["Yes", "yes"], ["1e1", "10"]])
def test_labels_that_are_nearly_the_same_are_said(values: list[str]) -> None:
    target = read_target(np.array(values * 10), name="y")
    assert target.task.classes == tuple(sorted(values))
    assert [text for text in target.warnings if "names differ by spaces, case" in text]
    assert not read_target(np.array(["a", "b"] * 10)).warnings
