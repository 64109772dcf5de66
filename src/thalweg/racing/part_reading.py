"""How a script of a winner reads what the model returns."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thalweg.data.source import Prepared
from thalweg.layers.interface import path_of
from thalweg.layers.modes import begin_training, set_evaluation
from thalweg.randomness.generators import undisturbed
from thalweg.recipe import Recipe
from thalweg.run.objective import Objective

__all__ = ["PartReading", "reading_of"]

_TRIED = 8


@dataclass(frozen=True, kw_only=True)
class PartReading:
    """How a script reads what the model returns: a part of it, of which some functions want the whole.

    Attributes:
        part: an expression for the part of ``outputs``; ``None``: the model returns a tensor.
        whole: which of ``loss``, ``judged`` and ``metric`` are given all that the model returns.
    """

    part: str | None = None
    whole: frozenset[str] = frozenset()

    @property
    def hook(self) -> str:
        """A line that lets the model return the part, where nobody wants more."""
        if self.part is None or self.whole:
            return ""
        return "\nmodel.register_forward_hook(lambda model, inputs, outputs: part_of(outputs))"

    def taken(self, name: str) -> bool:
        """Say whether a function has to take the part itself."""
        return self.part is not None and bool(self.whole) and name not in self.whole


def reading_of(
    recipe: Recipe, prepared: Prepared, module: nn.Module, *, loss: str, judge: str, metric: str
) -> PartReading | None:
    """Call a model, and see what is made of what it returns.

    Args:
        recipe: which says the part, where that isn't clear by itself.
        prepared: the data.
        module: the model; left as it is.
        loss, judge, metric: what is trained, what validation is scored by, and what is chosen by.

    Returns:
        How it is read; ``None`` where no expression gives the part.
    """
    objective = Objective(
        loss=loss, metric=metric, judged=None if judge == loss else judge, output=recipe.model.output
    )
    inputs, targets = prepared.train.batch(torch.arange(min(len(prepared.train), _TRIED)))
    trial = copy.deepcopy(module).to(targets.device)
    arguments, named = objective.interface.arguments(trial, inputs)
    with undisturbed(), torch.no_grad():
        begin_training(trial)
        outputs = trial(*arguments, **named)
        if isinstance(outputs, Tensor):
            # a model may return more than a tensor in one of both modes
            outputs = set_evaluation(trial)(*arguments, **named)
        if isinstance(outputs, Tensor):
            return PartReading()
        trained, judged, by = objective.on(prepared)
        for function in (trained, judged, by.reduce):
            function(outputs, targets)
    whole = frozenset(name for name in ("loss", "judged", "metric") if objective.interface.gives_whole(name))
    path = path_of(outputs, objective.interface.part(outputs))
    return None if path is None else PartReading(part=f"outputs{path}", whole=whole)
