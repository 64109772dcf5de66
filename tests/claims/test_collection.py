"""Every claim: its parts are there, and set-ups whose verdict is known come out as they must, both ways."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from thalweg.claims import TOPICS, Known, get, judge, names
from thalweg.claims.picture import Dots, draw
from thalweg.randomness.generators import own_generators

_ROOT = Path(__file__).parents[2]
_CASES = [(name, place) for name in names() for place in range(len(get(name).known))]


def _known(name: str, place: int) -> Known:
    return get(name).known[place]


@pytest.mark.parametrize(("name", "place"), _CASES, ids=[f"{name}-{place}" for name, place in _CASES])
def test_a_known_set_up_comes_out_as_it_must(name: str, place: int) -> None:
    claim, known = get(name), _known(name, place)
    seeds = range(1 if claim.exact else known.seeds)
    numbers = {}
    for condition in known.conditions or claim.conditions:
        with own_generators(0, name):
            numbers[condition] = claim.measured(seeds, condition, known.changes)
    judged = judge(claim, numbers)
    assert judged.verdict == known.verdict, list(judged.conditions)
    svg = draw(claim.picture, numbers, claim.title, exact=claim.exact)
    assert svg.startswith("<svg")
    assert "nan" not in re.sub(r"<title>.*?</title>", "", svg)


@pytest.mark.parametrize("name", names())
def test_a_claim_can_come_out_either_way(name: str) -> None:
    claim = get(name)
    found = {known.verdict for known in claim.known}
    assert "does not hold" in found
    assert found & {"holds", "holds under named conditions"}


@pytest.mark.parametrize("name", names())
def test_a_claim_has_all_its_parts(name: str) -> None:
    claim = get(name)
    assert claim.topic in TOPICS
    ids = set(re.findall(r"^\| \*\*(\w+)\*\*", (_ROOT / "docs/sources.md").read_text(), re.MULTILINE))
    assert claim.sources
    assert set(claim.sources) <= ids
    assert re.search(r"\b[NKSUC]\b", claim.places)
    for text in (claim.title, claim.statement, claim.setup, claim.against, claim.about):
        assert len(text) > 10
    assert not claim.title.endswith(".")
    for text in (claim.statement, claim.setup, claim.against, claim.about):
        assert text.endswith(".")


@pytest.mark.parametrize("name", names())
def test_what_is_judged_is_drawn(name: str) -> None:
    claim = get(name)
    drawn = claim.picture.values if isinstance(claim.picture, Dots) else claim.picture.curves
    assert drawn
    assert all(len(label) <= 40 for label in drawn.values())
