"""Finds the place of a mutation in the source by symbol and expression, and makes the change there."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["Mutant", "MutantError", "Place", "find", "read"]


class MutantError(ValueError):
    """A mutation that can't be made as it stands in its list."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One change of the source.

    Args:
        room: the list it stands in; it decides where several rooms have such a symbol.
        symbol: ``function``, ``Class.method``, ``Class``, or the name that a module assigns.
        source: an expression or a statement within the symbol, however it is laid out.
        becomes: what stands there instead.
        tests: paths below the root of the project, as pytest takes them; one of the tests must fail.
        nth: which of several such places within the symbol, from 1, from top to bottom.
    """

    room: str
    symbol: str
    source: str
    becomes: str
    tests: tuple[str, ...]
    nth: int | None = None

    def __str__(self) -> str:
        return f"{self.room}: {self.symbol}: {self.source} -> {self.becomes}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """The one place that a mutation means, and what the file looks like with it."""

    path: Path
    line: int
    mutated: str


def read(folder: Path) -> list[Mutant]:
    """Read all lists of a folder, in the order of their names.

    A list is ``tests = [...]``, for its mutants that name none of their own, then ``[[mutant]]`` tables with
    ``symbol``, ``source``, ``becomes``, and where needed ``nth`` and ``tests``.

    Raises:
        MutantError: a key that isn't known, or a missing one.
    """
    mutants = []
    for path in sorted(folder.glob("*.toml")):
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        for row in content["mutant"]:
            tests = tuple(row.pop("tests", content.get("tests", ())))
            try:
                mutants.append(Mutant(room=path.stem, tests=tests, **row))
            except TypeError as error:
                raise MutantError(f"{path.name}: {row}: {error}") from None
    return mutants


def find(mutant: Mutant, package: Path) -> Place:
    """Return the place that a mutant means, in whatever file of the package its symbol lives.

    Raises:
        MutantError: there is no such place, or several; what comes of the change is no Python, or the same.
    """
    sought = _parsed(mutant.source)
    kind, wanted = type(sought), ast.dump(sought)
    name = mutant.symbol.rpartition(".")[2]
    found: list[tuple[Path, str, list[ast.AST]]] = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if name in text:
            for symbol in _symbols(text).get(mutant.symbol, []):
                alike = (node for node in ast.walk(symbol) if type(node) is kind)
                places = [node for node in alike if ast.dump(node) == wanted]
                if places:
                    found.append((path, text, sorted(places, key=_position)))
    if len(found) > 1:
        found = [one for one in found if mutant.room in one[0].relative_to(package).as_posix()] or found
    if not found:
        raise MutantError(f"{mutant}: that stands nowhere in a symbol of this name")
    if len(found) > 1:
        raise MutantError(f"{mutant}: that stands in {', '.join(one[0].name for one in found)}")
    ((path, text, places),) = found
    if mutant.nth is None and len(places) > 1:
        raise MutantError(f"{mutant}: that stands there {len(places)} times; say by nth which is meant")
    if mutant.nth is not None and not 1 <= mutant.nth <= len(places):
        raise MutantError(f"{mutant}: nth is {mutant.nth}, and that stands there {len(places)} times")
    node = places[(mutant.nth or 1) - 1]
    return Place(path=path, line=_position(node)[0], mutated=_changed(mutant, text, node))


@cache
def _tree(text: str) -> ast.Module:
    """Many mutants look into the same files."""
    return ast.parse(text)


def _parsed(source: str) -> ast.AST:
    """Return what a source stands for: an expression where it is one, else a statement."""
    try:
        (statement,) = ast.parse(source).body
    except (SyntaxError, ValueError):
        raise MutantError(f"{source!r} is not one expression or statement of Python") from None
    return statement.value if isinstance(statement, ast.Expr) else statement


@cache
def _symbols(text: str) -> Mapping[str, list[ast.AST]]:
    """Functions, classes and what is assigned, by their names with those of what they stand in."""
    found: dict[str, list[ast.AST]] = defaultdict(list)

    def look(tree: ast.AST, above: str) -> None:
        for node in ast.iter_child_nodes(tree):
            names: list[str] = []
            within = above
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names, within = [node.name], f"{above}{node.name}."
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            for name in names:
                found[above + name].append(node)
            # no expression holds any of these
            if not isinstance(node, ast.expr):
                look(node, within)

    look(_tree(text), "")
    return found


def _position(node: ast.AST) -> tuple[int, int]:
    assert isinstance(node, ast.expr | ast.stmt)
    return node.lineno, node.col_offset


def _changed(mutant: Mutant, text: str, node: ast.AST) -> str:
    assert isinstance(node, ast.expr | ast.stmt)
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    # columns of the syntax tree count bytes
    lines = text.encode().splitlines(keepends=True)
    before = b"".join(lines[: node.lineno - 1]) + lines[node.lineno - 1][: node.col_offset]
    after = lines[node.end_lineno - 1][node.end_col_offset :] + b"".join(lines[node.end_lineno :])
    becomes = f"({mutant.becomes})" if isinstance(node, ast.expr) else mutant.becomes
    changed = (before + becomes.encode() + after).decode()
    try:
        ast.parse(changed)
    except SyntaxError as error:
        raise MutantError(f"{mutant}: what comes of it is no Python: {error}") from None
    if ast.dump(_parsed(mutant.becomes)) == ast.dump(_parsed(mutant.source)):
        raise MutantError(f"{mutant}: nothing changes by it")
    return changed
