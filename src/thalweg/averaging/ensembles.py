"""Prediction by several models, and snapshots of one run as such."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.averaging.predictions import softmax_of_several
from thalweg.averaging.running import tensors_of
from thalweg.errors import OptionError
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.settings.choices import Activation

__all__ = ["KeptSnapshots", "averaged_probabilities"]


class KeptSnapshots:
    """States of one model at several moments of its training, to predict as an ensemble.

    Taken at the low points of a cyclic schedule they differ from each other although one run made them all.

    Args:
        keep: how many at most, the newest; ``None``: all.
        device: where they are kept; by default where the model is.

    >>> model = nn.Linear(2, 3)
    >>> snapshots = KeptSnapshots()
    >>> snapshots.take(model, step=100)
    >>> _ = model.weight.data.zero_()
    >>> snapshots.take(model, step=200)
    >>> snapshots.steps, averaged_probabilities(snapshots.members(model), torch.ones(4, 2)).shape
    ([100, 200], torch.Size([4, 3]))

    Source: A3 (S); Huang, Li, Pleiss, Liu, Hopcroft and Weinberger 2017.
    """

    def __init__(self, *, keep: int | None = None, device: torch.device | str | None = None) -> None:
        if keep is not None and keep < 1:
            raise OptionError(f"keep = {keep} isn't allowed: keep at least 1 snapshot, or None for all")
        self.keep, self.device = keep, device
        self.steps: list[int] = []
        self._states: list[dict[str, Tensor]] = []

    @torch.no_grad()
    def take(self, model: nn.Module, *, step: int) -> None:
        """Copy the model's parameters and buffers as they are now; sharded ones stay so."""
        state = {name: value.detach().clone() for name, value in tensors_of(model).items()}
        if self.device is not None:
            state = {name: value.to(self.device) for name, value in state.items()}
        self.steps.append(step)
        self._states.append(state)
        if self.keep is not None:
            del self.steps[: -self.keep], self._states[: -self.keep]

    def __len__(self) -> int:
        return len(self.steps)

    def members(self, model: nn.Module) -> list[Callable[[Any], Any]]:
        """Return a function for each snapshot: the model with its state, in evaluation mode."""
        return [_Member(model, state) for state in self._states]

    def state_dict(self) -> dict[str, Any]:
        """Return steps and states."""
        return {"steps": list(self.steps), "states": [dict(state) for state in self._states]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.steps = list(state["steps"])
        self._states = [dict(each) for each in state["states"]]


@dataclass(frozen=True)
class _Member:
    model: nn.Module
    state: dict[str, Tensor]

    def __call__(self, inputs: Any) -> Any:
        own = tensors_of(self.model)
        state = {name: value.to(own[name].device) for name, value in self.state.items()}
        with evaluating(self.model):
            return functional_call(self.model, state, inputs)


@torch.no_grad()
def averaged_probabilities(
    members: Iterable[Callable[[Any], Any]],
    inputs: Any,
    *,
    activation: Activation = "softmax",
) -> Tensor:
    """Predict by several models: the mean of their probabilities, in evaluation mode.

    Args:
        members: models, or functions of the inputs such as :meth:`Snapshots.members`.
        inputs: a batch, or a tuple of several arguments.
        activation: from outputs to probabilities: softmax over the last axis, sigmoid, or none, which
            averages outputs, as for regression.

    Returns:
        ``[B, *, C]``.

    Raises:
        OptionError: no members, or an unknown activation.

    >>> one, other = (lambda x: torch.tensor([[0.0, 0.0]])), (lambda x: torch.tensor([[100.0, 0.0]]))
    >>> averaged_probabilities([one, other], torch.zeros(1)).tolist()
    [[0.75, 0.25]]

    Source: A2, A3 (S).
    """
    if activation not in ("softmax", "sigmoid", "identity"):
        raise OptionError(f"activation = {activation!r} isn't known: 'softmax', 'sigmoid' and 'identity' are")
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    total, count = torch.zeros(()), 0
    for count, member in enumerate(members, 1):
        if isinstance(member, nn.Module):
            with evaluating(member):
                outputs: Tensor = outputs_of(member, *arguments)
        else:
            outputs = member(inputs)
        if activation == "softmax":
            outputs = softmax_of_several(outputs)
        elif activation == "sigmoid":
            outputs = outputs.sigmoid()
        # the running mean, so that many members don't overflow half precision
        total = outputs if count == 1 else total + (outputs - total) / count
    if count == 0:
        raise OptionError("there are no members to predict with: give at least one model")
    return total
