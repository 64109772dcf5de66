"""What is remembered from run to run of the code that this person has trained with."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from thalweg.settings.trust.fingerprints import Code

__all__ = ["known_code", "state_folder", "written_down"]


def state_folder() -> Path | None:
    """Return the folder for what is remembered from run to run, which may not exist; ``None``: there is none.

    It is ``$THALWEG_STATE_DIR``, or ``thalweg`` in ``$XDG_STATE_HOME``, by default ``~/.local/state``.
    """
    own_folder = os.environ.get("THALWEG_STATE_DIR")
    if own_folder:
        return Path(own_folder)
    base = os.environ.get("XDG_STATE_HOME")
    try:
        return Path(base or Path.home() / ".local" / "state") / "thalweg"
    except RuntimeError:
        return None


def known_code() -> frozenset[str]:
    """Return digests of the code that this person has trained with, unless others may write the file."""
    folder = state_folder()
    if folder is None:
        return frozenset()
    found = set()
    try:
        with (folder / "code.jsonl").open("rb") as file:
            about = os.fstat(file.fileno())
            if hasattr(os, "geteuid") and (about.st_uid != os.geteuid() or about.st_mode & 0o022):
                return frozenset()
            lines = file.read().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        # a line may be torn
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found.add(json.loads(line)["code"])
    return frozenset(each for each in found if isinstance(each, str))


def written_down(codes: Sequence[Code]) -> bool:
    """Write digests down, and say whether that went; a folder that can't be written costs no run."""
    folder = state_folder()
    if folder is None:
        return False
    lines = [
        json.dumps({"code": code.digest, "spec": code.spec, "files": dict(code.files)}) for code in codes
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(folder / "code.jsonl", flags, 0o600)
        try:
            # begins on a line of its own, whatever a kill left before it
            os.write(descriptor, ("\n" + "\n".join(lines) + "\n").encode())
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True
