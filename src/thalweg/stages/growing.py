"""Growing: the layers of a trained net start a deeper one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError, nearest, shortened
from thalweg.initial.weights import whole, write
from thalweg.settings.tables import one_of
from thalweg.stages.blocks import units_of
from thalweg.stages.identities import check_taken, make_same
from thalweg.stages.names import parameters_of, shortest_names, state_of
from thalweg.stages.stage import Stage
from thalweg.stages.taps import inner_module

__all__ = ["Grown", "NamesOf", "grow", "growing"]

NamesOf: TypeAlias = Mapping[str, str] | Callable[[str], str | None]
"""From names in the deeper net to names in the shallower one."""


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
    does nearly so. New residual blocks, for which an example is needed, hand on what they are given once
    the last layers of their branches are zero (:func:`thalweg.stages.residual.silence_branches`).

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
    if not any(name in pairs for name, _ in parameters_of(deep)):
        raise ModelError(
            "nothing of the shallower net fits the deeper one: it begins with "
            f"{_first(shallow)}, the deeper one with {_first(deep)}, and their last layers differ too; give "
            "mapping, from names in the deeper net to names in the shallower one"
        )
    new = [name for name in mine if name not in pairs]
    left = [name for name in theirs if name not in set(pairs.values())]
    if middle == "same function":
        check_taken(shallow, pairs, new, left)
    before = {name: value.detach().clone() for name, value in mine.items()}
    try:
        for name, source in pairs.items():
            write(mine[name], whole(theirs[source]).to(mine[name].device))
        if middle == "same function":
            make_same(shallow, deep, new, example)
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


def _first(model: nn.Module) -> str:
    found = parameters_of(model)
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
