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
    assert [each.code for each in found] == ["saddle"]
    assert cost > 0
    known, base = ended(
        setup(nn.Linear(4, 1), (X, Y), nn.MSELoss(), lambda p: torch.optim.SGD(p, lr=1e-6)), 60
    )
    assert curved(known, base, seed=0)[0] == []


def test_noise_of_small_batches_is_told() -> None:
    noise = torch.randn(len(X), 1, generator=torch.Generator().manual_seed(3))
    known, base = ended(setup(nn.Linear(4, 1), (X, noise), nn.MSELoss(), batch_size=4), 400)
    assert "gradient-noise" in [each.code for each in curved(known, base, seed=0)[0]]
    clean = nn.Linear(4, 1)
    known, base = ended(setup(clean, (X, X[:, :1]), nn.MSELoss(), lambda p: torch.optim.SGD(p, lr=1e-6)), 5)
    assert "gradient-noise" not in [each.code for each in curved(known, base, seed=0)[0]]


def scaled_columns(largest: float) -> torch.Tensor:
    """Columns whose mean squares are 1 but for the first's."""
    x = torch.linalg.qr(torch.randn(240, 12, generator=torch.Generator().manual_seed(1)))[0] * 240**0.5
    return x * torch.tensor([largest, *[1.0] * 11])


@pytest.mark.parametrize(("largest", "optimizer", "said"), [
    (100.0, lambda p: torch.optim.SGD(p, lr=3e-5), True),
    (5.0, lambda p: torch.optim.SGD(p, lr=1e-2), False),
    (100.0, lambda p: torch.optim.Adam(p, lr=1e-2), False),
])  # fmt: skip
def test_directions_that_differ_in_steepness_are_told(largest: float, optimizer: Any, said: bool) -> None:
    """The matrix of a linear model is its inputs' second moments; Adam divides by each gradient's size."""
    x = scaled_columns(largest)
    # what is to be learnt lies along a column of size 1
    known, base = ended(setup(nn.Linear(12, 1, bias=False), (x, x[:, 1:2]), nn.MSELoss(), optimizer), 20)
    found = [each for each in curved(known, base, seed=0)[0] if each.code == "ill-conditioned"]
    assert bool(found) is said
    if said:
        number = float(found[0].evidence[0].split("curves ")[1].split(" ")[0].replace(",", ""))
        rows = x[known.held.rows].double()
        exact = torch.linalg.eigvalsh(rows.T @ rows).flip(0)
        # of half of the examples at a time, by which those of 1 spread
        assert 0.5 < number / float(exact[0]) * len(rows) < 3
        assert found[0].severity == "advice"
        assert found[0].remedy is not None
        changed = found[0].remedy.apply(known.setup)
        assert type(changed.start(0)[1]).__name__ == "Adam"


def test_dead_units_are_not_taken_for_noise() -> None:
    """What is left of the gradient where outputs are constant is that of biases."""
    model = net(3)
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    known, base = ended(setup(model, (X, THREE), nn.CrossEntropyLoss(), batch_size=4), 60)
    assert "gradient-noise" not in [each.code for each in curved(known, base, seed=0)[0]]


def test_a_diagnosis_says_where_the_rate_lies() -> None:
    found = thalweg.diagnose(
        net(3), (X, THREE), nn.CrossEntropyLoss(), lambda p: torch.optim.SGD(p, lr=200.0), batch_size=32,
        epochs=4, budget=2000,
    )  # fmt: skip
    first = found.findings[0]
    assert first.code == "learning-rate-high"
    assert any("times the bound of stability" in line for line in first.evidence)
    assert len(first.evidence) == len(set(first.evidence))
