"""An optimizer over parameters that aren't the model's, and what else a range test is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg.errors import DataError, OptionError
from thalweg.strategies import rate_range_test

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def by_fit(model: nn.Module, optimizer: Any, loss: Any = F.cross_entropy) -> list[str]:
    return thalweg.fit(model, (X, Y), loss, optimizer, epochs=1).notes


def by_range_test(model: nn.Module, optimizer: Any, loss: Any = F.cross_entropy) -> list[str]:
    rate_range_test(model, [(X, Y)], loss, optimizer, steps=5)
    return []


VERBS = pytest.mark.parametrize("verb", [by_fit, by_range_test])


@VERBS
def test_an_optimizer_of_another_model_is_refused(verb: Callable[..., object]) -> None:
    with pytest.raises(OptionError, match=r"holds none of the model's parameters; make it over model.param"):
        verb(network(), sgd(network().parameters()))


def test_a_function_that_makes_one_over_another_model_is_refused() -> None:
    other = network()
    with pytest.raises(OptionError, match="holds none of the model's parameters"):
        by_fit(network(), lambda parameters: sgd(other.parameters()))


@VERBS
@pytest.mark.parametrize("make", [sgd, lambda p: torch.optim.LBFGS(p), lambda p: thalweg.optim.Newton(p)])
def test_a_layer_that_was_replaced_afterwards_is_refused(verb: Any, make: Any) -> None:
    model = network()
    optimizer = make(model.parameters())
    model[2] = nn.Linear(4, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    if verb is by_range_test and make is not sgd:
        with pytest.raises(OptionError, match="calls a closure"):
            verb(model, optimizer)
        return
    with pytest.raises(
        OptionError,
        match=r"parameters of shape \[2, 4\], \[2\] that .*doesn't hold the model's 2.weight, 2.bias",
    ):
        verb(model, optimizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_parameters_that_nobody_uses_are_said_and_train_the_rest() -> None:
    model = network()
    notes = by_fit(model, sgd([*model.parameters(), nn.Parameter(torch.ones(3))]))
    (said,) = [note for note in notes if "parameters of shape [3]" in note]
    assert said.endswith("have a part in the loss: they stay as they are")


@VERBS
def test_parameters_of_a_loss_are_legitimate(verb: Callable[..., list[str]]) -> None:
    model, scale = network(), nn.Parameter(torch.ones(()))

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = scale

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(self.scale * outputs, targets)

    for loss in (lambda z, y: F.cross_entropy(scale * z, y), Scaled()):
        before = scale.item()
        assert verb(model, sgd([*model.parameters(), scale]), loss) == []
        assert (scale.item() != before) is (verb is by_fit)


@VERBS
def test_a_part_of_the_model_alone_is_legitimate(verb: Callable[..., list[str]]) -> None:
    model = network()
    frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    assert verb(model, sgd([*model[2].parameters(), frozen])) == []


def test_looking_at_strangers_draws_nothing() -> None:
    def trained(foreign: bool) -> Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
        more = [nn.Parameter(torch.ones(3))] if foreign else []
        thalweg.fit(
            model, (X, Y), "cross-entropy", sgd([*model.parameters(), *more]), epochs=2, batch_size=16,
            accumulate=2,
        )  # fmt: skip
        return torch.cat([value.flatten().double() for value in model.state_dict().values()])

    assert torch.equal(trained(False), trained(True))


# What a range test takes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "function", "targets"),
    [
        ("cross-entropy", F.cross_entropy, Y),
        ("mse", lambda z, y: F.mse_loss(z.mean(1), y), X[:, 0]),
        ("bce", lambda z, y: F.binary_cross_entropy_with_logits(z[:, 1] - z[:, 0], y), Y.float()),
    ],
)
def test_losses_by_name_are_the_functions(name: str, function: Any, targets: Tensor) -> None:
    def found(loss: Any) -> tuple[float, ...]:
        model = network()
        if name == "mse":
            model = nn.Sequential(model, nn.AdaptiveAvgPool1d(1))
        return rate_range_test(model, [(X, targets)], loss, sgd(model.parameters()), steps=6).losses

    usual = found(function if name != "mse" else lambda z, y: F.mse_loss(z[:, 0], y))
    assert found(name) == pytest.approx(usual, rel=1e-6)
    with pytest.raises(OptionError, match="there is no loss 'cross-entrpy'; did you mean"):
        found("cross-entrpy")


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([{"x": X, "z": Y}], "none of it is called labels"),
        ([X], "has to be a pair.*Tensor"),
        ([(X, Y, Y)], "has to be a pair.*tuple"),
        ([(X, Y.tolist())], "whose targets are a tensor"),
        (7, "batches are of type int; give an iterable of"),
    ],
)
def test_batches_that_are_none_get_a_sentence(batches: Any, words: str) -> None:
    model = network()
    with pytest.raises(DataError, match=words):
        rate_range_test(model, batches, "cross-entropy", sgd(model.parameters()))


def test_inputs_in_dictionaries_and_classes_of_any_type_are_fine() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            out: Tensor = self.inner(batch["x"])
            return out

    model = Reads()
    found = rate_range_test(model, [({"x": X}, Y.int())], "cross-entropy", sgd(model.parameters()), steps=5)
    assert len(found.losses) > 1
    loader = DataLoader(TensorDataset(X, Y.float().unsqueeze(1)), 16)
    model = network()
    assert rate_range_test(model, loader, nn.CrossEntropyLoss(), sgd(model.parameters()), steps=5).losses


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda model: torch.optim.LBFGS(model.parameters()), "LBFGS calls a closure"),
        (lambda model: thalweg.optim.GaussNewton(model.parameters()), "GaussNewton calls a closure"),
        (lambda model: "adam", "the optimizer is 'adam'; give one that is made over the model's"),
    ],
)
def test_optimizers_without_a_range_of_rates_get_a_sentence(make: Any, words: str) -> None:
    model = network()
    with pytest.raises(OptionError, match=words):
        rate_range_test(model, [(X, Y)], F.cross_entropy, make(model))


def test_a_loss_that_no_parameter_has_a_part_in_gets_a_sentence() -> None:
    model = network()
    with pytest.raises(OptionError, match="doesn't depend on any parameter that is trained"):
        rate_range_test(model, [(X, Y)], lambda z, y: z.detach().sum() * np.e, sgd(model.parameters()))
