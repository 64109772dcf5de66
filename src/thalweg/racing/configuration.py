"""``config.toml``: what a race was asked for, and what a resume may be asked for.

Nothing heavy is imported, so that the command refuses what it can before it starts other processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from thalweg.errors import OptionError, option
from thalweg.racing.options import Options
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.kinds import refuse_existing
from thalweg.settings import trust
from thalweg.settings.declared import checked, declared

__all__ = ["merged", "names", "refuse_early", "resumed", "wants_workers", "written"]

_OBJECTS = "objects"
_STORED = [name for name, (_, told) in declared(Options).items() if told.stored]


def refuse_early(options: Options) -> None:
    """Refuse what shows before anything is imported, read or started.

    Raises:
        UserError: a number or word can't be, there are no data, or no race can begin or go on in ``out``.
    """
    if options.resume:
        with trust.own_code(accepted=options.trust_code, what="race"), resumed(options) as (_, merged_):
            checked(merged_)
        return
    checked(options)
    if options.data is None:
        raise OptionError(f"{option('data')} is missing; name a table, a folder or a built-in such as digits")
    if options.out is not None:
        refuse_existing(Path(options.out))


def wants_workers(options: Options) -> bool:
    """Say whether runs of a race may be carried out in other processes of this machine."""
    return options.device == "cpu" and options.executor is None


@contextmanager
def resumed(options: Options) -> Iterator[tuple[RunDirectory, Options]]:
    """Hold the directory of a race that is resumed; with it come the options that the race was begun with.

    Raises:
        UserError: it can't be resumed, or was begun with other options.
    """
    with RunDirectory.resume(options.out, "race", stated=names(options)) as directory:
        yield directory, merged(directory.config(), options, directory.path)


def written(options: Options) -> dict[str, Any]:
    """Return the options as plain values; Python objects are named under ``objects``, not stored."""
    plain: dict[str, Any] = {}
    objects: list[str] = []
    for name, value in _given(options).items():
        if _can_be_stored(name, value):
            plain[name] = _plain(value)
        else:
            objects.append(name)
    return {
        "kind": "race",
        **({"command": options.command} if options.command else {}),
        **plain,
        **({_OBJECTS: objects} if objects else {}),
    }


def merged(config: Mapping[str, Any], asked: Options, path: Path) -> Options:
    """Return the options a race was begun with; what is asked for now must agree with them.

    Args:
        config: from ``config.toml``.
        asked: what the resume was called with; defaults count as not asked for.
        path: of the run directory.

    Raises:
        OptionError: something asked for differs, or an object has to be given again.
    """
    stored = {name: value for name, value in config.items() if name in _STORED}
    objects = config.get(_OBJECTS, [])
    given = _given(asked)
    for name in objects:
        if name not in given or _can_be_stored(name, given[name]):
            raise OptionError(
                f"the race in {path} was begun with a Python object as {name}; give the same one to resume"
            )
        stored[name] = given[name]
    for name, value in given.items():
        if name in objects:
            continue
        if not _can_be_stored(name, value) or name not in stored or stored[name] != _plain(value):
            now = repr(value) if _can_be_stored(name, value) else f"a Python {type(value).__name__}"
            began = f"{stored[name]!r}" if name in stored else "its default"
            raise OptionError(
                f"{option(name)} is {now}, but the race in {path} was begun with {began}; "
                f"leave it out to resume, or begin another race with another {option('out')}"
            )
    return replace(Options(), **{name: _revived(name, value) for name, value in stored.items()})


def names(options: Options) -> list[str]:
    """Return all that is asked for by name: what a person says themselves."""
    found: list[str] = []
    for value in _given(options).values():
        found += [value] if isinstance(value, str) else []
        found += [each for each in value if isinstance(each, str)] if isinstance(value, list | tuple) else []
    return found


def _given(options: Options) -> dict[str, Any]:
    """The options that differ from their defaults."""
    default = Options()
    given = {name: getattr(options, name) for name in _STORED}
    return {
        name: value
        for name, value in given.items()
        if not (_is_plain(value) and value == getattr(default, name)) and value is not None
    }


def _can_be_stored(name: str, value: Any) -> bool:
    """Data in a list is an object all the same: it belongs into no configuration."""
    return isinstance(value, str | Path) if name in ("data", "model") else _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return isinstance(value, list | tuple) and all(_is_plain(one) for one in value)
    return value is None or isinstance(value, str | int | float | bool | Path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _revived(name: str, value: Any) -> Any:
    """TOML has arrays where Python had tuples."""
    if name == "spaces" and isinstance(value, Mapping):
        return {key: (float(ends[0]), float(ends[1])) for key, ends in value.items()}
    return value
