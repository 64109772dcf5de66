"""A new middle that changes nothing: layers that are the identity, blocks that are their skip connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from thalweg.errors import ModelError, shortened
from thalweg.initial.weights import whole, write
from thalweg.layers.following import activation_name, in_line, is_chain
from thalweg.layers.interface import Interface
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched
from thalweg.stages.decoders import KEEPS_SIGNS
from thalweg.stages.freezing import plain_name
from thalweg.stages.names import parameters_of, state_of
from thalweg.stages.residual import silence_branches
from thalweg.stages.taps import inner_module

__all__ = ["check_taken", "make_same"]

_KEPT = {"relu", "relu6", "hardtanh"}
"""Activations that change nothing about what they gave before: f(f(x)) = f(x)."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_DRAWN = "leave the middle 'as drawn'"
_NO_WAY = "so that the deeper net can't be made to compute the same"


def make_same(shallow: nn.Module, deep: nn.Module, new: list[str], example: Any) -> None:
    """Let new layers hand on what they are given, or, where they can't, new residual blocks.

    Raises:
        ModelError: there is no way, in one sentence; the deeper net is then to be put back by whoever asked.
    """
    drawn = {name: value.detach().clone() for name, value in state_of(deep).items() if name in set(new)}
    try:
        made = _identities(shallow, deep, new, example)
        for layer in made:
            _set_identity(layer)
        _check_same(shallow, deep, made, example)
    except ModelError:
        if example is None:
            raise
        with torch.no_grad():
            for name, value in state_of(deep).items():
                if name in drawn:
                    value.detach().copy_(drawn[name])
        if not _silenced(deep, "", set(new), example):
            raise
        _check_same(shallow, deep, [], example)


def _silenced(deep: nn.Module, name: str, new: set[str], example: Any) -> bool:
    """Let what is new in a part hand on what it is given, block by block; say whether all of it does."""
    part = inner_module(deep, name, "a net") if name else deep
    inside = {f"{name}.{own}" if name else own for own in state_of(part)}
    if not inside & new:
        return True
    if inside <= new and name and silence_branches(deep, part, example):
        return True
    own = {f"{name}.{each}" if name else each for each, _ in part.named_parameters(recurse=False)}
    children = [f"{name}.{child}" if name else child for child, _ in part.named_children()]
    return not own & new and all(_silenced(deep, child, new, example) for child in children)


def check_taken(shallow: nn.Module, pairs: dict[str, str], new: list[str], left: list[str]) -> None:
    """Refuse what leaves out or repeats a part of what the shallower net computes.

    Raises:
        ModelError: in one sentence.
    """
    learnt = [name for name, _ in parameters_of(shallow) if name in set(left)]
    if learnt:
        raise ModelError(
            f"{shortened(learnt, 3)} of the shallower net isn't taken, {_NO_WAY}; take all of it, or {_DRAWN}"
        )
    if len(set(pairs.values())) < len(pairs):
        raise ModelError(f"a layer of the shallower net is taken twice, {_NO_WAY}; {_DRAWN}")
    if alone := [name for name in new if "." not in name]:
        raise ModelError(f"{shortened(alone, 3)} of the deeper net is new and no layer, {_NO_WAY}; {_DRAWN}")


def _identities(shallow: nn.Module, deep: nn.Module, new: list[str], example: Any) -> list[nn.Module]:
    """The new layers that are to hand on what they are given, in order; refused where they can't."""
    names = {name.rpartition(".")[0] for name in new}
    made = {plain: inner_module(deep, plain, "a net") for plain in _in_order(deep, names)}
    for name, layer in made.items():
        if (why := _no_identity(layer)) is not None:
            raise ModelError(f"the new layer {name!r} ({type(layer).__name__}) {why}, {_NO_WAY}; {_DRAWN}")
    extra = _activations_of_new(deep, made)
    if example is None:
        _check_lines(shallow, deep, set(made), extra)
    return list(made.values())


def _in_order(model: nn.Module, names: set[str]) -> list[str]:
    return list(
        dict.fromkeys(plain_name(name) for name, _ in model.named_modules() if plain_name(name) in names)
    )


def _activations_of_new(deep: nn.Module, made: Mapping[str, nn.Module]) -> set[str]:
    """The activations that follow new layers in an ``nn.Sequential``: refused unless they change nothing."""
    found: set[str] = set()
    for line in in_line(deep):
        named = [(plain_name(name), module) for name, module in line]
        for place, (name, _) in enumerate(named):
            if name not in made:
                continue
            after = _activation(named[place + 1 :], made)
            if after is None:
                continue
            before = _activation(named[:place][::-1], made, found)
            if before is None or _form(before[1]) != _form(after[1]) or _form(after[1])[0] not in _KEPT:
                whence = (
                    "is given what comes from no activation" if before is None else f"comes after {before[1]}"
                )
                raise ModelError(
                    f"the new layer {name!r} {whence} and is followed by {after[1]}: only ReLU and the like "
                    f"after itself change nothing, {_NO_WAY}; {_DRAWN}"
                )
            found.add(after[0])
    return found


def _form(module: nn.Module) -> tuple[Any, ...]:
    """What tells activations apart."""
    return activation_name(module), getattr(module, "min_val", None), getattr(module, "max_val", None)


def _activation(
    line: list[tuple[str, nn.Module]],
    made: Mapping[str, nn.Module],
    passed: set[str] = frozenset(),  # type: ignore[assignment]
) -> tuple[str, nn.Module] | None:
    """The next activation in a line, with nothing but new layers, pooling and such before it."""
    for name, module in line:
        if activation_name(module) is not None and name not in passed:
            return name, module
        if name not in made and name not in passed and not isinstance(module, KEEPS_SIGNS):
            return None
    return None


def _check_lines(shallow: nn.Module, deep: nn.Module, made: set[str], extra: set[str]) -> None:
    """Without an example: see that both nets are lines of layers, and alike but for what is new."""

    def read(model: nn.Module, without: set[str]) -> list[str] | None:
        if not is_chain(getattr(model, "_orig_mod", model)):
            return None
        line = [(plain_name(name), module) for name, module in in_line(model)[0]]
        kept = [module for name, module in line if name not in without]
        return [
            str(_form(module))
            if activation_name(module)
            else f"{type(module).__name__}({module.extra_repr()})"
            for module in kept
            if not isinstance(module, _DropoutNd)
        ]

    one, other = read(shallow, set()), read(deep, made | extra)
    if one is None or one != other:
        raise ModelError(
            "the nets aren't nn.Sequential containers that are alike but for the new layers, so that what "
            f"they compute must be compared; give example, a batch of inputs, or {_DRAWN}"
        )


def _no_identity(layer: nn.Module) -> str | None:
    """Why a layer can't hand on what it is given; ``None`` where it can."""
    if isinstance(layer, nn.Linear):
        if layer.in_features != layer.out_features:
            return f"gives {layer.out_features} numbers for {layer.in_features}"
        return None
    if isinstance(layer, _CONVOLUTIONS):
        odd = all(size % 2 for size in layer.kernel_size)
        reaches = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        padded = (
            layer.padding == "same"
            if isinstance(layer.padding, str)
            else all(2 * p == r for p, r in zip(layer.padding, reaches, strict=True))
        )
        if layer.in_channels != layer.out_channels or not padded or not odd or set(layer.stride) != {1}:
            return "gives another shape than it takes, or has an even kernel"
        return None
    if isinstance(layer, _BatchNorm):
        if layer.weight is None or layer.running_mean is None:
            return "has no scale, or keeps no statistics"
        return None
    return "is none of linear layer, convolution and batch norm"


@torch.no_grad()
def _set_identity(layer: nn.Module) -> None:
    if isinstance(layer, _BatchNorm):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        write(layer.weight, (whole(layer.running_var) + layer.eps).sqrt())
        write(layer.bias, whole(layer.running_mean))
        return
    assert isinstance(layer, (nn.Linear, *_CONVOLUTIONS))
    values = torch.zeros_like(whole(layer.weight))
    if isinstance(layer, nn.Linear):
        values.fill_diagonal_(1)
    else:
        nn.init.dirac_(values, groups=layer.groups)
    write(layer.weight, values)
    if layer.bias is not None:
        write(layer.bias, torch.zeros_like(whole(layer.bias)))


def _check_same(shallow: nn.Module, deep: nn.Module, made: list[nn.Module], example: Any) -> None:
    """Set statistics of new batch norms on an example, and see that both nets compute the same."""
    if example is None:
        return
    norms = [layer for layer in made if isinstance(layer, _BatchNorm)]
    with evaluating(deep), torch.no_grad():
        for norm in norms:
            seen = _given_to(deep, norm, example)
            if seen is not None:
                rows = seen.transpose(0, 1).flatten(1)
                assert norm.running_mean is not None
                assert norm.running_var is not None
                write(norm.running_mean, rows.mean(1))
                write(norm.running_var, rows.var(1, correction=0))
                _set_identity(norm)
    found = []
    for net in (shallow, deep):
        with untouched(net, parameters=False), evaluating(net), torch.no_grad():
            interface = Interface(own=("grow",))
            with interface.attached(net):
                found.append(interface.part(outputs_of(net, example)))
    tolerance = 1e-3 if found[0].dtype in (torch.float16, torch.bfloat16) else 1e-4
    size = max(float(found[0].abs().max()), 1e-12) if found[0].numel() else 1.0
    if found[0].shape != found[1].shape or float((found[0] - found[1]).abs().max()) > tolerance * size:
        raise ModelError(
            "with new layers that hand on what they are given the deeper net doesn't compute the same as the "
            f"shallower one, since something else is between them; {_DRAWN}"
        )


def _given_to(model: nn.Module, layer: nn.Module, example: Any) -> Tensor | None:
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    try:
        with untouched(model, parameters=False), Interface(own=("grow",)).attached(model), evaluating(model):
            outputs_of(model, example)
    finally:
        handle.remove()
    return seen[-1] if seen else None
