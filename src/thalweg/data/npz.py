"""NumPy archives."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thalweg.data.arrays import ArraySource, from_arrays
from thalweg.data.files import check_file, looks_like
from thalweg.data.held import BLOCK, mapped, read_into, room_for
from thalweg.errors import DataError, nearest, shortened

__all__ = ["Archive", "read_npz"]

_Array = npt.NDArray[Any]

# Smaller arrays are read: what is mapped from a file changes and vanishes with it.
_MAPPED = 2**26
# Deflate makes of one byte no more than this.
_DEFLATE = 1032


def read_npz(
    path: Path, *, spec: str, target: str | None, task: str | None, missing: str | None
) -> ArraySource:
    """Read a NumPy archive: ``x_train, y_train, x_test, y_test``, or ``x, y``, or its first two arrays.

    Beside the arrays ``NAME``, ``NAME_train`` or ``train_NAME`` of inputs and targets, those called
    ``NAME_test`` or ``test_NAME`` are a fixed test part. Arrays of 64 MB or more that lie in the archive
    uncompressed, as ``np.savez`` writes them, aren't read into memory but mapped: leave such a file as it is
    while it is in use.

    Args:
        path: of the archive.
        spec: as given.
        target: name of the array with the targets.
        task, missing: what the user asked for.

    Raises:
        DataError: it can't be read, or its arrays can't be used.
    """
    archive = Archive(path)
    names = _choose(archive.names, path, target)
    arrays = [archive.read(name) for name in names]
    lines = [f"archive = np.load({spec!r})"]
    listed = [f"archive[{name!r}]" for name in names]
    lines.append(f"x, y = {listed[0]}, {listed[1]}")
    if len(names) == 4:
        lines.append(f"x_fixed, y_fixed = {listed[2]}, {listed[3]}")
    notes = [f"inputs are the array {names[0]!r}, targets {names[1]!r}"]
    if len(names) == 4:
        notes[0] += f"; the test part is {names[2]!r} and {names[3]!r}"
    unused = [name for name in archive.names if name not in names] + archive.others
    if unused:
        notes.append(f"{path.name} holds more, which is left out: {shortened(list(map(repr, unused)))}")
    return from_arrays(
        *arrays, spec=spec, name=path.stem, task=task, missing=missing, reading=tuple(lines),
        notes=tuple(notes),
    )  # fmt: skip


@dataclass(frozen=True)
class _Header:
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: str
    length: int


class Archive:
    """The arrays of a NumPy archive, each read when it is asked for.

    No number in a file is believed: what a header says is compared with what its member holds, and this with
    the size of the file, before memory is taken.

    Args:
        path: of the archive.

    Attributes:
        names: of the arrays, in order.
        others: names of what else the archive holds.

    Raises:
        DataError: it is no NumPy archive.
    """

    def __init__(self, path: Path) -> None:
        check_file(path)
        self._path = path
        self._size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(16)
        if first.startswith(b"\x93NUMPY"):
            raise DataError(
                f"{path} holds one array, though its name says archive; save the arrays with np.savez"
            )
        if not first.startswith(b"PK"):
            looks = looks_like(first)
            raise DataError(
                f"{path} isn't the NumPy archive that its name says"
                + (f" (it looks like {looks})" if looks else "")
                + "; save the arrays with np.savez, or rename it"
            )
        with self._understood(), zipfile.ZipFile(path) as archive:
            self._members = {info.filename: info for info in archive.infolist()}
        self.names = [name[:-4] for name in self._members if name.endswith(".npy")]
        self.others = [name for name in self._members if not name.endswith(".npy")]

    def read(self, name: str) -> _Array:
        """Read an array, or map it where it is large and lies in the file as it is.

        Raises:
            DataError: it is damaged, encrypted, or holds something else than numbers or text.
        """
        info = self._members[f"{name}.npy"]
        what = f"the array {name!r} of {self._path}"
        if info.flag_bits & 1:
            raise DataError(f"{what} is encrypted; save it again with np.savez")
        most = info.compress_size * (_DEFLATE if info.compress_type == zipfile.ZIP_DEFLATED else 1)
        honest = info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or (
            info.file_size <= most + _DEFLATE
        )
        if info.compress_size > self._size or not honest:
            raise DataError(
                f"{what} says that it has {info.file_size} bytes, but the file isn't that large; "
                "save it again with np.savez"
            )
        with self._understood(), zipfile.ZipFile(self._path) as archive, archive.open(info) as member:
            header = self._header(member, what)
            size = math.prod(header.shape) * header.dtype.itemsize
            if size != info.file_size - header.length:
                raise DataError(
                    f"{what} says that its shape is {_shape(header.shape)}, which is {size} bytes, but "
                    f"it has {info.file_size - header.length}; save it again with np.savez"
                )
            if info.compress_type == zipfile.ZIP_STORED and size >= _MAPPED:
                # Read once, since only this compares the checksum.
                while member.read(BLOCK):
                    pass
                begin = self._begin(info) + header.length
                return mapped(self._path, header.dtype, header.shape, begin, order=header.order)
            room_for(size, what)
            content, more = read_into(member, size)
        if len(content) != size or more:
            raise DataError(f"{what} has not the {size} bytes that it says; save it again with np.savez")
        flat: _Array = np.frombuffer(content, header.dtype)
        return flat.reshape(header.shape, order=header.order)  # type: ignore[call-overload,no-any-return]

    def _header(self, member: Any, what: str) -> _Header:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, columns, dtype = np.lib.format.read_array_header_1_0(member)
        elif version == (2, 0):
            shape, columns, dtype = np.lib.format.read_array_header_2_0(member)
        else:
            raise DataError(f"{what} has named fields, or is damaged; save x and y as plain arrays")
        if dtype.hasobject:
            raise DataError(f"{what} holds Python objects, which aren't loaded; save it as numbers or text")
        if dtype.names is not None or dtype.subdtype is not None:
            raise DataError(f"{what} has named fields; save x and y as plain arrays")
        if any(length < 0 for length in shape):
            raise DataError(f"{what} says that its shape is {_shape(shape)}; save it again with np.savez")
        return _Header(dtype, shape, "F" if columns else "C", member.tell())

    def _begin(self, info: zipfile.ZipInfo) -> int:
        """Where a member's content begins: what stands before it may be longer than in the directory."""
        with self._path.open("rb") as file:
            file.seek(info.header_offset)
            fixed = file.read(30)
        name, extra = struct.unpack("<2H", fixed[26:30])
        return info.header_offset + 30 + int(name) + int(extra)

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (DataError, MemoryError):
            raise
        # zipfile, zlib and NumPy have many ways to stumble over damaged content
        except Exception as problem:
            said = " ".join(str(problem).split()) or type(problem).__name__
            raise DataError(
                f"{self._path} can't be read as a NumPy archive ({said[:200]}); save it again with np.savez"
            ) from problem


def _choose(known: Sequence[str], path: Path, target: str | None) -> list[str]:
    """Inputs and targets, and of both those for the test where they are there."""
    lower = {name.lower(): name for name in known}
    parted = {name: _parted(name) for name in known}
    if target is not None:
        if target not in known:
            raise DataError(f"{path} has no array {target!r}; {nearest(target, known)}")
        others = [name for name in known if name != target]
        if not others:
            raise DataError(f"{path} holds the array {target!r} alone, but inputs are needed too")
        part = parted[target][1]
        others = [name for name in others if parted[name][1] == part] or others
        chosen = [next((name for name in others if parted[name][0] == "x"), others[0]), target]
    else:
        training = [name for name in known if parted[name][1] in ("", "train")]
        chosen = (training if len(training) >= 2 else list(known))[:2]
        for wanted in (("x_train", "y_train", "x_test", "y_test"), ("x", "y"), ("x_train", "y_train")):
            if all(name in lower for name in wanted):
                chosen = [lower[name] for name in wanted[:2]]
                break
        if len(chosen) < 2:
            raise DataError(
                f"{path} holds {len(known)} arrays, but inputs and targets are needed: save x and y"
            )
    if all(parted[name][1] != "test" for name in chosen):
        tests = {parted[name][0]: name for name in known if parted[name][1] == "test"}
        chosen += [tests[parted[name][0]] for name in chosen if parted[name][0] in tests]
    return chosen if len(chosen) == 4 else chosen[:2]


def _parted(name: str) -> tuple[str, str]:
    """What a name says beside the part of the data, and that part: both ``x_train`` and ``train_x`` are x."""
    name = name.lower()
    for part in ("train", "test", "validation", "valid", "val"):
        for rest in (name.removeprefix(f"{part}_"), name.removesuffix(f"_{part}")):
            if rest != name:
                return rest, part
    return name, ""


def _shape(shape: Sequence[int]) -> str:
    return str(list(shape[:8])) if len(shape) <= 8 else f"{list(shape[:8])} and more"
