"""What can go wrong, and the exit code of each.

::

    ThalwegError                 exit 1   something went wrong that nobody could have typed better
    ├── UserError (ValueError)   exit 2   what a user gave can't be used; one sentence says what to change
    │   ├── OptionError                   an option's or argument's value
    │   ├── DataError                     a file, a column, a target, a split
    │   ├── ModelError                    a model that can't be built, or doesn't fit the task
    │   ├── RuleError                     an update rule that can't be traced, an unknown optimizer
    │   ├── RecipeError                   a recipe file, with line and column
    │   ├── RunDirectoryError             a run directory that exists, is missing or can't be written
    │   └── TrustError                    code that a run directory names and that nobody here has run before
    ├── SaidElsewhere            as there another process of the same training has said what is wrong
    ├── Unread                   exit 1   whoever read a result has stopped (in runs/output.py)
    └── Interrupted              exit 130 Ctrl-C or SIGTERM, after everything was saved

Every message names the thing, its value, the rule it breaks and the remedy, in one sentence. A setting is
named by :func:`option`, which spells it as the person can write it: as an argument in Python, as an option of
the command, as a key of a recipe.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar

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
    "TrustError",
    "UserError",
    "call",
    "in_command",
    "nearest",
    "option",
    "shortened",
    "spelled_as_command",
    "spelled_as_recipe",
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


class TrustError(UserError):
    """Code that a run directory names and that isn't known here, or that has changed since a run began."""


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
    names, name = sorted(set(known)), str(name)
    folded = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), list(folded), n=3, cutoff=0.6)
    if not close:
        return "known: " + ", ".join(names) if names else "there are none"
    return "did you mean " + " or ".join(repr(folded[match]) for match in close) + "?"


def shortened(words: Sequence[str], most: int = 8) -> str:
    """Return words for a message, no more of them than anybody reads.

    >>> shortened(["a", "b", "c", "d"], most=2)
    'a, b and 2 more'
    """
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")


# How settings are spelled -------------------------------------------------------------------------------

# what the command calls otherwise than the functions do
_IN_COMMAND = {"changes": "set", "spaces": "space", "types": "type"}
# given anew for each of their values
_REPEATED = ("changes", "spaces", "types")
_IN_RECIPE = {
    "data": "data.spec",
    "target": "data.target",
    "task": "data.task",
    "missing": "data.missing",
    "types": "data.types",
    "model": "model.spec",
    "loss": "objective.loss",
    "metric": "objective.metric",
    "output": "model.output",
    "validation_loss": "objective.validation_loss",
    "batch_size": "training.batch_size",
    "epochs": "training.epochs",
    "seed": "training.seed",
}
_NOTHING = object()
_PLACE = re.compile(r"[A-Z][A-Z.:]*")

# The command is one for the whole process, its threads and what it forks; a recipe is one call's.
_is_command = False
_has_recipe: ContextVar[bool] = ContextVar("_has_recipe", default=False)


@contextlib.contextmanager
def spelled_as_command() -> Iterator[None]:
    """Within it, settings are spelled as options of the command."""
    global _is_command
    before, _is_command = _is_command, True
    try:
        yield
    finally:
        _is_command = before


@contextlib.contextmanager
def spelled_as_recipe() -> Iterator[None]:
    """Within it, settings that a recipe has are spelled as its keys."""
    token = _has_recipe.set(True)
    try:
        yield
    finally:
        _has_recipe.reset(token)


def in_command(name: str) -> str:
    """Return what the command calls an argument of Python's.

    >>> in_command("batch_size"), in_command("spaces")
    ('--batch-size', '--space')
    """
    return f"--{_IN_COMMAND.get(name, name).replace('_', '-')}"


def option(name: str, value: object = _NOTHING) -> str:
    """Spell a setting of ``race``, ``train`` or ``predict`` for a message.

    Args:
        name: of the argument in Python.
        value: shown with it; a word in capitals, such as ``"LOW"``, stands for what the person fills in.

    Returns:
        The spelling that this person can write; values are quoted as that place needs it.

    >>> option("missing", "drop"), option("resume", True), option("types", {"net weight": "ignore"})
    ("missing='drop'", 'resume=True', "types={'net weight': 'ignore'}")
    >>> with spelled_as_command():
    ...     print(option("missing", "drop"), option("types", {"net weight": "ignore"}))
    --missing drop --type 'net weight=ignore'
    >>> with spelled_as_recipe():
    ...     print(option("missing", "drop"), option("types", {"net weight": "ignore"}))
    data.missing = "drop" data.types = {"net weight" = "ignore"}
    """
    if _has_recipe.get() and name in _IN_RECIPE:
        key = _IN_RECIPE[name]
        return key if value is _NOTHING else f"{key} = {_as_toml(value)}"
    if not _is_command:
        return name if value is _NOTHING else f"{name}={_as_python(value)}"
    spelled = in_command(name)
    if value is _NOTHING or value is True:
        return spelled
    if isinstance(value, Mapping):
        words = [f"{key}={_joined(one)}" for key, one in value.items()]
    elif name in _REPEATED and isinstance(value, list | tuple):
        words = [str(one) for one in value]
    else:
        words = [_joined(value)]
    return " ".join(f"{spelled} {shlex.quote(word)}" for word in words)


def call(verb: str, *places: object, **settings: object) -> str:
    """Spell a whole call of ``race``, ``train`` or ``predict`` for a message.

    Args:
        verb: what to call; ``"claims run"`` is a function of a module in Python.
        places: what stands without a name, such as a recipe.
        settings: as for :func:`option`.

    >>> call("train", "winner.toml", out="runs/b")
    "thalweg.train('winner.toml', out='runs/b')"
    >>> with spelled_as_command():
    ...     print(call("race", out="runs/a b", resume=True))
    thalweg race --out 'runs/a b' --resume
    """
    words = [option(name, value) for name, value in settings.items()]
    if _is_command:
        return " ".join(["thalweg", verb, *(shlex.quote(str(place)) for place in places), *words])
    given = [repr(str(place)) for place in places]
    if verb == "train" and not places:
        given = ["None"]
    return f"thalweg.{verb.replace(' ', '.')}({', '.join([*given, *words])})"


def _joined(value: object) -> str:
    """A value as a word of the command: ranges by a colon, lists by commas."""
    if isinstance(value, list | tuple):
        return (":" if isinstance(value, tuple) else ",").join(_joined(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _as_python(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_as_python(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        inside = ", ".join(_as_python(one) for one in value)
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    if isinstance(value, str) and _PLACE.fullmatch(value):
        return value
    if isinstance(value, bool | int | str):
        return repr(value)
    return f"{value:g}" if isinstance(value, float) else repr(str(value))


def _as_toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_as_toml(one)}" for key, one in value.items()) + "}"
    return (
        value if isinstance(value, str) and _PLACE.fullmatch(value) else json.dumps(value, ensure_ascii=False)
    )


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)
