"""How a model is called with a batch, and which part of what it returns is compared with targets.

A model that takes one tensor and returns one is left alone. For all others the two rules are here, once:

- **Inputs.** A dictionary goes in by name where the model's ``forward`` takes these names, and as one
  argument where it doesn't; a dictionary with one entry that isn't taken either way goes in as that entry
  alone. A tuple or list goes in as several arguments where ``forward`` takes so many.
- **Outputs.** Of a tuple, list, dictionary, dataclass, or an output of Hugging Face's, the part of a
  well-known name (:data:`NAMES`); else the only tensor of fractions in it; else, of a tuple or list without
  names, the first entry. ``output`` says it where that isn't clear.

Both are hooks of the model while it is trained or asked, so that everybody who calls it sees the part:
losses, metrics, strategies, curvature, lanes. They are gone afterwards, and gone at once from a model of
plain tensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError, UserError, nearest, option, shortened
from thalweg.layers.untouched import untouched
from thalweg.objectives.nests import described, entries_of
from thalweg.settings.free_memory import out_of_memory

__all__ = ["NAMES", "Interface", "Output", "part_of", "path_of"]

Output: TypeAlias = str | int | Callable[[Any], Tensor] | None
"""Which part of a model's outputs is compared: a name or dotted path, a position, or a function of them."""

NAMES = (
    "logits", "predictions", "prediction", "preds", "pred", "outputs", "output", "out", "scores",
    "y_hat", "y_pred",
)  # fmt: skip
"""Well-known names of the part that is compared with targets, the first that is there."""


# What a model returns ----------------------------------------------------------------------------------


def part_of(outputs: Any, output: Output = None, needed_by: str = "the loss") -> Tensor:
    """Return the part of a model's outputs that is compared with targets.

    Args:
        outputs: what the model has returned; a tensor stays as it is.
        output: the part, where it isn't clear; see :data:`Output`.
        needed_by: who needs it, for the message.

    Raises:
        ModelError: there is no such part, or several that it could be.

    >>> hidden, logits = torch.zeros(3, 8), torch.ones(3, 2)
    >>> part_of({"logits": logits, "hidden": hidden}) is part_of((logits, hidden)) is logits
    True
    >>> part_of({"a": hidden, "b": [logits]}, "b.0") is logits
    True
    >>> part_of({"start": hidden, "end": hidden})
    Traceback (most recent call last):
    thalweg.errors.ModelError: the model returns a dict (start, end), and the loss needs one tensor of it, \
but which one isn't clear; say it, as output='start'
    """
    if isinstance(outputs, Tensor):
        return outputs
    if output is not None:
        return _chosen(outputs, output)
    found = _found(outputs)
    if found is not None:
        return found
    said = f"the model returns {described(outputs)}"
    tensors = [name for name, value in (entries_of(outputs) or {}).items() if isinstance(value, Tensor)]
    if not tensors:
        raise ModelError(
            f"{said}, but {needed_by} needs a tensor, and it holds none at the top; let forward return one, "
            f"or say where it is, as {option('output', 'name.of.part')}"
        )
    raise ModelError(
        f"{said}, and {needed_by} needs one tensor of it, but which one isn't clear; say it, as "
        f"{option('output', tensors[0])}"
    )


def path_of(outputs: Any, part: Tensor) -> str | None:
    """Return what is written behind the name of a model's outputs to get a part; ``None``: there is nothing.

    >>> logits = torch.zeros(3)
    >>> path_of({"heads": (torch.ones(3), logits)}, logits)
    "['heads'][1]"
    """
    if outputs is part:
        return ""
    for name, value in (entries_of(outputs) or {}).items():
        below = path_of(value, part)
        if below is not None:
            item = isinstance(outputs, Mapping) or isinstance(name, int)
            return f"[{name!r}]{below}" if item else f".{name}{below}"
    return None


def _found(outputs: Any) -> Tensor | None:
    """The part by the rule, ``None`` where it leaves that open."""
    if isinstance(outputs, Tensor):
        return outputs
    entries = entries_of(outputs)
    if not entries:
        return None
    for name in NAMES:
        if (value := entries.get(name)) is not None:
            return _found(value)
    floating = [
        value
        for name, value in entries.items()
        if isinstance(value, Tensor) and name != "loss" and (value.is_floating_point() or value.is_complex())
    ]
    if len(floating) == 1:
        return floating[0]
    if 0 in entries and entries[0] is not None:
        return _found(entries[0])
    return None


def _chosen(outputs: Any, output: Output) -> Tensor:
    if callable(output):
        value = output(outputs)
        if not isinstance(value, Tensor):
            raise ModelError(
                f"output={getattr(output, '__name__', 'the function')} gives {described(value)} of what the "
                "model returns, not a tensor; let it return one"
            )
        return value
    value, where = outputs, ""
    for step in _steps(outputs, output):
        entries = entries_of(value) or {}
        if step not in entries and isinstance(step, int) and -len(entries) <= step < len(entries):
            value = list(entries.values())[step]
        elif step in entries:
            value = entries[step]
        elif isinstance(step, str) and hasattr(value, step) and not isinstance(value, Tensor):
            value = getattr(value, step)
        else:
            known = [f"{where}{name}" for name in entries]
            remedy = (
                nearest(f"{where}{step}", known) if isinstance(step, str) else f"it has {len(entries)} parts"
            )
            raise ModelError(
                f"{option('output', output)} isn't in what the model returns, {described(outputs)}; {remedy}"
            )
        where = f"{where}{step}."
    if not isinstance(value, Tensor):
        below = list(entries_of(value) or {})
        remedy = (
            f"name a part of it, as {option('output', f'{where}{below[0]}')}"
            if below
            else "name another part"
        )
        raise ModelError(f"{option('output', output)} is {described(value)}, not a tensor; {remedy}")
    return value


def _steps(outputs: Any, output: str | int | None) -> list[str | int]:
    """The names on the way to a part; a name with dots in it may be one."""
    if not isinstance(output, str):
        return [] if output is None else [output]
    if output in (entries_of(outputs) or {}):
        return [output]
    return [int(each) if each.lstrip("-").isdigit() else each for each in output.split(".")]


def _checked(output: Any) -> Output:
    if output is None or callable(output) or (isinstance(output, int) and not isinstance(output, bool)):
        return output  # type: ignore[no-any-return]
    if isinstance(output, str) and output:
        return output
    raise OptionError(
        f"{option('output')} is {output!r}, but must name the part of the model's outputs: a name, a "
        "position, or a function of what the model returns"
    )


# What a model is called with ---------------------------------------------------------------------------


class Interface:
    """How a model is called, and which part of what it returns is compared.

    Args:
        output: the part, where it isn't clear by itself.
        own: names of functions of a person's own that may want all that the model returns; until each has
            been seen to want the part alone, the model returns all of it.

    >>> class Named(nn.Module):
    ...     def forward(self, x, scale):
    ...         return {"logits": scale * x, "input": x}
    >>> with Interface().attached(model := Named()):
    ...     model({"x": torch.ones(2), "scale": 3.0})
    tensor([3., 3.])
    """

    def __init__(self, output: Output = None, own: tuple[str, ...] = ()) -> None:
        self.output = _checked(output)
        self._open, self._whole = set(own), set[str]()
        # how inputs of each form go in: by name, as several arguments, as they are, or as their one entry
        self._ways: dict[Any, str] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Interface:
        """A copy of a model is called as the model."""
        return self

    @property
    def selects(self) -> bool:
        """Whether the model is made to return the part: nobody wants the whole."""
        return not self._open

    def settle(self, own: str, *, whole: bool) -> None:
        """Take note of what one of a person's own functions wants."""
        if whole:
            self._whole.add(own)
        else:
            self._open.discard(own)

    def gives_whole(self, own: str) -> bool:
        """Say whether a person's own function was seen to want all that the model returns."""
        return own in self._whole

    def part(self, outputs: Any, needed_by: str = "the loss") -> Tensor:
        """Return the part of what the model returns; see :func:`part_of`."""
        if isinstance(outputs, Tensor):
            return outputs
        return part_of(outputs, self.output, needed_by)

    def attach(self, model: nn.Module) -> nn.Module:
        """Let a model be called so, and return it; one that already is stays as it is."""
        if not any(isinstance(each, _Before) for each in model._forward_pre_hooks.values()):
            model.register_forward_pre_hook(_Before(self), with_kwargs=True)
        if not any(isinstance(each, _After) for each in model._forward_hooks.values()):
            model.register_forward_hook(_After(self))
        return model

    @staticmethod
    def detach(model: nn.Module) -> Interface | None:
        """Let a model be called as its author meant; return what was attached."""
        hooks = (*model._forward_pre_hooks.values(), *model._forward_hooks.values())
        found = next((each.interface for each in hooks if isinstance(each, (_Before, _After))), None)
        _drop(model, _Before)
        _drop(model, _After)
        return found

    @contextmanager
    def attached(self, *models: nn.Module) -> Iterator[None]:
        """Let models be called so within the context."""
        # what somebody else has attached stays
        mine = [model for model in models if not _is_attached(model)]
        for model in mine:
            self.attach(model)
        try:
            yield
        finally:
            for model in mine:
                self.detach(model)

    def arguments(self, model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments and named arguments that a model takes inputs as."""
        if isinstance(inputs, Mapping):
            form: Any = (type(model), *inputs)
        elif isinstance(inputs, (tuple, list)):
            form = (type(model), len(inputs))
        else:
            return (inputs,), {}
        way = self._ways.get(form)
        if way is None:
            way = self._ways[form] = _way(model, inputs)
        if way == "named":
            return (), dict(inputs)
        if way == "several":
            return tuple(inputs), {}
        return (next(iter(inputs.values())) if way == "alone" else inputs,), {}


class _Before:
    """Gives a model its inputs in the form that it takes."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface

    def __call__(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if len(args) != 1 or kwargs:
            return None
        if isinstance(args[0], Tensor):
            if model.training:
                _drop(model, _Before)
            return None
        return self.interface.arguments(model, args[0])


class _After:
    """Picks the part of what a model returns."""

    def __init__(self, interface: Interface) -> None:
        self.interface = interface

    def __call__(self, model: nn.Module, args: Any, outputs: Any) -> Tensor | None:
        if isinstance(outputs, Tensor):
            # a model may return more while it is trained than in evaluation; the other way round is seen at
            # each evaluation, which attaches this anew
            if model.training:
                _drop(model, _After)
            return None
        return self.interface.part(outputs) if self.interface.selects else None


def _is_attached(model: nn.Module) -> bool:
    hooks = (*model._forward_pre_hooks.values(), *model._forward_hooks.values())
    return any(isinstance(each, (_Before, _After)) for each in hooks)


def _drop(model: nn.Module, kind: type) -> None:
    for hooks, marks in (
        (model._forward_pre_hooks, (model._forward_pre_hooks_with_kwargs,)),
        (model._forward_hooks, (model._forward_hooks_with_kwargs, model._forward_hooks_always_called)),
    ):
        for number in [number for number, each in hooks.items() if isinstance(each, kind)]:
            del hooks[number]
            for mark in marks:
                mark.pop(number, None)


def _called(model: nn.Module) -> nn.Module:
    """The module whose ``forward`` says what is taken: within a compiled one, or within one around it."""
    while True:
        inner = getattr(model, "_orig_mod", None)  # of torch.compile
        inner = getattr(model, "called_as", None) if inner is None else inner
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _signature(model: nn.Module) -> inspect.Signature | None:
    try:
        return inspect.signature(_called(model).forward)
    except (TypeError, ValueError):
        return None


def _way(model: nn.Module, inputs: Any) -> str:
    signature = _signature(model)
    if signature is None:
        return "named" if isinstance(inputs, Mapping) else "as it is"
    parameters = list(signature.parameters.values())
    placed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if isinstance(inputs, Mapping):
        return _way_of_names(model, inputs, parameters, placed)
    required = sum(p.default is p.empty for p in placed)
    bundled = bool(placed) and any(
        word in str(placed[0].annotation).lower() for word in ("tuple", "list", "sequence")
    )
    if not bundled and len(placed) > 1 and required <= len(inputs) <= len(placed) and len(inputs) > 1:
        return "several"
    return "as it is"


def _way_of_names(
    model: nn.Module, inputs: Mapping[Any, Any], parameters: list[inspect.Parameter],
    placed: list[inspect.Parameter],
) -> str:  # fmt: skip
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = {p.name for p in named}
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    required = [
        p.name for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]  # fmt: skip
    unknown = [key for key in inputs if key not in names]
    whole = all(isinstance(key, str) for key in inputs) and all(name in inputs for name in required)
    if whole and (not unknown or (anything and (not placed or len(unknown) < len(inputs)))):
        return "named"
    if len(inputs) > len(unknown) or len(required) > 1 or not placed:
        missing = [name for name in required if name not in inputs]
        what = f"doesn't take {_quoted(unknown)}" if unknown else f"needs {_quoted(missing)} too"
        raise ModelError(
            f"a batch has the inputs {_quoted(list(inputs))}, but the forward of {type(model).__name__} "
            f"{what}: it takes {shortened([p.name for p in named])}; give the inputs these names, or let "
            "forward take one dictionary"
        )
    if len(inputs) > 1 or isinstance(_called(model), nn.Sequential):
        return "alone" if len(inputs) == 1 else "as it is"
    return _tried(model, inputs)


def _tried(model: nn.Module, inputs: Mapping[Any, Any]) -> str:
    """Whether a model of one argument means a dictionary, or the one entry that it has."""
    with untouched(model, parameters=False), torch.no_grad():
        try:
            model.forward(inputs)
        except UserError:
            return "as it is"
        except Exception as problem:
            if out_of_memory(problem):
                raise
            return "alone"
    return "as it is"


def _quoted(names: list[Any]) -> str:
    return shortened([repr(name) for name in names])
