from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from thalweg.curvature.vectors import Space


def tensors(seed: int, lanes: int | None = None) -> list[Tensor]:
    rng = np.random.default_rng(seed)
    lead = () if lanes is None else (lanes,)
    return [torch.from_numpy(rng.standard_normal((*lead, *shape))) for shape in ((2, 3), (), (0,), (4,))]


def test_alone_is_the_flat_vector() -> None:
    space, a, b = Space(), tensors(0), tensors(1)
    flat_a, flat_b = space.ravel(a, "x"), space.ravel(b, "x")
    assert flat_a.shape == (11,)
    torch.testing.assert_close(space.dot(a, b), flat_a @ flat_b)
    torch.testing.assert_close(space.norm(a), flat_a.norm())
    torch.testing.assert_close(space.norm_1(a), flat_a.abs().sum())
    torch.testing.assert_close(space.norm_max(a), flat_a.abs().max())
    torch.testing.assert_close(space.ravel(space.add(a, 0.5, b), "x"), flat_a + 0.5 * flat_b)
    for back, tensor in zip(space.unravel(flat_a, a), a, strict=True):
        assert torch.equal(back, tensor)


def test_each_lane_is_the_vector_alone() -> None:
    space, alone, a, b = Space(3), Space(), tensors(0, 3), tensors(1, 3)
    scalars = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
    added = space.add(a, scalars, b)
    for k in range(3):
        a_k, b_k = [t[k] for t in a], [t[k] for t in b]
        torch.testing.assert_close(space.dot(a, b)[k], alone.dot(a_k, b_k))
        for name in ("norm", "norm_1", "norm_max"):
            torch.testing.assert_close(getattr(space, name)(a)[k], getattr(alone, name)(a_k))
        for mine, theirs in zip(added, alone.add(a_k, scalars[k], b_k), strict=True):
            torch.testing.assert_close(mine[k], theirs)
    mask = torch.tensor([True, False, True])
    for mine, p, q in zip(space.where(mask, a, b), a, b, strict=True):
        assert torch.equal(mine[1], q[1])
        assert torch.equal(mine[2], p[2])


def test_nan_is_seen() -> None:
    assert Space().norm_max([torch.tensor([1.0, torch.nan]), torch.ones(2)]).isnan()
    lanes = Space(2).norm_max([torch.tensor([[1.0, torch.nan], [1.0, 2.0]])])
    assert lanes.isnan().tolist() == [True, False]


def test_scalars_take_the_type_of_the_tensor() -> None:
    mixed = [torch.ones(2), torch.ones(2, dtype=torch.float64)]
    space = Space()
    assert space.dtype(mixed) == torch.float64
    added = space.add(mixed, space.dot(mixed, mixed), mixed)
    assert [t.dtype for t in added] == [torch.float32, torch.float64]
