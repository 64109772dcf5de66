"""The claims by name: each is a file of ``collection``."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from dataclasses import replace
from functools import cache

from thalweg.claims import collection
from thalweg.claims.claim import TOPICS, Claim
from thalweg.errors import OptionError

__all__ = ["every_claim", "get", "names"]


@cache
def names() -> tuple[str, ...]:
    """Return the names of all claims, topic by topic, as the gallery has them."""
    return tuple(claim.name for claim in every_claim())


@cache
def every_claim() -> tuple[Claim, ...]:
    """Return all claims, topic by topic."""
    found = [get(name) for name in _files()]
    topics = list(TOPICS)
    return tuple(sorted(found, key=lambda claim: (topics.index(claim.topic), claim.name)))


@cache
def get(name: str) -> Claim:
    """Return a claim.

    Raises:
        OptionError: there is none of that name.
    """
    files = _files()
    if name not in files:
        close = difflib.get_close_matches(name, files, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "thalweg claims list names them"
        raise OptionError(f"there is no claim {name!r}; {hint}")
    module = importlib.import_module(f"{collection.__name__}.{name.replace('-', '_')}")
    claim: Claim = module.CLAIM
    return replace(claim, name=name)


@cache
def _files() -> tuple[str, ...]:
    return tuple(sorted(each.name.replace("_", "-") for each in pkgutil.iter_modules(collection.__path__)))
