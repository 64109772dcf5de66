"""The cases of the hospital are what they say; a sample of ``make hospital``."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from hospital.__main__ import written
from hospital.case import CAUSES, Case, score
from hospital.cases import CASES
from hospital.generated import drawn
from hospital.judge import examined
from hospital.table import named, rank, wilson
from hospital.training import judged, step_once, trained

ROOT = Path(__file__).parents[2]


def by(**values: bool) -> list[Case]:
    return [case for case in CASES.values() if all(getattr(case, k) is v for k, v in values.items())]


def test_there_are_as_many_as_promised() -> None:
    assert len(by(healthy=False, pair=False)) >= 60
    assert len(by(pair=True)) >= 12
    assert len(by(healthy=True)) >= 60
    assert 2 * len(by(odd=True)) >= len(by(healthy=True))
    roots = {case.causes[0] for case in CASES.values() if case.causes}
    assert roots >= set(CAUSES)


@pytest.mark.parametrize("part", range(4))
def test_a_step_of_each_case_runs_or_raises_as_it_says(part: int) -> None:
    for case in list(CASES.values())[part::4]:
        given = case.make(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if case.raises:
                with pytest.raises((RuntimeError, ValueError, IndexError)):
                    step_once(given, 0)
                continue
            loss = step_once(given, 0)
        # what is no number from the first step on comes from data that are none, or a loss without a guard
        assert math.isfinite(loss) or {"input-values", "loss-function"} & set(case.causes), case.name
        torch.manual_seed(0)
        found = judged(given.model(), given.read, given)
        assert -1 <= found <= 1, case.name


@pytest.mark.parametrize(
    "name", ["softmax over one unit, BCELoss", "wine as measured, SGD", "SGD at 20, wine"]
)
def test_a_case_is_sick_and_its_twin_is_not(name: str) -> None:
    case = CASES[name]
    assert trained(case.cured(0), 0) > trained(case.make(0), 0) + 0.1


def test_draws_are_the_same_each_time() -> None:
    for number in range(8):
        (name, made, good), (again, anew, _) = drawn(3, number), drawn(3, number)
        assert name == again
        assert torch.equal(made(0).x, anew(0).x)
        assert step_once(made(0), 1) == step_once(anew(0), 1)
        assert math.isfinite(step_once(good(0), 1))


def test_scores() -> None:
    targets = torch.tensor([0, 1, 1, 1])
    assert score("accuracy", torch.tensor([0, 0, 1, 1]), targets) == 0.75
    assert score("balanced", torch.tensor([1, 1, 1, 1]), targets) == 0.5
    assert score("labels", torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]])) == 1
    numbers = torch.tensor([[1.0], [2.0], [4.0]])
    assert score("r2", numbers, numbers) == 1
    assert score("r2", numbers.mean().expand(3, 1), numbers) == pytest.approx(0)
    assert score("r2", torch.full((3, 1), math.nan), numbers) == -1


def test_intervals_and_ranks() -> None:
    # from the closed form, by hand
    low, high = wilson(15, 20)
    assert low == pytest.approx(0.5313, abs=2e-4)
    assert high == pytest.approx(0.8881, abs=2e-4)
    assert wilson(0, 0) == (0, 1)
    row = {
        "causes": ["labels"],
        "findings": [
            {"code": "labels", "severity": "advice"},
            {"code": "depth", "severity": "risk"},
            {"code": "labels", "severity": "error"},
        ],
    }
    assert rank(row) == 2
    assert rank(row | {"causes": ["order"]}) is None


SAMPLE = (
    "softmax over one unit, BCELoss",
    "softmax, then cross-entropy, wine",
    "raw outputs into NLLLoss",
    "no sigmoid before BCELoss",
    "one output for three targets",
    "outputs [n, 1] against targets [n]",
    "loss with a wrong sign",
    "SGD at 20, wine",
    "wine as measured, SGD",
    "two epochs, regression",
    "only the last bias goes to the optimizer",
    "holes in the table (NaN)",
    "sorted by target, not shuffled, regression",
    "Three irises as measured, Adam",
    "digits with AdamW",
    "log-softmax before cross-entropy",
    "MSE on probabilities",
    "logistic regression",
)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_is_diagnosed(name: str) -> None:
    case = CASES[name]
    row = examined(case, 0, gain=False)
    assert "crashed" not in row, row
    if case.healthy:
        assert named(row) == []
    else:
        assert rank(row) in (1, 2), row["findings"]


def test_a_remedy_is_tried_against_none_and_the_generic_one() -> None:
    gain = examined(CASES["softmax over one unit, BCELoss"], 0, seeds=(0,))["gain"]
    assert gain["code"] == "output-activation"
    assert gain["remedied"][0] > max(gain["unchanged"][0], gain["generic"][0]) + 0.2


def test_the_page_is_that_of_the_results() -> None:
    lines = (ROOT / "hospital" / "results" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = sorted((json.loads(line) for line in lines), key=lambda row: (row["name"], row["seed"]))
    assert (ROOT / "docs" / "hospital.md").read_text(encoding="utf-8") == written(rows)
    # what its first tables say has to stay so
    ill, well = [row for row in rows if row["causes"]], [row for row in rows if not row["causes"]]
    assert not any("crashed" in row for row in rows)
    assert sum((rank(row) or 9) <= 2 for row in ill) >= 0.75 * len(ill)
    assert sum(bool(named(row)) for row in well) <= 0.05 * len(well)
