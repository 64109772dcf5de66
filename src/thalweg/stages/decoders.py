"""Temporary decoders: from features back to what they were made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.dropout import _DropoutNd

from thalweg.errors import ModelError
from thalweg.initial.weights import NORMS
from thalweg.layers.following import activation_name, is_chain
from thalweg.layers.modes import evaluating
from thalweg.layers.untouched import untouched
from thalweg.stages.blocks import Chain, part_of_chain

__all__ = ["KEEPS_SIGNS", "MOST_WEIGHTS", "Mirror", "Reshaped", "check_linear", "linear_decoder", "mirror_of"]

MOST_WEIGHTS = 2**26
"""Of a linear decoder that is made by itself."""

_TRANSPOSED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.ConvTranspose1d,
    nn.Conv2d: nn.ConvTranspose2d,
    nn.Conv3d: nn.ConvTranspose3d,
}
KEEPS_SIGNS = (
    nn.Flatten, nn.Unflatten, nn.Identity, _DropoutNd,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip
"""Modules without parameters that change shapes, and leave what isn't negative so."""


class Reshaped(nn.Module):
    """Features brought to a shape: as many numbers are put into it, images are resized to it.

    Of a row of C numbers, each fills its channel. Resizing takes the nearest pixel.

    Args:
        shape: of one example.

    >>> Reshaped((2, 2, 2))(torch.tensor([[1.0, 2.0]])).flatten().tolist()
    [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return them so."""
        if math.prod(x.shape[1:]) == math.prod(self.shape):
            return x.reshape(len(x), *self.shape)
        if x.ndim == 2:
            x = x.reshape(*x.shape, *[1] * (len(self.shape) - 1))
        return F.interpolate(x, size=self.shape[1:])

    def extra_repr(self) -> str:
        """Say which."""
        return str(list(self.shape))


def _fits(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    if math.prod(before) == math.prod(after):
        return True
    return len(after) > 1 and before[0] == after[0] and len(before) in (1, len(after))


@dataclass(frozen=True)
class _Step:
    """What undoes one layer of an encoder, with the shapes of one example before and after that layer.

    ``kind`` is ``None`` for pooling and flattening: only the shape is brought back.
    """

    kind: type[nn.Module] | None
    options: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Mirror:
    """The mirror image of an encoder: each layer transposed, the last first, ReLU between them.

    Args:
        steps: the layers of the encoder in order.
    """

    steps: tuple[_Step, ...]

    def build(self) -> nn.Sequential:
        """Make the decoder, with weights drawn from torch's global generator."""
        layers: list[nn.Module] = []
        for step in reversed(self.steps):
            if step.kind is None:
                layers.append(Reshaped(step.inputs))
            else:
                if any(isinstance(layer, (nn.Linear, _ConvNd)) for layer in layers):
                    layers.append(nn.ReLU())
                layers.append(step.kind(**step.options))
        return nn.Sequential(*layers)


def mirror_of(model: nn.Module, chain: Chain, first: int, last: int, example: Any) -> Mirror | None:
    """Return the mirror image of some blocks of a model, ``None`` where they aren't plain layers in a row.

    Args:
        model: is run on the example, and is afterwards as it was.
        chain: its blocks.
        first, last: of them, both included.
        example: a batch of inputs.
    """
    blocks = chain.blocks[first : last + 1]
    names = [name for block in blocks for name in block.parts or ()]
    if any(block.parts is None for block in blocks):
        return None
    layers = list(_leaves(part_of_chain(model, names)))
    steps: list[_Step] = []
    with untouched(model, parameters=False), torch.no_grad(), evaluating(model):
        x = example if not first else chain.upto(model, first)(example)
        for layer in layers:
            before = tuple(x.shape[1:])
            x = layer(x.clone())
            after = tuple(x.shape[1:])
            if isinstance(layer, (nn.Linear, _ConvNd)):
                step = _transposed(layer, before, after)
                if step is None:
                    return None
                steps.append(step)
            elif not (isinstance(layer, (*KEEPS_SIGNS, *NORMS)) or activation_name(layer)):
                return None
            elif before != after:
                if not _fits(after, before):
                    return None
                steps.append(_Step(None, {}, before, after))
    return Mirror(tuple(steps)) if any(step.kind is not None for step in steps) else None


def _leaves(chain: nn.Module) -> Iterator[nn.Module]:
    for child in chain._modules.values():
        if child is not None:
            yield from _leaves(child) if is_chain(child) else [child]


def _transposed(layer: nn.Module, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> _Step | None:
    if isinstance(layer, nn.Linear):
        options: dict[str, Any] = {"in_features": layer.out_features, "out_features": layer.in_features}
        return _Step(nn.Linear, options, inputs, outputs)
    kind = _TRANSPOSED.get(type(layer))
    if kind is None or not isinstance(layer, _ConvNd) or isinstance(layer, _ConvTransposeNd):
        return None
    padding = layer.padding
    if isinstance(padding, str):
        reaches = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if padding == "same" and any(reach % 2 for reach in reaches):
            return None
        padding = tuple(reach // 2 if padding == "same" else 0 for reach in reaches)
    more = []
    for axis, (k, s, p, d) in enumerate(
        zip(layer.kernel_size, layer.stride, padding, layer.dilation, strict=True), 1
    ):
        left = inputs[axis] - ((outputs[axis] - 1) * s - 2 * p + d * (k - 1) + 1)
        if not 0 <= left < max(s, d):
            return None
        more.append(left)
    options = {
        "in_channels": layer.out_channels, "out_channels": layer.in_channels, "stride": layer.stride,
        "kernel_size": layer.kernel_size, "padding": padding, "dilation": layer.dilation,
        "groups": layer.groups, "output_padding": tuple(more),
    }  # fmt: skip
    return _Step(kind, options, inputs, outputs)


def check_linear(features: Sequence[int], wanted: Sequence[int]) -> None:
    """Refuse a :func:`linear_decoder` that would be too large.

    Raises:
        ModelError: it would.
    """
    weights = math.prod(features) * math.prod(wanted)
    if not 0 < weights <= MOST_WEIGHTS:
        raise ModelError(
            f"a linear decoder from {list(features)} to {list(wanted)} would have {weights:,} weights; "
            "give decoder, a function from both shapes to a module"
        )


def linear_decoder(features: Sequence[int], wanted: Sequence[int]) -> nn.Sequential:
    """Return a linear map from features to what is to be reconstructed.

    Args:
        features, wanted: shapes of one example.

    Raises:
        ModelError: it would be too large.

    >>> linear_decoder((3, 2), (1, 4))
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=6, out_features=4, bias=True)
      (2): Reshaped([1, 4])
    )
    """
    check_linear(features, wanted)
    layer = nn.Linear(math.prod(features), math.prod(wanted))
    return nn.Sequential(nn.Flatten(), layer, Reshaped(wanted))
