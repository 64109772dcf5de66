"""Write the generated parts of the docs: ``make docs``. A test holds that they are up to date."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import typing
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thalweg import catalogue, schedules
from thalweg.catalogue import Entry
from thalweg.catalogue.entry import StepKind
from thalweg.commands.race import race
from thalweg.diagnosis.finding import CAUSES, MECHANISMS
from thalweg.errors import in_command
from thalweg.racing import results
from thalweg.test_problems import surfaces, tasks

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from findings import block as finding_page  # noqa: E402

SOURCE = ROOT / "src" / "thalweg"
_SCALES = {"log": "log", "linear": "linear", "complement": "log of 1 - x"}
_FAMILIES = {
    "descent": "gradient descent",
    "adaptive": "a rate for each parameter",
    "sign": "signs of gradients",
    "curvature": "a parabola for each parameter",
    "averaging": "averages of iterates",
    "matrix": "matrices as wholes",
    "conjugate": "conjugate gradients",
    "secant": "quasi-Newton",
    "newton": "Newton and Gauss-Newton",
}
_STEP_KINDS: Mapping[StepKind, str] = {
    "gradient": "Needs [gradients](#gradients).",
    "closure": "Needs [a closure](#closures) that calls `backward`.",
    "graph": "Needs [a closure](#closures) that returns the loss with its graph.",
    "outputs": "Needs [a closure](#closures) that returns outputs and a convex loss of them, or residuals.",
}


def schema() -> str:
    """Return the JSON schema of ``results.json``."""
    return json.dumps(results.schema(), indent=2) + "\n"


def options() -> str:
    """Return a table of the options of ``thalweg race``."""
    lines = ["| option | what it does |", "|---|---|"]
    hints = typing.get_type_hints(race, include_extras=True)
    for name, parameter in inspect.signature(race).parameters.items():
        if name == "context":
            continue
        kind, info = typing.get_args(hints[name])
        written = in_command(name)
        default = info.show_default if isinstance(info.show_default, str) else parameter.default
        if kind is not bool:
            written += " " + (info.metavar or _kind(kind))
        told = "" if default is None or default is False else f" Default: {default}."
        lines.append(f"| `{_cell(written)}` | {_cell(info.help)}{told} |")
    return "\n".join(lines) + "\n"


def _kind(hint: Any) -> str:
    """``"a|b"`` for a choice, otherwise the type, in capitals."""
    inner = typing.get_args(hint)
    if type(None) in inner:
        return _kind(next(one for one in inner if one is not type(None)))
    return "|".join(inner) if inner else "TEXT" if hint is str else "NUMBER"


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def families() -> str:
    """Return a table of contents of the optimizers, family by family."""
    lines = ["| family | optimizers |", "|---|---|"]
    for family, entries in _families().items():
        links = ", ".join(f"[{entry.title}](#{_anchor(entry.title)})" for entry in entries)
        lines.append(f"| `{family}`: {_FAMILIES[family]} | {links} |")
    return "\n".join(lines) + "\n"


def optimizers() -> str:
    """Return a section for each optimizer of the catalogue, family by family."""
    return "\n".join(_optimizer(entry) for entries in _families().values() for entry in entries)


def _families() -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {family: [] for family in _FAMILIES}
    for name in catalogue.names():
        entry = catalogue.get(name)
        found[entry.family].append(entry)
    return found


def _anchor(title: str) -> str:
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _optimizer(entry: Entry) -> str:
    # a line each, and in spans, which wrap where a block would have to be scrolled
    formula = "<br>\n".join(f"`{line.strip()}`" for line in entry.formula.split(";  "))
    needed = _STEP_KINDS[entry.step_kind] + (
        " It works with a matrix of all parameters, so it is for few of them." if entry.dense else ""
    )
    lines = [
        f"### {entry.title}",
        "",
        f"`{entry.name}`, family `{entry.family}`, class `thalweg.optim.{entry.call.target.__name__}`.",
        entry.summary,
        "",
        formula,
        "",
        needed,
        "",
        f"![Paths of {entry.title} on three surfaces](images/paths/{entry.name}.svg)",
        "",
        "| hyperparameter | default | legal | searched | scale |",
        "|---|---|---|---|---|",
    ]
    for one in entry.hyperparameters:
        searched = f"{one.low:g} to {one.high:g}" if one.searched else "no"
        scale = _SCALES[one.scale] if one.searched else ""
        legal = one.rule + (f", no less than `{one.not_under}`" if one.not_under else "")
        lines.append(f"| `{one.name}` | {one.default:g} | {legal} | {searched} | {scale} |")
    return "\n".join([*lines, "", f"Source: {entry.source}.", ""])


def shapes() -> str:
    """Return a table of the schedules."""
    lines = ["| name | factor at step t of T | options and defaults | source |", "|---|---|---|---|"]
    for one in schedules.describe():
        given = ", ".join(f"`{name}` {_short(value)}" for name, value in one.options.items())
        lines.append(f"| `{one.name}`: {one.summary} | `{one.formula}` | {given} | {one.source} |")
    return "\n".join(lines) + "\n"


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def landscapes() -> str:
    """Return a table of the surfaces, and of what is known of each."""
    lines = ["| name | what it is | n | minima | beside them | source |", "|---|---|---|---|---|---|"]
    for name in surfaces.names():
        one = surfaces.get(name)
        shown = f"{one.number}: " if one.number else ""
        squares = f", m = {one.m}" if isinstance(one, surfaces.LeastSquares) else ""
        counted = Counter(f"{point.value:.6g}" for point in one.minima)
        minima = ", ".join(value if k == 1 else f"{value} ({k} times)" for value, k in counted.items())
        beside = [f"{point.kind} {point.value:.6g}" for point in one.stationary]
        beside += [f"at infinity {value:.6g}" for value in dict.fromkeys(p.value for p in one.limits)]
        cells = (f"`{name}`", shown + one.summary, f"{one.n}{squares}", minima, ", ".join(beside), one.source)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def problems() -> str:
    """Return a table of the tasks."""
    lines = [
        "| name | what it is | examples | parameters | residuals | source |",
        "|---|---|---|---|---|---|",
    ]
    for name in tasks.names():
        one = tasks.get(name)
        count = sum(p.numel() for p in one.parameters())
        residuals = "yes" if one.least_squares else ""
        cells = (f"`{name}`", one.summary, str(one.examples), str(count), residuals, one.source)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines) + "\n"


def reference() -> str:
    """Return docs/reference.md: every public name of every room, from the source."""
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = [
        "# Reference",
        "",
        "Made from the source by `make docs`: the public names of each room's modules. The whole is",
        "in the docstrings: `python -m pydoc thalweg.MODULE`.",
        "",
    ]
    for room in re.findall(r"^\| `(\w+(?:/|\.py))` \|", table, re.MULTILINE):
        lines += [f"## `{room}`", ""]
        place = SOURCE / room.rstrip("/")
        for path in [place] if place.suffix else sorted(place.rglob("*.py")):
            # each claim has a page of its own
            if path.parent.name == "collection":
                continue
            lines += _module(path)
    return "\n".join(lines).rstrip() + "\n"


def _module(path: Path) -> list[str]:
    """A module's first sentence, and a line for each of its public functions and classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = [
        f"- `{_signature(node)}`: {_first_sentence(node)}"
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    # of functions with several signatures that of the function itself, which comes last
    told = list({line.partition("(")[0]: line for line in told}.values())
    if path.name.startswith("_") or not told:
        return []
    return [f"**`{path.relative_to(SOURCE).as_posix()}`** {_first_sentence(tree)}", "", *told, ""]


def _signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.FunctionDef):
        returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"{node.name}({_arguments(node)}){returned}"
    made = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if made is not None:
        return f"class {node.name}({re.sub('^self(, )?', '', _arguments(made))})"
    annotated = [n for n in node.body if isinstance(n, ast.AnnAssign) and "ClassVar" not in ast.unparse(n)]
    for field in annotated:
        # what is told of an option stands in README
        if isinstance(field.annotation, ast.Subscript) and ast.unparse(field.annotation.value) == "Annotated":
            field.annotation = field.annotation.slice.elts[0]  # type: ignore[attr-defined]
    fields = [ast.unparse(field) for field in annotated if ast.unparse(field.target) != "_"]
    methods = [n.name for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
    is_data = any("dataclass" in ast.unparse(each) for each in node.decorator_list)
    given = ", ".join(fields) if is_data or not methods else ", ".join(f".{name}" for name in methods)
    return f"class {node.name}({given})" if given else f"class {node.name}"


def _arguments(node: ast.FunctionDef) -> str:
    """What a function takes; where a decorator says that these are the fields of a class, the class."""
    for one in node.decorator_list:
        if isinstance(one, ast.Call) and ast.unparse(one.func) in ("takes", "has_signature_of"):
            return f"**{ast.unparse(one.args[0])}"
    return ast.unparse(node.args)


def _first_sentence(node: ast.FunctionDef | ast.ClassDef | ast.Module) -> str:
    told = (ast.get_docstring(node) or "").partition("\n\n")[0].replace("\n", " ")
    return re.sub(r":\w+:`~?([^`]*)`", r"`\1`", told).replace("``", "`")


def findings() -> str:
    """Return a table of the codes of a diagnosis, causes first."""
    lines = ["| code | | what it means |", "|---|---|---|"]
    for name, meaning in {**CAUSES, **MECHANISMS}.items():
        kind = "cause" if name in CAUSES else "mechanism"
        lines.append(f"| [`{name}`](diagnosis/{name}.md) | {kind} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def hospital() -> str:
    """Return what the hospital measured in all; its own page has the rest."""
    page = ROOT / "docs" / "hospital.md"
    if not page.exists():
        return "It hasn't been run yet.\n"
    table = re.search(r"^\|.*\n\|[-| ]+\|\n(?:\|.*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert table, "docs/hospital.md has no table"
    return f"{table[0]}\n[By code and by case](hospital.md).\n"


PARTS: Mapping[str, Callable[[], str]] = {
    "findings": findings,
    "hospital": hospital,
    "options": options,
    "families": families,
    "optimizers": optimizers,
    "schedules": shapes,
    "surfaces": landscapes,
    "tasks": problems,
}


def _part(name: str, page: str) -> str:
    """Return a generated part of a page; that of a finding is by the page's name."""
    return finding_page(page) if name == "finding" else PARTS[name]()


def pages() -> dict[Path, str]:
    """Return every generated file, and every document with its generated parts written anew."""
    found = {
        ROOT / "docs" / "results.schema.json": schema(),
        ROOT / "docs" / "reference.md": reference(),
    }
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]):
        text = path.read_text(encoding="utf-8")
        if "<!-- generated:" in text:
            found[path] = re.sub(
                r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)",
                lambda part, page=path.stem: f"{part[1]}\n{_part(part[2], page)}\n{part[3]}",
                text,
                flags=re.DOTALL,
            )
    return found


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
