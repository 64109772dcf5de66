"""Links in a run directory that lead out of it: which are followed when a run goes on, and which are refused.

A directory from elsewhere may hold links to anything of this person's. Going on with a run writes files and
removes old checkpoints, so that nothing of that may happen through such a link, unless what it leads to is
known to belong to this very run: its owner may have moved the checkpoints to a larger disk.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from thalweg.errors import RunDirectoryError
from thalweg.run.directory.writing import reason, write_whole

__all__ = ["FOLDERS", "RUN_ID", "note_owner", "refuse_links"]

RUN_ID = "run_id"
"""The file in each folder of a run that says whose it is; the same stands in ``config.toml``."""

FOLDERS = ("checkpoints", "controls", "members", "stages")
"""Folders of a run directory in which a run writes."""

_FILES = re.compile(
    r"\.lock|config\.toml|environment\.json|events\.jsonl|results\.json|model\.json|recipe\.toml|README\.md"
    r"|table\.csv|winner\.(toml|py)|.*\.safetensors"
)


def note_owner(folder: Path, run_id: str | None) -> None:
    """Write down whose a folder is, unless it says so already.

    Raises:
        OSError: it can't be written.
    """
    if run_id is not None and not (folder / RUN_ID).exists():
        write_whole(folder / RUN_ID, run_id.encode())


def refuse_links(path: Path, run_id: str | None) -> None:
    """Refuse links through which going on with a run would write or remove what isn't its own.

    A link from one of :data:`FOLDERS` to a folder outside is followed where that folder is empty or holds
    this run's ``run_id``. Links from names that a run never writes are left alone; whether ``report.html``
    may be written through is decided when it is.

    Args:
        path: of the run directory.
        run_id: of the run; ``None`` where it began before there were any.

    Raises:
        RunDirectoryError: naming the link, where it leads and the remedy.
    """
    inside = os.path.realpath(path)
    for link in _leading_out(path, inside):
        if _FILES.fullmatch(link.name):
            raise RunDirectoryError(
                f"{link} is a link to {os.path.realpath(link)}, outside of the run directory, which would be "
                "written; put a copy in its place"
            )
        if link.name in FOLDERS:
            _refuse_of_others(link, run_id)
    for name in FOLDERS:
        folder = path / name
        if not folder.is_dir():
            continue
        for link in _leading_out(folder, os.path.realpath(folder)):
            # links to files are replaced or removed, not followed
            if not link.is_file():
                raise RunDirectoryError(
                    f"{link} is a link to {os.path.realpath(link)}, outside of the run directory, in which "
                    f"would be written; put a copy in its place, or let {name} itself be the link"
                )


def _leading_out(folder: Path, inside: str) -> Iterator[Path]:
    """Links of a folder that don't lead to something within; to nothing counts, since that could be made."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as problem:
        raise RunDirectoryError(f"{folder} can't be read ({reason(problem)})") from problem
    for name in names:
        link = folder / name
        if link.is_symlink() and not Path(os.path.realpath(link)).is_relative_to(inside):
            yield link


def _refuse_of_others(link: Path, run_id: str | None) -> None:
    target = Path(os.path.realpath(link))
    if not target.is_dir():
        raise RunDirectoryError(f"{link} is a link to {target}, which is no folder; let it lead to one")
    said = None
    with contextlib.suppress(OSError, ValueError):
        if (target / RUN_ID).is_file() and not (target / RUN_ID).is_symlink():
            said = (target / RUN_ID).read_text(encoding="utf-8")[:100]
    if run_id is not None and said == run_id:
        return
    if any(target.iterdir()):
        raise RunDirectoryError(
            f"{link} is a link to {target}, outside of the run directory, which holds no {RUN_ID} of this "
            "run, so that it may be another's; let it lead to the folder that was moved from here, or to an "
            "empty one"
        )
