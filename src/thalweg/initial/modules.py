"""A scheme put to work on a whole module: :func:`initialize`.

A parameter draws from the stream ``"initial/NAME/uniform"`` or ``"initial/NAME/normal"`` with the seed
given, so that neither the order of making nor a device matters; sharded ones keep their part of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from thalweg.errors import ModelError
from thalweg.initial.normed import Normed, normed
from thalweg.initial.schemes import check_options, draw
from thalweg.initial.weights import NORMS, Numbers, Role, Weight, matching, role_of, roles, write

__all__ = ["Initialized", "initialize"]


@dataclass(frozen=True)
class Initialized:
    """What was done to a module.

    Args:
        done: parameter to what it holds now, in a few words.
        left: parameter to why it keeps what it held.
        notes: what the person should know, a sentence each.
    """

    done: dict[str, str]
    left: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    layer: nn.Module
    parameter: Tensor
    role: Role | None
    computed: Normed | None = None


def initialize(
    module: nn.Module,
    scheme: str,
    *,
    seed: int,
    bias: float | None = 0.0,
    only: str = "*",
    **options: Any,
) -> Initialized:
    """Draw the weights of all layers by a scheme, in place, and set their biases to a constant.

    Covers linear and bilinear layers, convolutions of every kind, recurrent layers and cells (gate by gate)
    and attention. Of a layer under weight norm, spectral norm or another parametrization that can be
    inverted, the weight that it computes is drawn, under its plain name. Embeddings get N(0, 1), since a row
    that is looked up sums nothing, with zeros in the row for padding; under ``"uniform"`` and ``"gaussian"``
    they get those. Normalization keeps its scale of 1 and shift of 0, and what isn't known is left: both are
    said.

    Each parameter's draws depend on the seed and on its name alone, so that the order in which layers were
    made, or what else a model has, changes nothing; a parameter with several names counts under its first.

    Args:
        module: any; sharded parameters get their part of what they would hold unsharded.
        scheme: one of :data:`~thalweg.initial.schemes.SCHEMES`.
        seed: any int.
        bias: for all biases; of two that are added, as in recurrent layers, the second becomes 0. ``None``:
            biases are left.
        only: which parameters, by a pattern of their names, such as ``"encoder.*"``.
        **options: the scheme's own. Where a unit has fewer weights than ``sparse``'s ``k``, it gets them all.

    Raises:
        OptionError: an unknown scheme or option, a value that isn't allowed, or a pattern that fits nothing.
        ModelError: a lazy layer that hasn't seen data, or parameters without memory (device ``meta``).

    >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    >>> result = initialize(model, "he", seed=0)
    >>> result.done["3.weight"], result.left["1.weight"]
    ('he', 'normalization begins with a scale of 1 and a shift of 0')

    Source: I1-I4, I9 (K, U).
    """
    check_options(scheme, options)
    every = _parameters(module)
    found = {name: every[name] for name in matching(only, every)}
    done: dict[str, str] = {}
    left: dict[str, str] = {}
    notes: list[str] = []
    for name, each in found.items():
        parameter, role = each.parameter, each.role
        _refuse_without_memory(name, parameter)
        if isinstance(role, Weight):
            own = dict(options)
            if scheme == "sparse" and own.get("k", 15) > role.per_unit:
                own["k"] = role.per_unit
                notes.append(f"{name}: a unit has only {role.per_unit} weights, so none of them is zero")
            drawn = draw(
                role, scheme, seed=seed, name=name, dtype=parameter.dtype, device=parameter.device, **own
            )
            if each.computed is None:
                write(parameter, drawn)
            else:
                try:
                    said = each.computed.put(drawn)
                except NotImplementedError as problem:
                    left[name] = f"its parametrization {problem} can't be given a weight"
                    continue
                if said is not None:
                    notes.append(f"{name}: {said}")
            done[name] = scheme
        elif role == "embedding":
            done[name] = _embed(name, each, scheme, seed, options)
        elif role is None:
            left[name] = _why(each.layer)
        elif bias is None:
            left[name] = "biases were to be left"
        else:
            value = bias if role == "bias" else 0.0
            write(parameter, torch.full(parameter.shape, value, dtype=parameter.dtype))
            done[name] = f"constant {value:g}"
    tied = sorted({name for name, each in found.items() if each.role == "embedding"})
    if tied and scheme not in _SCALED:
        notes.append(f"embeddings were drawn from N(0, 1), which is no part of {scheme!r}: {', '.join(tied)}")
    return Initialized(done, left, tuple(notes))


_SCALED = ("uniform", "gaussian")


def _parameters(module: nn.Module) -> dict[str, _Found]:
    """All parameters by their first names; a table shared with a dense layer counts as its weight."""
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    found: dict[str, _Found] = {}
    computed = [(layer, own, each) for layer in module.modules() for own, each in normed(layer).items()]
    sources = {id(source) for _, _, each in computed for source in each.sources}
    prefixes = {layer: name for name, layer in module.named_modules()}
    for layer, own, each in computed:
        name = f"{prefixes[layer]}.{own}".lstrip(".")
        found[name] = _Found(layer, each.weight, role_of(layer, own, each.weight), each)
    for layer in module.modules():
        known = roles(layer)
        for own, parameter in layer.named_parameters(recurse=False):
            if id(parameter) in sources:
                continue
            name, role = first[id(parameter)], known.get(own)
            before = found.get(name)
            if before is None or before.role is None or (before.role == "embedding" and role is not None):
                found[name] = _Found(layer, parameter, role)
    return found


def _embed(name: str, each: _Found, scheme: str, seed: int, options: dict[str, Any]) -> str:
    table = each.parameter
    dtype = table.dtype if table.dtype in (torch.float32, torch.float64) else torch.float32
    rows = table.shape[0]
    if scheme in _SCALED:
        known = Weight(shape=tuple(table.shape), units=rows, fan_in=1, fan_out=table[0].numel())
        drawn = draw(known, scheme, seed=seed, name=name, dtype=dtype, device=table.device, **options)
    else:
        drawn = Numbers(seed, name, dtype, table.device).normal(table.shape)
    padding = each.layer.padding_idx
    if padding is not None:
        assert isinstance(padding, int)
        drawn[padding] = 0
    write(table, drawn)
    return scheme if scheme in _SCALED else "N(0, 1)"


def _why(layer: nn.Module) -> str:
    if isinstance(layer, NORMS):
        return "normalization begins with a scale of 1 and a shift of 0"
    return f"nothing is known of how a {type(layer).__name__} should begin"


def _refuse_without_memory(name: str, parameter: Tensor) -> None:
    if isinstance(parameter, UninitializedParameter):
        raise ModelError(f"{name} has no shape yet: give the lazy model one batch before it is initialized")
    if parameter.is_meta:
        raise ModelError(
            f"{name} has no memory yet: call model.to_empty(device=...) before it is initialized"
        )
    if not parameter.is_floating_point() or math.prod(parameter.shape) == 0:
        raise ModelError(
            f"{name} is {parameter.dtype} {list(parameter.shape)}: only floating parameters that hold "
            "something can be initialized; leave it out by only=..."
        )
