"""Draw the rooms with the imports between them, and the ways of a batch and of a setting: ``make docs``.

The first picture is computed from the code, and the second refuses to name a file that isn't there, so that
neither can drift from it. All coordinates are whole pixels, so the files are the same on every machine.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "thalweg"
FOLDER = ROOT / "docs" / "images"

_INK, _LINE, _BOX, _SOFT, _ACCENT = "#1b1f24", "#7a8793", "#eaf2fa", "#57606a", "#c24e00"
_STYLE = (
    f"text{{font-family:system-ui,sans-serif;fill:{_INK};text-anchor:middle}}"
    f".small{{font-size:11px;fill:{_SOFT}}}"
    f"path{{fill:none;stroke:{_LINE};stroke-width:1.4}}rect{{fill:{_BOX};stroke:{_LINE}}}"
)


def names() -> list[str]:
    """Return the rooms in the order of the table in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(\w+)(?:/|\.py)` \|", text, re.MULTILINE)


def imports() -> dict[str, set[str]]:
    """Return of each room the rooms that its modules import; ``__init__`` files only hand names on."""
    found: dict[str, set[str]] = {name: set() for name in names()}
    for path in sorted(SOURCE.rglob("*.py")):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if path.name == "__init__.py" or room not in found:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "thalweg":
                found[room] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("thalweg."):
                found[room].add(str(node.module).split(".")[1])
            elif isinstance(node, ast.Import):
                dotted = [alias.name.split(".") for alias in node.names]
                found[room] |= {parts[1] for parts in dotted if parts[0] == "thalweg" and len(parts) > 1}
    return {room: (above - {room}) & set(found) for room, above in found.items()}


def direct(above: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Leave out imports that others imply: of ``a -> b -> c`` and ``a -> c`` the last."""
    reached: dict[str, set[str]] = {}
    for room in names():
        reached[room] = set(above[room]).union(*(reached[each] for each in above[room]))
    return {
        room: {each for each in found if not any(each in reached[other] for other in found - {each})}
        for room, found in above.items()
    }


def layers(above: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the layer of each room: under all that it imports, and as near as can be to who imports it."""
    order = names()
    earliest: dict[str, int] = {}
    for room in order:
        earliest[room] = 1 + max((earliest[each] for each in above[room]), default=-1)
    latest = dict(earliest)
    for room in reversed(order):
        users = [latest[each] for each in order if room in above[each]]
        latest[room] = min(users) - 1 if users else earliest[room]
    return latest


_WIDE, _HIGH, _APART, _DOWN, _EDGE = 116, 30, 16, 64, 16


def rooms() -> str:
    """Return the picture of the rooms."""
    above = direct(imports())
    level = layers(above)
    # an import across several layers goes through a point in each, so that it passes between boxes
    rows: list[list[str]] = [[] for _ in range(max(level.values()) + 1)]
    for room in names():
        rows[level[room]].append(room)
    links: list[tuple[str, str]] = []
    for room in names():
        for each in sorted(above[room]):
            last = each
            for layer in range(level[each] + 1, level[room]):
                point = f"{each}>{room}:{layer}"
                rows[layer].append(point)
                links.append((last, point))
                last = point
            links.append((last, room))
    middle = _placed(rows, links)
    width = max(middle[name] + _size(name) // 2 for row in rows for name in row) + _EDGE
    height = (len(rows) - 1) * _DOWN + _HIGH + 2 * _EDGE
    top = {name: _EDGE + number * _DOWN for number, row in enumerate(rows) for name in row}
    parts = []
    for one, other in links:
        x, y = middle[one], top[one] + _HIGH
        u, v = middle[other], top[other]
        half = (y + v) // 2
        mark = "" if ">" in one else ' marker-start="url(#tip)"'
        # straight beside the boxes of a layer that it passes
        on = f"V{v + _HIGH}" if ">" in other else ""
        parts.append(f'<path d="M{x} {y + (1 if mark else 0)}C{x} {half} {u} {half} {u} {v}{on}"{mark}/>')
    for room in names():
        x, y = middle[room], top[room]
        parts.append(f'<rect x="{x - _WIDE // 2}" y="{y}" width="{_WIDE}" height="{_HIGH}" rx="5"/>')
        parts.append(f'<text x="{x}" y="{y + 20}" font-size="14">{escape(room)}</text>')
    said = (
        "The rooms of thalweg: each imports from those above it; what follows from other imports is left out"
    )
    return _svg(width, height, said, parts)


def _size(name: str) -> int:
    return 12 if ">" in name else _WIDE


def _placed(rows: Sequence[list[str]], links: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Sort each row by where its neighbours are, and give every name the middle of its box."""
    near: dict[str, list[str]] = {name: [] for row in rows for name in row}
    for one, other in links:
        near[one].append(other)
        near[other].append(one)
    middle: dict[str, int] = {}
    for row in rows:
        for number, name in enumerate(row):
            middle[name] = number * 100
    for turn in range(40):
        for row in rows if turn % 2 else list(reversed(rows)):
            wanted = {
                name: sum(middle[each] for each in near[name]) // len(near[name])
                if near[name]
                else middle[name]
                for name in row
            }
            row.sort(key=lambda name: (wanted[name], name))
            _spread(row, wanted, middle)
    least = min(middle[name] - _size(name) // 2 for row in rows for name in row)
    return {name: x - least + _EDGE for name, x in middle.items()}


def _spread(row: Sequence[str], wanted: Mapping[str, int], middle: dict[str, int]) -> None:
    """Put a row's names as near as can be to where they are wanted, without touching."""
    blocks: list[tuple[list[str], list[int]]] = []  # names that touch, and what each wants of the first

    def begin(block: tuple[list[str], list[int]]) -> int:
        return sum(block[1]) // len(block[1])

    def length(some: Iterable[str]) -> int:
        return sum(_size(name) + _APART for name in some)

    for name in row:
        blocks.append(([name], [wanted[name] - _size(name) // 2]))
        while len(blocks) > 1 and begin(blocks[-2]) + length(blocks[-2][0]) > begin(blocks[-1]):
            some, wants = blocks.pop()
            before = length(blocks[-1][0])
            blocks[-1][0].extend(some)
            blocks[-1][1].extend(want - before for want in wants)
    for block in blocks:
        at = begin(block)
        for name in block[0]:
            middle[name] = at + _size(name) // 2
            at += _size(name) + _APART


def _svg(width: int, height: int, said: str, parts: Iterable[str]) -> str:
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(said)}">',
        f"<title>{escape(said)}</title>",
        f"<style>{_STYLE}</style>",
        '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" style="fill:{_LINE};stroke:none"/></marker>',
        f'<rect width="{width}" height="{height}" style="fill:#fff;stroke:none"/>',
        *parts,
        "</svg>",
        "",
    ])  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A place on a way: what happens there, the files in which it does, and what is handed on."""

    x: int
    y: int
    what: str
    files: tuple[str, ...]
    hands_on: str = ""


_BROAD, _TALL, _STEP = 280, 48, 80
_LEFT, _RIGHT = 160, 620

BATCH = (
    ("Loader: the next examples", ("training/loader.py", "run/sampler.py"), "inputs, targets, keys"),
    ("Strategies change the batch", ("strategies/base.py",), "inputs, targets"),
    ("Forward pass and loss", ("training/steps.py", "objectives/losses.py"), "loss"),
    ("Backward pass", ("training/backend.py",), "gradients, of all processes"),
    ("Strategies see and change gradients", ("strategies/clipping.py", "strategies/guard.py"), "gradients"),
    ("Optimizer step: the rule, by a runtime", ("optim/base.py", "runtimes/choose.py"), "parameters"),
    ("Recorder: curve, notes, state", ("training/recorder.py", "run/history.py"), ""),
)
BEFORE = (
    ("Command, Python or recipe", ("commands/race.py", "recipe/file.py"), "options"),
    ("Settings are checked", ("settings/tables.py", "racing/race_setup.py"), "problem, budget"),
    ("Race plan and search space", ("racing/plan.py", "racing/pools.py"), "runs: setting and seed"),
    ("Executor: chosen by a measurement", ("execution/choose.py", "execution/execution.py"), ""),
)
MEANS = (
    ("Lanes: as one program", ("execution/lanes/chunks.py",)),
    ("Loop: a training each", ("execution/loop.py",)),
    ("Pool of processes", ("execution/pool.py",)),
)
AFTER = (
    ("Journal: each outcome once", ("execution/journal.py",), "scores"),
    ("Statistics and verdict", ("racing/statistics.py", "racing/verdict.py"), "results.json"),
    ("Report", ("report/page.py",), ""),
)


def ways() -> str:
    """Return the picture of the ways of a batch and of a setting."""
    stops = [
        Stop(x=_LEFT, y=54 + number * _STEP, what=what, files=files, hands_on=on)
        for number, (what, files, on) in enumerate(BATCH)
    ]
    parts = [
        f'<text x="{_LEFT}" y="26" font-size="16">A batch</text>',
        f'<text x="{_RIGHT}" y="26" font-size="16">A setting</text>',
    ]
    parts += [part for one, other in pairwise(stops) for part in _arrow(one, other)]
    before = [
        Stop(x=_RIGHT, y=54 + number * _STEP, what=what, files=files, hands_on=on)
        for number, (what, files, on) in enumerate(BEFORE)
    ]
    parts += [part for one, other in pairwise(before) for part in _arrow(one, other)]
    means = [
        Stop(x=_RIGHT + (number - 1) * 180, y=54 + len(BEFORE) * _STEP, what=what, files=files)
        for number, (what, files) in enumerate(MEANS)
    ]
    after = [
        Stop(x=_RIGHT, y=54 + (len(BEFORE) + 1 + number) * _STEP, what=what, files=files, hands_on=on)
        for number, (what, files, on) in enumerate(AFTER)
    ]
    for each in means:
        parts += [*_arrow(before[-1], each), *_arrow(each, after[0])]
    parts += [part for one, other in pairwise(after) for part in _arrow(one, other)]
    for each in [*stops, *before, *after]:
        parts += _box(each, _BROAD)
    for each in means:
        parts += _box(each, 168)
    height = 54 + (len(BEFORE) + 1 + len(AFTER)) * _STEP
    said = "The way of a batch through a training, and of a setting through a race, with the files on each"
    return _svg(_RIGHT + 180 + 84 + _EDGE, height, said, parts)


def _arrow(one: Stop, other: Stop) -> list[str]:
    y, v = one.y + _TALL, other.y - 1
    half = (y + v) // 2
    found = [f'<path d="M{one.x} {y}C{one.x} {half} {other.x} {half} {other.x} {v}" marker-end="url(#tip)"/>']
    if one.hands_on:
        found.append(
            f'<text class="small" x="{one.x + 10}" y="{half + 4}" style="text-anchor:start">'
            f"{escape(one.hands_on)}</text>"
        )
    return found


def _box(stop: Stop, width: int) -> list[str]:
    for file in stop.files:
        assert (SOURCE / file).exists(), f"{file} isn't there: say in docs/rooms.py what came of it"
    return [
        f'<rect x="{stop.x - width // 2}" y="{stop.y}" width="{width}" height="{_TALL}" rx="5"/>',
        f'<text x="{stop.x}" y="{stop.y + 20}" font-size="14">{escape(stop.what)}</text>',
        f'<text class="small" x="{stop.x}" y="{stop.y + 37}">{escape(", ".join(stop.files))}</text>',
    ]


def pictures() -> dict[Path, str]:
    """Return every picture of this script by its file."""
    return {FOLDER / "rooms.svg": rooms(), FOLDER / "ways.svg": ways()}


if __name__ == "__main__":
    for path, text in pictures().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
