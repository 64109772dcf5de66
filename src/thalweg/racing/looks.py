"""How often a test split has been looked at: a small ledger in the user's state folder.

Every look at a test split makes the next choice a little less honest. The ledger counts the races
that scored the same data, over all run directories of this user; it holds fingerprints, never data.
"""

from __future__ import annotations

import json
from pathlib import Path

from thalweg.settings.trust import state_folder

__all__ = ["count_and_add", "ledger_path"]


def ledger_path() -> Path | None:
    """Return the ledger's path, in the state folder, if there is one."""
    folder = state_folder()
    return None if folder is None else folder / "test-looks.jsonl"


def count_and_add(fingerprint: str, race: str) -> int:
    """Note that a race looks at the test split of this data and return how many have, this one included.

    A race that is there already isn't noted again. A folder that can't be written costs the memory of
    earlier looks, not the race: the answer is then 1.

    Args:
        fingerprint: of the data.
        race: name that no other race has.
    """
    path = ledger_path()
    if path is None:
        return 1
    line = json.dumps({"data": fingerprint, "race": race}) + "\n"
    same = json.dumps({"data": fingerprint})[:-1] + ","
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", encoding="utf-8", errors="replace") as file:
            file.seek(0)
            lines = file.readlines()
            known = [each for each in lines if each.startswith(same)]
            if line in known:
                return known.index(line) + 1
            torn = bool(lines) and not lines[-1].endswith("\n")
            file.write("\n" + line if torn else line)
    except OSError:
        return 1
    return len(known) + 1
