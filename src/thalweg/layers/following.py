"""Which activation follows which layer: read from an ``nn.Sequential``, or seen in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched

__all__ = ["activated", "activation_name", "in_line", "is_chain"]

# fmt: off
_ACTIVATIONS = (
    "celu", "elu", "gelu", "glu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu",
    "logsigmoid", "maxout", "mish", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus",
    "softshrink", "softsign", "tanh", "tanhshrink", "threshold",
)
# fmt: on
_LINEAR = (nn.Linear, nn.Bilinear, _ConvNd)
_IN_ORDER = nn.Sequential.forward


def activated(model: nn.Module, example: Any = None) -> dict[str, str]:
    """Name the linear layers and convolutions whose output goes straight into an activation, and which.

    Without an example, what is read is the order of ``nn.Sequential`` containers, nested ones and identities
    included. With one, the model is run on it once, in evaluation mode and without gradients, and the
    activations are seen wherever they stand, functions of torch included.

    Args:
        model: any.
        example: a batch of inputs; a tuple holds several arguments.

    Returns:
        Name of the layer to name of the activation in lower case, such as ``"relu"``, in the model's order.

    >>> activated(nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(), nn.Linear(3, 1)))
    {'0': 'leaky_relu'}
    """
    found = _read(model) if example is None else _seen(model, example)
    return {name: found[name] for name, _ in model.named_modules() if name in found}


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


_BY_PLAIN_NAME = {_plain(name): name for name in _ACTIVATIONS}


def _activation(name: str) -> str | None:
    return _BY_PLAIN_NAME.get(_plain(name))


def activation_name(module: nn.Module) -> str | None:
    """Return what :func:`activated` calls a module, or ``None`` where it is no activation.

    >>> activation_name(nn.LeakyReLU()), activation_name(nn.Flatten())
    ('leaky_relu', None)
    """
    return _activation(type(module).__name__)


def in_line(model: nn.Module) -> list[list[tuple[str, nn.Module]]]:
    """Return the modules of each ``nn.Sequential`` in order, nested ones joined and identities left out.

    Subclasses count too, unless their forward pass is their own.

    >>> nested = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Identity()), nn.ReLU())
    >>> in_line(nested)
    [[('0.0', Linear(in_features=2, out_features=3, bias=True)), ('1', ReLU())]]
    """
    lines = []
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if is_chain(module) and module not in inside:
            inside.update(_joined(module))
            lines.append(list(_flat(module, name)))
    return lines


def is_chain(module: nn.Module | None) -> bool:
    """Say whether a module is an ``nn.Sequential`` that does what its parts do in order, and nothing else.

    >>> is_chain(nn.Sequential(nn.ReLU())), is_chain(nn.ReLU())
    (True, False)
    """
    return isinstance(module, nn.Sequential) and getattr(module.forward, "__func__", None) is _IN_ORDER


def _joined(chain: nn.Module) -> Iterator[nn.Module]:
    """A chain and those that stand in it as parts of the same line."""
    yield chain
    for child in chain._modules.values():
        if child is not None and is_chain(child):
            yield from _joined(child)


def _read(model: nn.Module) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in in_line(model):
        for (before, layer), (_, after) in pairwise(line):
            activation = activation_name(after)
            if isinstance(layer, _LINEAR) and activation:
                found[before] = activation
    return found


def _flat(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    for own, child in module._modules.items():
        if isinstance(child, nn.Identity) or child is None:
            continue
        path = f"{name}.{own}" if name else own
        if is_chain(child):
            yield from _flat(child, path)
        else:
            yield path, child


class _ActivationCalls(TorchFunctionMode):
    """Notes every activation function that a watched tensor goes into."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no id is used twice
        self.found: dict[str, str] = {}

    def note(self, value: object, name: str) -> None:
        activation = _activation(name.strip("_"))
        if activation and id(value) in self.outputs:
            self.found.setdefault(self.outputs[id(value)][0], activation)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.note(args[0] if args else kwargs.get("input"), getattr(func, "__name__", ""))
        return func(*args, **kwargs)


def _seen(model: nn.Module, example: Any) -> dict[str, str]:
    watch = _ActivationCalls()
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _LINEAR):

            def keep(_: nn.Module, __: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor):
                    watch.outputs[id(output)] = (name, output)

            handles.append(module.register_forward_hook(keep))
        elif _activation(type(module).__name__):

            def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
                watch.note(inputs[0] if inputs else None, type(module).__name__)

            handles.append(module.register_forward_pre_hook(note))
    try:
        with untouched(model, parameters=False), evaluating(model), torch.no_grad(), watch:
            outputs_of(model, *(example if isinstance(example, tuple) else (example,)))
    finally:
        for handle in handles:
            handle.remove()
    return watch.found
