"""The raw input joined to what each block after the first is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import ModelError
from thalweg.layers.models import Factory
from thalweg.layers.modes import in_mode_of
from thalweg.layers.norm import replace
from thalweg.stages.blocks import find_blocks
from thalweg.stages.taps import inner_module

__all__ = ["WithRawInput", "join_raw_input", "joined_blocks", "with_raw_input"]


class _Raw:
    """The model's input while it runs, and the names of its blocks."""

    def __init__(self, blocks: tuple[str, ...]) -> None:
        self.blocks = blocks
        self.value: Tensor | None = None


class _Keep:
    """A hook before the model: keeps its input."""

    def __init__(self, raw: _Raw) -> None:
        self.raw = raw

    def __call__(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        self.raw.value = args[0] if args else None


class _Forget:
    """A hook after the model, also where something ends its run."""

    def __init__(self, raw: _Raw) -> None:
        self.raw = raw

    def __call__(self, model: nn.Module, args: Any, outputs: Any) -> None:
        self.raw.value = None


class WithRawInput(nn.Module):
    """The module that a block begins with, given ``h + P x`` in place of ``h``, with x the raw input.

    For a first layer W this is ``W h + (W P) x``: where W has full row rank, the same as a layer that is
    given both beside each other.

    Args:
        layer: the module.
        extra: P, from a batch of raw inputs to the shape of h.
        raw: holds the raw input.
    """

    def __init__(self, layer: nn.Module, extra: nn.Module, raw: _Raw) -> None:
        super().__init__()
        self.layer, self.extra, self.raw = layer, extra, raw

    @property
    def chain_blocks(self) -> tuple[str, ...]:
        """Names of all blocks of the model that this is a part of."""
        return self.raw.blocks

    def forward(self, h: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what the module gives for both."""
        if self.raw.value is None:
            raise ModelError("a block that takes the raw input too can only be run as a part of its model")
        return self.layer(h + self.extra(self.raw.value), *args, **kwargs)


class _ToTokens(nn.Module):
    """The same for each token."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1)


def join_raw_input(model: nn.Module, example: Tensor, blocks: Sequence[str] | None = None) -> tuple[str, ...]:
    """Let each block after the first take the model's raw input too, in place.

    The module that such a block begins with is replaced by a :class:`WithRawInput` around it, with a linear
    map P of the raw input, which is drawn from torch's global generator: of rows and tokens a linear layer,
    of images the mean to the size of the block's input and a 1x1 convolution. Make the optimizer afterwards.
    To load what was trained so, build the model, call this, and load.

    Args:
        model: any with a chain of blocks whose forward takes one tensor.
        example: a batch of inputs, of two examples or more.
        blocks: as of :func:`thalweg.stages.blocks.find_blocks`.

    Returns:
        The names of all blocks.

    Raises:
        ModelError: there is no chain of blocks, or one of a shape that nothing is made for.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> join_raw_input(net, torch.ones(2, 4))
    ('0', '2')
    >>> net[2].extra
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=4, out_features=3, bias=False)
    )

    Source: P1 (N): the outputs of the stage before and the raw input as inputs of each added stage.
    """
    if (already := joined_blocks(model)) is not None:
        return already
    if not isinstance(example, Tensor):
        raise ModelError(
            f"the example is of type {type(example).__name__}, but the raw input can only be joined where it "
            "is one tensor"
        )
    chain = find_blocks(model, example, blocks)
    names = tuple(block.name for block in chain.blocks)
    raw = _Raw(names)
    made = []
    for block in chain.blocks[1:]:
        layer = inner_module(model, block.name, "blocks")
        place = next(p for p in layer.parameters() if p.is_floating_point())
        extra = _extra(tuple(example.shape[1:]), block.inputs, block.name).to(place.device, place.dtype)
        made.append((layer, WithRawInput(layer, extra, raw)))
    for layer, joined in made:
        replace(model, layer, in_mode_of(joined, layer))
    if made:
        model.register_forward_pre_hook(_Keep(raw))
        model.register_forward_hook(_Forget(raw), always_call=True)
    return names


@dataclass(frozen=True)
class _Joined:
    """A factory that can be sent to another process where the one within can."""

    factory: Factory

    def __call__(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        model = self.factory(input_shape, outputs)
        try:
            join_raw_input(model, torch.zeros(2, *input_shape))
        except ModelError as problem:
            raise ModelError(f"model.raw_input can't be had: {problem}") from problem
        return model


def with_raw_input(factory: Factory, wanted: bool = True) -> Factory:
    """Return a factory whose models have the raw input joined (:func:`join_raw_input`), if that is wanted.

    >>> from thalweg.layers import models
    >>> model = with_raw_input(models.factory("mlp:8,8"))((4,), 2)
    >>> sum(isinstance(part, WithRawInput) for part in model.modules())
    1
    """
    return _Joined(factory) if wanted else factory


def joined_blocks(model: nn.Module) -> tuple[str, ...] | None:
    """Return the names of a model's blocks, where they take the raw input already."""
    return next((part.raw.blocks for part in model.modules() if isinstance(part, WithRawInput)), None)


def _extra(inputs: tuple[int, ...], features: tuple[int, ...], name: str) -> nn.Module:
    rows = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(inputs), features[-1], bias=False))
    if len(features) == 1:
        return rows
    if len(features) == 2:
        return nn.Sequential(*rows, _ToTokens())
    if len(features) == len(inputs) == 3:
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(features[1:]), nn.Conv2d(inputs[0], features[0], 1, bias=False)
        )
    raise ModelError(
        f"the raw input of shape {list(inputs)} can't be joined to the input of the block {name!r}, of shape "
        f"{list(features)}; it is made for rows, tokens and images"
    )
