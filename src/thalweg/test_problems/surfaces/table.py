"""Surfaces by name."""

from __future__ import annotations

import inspect
from typing import Any, get_args

from thalweg.errors import OptionError, nearest

# imported for the factories that they enter
from thalweg.test_problems.surfaces import mgh_fits, mgh_large, mgh_points, mgh_small, plane, quadratic  # noqa: F401
from thalweg.test_problems.surfaces.base import FACTORIES, Family, Surface

__all__ = ["get", "names"]


def names(family: str | None = None) -> tuple[str, ...]:
    """Return the names of all surfaces, or of one family: pictures first, then the collection by its numbers.

    Args:
        family: ``plane``, ``valley``, ``quadratic`` or ``more-garbow-hillstrom``.

    Raises:
        OptionError: an unknown family.

    >>> len(names("more-garbow-hillstrom")), names("plane")[:3]
    (35, ('booth', 'cliff', 'himmelblau'))
    """
    families = get_args(Family)
    if family is not None and family not in families:
        raise OptionError(f"there is no family {family!r} of surfaces; {nearest(family, families)}")
    all_ = sorted((get(name) for name in FACTORIES), key=_place)
    return tuple(one.name for one in all_ if family in (None, one.family))


def _place(surface: Surface) -> tuple[int, int, str]:
    return get_args(Family).index(surface.family), surface.number or 0, surface.name


def get(name: str, **options: Any) -> Surface:
    """Build a surface.

    Args:
        name: one of :func:`names`.
        options: what the surface can be built with, such as ``n`` (dimensions), ``m`` (residuals), or
            ``condition`` and ``seed`` of a quadratic.

    Raises:
        OptionError: an unknown name or option, or a value out of its range.

    >>> get("extended-rosenbrock", n=100).n
    100
    >>> get("rosenbrok")
    Traceback (most recent call last):
    thalweg.errors.OptionError: there is no surface 'rosenbrok'; did you mean 'rosenbrock' ...
    """
    if name not in FACTORIES:
        raise OptionError(f"there is no surface {name!r}; {nearest(name, FACTORIES)}")
    known = inspect.signature(FACTORIES[name]).parameters
    for option in options:
        if option not in known:
            what = nearest(option, known) if known else "it has none"
            raise OptionError(f"the surface {name!r} has no option {option!r}; {what}")
    return FACTORIES[name](**options)
