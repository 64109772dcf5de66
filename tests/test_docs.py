"""The documents say what the code says: generated parts, the fields of results.json, the rows of sources."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from thalweg.racing import results
from thalweg.strategies.table import STRATEGIES

ROOT = Path(__file__).parent.parent
RECORDS = {
    name: record
    for name in results.__all__
    if isinstance(record := getattr(results, name), type) and issubclass(record, BaseModel)
}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_up_to_date(generate: ModuleType) -> None:
    stale = [
        path.relative_to(ROOT).as_posix()
        for path, text in generate.pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run: make docs"


def sections() -> dict[str, list[str]]:
    """Return record name to the fields in the first column of its table."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    found = {}
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
        found[part.split("`")[1]] = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    return found


def test_every_record_of_results_has_a_section() -> None:
    assert set(sections()) == set(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_of_results_is_explained(name: str) -> None:
    fields = sections()[name]
    assert len(fields) == len(set(fields))
    assert set(fields) == set(RECORDS[name].model_fields)


def test_sources_have_a_row_for_every_id_and_their_code_exists() -> None:
    text = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1] for row in re.findall(r"^\| \*\*(\w+)\*\* \|([^|]*)\|", text, re.MULTILINE)}
    expected = [
        *(f"O{n}" for n in range(1, 17)),
        *(f"R{n}" for n in range(1, 6)),
        "R7",
        *(f"I{n}" for n in range(1, 10)),
    ]
    expected += ["D1", "D2", "D3", "A4", "A5", "A7", "A8", "A1", "A2", "A3", "R8", "R9"]
    assert list(rows) == [*(f"E{n}" for n in range(1, 5)), *expected]
    for identity, places in rows.items():
        named = re.findall(r"`([\w.]+):(\w+)`", places)
        assert named, f"{identity} names no code"
        for module, name in named:
            assert hasattr(importlib.import_module(f"thalweg.{module}"), name), f"{identity}: {module}:{name}"


def test_every_strategy_has_a_card_with_its_settings() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    cards = dict(re.findall(r"^### ([a-z-]+)\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL))
    assert list(cards) == list(STRATEGIES)
    for name, (_, settings) in STRATEGIES.items():
        missing = [field for field in settings.model_fields if f"`{field}`" not in cards[name]]
        assert not missing, f"{name} has settings that its card doesn't tell of"
