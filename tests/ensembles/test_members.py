"""What members of an ensemble are trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thalweg.ensembles.train import bootstrap


def test_a_bootstrap_is_one_and_each_member_s_own() -> None:
    one, other = bootstrap(4000, seed=1), bootstrap(4000, seed=2)
    assert torch.equal(one, bootstrap(4000, seed=1))
    assert not torch.equal(one, other)
    assert 0 <= int(one.min()) <= int(one.max()) < 4000
    # Poisson(1) in the limit: 1/e never, 1/e once
    counts = torch.bincount(one, minlength=4000)
    for times in (0, 1):
        assert float((counts == times).double().mean()) == pytest.approx(np.exp(-1), abs=0.03)
