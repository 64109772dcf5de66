"""Strategies by name, as recipes have them."""

from __future__ import annotations

from collections.abc import Mapping

from thalweg.augmentation.ranges import AugmentationSettings
from thalweg.errors import OptionError, nearest
from thalweg.strategies.augmentation import Augmentation
from thalweg.strategies.averaging import Averaging, AveragingSettings
from thalweg.strategies.base import Settings, Strategy
from thalweg.strategies.batch import BatchSize, BatchSizeSettings
from thalweg.strategies.clipping import Clipping, ClippingSettings
from thalweg.strategies.guard import Guard, GuardSettings
from thalweg.strategies.initialization import Initialization, InitializationSettings
from thalweg.strategies.plateau import Plateau, PlateauSettings
from thalweg.strategies.snapshots import Snapshots, SnapshotsSettings
from thalweg.strategies.stopping import EarlyStopping, EarlyStoppingSettings

__all__ = ["STRATEGIES", "build", "names"]

STRATEGIES: Mapping[str, tuple[type[Strategy], type[Settings]]] = {
    "initialization": (Initialization, InitializationSettings),
    "augmentation": (Augmentation, AugmentationSettings),
    "guard": (Guard, GuardSettings),
    "clipping": (Clipping, ClippingSettings),
    "averaging": (Averaging, AveragingSettings),
    "snapshots": (Snapshots, SnapshotsSettings),
    "plateau": (Plateau, PlateauSettings),
    "batch-size": (BatchSize, BatchSizeSettings),
    "early-stopping": (EarlyStopping, EarlyStoppingSettings),
}
"""Class and settings of each, in the order in which they are called."""


def names() -> tuple[str, ...]:
    """Return the names of all strategies, in the order in which they are called.

    >>> names()[:3]
    ('initialization', 'augmentation', 'guard')
    """
    return tuple(STRATEGIES)


def build(name: str, settings: Settings | None = None) -> Strategy:
    """Make a strategy from its name and its settings.

    Raises:
        OptionError: an unknown name, or settings that don't go together.

    >>> build("clipping", ClippingSettings(norm=1.0)).settings
    ClippingSettings(value=None, unit=None, norm=1.0)
    >>> build("cliping")
    Traceback (most recent call last):
    thalweg.errors.OptionError: there is no strategy 'cliping'; did you mean 'clipping'?
    """
    if name not in STRATEGIES:
        raise OptionError(f"there is no strategy {name!r}; {nearest(name, STRATEGIES)}")
    made: Strategy = STRATEGIES[name][0](**({} if settings is None else settings.model_dump()))
    return made
