"""CONTRIBUTING keeps its word: the files that it names are there, and its worked changes apply and pass.

Each diff of the page is applied to a copy of the tree. The tests that it brings, contracts that concern it
and the order of the house must hold there: a diff that has grown old, or breaks a rule of the house, fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "thalweg"
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PARTS = ("src", "tests", "docs", "faults", "mutants", "pyproject.toml")
# What each change has to pass: files of tests, and which of them.
CHANGES = {
    "an optimizer": (
        (
            "tests/rules/test_signum.py", "tests/catalogue/test_table.py",
            "tests/contract/test_steps.py", "tests/contract/test_ranges.py", "tests/contract/test_groups.py",
            "tests/contract/test_state.py", "tests/test_mutants.py", "tests/test_examples.py",
        ),
        "signum or names_and_order or docstrings and (rules.sign or optim.sign) or one_place and rules",
    ),
    "a strategy": (
        (
            "tests/strategies", "tests/training/test_fit_resume.py",
            "tests/test_faults.py", "tests/test_docs.py", "tests/test_examples.py",
        ),
        "test_goal or every_strategy or strategies.goal or test_states and goal",
    ),
    "a check": (("tests/racing/test_caveats.py",), "test_cautions"),
}  # fmt: skip


def section(what: str) -> str:
    """Return the part of the page below a heading of a change."""
    found = re.search(rf"^### Add {what}\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"CONTRIBUTING.md has no heading '### Add {what}'"
    return found[1]


def diff_of(what: str) -> str:
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", section(what), re.MULTILINE | re.DOTALL)
    return str(diff)


def touched(diff: str) -> list[str]:
    return re.findall(r"^\+\+\+ b/(.+)$", diff, re.MULTILINE)


def run(folder: Path, *arguments: str) -> None:
    """Run a command in the copy, on the copy's code; what it printed is shown where it fails."""
    around = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    around |= {"PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    # git must take the copy for a folder of its own, wherever temporary folders lie
    around |= {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(arguments, cwd=folder, env=around, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the changes touch, and of the tests that hold it."""
    folder = tmp_path / "thalweg"
    for part in PARTS:
        place = ROOT / part
        if place.is_dir():
            shutil.copytree(place, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(place, folder / part)
    for page in ROOT.glob("*.md"):
        shutil.copy(page, folder)
    return folder


def test_every_change_is_tried() -> None:
    assert re.findall(r"^### Add (.+)$", PAGE, re.MULTILINE) == list(CHANGES)
    assert PAGE.count("\n```diff\n") == len(CHANGES)


@pytest.mark.parametrize("what", CHANGES)
def test_each_file_of_a_change_is_explained(what: str) -> None:
    rows = re.findall(r"^\| `([^`]+)` \| .+ \|$", section(what), re.MULTILINE)
    assert rows == touched(diff_of(what))


@pytest.mark.slow
@pytest.mark.parametrize("what", CHANGES)
def test_a_change_applies_and_passes(what: str, copy: Path) -> None:
    diff, (tests, chosen) = diff_of(what), CHANGES[what]
    (copy / "change.diff").write_text(diff, encoding="utf-8")
    run(copy, "git", "apply", "change.diff")
    modules = [name for name in touched(diff) if name.endswith(".py")]
    run(copy, sys.executable, "-m", "ruff", "check", *modules)
    run(copy, sys.executable, "-m", "ruff", "format", "--check", *modules)
    order = [name.removeprefix("src/thalweg/") for name in modules if name.startswith("src/")]
    chosen += f" or test_architecture and (circle or table or {' or '.join(order)})"
    tests = ("tests/test_architecture.py", *tests)
    run(copy, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", chosen)


@pytest.mark.parametrize("old", ["    EarlyStopping,", "from thalweg.strategies.guard"])
def test_a_change_that_no_longer_applies_is_noticed(old: str, copy: Path) -> None:
    table = copy / "src" / "thalweg" / "strategies" / "table.py"
    text = table.read_text(encoding="utf-8")
    assert old in text
    table.write_text(text.replace(old, old + "_"), encoding="utf-8")
    (copy / "change.diff").write_text(diff_of("a strategy"), encoding="utf-8")
    with pytest.raises(AssertionError, match="patch does not apply"):
        run(copy, "git", "apply", "change.diff")


def places() -> list[tuple[str, str]]:
    """Return the files and folders that the page names, and what it says is in them; none in diffs."""
    outside = re.sub(r"^```.*\n(?:.*\n)*?```$", "", PAGE, flags=re.MULTILINE)
    spans = re.findall(r"`((?:[\w.-]+/)*[\w.-]+(?:\.(?:py|md|toml|jinja)|/))(?::(\w+))?`", outside)
    brought = {path for what in CHANGES for path in touched(diff_of(what)) if not (ROOT / path).exists()}
    return [(path, name) for path, name in spans if path not in brought and not re.search("[A-Z]{4}", path)]


@pytest.mark.parametrize(("path", "name"), places())
def test_a_place_that_is_named_is_there(path: str, name: str) -> None:
    # what isn't a path from the top is one in the package
    found = [each for each in (ROOT / path, SOURCE / path) if each.exists()]
    assert found, f"CONTRIBUTING.md names {path}, which isn't there"
    if name:
        text = found[0].read_text(encoding="utf-8")
        assert re.search(rf"^(?:(?:def|class) )?{name}\b", text, re.MULTILINE), f"{path} defines no {name}"
