"""A small sample of ``make faults``: nothing is lost, whatever is done to a training."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from faults import pairs, recipes, scenarios
from faults.table import page
from faults.workshop import Workshop

from thalweg import strategies

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes")
ROOT = Path(__file__).parent.parent


# what others do is tried, one by one, in the tests of recipes, of resuming and of races
SAMPLE = (
    scenarios.killed, scenarios.damaged, scenarios.full_disk, scenarios.together, pairs.killed_of_two,
)  # fmt: skip


@pytest.mark.parametrize("scenario", SAMPLE, ids=lambda scenario: scenario.__name__)
def test_nothing_is_lost(scenario: scenarios.Scenario, tmp_path: Path) -> None:
    shop = Workshop(tmp_path, kills=2, work=0.15, forked=True, beside=1)
    rows = scenario(shop)
    assert rows
    for row in rows:
        assert row.lost == [], row.tried


def test_recipes_draw_every_strategy() -> None:
    assert set(recipes.STRATEGIES) == set(strategies.names())


def test_the_page_is_that_of_the_results() -> None:
    results = json.loads((ROOT / "faults" / "results.json").read_text(encoding="utf-8"))
    assert all(row["lost"] == [] for row in results["rows"])
    kills = sum(row["times"] for row in results["rows"] if "SIGKILL" in row["tried"])
    assert kills >= 50
    text = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
    assert text.endswith(page(results["rows"], "")[1:])
