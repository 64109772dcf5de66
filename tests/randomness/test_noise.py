"""Noise against Box and Muller's transform in float64, and Numba's bits against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from thalweg.randomness import noise as module
from thalweg.randomness.noise import noise
from thalweg.randomness.streams import bits


def by_torch(lanes: int, count: int, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setattr(module, "_kernel", lambda: None)
    return noise(lanes, count, seed=7, stream="s", step=5)


@pytest.mark.parametrize("way", ["numba", "torch"])
def test_it_is_the_transform_of_the_words(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = noise(3, 4001, seed=7, stream="s", step=5) if way == "numba" else by_torch(3, 4001, monkeypatch)
    for lane in range(3):
        words = bits((4004,), seed=7, stream="s", step=5, lane=lane).numpy()
        u = ((words[0::2] >> 1) + 0.5) / 2**31
        radius, angle = np.sqrt(-2 * np.log(u)), 2 * np.pi * words[1::2] / 2**32
        expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(-1)[:4001]
        np.testing.assert_allclose(found[lane].numpy(), expected, rtol=2e-6, atol=2e-6)


def test_numba_and_torch_come_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(module, "_AT_ONCE", 5000)
    found = noise(2, 50_001, seed=7, stream="s", step=5)
    assert torch.equal(found, by_torch(2, 50_001, monkeypatch))


def test_the_farthest_words_are_finite() -> None:
    words = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
    radius = module._radius(words)
    assert radius.tolist()[0] == pytest.approx(np.sqrt(2 * 32 * np.log(2)), rel=1e-6)
    assert radius.tolist()[-1] == 0
    assert radius.isfinite().all()
    one, other = module._circle(words)
    torch.testing.assert_close(one.square() + other.square(), torch.ones(6))


def test_draws_are_normal_and_independent() -> None:
    drawn = noise(4, 50_000, seed=1, stream="s").double()
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3
    together = torch.cat([drawn, noise(4, 50_000, seed=1, stream="s", step=1).double()])
    off = torch.corrcoef(torch.cat([together, together.roll(1, 1)])) - torch.eye(16)
    # sixteen series of 50,000: the largest of 120 correlations stays under five standard errors
    assert float(off.abs().max()) < 5 / 50_000**0.5


def test_a_draw_depends_on_seed_stream_step_and_lane_alone() -> None:
    first = noise(2, 9, seed=1, stream="s", step=2)
    torch.manual_seed(3)
    assert torch.equal(noise(5, 6, seed=1, stream="s", step=2)[:2], first[:, :6])
    for other in ({"seed": 2}, {"stream": "t"}, {"step": 3}):
        assert not torch.equal(noise(2, 9, **{"seed": 1, "stream": "s", "step": 2, **other}), first)  # type: ignore[arg-type]
    assert not torch.equal(first[0], first[1])
