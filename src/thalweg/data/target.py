"""What the target says: which task it is, which classes there are, and whether it can be learnt at all."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.data.labelled import as_given
from thalweg.errors import DataError, option
from thalweg.objectives import Task
from thalweg.settings.choices import Missing, TaskKind, words_of
from thalweg.settings.tables import one_of

__all__ = [
    "AMOUNT",
    "FARTHEST",
    "LEAST_ROWS",
    "Target",
    "alike",
    "check_options",
    "encode",
    "fit_target",
    "outputs_of",
    "power_of",
    "read_target",
    "reads_as_number",
]

# Five rows are three for training and one each for validation and test.
LEAST_ROWS = 5
AMOUNT = re.compile(r"^[-+(]?[$€£¥]?\s?\d[\d.,' ]*\s?(%|€|[A-Za-z]{1,3})?\)?$")
"""A number with a unit, a currency or marks between thousands."""
_FEW = 20
_MANY = 1000
_SKEWED = 5.0
# Squares of what lies within are far from both ends of float64, and any sum of them is.
_LEAST, _MOST = 1e-100, 1e100
FARTHEST = 1000
"""The largest power that :func:`power_of` returns; a little beyond, a power of two is no float64 any more."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A target column, understood.

    Attributes:
        task: what is to be predicted.
        values: class numbers (int64 ``[N]``), numbers (float64 ``[N]``), or what a custom task has.
        levels: the raw value of each class; empty for other tasks.
        plain: whether raw values are the class numbers already.
        counts: rows of each class.
        notes: what is worth saying.
        warnings: what has to be known before a result is relied on.
    """

    task: Task
    values: npt.NDArray[Any]
    levels: npt.NDArray[Any] = field(default_factory=lambda: np.empty(0))
    plain: bool = False
    counts: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_options(*, task: str | None, missing: str | None) -> None:
    """Refuse words that aren't known.

    Raises:
        OptionError: naming those that are.
    """
    if task is not None:
        one_of("task", task, words_of(TaskKind))
    if missing is not None:
        one_of("missing", missing, words_of(Missing))


def read_target(
    raw: npt.NDArray[Any], *, name: str | None = None, asked: str | None = None, labelled: bool = False
) -> Target:
    """Decide what a target is.

    Text and booleans are classes; so are whole numbers of which there are at most 20 different ones, each
    in five rows on average, and labels ``0 .. C-1``. Every other number is regressed.

    Args:
        raw: ``[N]`` without missing or infinite values; other shapes are a custom task.
        name: of the column, where there is one.
        asked: the task that the user asked for.
        labelled: whether whole numbers ``0 .. C-1`` are classes even where there are many.

    Raises:
        DataError: the target doesn't fit the task, has one value only, or too few rows of a class.

    >>> target = read_target(np.array(["no", "yes"] * 10), name="answer")
    >>> target.task.kind, target.task.classes, target.values[:4].tolist()
    ('classification', ('no', 'yes'), [0, 1, 0, 1])
    """
    called = f"the target {name!r}" if name else "the target"
    if asked == "custom" or raw.ndim != 1:
        if asked in ("classification", "regression"):
            raise DataError(
                f"{called} has shape {list(raw.shape)}, but {asked} needs one value for each example; "
                f"leave {option('task')} out and give your own loss and metric"
            )
        return Target(task=Task(kind="custom", target=name), values=raw)
    words = raw.dtype.kind in "OUSb"
    if asked == "regression" and words and raw.dtype.kind != "b":
        raise DataError(
            f"{called} holds text, such as {str(raw[0])!r}, so it can't be regressed; "
            f"choose another target, or {option('task', 'classification')}"
        )
    kind = asked or ("classification" if words or _few(raw, labelled) else "regression")
    if kind == "classification":
        return _classes(raw, name, called, asked, labelled)
    return _numbers(raw, name, called, asked)


def encode(raw: npt.NDArray[Any], target: Target) -> npt.NDArray[Any]:
    """Encode the target of a test part as that of the training part was.

    Raises:
        DataError: it has a class that no training row has, or another shape.
    """
    if target.task.kind == "custom":
        return raw
    if raw.ndim != 1:
        raise DataError(
            f"the test part's target has shape {list(raw.shape)}, but the training part's has one dimension"
        )
    if target.task.kind == "regression":
        if raw.dtype.kind not in "biuf":
            raise DataError("the test part's target isn't made of numbers as the training part's is")
        return raw.astype(np.float64)
    known = {value: number for number, value in enumerate(target.levels.tolist())}
    strange = sorted({str(value) for value in raw.tolist() if value not in known})
    if strange:
        raise DataError(
            f"the test part has the label {strange[0]!r}, which no training row has; "
            f"the labels there are {', '.join(target.task.classes[:10])}"
        )
    return np.array([known[value] for value in raw.tolist()], dtype=np.int64)


def fit_target(task: Task, y: list[npt.NDArray[Any]], *, scaled: bool) -> tuple[Task, list[Tensor]]:
    """Targets of the three parts as tensors, and the task in their units."""
    if task.kind == "custom":
        return task, [as_given(part) for part in y]
    if task.kind == "classification":
        return task, [torch.tensor(part) for part in y]
    if not scaled:
        _refuse_beyond_float32(task, y)
        made = [torch.tensor(part, dtype=torch.float32) for part in y]
        return replace(task, center=0.0, scale=1.0), made
    power = power_of(*y)
    if power:
        y = [np.ldexp(part, -power) for part in y]
    center, scale = float(y[0].mean()), float(y[0].std() or 1.0)
    made = [torch.tensor((part - center) / scale, dtype=torch.float32) for part in y]
    if power:
        center, scale = float(np.ldexp(center, power)), float(np.ldexp(scale, power))
        if not scale > 0:
            raise DataError(
                f"the target{f' {task.target!r}' if task.target else ''} differs by less than float64 can "
                "hold; give it in another unit"
            )
    return replace(task, center=center, scale=scale), made


def power_of(*values: npt.NDArray[np.float64]) -> int:
    """Return the power of two to divide numbers by, so that their squares neither overflow nor vanish.

    Powers of two change no digit, so whatever is standardised afterwards comes out the same.

    Returns:
        0 for numbers of any usual size, missing ones left aside.

    >>> power_of(np.array([3.0, -1e99])), power_of(np.array([1e200, 2e200])), power_of(np.array([1e-300]))
    (0, 666, -996)
    """
    # nothing may be there, or nothing but missing values
    largest: float = max(
        (float(np.abs(part[np.isfinite(part)]).max(initial=0.0)) for part in values), default=0.0
    )
    if largest == 0 or _LEAST <= largest <= _MOST:
        return 0
    return int(np.clip(np.frexp(largest)[1], -FARTHEST, FARTHEST))


def _refuse_beyond_float32(task: Task, y: list[npt.NDArray[Any]]) -> None:
    """Targets that are taken as given are float32 as they are, and may be nothing there."""
    whole = np.concatenate(y)
    with np.errstate(over="ignore", under="ignore"):
        single = whole.astype(np.float32)
    if np.isfinite(single).all() and (single != single[0]).any():
        return
    largest = float(np.abs(whole).max())
    raise DataError(
        f"targets are taken as given, as float32, and of values up to {largest:.3g} it keeps nothing that "
        "differs; give them in another unit"
    )


def outputs_of(task: Task, y: npt.NDArray[Any]) -> int:
    """How many numbers a model has to give for an example."""
    if task.kind == "classification":
        return len(task.classes)
    if task.kind == "regression":
        return 1
    if y.ndim > 1:
        # of whole numbers those that say yes or no have an output each; others are classes at positions
        yes_or_no = y.dtype.kind in "iub" and bool(((y == 0) | (y == 1)).all())
        return int(np.prod(y.shape[1:])) if y.dtype.kind == "f" or yes_or_no else 0
    numbered = y.dtype.kind in "iu" and y.size > 0 and 0 <= int(y.max()) < _MANY
    return int(y.max()) + 1 if numbered else 0


def _few(raw: npt.NDArray[Any], labelled: bool) -> bool:
    if not (raw == np.round(raw)).all():
        return False
    values, counts = np.unique(raw, return_counts=True)
    if len(values) <= _FEW and len(values) * LEAST_ROWS <= len(raw):
        return True
    consecutive = bool((values == np.arange(len(values))).all())
    return (
        labelled
        and raw.dtype.kind in "iu"
        and consecutive
        and len(values) <= _MANY
        and counts.min() >= LEAST_ROWS
    )


def _classes(
    raw: npt.NDArray[Any], name: str | None, called: str, asked: str | None, labelled: bool
) -> Target:
    _refuse_mixed(raw, called)
    levels, values, counts = np.unique(raw, return_inverse=True, return_counts=True)
    classes = tuple(_label(level) for level in levels)
    if len(classes) == 1:
        raise DataError(
            f"{called} is {classes[0]!r} in every row; a classification needs at least two classes"
        )
    rarest = int(counts.argmin())
    if counts[rarest] < LEAST_ROWS:
        if len(classes) > len(raw) / LEAST_ROWS:
            raise DataError(
                f"{called} has {len(classes)} different values in {len(raw)} rows, too many to be classes; "
                + (
                    _no_number(classes) + "choose another target"
                    if raw.dtype.kind in "OUS"
                    else f"use {option('task', 'regression')}"
                )
            )
        raise DataError(
            f"the class {classes[rarest]!r} of {called} has {counts[rarest]} of {len(raw)} rows, but a "
            f"stratified split needs {LEAST_ROWS} of each class; remove it or join it with another"
        )
    notes = []
    numbered = labelled and bool((levels == np.arange(len(levels))).all())
    if asked is None and raw.dtype.kind in "iuf" and not numbered:
        notes.append(
            f"{called} has {len(classes)} different whole numbers, so this is a classification; "
            f"if they are amounts, say {option('task', 'regression')}"
        )
    if counts.max() / counts.min() >= _SKEWED:
        share = counts.max() / counts.sum()
        notes.append(
            f"the classes are skewed: {share:.0%} of the rows are {classes[int(counts.argmax())]!r}, and "
            f"saying that always would have an accuracy of {share:.3g}; consider "
            f"{option('metric', 'balanced-accuracy')}"
        )
    plain = raw.dtype == np.int64 and bool((levels == np.arange(len(levels))).all())
    return Target(
        task=Task(kind="classification", classes=classes, target=name),
        values=values.astype(np.int64).reshape(raw.shape),
        levels=levels,
        plain=plain,
        counts=counts.tolist(),
        notes=notes,
        warnings=[
            f"{called} has classes whose names differ by spaces, case or the spelling of a number alone: "
            f"{' and '.join(map(repr, same))}; they are classes of their own, so mend them if they are one"
            for same in (alike(classes) if raw.dtype.kind in "OUS" else [])
        ],
    )


def _no_number(texts: Iterable[str]) -> str:
    """What keeps a target of many texts from being regressed, where some are numbers, or have a unit.

    >>> _no_number(["1.5", "2", "x"])
    "2 of these are numbers, but not 'x': mend it, or "
    >>> _no_number(["7 kg", "8 kg"])
    "if they are amounts, such as '7 kg', write them as numbers alone, or "
    >>> _no_number(["Anna", "Bo"])
    ''
    """
    texts = list(texts)
    others = [text for text in texts if not reads_as_number(text)]
    if not others:
        return ""
    if 2 * len(others) < len(texts):
        return f"{len(texts) - len(others)} of these are numbers, but not {others[0]!r}: mend it, or "
    if sum(bool(AMOUNT.match(text)) for text in texts) > 0.9 * len(texts):
        return f"if they are amounts, such as {texts[0]!r}, write them as numbers alone, or "
    return ""


def reads_as_number(text: str) -> bool:
    """Whether a text is a finite number.

    >>> reads_as_number("1e3"), reads_as_number("nan"), reads_as_number("7 kg")
    (True, False, False)
    """
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def alike(names: Iterable[str]) -> list[list[str]]:
    """Group names that differ by spaces, case or the spelling of a number alone.

    >>> alike(["a", "b", "a ", "1", "1.0", " 01"])
    [['a', 'a '], ['1', '1.0', ' 01']]
    """
    groups: dict[str | Decimal, list[str]] = {}
    for name in names:
        plain: str | Decimal = " ".join(name.casefold().split())
        # not as float64, which takes long numbers for one another
        with contextlib.suppress(InvalidOperation):
            number = Decimal(plain)
            plain = number if number.is_finite() else str(number)
        groups.setdefault(plain, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _refuse_mixed(raw: npt.NDArray[Any], called: str) -> None:
    """Labels 1, "1" and True, which are read alike, can't be sorted or are taken for one another."""
    if raw.dtype.kind != "O":
        return
    kinds: dict[str, Any] = {}
    for value in raw.tolist():
        kind = type(value)
        word = (
            "text" if issubclass(kind, str)
            else "bytes" if issubclass(kind, bytes)
            else "truth values" if issubclass(kind, bool | np.bool_)
            else "numbers" if issubclass(kind, int | float | np.number)
            else kind.__name__
        )  # fmt: skip
        kinds.setdefault(word, value)
    if len(kinds) > 1:
        shown = " and ".join(f"{word} ({value!r})" for word, value in kinds.items())
        raise DataError(f"{called} mixes {shown} among its labels; make all of them text, or all numbers")


def _numbers(raw: npt.NDArray[Any], name: str | None, called: str, asked: str | None) -> Target:
    values = raw.astype(np.float64)
    power = power_of(values)
    if len(values) < 2 * LEAST_ROWS:
        raise DataError(
            f"there are {len(values)} rows, but three parts and a training need {2 * LEAST_ROWS} or more"
        )
    spread = float(np.ldexp(np.ldexp(values, -power).std(), power))
    if (values == values[0]).all():
        raise DataError(f"{called} is {_label(values[0])} in every row; there is nothing to predict")
    notes = []
    if asked is None and raw.dtype.kind in "iu":
        notes.append(
            f"{called} has {len(np.unique(raw))} different whole numbers, so this is a regression; "
            f"if they are classes, say {option('task', 'classification')}"
        )
    return Target(task=Task(kind="regression", target=name, spread=spread), values=values, notes=notes)


def _label(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float | np.floating) and float(value).is_integer() and abs(float(value)) < 1e15:
        return f"{float(value):.0f}"
    # as many digits as tell it from its neighbours
    return str(value)
