"""Stages that reconstruct their inputs, against loops written by hand; decoders that fit by themselves."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from stages.nets import Functional, ResNet, VisionTransformer, mlp
from stages.twins import batches, descend
from thalweg.errors import DataError, ModelError, OptionError
from thalweg.stages import Noise, Stage, unsupervised
from thalweg.stages.blocks import find_blocks
from thalweg.stages.decoders import Reshaped, linear_decoder

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(30, 4, dtype=torch.float64, generator=GENERATOR)
Y = (X[:, 0] > 0).long()
IMAGES = torch.rand(12, 1, 8, 8, generator=GENERATOR)
LABELS = torch.arange(12) % 3


def fixed(features: tuple[int, ...], wanted: tuple[int, ...]) -> nn.Module:
    decoder = nn.Linear(features[0], wanted[0]).double()
    with torch.no_grad():
        decoder.weight.copy_(torch.linspace(-0.5, 0.5, decoder.weight.numel()).reshape(decoder.weight.shape))
        decoder.bias.zero_()
    return decoder


def same(model: nn.Module, other: nn.Module) -> None:
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("form", ["modules", "functions"])
def test_a_denoising_step_is_as_by_hand(form: str) -> None:
    torch.manual_seed(1)
    net = mlp(4, 6, 5, 2, activation=nn.Tanh).double()
    model: Any = copy.deepcopy(net)
    if form == "functions":
        model = Functional((4, 6, 5, 2)).double()
        for one, other in zip(model.parameters(), net.parameters(), strict=True):
            one.data.copy_(other.data)
    first = model[0] if form == "modules" else model.layers[0]
    given: list[Tensor] = []
    stages = unsupervised(model, X[:4], steps=4, noise=0.3, decoder=fixed)
    first.register_forward_pre_hook(lambda module, args: given.append(args[0].clone()))
    thalweg.fit(
        model, (X, Y), "cross-entropy", "sgd", hyperparameters={"lr": 0.2}, batch_size=7, stages=stages,
        metric="accuracy", evaluations=1,
    )  # fmt: skip
    # what was given in training steps, among looks at the model beforehand
    decoder = fixed((5,), (4,))
    noises = []
    for rows in batches(30, "unsupervised", 4, 7):
        x = X[rows]
        noisy = next(
            each for each in reversed(given) if each.shape == x.shape and 0.2 < (each - x).std() < 0.4
        )
        noises.append(noisy - x)
        descend(
            [net[0].weight, net[0].bias, net[2].weight, net[2].bias, decoder.weight, decoder.bias],
            lambda x=x, noisy=noisy: (
                decoder(torch.tanh(net[2](torch.tanh(net[0](noisy))))) - x
            ).square().mean(), 0.2,
        )  # fmt: skip
    same(model, net)
    assert len({float(noise.sum()) for noise in noises}) == 4
    assert 0.25 < float(torch.cat(noises).std()) < 0.35


@pytest.mark.parametrize("form", ["modules", "functions"])
def test_layer_by_layer_is_as_by_hand(form: str) -> None:
    torch.manual_seed(1)
    net = mlp(4, 6, 5, 2, activation=nn.Tanh).double()
    model: Any = copy.deepcopy(net)
    if form == "functions":
        model = Functional((4, 6, 5, 2)).double()
        for one, other in zip(model.parameters(), net.parameters(), strict=True):
            one.data.copy_(other.data)
    stages = unsupervised(model, X[:4], steps=3, by="layers", decoder=fixed)
    assert [stage.name for stage in stages] == ["unsupervised 1", "unsupervised 2"]
    thalweg.fit(
        model, (X, Y), "cross-entropy", "sgd", hyperparameters={"lr": 0.2}, batch_size=7, stages=stages
    )
    for number, (place, before) in enumerate([(0, lambda x: x), (2, lambda x: torch.tanh(net[0](x)))], 1):
        layer, decoder = net[place], fixed((net[place].out_features,), (net[place].in_features,))
        for rows in batches(30, f"unsupervised {number}", 3, 7):
            h = before(X[rows]).detach()
            descend(
                [*layer.parameters(), *decoder.parameters()],
                lambda h=h, layer=layer, decoder=decoder: (
                    (decoder(torch.tanh(layer(h))) - h).square().mean()
                ), 0.2,
            )  # fmt: skip
    same(model, net)


def test_labels_follow_and_the_head_stays_until_then() -> None:
    torch.manual_seed(0)
    model = mlp(4, 6, 6, 2).double()
    head = copy.deepcopy(model[4].state_dict())
    stages = unsupervised(model, X[:4], epochs=2, data=X, validation=X[:8], noise=0.2, noise_kind="masking")
    thalweg.fit(
        model, (X[:10], Y[:10]), "cross-entropy", "adam", stages=stages, batch_size=5, metric="accuracy"
    )
    assert all(torch.equal(value, head[name]) for name, value in model[4].state_dict().items())
    thalweg.fit(
        model, (X[:10], Y[:10]), "cross-entropy", "adam", batch_size=5, metric="accuracy",
        validation=(X, Y), stages=[*stages, Stage(name="labels", epochs=1)],
    )  # fmt: skip
    assert list(model.state_dict()) == list(mlp(4, 6, 6, 2).state_dict())


# Noise --------------------------------------------------------------------------------------------------


def test_noise_has_the_stated_size_in_training_alone() -> None:
    torch.manual_seed(0)
    x = torch.full((400, 50), 2.0, dtype=torch.float64)
    gaussian, masking = Noise(0.5)(x), Noise(0.25, "masking")(x)
    assert abs(float((gaussian - x).std()) - 0.5) < 0.02
    torch.testing.assert_close(masking.unique(), torch.tensor([0.0, 2.0], dtype=torch.float64))
    assert abs(float((masking == 0).double().mean()) - 0.25) < 0.02
    assert Noise(0.5).eval()(x) is x


@pytest.mark.parametrize(
    ("amount", "kind"),
    [
        (-0.1, "gaussian"),
        (float("inf"), "gaussian"),
        (1.0, "masking"),
        (float("nan"), "gaussian"),
        ("0.1", "gaussian"),
        (True, "masking"),
    ],
)
def test_noise_out_of_range_is_refused(amount: Any, kind: Any) -> None:
    with pytest.raises(OptionError, match=r"noise is .*, but must be"):
        Noise(amount, kind)


# Decoders -----------------------------------------------------------------------------------------------


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 6, 3, padding="same"),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def kinds(module: nn.Module) -> list[str]:
    return [type(part).__name__ for part in module.children()]


def test_a_mirror_image_of_convolutions() -> None:
    model = convolutional()
    decoder: Any = unsupervised(model, IMAGES, steps=1)[0].build(model).decoder  # type: ignore[misc]
    assert kinds(decoder) == [
        "Linear", "Reshaped", "Reshaped", "ReLU", "ConvTranspose2d", "ReLU", "ConvTranspose2d"
    ]  # fmt: skip
    assert decoder(torch.randn(3, 5)).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    "model",
    [
        convolutional(),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 3)),
        nn.Sequential(
            nn.Conv2d(1, 4, 5, 3, dilation=1), nn.Tanh(), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(4, 3),
        ),
        ResNet(),
        VisionTransformer(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("by", ["whole", "layers"])
def test_decoders_fit_by_themselves(model: nn.Module, by: Any) -> None:
    state = copy.deepcopy(model.state_dict())
    stages = unsupervised(model, IMAGES, steps=1, by=by, noise=0.1)
    chain = find_blocks(model, IMAGES)
    assert len(stages) == (1 if by == "whole" else len(chain.blocks))
    thalweg.fit(model, (IMAGES, LABELS), "cross-entropy", "sgd", stages=stages, batch_size=6)
    assert any(not torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for name in chain.head.trains:
        assert all(
            torch.equal(value, state[key])
            for key, value in model.state_dict().items()
            if key.startswith(name)
        )


def test_images_are_resized_and_rows_fill_their_channel() -> None:
    assert torch.equal(
        Reshaped((1, 2, 4))(torch.arange(2.0).reshape(1, 1, 1, 2))[0, 0, 1], torch.tensor([0.0, 0, 1, 1])
    )
    assert Reshaped((3, 2))(torch.zeros(5, 6)).shape == (5, 3, 2)


# Bad input ----------------------------------------------------------------------------------------------


def test_bad_input_gets_a_sentence() -> None:
    model = mlp(4, 6, 6, 2).double()
    with pytest.raises(OptionError, match="by is 'all', but must be whole or layers"):
        unsupervised(model, X[:4], by="all")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="one tensor of fractions, not a dict"):
        unsupervised(model, {"x": X})
    with pytest.raises(DataError, match=r"not of type torch\.int64"):
        unsupervised(model, X.long())
    with pytest.raises(ModelError, match="would have 68,719,476,736 weights; give decoder"):
        linear_decoder((2**18,), (2**18,))
    for decoder, said in (
        (lambda f, w: nn.Linear(6, 3).double(), r"gives \[.*, 3\], but"),
        (lambda f, w: 3, "gives int"),
    ):
        stages = unsupervised(model, X[:4], steps=1, decoder=decoder)  # type: ignore[arg-type,return-value]
        with pytest.raises((ModelError, OptionError), match=said):
            thalweg.fit(model, (X, Y), "cross-entropy", "sgd", stages=stages, batch_size=8)
