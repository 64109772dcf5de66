"""What a run directory holds, what resumes it, and where none can be made."""

from __future__ import annotations

import datetime
import os
import tomllib
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from thalweg.errors import DataError, OptionError, RunDirectoryError, call, option

__all__ = [
    "VERSION",
    "default_place",
    "held",
    "how_to_go_on",
    "kind_at",
    "refuse_existing",
    "refuse_other_kind",
    "refuse_other_settings",
    "refuse_other_version",
]

VERSION = 1
"""Of the format of run directories, whatever their kind. It rises when a resume would no longer understand
what was written before: configuration, events, states. Reports and predictions read older ones."""

_LONGEST = 2**24


def held(config: Mapping[str, Any]) -> str | None:
    """Say what a run directory with this configuration holds, or ``None`` where that isn't known.

    >>> held({"kind": "race"}), held({"kind": "train", "recipe": {"ensemble": {"members": 8}}})
    ('a race', 'an ensemble of 8 members')
    """
    kind, members = config.get("kind"), _members(config)
    if kind == "train":
        return "a training" if members is None else f"an ensemble of {members} members"
    if kind == "fit":
        function = "fit" if members is None else "fit_ensemble"
        return f"a training begun by thalweg.{function} in Python"
    named = {"race": "a race", "sweep": "a sweep begun by thalweg.sweep in Python"}
    named["claims"] = "measurements of claims"
    return {**named, "transfer": "what was measured for a transfer"}.get(str(kind))


def how_to_go_on(path: Path, config: Mapping[str, Any]) -> str | None:
    """Spell what resumes a run, as this person can write it; ``None`` where its kind isn't known.

    >>> how_to_go_on(Path("runs/a"), {"kind": "race"})
    "thalweg.race(out='runs/a', resume=True)"
    """
    kind = config.get("kind")
    if kind == "claims":
        return call("claims run", out=path, resume=True)
    if kind in ("fit", "sweep"):
        name = "sweep" if kind == "sweep" else "fit" if _members(config) is None else "fit_ensemble"
        return f"thalweg.{name}(..., out={str(path)!r}, resume=True)"
    return call(kind, out=path, resume=True) if kind in ("race", "train") else None


def _members(config: Mapping[str, Any]) -> Any:
    if config.get("kind") == "fit":
        return config.get("members")
    recipe = config.get("recipe")
    ensemble = recipe.get("ensemble") if isinstance(recipe, Mapping) else None
    return ensemble.get("members") if isinstance(ensemble, Mapping) else None


def kind_at(path: Path) -> dict[str, Any]:
    """The configuration of a run directory, for its kind alone; empty where none can be read."""
    try:
        if os.path.getsize(path / "config.toml") > _LONGEST:
            return {}
        return tomllib.loads((path / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def refuse_other_kind(path: Path, config: Mapping[str, Any], wanted: str) -> None:
    """Refuse to resume a run of another kind, and say what resumes it.

    Args:
        path: of the run directory.
        config: its configuration.
        wanted: the kind that is asked for: ``race``, ``train``, ``fit`` or ``sweep``.

    Raises:
        RunDirectoryError: it holds another.
    """
    if config.get("kind") == wanted:
        return
    what, how = held(config), how_to_go_on(path, config)
    kinds = {"race": "race", "train": "training of a recipe", "fit": "training begun by fit"}
    kinds |= {"sweep": "sweep", "claims": "measurement of claims"}
    if what is None:
        raise RunDirectoryError(
            f"{path} holds no {kinds[wanted]}, nor another run of this thalweg; give the directory of one"
        )
    rest = f"resume it by: {how}" if how else "give the directory of one"
    raise RunDirectoryError(f"{path} holds {what}, no {kinds[wanted]}; {rest}")


def refuse_other_version(path: Path, config: Mapping[str, Any], version: Any) -> None:
    """Refuse to resume a run directory of another version of the format.

    Args:
        path, config: as for :func:`refuse_other_kind`.
        version: that stands in it; 0 where none does.

    Raises:
        RunDirectoryError: it isn't this thalweg's.
    """
    if version != VERSION:
        raise RunDirectoryError(
            f"{path} holds {held(config) or 'a run'} in version {str(version)[:20]} of the format, and this "
            f"thalweg resumes version {VERSION} alone; finish it with the thalweg that began it, which "
            f"environment.json names, or start again with another {option('out')}"
        )


def refuse_other_settings(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to resume a run that was begun with another configuration.

    Raises:
        DataError: with other data.
        OptionError: something else differs.
    """
    what = {"sweep": "sweep", "claims": "measurement"}.get(now["kind"], "training")
    for name, there, here in _differing(before, now):
        if name == "fingerprint":
            raise DataError(
                f"the data aren't those that the {what} in {path} was begun with; give the same, or start "
                f"again with another {option('out')}"
            )
        raise OptionError(
            f"the {what} in {path} was begun with {name} = {there!r}, not {here!r}; give "
            f"the same, or start again with another {option('out')}"
        )


def _differing(
    before: Mapping[str, Any], now: Mapping[str, Any], within: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Settings that differ, with both values; those of tables and of lists of named tables one by one.

    >>> list(_differing({"stages": [{"name": "a", "epochs": 1}]}, {"stages": [{"name": "a", "epochs": 2}]}))
    [('stages.a.epochs', 1, 2)]
    """
    for name in {**now, **before}:
        there, here = _by_name(before.get(name)), _by_name(now.get(name))
        if there == here:
            continue
        if isinstance(there, Mapping) and isinstance(here, Mapping) and (within or list(there) == list(here)):
            yield from _differing(there, here, f"{within}{name}.")
        else:
            yield f"{within}{name}", _named(there), _named(here)


def _by_name(value: Any) -> Any:
    tables = isinstance(value, list) and all(isinstance(each, Mapping) and "name" in each for each in value)
    return {each["name"]: each for each in value} if tables and value else value


def _named(value: Any) -> Any:
    """Of a list of tables their names; anything else as it is."""
    nested = isinstance(value, Mapping) and value and all(isinstance(v, Mapping) for v in value.values())
    return list(value) if nested else value


def default_place(kind: str, data: str) -> Path:
    """Return where a run goes that was given no place.

    >>> default_place("race", "my data").as_posix().startswith("runs/race-my-data-")
    True
    """
    plain = "".join(c if c.isalnum() else "-" for c in data).strip("-") or "data"
    return Path("runs") / f"{kind}-{plain}-{datetime.datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:4]}"


def refuse_existing(path: Path) -> None:
    """Refuse a path where no new run directory can be: early, before anything takes time.

    Raises:
        RunDirectoryError: it holds something, or it or a folder above it is a file.
    """
    # os.path answers where a path as such is impossible, as one that is too long; Path raises
    if os.path.isdir(path):
        if os.listdir(path):
            config = kind_at(path)
            what, how = held(config), how_to_go_on(path, config)
            if what is not None:
                raise RunDirectoryError(
                    f"the run directory {path} exists already and holds {what}; give another "
                    f"{option('out')}" + (f", or resume it by: {how}" if how else "")
                )
            raise RunDirectoryError(
                f"the directory {path} exists already and holds other things than a run; give another "
                f"{option('out')}"
            )
    elif os.path.lexists(path):
        raise RunDirectoryError(f"the run directory {path} is a file; give another {option('out')}")
    for above in path.parents:
        if os.path.exists(above) and not os.path.isdir(above):
            raise RunDirectoryError(
                f"the run directory {path} can't be made: {above} is a file; give another {option('out')}"
            )
