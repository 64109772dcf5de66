"""Whether the first predictions are near the mean of the targets: the first steps are spent on it otherwise.

Source: INDEX I5 (K, U).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Finding, Remedy, seen_as
from thalweg.diagnosis.setup import Setup
from thalweg.errors import ModelError
from thalweg.initial import marginals, set_output_bias
from thalweg.initial.biases import Activation

__all__ = ["output_bias"]

# What the first predictions cost more than the best constant one: in nats, or in variances of the targets.
_NATS, _VARIANCES = 0.25, 1.0
_ACTIVATIONS: dict[str, Activation] = {
    "cross_entropy": "softmax",
    "binary_cross_entropy_with_logits": "sigmoid",
    "binary_cross_entropy": "sigmoid",
    "mse_loss": "identity",
    "l1_loss": "identity",
    "smooth_l1_loss": "identity",
    "huber_loss": "identity",
}


def output_bias(facts: Facts) -> Iterator[Finding]:
    """Say what the first predictions lose by being far from the mean of the targets, where that is much."""
    targets, outputs, ending, compared = facts.targets, facts.outputs, facts.ending, facts.compared
    if ending is None or compared is None or targets is None or not isinstance(outputs, Tensor):
        return
    # weights of classes move the best constant prediction away from their shares
    if not bool(torch.isfinite(outputs).all()) or len(compared.shapes) > 2:
        return
    activation = _ACTIVATIONS.get(compared.name)
    wanted = "activation" if compared.name == "binary_cross_entropy" else "weights"
    if activation is None or ending.kind != wanted or outputs.ndim != 2 or len(outputs) < 8:
        return
    statistics = _statistics(facts, activation, outputs.shape[1])
    if statistics is None:
        return
    first = outputs.double()
    if activation == "identity":
        evidence = _of_numbers(facts, first, statistics)
    else:
        chances = torch.softmax(first, 1) if activation == "softmax" else first
        if compared.name == "binary_cross_entropy_with_logits":
            chances = torch.sigmoid(first)
        evidence = _of_classes(facts, chances, statistics, activation)
    if not evidence:
        return
    traced = facts.traced
    assert traced is not None
    last = traced.operations[traced.weights[-1]]
    where = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in last.path.split(".") if part)
    classes = f", classes={outputs.shape[1]}" if activation == "softmax" else ""
    shares = f"thalweg.initial.marginals(y{classes})"

    def begun(setup: Setup) -> Setup:
        def biased(model: nn.Module) -> nn.Module:
            try:
                layer = model.get_submodule(last.path)
            except AttributeError as problem:
                raise ModelError(f"the last layer isn't where it was ({last.path})") from problem
            set_output_bias(layer, statistics, activation)
            return model

        return setup.with_model(biased)

    yield seen_as(
        "output-bias",
        *evidence,
        cause="a last layer begins near 0, whatever the targets are, and the first steps only move its bias",
        remedy=Remedy(
            text="begin with the bias that predicts the mean of the targets; in a recipe "
            "output_bias = true in [strategies.initialization]",
            change=begun,
            code=f'thalweg.initial.set_output_bias(model{where}, {shares}, "{activation}")',
        ),
        confidence=1.0,
    )


def _statistics(facts: Facts, activation: Activation, width: int) -> Tensor | None:
    """Return shares of classes or means of numbers, one for each output."""
    targets = facts.setup.encode(facts.setup.targets)
    if not isinstance(targets, Tensor) or not bool(torch.isfinite(targets.double()).all()):
        return None
    if activation == "softmax":
        number = facts.judge.numbers(targets)
        if number is None or len(number) != len(targets) or facts.judge.classes != width:
            return None
        return marginals(number, classes=width)
    means = marginals(targets.double().reshape(len(targets), -1))
    if len(means) != width or (
        activation == "sigmoid" and not 0 <= float(means.min()) <= float(means.max()) <= 1
    ):
        return None
    return means


def _of_classes(facts: Facts, chances: Tensor, shares: Tensor, activation: Activation) -> tuple[str, ...]:
    """Return what is said where the mean of the first probabilities loses much against the shares."""
    guess = chances.mean(0).clamp(1e-12, 1 - 1e-12)
    error = chances.std(0) / math.sqrt(len(chances))
    least, cross = torch.special.entr(shares), -torch.xlogy(shares, guess)
    if activation == "sigmoid":
        least = least + torch.special.entr(1 - shares)
        cross = cross - torch.xlogy(1 - shares, 1 - guess)
    # of several independent labels the mean, as their loss
    still, off = (float(each.sum() if activation == "softmax" else each.mean()) for each in (least, cross))
    total = off - still
    # where predictions differ wildly from example to example, weights are at fault, and not their mean
    if total < _NATS or total < 0.5 * (facts.loss - still):
        return ()
    worst = int((guess - shares).abs().argmax())
    said = (
        f"the first predictions give output {worst} a probability of {float(guess[worst]):.2g} (+- "
        f"{2 * float(error[worst]):.1g}) on average, and its share of the targets is "
        f"{float(shares[worst]):.2g}"
    )
    return said, f"by this alone the first loss is {total:.2g} above that of the best constant prediction"


def _of_numbers(facts: Facts, first: Tensor, means: Tensor) -> tuple[str, ...]:
    targets = facts.targets
    assert targets is not None
    spreads = targets.spreads.clamp(min=1e-30)
    if len(spreads) != len(means):
        return ()
    error = 2 * first.std(0) / math.sqrt(len(first))
    off = ((first.mean(0) - means).abs() - error).clamp(min=0) / spreads
    worst = int(off.argmax())
    # where predictions differ wildly from example to example, weights are at fault, and not their mean
    if float((off**2).mean()) < _VARIANCES or float((first.std(0) / spreads)[worst]) > float(off[worst]):
        return ()
    said = (
        f"the first predictions of output {worst} have a mean of {float(first.mean(0)[worst]):.3g} (+- "
        f"{float(error[worst]):.1g}), and the targets one of {float(means[worst]):.3g} with a spread of "
        f"{float(spreads[worst]):.3g}"
    )
    return (said,)
