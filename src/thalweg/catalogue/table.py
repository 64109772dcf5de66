"""The table itself: every optimizer there is, the first-order ones first, in the order of the race."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from thalweg.catalogue.entry import Entry
from thalweg.catalogue.first_order import FIRST_ORDER
from thalweg.catalogue.second_order import SECOND_ORDER
from thalweg.errors import RuleError, nearest

__all__ = ["get", "names"]


def names() -> tuple[str, ...]:
    """Return the names of the catalogue, in the order of the race.

    >>> names()[:6]
    ('sgd', 'momentum', 'nesterov', 'adagrad', 'rmsprop', 'adam')
    """
    return tuple(_TABLE)


def get(name: str) -> Entry:
    """Return the entry of a name.

    Raises:
        RuleError: there is none; the nearest names are shown.

    >>> get("momentum").title
    'SGD with momentum'
    """
    if name not in _TABLE:
        raise RuleError(
            f"there is no optimizer {name!r}; {nearest(name, _TABLE)} "
            f"(your own: 'file.py:name' or 'package.module:name')"
        )
    return _TABLE[name]


_TABLE: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in (*FIRST_ORDER, *SECOND_ORDER)})
