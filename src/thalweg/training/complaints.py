"""What torch says of a step that can't be taken, as a sentence about what was given."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from thalweg.errors import DataError, OptionError, UserError

__all__ = ["ALONE", "understood", "wrong_type"]

ALONE = ("more than 1 value per channel", "of a single entry a feature")
"""What torch's and our batch norm say of a single entry."""

_TYPES = ("same dtype", "should be the same", "expected scalar type")
# how torch's complaints spell a type
_SPELLED = {
    torch.float64: "double", torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat16",
    torch.complex64: "complexfloat", torch.complex128: "complexdouble", torch.uint8: "byte|unsigned char",
    torch.int8: "char", torch.int16: "short", torch.int32: "int", torch.int64: "long", torch.bool: "bool",
}  # fmt: skip


def wrong_type(problem: Exception, model: nn.Module, inputs: Any) -> DataError | None:
    """Return a sentence for inputs of another type than the weights, if torch has complained of types."""
    if not isinstance(problem, RuntimeError) or not any(text in str(problem) for text in _TYPES):
        return None
    weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    given = [leaf.dtype for leaf in trees.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    # another type may be right, as that of an embedding's numbers, unless torch has named it
    said = str(problem).lower()
    named = [t for t in given if t in _SPELLED and re.search(rf"\b({_SPELLED[t]})\b", said)]
    odd = next((dtype for dtype in named if dtype != weights), None)
    if weights is None or odd is None:
        return None
    remedy = "make fractions of them, of pixels by inputs.float() / 255"
    if odd.is_complex:
        remedy = "give torch.view_as_real(inputs)"
    elif odd.is_floating_point:
        remedy = f"give inputs.to({weights}), or train model.to({odd})"
    return DataError(f"the inputs are {odd}, but the model's weights are {weights}; {remedy}")


def understood(
    problem: Exception, model: nn.Module, inputs: Any, whole: int, parts: int, world: int
) -> UserError | None:
    """Return a sentence for what torch says of a step that can't be taken so."""
    if (found := wrong_type(problem, model, inputs)) is not None:
        return found
    said = str(problem)
    if any(text in said for text in ALONE):
        share, remedy = f"a batch of {whole}", "take larger batches, or leave a last batch of one out"
        if parts > 1 or world > 1:
            counted = ((world, "processes"), (parts, "parts"))
            share += f", shared out over {' and '.join(f'{n} {what}' for n, what in counted if n > 1)},"
            remedy = "take larger batches or fewer shares"
            if world > 1:
                remedy += ", or sync_batch_norm=True"
        return DataError(f"batch norm can't normalize one example by itself, as {share} has it; {remedy}")
    if "find_unused_parameters" in said:
        return OptionError(
            "some parameters take no part in the loss of a step, for whose gradients the processes wait; "
            "give DistributedDataParallel(unused=True) (in a recipe, training.parallel = 'fsdp2'), or "
            "freeze them with requires_grad_(False)"
        )
    return None
