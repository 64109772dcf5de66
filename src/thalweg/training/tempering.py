"""The temperature of a model, found on batches of validation data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.calibration.temperature import Temperature, fit_temperature
from thalweg.errors import DataError, UserError
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.objectives.dividing import joined
from thalweg.run.targets import class_numbers
from thalweg.training.steps import ForwardContext

__all__ = ["of_batches"]


def of_batches(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    forward_context: ForwardContext,
    ignored: int,
    say: Callable[[str], None],
) -> Temperature | None:
    """Find the temperature of a model on batches; where there is none, say why.

    Args:
        model: gives logits.
        batches: of validation data.
        forward_context: of every forward pass.
        ignored: the class number that doesn't count.
        say: is told why there is none.
    """
    outputs, goals = [], []
    with evaluating(model), torch.no_grad():
        for inputs, targets in batches:
            with forward_context():
                outputs.append(outputs_of(model, inputs))
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
