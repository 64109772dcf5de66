"""What the losses of classes expect of outputs and targets."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from thalweg.diagnosis.changes import then
from thalweg.diagnosis.ending_remedies import (
    RANGES,
    around_loss,
    as_classifier,
    class_loss,
    interval,
    left_out,
    logits_loss,
    several_hold,
    with_loss,
    with_targets,
    without,
)
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Remedy
from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.suspicion import Suspicion
from thalweg.diagnosis.trace import Operation

__all__ = ["binary_cross_entropy", "cross_entropy", "divergence", "negative_likelihood"]


def _classes_there(facts: Facts) -> tuple[int, int] | None:
    """The lowest and highest class number, where targets are whole numbers."""
    targets = facts.targets
    if targets is None or not targets.whole:
        return None
    return int(targets.low), int(targets.high)


def cross_entropy(facts: Facts, fed: Operation | None) -> Iterator[Suspicion]:
    """Say what is wrong with outputs and targets of cross-entropy."""
    outputs, targets = facts.outputs, facts.batch_targets
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return
    # of what reaches the loss, which the person's function may have turned
    shape = facts.compared.shapes[0] if facts.compared is not None else tuple(outputs.shape)
    width = shape[1] if len(shape) > 1 else shape[0]
    numbers = not targets.dtype.is_floating_point
    ends = _classes_there(facts)
    if len(shape) > 1 and width == 1:
        if facts.judge.kind == "classes" and facts.judge.classes == 2:
            remedy = Remedy(
                text="use binary cross-entropy of logits, or give the last layer two outputs",
                code="nn.BCEWithLogitsLoss()",
                change=then(
                    *([left_out(fed)] if fed is not None and fed.kind == "softmax" else []),
                    with_loss(logits_loss(facts)),
                ),
            )
        else:
            twice = left_out(fed) if fed is not None and fed.kind == "softmax" else None
            remedy = as_classifier(facts, "give the last layer an output for each class", twice)
        yield Suspicion(
            code="output-units",
            weight=1,
            certain=True,
            title="cross-entropy is given one output, whose probability is always 1",
            evidence=("the loss is 0 and its gradient exactly zero, whatever the model computes",),
            remedy=remedy,
        )
        return
    if numbers and ends is not None and ends[0] != -100 and (ends[1] >= width or ends[0] < 0):
        if ends == (1, width):
            yield Suspicion(
                code="labels",
                weight=1,
                certain=True,
                title=f"classes are numbered from 1 to {width}, and cross-entropy counts from 0",
                evidence=(f"the model has {width} outputs, and the largest class number is {width}",),
                remedy=Remedy(
                    text="subtract 1 from the class numbers",
                    code="targets - 1",
                    change=then(with_targets(lambda given: given - 1), _counted_from_one),
                ),
            )
        yield Suspicion(
            code="output-units",
            weight=0.9 if ends == (1, width) else 1,
            certain=ends != (1, width),
            title=f"there are {width} outputs, but class numbers go from {ends[0]} to {ends[1]}",
            evidence=(facts.problem,) if facts.problem else (),
            remedy=as_classifier(facts, "give the last layer an output for each class"),
        )
        return
    if numbers and facts.problem and targets.ndim == len(shape) == 2 and targets.shape[1] == 1:
        yield Suspicion(
            code="loss-function",
            weight=1,
            certain=True,
            title=f"class numbers have shape {list(targets.shape)}, and cross-entropy wants [{len(targets)}]",
            evidence=(facts.problem,),
            remedy=Remedy(
                text="leave the last axis of the targets out",
                code="targets.squeeze(1)",
                change=with_targets(lambda given: given.squeeze(1)),
            ),
        )
        return
    if not numbers and facts.problem and targets.ndim <= 1:
        yield Suspicion(
            code="loss-function",
            weight=1,
            certain=True,
            title="cross-entropy wants class numbers of a whole-number type, and targets are fractions",
            evidence=(facts.problem,),
            remedy=Remedy(
                text="give the class numbers as int64",
                code="targets.long()",
                change=with_targets(lambda given: given.long()),
            )
            if facts.targets is not None and facts.targets.whole
            else Remedy(text="use a loss of numbers, such as the mean squared error", code="nn.MSELoss()"),
        )
        return
    if not numbers and tuple(targets.shape) == shape and several_hold(targets):
        also = [left_out(fed)] if fed is not None and fed.name in RANGES else []
        yield Suspicion(
            code="loss-function",
            weight=1,
            certain=True,
            title="several classes hold for an example, and cross-entropy is for one of them",
            evidence=(
                f"{several_hold(targets):.1f} classes hold for an example, up to {int(targets.sum(1).max())}",
            ),
            cause="a softmax shares 1 among the classes, so that one can only gain what others lose",
            remedy=Remedy(
                text="use binary cross-entropy of logits, which asks for each class by itself",
                code="nn.BCEWithLogitsLoss()",
                change=then(*also, with_loss(F.binary_cross_entropy_with_logits)),
            ),
        )
        return
    if fed is None:
        return
    if fed.kind == "softmax":
        yield Suspicion(
            code="output-activation",
            weight=1,
            certain=True,
            title="softmax is taken twice",
            evidence=(
                "the model ends with softmax, and cross-entropy takes the softmax of its inputs",
                *_floor(facts, width),
            ),
            cause="probabilities between 0 and 1 as logits: the loss can't come near 0, gradients are small",
            remedy=without(fed, "cross-entropy wants logits"),
        )
    elif fed.name in ("sigmoid", "relu", "relu6", "tanh", "softplus", "hardsigmoid", "hardtanh"):
        sure = fed.name in ("sigmoid", "hardsigmoid")
        yield Suspicion(
            code="output-activation",
            weight=0.95 if sure else 0.85,
            certain=sure,
            title=f"the model ends with {fed.name}, and cross-entropy wants logits of any size",
            evidence=(f"logits can only lie {interval(fed.name)}",),
            cause=f"{fed.name} bounds the logits, and with them the probabilities",
            remedy=without(fed, "cross-entropy wants logits"),
        )


def _counted_from_one(setup: Setup) -> Setup:
    """Bring outputs back to the person's own numbers, which begin with 1."""
    return setup.with_(decode=lambda outputs: F.pad(outputs, (1, 0), value=float(outputs.min()) - 1))


def divergence(facts: Facts, fed: Operation | None) -> Iterator[Suspicion]:
    """Say what is wrong with outputs of the Kullback-Leibler divergence."""
    if fed is None or fed.kind == "log-softmax" or fed.name in ("log", "logsigmoid"):
        return
    also = [left_out(fed)] if fed.name in RANGES else []
    yield Suspicion(
        code="loss-function",
        weight=1,
        certain=True,
        title="kl_div wants logarithms of probabilities, and is given something else",
        evidence=(f"its first argument ends with {fed.name}",),
        remedy=Remedy(
            text="end with log_softmax",
            code="F.log_softmax(x, dim=-1)",
            change=then(*also, around_loss(lambda loss: lambda o, t: loss(torch.log_softmax(o, -1), t))),
        ),
    )


def _floor(facts: Facts, width: int) -> tuple[str, ...]:
    best = math.log(1 + (width - 1) * math.exp(-1)) if width > 1 else 0.0
    return (f"so the loss can't go below {best:.2f} with {width} classes",)


def negative_likelihood(facts: Facts, fed: Operation | None) -> Iterator[Suspicion]:
    """Say what is wrong with outputs of ``nll_loss``."""
    if fed is None or fed.kind == "log-softmax" or fed.name in ("log", "logsigmoid"):
        return
    also = [left_out(fed)] if fed.kind == "softmax" or fed.name in RANGES else []
    ends = "softmax" if fed.kind == "softmax" else ("a layer" if not also else fed.name)
    ends_with_layer = "" if also else " without an activation"
    yield Suspicion(
        code="output-activation",
        weight=1,
        certain=True,
        title=f"nll_loss wants logarithms of probabilities, and the model ends with {ends}{ends_with_layer}",
        evidence=(
            f"the first loss is {facts.loss:.3g}"
            + (", and it falls without bound as outputs grow" if not also else ", and can't go below -1"),
        ),
        remedy=Remedy(
            text="end with log_softmax, or use cross-entropy of logits",
            code="nn.CrossEntropyLoss()",
            change=then(*also, with_loss(class_loss(facts))) if facts.judge.kind == "classes" else None,
        ),
    )


def binary_cross_entropy(facts: Facts, fed: Operation | None, *, logits: bool) -> Iterator[Suspicion]:
    """Say what is wrong with outputs and targets of binary cross-entropy, of logits or of probabilities."""
    targets = facts.targets
    given = facts.batch_targets
    if isinstance(given, Tensor) and not given.dtype.is_floating_point and facts.problem:
        yield Suspicion(
            code="loss-function",
            weight=1,
            certain=True,
            title="binary cross-entropy is given targets of a whole-number type",
            evidence=(facts.problem,),
            remedy=Remedy(
                text="give targets as fractions",
                code="targets.float()",
                change=with_targets(lambda given: given.float()),
            ),
        )
        return
    if targets is not None and (targets.low < 0 or targets.high > 1):
        several = facts.judge.kind == "classes" and facts.judge.classes > 2
        minus = targets.low == -1 and targets.high == 1 and targets.distinct == 2
        yield Suspicion(
            code="labels" if minus else "loss-function",
            weight=1,
            certain=True,
            title=f"binary cross-entropy is for targets from 0 to 1, and these go from {targets.low:g} to "
            f"{targets.high:g}",
            evidence=("with other targets the loss has no least value: it can fall without bound",),
            remedy=as_classifier(
                facts,
                "give the last layer an output for each class",
                left_out(fed) if fed is not None and fed.name in RANGES else None,
            )
            if several
            else Remedy(
                text="code the two classes as 0 and 1",
                code="(targets + 1) / 2" if minus else "",
                change=with_targets(lambda given: (given > 0).to(given.dtype)) if minus else None,
            ),
        )
        return
    if fed is None:
        return
    many = several_hold(facts.batch_targets) if isinstance(facts.batch_targets, Tensor) else 0.0
    if not logits and fed.kind == "softmax" and many and fed.shape[-1:] != (1,):
        yield Suspicion(
            code="output-activation",
            weight=1,
            certain=True,
            title="several classes hold for an example, and the model ends with softmax",
            evidence=(f"{many:.1f} classes hold for an example, and softmax shares 1 among all",),
            remedy=Remedy(
                text="end with sigmoid, or use binary cross-entropy of logits",
                code="nn.BCEWithLogitsLoss()",
                change=then(left_out(fed), with_loss(F.binary_cross_entropy_with_logits)),
            ),
        )
    elif logits and fed.kind == "softmax" and fed.shape[-1:] != (1,):
        yield Suspicion(
            code="output-activation",
            weight=1,
            certain=True,
            title="the model ends with softmax, and this loss takes the sigmoid of its inputs",
            evidence=("outputs between 0 and 1 stand for probabilities between .5 and .73 alone",),
            remedy=without(fed, "this loss wants logits"),
        )
    elif logits and fed.name in ("sigmoid", "hardsigmoid"):
        yield Suspicion(
            code="output-activation",
            weight=1,
            certain=True,
            title="sigmoid is taken twice",
            evidence=(
                "the model ends with sigmoid, and binary cross-entropy with logits takes it again",
                "outputs between 0 and 1 stand for probabilities between .5 and .73 alone",
            ),
            remedy=without(fed, "this loss wants logits"),
        )
    elif logits and fed.name in ("relu", "relu6", "softplus", "tanh", "hardtanh"):
        yield Suspicion(
            code="output-activation",
            weight=0.95,
            certain=fed.name != "tanh",
            title=f"the model ends with {fed.name}, and this loss wants logits of any size",
            evidence=(
                f"logits can only lie {interval(fed.name)}",
                *(("so no probability is below .5",) if "tanh" not in fed.name else ()),
            ),
            remedy=without(fed, "this loss wants logits"),
        )
    elif not logits and (
        fed.kind in ("weights", "norm", "linear") or fed.name in ("relu", "tanh", "leaky_relu")
    ):
        also = [left_out(fed)] if fed.kind == "activation" else []
        yield Suspicion(
            code="output-activation",
            weight=1,
            certain=True,
            title="this loss wants probabilities, and nothing brings the outputs between 0 and 1",
            evidence=(facts.problem,) if facts.problem else (f"the model ends with {fed.name}",),
            remedy=Remedy(
                text="use binary cross-entropy of logits, or end with sigmoid",
                code="nn.BCEWithLogitsLoss()",
                change=then(*also, with_loss(F.binary_cross_entropy_with_logits)),
            ),
        )
