"""Where in a TOML text each key stands, for error messages."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["Path", "Position", "dotted", "positions"]

Path = tuple[str | int, ...]
Position = tuple[int, int]

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK = re.compile(r"[ \t]*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' r"'''.*?'{3,5}|" r'"(?:[^"\\]|\\.)*"|' r"'[^']*'", re.DOTALL
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")


def positions(text: str) -> dict[Path, Position]:
    """Return line and column, from 1, of every key and array element of a TOML text.

    Args:
        text: valid TOML (``tomllib`` has read it).

    Returns:
        Path of keys and indices to the position where the key (or the element) begins; of a table that is
        opened more than once the first.

    >>> found = positions('[optimizer]\\nname = "adam"\\nlr = [1, 2]')
    >>> found["optimizer",], found["optimizer", "lr"], found["optimizer", "lr", 1]
    ((1, 2), (3, 1), (3, 10))
    """
    return _Scanner(text).scan()


def dotted(loc: Sequence[str | int]) -> str:
    """Return a key as TOML spells it.

    >>> dotted(("stage", 0, "mine.py:f"))
    'stage.0."mine.py:f"'
    """
    return ".".join(
        str(part) if isinstance(part, int) or re.fullmatch(r"[\w-]+", part) else f'"{part}"' for part in loc
    )


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Path, Position] = {}

    def scan(self) -> dict[Path, Position]:
        table: Path = ()
        counts: dict[Path, int] = {}
        while self.skip(_SPACE) < len(self.text):
            if self.text[self.at] != "[":
                self.assignment(table)
                continue
            array = self.text.startswith("[[", self.at)
            self.at += 2 if array else 1
            keys = self.keys()
            self.at = self.text.index("]", self.at) + (2 if array else 1)
            table = ()
            for depth, (key, position) in enumerate(keys, 1):
                table = (*table, key)
                self.found.setdefault(table, position)
                if array and depth == len(keys):
                    counts[table] = counts.get(table, -1) + 1
                if table in counts:
                    table = (*table, counts[table])
                    self.found.setdefault(table, position)
        return self.found

    def skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        return self.at

    def here(self) -> Position:
        begin = self.text.rfind("\n", 0, self.at) + 1
        return self.text.count("\n", 0, self.at) + 1, self.at - begin + 1

    def keys(self) -> list[tuple[str, Position]]:
        """A dotted key, each part with its position."""
        parts = []
        while True:
            self.skip(_BLANK)
            position = self.here()
            begin = self.at
            quoted = self.text[begin] in "\"'"
            self.skip(_STRING if quoted else _BARE_KEY)
            key = self.text[begin : self.at]
            parts.append((_unquoted(key) if quoted else key, position))
            self.skip(_BLANK)
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def assignment(self, table: Path) -> None:
        for key, position in self.keys():
            table = (*table, key)
            self.found.setdefault(table, position)
        self.at = self.text.index("=", self.at) + 1
        self.skip(_BLANK)
        self.value(table)

    def value(self, path: Path) -> None:
        first = self.text[self.at]
        if first in "\"'":
            self.skip(_STRING)
        elif first == "[":
            self.at += 1
            index = 0
            while self.until("]"):
                self.found.setdefault((*path, index), self.here())
                self.value((*path, index))
                index += 1
        elif first == "{":
            self.at += 1
            while self.until("}"):
                self.assignment(path)
        else:
            self.skip(_SCALAR)

    def until(self, closing: str) -> bool:
        """Whether another element follows; goes past commas, and past the end."""
        self.skip(_SPACE)
        if self.text[self.at] == ",":
            self.at += 1
            self.skip(_SPACE)
        if self.text[self.at] == closing:
            self.at += 1
            return False
        return True


def _unquoted(key: str) -> str:
    import tomllib

    return next(iter(tomllib.loads(f"{key} = 0")))
