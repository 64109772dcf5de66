"""The page of each finding: every part is there, and its numbers are those of the code."""

from __future__ import annotations

import ast
import re
from types import ModuleType
from xml.etree import ElementTree

import pytest

from scripts import ROOT, script
from thalweg.diagnosis import CAUSES, MECHANISMS

CODES = [*CAUSES, *MECHANISMS]
FOLDER = ROOT / "docs" / "diagnosis"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def findings() -> ModuleType:
    return script("docs/findings.py")


def test_every_code_has_a_page_and_a_picture_and_nothing_else_has(findings: ModuleType) -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.md")) == sorted(CODES)
    assert sorted(path.stem for path in findings.PICTURES.glob("*.svg")) == sorted(CODES)
    assert list(findings.THRESHOLDS) == CODES


@pytest.mark.parametrize("code", CODES)
def test_a_page_has_all_its_parts(code: str) -> None:
    text = (FOLDER / f"{code}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# `{code}`\n")
    parts = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(parts) == [
        "From where on it counts",
        "What the change gained",
        "Why there",
        "What to change",
        "When it is wrong",
    ]
    for name, part in parts.items():
        assert len(part.replace("<!-- end -->", "").strip()) > 20, name
    assert "hospital.md" in parts["What the change gained"]


@pytest.mark.parametrize("code", CODES)
def test_prose_doesnt_repeat_thresholds_that_the_code_may_change(findings: ModuleType, code: str) -> None:
    prose = (FOLDER / f"{code}.md").read_text(encoding="utf-8").partition("## Why there")[2]
    said = " ".join(
        each.sentence.removeprefix(each.said.partition("{}")[0]) for each in findings.THRESHOLDS[code]
    )
    numbers = set(re.findall(r"(?<![\w.])\d[\d,.]*\d|(?<![\w.])\d(?![\w.])", said)) - {"0", "1"}
    assert not numbers & set(re.findall(r"(?<![\w.])\d[\d,.]*\d|(?<![\w.])\d(?![\w.])", prose))


@pytest.mark.parametrize("code", CODES)
def test_a_picture_is_small_and_says_what_it_shows(code: str) -> None:
    text = (ROOT / "docs" / "images" / "findings" / f"{code}.svg").read_text(encoding="utf-8")
    assert len(text) < 30_000
    root = ElementTree.fromstring(text)
    title = root.find(f"{SVG}title")
    assert title is not None
    assert title.text
    assert len(title.text) > 60
    assert list(root.iter(f"{SVG}path"))
    page = (FOLDER / f"{code}.md").read_text(encoding="utf-8")
    # what can't be seen can be read
    assert f"![{title.text.replace('[', '(').replace(']', ')')}](../images/findings/{code}.svg)" in page


def test_a_threshold_is_the_codes(findings: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import thalweg.diagnosis.mechanisms as place

    (one, *_) = (each for each in findings.THRESHOLDS["cliff"] if each.place == "mechanisms:_CLIFF")
    monkeypatch.setattr(place, "_CLIFF", 77.0)
    assert one.value == 77.0
    assert "77" in one.sentence
    gone = findings.Threshold("over {}", "mechanisms:_on_the_way", "mine < _ + other")
    with pytest.raises(LookupError, match="0 places"):
        _ = gone.value


@pytest.mark.parametrize(
    ("pattern", "code", "found"),
    [
        ("x > _", "if x > 3 and x > -4 and y > 5: pass", [3, -4]),
        ("_ if deep else ...", "w = (0.9 if deep else 0.5 if other else 0.1)", [0.9]),
        ("... if deep else _", "w = 0.9 if deep else 0.5", [0.5]),
        ("(high, _)", "for a in ((high, ((30, 0.9), (8, 0.8))), (low, 1)): pass", [((30, 0.9), (8, 0.8))]),
        ("x > _", "x > y", []),
        ("max(_, ...)", "min(1, 2), max(3, f(x)), max(4)", [3]),
    ],
)
def test_a_pattern_finds_the_number_that_stands_in_an_expression(
    findings: ModuleType, pattern: str, code: str, found: list[object]
) -> None:
    assert list(findings.matches(pattern, ast.parse(code))) == found


def test_what_was_gained_is_counted_from_the_hospitals_results(
    findings: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(code: str, **gain: list[float]) -> dict[str, object]:
        return {"findings": [{"code": code}], "gain": {"code": code, **gain} if gain else None}

    rows = (
        row("depth", unchanged=[0.1, 0.3], remedied=[0.8, 0.6], generic=[0.9, 0.9]),
        row("depth", unchanged=[0.5, 0.5], remedied=[0.5, 0.5], generic=[0.4, 0.4]),
        row("depth", unchanged=[0.3, 0.3], remedied=[0.9, 0.9], generic=[0.9, 0.9]),
        row("labels"),
    )
    rows = tuple({name: value for name, value in each.items() if value is not None} for each in rows)
    monkeypatch.setattr(findings, "_rows", lambda: rows)
    said = findings.measured("depth")
    assert "In 3 trainings" in said
    assert "over 2 seeds" in said
    assert "from 0.30 to 0.70" in said
    assert "no change in 2 of 3" in said
    assert "scaled inputs in 2 of 3, which reached 0.90" in said
    assert "said of 1 of its 4 trainings" in findings.measured("labels")
