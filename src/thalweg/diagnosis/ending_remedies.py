"""Remedies of a last layer and its loss: a function left out, another loss, another number of outputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from thalweg.diagnosis import changes
from thalweg.diagnosis.changes import Change, then
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Remedy
from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.trace import Operation

__all__ = [
    "RANGES",
    "around_loss",
    "as_classifier",
    "changed_call",
    "class_loss",
    "interval",
    "left_out",
    "logits_loss",
    "of_one_unit",
    "several_hold",
    "share_outside",
    "with_loss",
    "with_targets",
    "without",
]

RANGES = {
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "softmax": (0.0, 1.0),
    "softplus": (0.0, math.inf),
    "hardsigmoid": (0.0, 1.0),
    "hardtanh": (-1.0, 1.0),
    "softsign": (-1.0, 1.0),
    "logsigmoid": (-math.inf, 0.0),
    "log_softmax": (-math.inf, 0.0),
}


def left_out(fed: Operation) -> Change:
    """Leave a call out of the model."""
    return changed_call(fed, lambda x: x)


def changed_call(op: Operation, other: Callable[[Tensor], Tensor]) -> Change:
    """Let another function stand in for a call, of the model or of the loss."""
    call = {(op.name, op.occurrence): other}
    return changes.rewritten_loss(call) if op.of_loss else changes.rewritten(call)


def _where(fed: Operation) -> str:
    """Say which part of the model calls it, as it is written in Python: ``model.layers[2]``."""
    parts = fed.path.split(".") if fed.path else []
    written = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts)
    return f" (model{written})" if parts else ""


def without(fed: Operation, words: str, also: Change | None = None) -> Remedy:
    """Return the remedy of leaving a function out of the model, or of the loss it is called in."""
    change = left_out(fed)
    return Remedy(
        text=f"leave out {fed.name} at the end of the model{_where(fed)}: {words}",
        change=change if also is None else then(change, also),
        code=f"- {fed.name}(...)",
    )


def with_loss(function: Callable[[Any, Any], Tensor]) -> Change:
    """Use another loss."""
    return lambda setup: setup.with_(loss=function, named_loss=None)


def around_loss(wrapped: Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]]) -> Change:
    """Wrap the loss that there is, which a change before this one may have changed."""
    return lambda setup: setup.with_(loss=wrapped(setup.loss), named_loss=None)


def with_targets(change: Callable[[Any], Any]) -> Change:
    """Give the loss other targets."""

    def encoded(setup: Setup) -> Setup:
        before = setup.encode
        return setup.with_(encode=lambda targets: change(before(targets)))

    return encoded


def of_one_unit(facts: Facts, fed: Operation) -> Remedy:
    """Return the remedy of a softmax over a single unit."""
    if facts.judge.kind == "classes" and facts.judge.classes > 2:
        return as_classifier(facts, "give the last layer an output for each class", left_out(fed))
    if facts.judge.kind == "classes":
        return Remedy(
            text="leave softmax out, and use binary cross-entropy of logits",
            code="nn.BCEWithLogitsLoss()",
            change=then(left_out(fed), with_loss(logits_loss(facts))),
        )
    return without(fed, "a number that is predicted needs none")


def logits_loss(facts: Facts) -> Callable[[Any, Any], Tensor]:
    """Return binary cross-entropy of logits, whatever values stand for the two classes."""
    judge = facts.judge

    def loss(outputs: Any, targets: Any) -> Tensor:
        found = judge.numbers(targets)
        assert found is not None
        flat = outputs.reshape(-1)
        return F.binary_cross_entropy_with_logits(flat, found.to(flat.dtype))

    return loss


def class_loss(facts: Facts) -> Callable[[Any, Any], Tensor]:
    """Return cross-entropy, whatever values stand for the classes and wherever their axis is."""
    judge = facts.judge

    def loss(outputs: Any, targets: Any) -> Tensor:
        found = judge.numbers(targets)
        assert found is not None
        if outputs.ndim > 2 and outputs.shape[0] * math.prod(outputs.shape[1:-1]) != len(found):
            outputs = outputs.movedim(1, -1)
        return F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), found)

    return loss


def as_classifier(facts: Facts, words: str, also: Change | None = None) -> Remedy:
    """Return the remedy of a last layer with an output for each class, and cross-entropy."""
    traced = facts.traced
    assert traced is not None
    last = [n for n in traced.weights if traced.operations[n].kind == "weights"]
    if not last:
        return Remedy(text=f"{words}, and use cross-entropy")
    layer = changes.new_last_layer(traced.operations[last[-1]].parameters, facts.judge.classes)
    new = then(layer, with_loss(class_loss(facts)))
    return Remedy(
        text=f"{words} ({facts.judge.classes}), and use cross-entropy",
        change=new if also is None else then(also, new),
        code=f"nn.Linear(..., {facts.judge.classes}) and nn.CrossEntropyLoss()",
    )


def interval(name: str) -> str:
    """Say in words where a function can give values."""
    low, high = RANGES[name]
    if math.isinf(high):
        return f"above {low:g}"
    return f"between {low:g} and {high:g}"


def several_hold(targets: Tensor) -> float:
    """Mean number of classes that hold for an example; 0 where it is one each, or shares of one."""
    if targets.ndim != 2 or not bool(((targets == 0) | (targets == 1)).all()):
        return 0.0
    held = targets.sum(1)
    return float(held.double().mean()) if bool((held > 1).any()) else 0.0


def share_outside(facts: Facts, low: float, high: float) -> float:
    """Share of targets that a function's outputs can't come near."""
    targets, spread = facts.setup.targets, facts.targets.spread if facts.targets else 0.0
    if not isinstance(targets, Tensor):
        return 0.0
    values = facts.setup.encode(targets).double()
    near = 0.02 * spread
    return float(((values < low - near) | (values > high + near)).double().mean())
