"""What can happen to a file."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["BOMB", "DAMAGES", "malicious"]

BOMB = "the-bomb-went-off"
"""The file that stands where a malicious file's code was run."""


class _Bomb:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {BOMB}",)


def malicious(*, zipped: bool = False) -> bytes:
    """Return a pickle, or what ``torch.save`` makes of one, that runs a command when it is read."""
    content = pickle.dumps({"model": _Bomb()})
    if not zipped:
        return content
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    place = random.Random(file.name).randrange(len(content))
    content[place] ^= 1 << random.Random(place).randrange(8)
    file.write_bytes(content)


def _swap_in(file: Path, content: bytes) -> None:
    """Put content in its place under a name whose checksum is right."""
    stem, count, _, ending = file.name.rsplit(".", 3)
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    file.unlink()
    file.with_name(f"{stem}.{count}.{digest}.{ending}").write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "with a flipped bit": _flip,
    "cut in two": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "without its last byte": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "emptied": lambda file: file.write_bytes(b""),
    "overwritten with zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "replaced by garbage": lambda file: file.write_bytes(random.Random(0).randbytes(5000)),
    "deleted": lambda file: file.unlink(),
    "replaced by a pickle that runs a command": lambda file: file.write_bytes(malicious()),
    "replaced by such a pickle with a checksum that fits": lambda file: _swap_in(file, malicious()),
    "replaced by such an archive with a checksum that fits": lambda file: _swap_in(
        file, malicious(zipped=True)
    ),
}
"""What is done to a checkpoint, by what it is then."""
