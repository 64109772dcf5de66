"""The outputs of a frozen prefix, computed once: what a stage trains is then the rest alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.data.examples import TensorExamples
from thalweg.layers.interface import Interface
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.objectives.nests import leaves, mapped
from thalweg.randomness.generators import noticed_draws, undisturbed
from thalweg.settings.free_memory import free_bytes
from thalweg.stages.prefixed import Prefixed
from thalweg.strategies.base import Strategy
from thalweg.strategies.table import from_tables
from thalweg.training.fit_spec import FitSpec, place_of
from thalweg.training.loader import examples_of, in_blocks

__all__ = ["can_be_computed", "with_prefix_computed"]

# examples at a time; always the same, since it decides how sums are rounded
_BLOCK = 256
_SHARE_OF_MEMORY = 0.25


def can_be_computed(module: nn.Module, spec: FitSpec) -> bool:
    """Say whether a prefix gives the same for an example whenever it is asked, and there is room for that.

    It does where nothing in it is trained and it draws nothing, data are tensors or arrays, and no strategy
    changes batches. Outputs may take a quarter of the memory that is free.
    """
    if not isinstance(module, Prefixed) or any(p.requires_grad for p in module.prefix.parameters()):
        return False
    if spec.precision != "float32" or spec.collate is not None:
        return False
    if any(type(each).batch is not Strategy.batch for each in from_tables(spec.strategies)):
        return False
    splits = _splits(spec)
    if splits is None:
        return False
    needed = 0
    for examples in splits.values():
        count = min(_BLOCK, len(examples))
        with undisturbed(), noticed_draws() as drawn:
            first = _outputs(module.prefix, examples, count)
        if drawn or not first or any(not leaf.ndim or len(leaf) != count for leaf in leaves(first[0])):
            return False
        needed += sum(leaf.nbytes for leaf in leaves(first[0])) * len(examples) // count
    return needed <= _SHARE_OF_MEMORY * free_bytes()


def with_prefix_computed(module: nn.Module, spec: FitSpec) -> FitSpec:
    """Return what trains the rest alone, on outputs of the prefix."""
    assert isinstance(module, Prefixed)
    splits = _splits(spec)
    assert splits is not None
    made = {name: _computed(module.prefix, examples) for name, examples in splits.items()}
    return replace(spec, model=module.rest, data=made["data"], validation=made.get("validation"))


def _splits(spec: FitSpec) -> dict[str, TensorExamples] | None:
    """Training and validation examples, where all are tensors."""
    found = {}
    given = {"data": spec.data} | ({} if spec.validation is None else {"validation": spec.validation})
    for name, data in given.items():
        examples = examples_of(data, place_of(spec.model), target=spec.target)
        if not isinstance(examples, TensorExamples):
            return None
        found[name] = examples
    return found


def _outputs(prefix: nn.Module, examples: TensorExamples, end: int | None = None) -> list[Any]:
    """What the prefix gives for blocks of examples."""
    # somebody wants all that it gives: nothing is picked out
    interface = Interface(None, ("rest",))
    with interface.attached(prefix), evaluating(prefix), torch.no_grad():
        return [outputs_of(prefix, inputs) for inputs, _ in in_blocks(examples, _BLOCK, end)]


def _computed(prefix: nn.Module, examples: TensorExamples) -> TensorExamples:
    with undisturbed():
        parts = _outputs(prefix, examples)
    columns = zip(*(list(leaves(part)) for part in parts), strict=True)
    whole = iter([torch.cat(column) for column in columns])

    def put(leaf: Tensor) -> Tensor:
        return next(whole)

    return TensorExamples(mapped(put, parts[0]), examples.targets)
