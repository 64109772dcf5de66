"""What can go wrong, and the exit code of each.

::

    ThalwegError                 exit 1   something went wrong that nobody could have typed better
    ├── UserError (ValueError)   exit 2   what a user gave can't be used; one sentence says what to change
    │   ├── OptionError                   an option's or argument's value
    │   ├── DataError                     a file, a column, a target, a split
    │   ├── ModelError                    a model that can't be built, or doesn't fit the task
    │   ├── RuleError                     an update rule that can't be traced, an unknown optimizer
    │   ├── RecipeError                   a recipe file, with line and column
    │   └── RunDirectoryError             a run directory that exists, is missing or can't be written
    ├── SaidElsewhere            as there another process of the same training has said what is wrong
    └── Interrupted              exit 130 Ctrl-C or SIGTERM, after everything was saved

Every message names the thing, its value, the rule it breaks and the remedy, in one sentence.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "DataError",
    "Interrupted",
    "ModelError",
    "OptionError",
    "RecipeError",
    "RuleError",
    "RunDirectoryError",
    "SaidElsewhere",
    "ThalwegError",
    "UserError",
    "nearest",
]


class ThalwegError(Exception):
    """Root of every error raised on purpose; ``exit_code`` is what the command exits with."""

    exit_code = 1


class UserError(ThalwegError, ValueError):
    """What a user gave can't be used; the message says what to change."""

    exit_code = 2


class OptionError(UserError):
    """An option or argument has a value that isn't allowed."""


class DataError(UserError):
    """Data that is missing, unreadable, or doesn't fit the task."""


class ModelError(UserError):
    """A model that can't be built, raises, or doesn't fit the data."""


class RuleError(UserError):
    """An update rule that can't be traced, or an optimizer that isn't known."""


class RecipeError(UserError):
    """A recipe with an unknown key, a wrong value or a contradiction."""


class RunDirectoryError(UserError):
    """A run directory that exists already, isn't one, or can't be written."""


class SaidElsewhere(ThalwegError):
    """Another process of the same training has failed, and said why; the command adds nothing."""

    @classmethod
    def of(cls, code: int) -> SaidElsewhere:
        """Make one that ends with the exit code of the other."""
        made = cls("another process of this training has failed, and said why")
        made.exit_code = code
        return made


class Interrupted(ThalwegError):
    """The work was interrupted after everything needed to resume had been saved."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str:
    """Phrase the valid names closest to ``name``, for the end of an error message.

    Args:
        name: what was given.
        known: the valid names.

    Returns:
        ``"did you mean 'adam' or 'adamw'?"`` where something is near, otherwise
        ``"known: a, b, c"`` with all of them, sorted.

    >>> nearest("adma", ["adam", "adamw", "sgd"])
    "did you mean 'adam' or 'adamw'?"
    >>> nearest("xyz", ["b", "a"])
    'known: a, b'
    """
    names = sorted(set(known))
    folded = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), list(folded), n=3, cutoff=0.6)
    if not close:
        return "known: " + ", ".join(names) if names else "there are none"
    return "did you mean " + " or ".join(repr(folded[match]) for match in close) + "?"
