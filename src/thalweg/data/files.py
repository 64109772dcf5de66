"""Files as such: whether they are there, hold anything, are whole, and are what their names say."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import zlib
from pathlib import Path

from thalweg.data.held import read_into, room_for
from thalweg.errors import DataError, nearest
from thalweg.settings.free_memory import free_bytes

__all__ = ["check_file", "check_folder", "kind_of", "looks_like", "read_whole"]

_SIGNS = (
    (b"\x1f\x8b", "a gzip file"),
    (b"PAR1", "a Parquet file"),
    (b"PK\x03\x04", "a ZIP archive (as .npz and .xlsx are)"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF", "a PDF document"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"SQLite format 3", "an SQLite database"),
)


def looks_like(content: bytes) -> str | None:
    """Name the format that the first bytes of a file belong to, or ``None`` for text and what isn't known.

    >>> looks_like(b"PAR1..."), looks_like(b"a,b")
    ('a Parquet file', None)
    """
    return next((name for sign, name in _SIGNS if content.startswith(sign)), None)


def check_file(path: Path) -> None:
    """Refuse a file that isn't there, isn't a file, can't be read or is empty.

    Raises:
        DataError: with the nearest names where there is none.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise DataError(f"{path} is a folder; write images:{path} or idx:{path}, or name a file in it")
        if not stat.S_ISREG(mode):
            # opening one may wait for ever, or take something from whoever reads it
            raise DataError(
                f"{path} is {kind_of(mode)}, not a file; write what it gives to a file, and name that"
            )
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError:
        raise DataError(f"there is no file {str(path)!r}{_near(path)}") from None
    except OSError as problem:
        raise DataError(f"{path} can't be read ({problem.strerror}); {_remedy(problem)}") from problem
    if not first:
        raise DataError(f"{path} is empty; there is nothing to learn from")


def check_folder(path: Path, spec: str) -> None:
    """Refuse a folder that isn't there or isn't one.

    Raises:
        DataError: with the nearest names where there is none.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISDIR(mode):
            raise DataError(f"{str(path)!r} in {spec!r} is {kind_of(mode)}, but a folder is needed")
        next(path.iterdir(), None)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"there is no folder {str(path)!r}{_near(path)}") from None
    except OSError as problem:
        raise DataError(
            f"the folder {path} can't be read ({problem.strerror}); {_remedy(problem)}"
        ) from problem


def kind_of(mode: int) -> str:
    """Name the kind of thing that ``st_mode`` says.

    >>> kind_of(0o010644), kind_of(0o100644)
    ('a FIFO', 'a file')
    """
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")


def read_whole(path: Path) -> bytes:
    """Read a file, unpacked where its name ends in ``.gz``.

    Raises:
        DataError: the file isn't there, is empty, or isn't whole.
    """
    check_file(path)
    if path.suffix != ".gz":
        room_for(path.stat().st_size, str(path))
        return path.read_bytes()
    try:
        with path.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                raise DataError(
                    f"{path} isn't a gzip file, though its name says so; rename it to {path.stem}"
                )
            file.seek(0)
            # a few kilobytes may unpack to more than there is, of which a copy is made
            most = free_bytes() // 3
            with gzip.open(file) as packed:
                unpacked, more = read_into(packed, most)
        if more:
            raise DataError(
                f"{path} unpacks to more than {most:,} bytes, too many for this machine; give less data"
            )
        content = bytes(unpacked)
    except EOFError:
        raise DataError(f"{path} ends too early: the gzip file is truncated; copy it again") from None
    except (OSError, zlib.error) as problem:
        raise DataError(f"{path} is damaged and can't be unpacked ({problem}); copy it again") from problem
    if not content:
        raise DataError(f"{path} is empty once unpacked; there is nothing to learn from")
    return content


def _remedy(problem: OSError) -> str:
    if problem.errno == errno.ELOOP:
        return "the link leads to itself: let it name a file"
    if problem.errno == errno.ENAMETOOLONG:
        return "give a shorter path"
    return "check its name and its permissions"


def _near(path: Path) -> str:
    if not os.path.isdir(path.parent):
        return f"; there is no folder {str(path.parent)!r} either"
    try:
        hint = nearest(path.name, [other.name for other in path.parent.iterdir()])
    except OSError:
        return f"; the folder {path.parent} can't be listed, check its permissions"
    return f"; {hint}" if hint.startswith("did you") else f"; looked in {path.parent.absolute()}"
