"""The temperature of a model, found on batches of validation data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.calibration.temperature import Temperature, fit_temperature
from thalweg.errors import DataError, OptionError, UserError
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.objectives import activations
from thalweg.objectives.nests import joined
from thalweg.run.targets import class_numbers
from thalweg.training.steps import ForwardContext

__all__ = ["activation_of", "check_calibration", "of_batches"]


def of_batches(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    forward_context: ForwardContext,
    ignored: int,
    say: Callable[[str], None],
    read: Callable[[Any], Tensor] = lambda outputs: outputs,
) -> Temperature | None:
    """Find the temperature of a model on batches; where there is none, say why.

    Args:
        model: gives logits.
        batches: of validation data.
        forward_context: of every forward pass.
        ignored: the class number that doesn't count.
        say: is told why there is none.
        read: from what the model returns to its logits.
    """
    outputs, goals = [], []
    with evaluating(model), torch.no_grad():
        for inputs, targets in batches:
            with forward_context():
                outputs.append(read(outputs_of(model, inputs)))
            goals.append(targets)
    try:
        targets = torch.cat(goals)
        numbers = class_numbers(targets)
        if numbers is None:
            raise DataError(f"targets of shape {list(targets.shape)} and type {targets.dtype} are no classes")
        counts = numbers != ignored
        return fit_temperature(joined(outputs)[counts], numbers[counts])
    except UserError as problem:
        say(f"no temperature: {problem}")
        return None


def activation_of(loss: Any, targets: Tensor | None) -> activations.Activation | None:
    """Return what a loss makes of outputs for these targets, where that is known."""
    if loss == "bce" and targets is not None and targets.ndim > 1 and targets[0].numel() > 1:
        # each of several outputs is a yes or no of its own
        return "sigmoid"
    return activations.activation(loss)


def check_calibration(calibrate: Any, loss: Any, targets: Tensor | None, scored: object) -> None:
    """Refuse a temperature that can't be found.

    Raises:
        OptionError: it is no known way, there are no validation data, or outputs aren't logits of classes.
    """
    if calibrate is None:
        return
    if calibrate != "temperature":
        raise OptionError(f"calibrate is {calibrate!r}, but can be 'temperature' or None")
    if scored is None:
        raise OptionError("calibrate='temperature' needs validation data, which it is found on; give these")
    if activations.family(loss) in (None, "numbers") or activation_of(loss, targets) == "identity":
        raise OptionError(
            "calibrate='temperature' is for classes, under a loss that takes logits, such as 'cross-entropy' "
            "or 'bce'; leave it out, or call thalweg.calibration.temperature.fit_temperature yourself"
        )
