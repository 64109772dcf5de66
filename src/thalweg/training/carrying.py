"""What one stage hands to the next: trained weights, and the optimizer's state by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from thalweg.strategies.base import Strategy, Trainer
from thalweg.training.backend import Backend, copied

__all__ = ["CarriesState", "put_state", "state_of_model"]


# no parameter has an empty name
_TOGETHER = ""


class CarriesState(Strategy):
    """Gives an optimizer the state that another had, and takes its own at the end, by names of the model."""

    name: ClassVar[str] = "carried-state"
    priority: ClassVar[int] = 0

    def __init__(
        self, names: Mapping[str, str], before: dict[str, dict[str, Any]] | None, backend: Backend
    ) -> None:
        super().__init__()
        self._names, self._before, self._backend = names, before, backend
        self.after: dict[str, dict[str, Any]] | None = None

    def before_training(self, trainer: Trainer) -> None:
        """Begin with the state of before."""
        if self._before is None:
            return
        optimizer, backend = trainer.optimizer, self._backend
        state = optimizer.state_dict()
        places = self._places(trainer)
        found: dict[int, Any] = {
            place: self._before[name] for place, name in places.items() if name in self._before
        }
        if trainer.step_kind != "gradient":
            # of all parameters together, wherever the optimizer keeps it, and in a form of its own
            whole: dict[str, Any] = self._before.get(_TOGETHER, {})
            why = None
            if whole.get("optimizer") != type(optimizer).__name__:
                why = "the stage before had another optimizer"
            elif whole["names"] != list(places.values()):
                why = "others are trained now"
            if why is not None:
                trainer.note(f"the optimizer begins anew: its state is of all parameters together, and {why}")
                return
            found = dict(whole["state"])
        kept = backend.save(trainer.model, optimizer)
        state["state"] = {**state["state"], **found}
        backend.load(trainer.model, optimizer, copied({**kept, "optimizer": state}))

    def finished(self, trainer: Trainer) -> None:
        """Take the state."""
        state = trainer.optimizer.state_dict()["state"]
        places = self._places(trainer)
        if trainer.step_kind != "gradient":
            self.after = {
                _TOGETHER: {
                    "optimizer": type(trainer.optimizer).__name__,
                    "names": list(places.values()),
                    "state": _whole(state),
                }
            }
            return
        self.after = {places[place]: _whole(each) for place, each in state.items() if place in places}

    def _places(self, trainer: Trainer) -> dict[int, str]:
        """Of each parameter that is the model's, its number in the optimizer."""
        held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        number = {id(p): place for place, p in enumerate(held)}
        return {
            number[id(p)]: self._names[name]
            for name, p in trainer.model.named_parameters()
            if name in self._names and id(p) in number
        }


def _whole(value: Any) -> Any:
    if isinstance(value, DTensor):
        value = value.full_tensor()
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {name: _whole(each) for name, each in value.items()}
    return copied(value)


def put_state(state: Mapping[str, Tensor], module: nn.Module) -> None:
    """Give a module the values that a sharded copy of it has; all processes come to the same."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            tensor.copy_(_whole(state[name]))


def state_of_model(
    best: Mapping[str, Any], trained: nn.Module, module: nn.Module, model: nn.Module
) -> dict[str, Any]:
    """The state of the model within a state of the module that a stage has trained."""
    now = copied({name: _whole(value) for name, value in module.state_dict().items()})
    try:
        if trained is module:
            module.load_state_dict(best)
        else:
            put_state(best, module)
        found: dict[str, Any] = copied(model.state_dict())
        return found
    finally:
        module.load_state_dict(now)
