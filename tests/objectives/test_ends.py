"""Metrics of targets near the ends of float64's range."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import thalweg
from thalweg import objectives
from thalweg.commands import app
from thalweg.errors import DataError
from thalweg.objectives import Task

TASK = Task(kind="regression", spread=2.0, center=3.0, scale=1.7)
TARGETS = torch.randn(50, generator=torch.Generator().manual_seed(0))
OUTPUTS = TARGETS[:, None] + 0.3 * torch.randn(50, 1, generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.arange(50.0) % 4


def scored(name: str, task: Task) -> float:
    metric = objectives.metric(name, task)
    return float(metric.score(metric.reduce(OUTPUTS, TARGETS), TARGETS, WEIGHTS))


@pytest.mark.parametrize("power", [-1000, -700, 0, 600, 1000])
def test_a_unit_changes_no_bit_of_a_metric(power: int) -> None:
    """In units of a power of two nothing may change but the exponent."""
    far = replace(TASK, center=float(np.ldexp(3.0, power)), scale=float(np.ldexp(1.7, power)))
    for name in ("rmse", "mae"):
        assert scored(name, far) == float(np.ldexp(scored(name, TASK), power))
    assert scored("r2", far) == scored("r2", TASK)


def test_metrics_are_those_of_the_definition() -> None:
    """To the bit those of the plain formula, which knows no unit."""
    own = [3.0 + 1.7 * part.double() for part in (OUTPUTS[:, 0], TARGETS)]
    squares = (WEIGHTS.double() * (own[0] - own[1]).square()).sum() / WEIGHTS.double().sum()
    assert scored("rmse", TASK) == pytest.approx(float(squares.sqrt()), rel=1e-15)


@pytest.mark.parametrize("factor", [1e200, 1e-300])
def test_a_metric_of_ones_own_sees_what_there_is(factor: float) -> None:
    def within(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return float(((outputs[:, 0] - targets).abs() < 0.5 * factor).double().mean())

    far = replace(TASK, center=3 * factor, scale=1.7 * factor)
    metric = objectives.metric(within, far)
    expected = float((1.7 * (OUTPUTS[:, 0] - TARGETS).abs() < 0.5).double().mean())
    assert 0 < expected < 1
    assert float(metric.score(metric.reduce(OUTPUTS, TARGETS), TARGETS)) == expected


@pytest.mark.parametrize("factor", [1e200, 1e-300])
def test_such_a_target_is_trained_and_predicted_but_not_raced(
    factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    a = rng.normal(size=60)
    rows = [f"{x},{(2 * x + 3) * factor!r}" for x in a.tolist()]
    (tmp_path / "t.csv").write_text("\n".join(["a,y", *rows]))
    with pytest.raises(DataError, match=r"standard deviation of .*give the target in another unit"):
        thalweg.race("linear", "t.csv", target="y", out="race")
    (tmp_path / "r.toml").write_text(
        'version = 1\ndata = {spec = "t.csv", target = "y"}\nmodel.spec = "linear"\n'
        'optimizer = {name = "adam", lr = 0.1}\ntraining = {batch_size = 12, epochs = 60}\n'
    )
    results = thalweg.train("r.toml", out="trained")
    assert 0 < (results.result["test"] or 0) < 0.2 * factor
    assert app.run(["predict", "trained", "--data", "t.csv", "--out", "p.csv"]) == 0
    predicted = np.loadtxt("p.csv", skiprows=1)
    np.testing.assert_allclose(predicted / factor, 2 * a + 3, atol=0.3)
