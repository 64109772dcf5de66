"""What to change where inputs don't go through the model, in the cases that people meet most."""

from __future__ import annotations

import math

from torch import Tensor, nn

from thalweg.diagnosis.facts import Facts

__all__ = ["misfit"]

_CHANNELS = (1, 3, 4)
_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def misfit(facts: Facts) -> str:
    """Return what would let the inputs go through the model, in a sentence; empty where that isn't clear."""
    inputs, problem = facts.setup.inputs, facts.problem.lower()
    if not isinstance(inputs, Tensor):
        return ""
    layers = list(facts.model.modules())
    parameter = next(facts.model.parameters(), None)
    if parameter is not None and "dtype" in problem and not inputs.dtype.is_floating_point:
        kinds = [str(each).removeprefix("torch.") for each in (inputs.dtype, parameter.dtype)]
        pixels = " / 255" if kinds[0] == "uint8" else ""
        return f"inputs are {kinds[0]} and weights {kinds[1]}: give inputs.float(){pixels}"
    convolution = next((layer for layer in layers if isinstance(layer, _CONVOLUTIONS)), None)
    if convolution is not None and "channels" in problem:
        shape, wanted = list(inputs.shape), convolution.in_channels
        if inputs.ndim == 4 and shape[-1] == wanted and wanted in _CHANNELS:
            return (
                f"inputs of shape {shape} have their channels last, and convolutions take them behind the "
                "examples: give inputs.permute(0, 3, 1, 2)"
            )
        if inputs.ndim == 3 and wanted == 1:
            return f"inputs of shape {shape} have no axis of channels: give inputs[:, None]"
    first = next((layer for layer in layers if isinstance(layer, nn.Linear)), None)
    if (
        first is not None
        and "cannot be multiplied" in problem
        and inputs.ndim > 2
        and first.in_features == math.prod(inputs.shape[1:])
    ):
        return (
            f"inputs of shape {list(inputs.shape)} go into a layer that takes {first.in_features} numbers: "
            "put nn.Flatten() in front"
        )
    return ""
