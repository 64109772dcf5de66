"""Why a training failed that found no finite loss or metric: what in the data is to blame."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from thalweg.data.finite import largest, not_finite
from thalweg.data.source import Prepared
from thalweg.errors import DataError
from thalweg.objectives import Metric
from thalweg.training.loader import in_blocks

__all__ = ["refuse_undefined", "refuse_what_is_not_finite", "refuse_what_none_can_learn", "too_large"]

_BLOCK = 1024

Pairs = Callable[[], Iterable[tuple[Any, Any]]]


def refuse_what_is_not_finite(training: Pairs, validation: Pairs | None) -> None:
    """Say which value of the data isn't finite, if there is one.

    Args:
        training, validation: begin the batches of a split anew.

    Raises:
        DataError: split, row, column and value of the first one.
    """
    for split, batches in (("training", training), ("validation", validation)):
        if batches is not None and (bad := not_finite(batches(), split)) is not None:
            raise DataError(f"{bad}, so that the loss isn't finite; leave such rows out, or fill them in")


def refuse_what_none_can_learn(prepared: Prepared) -> None:
    """Say which value of a split's data isn't finite, if there is one; rows are those of the whole data.

    Raises:
        DataError: part, row, column and value of the first one.
    """
    for split, name in (("training", "train"), ("validation", "validation")):
        rows = prepared.indices.get(name)
        batches = in_blocks(getattr(prepared, name), _BLOCK)
        if (bad := not_finite(batches, split, rows)) is not None:
            raise DataError(f"{bad}, so that every run diverges; leave such rows out, or fill them in")


def too_large(training: Pairs, validation: Pairs | None) -> str:
    """Return what to add to a sentence about a loss that isn't finite, where inputs are very large."""
    for split, batches in (("training", training), ("validation", validation)):
        if batches is not None and (large := largest(batches(), split)) is not None:
            return f" ({large}: scale them down)"
    return ""


def refuse_undefined(metric: Metric | None) -> None:
    """Refuse a metric by name that was no finite number on finite losses: its data leave it undefined.

    Raises:
        DataError: it is one of those that targets alone can leave undefined.
    """
    reasons = {"auc": "they hold a single class", "r2": "their targets are all alike"}
    if metric is not None and metric.name in reasons:
        raise DataError(
            f"the metric {metric.name!r} isn't defined on the validation data: {reasons[metric.name]}; give "
            "others, or take another metric"
        )
