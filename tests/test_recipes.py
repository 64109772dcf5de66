"""The recipes that come with the project, and the table of what their parts gain."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

import thalweg
from scripts import ROOT, script
from thalweg import recipe

RECIPES = sorted((ROOT / "recipes").glob("*.toml"))


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return script("benchmarks/recipes.py")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_carried_out(path: Path, tmp_path: Path, bench: ModuleType) -> None:
    whole = recipe.read(path)
    assert recipe.loads(recipe.dumps(whole)) == whole
    results = thalweg.train(path, changes=bench.QUICK, out=tmp_path / "run")
    assert results.result["test"] is not None
    assert (tmp_path / "run" / "report.html").is_file()


def test_both_recipes_are_of_the_same_network_and_length() -> None:
    full, plain = (recipe.read(ROOT / "recipes" / f"fashion-mnist{end}.toml") for end in ("", "-plain"))
    assert full.model.spec == plain.model.spec
    assert full.data == plain.data
    assert full.training == plain.training
    assert plain.optimizer.hyperparameters == {}
    assert not plain.strategies.given()


def test_each_row_takes_one_part_out(bench: ModuleType) -> None:
    rows = {row: bench.read(row, 0) for row in bench.ROWS}
    whole = rows[bench.WHOLE]
    assert len({bench.digest(each) for each in rows.values()}) == len(rows)
    plain = rows[bench.BARE]
    for row in bench.IN:
        assert rows[row].data == plain.data
        assert rows[row].training == plain.training
    for row, each in rows.items():
        if row.startswith("without ") and " and " not in row:
            tables = [
                table for table in type(each).model_fields if getattr(each, table) != getattr(whole, table)
            ]
            assert len(tables) == 1, row
    assert bench.digest(bench.read(bench.WHOLE, 1)) != bench.digest(whole)


def test_a_table_is_made_and_taken_up_again(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    some = {row: bench.ROWS[row] for row in (bench.WHOLE, "without batch norm", bench.BARE)}
    for rows, chosen in (("ROWS", some), ("OUT", some), ("IN", {})):
        monkeypatch.setattr(bench, rows, chosen)
    file = tmp_path / "results.json"
    call = ["--quick", "--workers", "0", "--results", str(file)]
    bench.main([*call, "--seeds", "1"])
    assert len(json.loads(file.read_text())["runs"]) == 3
    trained: list[tuple[str, int]] = []
    inner = bench.run
    monkeypatch.setattr(bench, "run", lambda row, seed, _: trained.append((row, seed)) or inner(row, seed, _))
    bench.main([*call, "--seeds", "2"])
    assert trained == [(row, 1) for row in some]
    said = capsys.readouterr().out
    assert said.count("| without batch norm |") == 2
    # another recipe's runs don't count
    bench.main([*call, "--seeds", "1", "--set", "training.batch_size=64"])
    assert [each["seed"] for each in json.loads(file.read_text())["runs"]] == [0, 0, 0]


def made_up(bench: ModuleType, rows: dict[str, np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    return [
        {"row": row, "seed": seed, "test": value, "validation": value + 0.01}
        for row, values in rows.items()
        for seed, value in enumerate(values)
    ]


def test_the_numbers_of_the_table(bench: ModuleType) -> None:
    draws = np.random.default_rng(0)
    whole, less = 0.92 + 0.002 * draws.standard_normal(5), 0.91 + 0.002 * draws.standard_normal(5)
    added = "plain Adam and dropout"
    runs = made_up(bench, {bench.WHOLE: whole, "without dropout": less, bench.BARE: less, added: whole})
    line = next(x for x in bench.table(runs).splitlines() if x.startswith("| without dropout"))
    found = stats.ttest_rel(whole, less)
    low, high = found.confidence_interval(0.95)
    mean = 100 * (whole - less).mean()
    assert f"{100 * less.mean():.2f} ± {100 * less.std(ddof=1):.2f}" in line
    assert line.count(f"{mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})") == 2
    assert line.endswith("| 5 |")
    # what is added gains as much there
    assert f"| {added} |" in bench.table(runs)
    assert bench.table(runs).count(f"{mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})") == 6


def test_the_docs_hold_the_table_of_the_committed_results(bench: ModuleType) -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "recipes.json").read_text())
    text = (ROOT / "docs" / "recipes.md").read_text()
    assert bench.write(text, results["runs"]) == text
    # and the results are of the recipes as they are
    assert len(bench.kept(ROOT / "benchmarks" / "results" / "recipes.json", [])) == len(results["runs"])
    trained = {(each["row"], each["seed"]) for each in results["runs"]}
    parts = [row for row in bench.OUT if row.startswith("without ") and " and " not in row]
    assert len(parts) == 6
    assert {(row, seed) for row in (bench.WHOLE, bench.BARE, *parts) for seed in range(5)} <= trained
