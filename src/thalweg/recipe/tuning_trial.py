"""A short trial of tuning blocks against a new head on frozen ones: by which new data are learnt better."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import objectives
from thalweg.data.examples import Examples
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.run.problem_data import ProblemData
from thalweg.stages.stage import Stage
from thalweg.training.fitting import fit
from thalweg.training.loader import in_blocks

__all__ = ["errors_by", "errors_of"]

_BLOCK = 256
Plan = Callable[[int], tuple[nn.Module, Sequence[Stage]]]
"""From a seed to a model as it begins, and the stages that train it."""


def errors_by(
    plan: Plan,
    *,
    train: Examples,
    validation: Examples,
    read: ProblemData,
    optimizer: Mapping[str, Any],
    batch_size: int,
    seeds: int,
    told: Callable[[str], None],
) -> Tensor:
    """Train as a plan says, and return the errors of validation examples, float64 ``[N]``, means over seeds.

    Args:
        plan: what is trained.
        train, validation: the examples.
        read: the task.
        optimizer: its name and hyperparameters.
        batch_size: of training.
        seeds: how many; batches under a seed are the same for every plan of as many stages.
        told: what is under way.

    Raises:
        UserError: it can't be trained.
    """
    found = []
    for seed in range(1, seeds + 1):
        told(f"seed {seed} of {seeds}")
        model, stages = plan(seed)
        found.append(_errors_of(model, stages, seed, train, validation, read, optimizer, batch_size))
    return torch.stack(found).mean(0)


def _errors_of(
    model: nn.Module, stages: Sequence[Stage], seed: int, train: Examples, validation: Examples,
    read: ProblemData, optimizer: Mapping[str, Any], batch_size: int,
) -> Tensor:  # fmt: skip
    """The errors on validation examples after a training, float64 ``[N]``: at most as without one, 1."""
    hyperparameters = {name: value for name, value in optimizer.items() if name != "name"}
    # batches are the same for both, whatever their stages are called
    listed = [replace(stage, seed=seed * len(stages) + number) for number, stage in enumerate(stages)]
    loss = objectives.to_hand_on(None, read.functions.trained)
    fitted = fit(
        model, train, loss, str(optimizer["name"]), "cosine", hyperparameters=hyperparameters,
        batch_size=batch_size, steps=1, seed=seed, evaluations=1, output=read.objective.output, stages=listed,
    )  # fmt: skip
    classes = read.prepared.task.kind == "classification"
    if fitted.failed:
        return torch.ones(len(validation), dtype=torch.float64)
    parts, goals = [], []
    with read.objective.interface.attached(model), evaluating(model), torch.no_grad():
        for inputs, targets in in_blocks(validation, _BLOCK):
            parts.append(outputs_of(model, inputs).detach().cpu().double())
            goals.append(targets.cpu())
    return errors_of(torch.cat(parts), torch.cat(goals), classes=classes)


def errors_of(outputs: Tensor, targets: Tensor, *, classes: bool) -> Tensor:
    """Return the error of each example as probes have it: 0 or 1, or squared in variances of the targets.

    >>> errors_of(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]), classes=True)
    tensor([0., 1.], dtype=torch.float64)
    >>> errors_of(torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 1]), classes=True)
    tensor([0., 1.], dtype=torch.float64)
    """
    if classes:
        single = outputs.ndim == 1 or outputs.shape[1] == 1
        predicted = (outputs.flatten() > 0).long() if single else outputs.argmax(1)
        return (predicted != targets.flatten().long()).double()
    goals = targets.double().flatten()
    spread = float(goals.var(correction=0)) or 1.0
    return (outputs.flatten() - goals).square() / spread
