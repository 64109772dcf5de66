"""What puts dropout, maxout units and skip connections into a model that is there already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from thalweg.errors import ModelError, OptionError, nearest
from thalweg.layers.following import activation_name, in_line, is_chain
from thalweg.layers.modes import in_mode_of
from thalweg.layers.norm import replace
from thalweg.layers.residual import Skip
from thalweg.layers.units import Maxout

__all__ = ["insert_dropout", "insert_maxout", "insert_skips"]

# their own code reads the weights of the layers inside, and they have dropout of their own
_CLOSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def insert_dropout(
    model: nn.Module, p: float = 0.5, *, layers: Iterable[str] | None = None
) -> tuple[str, ...]:
    """Drop the hidden units that go into linear layers, in place.

    ``layer(h)`` becomes ``layer(dropout(h))``: each such layer is replaced by an ``nn.Sequential`` of
    ``nn.Dropout``, which scales while training, and itself. In a stack of linear layers that is behind each
    hidden activation, in a convolutional network before the linear layers on top. What goes into a model's
    first layer is no hidden unit, and torch's transformer layers keep to dropout of their own.

    Args:
        model: any.
        p: chance of a unit to be dropped, in ``[0, 1)``.
        layers: names of the layers; without, all linear ones but the model's first layer.

    Returns:
        Names that the layers had; they are ``NAME.1`` now.

    Raises:
        OptionError: p outside of ``[0, 1)``, or a name that no linear layer has.
        ModelError: there are no such layers, or the model is itself one.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> insert_dropout(model, 0.3)
    ('2',)
    >>> model[2]
    Sequential(
      (0): Dropout(p=0.3, inplace=False)
      (1): Linear(in_features=8, out_features=2, bias=True)
    )

    Source: A4 (S); Srivastava et al. 2014.
    """
    if not 0 <= p < 1:
        raise OptionError(f"p = {p} isn't allowed: the chance to be dropped lies in [0, 1)")
    closed = {
        inside for module in model.modules() if isinstance(module, _CLOSED) for inside in module.modules()
    }
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module not in closed
    }
    if layers is None:
        first = next((module for module in model.modules() if _has_matrix(module)), None)
        chosen = [name for name, module in linear.items() if module is not first]
    else:
        chosen = list(layers)
        for name in chosen:
            if name not in linear:
                raise OptionError(f"there is no linear layer {name!r}; {nearest(name, linear)}")
    if not chosen:
        raise ModelError("the model has no linear layer that takes hidden units, so dropout has no place")
    if "" in chosen:
        raise ModelError("the model is itself the layer: put it into an nn.Sequential first")
    for name in chosen:
        layer = linear[name]
        replace(model, layer, in_mode_of(nn.Sequential(nn.Dropout(p), layer), layer))
    return tuple(chosen)


def insert_maxout(model: nn.Module, pieces: int = 2) -> tuple[str, ...]:
    """Replace hidden activations by maxout units, in place.

    ``activation(X W + b)`` with n units becomes the largest of ``pieces`` linear pieces each: the layer is
    replaced by one of the same kind with ``n * pieces`` outputs, whose initial weights torch draws. Put
    batch normalization in, make optimizers and initialize afterwards.

    Args:
        model: one whose activations stand behind their layers in ``nn.Sequential`` containers.
        pieces: k, at least 1; with 1 units are linear.

    Returns:
        Names of the layers that were replaced.

    Raises:
        OptionError: fewer pieces than 1.
        ModelError: nothing was found to replace.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> insert_maxout(model, 3), model[0].out_features, model[1]
    (('0',), 24, Maxout(pieces=3, axis=-1))

    Source: D2 (N); Goodfellow et al. 2013.
    """
    if pieces < 1:
        raise OptionError(f"pieces = {pieces} isn't allowed: a maxout unit has at least one")
    changed = []
    for (name, layer), (_, after) in [pair for line in in_line(model) for pair in pairwise(line)]:
        if isinstance(layer, _WIDENED) and activation_name(after) is not None:
            wide = _wider(layer, pieces)
            replace(model, layer, wide)
            axis = -1 if isinstance(layer, nn.Linear) else 1
            replace(model, after, in_mode_of(Maxout(pieces, axis=axis), after))
            changed.append(name)
    if not changed:
        raise ModelError(
            "no layer and activation were found one behind the other in an nn.Sequential, so maxout has no "
            "place: build it into the model, by thalweg.layers.Maxout"
        )
    return tuple(changed)


def insert_skips(model: nn.Module) -> tuple[str, ...]:
    """Put a skip connection around each block that gives as much as it takes, in place.

    A block is a linear layer or convolution, what normalizes or drops its outputs, and its activation:
    ``f(x)`` becomes ``x + f(x)``. The block's :class:`~thalweg.layers.Skip` stands where its first layer
    stood, identities stand where the others did, so that layers elsewhere keep their names. What lies in a
    skip connection already is left alone. Put maxout units and batch normalization in before, so that they
    become part of the blocks; dropout put in afterwards acts within them.

    Args:
        model: one whose activations stand behind their layers in ``nn.Sequential`` containers.

    Returns:
        Names of the skip connections; the blocks are their ``NAME.body``.

    Raises:
        ModelError: no block gives as much as it takes.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> insert_skips(model), model[2].body
    (('2',), Sequential(
      (0): Linear(in_features=8, out_features=8, bias=True)
      (1): ReLU()
    ))

    Source: D3 (N, K); He, Zhang, Ren and Sun 2016.
    """
    skips = [name for name, module in model.named_modules() if isinstance(module, Skip)]
    placed = []
    for line in in_line(model):
        if any(not skip or line[0][0].startswith(f"{skip}.") for skip in skips if line):
            continue
        names = [name for name, _ in line]
        for begin, end in _blocks([module for _, module in line]):
            modules = [module for _, module in line[begin:end]]
            if any(model.get_submodule(name) is not module for name, module in line[begin:end]):
                continue  # a container that the model holds twice, and that has been seen to
            body = nn.Sequential(*modules)
            skip = Skip(body)
            for made in (skip, body, skip.shortcut):
                made.training = modules[0].training
            place = _place(model, names, begin, end)
            for name in names[begin + 1 : end]:
                if not name.startswith(f"{place}."):
                    _put(model, name, in_mode_of(nn.Identity(), body))
            _put(model, place, skip)
            placed.append(place)
    if not placed:
        raise ModelError(
            "no layer with its activation, one behind the other in an nn.Sequential, gives as many features "
            "of the same size as it takes, so skip connections have no place: let neighbouring layers be "
            "equally wide (mlp:64,64), or build them into the model, by thalweg.layers.skip_around"
        )
    return tuple(placed)


def _blocks(line: Sequence[nn.Module]) -> list[tuple[int, int]]:
    """Where blocks that give as much as they take begin and end."""
    found = []
    for begin, layer in enumerate(line):
        if not isinstance(layer, _WIDENED):
            continue
        end = begin + 1
        while end < len(line) and isinstance(line[end], _BETWEEN):
            end += 1
        if end < len(line) and _keeps_shape(layer, line[end]):
            found.append((begin, end + 1))
    return found


def _keeps_shape(layer: nn.Module, activation: nn.Module) -> bool:
    if activation_name(activation) in (None, "glu"):  # a gated unit takes two features for each that it gives
        return False
    pieces = activation.pieces if isinstance(activation, Maxout) else 1
    if isinstance(layer, nn.Linear):
        return layer.out_features == layer.in_features * pieces
    assert isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    reaches = [spread * (size - 1) for spread, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    padding = layer.padding
    padded = (
        padding == "same" or (padding == "valid" and not any(reaches))
        if isinstance(padding, str)
        else all(2 * pad == reach for pad, reach in zip(padding, reaches, strict=True))
    )
    return padded and set(layer.stride) == {1} and layer.out_channels == layer.in_channels * pieces


def _place(model: nn.Module, names: Sequence[str], begin: int, end: int) -> str:
    """The outermost part of the line that holds the block alone, or else the place of its first layer."""
    parts = names[begin].split(".")
    for depth in range(1, len(parts)):
        container = ".".join(parts[:depth])
        outer = ".".join(parts[: depth - 1])
        held = {index for index, name in enumerate(names) if name.startswith(f"{container}.")}
        if held <= set(range(begin, end)) and all(
            is_chain(model.get_submodule(c)) for c in (outer, container)
        ):
            return container
    return names[begin]


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    model.get_submodule(parent)._modules[last] = module


_WIDENED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# what changes no shape between a layer and its activation
_BETWEEN = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _DropoutNd)


def _wider(layer: nn.Module, times: int) -> nn.Module:
    """A layer of the same kind with so many times the outputs, newly drawn."""
    assert isinstance(layer, _WIDENED)
    bias = layer.bias is not None
    place: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        return in_mode_of(nn.Linear(layer.in_features, layer.out_features * times, bias, **place), layer)
    kind: Any = type(layer)
    made: nn.Module = kind(
        layer.in_channels,
        layer.out_channels * times,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=bias,
        padding_mode=layer.padding_mode,
        **place,
    )
    return in_mode_of(made, layer)


def _has_matrix(module: nn.Module) -> bool:
    return any(p is not None and p.ndim > 1 for p in module._parameters.values())
