"""Averaging at test time: means over draws and crops, as outputs that losses and ensembles take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from thalweg import layers
from thalweg.averaging import Averaged, averaged_probabilities
from thalweg.data import augmentation
from thalweg.errors import DataError, OptionError

IMAGES = torch.rand(5, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def network(*, outputs: int = 3, pool: bool = False) -> nn.Module:
    torch.manual_seed(1)
    start: list[nn.Module] = [layers.FractionalMaxPool2d(output_ratio=0.7)] if pool else []
    return nn.Sequential(*start, nn.Flatten(), nn.LazyLinear(16), nn.Dropout(0.5), nn.Linear(16, outputs))


def made(**options: Any) -> nn.Module:
    model = network(**options)
    model(IMAGES)
    return model


def test_samples_are_those_of_sampled_prediction() -> None:
    for pool in (False, True):
        model = made(pool=pool)
        sampled = layers.sampled_prediction(
            model, IMAGES, samples=12, seed=4, transform=lambda outputs: outputs.softmax(-1)
        )
        averaged = Averaged(model, samples=12, seed=4)
        torch.testing.assert_close(averaged(IMAGES).softmax(-1), sampled.mean)
        each = torch.stack(list(averaged.draws(IMAGES)))
        torch.testing.assert_close(each.std(0).float(), sampled.spread)
        assert bool((sampled.spread > 0).all())


def test_fractional_pooling_is_averaged_over_its_regions() -> None:
    """Many draws of regions at random come near their exact mean: here, that of all pairs of a fine grid."""
    pool = layers.FractionalMaxPool2d(output_ratio=0.7)
    averaged = Averaged(pool, samples=3000, activation="identity")
    grid = (torch.arange(60) + 0.5) / 60
    samples = torch.cartesian_prod(grid, grid)[:, None, :]
    images = IMAGES[:1].expand(len(samples), -1, -1, -1)
    pooled = nn.functional.fractional_max_pool2d(
        images, (2, 2), output_ratio=(0.7, 0.7), _random_samples=samples.contiguous()
    )
    exact = pooled.mean(0)
    torch.testing.assert_close(averaged(IMAGES[:1])[0], exact, atol=0.03, rtol=0)


@pytest.mark.parametrize("count", [5, 10])
def test_crops_are_averaged_as_probabilities(count: Any) -> None:
    pytest.importorskip("kornia")
    model = made()
    found = Averaged(model, crops=count, window=0.8)(IMAGES)
    model.eval()
    views = augmentation.crops(IMAGES, count, window=0.8)
    expected = torch.stack([model(view).softmax(-1) for view in views]).mean(0)
    torch.testing.assert_close(found.softmax(-1), expected)


def test_draws_and_crops_together() -> None:
    pytest.importorskip("kornia")
    averaged = Averaged(made(), samples=4, crops=5)
    each = torch.stack(list(averaged.draws(IMAGES)))
    assert each.shape == (4, 5, 3)
    torch.testing.assert_close(averaged(IMAGES).double().softmax(-1), each.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("activation", "outputs"), [("softmax", 3), ("sigmoid", 1), ("identity", 2)])
def test_without_anything_it_is_the_model(activation: Any, outputs: int) -> None:
    model = made(outputs=outputs).train()
    found = Averaged(model, activation=activation)(IMAGES)
    assert model.training
    model.eval()
    expected = model(IMAGES)
    if activation == "softmax":
        expected = expected.log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_probabilities_near_zero_and_one_stay_finite() -> None:
    cases: list[tuple[Any, list[float], float]] = [
        ("softmax", [200.0, -200.0], 0.0), ("sigmoid", [200.0], 1.0), ("sigmoid", [-200.0], -1.0)
    ]  # fmt: skip
    for activation, outputs, sign in cases:
        model = nn.Linear(1, len(outputs))
        with torch.no_grad():
            model.weight.zero_()
            model.bias.copy_(torch.tensor(outputs))
        found = Averaged(model, activation=activation)(torch.zeros(1, 1))
        assert bool(found.isfinite().all())
        assert float(found[0, 0].sign()) == sign


def test_an_ensemble_takes_it_as_a_member() -> None:
    members = [Averaged(made(), samples=6, seed=seed) for seed in (0, 1)]
    found = averaged_probabilities(members, IMAGES)
    torch.testing.assert_close(found, torch.stack([m(IMAGES).softmax(-1) for m in members]).mean(0))


def test_what_is_refused() -> None:
    with pytest.raises(OptionError, match="averaging: samples is 1, but must be greater than or equal to 2"):
        Averaged(made(), samples=1)
    with pytest.raises(OptionError, match="averaging: crops is 3, but must be 1, 5 or 10"):
        Averaged(made(), crops=3)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="activation = 'relu' isn't known"):
        Averaged(made(), activation="relu")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="crops are of images"):
        Averaged(nn.Linear(3, 2), crops=5)(torch.zeros(4, 3))
