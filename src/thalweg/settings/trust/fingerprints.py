"""What would be run for a name, found and fingerprinted without running any of it."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.machinery
import json
import os
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Code", "fingerprint", "same_bytes", "short"]


@dataclass(frozen=True, kw_only=True)
class Code:
    """What is run for a name.

    Attributes:
        spec: ``file.py:name`` or ``package.module:name``.
        files: SHA-256 in hex, by the file as it is named or the module as it is imported; the first is named.
        places: where they lie.
    """

    spec: str
    files: Mapping[str, str]
    places: Mapping[str, str] = field(compare=False)

    @property
    def digest(self) -> str:
        """What is remembered of it: the same code under another path is the same code, another name isn't."""
        first, *others = self.files.items()
        name = self.spec.rpartition(":")[2]
        return hashlib.sha256(json.dumps([name, first[1], sorted(others)]).encode()).hexdigest()

    def __str__(self) -> str:
        return " and ".join(
            f"{self.places[label]} (sha256 {short(sha)})" for label, sha in self.files.items()
        )


def same_bytes(code: Code | None, content: bytes) -> bool:
    """Say whether the content of the named file is that of its fingerprint."""
    return code is None or next(iter(code.files.values())) == hashlib.sha256(content).hexdigest()


def short(sha: str) -> str:
    """Return what of a hash is shown."""
    return sha[:12]


def fingerprint(spec: str) -> Code | None:
    """Fingerprint what would be run for a name, running nothing; ``None`` where there is nothing.

    >>> fingerprint("no/such/file.py:name") is None
    True
    >>> list(fingerprint("torch.optim:SGD").files)
    ['torch.optim']
    """
    place = spec.rpartition(":")[0]
    files: dict[str, str] = {}
    places: dict[str, str] = {}
    if place.endswith(".py"):
        path = Path(place)
        sha = _sha(path)
        if sha is None:
            return None
        # as load_object makes it reachable
        search = [*sys.path, str(path.resolve().parent)]
        files[place], places[place] = sha, place
        waiting = [(place, path, "")]
    else:
        search = [*sys.path, str(Path.cwd())]
        modules = list(_located(place, search))
        if not modules or modules[-1].name != place:
            return None
        *above, named = modules
        waiting = []
        for module in [named, *(each for each in above if _is_local(each.origin))]:
            sha = _sha(module.origin) or _of_python(module)
            if sha is not None:
                files[module.name], places[module.name] = sha, _shown(module)
                if module.origin is not None and _is_local(module.origin):
                    waiting.append((module.name, module.origin, module.package))
    while waiting:
        label, path, package = waiting.pop()
        for name in _imported(files[label], path, package):
            for module in _located(name, search):
                if module.name in files or module.origin is None or not _is_local(module.origin):
                    continue
                sha = _sha(module.origin)
                if sha is not None:
                    files[module.name], places[module.name] = sha, _shown(module)
                    waiting.append((module.name, module.origin, module.package))
    return Code(spec=spec, files=files, places=places)


@dataclass(frozen=True)
class _Module:
    """A module that could be imported: its file, where it has one, and the package it lies in."""

    name: str
    origin: Path | None
    package: str


def _located(name: str, search: Sequence[str]) -> Iterator[_Module]:
    """Find a dotted name part by part, importing nothing; it ends where nothing is found."""
    path: Sequence[str] | None = None
    found = ""
    for part in name.split("."):
        found = f"{found}.{part}" if found else part
        spec = _spec_of(found, path, search)
        if spec is None:
            # a package without __init__.py can't be asked for before the one above it is imported
            path = [place for each in path or () if os.path.isdir(place := os.path.join(each, part))]
            if not path:
                return
            yield _Module(found, None, found)
            continue
        path = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
        origin = Path(spec.origin) if spec.has_location and spec.origin is not None else None
        yield _Module(found, origin, found if path is not None else found.rpartition(".")[0])
        if path is None:
            return


def _spec_of(
    name: str, path: Sequence[str] | None, search: Sequence[str]
) -> importlib.machinery.ModuleSpec | None:
    for finder in sys.meta_path:
        # a finder of somebody's may raise anything, and the import then says so
        with contextlib.suppress(Exception):
            where = list(search) if path is None and finder is importlib.machinery.PathFinder else path
            spec = finder.find_spec(name, where, None)
            if spec is not None:
                return spec
    return None


def _imported(sha: str, path: Path, package: str) -> tuple[str, ...]:
    """The dotted names that a file's import statements could mean, those within functions included."""
    return _names(sha, path, package) if path.suffix == ".py" else ()


@functools.lru_cache(maxsize=4096)
def _names(sha: str, path: Path, package: str) -> tuple[str, ...]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        # running it says so
        return ()
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*(part for part in above if part), *([base] if base else [])])
            if base:
                # each may be a module of the package, or a name in it
                found |= dict.fromkeys([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return tuple(found)


@functools.cache
def _installed() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    found = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib") if key in paths]
    with contextlib.suppress(AttributeError, OSError, RuntimeError):
        found += [*site.getsitepackages(), site.getusersitepackages()]
    # and this package, whose own changes are no business of a run's code
    return (*{Path(each).resolve() for each in found}, Path(__file__).resolve().parent.parent)


def _is_local(module: Path | None) -> bool:
    if module is None:
        return False
    place = module.resolve()
    return not any(place.is_relative_to(folder) for folder in _installed())


def _sha(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _of_python(module: _Module) -> str:
    """Of a module that has no file: of the Python that it is built into."""
    return hashlib.sha256(f"{module.name} of Python {sys.version}".encode()).hexdigest()


def _shown(module: _Module) -> str:
    if module.origin is None:
        return f"{module.name} of this Python"
    with contextlib.suppress(ValueError):
        return str(module.origin.relative_to(Path.cwd()))
    return str(module.origin)
