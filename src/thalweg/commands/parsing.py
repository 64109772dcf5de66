"""Words of the command line to plain values: comma lists, ranges and types of columns."""

from __future__ import annotations

from collections.abc import Sequence

from thalweg.errors import OptionError, nearest
from thalweg.settings.choices import ColumnType, words_of

__all__ = ["column_types", "names", "spaces"]

_TYPES = words_of(ColumnType)


def names(text: str | None) -> list[str] | None:
    """Split a comma list; ``None``, for an option that wasn't given, stays ``None``.

    >>> names("sgd, adam")
    ['sgd', 'adam']
    """
    return None if text is None else [name for part in text.split(",") if (name := part.strip())]


def spaces(texts: Sequence[str]) -> dict[str, tuple[float, float]] | None:
    """Read ``NAME.HYPER=LOW:HIGH``; ``None`` where there are none.

    Raises:
        OptionError: one isn't written so.

    >>> spaces(["adam.lr=1e-4:1e-1"])
    {'adam.lr': (0.0001, 0.1)}
    >>> spaces(["mine.py:rule.lr=0.1:1"])
    {'mine.py:rule.lr': (0.1, 1.0)}
    """
    found: dict[str, tuple[float, float]] = {}
    for text in texts:
        key, _, limits = text.rpartition("=")
        optimizer, _, hyperparameter = key.rpartition(".")
        low, _, high = limits.partition(":")
        try:
            found[key] = (float(low), float(high))
        except ValueError:
            optimizer = ""
        if not optimizer or not hyperparameter:
            raise OptionError(
                f"--space {text!r} can't be read; write NAME.HYPER=LOW:HIGH, for example adam.lr=1e-4:1e-1"
            )
    return found or None


def column_types(texts: Sequence[str]) -> dict[str, str] | None:
    """Read ``COLUMN=category``, ``COLUMN=number`` or ``COLUMN=ignore``; ``None`` where there are none.

    A column without a name is ``=ignore``.

    Raises:
        OptionError: one isn't written so.

    >>> column_types(["zip=category"])
    {'zip': 'category'}
    """
    found: dict[str, str] = {}
    for text in texts:
        column, sign, kind = text.rpartition("=")
        if not sign:
            raise OptionError(
                f"--type {text!r} can't be read; write COLUMN=category, COLUMN=number or COLUMN=ignore, such "
                "as zip=category"
            )
        if kind not in _TYPES:
            raise OptionError(f"--type {text!r} names the unknown type {kind!r}; {nearest(kind, _TYPES)}")
        if column in found and found[column] != kind:
            raise OptionError(
                f"--type says that column {column!r} is a {found[column]} and that it is a {kind}; say one"
            )
        found[column] = kind
    return found or None
