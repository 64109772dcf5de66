"""Growing: the layers of a trained net start a deeper one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from thalweg.errors import ModelError, OptionError, nearest, shortened
from thalweg.initial.weights import whole, write
from thalweg.layers.following import activation_name, in_line, is_chain
from thalweg.layers.interface import Interface
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched
from thalweg.settings.tables import one_of
from thalweg.stages.blocks import units_of
from thalweg.stages.decoders import KEEPS_SIGNS
from thalweg.stages.freezing import plain_name
from thalweg.stages.stage import Stage
from thalweg.stages.taps import inner_module

__all__ = ["Grown", "NamesOf", "grow", "growing", "shortest_names", "state_of"]

NamesOf: TypeAlias = Mapping[str, str] | Callable[[str], str | None]
"""From names in the deeper net to names in the shallower one."""

_KEPT = {"relu", "relu6", "hardtanh"}
"""Activations that change nothing about what they gave before: f(f(x)) = f(x)."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Grown:
    """What the deeper net has from the shallower one.

    Args:
        taken: part, or parameter, of the deeper net to the one of the shallower net that it was filled from.
        new: parts and parameters of the deeper net that weren't.
        left: parts and parameters of the shallower net that weren't taken.
        same: whether the deeper net computes what the shallower one does.
    """

    taken: dict[str, str]
    new: tuple[str, ...]
    left: tuple[str, ...]
    same: bool

    def __repr__(self) -> str:
        lines = [f"{name} from {source}" if name != source else name for name, source in self.taken.items()]
        said = [f"taken: {shortened(lines, 12) or 'nothing'}", f"new: {shortened(self.new, 12) or 'nothing'}"]
        if self.left:
            said.append(f"left behind: {shortened(self.left, 12)}")
        if self.same:
            said.append("computes the same")
        return f"Grown({'; '.join(said)})"


def grow(
    shallow: nn.Module,
    deep: nn.Module,
    mapping: NamesOf | None = None,
    *,
    middle: Literal["as drawn", "same function"] = "as drawn",
    example: Any = None,
) -> Grown:
    """Start a deeper net from a trained one, in place: first and last layers are taken, the middle is new.

    Without a mapping, blocks of both nets are compared by class and shapes: from the first one on as long as
    they are alike, then from the last one back as long as those are. What is taken is copied, buffers too.

    With ``middle="same function"`` the new layers are set so that the deeper net computes what the shallower
    one does: a linear layer to the identity, W = I and b = 0, a convolution to the one that hands each pixel
    on, and a batch norm to ``gamma = sqrt(var + eps)``, ``beta = mean`` of its running statistics. With an
    activation f after it that is right where f(f(x)) = f(x), as of ReLU. A batch norm does so in evaluation;
    given an example, its statistics are set to those of what it is given there, so that in training it
    does nearly so.

    Args:
        shallow: the trained net.
        deep: the deeper one; its new layers keep the weights that they have, or are set as said.
        mapping: parts or parameters of the deeper net to those of the shallower one that they start from, as
            ``{"features.0": "features.0", "classifier": "classifier"}``; or a function from the name of a
            parameter or buffer of the deeper net to the name in the shallower one, or to ``None``.
        middle: what the new layers are.
        example: a batch of inputs, by which ``"same function"`` is then checked too. Where nets aren't made
            of ``nn.Sequential`` it is needed.

    Returns:
        What was taken, what is new, and what was left behind.

    Raises:
        OptionError: a name that matches nothing.
        ModelError: nothing fits, shapes differ, or a new layer can't be made to change nothing.

    As the beginning of a stage: ``Stage(name="deep", begin=lambda deep: grow(shallow, deep))``.

    >>> shallow = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> deep = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> grow(shallow, deep, middle="same function")
    Grown(taken: 0, 4 from 2; new: 2; computes the same)
    >>> x = torch.randn(5, 4)
    >>> torch.equal(shallow(x), deep(x))
    True

    Source: P2 (N: Simonyan and Zisserman 2015); Chen et al. 2016 (Net2Net: deeper).
    """
    one_of("middle", middle, ("as drawn", "same function"))
    theirs, mine = state_of(shallow), state_of(deep)
    pairs = _by_layers(shallow, deep) if mapping is None else _given(mapping, theirs, mine)
    for name, source in pairs.items():
        if mine[name].shape != theirs[source].shape:
            raise ModelError(
                f"{name!r} of the deeper net is {list(mine[name].shape)}, but {source!r} of the shallower "
                f"one is {list(theirs[source].shape)}; name another, or leave it out"
            )
    if not any(name in pairs for name, _ in _parameters(deep)):
        raise ModelError(
            "nothing of the shallower net fits the deeper one: it begins with "
            f"{_first(shallow)}, the deeper one with {_first(deep)}, and their last layers differ too; give "
            "mapping, from names in the deeper net to names in the shallower one"
        )
    new = [name for name in mine if name not in pairs]
    left = [name for name in theirs if name not in set(pairs.values())]
    made = _identities(shallow, deep, pairs, new, left, example) if middle == "same function" else []
    before = {name: value.detach().clone() for name, value in mine.items()}
    try:
        for name, source in pairs.items():
            write(mine[name], whole(theirs[source]).to(mine[name].device))
        if middle == "same function":
            for layer in made:
                _set_identity(layer)
            _check_same(shallow, deep, made, example)
    except BaseException:
        # nothing is left half done
        with torch.no_grad():
            for name, value in mine.items():
                value.detach().copy_(before[name])
        raise
    return Grown(
        _shortest_pairs(deep, pairs),
        tuple(shortest_names(deep, new)),
        tuple(shortest_names(shallow, left)),
        middle == "same function",
    )


# What is taken -------------------------------------------------------------------------------------------


def growing(
    shallow: nn.Module,
    deep: nn.Module,
    mapping: NamesOf | None = None,
    *,
    middle: Literal["as drawn", "same function"] = "as drawn",
    example: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    name: str = "grown",
    **settings: Any,
) -> list[Stage]:
    """Return a stage that begins by growing a deeper net from a trained one (:func:`grow`).

    Args:
        shallow, deep, mapping, middle, example: as for :func:`grow`, which is tried on a copy at once.
        epochs, steps: how long.
        name: of the stage.
        settings: other settings of the :class:`thalweg.stages.Stage`.

    Raises:
        OptionError, ModelError: as of :func:`grow`.

    >>> shallow = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> deep = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> growing(shallow, deep, epochs=2)[0].about["taken"]
    {'0': '0', '4': '2'}

    Source: P2 (N); Chen et al. 2016.
    """
    found = grow(shallow, copy.deepcopy(deep), mapping, middle=middle, example=example)
    kept = copy.deepcopy(shallow)

    def begin(model: nn.Module) -> None:
        grow(kept, model, mapping, middle=middle, example=example)

    about = {
        "taken": dict(found.taken),
        "new": list(found.new),
        "middle": middle,
        **settings.pop("about", {}),
    }
    return [Stage(name=name, epochs=epochs, steps=steps, begin=begin, about=about, **settings)]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and saved buffers by plain name; the very same objects."""
    state = model.state_dict(keep_vars=True)
    return {plain_name(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(plain_name(name), p) for name, p in model.named_parameters()]


def _first(model: nn.Module) -> str:
    found = _parameters(model)
    return f"{found[0][0]!r} {list(found[0][1].shape)}" if found else "nothing that has parameters"


def _by_layers(shallow: nn.Module, deep: nn.Module) -> dict[str, str]:
    """The first layers that are alike, then the last ones."""
    theirs, mine = _layers(shallow), _layers(deep)
    count = min(len(theirs), len(mine))
    first = 0
    while first < count and theirs[first][1] == mine[first][1]:
        first += 1
    last = 0
    while last < count - first and theirs[-1 - last][1] == mine[-1 - last][1]:
        last += 1
    both = [*zip(mine[:first], theirs[:first], strict=True)]
    both += [*zip(mine[len(mine) - last :], theirs[len(theirs) - last :], strict=True)]
    pairs: dict[str, str] = {}
    for (name, form), (source, _) in both:
        pairs |= {f"{name}.{own}": f"{source}.{own}" for own, _ in form[1]}
    # what no layer holds, such as embeddings of positions, has its name alone
    state, others = state_of(deep), state_of(shallow)
    held, theirs_held = (tuple(f"{name}." for name, _ in each) for each in (mine, theirs))
    for name, value in state.items():
        alike = name in others and others[name].shape == value.shape
        if alike and not name.startswith(held) and not name.startswith(theirs_held):
            pairs[name] = name
    return pairs


def _layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Blocks and single layers in order: name, and class with the names and shapes of what they hold."""
    found, state = [], state_of(model)
    for name in [name for name, _ in units_of(model, norms=True)]:
        module = inner_module(model, name, "a net")
        inner = getattr(module, "_orig_mod", module)
        held = {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")}
        form = tuple((own, tuple(value.shape)) for own, value in held.items())
        if form:
            found.append((name, (type(inner), form)))
    return found


def _given(mapping: NamesOf, theirs: Mapping[str, Tensor], mine: Mapping[str, Tensor]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    if not isinstance(mapping, Mapping):
        for name in mine:
            source = mapping(name)
            if source is not None:
                _check_known(source, theirs, "shallower", mine)
                pairs[name] = source
        return pairs
    for name, source in mapping.items():
        _check_known(name, mine, "deeper", theirs)
        _check_known(source, theirs, "shallower", mine)
        inside = [key for key in mine if key == name or key.startswith(f"{name}.")]
        for key in inside:
            other = source + key[len(name) :]
            if other not in theirs:
                raise ModelError(
                    f"{key!r} of the deeper net has no counterpart {other!r} in the shallower one; map its "
                    "parameters one by one"
                )
            pairs[key] = other
    return pairs


def _check_known(name: Any, known: Mapping[str, Tensor], which: str, others: Mapping[str, Tensor]) -> None:
    if isinstance(name, str) and any(key == name or key.startswith(f"{name}.") for key in known):
        return
    turned = isinstance(name, str) and any(key == name or key.startswith(f"{name}.") for key in others)
    names = {".".join(key.split(".")[:end]) for key in known for end in range(1, key.count(".") + 2)}
    raise OptionError(
        f"mapping names {name!r}, which isn't in the {which} net; {nearest(str(name), names)}"
        + (" (a mapping goes from names in the deeper net to names in the shallower one)" if turned else "")
    )


def shortest_names(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return names of parameters and buffers, those of a part that has no others by the part's name."""
    everyone, left, found = list(state_of(model)), list(names), []
    for name, _ in model.named_modules():
        plain = plain_name(name)
        inside = [key for key in everyone if key.startswith(f"{plain}.")]
        if plain and inside and set(inside) <= set(left):
            found.append(plain)
            left = [key for key in left if key not in inside]
    return [*found, *left]


def _shortest_pairs(deep: nn.Module, pairs: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in shortest_names(deep, list(pairs)):
        inside = [key for key in pairs if key == name or key.startswith(f"{name}.")]
        sources = {pairs[key].removesuffix(key[len(name) :]) for key in inside}
        if len(sources) == 1:
            found[name] = sources.pop()
        else:
            found |= {key: pairs[key] for key in inside}
    return found


# A middle that changes nothing ---------------------------------------------------------------------------


_DRAWN = "leave the middle 'as drawn'"
_NO_WAY = "so that the deeper net can't be made to compute the same"


def _identities(
    shallow: nn.Module, deep: nn.Module, pairs: dict[str, str], new: list[str], left: list[str], example: Any
) -> list[nn.Module]:
    """The new layers that are to hand on what they are given, in order; refused where they can't."""
    learnt = [name for name, _ in _parameters(shallow) if name in set(left)]
    if learnt:
        raise ModelError(
            f"{shortened(learnt, 3)} of the shallower net isn't taken, {_NO_WAY}; take all of it, or {_DRAWN}"
        )
    if len(set(pairs.values())) < len(pairs):
        raise ModelError(f"a layer of the shallower net is taken twice, {_NO_WAY}; {_DRAWN}")
    if alone := [name for name in new if "." not in name]:
        raise ModelError(f"{shortened(alone, 3)} of the deeper net is new and no layer, {_NO_WAY}; {_DRAWN}")
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
