"""What curvature says beside a finding, against what is known of small problems."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.diagnosis.cases import facts, inputs, net, numbers, setup, three_classes
from torch import nn

import thalweg
from thalweg.diagnosis.curved import curved, rate_against_bound
from thalweg.diagnosis.facts import gather
from thalweg.diagnosis.trial import train

X = inputs()
THREE, Y = three_classes(X), numbers(X)


@pytest.mark.parametrize(("rate", "momentum"), [(0.1, 0.0), (10.0, 0.0), (1.0, 0.9)])
def test_the_rate_lies_where_the_dense_matrix_says(rate: float, momentum: float) -> None:
    model = nn.Linear(4, 1, bias=False)
    x = X[:, :4]
    found = facts(model, (x, Y), nn.MSELoss(), lambda p: torch.optim.SGD(p, lr=rate, momentum=momentum))
    said, cost = rate_against_bound(found, seed=0)
    used = x[found.held.rows].double()
    sharpest = float(torch.linalg.eigvalsh(2 * used.T @ used / len(used)).max())
    ratio = rate * sharpest / (2 * (1 + momentum))
    assert cost > 0
    number = float(said.split("the rate is ")[1].split(" ")[0])
    assert number / (1 if ratio > 1 else 100) == pytest.approx(ratio, rel=0.06)
    assert ("times the bound" in said) == (ratio > 1)


def test_what_has_no_bound_says_nothing() -> None:
    assert rate_against_bound(facts(net(1), (X, Y), "mse", "lbfgs"), seed=0) == ("", 0.0)


def ended(given: Any, steps: int) -> tuple[Any, Any]:
    known = gather(given, seed=0)
    return known, train(given, known.judge, known.held, steps=steps, keep=True)


def test_a_saddle_is_told_by_the_direction_that_leads_out() -> None:
    """At weights near zero the loss of two layers has as much curvature down as up."""
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Tanh(), nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e-6)
    known, base = ended(
        setup(model, (X, Y - Y.mean()), nn.MSELoss(), lambda p: torch.optim.SGD(p, lr=1e-3)), 60
    )
    found, cost = curved(known, base, seed=0)
    assert [code for code, _ in found] == ["saddle"]
    assert cost > 0
    known, base = ended(
        setup(nn.Linear(4, 1), (X, Y), nn.MSELoss(), lambda p: torch.optim.SGD(p, lr=1e-6)), 60
    )
    assert curved(known, base, seed=0)[0] == []


def test_noise_of_small_batches_is_told() -> None:
    noise = torch.randn(len(X), 1, generator=torch.Generator().manual_seed(3))
    known, base = ended(setup(nn.Linear(4, 1), (X, noise), nn.MSELoss(), batch_size=4), 400)
    assert "gradient-noise" in [code for code, _ in curved(known, base, seed=0)[0]]
    clean = nn.Linear(4, 1)
    known, base = ended(setup(clean, (X, X[:, :1]), nn.MSELoss(), lambda p: torch.optim.SGD(p, lr=1e-6)), 5)
    assert "gradient-noise" not in [code for code, _ in curved(known, base, seed=0)[0]]


def test_a_diagnosis_says_where_the_rate_lies() -> None:
    found = thalweg.diagnose(
        net(3), (X, THREE), nn.CrossEntropyLoss(), lambda p: torch.optim.SGD(p, lr=200.0), batch_size=32,
        epochs=4, budget=2000,
    )  # fmt: skip
    first = found.findings[0]
    assert first.code == "learning-rate-high"
    assert any("times the bound of stability" in line for line in first.evidence)
    assert len(first.evidence) == len(set(first.evidence))
