"""What happens in a forward pass: which modules are called with what, and what depends on what."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from thalweg.layers.interface import Interface
from thalweg.layers.passing import outputs_of
from thalweg.stages.taps import inner_modules

__all__ = ["CallRecord", "ModuleCall", "first_input", "reached_from"]


def first_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the first of a module's arguments."""
    return args[0] if args else next(iter(kwargs.values()), None)


class ModuleCall:
    """One call of a module."""

    def __init__(self, name: str, begin: int, given: Any, alone: bool) -> None:
        self.name, self.begin, self.alone = name, begin, alone
        self.given, self.given_as = given, _state(given)
        # of what is cut, the function that it comes from, before anything is done to it in place
        self.node = given.grad_fn if isinstance(given, Tensor) else None
        self.values = given.detach().clone() if isinstance(given, Tensor) else None
        self.end = -1
        self.gives: Any = None
        self.gives_as: Any = None


def _state(value: Any) -> tuple[int, int] | None:
    """What tells a tensor from any other, and from itself once something was done to it in place."""
    return (id(value), value._version) if isinstance(value, Tensor) else None


class CallRecord:
    """The calls of a forward pass, in order."""

    def __init__(self) -> None:
        self.calls: list[ModuleCall] = []
        self.inputs: Any = None
        self.outputs: Any = None
        self._open: list[ModuleCall] = []
        self._clock = 0

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def run(self, model: nn.Module, example: Any) -> None:
        """Run a model on a batch of inputs."""
        handles = []
        for name, module in inner_modules(model).items():

            def before(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                alone = len(args) == 1 and _are_defaults(module, kwargs)
                call = ModuleCall(name, self._tick(), first_input(args, kwargs), alone)
                self.calls.append(call)
                self._open.append(call)

            def after(module: nn.Module, args: Any, output: Any) -> None:
                call = self._open.pop()
                call.end, call.gives, call.gives_as = self._tick(), output, _state(output)

            handles += [
                module.register_forward_pre_hook(before, with_kwargs=True),
                module.register_forward_hook(after),
            ]
        try:
            with Interface(own=("blocks",)).attached(model):
                self.inputs = example
                self.outputs = outputs_of(model, example)
        finally:
            for handle in handles:
                handle.remove()

    def of(self, name: str) -> list[ModuleCall]:
        """Return the calls of a module."""
        return [call for call in self.calls if call.name == name]

    def parts(self, begin: ModuleCall | None, end: ModuleCall | None) -> tuple[str, ...] | None:
        """Return the modules that lead from the input of one call to that of another, if they alone do."""
        first = 0 if begin is None else begin.begin
        last = self._clock + 1 if end is None else end.begin
        state = _state(self.inputs) if begin is None else begin.given_as
        within = [call for call in self.calls if first <= call.begin and -1 < call.end < last]
        found: list[str] = []
        done = -1
        for call in within:
            if call.end < done:
                continue  # a part of the one before
            if not call.alone or state is None or call.given_as != state:
                return None
            found.append(call.name)
            state, done = call.gives_as, call.end
        arrived = _state(self.outputs) if end is None else end.given_as
        return tuple(found) if found and state is not None and state == arrived else None


def _are_defaults(module: nn.Module, kwargs: dict[str, Any]) -> bool:
    if not kwargs:
        return True
    known = inspect.signature(module.forward).parameters
    return all(name in known and known[name].default is value for name, value in kwargs.items())


def reached_from(begin: Sequence[Any], without: Any = None) -> tuple[set[Any], set[int]]:
    """Return the functions that something comes of, and the parameters at their ends by ``id``."""
    nodes: set[Any] = set()
    parameters: set[int] = set()
    left = [node for node in begin if node is not None and node is not without]
    while left:
        node = left.pop()
        if node in nodes:
            continue
        if hasattr(node, "variable"):
            parameters.add(id(node.variable))
            continue
        nodes.add(node)
        left += [each for each, _ in node.next_functions if each is not None and each is not without]
    return nodes, parameters
