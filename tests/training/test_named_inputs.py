"""Batches that are dictionaries, or have several inputs, train as plain ones do."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

import thalweg
from structured import LABELS, A, B, Items, Joined, Net, OfOne, X, named
from thalweg.errors import DataError, ModelError, UserError
from training.test_interface import same


def fit(model: nn.Module, data: Any, **more: Any) -> Any:
    given: dict[str, Any] = {"steps": 9, "batch_size": 16, "evaluations": 3} | more
    if "validation" in given:
        given["metric"] = "accuracy"
    return thalweg.fit(model, data, "cross-entropy", given.pop("optimizer", "adam"), **given)


def batches(make: Any, size: int = 16) -> list[Any]:
    return [make(slice(begin, begin + size)) for begin in range(0, 96, size)]


class Again:
    """Batches that aren't a list."""

    def __iter__(self) -> Iterator[Any]:
        return iter(batches(lambda rows: {"a": A[rows], "b": B[rows], "y": LABELS[rows]}))


DATA: dict[str, tuple[Any, Any]] = {
    "items": (lambda: Items(named), lambda: (X, LABELS)),
    "items in pairs": (lambda: Items(lambda n: ({"a": A[n], "b": B[n]}, LABELS[n])), lambda: (X, LABELS)),
    "items in order": (lambda: Items(lambda n: ((A[n], B[n]), LABELS[n])), lambda: (X, LABELS)),
    "whole": (lambda: {"b": B, "a": A, "target": LABELS}, lambda: (X, LABELS)),
    "whole arrays": (lambda: {"b": B.numpy(), "a": A.numpy(), "y": LABELS.numpy()}, lambda: (X, LABELS)),
    "whole in pairs": (lambda: ({"a": A, "b": B}, LABELS), lambda: (X, LABELS)),
    "whole in order": (lambda: ((A, B), LABELS), lambda: (X, LABELS)),
    "loader": (
        lambda: DataLoader(Items(named), 16),
        lambda: batches(lambda rows: (X[rows], LABELS[rows])),
    ),
    "list": (
        lambda: batches(lambda rows: UserDict(a=A[rows], b=B[rows], label=LABELS[rows])),
        lambda: batches(lambda rows: (X[rows], LABELS[rows])),
    ),
    "iterable": (Again, lambda: batches(lambda rows: (X[rows], LABELS[rows]))),
}  # fmt: skip


@pytest.mark.parametrize("form", DATA)
def test_inputs_by_name_train_as_one_tensor_does(form: str) -> None:
    data, plain = (make() for make in DATA[form])
    assert same(fit(Net(), data, validation=data), fit(Joined(), plain, validation=plain))


@pytest.mark.parametrize("form", ["items", "whole", "loader"])
def test_a_model_of_one_argument_takes_the_dictionary(form: str) -> None:
    data, plain = (make() for make in DATA[form])
    assert same(fit(OfOne("dict"), data), fit(Joined(), plain))


@pytest.mark.parametrize("form", ["items", "whole", "loader"])
@pytest.mark.parametrize(
    "more", [{"accumulate": 3}, {"optimizer": "lbfgs", "steps": 3}, {"optimizer": "gauss-newton", "steps": 2}]
)
def test_parts_of_a_batch_and_second_order_steps(form: str, more: dict[str, Any]) -> None:
    data, plain = (make() for make in DATA[form])
    one = fit(Net("ModelOutput"), data, validation=data, **more)
    assert same(one, fit(Joined(), plain, validation=plain, **more))


def test_a_resume_goes_on_to_the_bit(tmp_path: Path) -> None:
    loader = DataLoader(Items(named), 16, shuffle=True)
    whole = fit(Net(drop=0.2), loader, steps=11)
    fit(Net(drop=0.2), loader, steps=11, out=tmp_path / "whole")
    half: dict[str, Any] = {"out": tmp_path / "run", "checkpoint_seconds": 0.0}

    class Stops(Net):
        calls = 0

        def forward(self, a: Tensor, b: Tensor | None = None) -> Any:
            Stops.calls += self.training
            if Stops.calls == 8:
                raise KeyboardInterrupt
            return super().forward(a, b)

    with pytest.raises(KeyboardInterrupt):
        fit(Stops(drop=0.2), loader, steps=11, **half)
    assert same(fit(Net(drop=0.2), loader, steps=11, resume=True, **half), whole)


def test_one_input_needs_no_name_that_the_model_takes() -> None:
    class OfTensor(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))

        def forward(self, inputs: Tensor) -> Any:
            return self.layers(inputs)

    items = Items(lambda n: {"pixels": X[n], "label": LABELS[n]})
    plain = fit(OfTensor(), (X, LABELS))
    assert same(fit(OfTensor(), items), plain)
    assert int(plain.model.layers[1].num_batches_tracked) == 9
    sequence = fit(OfTensor().layers, items)
    assert torch.equal(sequence.model[0].weight, plain.model.layers[0].weight)


def test_targets_of_another_name_and_numbers_beside_the_examples() -> None:
    class Scaled(Joined):
        def forward(self, x: Tensor, scale: float) -> Any:
            return super().forward(x * scale)

    data = batches(lambda rows: {"x": X[rows], "answer": LABELS[rows], "scale": 2.0})
    plain = fit(Joined(), batches(lambda rows: (2 * X[rows], LABELS[rows])), accumulate=2)
    assert same(fit(Scaled(), data, target="answer", accumulate=2), plain)


def test_labels_are_not_given_to_the_model() -> None:
    class Selfish(Net):
        def forward(self, a: Tensor, b: Tensor | None = None, labels: Tensor | None = None) -> Any:
            assert labels is None
            return super().forward(a, b)

    assert same(fit(Selfish("ModelOutput"), Items(named)), fit(Net(), Items(named)))


def ragged(items: list[Any]) -> Any:
    made = default_collate(items)
    return {**made, "b": made["b"][:-1]}


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no targets": (
        Items(lambda n: {"a": A[n], "c": LABELS[n]}), {},
        r"holds 'a', 'c', and none of it is called labels, label, .* or y; name the targets, as target='c'$",
    ),
    "two targets": (Items(lambda n: {**named(n), "y": 0}), {}, r"of which 'labels' and 'y' could be"),
    "near target": (Items(named), {"target": "label"}, r"has no 'label', .* did you mean 'labels'\?$"),
    "targets alone": (Items(lambda n: {"y": LABELS[n]}), {}, r"holds 'y' alone, which are the targets"),
    "a target for pairs": ([(X, LABELS)], {"target": "y"}, r"target='y' names the targets .* gave a pair"),
    "text": (Items(lambda n: {**named(n), "name": "me"}), {}, r"'name' holds text, such as 'me'"),
    "unknown input": (
        Items(lambda n: {**named(n), "c": 1}), {},
        r"inputs 'a', 'b', 'c', but the forward of Net doesn't take 'c'",
    ),
    "missing input": (Items(lambda n: {"b": B[n], "y": 0}), {}, r"forward of Net needs 'a' too"),
    "lengths in parts": (
        Items(named), {"collate": ragged, "accumulate": 2},
        r"a batch of 16 examples that holds a tensor of shape \[15, 3\] can't be computed in parts",
    ),
    "lengths": (Items(named), {"collate": ragged}, r"can't take inputs {a: \[16, 4\].*b: \[15, 3\]"),
    "whole lengths": ({"a": A, "b": B[:90], "y": LABELS}, {}, r"shape \[90, 3\], but there are 96 targets"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cant_be_trained_on_gets_a_sentence(what: str) -> None:
    data, more, says = BAD[what]
    with pytest.raises(UserError, match=says) as said:
        fit(Net(), data, **more)
    assert isinstance(said.value, DataError | ModelError) or "lengths" in what
    assert "\n" not in str(said.value)


def test_an_augmentation_of_images_refuses_other_inputs() -> None:
    with pytest.raises(UserError, match="images"):
        fit(Net(), Items(named), strategies={"augmentation": {"flip": 0.5}})


def test_predictions_of_an_ensemble_by_name(tmp_path: Path) -> None:
    data = {"a": A, "b": B, "y": LABELS}
    given: dict[str, Any] = {"members": 2, "epochs": 2, "hyperparameters": {"lr": 0.05}, "metric": "accuracy"}
    found = {}
    for engine in ("loop", "lanes"):
        named_inputs = thalweg.fit_ensemble(
            lambda shape, outputs: Net("dataclass"), data, "cross-entropy", "adam", validation=data,
            engine=engine, **given,
        )  # fmt: skip
        plain = thalweg.fit_ensemble(
            lambda shape, outputs: Joined(), (X, LABELS), "cross-entropy", "adam", engine=engine,
            validation=(X, LABELS), **given,
        )  # fmt: skip
        one, other = named_inputs.predict({"a": A, "b": B}), plain.predict(X)
        torch.testing.assert_close(one, other, rtol=0 if engine == "loop" else 1e-5, atol=1e-6)
        assert named_inputs.evaluation.result == pytest.approx(plain.evaluation.result)
        found[engine] = one
    torch.testing.assert_close(found["loop"], found["lanes"], rtol=1e-4, atol=1e-5)
    assert isinstance(np.asarray(found["loop"]), np.ndarray)


def test_a_distilled_model_is_judged_by_its_labels() -> None:
    """Trained on A, judged on B."""

    def soft(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, torch.softmax(targets, 1))

    teacher = Net(outputs=2)(A).detach()
    data, judged = (A, teacher), (A, LABELS)
    found = thalweg.fit(
        Net(),
        data,
        soft,
        "sgd",
        steps=5,
        validation=judged,
        validation_loss="cross-entropy",
        metric="accuracy",
    )
    outputs = found.model(A).detach()
    by_hand = F.cross_entropy(outputs, LABELS)
    assert found.final["validation_loss"] == pytest.approx(float(by_hand), rel=1e-5)
    right = (outputs.argmax(1) == LABELS).double().mean()
    assert found.final["validation"] == pytest.approx(float(right))
