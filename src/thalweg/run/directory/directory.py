"""One run's directory: made whole, locked, appended to, resumed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from filelock import BaseFileLock, Timeout

from thalweg.errors import OptionError, RunDirectoryError, UserError, option
from thalweg.run.directory.kinds import (
    VERSION,
    kind_at,
    refuse_existing,
    refuse_other_kind,
    refuse_other_settings,
    refuse_other_version,
)
from thalweg.run.directory.links import FOLDERS, RUN_ID, note_owner, refuse_links
from thalweg.run.directory.parts import fill, locked, read_events, remove_empty, umask, unfill
from thalweg.run.directory.writing import (
    as_json,
    load_states,
    plain,
    reason,
    save_state,
    sync_folder,
    write_whole,
)
from thalweg.settings import trust

__all__ = ["RunDirectory"]

_LOOKED_SECONDS = 1.0
_VERSION = "version"


class _Gone(RunDirectoryError):
    """The directory was removed while it was written."""


class RunDirectory:
    """A run's directory, held for writing by one process; made by :meth:`begin`, or its halves.

    Attributes:
        path: of the directory.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with RunDirectory.create(folder / "run", {"seed": 0}) as run:
    ...     run.append({"event": "begun", "loss": float("nan")})
    ...     run.write_json("results.json", {"score": 0.9})
    >>> with RunDirectory.resume(folder / "run") as run:
    ...     run.events(), run.config()
    ([{'event': 'begun', 'loss': None}], {'seed': 0})
    """

    def __init__(self, path: Path, lock: BaseFileLock | None) -> None:
        self.path = path
        self._lock = lock
        self._events: IO[bytes] | None = None
        self._new, self._made = False, list[Path]()
        self._known = _bytes_of(path / "config.toml")
        self._looked = time.monotonic()

    @classmethod
    def create(
        cls, path: str | Path, config: Mapping[str, Any], *, within: RunDirectory | None = None
    ) -> RunDirectory:
        """Make a new run directory, in one rename, with ``config.toml`` and ``environment.json``.

        The configuration gets the version of the format, and the fingerprints of a person's own code that is
        loaded, which counts as trained with from now on.

        Args:
            path: must not exist, or be an empty directory, which stays the same one (it may be a link, or
                where a disk is mounted); folders above it are made.
            config: plain values, to be written as TOML; ``None`` is left out.
            within: the run that this one is a part of. Folders above are its own, and aren't made here: it
                may have been removed meanwhile, and stays so.

        Raises:
            RunDirectoryError: the directory exists, or can't be made, or that of ``within`` is gone.
        """
        path, gate = Path(path), trust.current()
        refuse_existing(path)
        gate.remember()
        config = {_VERSION: VERSION, **({"code": code} if (code := gate.written()) else {}), **config}
        made = [each for each in (path, *path.parents) if not os.path.exists(each)]
        draft: Path | None = None
        stands = path not in made
        try:
            if stands:
                fill(path, config)
            else:
                # one by one, since mkdir(parents=True) calls itself for each
                for folder in reversed([path.parent, *path.parent.parents]) if within is None else ():
                    folder.mkdir(exist_ok=True)
                draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
                draft.chmod(0o777 & ~umask())
                fill(draft, config)
                draft.rename(path)
                sync_folder(path.parent)
            run = cls(path, locked(path))
            run._new, run._made = True, made
            return run
        except OSError as problem:
            if draft is not None:
                shutil.rmtree(draft, ignore_errors=True)
            elif stands:
                unfill(path)
            remove_empty(made)
            if within is not None:
                within.check(at_once=True)
            refuse_existing(path)
            raise RunDirectoryError(
                f"the run directory {path} can't be made ({reason(problem)}); give another {option('out')}"
            ) from problem

    @classmethod
    def resume(
        cls,
        path: str | Path | None,
        kind: str | None = None,
        *,
        stated: Collection[str] | bool | None = None,
    ) -> RunDirectory:
        """Take up a run directory again, dropping what a kill left half-written.

        Args:
            path: of the directory; ``None`` is refused.
            kind: that it must hold: ``race``, ``train``, ``fit`` or ``sweep``; ``None``: any.
            stated: what of its code the person names too (:class:`thalweg.settings.trust.Gate`); the gate
                that is entered carries on with the rest from here. ``None``: its code is nobody's concern.

        Raises:
            RunDirectoryError: it is missing, isn't a run directory, is damaged, can't be written, another
                process is writing it, it holds another kind of run, or is in another version of the format;
                nothing in it has been changed then.
            OptionError: there is no path.
            TrustError: code that is loaded isn't what the run was begun with.
        """
        if path is None:
            what = "training" if kind in ("train", "fit") else kind
            raise OptionError(
                f"{option('resume')} needs {option('out')}: name the run directory of the {what} to resume"
            )
        path = Path(path)
        if not os.path.exists(path):
            raise RunDirectoryError(
                f"there is no run directory {path} to resume; leave out {option('resume', True)} to begin it"
            )
        missing = [name for name in ("config.toml", "events.jsonl") if not os.path.isfile(path / name)]
        if missing:
            raise RunDirectoryError(
                f"{path} is no run directory: it has no {missing[0]}; give another {option('out')}"
            )
        there = kind_at(path)
        run_id = there.get(RUN_ID)
        refuse_links(path, run_id if isinstance(run_id, str) else None)
        try:
            lock = locked(path)
        except Timeout as problem:
            raise RunDirectoryError(
                f"another process is writing the run directory {path}; wait for it, or end it first"
            ) from problem
        except OSError as problem:
            raise RunDirectoryError(
                f"the run directory {path} can't be written ({reason(problem)})"
            ) from problem
        run = cls(path, lock)
        try:
            config = run.config()
            if kind is not None:
                refuse_other_kind(path, config, kind)
            refuse_other_version(path, config, there.get(_VERSION, 0))
            if stated is not None:
                trust.current().carries_on(path, run.code(), stated=stated)
            _, sound = read_events(path / "events.jsonl")
            if sound < (path / "events.jsonl").stat().st_size:
                with (path / "events.jsonl").open("r+b") as file:
                    file.truncate(sound)
                    os.fsync(file.fileno())
            for name in FOLDERS:
                if (path / name).is_dir():
                    note_owner(path / name, run_id)
            for leftover in [*path.glob(".*.draft"), *path.glob("checkpoints/.*.draft")]:
                leftover.unlink(missing_ok=True)
        except OSError as problem:
            run.close()
            raise RunDirectoryError(
                f"the run directory {path} can't be written ({reason(problem)})"
            ) from problem
        except UserError:
            run.close()
            raise
        return run

    @classmethod
    def begin(
        cls,
        path: str | Path | None,
        config: Mapping[str, Any],
        *,
        resume: bool,
        stated: bool | None = True,
        within: RunDirectory | None = None,
    ) -> RunDirectory:
        """Make a run directory, or resume the one that was begun with the same configuration.

        Args:
            path: as for :meth:`create` and :meth:`resume`; so are ``stated`` and ``within``.
            config: with its ``kind``; what is ``None`` is left out.
            resume: the one that is there.

        Raises:
            UserError: it can't be made, or gone on with, or was begun with another configuration.
        """
        if not resume:
            assert path is not None
            return cls.create(path, config, within=within)
        run = cls.resume(path, config["kind"], stated=stated)
        try:
            before = {name: value for name, value in run.config().items() if name != "code"}
            given = {name: value for name, value in config.items() if value is not None}
            refuse_other_settings(run.path, before, given)
            run.note_code()
        except UserError:
            run.close()
            raise
        return run

    @contextlib.contextmanager
    def withdrawn_unless(self, begun: Callable[[], bool]) -> Iterator[None]:
        """Take back what :meth:`create` made where a run is refused before it has begun."""
        try:
            yield
        except UserError:
            with contextlib.suppress(RunDirectoryError):
                if self._new and not begun():
                    self.discard()
            raise

    @classmethod
    def read(cls, path: str | Path) -> RunDirectory:
        """Open a run directory for reading alone, also while another process writes it.

        Raises:
            RunDirectoryError: it is missing or isn't a run directory.
        """
        path = Path(path)
        if not os.path.isfile(path / "events.jsonl"):
            raise RunDirectoryError(f"{path} is no run directory: it has no events.jsonl; give that of a run")
        return cls(path, None)

    def append(self, event: Mapping[str, Any]) -> None:
        """Write an event down for good: when this returns it survives a kill. NaN and infinity become null.

        Raises:
            RunDirectoryError: it can't be written, as when the disk is full; nothing of it is left then.
        """
        line = json.dumps(plain(event), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        with self._writing("events.jsonl"):
            if self._events is None:
                self._events = (self.path / "events.jsonl").open("ab", buffering=0)
            before = self._events.seek(0, os.SEEK_END)
            try:
                written = self._events.write(line)
                if written != len(line):
                    raise OSError(28, "no space left on device")
                os.fsync(self._events.fileno())
            except OSError:
                self._events.truncate(before)
                raise
            # a file that was removed can be written as long as it is open
            if (self.path / "events.jsonl").stat().st_size < before + len(line):
                raise FileNotFoundError(errno.ENOENT, "it was removed")

    def events(self) -> list[dict[str, Any]]:
        """Return all events so far, in order; a torn last line is left out.

        Raises:
            RunDirectoryError: a line before the last is damaged.
        """
        if self._lock is not None and not self._there():
            raise self._gone()
        return read_events(self.path / "events.jsonl")[0]

    def config(self) -> dict[str, Any]:
        """Return what :meth:`create` wrote into ``config.toml``; code that it names may be a stranger's.

        Raises:
            RunDirectoryError: it can't be read.
        """
        try:
            values = tomllib.loads((self.path / "config.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise RunDirectoryError(
                f"{self.path / 'config.toml'} can't be read ({reason(problem)})"
            ) from problem
        for own in (RUN_ID, _VERSION):
            values.pop(own, None)
        trust.note_specs(self.path, values)
        return values

    def code(self) -> dict[str, dict[str, str]]:
        """Return the fingerprints of the code that the run was begun with, or was allowed to go on with."""
        found = dict(self.config().get("code", {}))
        for event in self.events():
            if event.get("event") == "code":
                found |= event["code"]
        return {
            str(spec): {str(name): str(sha) for name, sha in files.items()}
            for spec, files in found.items()
            if isinstance(files, Mapping)
        }

    def note_code(self) -> None:
        """Remember what code the run goes on with; write it down where that isn't what is known of it."""
        gate, known = trust.current(), self.code()
        gate.remember()
        new = {spec: files for spec, files in gate.written().items() if known.get(spec) != files}
        if new:
            self.append({"event": "code", "code": new})

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file of the directory whole, or leave what was there.

        Raises:
            RunDirectoryError: it can't be written.
        """
        with self._writing(name):
            write_whole(self.path / name, content)

    def write_text(self, name: str, text: str) -> None:
        """Write text as :meth:`write_bytes` does."""
        self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write plain values as JSON, whole; NaN and infinity become null."""
        self.write_bytes(name, as_json(value))

    def save_checkpoint(self, name: str, state: Any, *, keep: int = 2) -> Path:
        """Save a state of tensors, numbers, strings, lists and dictionaries; the newest ``keep`` stay.

        Returns:
            The file.

        Raises:
            RunDirectoryError: it can't be written.
        """
        with self._writing(f"checkpoints/{name}"):
            return save_state(self.path / "checkpoints" / name, state, keep=keep)

    def load_checkpoint(
        self,
        name: str,
        say: Callable[[str], None] = lambda text: None,
        sound: Callable[[Any], bool] = lambda state: True,
    ) -> Any | None:
        """Return the newest sound state under a name, or ``None`` if none was saved.

        A damaged file is passed over, and an event ``"checkpoint damaged"`` names it; ``say`` is told.
        ``sound`` says whether what a state refers to is undamaged.

        Raises:
            RunDirectoryError: there are files under that name, and all are damaged.
        """
        return next(self.load_checkpoints(name, say, sound), None)

    def load_checkpoints(
        self,
        name: str,
        say: Callable[[str], None] = lambda text: None,
        sound: Callable[[Any], bool] = lambda state: True,
    ) -> Iterator[Any]:
        """Go through the sound states under a name, newest first, as :meth:`load_checkpoint` does for one."""

        def passed_over(damaged: Path) -> None:
            say(f"the checkpoint {damaged.name} is damaged; the one before it is used")
            if self._lock is not None:
                self.append({"event": "checkpoint damaged", "file": damaged.name})

        return load_states(self.path / "checkpoints" / name, passed_over, sound)

    def folder(self, name: str) -> Path:
        """Return a folder in the directory that the run writes in, one of ``links.FOLDERS``; it is made.

        Raises:
            RunDirectoryError: it can't be.
        """
        assert name in FOLDERS
        with self._writing(name):
            (self.path / name).mkdir(exist_ok=True)
            note_owner(self.path / name, kind_at(self.path).get(RUN_ID))
        return self.path / name

    def check(self, *, at_once: bool = False) -> None:
        """Make sure that the directory is still there; to be called often, as it looks once a second at most.

        Args:
            at_once: look, however long ago that was done.

        Raises:
            RunDirectoryError: it was removed, moved or unmounted.
        """
        now = time.monotonic()
        if at_once or now - self._looked >= _LOOKED_SECONDS:
            self._looked = now
            if not self._there():
                raise self._gone()

    def watched(self, asked: Callable[[], bool]) -> Callable[[], bool]:
        """Return a function like ``asked``, which is called often, that makes sure of the directory too."""

        def ask() -> bool:
            self.check()
            return asked()

        return ask

    def _there(self) -> bool:
        """Whether this run's directory stands at its path: its configuration does, and it isn't another's."""
        return self._known is not None and _bytes_of(self.path / "config.toml") == self._known

    def _gone(self) -> RunDirectoryError:
        return _Gone(
            f"the run directory {self.path} is gone: it was removed, moved or unmounted while the run was "
            f"under way; restore it and run again with {option('resume', True)}, or start again"
        )

    def discard(self) -> None:
        """Take back what :meth:`create` made, the folders above it included, as if it had never been."""
        there = self._there()
        self.close()
        if not there:
            # what stands in its place is somebody else's
            return
        if self.path in self._made:
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            unfill(self.path)
        remove_empty(self._made)

    def close(self) -> None:
        """Let another process write the directory."""
        if self._events is not None:
            self._events.close()
            self._events = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        writing, there = self._lock is not None, self._there()
        self.close()
        # whatever went wrong for want of the directory, that is what is to be said, once
        lacks = isinstance(value, OSError | RunDirectoryError) and not isinstance(value, _Gone)
        if writing and lacks and not there:
            raise self._gone() from value

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        assert self._lock is not None, "this run directory is open for reading alone"
        if not self._there():
            raise self._gone()
        try:
            yield
        except OSError as problem:
            if not self._there() or isinstance(problem, FileNotFoundError):
                raise self._gone() from problem
            raise RunDirectoryError(
                f"{self.path / name} can't be written ({reason(problem)}); "
                "the earlier version is intact: free some space and run again with "
                f"{option('resume', True)}"
            ) from problem


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
