"""Layers that compute their weight: the scheme draws what a plain layer would have, and it comes out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations as now
from torch.nn.utils import spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization

from thalweg.initial import initialize, set_output_bias
from thalweg.initial.normed import normed
from thalweg.strategies import Initialization

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 4),
    "conv": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2),
}
WEIGHT: dict[str, Callable[..., nn.Module]] = {"new": now.weight_norm, "old": weight_norm}
SPECTRAL: dict[str, Callable[..., nn.Module]] = {"new": now.spectral_norm, "old": spectral_norm}


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with warnings.catch_warnings():
        # torch's older norms say that they are old
        warnings.filterwarnings("ignore", ".*weight_norm.*", FutureWarning)
        yield


def made(layer: str, norm: Callable[..., nn.Module] | None, **options: Any) -> nn.Sequential:
    torch.manual_seed(3)
    one = LAYERS[layer]()
    return nn.Sequential(nn.Identity(), one if norm is None else norm(one, **options))


def inputs(layer: str) -> torch.Tensor:
    shape = (5, 6) if layer == "linear" else (2, 4, 7, 7)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", WEIGHT)
@pytest.mark.parametrize("scheme", ["he", "normalized", "sparse"])
def test_a_weight_normed_layer_begins_as_the_plain_one(layer: str, kind: str, scheme: str) -> None:
    plain, norm = made(layer, None), made(layer, WEIGHT[kind])
    options = {"k": 3} if scheme == "sparse" else {}
    initialize(plain, scheme, seed=4, bias=0.5, **options)
    result = initialize(norm, scheme, seed=4, bias=0.5, **options)
    torch.testing.assert_close(norm(inputs(layer)), plain(inputs(layer)))
    assert result.done == {"1.weight": scheme, "1.bias": "constant 0.5"}
    assert result.left == {}
    # gradients go to what the weight is computed from
    norm(inputs(layer)).sum().backward()
    assert all(p.grad is not None for p in norm.parameters())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", SPECTRAL)
@pytest.mark.parametrize("training", [True, False])
def test_a_spectral_normed_layer_is_the_drawn_weight_over_its_largest_singular_value(
    layer: str, kind: str, training: bool
) -> None:
    plain, norm = made(layer, None), made(layer, SPECTRAL[kind])
    initialize(plain, "he", seed=4)
    result = initialize(norm, "he", seed=4)
    weight = plain[1].weight.detach()
    axis = 1 if layer == "transposed" else 0
    largest = torch.linalg.matrix_norm(weight.movedim(axis, 0).flatten(1), 2)
    norm.train(training)
    torch.testing.assert_close(norm(inputs(layer)), plain(inputs(layer)) / largest, rtol=1e-4, atol=1e-5)
    assert result.done["1.weight"] == "he"
    assert result.notes == (
        "1.weight: spectral norm divides the weight by its largest singular value, so that the scheme's "
        "scale is lost",
    )


def test_patterns_and_parametrizations_that_cant_be_inverted() -> None:
    class Doubled(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    class Invertible(Doubled):
        def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
            return weight / 2

    plain, model = made("linear", None), made("linear", None)
    register_parametrization(model[1], "weight", Invertible())
    for each in (plain, model):
        initialize(each, "he", seed=0, only="1.weight")
    torch.testing.assert_close(model[1].weight, plain[1].weight)
    model = made("linear", None)
    register_parametrization(model[1], "weight", Doubled())
    before = model[1].weight.clone()
    result = initialize(model, "he", seed=0)
    assert result.left == {"1.weight": "its parametrization Doubled can't be given a weight"}
    assert torch.equal(model[1].weight, before)
    both = made("linear", lambda layer: now.spectral_norm(now.weight_norm(layer)))
    assert len(normed(both[1])["weight"].sources) == 2
    assert "1.weight" in initialize(both, "he", seed=0).done


def test_an_orthogonal_layer_says_that_it_makes_another_weight() -> None:
    model = made("linear", now.orthogonal)
    result = initialize(model, "he", seed=0)
    assert [*result.done, *result.left][0] == "1.weight"
    assert "parametrization" in " ".join([*result.notes, *result.left.values()])


@pytest.mark.parametrize("kind", ["new weight", "old weight", "new spectral", "old spectral"])
def test_the_output_bias_is_that_of_the_last_layer_under_a_norm(kind: str) -> None:
    age, which = kind.split()
    norm = (WEIGHT if which == "weight" else SPECTRAL)[age]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), norm(nn.Linear(8, 3)))
    y = torch.tensor([0] * 6 + [1] * 3 + [2])
    first = model[0].bias.clone()
    notes = Initialization(output_bias=True, bias=None).apply(model, seed=0, targets=y, activation="softmax")
    assert torch.equal(model[0].bias, first)
    torch.testing.assert_close(model[2].bias.softmax(0), torch.tensor([0.6, 0.3, 0.1]))
    model(torch.zeros(1, 5))
    norms = model[2].weight.detach().norm(dim=1)
    if which == "weight":
        assert float(norms.max()) <= 0.1 + 1e-6
        assert "were scaled down to 0.1" in notes[0]
    else:
        assert float(norms.max()) > 0.1
        assert "keep norms up to" in notes[0]
    assert set_output_bias(model[2], torch.tensor([0.6, 0.3, 0.1]), "softmax").values.shape == (3,)
