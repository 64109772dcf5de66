"""Files as such: whether they are there, hold anything, are whole, and are what their names say."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from thalweg.errors import DataError, nearest

__all__ = ["check_file", "check_folder", "looks_like", "read_whole"]

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
    if os.path.isdir(path):
        raise DataError(f"{path} is a folder; write images:{path} or idx:{path}, or name a file in it")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except FileNotFoundError:
        raise DataError(f"there is no file {str(path)!r}{_near(path)}") from None
    except OSError as problem:
        raise DataError(
            f"{path} can't be read ({problem.strerror}); check its name and its permissions"
        ) from problem
    if not first:
        raise DataError(f"{path} is empty; there is nothing to learn from")


def check_folder(path: Path, spec: str) -> None:
    """Refuse a folder that isn't there or isn't one.

    Raises:
        DataError: with the nearest names where there is none.
    """
    if os.path.isfile(path):
        raise DataError(f"{str(path)!r} in {spec!r} is a file, but a folder is needed")
    if not os.path.isdir(path):
        raise DataError(f"there is no folder {str(path)!r}{_near(path)}")


def read_whole(path: Path) -> bytes:
    """Read a file, unpacked where its name ends in ``.gz``.

    Raises:
        DataError: the file isn't there, is empty, or isn't whole.
    """
    check_file(path)
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    if not content.startswith(b"\x1f\x8b"):
        raise DataError(f"{path} isn't a gzip file, though its name says so; rename it to {path.stem}")
    try:
        content = gzip.decompress(content)
    except EOFError:
        raise DataError(f"{path} ends too early: the gzip file is truncated; copy it again") from None
    except (OSError, zlib.error) as problem:
        raise DataError(f"{path} is damaged and can't be unpacked ({problem}); copy it again") from problem
    if not content:
        raise DataError(f"{path} is empty once unpacked; there is nothing to learn from")
    return content


def _near(path: Path) -> str:
    if not os.path.isdir(path.parent):
        return f"; there is no folder {str(path.parent)!r} either"
    hint = nearest(path.name, [other.name for other in path.parent.iterdir()])
    return f"; {hint}" if hint.startswith("did you") else f"; looked in {path.parent.absolute()}"
