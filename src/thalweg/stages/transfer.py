"""Transfer: the first blocks of a net that was trained on another task start one for this task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from thalweg.errors import ModelError, OptionError, nearest, shortened
from thalweg.initial.saved import Source, tensors_of
from thalweg.initial.weights import whole, write
from thalweg.settings.tables import MOST, is_number, whole_number
from thalweg.stages.blocks import Block, Chain, find_blocks, part_of_chain
from thalweg.stages.names import shortest_names, state_of
from thalweg.stages.prefixed import Prefixed
from thalweg.stages.stage import GIVEN, Stage
from thalweg.stages.taps import inner_module
from thalweg.strategies.base import Strategy, Trainer

__all__ = ["Transferred", "count_blocks", "take_blocks", "transfer"]


@dataclass(frozen=True)
class Transferred:
    """What a model has from a trained one.

    Args:
        blocks: how many were taken.
        of: how many there are.
        taken: parts, parameters and buffers that were filled.
        new: those that weren't.
        left: names in the source that weren't taken.
    """

    blocks: int
    of: int
    taken: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]

    def __repr__(self) -> str:
        said = [
            f"{self.blocks} of {self.of} blocks",
            f"taken: {shortened(self.taken, 12)}",
            f"new: {shortened(self.new, 12) or 'nothing'}",
        ]
        if self.left:
            said.append(f"left behind: {shortened(self.left, 12)}")
        return f"Transferred({'; '.join(said)})"


# What is taken -------------------------------------------------------------------------------------------


def take_blocks(
    model: nn.Module,
    source: Source,
    example: Any,
    *,
    blocks: int | None = None,
    chain: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
) -> Transferred:
    """Fill the first blocks of a model from a trained one, in place: parameters and buffers, by name.

    All other parts, the head among them, keep what they hold. Either all of these blocks are taken or
    nothing is.

    Args:
        model: any with a chain of blocks: see :func:`thalweg.stages.blocks.find_blocks`.
        source: the directory of a finished training; a file of ``safetensors`` or ``torch.save``, of which
            nothing is run; tensors by name; or the trained model.
        example: a batch of inputs, of two examples or more.
        blocks: how many; ``None``: all that come before the head.
        chain: names of the modules that blocks begin with, in order; ``None``: found.
        rename: beginnings of names in the source to what they begin with in the model, the longest counts:
            ``{"backbone.": ""}``.

    Returns:
        What was taken, what is new, and what was left behind.

    Raises:
        OptionError: there is no such source, or not so many blocks.
        ModelError: there is no chain of blocks; a name of these blocks isn't in the source, or has another
            shape there.

    >>> trained = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> take_blocks(model, trained, torch.ones(2, 4), blocks=1)
    Transferred(1 of 2 blocks; taken: 0; new: 2, 4; left behind: 2.weight, 2.bias, 4.weight, 4.bias)

    Source: P3 (N, U): the first k layers of the first net; Yosinski et al. 2014.
    """
    found = find_blocks(model, example, chain)
    values, said = _to_take(model, found, example, source, count_blocks(found, blocks), rename)
    _fill(model, values)
    return said


def count_blocks(chain: Chain, blocks: Any) -> int:
    """Return how many blocks are asked for; ``None`` is all.

    Raises:
        OptionError: there are fewer.
    """
    most = len(chain.blocks)
    if blocks is None:
        return most
    count = whole_number("blocks", blocks)
    if count > most:
        raise OptionError(
            f"blocks is {count}, but the model has {most} before its head "
            f"({shortened([block.name for block in chain.blocks], 6)}); give a number from 1 to {most}"
        )
    return count


def _to_take(
    model: nn.Module, chain: Chain, example: Any, source: Source, count: int, rename: Mapping[str, str] | None
) -> tuple[dict[str, Tensor], Transferred]:
    """The tensors for the first blocks by their names in the model, copied; and what to say of them."""
    saved, own = tensors_of(source, rename), state_of(model)
    places = _blocks_of_tensors(model, chain, example)
    wanted = [name for name in own if places[name] < count]
    values: dict[str, Tensor] = {}
    for name in wanted:
        if name in saved:
            _check_fits(name, saved[name], own[name], places[name], count)
            values[name] = saved[name].detach().clone()
        elif name.rpartition(".")[2] != "num_batches_tracked":
            # which older files of batch norms don't have
            raise ModelError(
                f"{name!r} of the first {_blocks(count)} isn't in the source; {_nearest(name, saved)} "
                "(rename says which names belong together, blocks takes fewer)"
            )
    new = shortest_names(model, [name for name in own if name not in values])
    left = tuple(name for name in saved if name not in values)
    taken = tuple(shortest_names(model, values))
    return values, Transferred(count, len(chain.blocks), taken, tuple(new), left)


def _nearest(name: str, saved: Mapping[str, Tensor]) -> str:
    """The nearest names, or of many that are all far a few."""
    said = nearest(name, saved)
    return said if said.startswith("did") else f"it has {shortened(list(saved), 4) or 'nothing'}"


def _blocks(count: int) -> str:
    return "block" if count == 1 else f"{count} blocks"


def _check_fits(name: str, value: Tensor, target: Tensor, block: int, count: int) -> None:
    fewer = f"; take {block} of the blocks" if block else ""
    if value.shape != target.shape:
        raise ModelError(
            f"{name!r} is {list(value.shape)} in the source and {list(target.shape)} in the model"
            + (fewer or "; give a model whose first block is of the same shape")
        )
    if value.is_floating_point() != target.is_floating_point():
        raise ModelError(f"{name!r} is {value.dtype} in the source and {target.dtype} in the model{fewer}")
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise ModelError(f"{name!r} of the source holds numbers that aren't finite{fewer}")


def _fill(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    own = state_of(model)
    for name, value in values.items():
        write(own[name], whole(value).to(own[name].device))


def _blocks_of_tensors(model: nn.Module, chain: Chain, example: Any) -> dict[str, int]:
    """For each parameter and buffer the number of its block, from 0; of the head the number of blocks.

    Also of those that need no gradient now. Buffers go with the parameters of their module, or of the
    smallest module around them; what nothing else tells goes with what is listed before it.
    """
    needed = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in needed:
            if p.is_floating_point():
                p.requires_grad_(True)
        every = [block.name for block in chain.blocks]
        chain = chain if all(each for _, each in needed) else find_blocks(model, example, every)
    finally:
        for p, before in needed:
            p.requires_grad_(before)
    everything = state_of(model)
    blocks: list[Block] = [*chain.blocks, chain.head]
    place: dict[int, int] = {}
    for number, block in enumerate(blocks):
        for trained in block.trains:
            for name, value in everything.items():
                if name == trained or name.startswith(f"{trained}."):
                    place.setdefault(id(value), number)
    computes = {part: number for number, block in enumerate(blocks) for part in block.parts or ()}
    found: dict[str, int] = {}
    last = 0
    for name, value in everything.items():
        number = place.get(id(value), -1)
        if number < 0:
            number = _around(name, everything, place, computes)
        last = found[name] = number if number >= 0 else last
    return found


def _around(
    name: str, everything: Mapping[str, Tensor], place: Mapping[int, int], computes: Mapping[str, int]
) -> int:
    """The block that a module around a tensor belongs to; -1 where none belongs to one alone."""
    holder = name.rpartition(".")[0]
    while holder:
        if holder in computes:
            return computes[holder]
        inside = {
            place[id(value)]
            for other, value in everything.items()
            if other.startswith(f"{holder}.") and id(value) in place
        }
        if inside:
            return inside.pop() if len(inside) == 1 else -1
        holder = holder.rpartition(".")[0]
    return -1


# The stages ----------------------------------------------------------------------------------------------


class _Says(Strategy):
    """Says at the beginning what was taken."""

    name: ClassVar[str] = "transfer"
    observes: ClassVar[bool] = True

    def __init__(self, said: str) -> None:
        super().__init__()
        self.said = said

    def before_training(self, trainer: Trainer) -> None:
        trainer.note(self.said)


@dataclass(frozen=True)
class _Takes:
    """Fills a model at the beginning of a stage."""

    values: Mapping[str, Tensor]

    def __call__(self, model: nn.Module) -> None:
        _fill(model, self.values)


@dataclass(frozen=True)
class _OnFrozen:
    """From a model to its later blocks and its head, on the first ones, which are frozen."""

    chain: Chain
    count: int

    def __call__(self, model: nn.Module) -> nn.Module:
        before = [block.parts for block in self.chain.blocks[: self.count]]
        later = [block.parts for block in (*self.chain.blocks[self.count :], self.chain.head)]
        if any(parts is None for parts in later):
            return model
        drawn = _random_end(model, before[-1] or ())
        prefix: nn.Module
        if all(parts is not None for parts in before):
            names = [name for parts in before for name in parts or ()]
            names = names[: len(names) - len(drawn)]
            if not names:
                return model
            prefix = part_of_chain(model, names)
        elif drawn:
            return model
        else:
            prefix = self.chain.upto(model, self.count)
        rest = [name for parts in later for name in parts or ()]
        return Prefixed(prefix, part_of_chain(model, [*drawn, *rest]))


def _random_end(model: nn.Module, parts: Sequence[str]) -> list[str]:
    """The last parts, without parameters and buffers, from the first on that may draw: they aren't frozen.

    Dropout between what is frozen and what is trained is for what is trained, see
    :func:`thalweg.stages.freezing.frozen`.
    """
    end = len(parts)
    while end and not state_of(inner_module(model, parts[end - 1], "transfer")):
        end -= 1
    for begin in range(end, len(parts)):
        for part in inner_module(model, parts[begin], "transfer").modules():
            if isinstance(part, _DropoutNd) or not type(part).__module__.startswith("torch.nn."):
                return list(parts[begin:])
    return []


def transfer(
    model: nn.Module,
    source: Source,
    example: Any,
    *,
    blocks: int | None = None,
    tune: int | None = None,
    head_epochs: int | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    depth_factor: float = 1.0,
    chain: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    name: str = "transfer",
) -> list[Stage]:
    """Write the stages of a transfer: the first k blocks from a trained net, the rest and the head new.

    What the table of the lecture asks for, with K blocks in all before the head:

    ==========================  ===============================================  ==========================
    data                        very similar to the source's                     very different
    ==========================  ===============================================  ==========================
    very little                 a linear classifier on top: ``tune=0``           one on the blocks that do
                                                                                 best: ``tune=0`` on
                                                                                 :func:`first_blocks`
    quite a lot                 a few layers: ``tune=1``, ``head_epochs``        many layers: ``tune=None``,
                                                                                 ``head_epochs``
    ==========================  ===============================================  ==========================

    Args:
        model: any with a chain of blocks: see :func:`thalweg.stages.blocks.find_blocks`. Its head, and
            all that isn't taken, begins with what the model holds then.
        source: the directory of a finished training; a file of ``safetensors`` or ``torch.save``, of which
            nothing is run; tensors by name; or the trained model. It is read at once and filled in when
            the first stage begins.
        example: a batch of inputs, of two examples or more.
        blocks: k, from 1 to K; ``None``: K.
        tune: how many of the k taken blocks are trained, from the last one down; ``None``: all, as in the
            lecture; 0: none. The others stay frozen throughout: no gradient, no decay, and batch norms and
            dropout in evaluation mode.
        head_epochs: first train what is new alone, for so many epochs, so that a head as it was drawn
            doesn't spoil what was taken.
        epochs, steps: how long the last stage trains, one of both; neither: as given to ``fit``.
        depth_factor: in (0, 1], what the rate of a layer in the last stage is multiplied by, against that of
            the layer above it.
        chain: names of the modules that blocks begin with, in order; ``None``: found.
        rename: beginnings of names in the source to what they begin with in the model.
        name: of the last stage; the one before it is called so, with ``" head"`` behind.

    Returns:
        ``"transfer head"`` with ``head_epochs``; ``"transfer"``.

    Raises:
        OptionError: a value out of range, or there is no such source.
        ModelError: there is no chain of blocks; a name of the blocks isn't in the source (the nearest is
            shown), or has another shape there.

    >>> trained = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> stages = transfer(model, trained, torch.ones(2, 4), tune=1, head_epochs=2, epochs=5)
    >>> [(stage.name, stage.trains, stage.epochs) for stage in stages]
    [('transfer head', ('4',), 2), ('transfer', ('2', '4'), 5)]

    Source: P3 (N, U), P4 (S); Yosinski et al. 2014. Deviation: what is frozen evaluates, too.
    """
    found = find_blocks(model, example, chain)
    count = count_blocks(found, blocks)
    if tune is not None and whole_number("tune", tune, least=0) > count:
        raise OptionError(
            f"tune is {tune}, but {'1 block is' if count == 1 else f'{count} blocks are'} taken; give a "
            f"number from 0 to {count}"
        )
    if head_epochs is not None:
        head_epochs = whole_number("head_epochs", head_epochs, most=MOST.get("epochs"))
        if tune == 0:
            raise OptionError(
                f"head_epochs is {head_epochs} though tune is 0, so that nothing more would be trained "
                "afterwards; give epochs alone"
            )
    if not is_number(depth_factor) or not 0 < depth_factor <= 1:
        raise OptionError(f"depth_factor is {depth_factor!r}, but must be above 0 and at most 1")
    values, said = _to_take(model, found, example, source, count, rename)
    kept = count if tune is None else count - tune
    about = {"transfer": {"blocks": count, "taken": _digest(values)}}
    new = tuple(each for block in (*found.blocks[count:], found.head) for each in block.trains)
    tuned = tuple(each for block in found.blocks[count - (tune or 0) : count] for each in block.trains)
    stages: list[Stage] = []
    if head_epochs is not None:
        stages.append(
            Stage(
                name=f"{name} head",
                epochs=head_epochs,
                trains=new,
                build=_OnFrozen(found, count),
                about=about,
            )
        )
    stages.append(
        Stage(
            name=name,
            epochs=epochs,
            steps=steps,
            trains=None if tune is None else (*tuned, *new),
            build=_OnFrozen(found, kept) if tune is not None and kept else None,
            groups=GIVEN if depth_factor == 1 else {"depth_factor": float(depth_factor)},
            about={**about, "tune": count if tune is None else tune, "depth_factor": float(depth_factor)},
        )
    )
    taken = _Says(
        f"from {_called(source)}: {said.blocks} of {said.of} blocks ({shortened(said.taken, 6)}); new: "
        f"{shortened(said.new, 6) or 'nothing'}"
    )
    first = stages[0]
    stages[0] = replace(first, begin=_Takes(values), adds=[taken])
    return stages


def _called(source: Source) -> str:
    return str(source) if isinstance(source, (str, Path)) else f"the {type(source).__name__} that was given"


def _digest(values: Mapping[str, Tensor]) -> str:
    """What tells sources apart."""
    found = hashlib.sha256()
    for name, value in sorted(values.items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
