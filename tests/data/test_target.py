from __future__ import annotations

import numpy as np
import pytest

from thalweg.data.target import check_options, encode, read_target
from thalweg.errors import DataError, OptionError


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
    with pytest.raises(OptionError, match=r"^task is 'regresion'; did you mean 'regression'"):
        check_options(task="regresion", missing=None)
    with pytest.raises(OptionError, match=r"^missing is 'mean'"):
        check_options(task=None, missing="mean")
