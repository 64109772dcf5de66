"""What the losses of numbers expect of outputs and targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from thalweg.diagnosis.changes import then
from thalweg.diagnosis.ending_remedies import (
    RANGES,
    as_classifier,
    class_loss,
    interval,
    left_out,
    logits_loss,
    share_outside,
    with_loss,
    with_targets,
    without,
)
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Remedy
from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.skill import Judge
from thalweg.diagnosis.suspicion import Suspicion
from thalweg.diagnosis.trace import Operation

__all__ = ["losses_of_numbers"]

_NUMBERS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


def losses_of_numbers(facts: Facts, fed: Operation | None, compared: Operation) -> Iterator[Suspicion]:
    """Say what is wrong with outputs and targets of a loss of numbers."""
    targets, judge = facts.targets, facts.judge
    if targets is None:
        return
    name = compared.name
    if fed is not None and fed.name in RANGES and judge.kind in ("numbers", "classes"):
        low, high = RANGES[fed.name]
        outside = share_outside(facts, low, high)
        if outside > 0.01:
            yield Suspicion(
                code="output-activation",
                weight=1,
                certain=outside > 0.05,
                title=f"the model ends with {fed.name}, and targets lie beyond what it can give",
                evidence=(f"{100 * outside:.0f} % of the targets aren't {interval(fed.name)}",),
                remedy=without(fed, "a number of any size is predicted"),
            )
        elif judge.kind == "numbers" and fed.name in ("relu", "relu6"):
            yield Suspicion(
                code="output-activation",
                weight=0.7,
                title="the model ends with relu",
                evidence=("an output that is below 0 for an example gets no gradient from it",),
                remedy=without(fed, "a number is predicted"),
            )
    few = targets.whole and 3 <= targets.distinct <= 100
    if facts.problem and "dtype" in facts.problem.lower():
        yield Suspicion(
            code="loss-function",
            weight=0.9,
            certain=True,
            title=f"{name} is given targets of a whole-number type",
            evidence=(facts.problem,),
            remedy=as_classifier(facts, "give the last layer an output for each class")
            if judge.kind == "classes"
            else Remedy(
                text="give targets as fractions",
                code="targets.float()",
                change=with_targets(lambda given: given.float()),
            ),
        )
    elif judge.kind == "classes" and judge.classes > 2 and facts.width == 1:
        yield Suspicion(
            code="loss-function",
            weight=0.95,
            title=f"class numbers are predicted as numbers, by {name}",
            evidence=(f"targets are {judge.classes} class numbers, and the model gives one number",),
            cause="class 2 isn't between 1 and 3 in any sense: the order of classes is taken for a distance",
            remedy=as_classifier(facts, "give the last layer an output for each class"),
        )
    elif judge.kind == "classes" and facts.width > 1:
        also = left_out(fed) if fed is not None and fed.name in RANGES else None
        change = with_loss(class_loss(facts))
        yield Suspicion(
            code="loss-function",
            weight=0.7,
            title=f"classes are learnt by {name}",
            evidence=("its gradient vanishes where a prediction is wrong and sure",),
            remedy=Remedy(
                text="use cross-entropy of logits",
                code="nn.CrossEntropyLoss()",
                change=change if also is None else then(also, change),
            ),
        )
    elif judge.kind == "classes" and facts.width == 1:
        also = left_out(fed) if fed is not None and fed.name in RANGES else None
        change = with_loss(logits_loss(facts))
        yield Suspicion(
            code="loss-function",
            weight=0.6,
            title=f"two classes are learnt by {name}",
            evidence=("its gradient vanishes where a prediction is wrong and sure",),
            remedy=Remedy(
                text="use binary cross-entropy of logits",
                code="nn.BCEWithLogitsLoss()",
                change=change if also is None else then(also, change),
            ),
        )
    elif judge.kind == "numbers" and few and facts.width == 1:
        yield from _class_numbers(facts, name, targets.distinct)


def _class_numbers(facts: Facts, name: str, distinct: int) -> Iterator[Suspicion]:
    """Targets that are names and not amounts: which of them lie near each other says nothing."""
    inputs, targets = facts.setup.inputs, facts.setup.targets
    if not isinstance(inputs, Tensor) or not inputs.dtype.is_floating_point or targets.numel() != len(inputs):
        return
    x = inputs[:2000].reshape(min(2000, len(inputs)), -1).double()
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-9)
    y = targets[:2000].reshape(-1).double()
    values = torch.unique(y)
    if (
        len(values) < 3
        or float(values[0]) not in (0.0, 1.0)
        or float((values[1:] - values[:-1]).max()) != 1
        or min(int((y == v).sum()) for v in values) < 3
    ):
        return
    judge = Judge(kind="classes", classes=len(values), values=tuple(map(float, values)))
    found = as_classifier(replace(facts, judge=judge), "give the last layer an output for each class")
    if found.change is None:
        return
    known = values.to(targets.dtype)

    def numbered(setup: Setup) -> Setup:
        return setup.with_(decode=lambda outputs: known[outputs.argmax(-1)])

    remedy = replace(found, change=then(found.apply, numbered))
    centers = torch.stack([x[y == v].mean(0) for v in values])
    within = torch.stack([x[y == v].var(0).sum() / (y == v).sum() for v in values]).mean()
    rows, columns = torch.triu_indices(len(values), len(values), 1)
    far = torch.cdist(centers, centers).square()[rows, columns]
    ranks = torch.stack([each.argsort().argsort().double() for each in (far, columns - rows)])
    related = float(torch.corrcoef(ranks)[0, 1])
    sure = len(values) > 3 and related < 0.3 and float(far.median()) > 8 * float(within)
    said = f"targets are {distinct} whole numbers"
    if sure:
        said += (
            ", and which of them lie near each other in the inputs has nothing to do with the numbers "
            f"(correlation {related:.2f})"
        )
    yield Suspicion(
        code="loss-function",
        weight=1 if sure else 0.85,
        certain=sure,
        title=f"class numbers are predicted as numbers, by {name}",
        evidence=(said,),
        cause="class 2 isn't between 1 and 3 in any sense: the order of classes is taken for a distance",
        remedy=remedy,
    )
