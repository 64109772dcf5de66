"""Disagreement and ambiguity against their definitions, and the identity of Krogh and Vedelsby."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as hs

from thalweg.averaging import ambiguity, disagreement
from thalweg.calibration.assessment import brier_score
from thalweg.errors import OptionError


def test_disagreement_is_counted_pair_by_pair() -> None:
    labels = torch.randint(0, 4, (6, 50), generator=torch.Generator().manual_seed(0))
    found = disagreement(labels)
    for a in range(6):
        for b in range(6):
            differ = sum(int(labels[a, i] != labels[b, i]) for i in range(50))
            assert float(found[a, b]) == differ / 50
    assert found.dtype == torch.float64


@settings(max_examples=30, deadline=None)
@given(hs.integers(1, 9), hs.integers(1, 30), hs.integers(0, 3), hs.integers(0, 999))
def test_the_ensembles_error_is_the_members_less_their_ambiguity(
    members: int, rows: int, outputs: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, outputs) if outputs else (rows,)
    predictions = torch.randn(members, *shape, generator=generator, dtype=torch.float64)
    targets = torch.randn(*shape, generator=generator, dtype=torch.float64)
    found = ambiguity(predictions, targets)
    assert found.ensemble == pytest.approx(found.member - found.ambiguity, abs=1e-12)
    # step by step
    mean = sum(predictions[m] for m in range(members)) / members
    each = [float((predictions[m] - targets).pow(2).sum()) / rows for m in range(members)]
    apart = [float((predictions[m] - mean).pow(2).sum()) / rows for m in range(members)]
    assert found.member == pytest.approx(sum(each) / members, abs=1e-12)
    assert found.ambiguity == pytest.approx(sum(apart) / members, abs=1e-12)
    assert found.ensemble == pytest.approx(float((mean - targets).pow(2).sum()) / rows, abs=1e-12)
    assert found.ambiguity >= 0


def test_of_probabilities_it_is_the_brier_score() -> None:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(5, 40, 3, generator=generator, dtype=torch.float64).softmax(-1)
    y = torch.randint(0, 3, (40,), generator=generator)
    found = ambiguity(p, torch.nn.functional.one_hot(y, 3))
    assert found.ensemble == pytest.approx(brier_score(p.mean(0), y))
    assert found.member == pytest.approx(sum(brier_score(one, y) for one in p) / 5)


def test_independent_errors_average_out() -> None:
    """Of M uncorrelated errors of variance v the ensemble keeps v/M, and the ambiguity is v(1 - 1/M)."""
    errors = torch.randn(16, 200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = ambiguity(errors, torch.zeros(200_000))
    assert found.ensemble == pytest.approx(1 / 16, rel=0.02)
    assert found.ambiguity == pytest.approx(15 / 16, rel=0.02)


def test_what_is_refused() -> None:
    with pytest.raises(OptionError, match="give class numbers"):
        disagreement(torch.zeros(3))
    with pytest.raises(OptionError, match="don't go with targets"):
        ambiguity(torch.zeros(3, 4), torch.zeros(5))
    with pytest.raises(OptionError, match="don't go with targets"):
        ambiguity(torch.zeros(3), torch.zeros(()))
