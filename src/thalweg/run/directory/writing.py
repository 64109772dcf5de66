"""Files that are written whole or not at all, and states with a checksum."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import tomli_w

from thalweg.errors import RunDirectoryError

__all__ = [
    "as_json",
    "as_toml",
    "behind",
    "checksum",
    "drop_state",
    "load_state",
    "load_states",
    "plain",
    "reason",
    "save_state",
    "standard_output",
    "sync_folder",
    "writable",
    "write_whole",
]

_KEPT = 2


def write_whole(path: Path, content: bytes | Callable[[IO[bytes]], str]) -> Path:
    """Write a file whole or not at all: beside its place, synced, then renamed into it.

    A link is followed: what it leads to is written, and it stays a link. An existing file keeps its
    permissions. What is no file isn't replaced: into a FIFO that somebody reads, a terminal, standard output
    or another character device content is written; a folder, a socket, a disk, and a FIFO that nobody reads,
    are refused.

    Args:
        path: where; its folder must exist.
        content: bytes, or a function that writes to a file and returns the name to give it.

    Returns:
        The path that was written.

    Raises:
        BrokenPipeError: whoever read the FIFO or the output has seen enough.
        OSError: it can't be written; what was there before is unharmed.
    """
    target, mode = path, None
    if isinstance(content, bytes):
        mode = writable(path)
        if mode is not None and not stat.S_ISREG(mode):
            _write_into(path, mode, content)
            return path
        if mode is not None and (shown := standard_output(path)) is not None:
            _write_all(shown, content)
            return path
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
    draft = target.parent / f".{_short(target.name)}.{os.getpid()}.draft"
    try:
        with _new(draft) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                target = path.with_name(content(file))
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException:
        # where the folder is gone or read-only, so is the draft, and the first problem is the one to tell
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    sync_folder(target.parent)
    return target if callable(content) else path


def writable(path: Path) -> int | None:
    """Find out early whether a path can be written; nothing is.

    Returns:
        The mode of what is there, links followed; ``None`` where nothing is.

    Raises:
        OSError: it can't, with a reason that completes "it can't be written:".
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        # a link to a place that isn't there is written there
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, f"No such file or directory: {folder}") from None
        return None
    except ValueError:
        raise OSError(errno.EINVAL, "its name holds a NUL character") from None
    kinds = {stat.S_IFDIR: "it is a folder", stat.S_IFSOCK: "it is a socket", stat.S_IFBLK: "it is a disk"}
    what = kinds.get(stat.S_IFMT(mode))
    if what is not None:
        raise OSError(errno.EINVAL, what)
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it is read-only")
    return mode


def _write_into(path: Path, mode: int, content: bytes) -> None:
    """Write to what is no file, as far as it takes it."""
    shown = standard_output(path)
    if shown is not None:
        _write_all(shown, content)
        return
    try:
        # without waiting for somebody to read it, and without making a terminal ours
        descriptor = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    except OSError as problem:
        if stat.S_ISFIFO(mode) and problem.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "it is a FIFO that nobody reads") from problem
        raise
    try:
        os.set_blocking(descriptor, True)
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def standard_output(path: Path) -> int | None:
    """The descriptor of standard output or error where a path, such as /dev/stdout, is the same as that."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        with contextlib.suppress(OSError, ValueError):
            if os.path.samestat(os.stat(path), os.fstat(number)):
                if stream is not None:
                    stream.flush()
                return number
    return None


def _short(name: str) -> str:
    """A name that has room for more in a file's name."""
    encoded = os.fsencode(name)
    return name if len(encoded) <= 200 else hashlib.blake2b(encoded, digest_size=12).hexdigest()


def _new(draft: Path) -> IO[bytes]:
    """Open a file that wasn't there: in a folder of everybody's a name may lead elsewhere."""
    # of a process of the same number that was killed
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(draft, flags, 0o666), "wb")


def save_state(path: Path, state: Any, *, keep: int = _KEPT) -> Path:
    """Save a state with ``torch.save`` as ``path.COUNT.CHECKSUM.pt``; the newest are kept.

    The checksum (BLAKE2, 16 hex digits) is part of the name, so that file and checksum appear at once.

    Args:
        path: without ending; its folder is made, those above it aren't.
        state: what ``torch.load(weights_only=True)`` reads: tensors, numbers, strings, lists, dictionaries.
        keep: how many, at least 1.

    Raises:
        OSError: it can't be written; what was there before is unharmed.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for step in (1, 2, 3):
    ...     _ = save_state(folder / "model", {"step": step})
    >>> load_state(folder / "model"), len(list(folder.iterdir()))
    ({'step': 3}, 2)
    """
    import torch

    # not the folders above it: a run directory that is gone isn't made again by its checkpoints
    path.parent.mkdir(exist_ok=True)
    before = _generations(path)
    count = before[0][0] + 1 if before else 1

    def write(file: IO[bytes]) -> str:
        digest = _Digesting(file)
        try:
            torch.save(state, digest)  # type: ignore[arg-type]
        except RuntimeError as problem:
            raise behind(problem) from None
        return f"{path.name}.{count:06d}.{digest.hexdigest()}.pt"

    written = write_whole(path, write)
    for _, old in before[keep - 1 :]:
        old.unlink(missing_ok=True)
    return written


def behind(problem: RuntimeError) -> Exception:
    """Return why a file couldn't be written, where that is behind what torch says of it.

    After a write that failed ``torch.save`` closes its archive, and complains where that ends.
    """
    found: BaseException | None = problem
    while found is not None and not isinstance(found, OSError):
        found = found.__context__
    return found or problem


def load_state(
    path: Path,
    passed_over: Callable[[Path], None] | None = None,
    sound: Callable[[Any], bool] = lambda state: True,
) -> Any | None:
    """Return the newest sound state under ``path``, or ``None`` if none was saved.

    Args:
        path: as given to :func:`save_state`.
        passed_over: told of each damaged file.
        sound: whether what a state refers to is there and undamaged.

    Raises:
        RunDirectoryError: there are files, and all are damaged.
    """
    return next(load_states(path, passed_over, sound), None)


def load_states(
    path: Path,
    passed_over: Callable[[Path], None] | None = None,
    sound: Callable[[Any], bool] = lambda state: True,
) -> Iterator[Any]:
    """Go through the sound states under ``path``, newest first, as :func:`load_state` does for one."""
    found = _generations(path)
    whole = 0
    for _, file in found:
        state = _read(file)
        if state is not None and sound(state[0]):
            whole += 1
            yield state[0]
        elif passed_over is not None:
            passed_over(file)
    if found and not whole:
        raise RunDirectoryError(
            f"the checkpoint {found[0][1]} is damaged, and so is any before it; delete {path.name}.*.pt "
            "there to start again"
        )


def drop_state(path: Path) -> None:
    """Remove every state that :func:`save_state` wrote under ``path``."""
    for _, file in _generations(path):
        file.unlink(missing_ok=True)


def reason(problem: Exception) -> str:
    """Return why something couldn't be read or written, as a part of a sentence.

    >>> reason(OSError(28, "No space left on device"))
    'no space left on device'
    """
    text = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    return text[:1].lower() + text[1:]


def plain(value: Any) -> Any:
    """Turn a value into what JSON can hold; NaN and infinity become ``None``, arrays become lists.

    >>> plain({"a": (1, float("inf")), "b": Path("x")})
    {'a': [1, None], 'b': 'x'}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} can't be written to a run directory")


def as_json(value: Any) -> bytes:
    """JSON for a file: indented, NaN and infinity as null."""
    return json.dumps(plain(value), indent=1, allow_nan=False, ensure_ascii=False).encode() + b"\n"


def as_toml(value: Mapping[str, Any]) -> bytes:
    """TOML for a file: ``None`` is left out."""
    return tomli_w.dumps(_without_none(plain(value))).encode()


def sync_folder(path: Path) -> None:
    """Make what was renamed into a folder survive a loss of power, where the folder can be asked for that."""
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as problem:
        # a folder that may be written but not read; a file system that syncs no folders
        if problem.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP):
            raise


class _Digesting:
    """A file to write to that also computes the checksum of what passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.blake2b(digest_size=8)

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def checksum(path: Path) -> str | None:
    """Return the BLAKE2 of a file, 16 hex digits, or ``None`` where it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
    except OSError:
        return None


def _read(file: Path) -> tuple[Any] | None:
    """What a file holds, unless it is damaged or isn't what was written."""
    import torch

    if checksum(file) != file.name.split(".")[-2]:
        return None
    try:
        return (torch.load(file, map_location="cpu", weights_only=True),)
    except Exception:
        # a stranger's file with a checksum of its own: what it wants to run isn't, and it may raise anything
        return None


def _generations(path: Path) -> list[tuple[int, Path]]:
    """Count and file of each state under a name, newest first."""
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)\.[0-9a-f]{16}\.pt")
    if not path.parent.is_dir():
        return []
    matches = ((pattern.fullmatch(file.name), file) for file in path.parent.iterdir())
    return sorted(((int(match[1]), file) for match, file in matches if match), reverse=True)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value if item is not None]
    return value
