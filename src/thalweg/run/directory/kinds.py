"""What a run directory holds, what goes on with it, and where none can be made."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thalweg.errors import RunDirectoryError, call, option

__all__ = ["held", "how_to_go_on", "kind_at", "refuse_existing", "refuse_other_kind"]

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
    return {"race": "a race", "sweep": "a sweep begun by thalweg.sweep in Python"}.get(str(kind))


def how_to_go_on(path: Path, config: Mapping[str, Any]) -> str | None:
    """Spell what resumes a run, as this person can write it; ``None`` where its kind isn't known.

    >>> how_to_go_on(Path("runs/a"), {"kind": "race"})
    "thalweg.race(out='runs/a', resume=True)"
    """
    kind = config.get("kind")
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
    """Refuse to go on with a run of another kind, and say what does.

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
    kinds["sweep"] = "sweep"
    if what is None:
        raise RunDirectoryError(
            f"{path} holds no {kinds[wanted]}, nor another run of this thalweg; give the directory of one"
        )
    raise RunDirectoryError(f"{path} holds {what}, no {kinds[wanted]}; go on with it by: {how}")


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
                    f"{option('out')}, or go on with it by: {how}"
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
