"""A model that doesn't take the data: one sentence from every verb, and nothing else is called so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg import averaging, layers
from thalweg.averaging import averaged_probabilities
from thalweg.errors import DataError, ModelError, UserError
from thalweg.layers.passing import outputs_of
from thalweg.strategies import rate_range_test
from thalweg.training.evaluate import score

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long()


class Own(nn.Module):
    """A person's own module, whose forward does what it is told."""

    def __init__(self, does: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 2)
        self.does = does

    def forward(self, x: Any) -> Any:
        return self.does(self.inner, x)


class Masked(Own):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return self.does(self.inner, x * mask)


def unpacking(inner: nn.Module, x: Tensor) -> Tensor:
    _batch, _channels, _height, _width = x.shape
    return inner(x)


def without_gradients(inner: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = x.view(7, -1)
    return inner(x)


MISFITS: dict[str, tuple[Callable[[], nn.Module], Tensor, type[UserError], str]] = {
    "width": (
        lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), X, ModelError,
        r"^the model Sequential can't take inputs of shape \[\d+, 5\] and type torch.float32: its layer "
        r"'0', Linear\(in_features=4, .*\), takes 4 numbers along the last axis, not 5 \(mat1 and mat2 "
        r"shapes cannot be multiplied.*; make the layer for 5, or give inputs with 4$",
    ),
    "width within": (
        lambda: nn.Sequential(nn.Linear(5, 8), nn.Linear(4, 2)), X, ModelError,
        r"its layer '1', Linear\(in_features=4, .*not 8 .*; make the layer for 8, or let what comes before "
        "it give 4$",
    ),
    "flatten": (
        lambda: nn.Linear(5, 2), X.repeat(1, 2).reshape(64, 1, 10), ModelError,
        r"the model Linear can't .*\[\d+, 1, 10\].*: it takes 5 numbers along the last axis, not 10",
    ),
    "images into linear": (
        lambda: nn.Sequential(nn.Linear(25, 2)), X.reshape(64, 1, 5, 1).expand(64, 1, 5, 5), ModelError,
        r"takes 25 numbers along the last axis, not 5 .*; put nn.Flatten\(\) before it$",
    ),
    "long into linear": (
        lambda: nn.Linear(5, 2), (X * 4).long(), DataError,
        r"^the inputs are torch.int64, but the model's weights are torch.float32; make fractions of them",
    ),
    "double": (
        lambda: nn.Linear(5, 2), X.double(), DataError,
        r"^the inputs are torch.float64, but .*; give inputs.to\(torch.float32\), or train model.to\(",
    ),
    "whole numbers by function": (
        lambda: Own(lambda inner, x: F.linear(x, inner.weight)), (X * 4).long(), DataError,
        r"^the inputs are torch.int64, but the model's weights are torch.float32",
    ),
    "long into convolution": (
        lambda: nn.Sequential(nn.Conv1d(1, 2, 5), nn.Flatten()), X.long().unsqueeze(1), DataError,
        r"^the inputs are torch.int64, but the model's weights are torch.float32",
    ),
    "floats into embedding": (
        lambda: nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(15, 2)), X, ModelError,
        r"its layer '0', Embedding\(9, 3\), takes whole numbers, not torch.float32 .*; give inputs.long\(\)",
    ),
    "numbers beyond an embedding": (
        lambda: nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(15, 2)),
        torch.full((64, 5), 9), ModelError,
        r"Embedding\(9, 3\), takes numbers from 0 to 8, not 9 .*; make the layer for 10, or renumber ",
    ),
    "axes of a convolution": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 2)), X, ModelError,
        r"its layer '0', Conv2d\(.*\), takes \[batch, 1, height, width\], not \[\d+, 5\]",
    ),
    "no axis of channels": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2)), X.reshape(64, 5, 1, 1)
        .expand(64, 5, 5, 1)[..., 0], ModelError,
        r"Conv2d\(.*\), takes \[batch, 1, height, width\], not \[\d+, 5, 5\] .*inputs.unsqueeze\(1\)",
    ),
    "channels last": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 2)),
        X.reshape(64, 5, 1, 1).expand(64, 5, 5, 1), ModelError,
        r"takes \[batch, 1, height, width\], not \[\d+, 5, 5, 1\] .*; give inputs.movedim\(-1, 1\)",
    ),
    "recurrent": (
        lambda: nn.Sequential(nn.GRU(4, 2)), X, ModelError,
        r"GRU\(4, 2\), takes 4 numbers along the last axis, not 5",
    ),
    "features of a norm": (
        lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(5, 2)), X, ModelError,
        r"BatchNorm1d\(4, .*\), takes 4 features along axis 1, not 5",
    ),
    "a view in code of one's own": (
        lambda: Own(lambda inner, x: inner(x.view(7, -1))), X, ModelError,
        r"the model Own can't .* \(in line \d+ of test_misfits.py: shape '\[7, -1\]' is invalid .*\); "
        "give inputs of the shape and type that it is made for, or change the model",
    ),
    "a view in a with": (lambda: Own(without_gradients), X, ModelError, r"can't take inputs of shape"),
    "unpacking a shape": (
        lambda: Own(unpacking), X, ModelError, r"in line \d+ of test_misfits.py: not enough values to unpack"
    ),
    "another argument": (
        lambda: Masked(lambda inner, x: inner(x)), X, ModelError,
        r"forward\(\) missing 1 required positional argument: 'mask'",
    ),
}  # fmt: skip


def by_fit(model: nn.Module, x: Tensor) -> object:
    return thalweg.fit(model, (x, Y), "cross-entropy", "sgd", epochs=1)


def by_fit_validated(model: nn.Module, x: Tensor) -> object:
    return thalweg.fit(model, (x, Y), "cross-entropy", "sgd", epochs=1, validation=(x, Y))


def by_parts_of_a_loader(model: nn.Module, x: Tensor) -> object:
    loader = DataLoader(TensorDataset(x, Y), 16)
    return thalweg.fit(model, loader, "cross-entropy", "sgd", steps=1, accumulate=2)


def by_closure(model: nn.Module, x: Tensor) -> object:
    return thalweg.fit(model, (x, Y), "cross-entropy", "lbfgs", epochs=1)


def by_graph(model: nn.Module, x: Tensor) -> object:
    return thalweg.fit(model, (x, Y), "cross-entropy", "newton", epochs=1)


def by_outputs(model: nn.Module, x: Tensor) -> object:
    return thalweg.fit(model, (x, Y), "cross-entropy", "gauss-newton", epochs=1)


def by_range_test(model: nn.Module, x: Tensor) -> object:
    return rate_range_test(model, [(x, Y)], F.cross_entropy, torch.optim.SGD(model.parameters(), lr=0.1))


def by_members(model: nn.Module, x: Tensor) -> object:
    return thalweg.fit_ensemble(model, (x, Y), "cross-entropy", "sgd", members=2, epochs=1)


def by_score(model: nn.Module, x: Tensor) -> object:
    return score(model, [(x, Y)], F.cross_entropy, None, nullcontext)


def by_prediction(model: nn.Module, x: Tensor) -> object:
    return averaged_probabilities([model], x)


def by_average(model: nn.Module, x: Tensor) -> object:
    return averaging.Averaged(model)(x)


def by_samples(model: nn.Module, x: Tensor) -> object:
    return layers.sampled_prediction(model, x, samples=2)


VERBS = [
    by_fit, by_fit_validated, by_parts_of_a_loader, by_closure, by_graph, by_outputs, by_range_test,
    by_members, by_score, by_prediction, by_average, by_samples,
]  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_model_that_doesnt_take_the_data_gets_one_sentence(misfit: str) -> None:
    make, x, kind, words = MISFITS[misfit]
    for verb in (by_fit, by_range_test):
        with pytest.raises(kind, match=words) as caught:
            verb(make(), x)
        assert caught.value.__cause__ is not None
        assert not isinstance(caught.value.__cause__, UserError)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_every_verb_says_it(verb: Callable[[nn.Module, Tensor], object]) -> None:
    for misfit in ("width", "long into linear", "a view in code of one's own"):
        make, x, kind, words = MISFITS[misfit]
        with pytest.raises(kind, match=words):
            verb(make(), x)


def test_statistics_of_batch_norm_say_it() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with pytest.raises(ModelError, match="takes 4 numbers along the last axis, not 5"):
        averaging.estimate_batch_norm(model, [X])


def test_a_later_batch_that_doesnt_fit_says_it() -> None:
    ragged = [(X[:8], Y[:8]), (X[:8, :4], Y[:8])]
    with pytest.raises(ModelError, match=r"inputs of shape \[8, 4\].* takes 5 numbers"):
        thalweg.fit(nn.Linear(5, 2), ragged, "cross-entropy", "sgd", epochs=1)


def test_inputs_in_nests_are_described() -> None:
    model = Own(lambda inner, x: inner(x["a"]))
    with pytest.raises(ModelError, match=r"inputs \{a: \[2, 4\] torch.float32, b: int\}"):
        outputs_of(model, {"a": torch.ones(2, 4), "b": 3})


class Mine(Exception):
    pass


class MineToo(RuntimeError):
    pass


def raising(problem: BaseException) -> Callable[[nn.Module, Tensor], Tensor]:
    def does(inner: nn.Module, x: Tensor) -> Tensor:
        raise problem

    return does


def asserting(inner: nn.Module, x: Tensor) -> Tensor:
    assert x.shape[1] == 17, "seventeen"
    return inner(x)


THEIRS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], type[BaseException]]] = {
    "an exception of their own": (raising(Mine("mine")), Mine),
    "one that is a RuntimeError": (raising(MineToo("mine")), MineToo),
    "a ValueError that they raise": (raising(ValueError("mine")), ValueError),
    "a RuntimeError that they raise": (raising(RuntimeError("mine")), RuntimeError),
    "an assertion": (asserting, AssertionError),
    "a name that isn't there": (lambda inner, x: inner(x) + undefined, NameError),  # type: ignore[name-defined]  # noqa: F821
    "an attribute that isn't there": (lambda inner, x: inner.missing(x), AttributeError),
    "a division by 0": (lambda inner, x: inner(x) / (1 // 0), ZeroDivisionError),
    "a key": (lambda inner, x: {}["missing"], KeyError),
    "an interruption": (raising(KeyboardInterrupt()), KeyboardInterrupt),
    "memory": (raising(MemoryError()), MemoryError),
    "memory of a device": (raising(torch.OutOfMemoryError("out of memory")), torch.OutOfMemoryError),
    "memory for a tensor": (lambda inner, x: inner(torch.empty(2**60) + x), RuntimeError),
    "endless calls": (lambda inner, x: endless(x), RecursionError),
    "a sentence of ours": (raising(DataError("ours")), DataError),
}  # fmt: skip


def endless(x: Tensor) -> Tensor:
    return endless(x)


@pytest.mark.parametrize("what", THEIRS)
def test_what_isnt_the_datas_stays_what_it_is(what: str) -> None:
    does, kind = THEIRS[what]
    for verb in (by_fit, by_fit_validated, by_range_test, by_prediction):
        with pytest.raises(kind) as caught:
            verb(Own(does), X)
        assert caught.type is kind


def test_memory_that_runs_out_is_no_misfit_of_a_race_either() -> None:
    does, kind = THEIRS["memory of a device"]
    with pytest.raises(kind):
        by_members(Own(does), X)
