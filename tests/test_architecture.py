"""The house keeps its order: imports go upwards, public names are listed, files stay small.

The order is read from the table in docs/architecture.md, so that document and code can't drift apart.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "thalweg"
MOST_LINES = 500
MOST_ROOMS = 29


def rooms() -> list[str]:
    """Return the rooms in the order of the table: ``"errors"``, ..., ``"rules"``, ..., ``"cli"``."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = re.search(r"^\| room \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table, "docs/architecture.md has no table that begins with '| room |'"
    return re.findall(r"^\| `(\w+)(?:/|\.py)` \|", table[1], re.MULTILINE)


ORDER = {room: number for number, room in enumerate(rooms())}
# what starts the command stands below everything
ORDER["__main__"] = len(ORDER)
MODULES = sorted(SOURCE.rglob("*.py"))
EXEMPT = [path for path in MODULES if path.name == "__init__.py"]


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.Module) -> list[tuple[int, str]]:
    """Return line and room of every import from thalweg, those inside functions and type checks included."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write the whole name"
            if node.module == "thalweg":
                dotted = [f"thalweg.{alias.name}" for alias in node.names]
            else:
                dotted = [str(node.module)]
        else:
            continue
        found += [
            (node.lineno, name.split(".")[1])
            for name in dotted
            if name.startswith("thalweg.") and name != "thalweg.__version__"
        ]
    return found


def misplaced(path: Path, tree: ast.Module) -> list[str]:
    own = room_of(path)
    return [
        f"line {line}: {own} imports {room}, which stands below it"
        for line, room in imported_rooms(tree)
        if room != own and ORDER[room] >= ORDER[own]
    ]


def test_the_table_names_every_room_once() -> None:
    names = rooms()
    assert len(names) == len(set(names))
    there = {room_of(path) for path in MODULES if path.parent != SOURCE or path.name != "__init__.py"}
    assert there - {"__main__"} <= set(names), "a room that docs/architecture.md does not name"
    assert set(names) <= there, "docs/architecture.md names a room that isn't there"


def test_the_reader_of_imports_sees_all_of_them() -> None:
    tree = ast.parse(
        "from __future__ import annotations\n"
        "import thalweg.ensembles, torch\n"
        "from thalweg import __version__, catalogue\n"
        "def f():\n"
        "    from thalweg.racing.race import run_race\n"
    )
    assert imported_rooms(tree) == [(2, "ensembles"), (3, "catalogue"), (5, "racing")]
    assert misplaced(SOURCE / "run" / "spec.py", tree) == [
        "line 2: run imports ensembles, which stands below it",
        "line 5: run imports racing, which stands below it",
    ]


@pytest.mark.parametrize("path", [path for path in MODULES if path not in EXEMPT], ids=name_of)
def test_imports_go_upwards(path: Path) -> None:
    assert misplaced(path, ast.parse(path.read_text(encoding="utf-8"))) == []


def test_no_package_leads_back_to_a_room_that_imports_from_it() -> None:
    """Importing a module runs the ``__init__`` of its package first, and all that this hands on."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    rooms_of: dict[str, set[str]] = {}
    for path, tree in trees.items():
        rooms_of.setdefault(room_of(path), set()).update(room for _, room in imported_rooms(tree))

    def reached(room: str) -> set[str]:
        found: set[str] = set()
        left = {room}
        while left:
            here = left.pop()
            found.add(here)
            left |= rooms_of.get(here, set()) - found
        return found - {room}

    back = [
        f"{name_of(path)}, line {line}: {room} leads back to {room_of(path)}"
        for path, tree in trees.items()
        if path not in EXEMPT
        for line, room in imported_rooms(tree)
        if room != room_of(path) and room_of(path) in reached(room)
    ]
    assert back == []


def module_of(path: Path) -> str:
    return ".".join(("thalweg", *path.relative_to(SOURCE).with_suffix("").parts))


def neighbours(path: Path, tree: ast.Module) -> set[str]:
    """Return the modules of a module's own package that it imports; of the package itself, ``""``."""
    package = module_of(path).rpartition(".")[0]
    names = {module_of(each).removesuffix(".__init__") for each in MODULES}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module == package:
                inside = {f"{package}.{alias.name}" for alias in node.names}
                found |= {name if name in names else "" for name in inside}
            elif node.module in names and node.module.rpartition(".")[0] == package:
                found.add(node.module)
    return found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of a circle of imports, or none: those left when all with nothing below are gone."""
    left = {name: below & set(graph) for name, below in graph.items()}
    while done := {name for name, below in left.items() if not below}:
        left = {name: below - done for name, below in left.items() if name not in done}
    return sorted(left)


def test_the_finder_of_circles_finds_them() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "package", sorted({path.parent for path in MODULES if path.parent != SOURCE}), ids=name_of
)
def test_there_is_no_circle_inside_a_package(package: Path) -> None:
    graph = {}
    for path in package.glob("*.py"):
        if path not in EXEMPT:
            graph[module_of(path)] = neighbours(path, ast.parse(path.read_text(encoding="utf-8")))
            assert "" not in graph[module_of(path)], (
                f"{name_of(path)} imports its own package; name the module"
            )
    assert circle(graph) == []


def test_no_class_is_called_as_another_is() -> None:
    """A name in a message, a traceback or a search then leads to one place."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(name_of(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_a_newcomer_sees_few_rooms() -> None:
    assert len(ORDER) - 1 <= MOST_ROOMS


def public_names(tree: ast.Module) -> set[str]:
    """Return the functions, classes and constants that a module defines without an underscore.

    Names of types (``Array = ...``) are shorthand inside a room, and listed where others need them.
    """
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name) and t.id.isupper()}
        elif (
            isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id.isupper()
        ):
            found.add(node.target.id)
    return {name for name in found if not name.startswith("_")}


def order_of(name: str) -> tuple[int, str]:
    """Constants, classes, then functions, each by the alphabet: the order that ruff holds too."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def listed_names(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and getattr(target, "id", "") == "__all__":
            assert node.value is not None
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_small_and_say_what_they_are_and_offer(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module begins with a docstring that says what it is"
    assert text.count("\n") <= MOST_LINES, f"more than {MOST_LINES} lines"
    listed = listed_names(tree)
    if path.name == "__init__.py":
        if len(tree.body) > 1:
            assert listed is not None
            assert listed == sorted(listed, key=order_of)
        return
    if path.name.startswith("_") and path.name != "__main__.py":
        return
    assert listed is not None, "there is no __all__"
    assert listed == sorted(listed, key=order_of), "__all__ is not sorted"
    assert len(listed) == len(set(listed)), "__all__ names something twice"
    missing = public_names(tree) - set(listed)
    assert not missing, f"public, but not in __all__: {sorted(missing)}"
