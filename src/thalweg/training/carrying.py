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


# what is of the optimizer as a whole; no parameter has an empty name
_OF = ""


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
        places = self._places(trainer)
        if trainer.step_kind == "gradient":
            found = self._fitting(trainer, places)
        else:
            found = self._together(trainer, list(places.values()))
        if not found:
            return
        kept, state = backend.save(trainer.model, optimizer), optimizer.state_dict()
        state["state"] = {**state["state"], **found}
        backend.load(trainer.model, optimizer, copied({**kept, "optimizer": state}))

    def _together(self, trainer: Trainer, names: list[str]) -> dict[Any, Any]:
        """A state of all parameters together, wherever the optimizer keeps it, and in a form of its own."""
        before: dict[str, Any] = (self._before or {}).get(_OF, {})
        why = None
        if before.get("optimizer") != type(trainer.optimizer).__name__ or "state" not in before:
            why = "the stage before had another optimizer"
        elif before["names"] != names:
            why = "others are trained now"
        if why is None:
            return dict(before["state"])
        trainer.note(f"the optimizer begins anew: its state is of all parameters together, and {why}")
        return {}

    def _fitting(self, trainer: Trainer, places: Mapping[int, str]) -> dict[int, Any]:
        """The states of single parameters that this optimizer can go on with; the others are said."""
        before = self._before or {}
        of = before.get(_OF, {})
        now = type(trainer.optimizer).__name__
        same = of.get("optimizer", now) == now
        both = {place: name for place, name in places.items() if name in of.get("names", before)}
        keeps = _kept_by(trainer)
        found = {
            place: before[name]
            for place, name in both.items()
            if name in before and (keeps is None or _fits(before[name], keeps.get(place, {}), same=same))
        }
        if keeps is None and not same:
            found = {}
        # nothing is lost where neither keeps anything
        wanted = [p for p in both if before.get(both[p]) or keeps is None or keeps.get(p)]
        if lost := [place for place in wanted if place not in found]:
            share = "" if len(lost) == len(wanted) else f" for {len(lost)} of {len(wanted)} parameters"
            trainer.note(
                f"the optimizer begins anew{share}: the state that {of.get('optimizer', 'the one')} of the "
                f"stage before kept isn't what {now} keeps"
            )
        return found

    def finished(self, trainer: Trainer) -> None:
        """Take the state."""
        state = trainer.optimizer.state_dict()["state"]
        places = self._places(trainer)
        of = {"optimizer": type(trainer.optimizer).__name__, "names": list(places.values())}
        if trainer.step_kind != "gradient":
            self.after = {_OF: {**of, "state": _whole(state)}}
            return
        self.after = {places[place]: _whole(each) for place, each in state.items() if place in places}
        self.after[_OF] = of

    def _places(self, trainer: Trainer) -> dict[int, str]:
        """Of each parameter that is the model's, its number in the optimizer."""
        held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        number = {id(p): place for place, p in enumerate(held)}
        return {
            number[id(p)]: self._names[name]
            for name, p in trainer.model.named_parameters()
            if name in self._names and id(p) in number
        }


def _kept_by(trainer: Trainer) -> dict[int, Any] | None:
    """What the optimizer keeps of each parameter, by its number, as one step shows that is taken back.

    ``None`` where it can't make a step by itself.
    """
    with trainer.aside(steps=True), torch.no_grad():
        for group in trainer.optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
        try:
            trainer.optimizer.step()
        except Exception:
            return None
        found: dict[int, Any] = copied(trainer.optimizer.state_dict()["state"])
        return found


def _fits(before: Mapping[str, Any], keeps: Mapping[str, Any], *, same: bool) -> bool:
    """Whether an optimizer that keeps something like this can go on with what one has kept before.

    The same one may leave out what an option of its asks for no more.
    """
    if same:
        return set(keeps) <= set(before)
    return set(keeps) == set(before) and all(
        getattr(before[name], "shape", ()) == getattr(value, "shape", ()) for name, value in keeps.items()
    )


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
