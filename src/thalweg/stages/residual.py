"""New residual blocks that hand on what they are given: the last layers of their branches are set to zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.layers.interface import Interface
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched

__all__ = ["hands_on", "silence_branches"]

_TOLERANCE = 1e-5


@torch.no_grad()
def silence_branches(model: nn.Module, block: nn.Module, example: Any) -> bool:
    """Set as few layers of a block to zero as it takes for it to hand on what it is given, in place.

    All of its layers at zero leave ``x + f(x)`` with ``f = 0``. Then each gets back what it had, in the order
    in which they are called, unless the block changes something by it: what stays zero is the last layer of
    each branch, such as the last batch norm of a residual block (Goyal et al. 2017), and a gradient reaches
    it.

    Args:
        model: that the block is a part of.
        block: any module.
        example: a batch of inputs of the model.

    Returns:
        Whether it hands on its input; if not, all is as it was.
    """
    layers = _in_order_of_calls(model, block, example)
    before = [[p.detach().clone() for p in layer.parameters(recurse=False)] for layer in layers]
    for layer in layers:
        for p in layer.parameters(recurse=False):
            p.zero_()
    if not hands_on(model, block, example):
        for layer, values in zip(layers, before, strict=True):
            _put_back(layer, values)
        return False
    for layer, values in zip(layers, before, strict=True):
        _put_back(layer, values)
        if not hands_on(model, block, example):
            for p in layer.parameters(recurse=False):
                p.zero_()
    return True


def _in_order_of_calls(model: nn.Module, block: nn.Module, example: Any) -> list[nn.Module]:
    """The layers of a block that have parameters; one that isn't called itself comes with what holds it."""
    seen: list[nn.Module] = []
    handles = [
        part.register_forward_pre_hook(lambda module, args: seen.append(module)) for part in block.modules()
    ]
    try:
        # a gradient keeps torch's attention from taking a way on which its parts aren't called
        with (
            untouched(model, parameters=False), Interface(own=("grow",)).attached(model), evaluating(model),
            torch.enable_grad(),
        ):  # fmt: skip
            outputs_of(model, example)
    finally:
        for handle in handles:
            handle.remove()
    first = {id(part): place for place, part in reversed(list(enumerate(seen)))}
    places: list[tuple[int, int, nn.Module]] = []

    def visit(part: nn.Module, held: int) -> None:
        place = first.get(id(part), held)
        if next(part.parameters(recurse=False), None) is not None:
            places.append((place, len(places), part))
        for child in part.children():
            visit(child, place)

    visit(block, 0)
    return [part for _, _, part in sorted(places, key=lambda each: each[:2])]


def _put_back(layer: nn.Module, values: Sequence[Tensor]) -> None:
    for p, value in zip(layer.parameters(recurse=False), values, strict=True):
        p.copy_(value)


def hands_on(model: nn.Module, block: nn.Module, example: Any) -> bool:
    """Say whether a block gives what it is given, within rounding, in evaluation mode."""
    seen: list[bool] = []

    def look(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        given, found = (args[0] if args else None), output[0] if isinstance(output, tuple) else output
        if not (isinstance(given, Tensor) and isinstance(found, Tensor)) or given.shape != found.shape:
            seen.append(False)
            return
        size = max(float(given.abs().max()), 1e-12) if given.numel() else 1.0
        seen.append(float((found - given).abs().max()) <= _TOLERANCE * size if given.numel() else True)

    handle = block.register_forward_hook(look)
    try:
        with untouched(model, parameters=False), Interface(own=("grow",)).attached(model), evaluating(model):
            outputs_of(model, example)
    finally:
        handle.remove()
    return bool(seen) and all(seen)
