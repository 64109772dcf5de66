"""What an experiment is: one TOML file beside this one, with all that its runs and its page need."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "ROOT",
    "Before",
    "Contrast",
    "Experiment",
    "Panel",
    "Variant",
    "digest",
    "digest_before",
    "load",
    "names",
]

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to train: a recipe, and what is changed in it."""

    name: str
    recipe: str
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A condition under which variants are compared: changes of all of them.

    Attributes:
        reference: the variant that the others are compared with; ``None``: the experiment's own.
        variants: names of those that are trained here; none: all.
    """

    name: str
    changes: tuple[str, ...] = ()
    reference: str | None = None
    variants: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Before:
    """A training that recipes begin with, such as of a teacher: once for each seed.

    Attributes:
        recipe: its recipe.
        out: the run directory that recipes name.
        shares: keys whose changes by a panel hold for it too.
    """

    recipe: str
    out: str
    changes: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Another comparison, of ``"panel / variant"`` with ``"panel / variant"``."""

    this: str
    that: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A question, and everything that is trained to answer it.

    Attributes:
        name: of the file.
        title: of the page.
        claim: what the lectures or others say, with its source.
        setting: what is compared with what.
        limits: what wasn't tried.
        reference: the variant that the others are compared with.
        number: of a training's result: what is compared.
        matters: differences of less than this aren't looked for, in points of a hundred.
        seeds: how many, by default.
        varies: keys that are set to the number of the seed.
    """

    name: str
    title: str
    claim: str
    setting: str
    limits: str = ""
    reference: str
    number: str = "test"
    matters: float = 1.0
    seeds: int = 5
    varies: tuple[str, ...] = ("training.seed", "data.replicate")
    panels: tuple[Panel, ...]
    variants: tuple[Variant, ...]
    before: tuple[Before, ...] = ()
    contrasts: tuple[Contrast, ...] = ()

    def cells(self) -> list[tuple[Panel, Variant]]:
        """Return what is trained from each seed."""
        return [
            (panel, variant)
            for panel in self.panels
            for variant in self.variants
            if not panel.variants or variant.name in panel.variants
        ]

    def reference_of(self, panel: Panel) -> str:
        """Return the name of the variant that the others of a panel are compared with."""
        return panel.reference or self.reference

    def changes(self, panel: Panel, variant: Variant, seed: int) -> list[str]:
        """Return what is changed in the recipe of a variant."""
        return [*variant.changes, *panel.changes, *(f"{key}={seed}" for key in self.varies)]

    def changes_before(self, before: Before, panel: Panel, seed: int) -> list[str]:
        """Return what is changed in the recipe of a training that comes before."""
        shared = [change for change in panel.changes if change.partition("=")[0] in before.shares]
        return [*before.changes, *shared, *(f"{key}={seed}" for key in self.varies)]

    def needed(self, variant: Variant) -> list[Before]:
        """Return the trainings that a variant's recipe begins with."""
        text = "\n".join([(ROOT / variant.recipe).read_text(encoding="utf-8"), *variant.changes])
        return [each for each in self.before if re.search(rf"{re.escape(each.out)}\b", _plain(text))]


def names() -> list[str]:
    """Return the names of all experiments."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.toml"))


def load(name: str) -> Experiment:
    """Read an experiment.

    Raises:
        ValueError: a name in it that it doesn't have.
    """
    values = tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8"))
    kinds = {"panel": Panel, "variant": Variant, "before": Before, "contrast": Contrast}
    parts: dict[str, Any] = {
        kind if kind == "before" else f"{kind}s": tuple(
            made(**_tuples(each)) for each in values.pop(kind, [])
        )
        for kind, made in kinds.items()
    }
    found = Experiment(name=name, **_tuples(values), **parts)
    cells = {f"{panel.name} / {variant.name}" for panel, variant in found.cells()}
    wanted = {f"{panel.name} / {found.reference_of(panel)}" for panel in found.panels}
    wanted |= {side for each in found.contrasts for side in (each.this, each.that)}
    if missing := sorted(wanted - cells):
        raise ValueError(f"experiments/{name}.toml compares with {missing[0]!r}, which isn't trained")
    return found


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def _plain(toml: str) -> str:
    """TOML without lines that are comments."""
    return "\n".join(line for line in toml.splitlines() if not line.lstrip().startswith("#"))


def digest(experiment: Experiment, panel: Panel, variant: Variant) -> str:
    """Return what tells a training from another: recipe, changes, code that they name, what comes before."""
    given: list[Any] = [_of(variant.recipe, experiment.changes(panel, variant, 0))]
    given += [
        [each.out, _of(each.recipe, experiment.changes_before(each, panel, 0))]
        for each in experiment.needed(variant)
    ]
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digest_before(experiment: Experiment, before: Before, panel: Panel) -> str:
    """Return the same of a training that comes before."""
    given = _of(before.recipe, experiment.changes_before(before, panel, 0))
    return hashlib.sha256(json.dumps(given, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _of(recipe: str, changes: list[str]) -> list[Any]:
    values = tomllib.loads((ROOT / recipe).read_text(encoding="utf-8"))
    named = re.findall(r"([\w./-]+\.py):(\w+)", json.dumps([values, changes], default=str))
    return [values, changes, [_code(ROOT / file, name) for file, name in dict.fromkeys(named)]]


def _code(path: Path, name: str) -> list[str]:
    """Return a function of a file and everything there that it uses, without comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    there: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            there[node.name] = node
        elif isinstance(node, ast.Assign):
            there |= {
                each.id: node
                for target in node.targets
                for each in ast.walk(target)
                if isinstance(each, ast.Name)
            }
    found: list[str] = []
    left = [name]
    while left:
        one = left.pop()
        if one in found or one not in there:
            continue
        found.append(one)
        left += [each.id for each in ast.walk(there[one]) if isinstance(each, ast.Name)]
    return [_without_docstrings(there[one]) for one in sorted(found)]


def _without_docstrings(node: ast.stmt) -> str:
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(each) is not None:
            each.body = each.body[1:] or [ast.Pass()]
    return ast.unparse(node)
