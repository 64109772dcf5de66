"""Every example works: docstrings, the Python of the documents, their command lines, their links."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from thalweg.commands import parsing
from thalweg.commands.app import app
from thalweg.rules import Rule

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "thalweg"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MODULES = sorted(
    path.relative_to(SOURCE.parent).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a document: the word after the fence, the rest of that line, and the text."""

    line: int
    language: str
    marks: str
    text: str


def blocks(document: Path) -> Iterator[Block]:
    text = document.read_text(encoding="utf-8")
    for found in re.finditer(r"^([ ]*)```(\w*)[ ]?(.*)\n((?:.*\n)*?)\1```$", text, re.MULTILINE):
        yield Block(text[: found.start()].count("\n") + 1, found[2], found[3], textwrap.dedent(found[4]))


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("module", MODULES)
def test_docstrings(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    imported = importlib.import_module(module)
    # a rule is an object that carries its function's docstring, where doctest doesn't look by itself
    rules = {name: value for name, value in vars(imported).items() if isinstance(value, Rule)}
    own = {name: value.__doc__ for name, value in rules.items() if value.function.__module__ == module}
    monkeypatch.setattr(imported, "__test__", own, raising=False)
    failed, tried = doctest.testmod(imported, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert tried, f"{module} has '>>>' where doctest doesn't see it"
    assert not failed, "what was expected and what came stands above"


def with_python(document: Path) -> bool:
    return any(block.language == "python" and "no-run" not in block.marks for block in blocks(document))


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if with_python(d)], ids=name_of)
def test_python_of_documents(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks run one after another, in an empty folder; a later one sees the names of an earlier one.

    A block that is marked ``file=NAME`` is written there instead.
    """
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    for block in blocks(document):
        if named := re.search(r"file=(\S+)", block.marks):
            Path(named[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python" and "no-run" not in block.marks:
            # empty lines before it, so that a traceback has the document's line numbers
            exec(compile("\n" * block.line + block.text, str(document), "exec"), names)


def commands(document: Path) -> list[tuple[int, list[str]]]:
    found = []
    for block in blocks(document):
        if block.language == "console":
            for number, line in enumerate(block.text.replace("\\\n", "  ").splitlines()):
                if line.startswith("$ "):
                    found.append((block.line + number + 1, shlex.split(line[2:], comments=True)))
    return found


COMMANDS = [
    pytest.param(words, id=f"{name_of(document)}:{line}")
    for document in DOCUMENTS
    for line, words in commands(document)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_command_lines_of_documents(words: list[str]) -> None:
    """``thalweg`` lines are parsed by the command itself, and ``make`` lines name a target."""
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[1] in targets
    elif words[0] == "thalweg":
        parse(words[1:])
    elif words[0] == "torchrun":
        parse(words[words.index("thalweg") + 1 :])
    else:
        assert words[0] in ("git", "cd", "pip", "python", "source"), "a command that no test knows"


def parse(arguments: list[str]) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.main.TyperGroup)
    if arguments in (["--version"], ["--help"]):
        return
    context = group.make_context("thalweg", list(arguments))
    name, command, rest = group.resolve_command(context, list(arguments))
    assert command is not None
    options = command.make_context(name, rest, parent=context, resilient_parsing="--help" in rest).params
    parsing.spaces(options.get("space") or [])
    parsing.column_types(options.get("type_") or [])


def test_the_parser_of_command_lines_refuses() -> None:
    parse(["race", "--data", "digits", "--space", "adam.lr=1e-4:1"])
    with pytest.raises(typer.TyperException, match="--optimisers"):
        parse(["race", "--optimisers", "adam"])


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_between_documents(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    outside = re.sub(r"^```.*\n(?:.*\n)*?```$|`[^`\n]*`", "", text, flags=re.MULTILINE)
    broken = [
        link
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", outside)
        if not link.startswith(("http://", "https://")) and not (document.parent / link).exists()
    ]
    assert not broken, "links to files that aren't there"
