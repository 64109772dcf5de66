"""The page of the diagnosis has a section for each code, in the order of the code."""

from __future__ import annotations

import re

from scripts import ROOT
from thalweg.diagnosis import CAUSES, MECHANISMS

TEXT = (ROOT / "docs" / "diagnosis.md").read_text(encoding="utf-8")


def test_every_code_has_a_section_and_nothing_else_has() -> None:
    parts = dict(re.findall(r"^## (Causes|Mechanisms)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
    for heading, codes in (("Causes", CAUSES), ("Mechanisms", MECHANISMS)):
        assert re.findall(r"^### (.+)$", parts[heading], re.MULTILINE) == list(codes)


def test_a_cause_says_what_to_change_and_when_it_is_wrong() -> None:
    sections = dict(re.findall(r"^### ([a-z-]+)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL))
    for code in CAUSES:
        assert "Change: " in sections[code] or code == "batch-small", code
        assert re.search(r"[Ww]rong", sections[code]), code
