"""The first blocks of a model with a linear head on top, which nothing else follows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from thalweg.errors import ModelError
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched
from thalweg.stages.blocks import find_blocks
from thalweg.stages.freezing import plain_name
from thalweg.stages.prefixed import head_for
from thalweg.stages.taps import inner_module
from thalweg.stages.transfer import count_blocks

__all__ = ["FirstBlocks", "first_blocks"]


class FirstBlocks(nn.Module):
    """Modules one after another, under the names that they have in the model they are from, and a head.

    Args:
        model: that has the modules; the very same objects.
        parts: their names, in order.
        head: of what the last one gives.
    """

    def __init__(self, model: nn.Module, parts: Sequence[str], head: nn.Module) -> None:
        super().__init__()
        self.parts = tuple(map(plain_name, parts))
        for name in self.parts:
            holder: nn.Module = self
            *path, last = name.split(".")
            for each in path:
                if each not in dict(holder.named_children()):
                    holder.add_module(each, nn.Module())
                holder = holder.get_submodule(each)
            holder.add_module(last, inner_module(model, name, "first_blocks"))
        own = "head"
        while own in dict(self.named_children()):
            own += "_"
        self.add_module(own, head)
        self.called = (*self.parts, own)

    def forward(self, x: Any) -> Any:
        """Return what the head gives."""
        for name in self.called:
            x = self.get_submodule(name)(x)
        return x


def first_blocks(
    model: nn.Module, example: Any, blocks: int, outputs: int, *, chain: Sequence[str] | None = None
) -> nn.Module:
    """Return a copy of the first blocks of a model with a linear head on top; names stay as they are.

    What the last block gives is brought to one row an example, as in
    :func:`thalweg.stages.prefixed.head_for`. Where more happens between blocks than a call of modules,
    as in a transformer before its first one, it is a copy of the whole model, of which later blocks hand on
    what they are given, so that its own head follows.

    Args:
        model: any with a chain of blocks.
        example: a batch of inputs, of two examples or more.
        blocks: how many.
        outputs: numbers that a new head gives.
        chain: names of the modules that blocks begin with, in order; ``None``: found.

    Raises:
        OptionError: not so many blocks.
        ModelError: there is no chain of blocks, or the model can't be cut there.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    >>> [name for name, _ in first_blocks(model, torch.ones(2, 4), 1, 2).named_parameters()]
    ['0.weight', '0.bias', 'head.0.weight', 'head.0.bias']

    Source: P4 (S): a linear classifier from different stages.
    """
    found = find_blocks(model, example, chain)
    count = count_blocks(found, blocks)
    kept = [block.parts for block in found.blocks[:count]]
    block = found.blocks[count - 1]
    copied = copy.deepcopy(model)
    if all(parts is not None for parts in kept):
        head = head_for(block.outputs, outputs, channels_first=block.channels_first, like=model)
        return FirstBlocks(copied, [name for parts in kept for name in parts or ()], head)
    for later in found.blocks[count:]:
        for name in later.parts or (later.name,):
            holder, _, last = plain_name(name).rpartition(".")
            setattr(inner_module(copied, holder, "first_blocks") if holder else copied, last, nn.Identity())
    try:
        with untouched(copied, parameters=False), evaluating(copied), torch.no_grad():
            outputs_of(copied, example)
    except Exception as problem:
        raise ModelError(
            f"{type(model).__name__} can't be cut behind its block {block.name!r}: more happens there than a "
            "call of modules, and what follows needs the later blocks; take all of them"
        ) from problem
    return copied
