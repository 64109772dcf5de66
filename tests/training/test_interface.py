"""Models that return more than a tensor train as the same models do that return the tensor alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import structured
import thalweg
from structured import LABELS, WRAPS, A, Net
from thalweg import strategies as st
from thalweg.errors import ModelError, OptionError
from thalweg.layers.interface import Interface, part_of

VALIDATION = A[60:], LABELS[60:]


def fit(model: nn.Module, **more: Any) -> Any:
    given: dict[str, Any] = {
        "loss": "cross-entropy", "optimizer": "adam", "steps": 12, "batch_size": 16, "metric": "accuracy",
        "validation": VALIDATION, "evaluations": 4, "data": (A[:60], LABELS[:60]),
    }  # fmt: skip
    given |= more
    return thalweg.fit(model, given.pop("data"), given.pop("loss"), given.pop("optimizer"), **given)


def same(one: Any, other: Any) -> bool:
    """To the bit: weights, curve, scores."""
    mine, others = one.model.state_dict(), other.model.state_dict()
    return (
        one.curve == other.curve
        and one.final == other.final
        and all(torch.equal(value, others[name]) for name, value in mine.items())
    )


def plain(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, label_smoothing=0.1)


def right(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).double().mean()


@pytest.mark.parametrize("wrap", WRAPS)
def test_the_part_is_trained_and_judged(wrap: str) -> None:
    model = Net(wrap, norm=True, drop=0.2)
    assert same(fit(model), fit(Net(norm=True, drop=0.2)))
    # the model is its author's again
    assert type(model(A)) is type(WRAPS[wrap](A, A))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("wrap", ["dataclass", "ModelOutput"])
@pytest.mark.parametrize(
    "more",
    [
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        {"loss": plain, "metric": right},
        {"loss": plain, "accumulate": 3},
        {"accumulate": 3},
        {"optimizer": "lbfgs", "steps": 3},
        {"optimizer": "gauss-newton", "steps": 3},
        {"calibrate": "temperature"},
        {"precision": "bfloat16"},
        {
            "strategies": lambda: [
                st.Averaging(kind="tail", batches=3), st.Guard(every=3), st.Clipping(norm=0.1),
                st.Initialization(scheme="orthogonal", output_bias=True),
            ]
        },
    ],
    ids=lambda more: ", ".join(more),
)  # fmt: skip
def test_everything_beside_it_sees_the_part(wrap: str, more: dict[str, Any]) -> None:
    def found(model: nn.Module) -> Any:
        given = {name: each() if name == "strategies" else each for name, each in more.items()}
        return fit(model, **given)

    one, other = found(Net(wrap, norm=True)), found(Net(norm=True))
    assert same(one, other)
    assert one.temperature == other.temperature
    assert one.notes == other.notes


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_loss_of_ones_own_gets_all_that_the_model_returns(wrap: str, accumulate: int) -> None:
    kinds = set()

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        if isinstance(outputs, Tensor):
            raise ValueError("it wants the whole")
        kinds.add(type(outputs))
        return plain(part_of(outputs), targets)

    def metric(outputs: Any, targets: Tensor) -> Tensor:
        kinds.add(type(outputs))
        return right(part_of(outputs), targets)

    found = fit(Net(wrap), loss=loss, metric=metric, accumulate=accumulate)
    assert kinds == {type(WRAPS[wrap](A, A))}
    assert same(found, fit(Net(), loss=plain, metric=right, accumulate=accumulate))
    given: dict[str, Any] = {"loss": plain, "accumulate": accumulate}
    assert same(fit(Net(wrap), **given | {"loss": loss}), fit(Net(), **given))


@pytest.mark.parametrize("output", ["b", 1, "c.logits", "c.0", lambda outputs: outputs["c"][0]])
def test_which_part_can_be_said(output: Any) -> None:
    class Several(Net):
        def forward(self, a: Tensor) -> Any:
            logits = self.answer(a, None)
            return {"a": a, "b": logits, "c": structured.Pair(logits, logits)._replace(loss=logits)}

    with pytest.raises(ModelError, match=r"returns a dict \(a, b, c\), and the loss needs one"):
        fit(Several())
    assert same(fit(Several(), output=output), fit(Net()))


def test_training_with_more_outputs_than_evaluation() -> None:
    class Auxiliary(Net):
        def forward(self, a: Tensor) -> Any:
            logits = self.answer(a, None)
            return structured.Outcome(logits, logits) if self.training is self.more else logits

    for more in (True, False):
        model = Auxiliary()
        model.more = more  # type: ignore[assignment]
        assert same(fit(model), fit(Net()))


@pytest.mark.parametrize("wrap", ["dataclass", "ModelOutput"])
def test_a_resume_goes_on_to_the_bit(wrap: str, tmp_path: Path) -> None:
    def stopping(optimizer: Any, at: int) -> Any:
        taken = 0
        step = optimizer.step

        def counted(*given: Any) -> None:
            nonlocal taken
            taken += 1
            if taken > at:
                raise KeyboardInterrupt
            step(*given)

        optimizer.step = counted
        return optimizer

    given: dict[str, Any] = {"out": tmp_path / "run", "checkpoint_seconds": 0.0}
    model = Net(wrap, drop=0.3)
    with pytest.raises(KeyboardInterrupt):
        fit(model, optimizer=stopping(torch.optim.Adam(model.parameters()), 7), **given)
    found = fit(Net(wrap, drop=0.3), optimizer=torch.optim.Adam, resume=True, **given)
    assert same(found, fit(Net(drop=0.3), optimizer=torch.optim.Adam))


BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "two candidates": (
        lambda o, h: {"start": o, "end": o}, {},
        r"the model returns a dict \(start, end\), and the loss needs one tensor of it, but which one "
        r"isn't clear; say it, as output='start'$",
    ),
    "no tensor": (lambda o, h: {"text": "a"}, {}, r"returns a dict \(text\), but .* it holds none"),
    "nothing": (lambda o, h: None, {}, "the model returns None, but the loss"),
    "near name": (lambda o, h: {"logits": o}, {"output": "logit"}, r"output='logit' isn't in .*'logits'\?$"),
    "near path": (lambda o, h: {"a": {"logits": o}}, {"output": "a.logit"}, r"did you mean 'a.logits'\?$"),
    "position": (lambda o, h: (o, h), {"output": 2}, r"output=2 isn't in .* a tuple of 2; it has 2 parts$"),
    "a nest": (lambda o, h: {"a": (o, h)}, {"output": "a"}, r"output='a' is a tuple of 2, .*output='a.0'$"),
    "no part": (lambda o, h: {"a": 3}, {"output": "a"}, r"output='a' is an int, not a tensor"),
    "function": (lambda o, h: (o, h), {"output": lambda o: 3}, "gives an int of what the model returns"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_unclear_gets_a_sentence(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrap, more, says = BAD[what]
    monkeypatch.setitem(WRAPS, "this", wrap)
    with pytest.raises(ModelError, match=says):
        fit(Net("this"), **more)


@pytest.mark.parametrize("output", [True, 1.5, "", ["logits"]])
def test_an_output_that_cant_be_one_is_refused(output: Any) -> None:
    with pytest.raises(OptionError, match=r"output is .*, but must name the part"):
        fit(Net("dict"), output=output)


def test_an_error_of_ones_own_loss_is_its_own() -> None:
    def slip(outputs: Any, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs["logit"], targets)

    with pytest.raises(KeyError, match="logit"):
        fit(Net("dict"), loss=slip)

    def other(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.log_softmax(1).nowhere()

    with pytest.raises(AttributeError, match="nowhere"):
        fit(Net("dict"), loss=other)


def test_a_model_of_plain_tensors_is_called_without_anything_around_it() -> None:
    seen: list[int] = []

    class Looking(st.Strategy):
        name, priority = "looking", 50
        settings = st.Settings()

        def after_step(self, trainer: Any) -> None:
            seen.append(len(trainer.model._forward_hooks) + len(trainer.model._forward_pre_hooks))

    fit(Net(), strategies=[Looking()])
    assert seen == [0] * 12


def test_hooks_of_the_author_stay() -> None:
    calls: list[int] = []
    model = Net("dict")
    model.register_forward_hook(lambda module, args, outputs: calls.append(len(outputs)))
    fit(model)
    assert set(calls) == {2}
    assert len(model._forward_hooks) == 1
    with Interface().attached(model):
        assert isinstance(model(A), Tensor)
    assert isinstance(model(A), dict)
