"""Strategies by name, as recipes have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from thalweg.errors import OptionError, nearest
from thalweg.strategies.augmentation import Augmentation
from thalweg.strategies.averaging import Averaging
from thalweg.strategies.base import Settings, Strategy, settings_of
from thalweg.strategies.batch import BatchSize
from thalweg.strategies.clipping import Clipping
from thalweg.strategies.guard import Guard
from thalweg.strategies.initialization import Initialization
from thalweg.strategies.own import build_own
from thalweg.strategies.plateau import ReduceOnPlateau
from thalweg.strategies.snapshots import Snapshots
from thalweg.strategies.stopping import EarlyStopping

__all__ = ["STRATEGIES", "as_tables", "build", "from_tables", "names"]

_IN_ORDER: tuple[type[Strategy], ...] = (
    Initialization,
    Augmentation,
    Guard,
    Clipping,
    Averaging,
    Snapshots,
    ReduceOnPlateau,
    BatchSize,
    EarlyStopping,
)
STRATEGIES: Mapping[str, tuple[type[Strategy], type[Settings]]] = {
    kind.name: (kind, settings_of(kind)) for kind in _IN_ORDER
}
"""Class and settings of each, in the order in which they are called; recipes have a table for each."""


def names() -> tuple[str, ...]:
    """Return the names of all strategies, in the order in which they are called.

    >>> names()[:3]
    ('initialization', 'augmentation', 'guard')
    """
    return tuple(STRATEGIES)


def build(name: str, settings: Settings | None = None) -> Strategy:
    """Make a strategy from its name, one's own ``file.py:Class`` included, and its settings.

    Raises:
        OptionError: an unknown name, or settings that don't go together.

    >>> build("clipping", Clipping(norm=1.0).settings).settings
    ClippingSettings(value=None, unit=None, norm=1.0)
    >>> build("cliping")
    Traceback (most recent call last):
    thalweg.errors.OptionError: there is no strategy 'cliping'; did you mean 'clipping'?
    """
    if ":" in name:
        return build_own(name, {} if settings is None else settings.model_dump())
    if name not in STRATEGIES:
        raise _unknown(name)
    made: Strategy = STRATEGIES[name][0](**({} if settings is None else settings.model_dump()))
    return made


def from_tables(given: Sequence[Strategy] | Mapping[str, Mapping[str, Any] | bool]) -> list[Strategy]:
    """Return strategies, made where they are given as the tables of a recipe.

    Args:
        given: strategies; or settings by name, where ``True`` stands for the defaults, and ``False`` leaves
            one out.

    Raises:
        OptionError: an unknown name, or settings that don't go together.

    >>> [each.name for each in from_tables({"clipping": {"norm": 1.0}, "averaging": True})]
    ['clipping', 'averaging']
    """
    if not isinstance(given, Mapping):
        return given if isinstance(given, Strategy) else list(given)  # type: ignore[return-value]
    made = []
    for name, settings in given.items():
        if settings is False:
            continue
        values = {} if settings is True else settings
        if not isinstance(values, Mapping):
            raise OptionError(
                f"the settings of the strategy {name!r} are {settings!r}; give them by name, such as "
                f"{{{name!r}: {{}}}}"
            )
        if ":" in name:
            made.append(build_own(name, values))
        elif name in STRATEGIES:
            made.append(STRATEGIES[name][0](**values))
        else:
            raise _unknown(name)
    return made


def as_tables(strategies: Sequence[Strategy]) -> dict[str, dict[str, Any]]:
    """Return the settings of strategies by name, for comparison when a training is resumed.

    Those that only observe are left out, since they may join and leave.

    >>> as_tables([Clipping(norm=1.0)])
    {'clipping': {'norm': 1.0}}
    """
    changing = [each for each in strategies if not each.observes]
    return {each.name: each.settings.model_dump(mode="json", exclude_none=True) for each in changing}


def _unknown(name: str) -> OptionError:
    return OptionError(f"there is no strategy {name!r}; {nearest(name, STRATEGIES)}")
