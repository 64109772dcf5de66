"""The chain of blocks of a model: found by running it once, or named; and the model up to one of them.

A model is cut at the *inputs* of modules. "Run the model up to the input of the next block" is clear for any
model in which blocks are called one after another, whatever happens between them. What comes after a cut must
depend on what is before it by the tensor that is cut alone; the graph of gradients shows whether it does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.initial.weights import NORMS
from thalweg.layers.following import activation_name, is_chain
from thalweg.layers.interface import Interface
from thalweg.layers.modes import begin_training, evaluating
from thalweg.layers.untouched import untouched
from thalweg.objectives.nests import leaves
from thalweg.stages.calls import CallRecord, ModuleCall, first_input, reached_from
from thalweg.stages.freezing import plain_name
from thalweg.stages.taps import Stopped, inner_module, inner_modules, is_compiled, runs_to_its_end

__all__ = ["Block", "Chain", "Upto", "find_blocks", "part_of_chain", "units_of"]


# What a chain is ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A block of a chain: from the input of one module to the input of the first one of the next block.

    Args:
        name: of the module at whose input it begins; the first block begins with the inputs of the model.
        trains: names of the parts and parameters that it is made of and that need a gradient.
        parts: names of the modules that compute it, one after another and nothing between them; ``None``:
            more happens, so that it can only be run as a part of the model.
        inputs, outputs: shapes of one example of what it takes and gives.
        channels_first: whether the features of what it gives are along the first axis, where that is known.
    """

    name: str
    trains: tuple[str, ...]
    parts: tuple[str, ...] | None
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    channels_first: bool | None = None


@dataclass(frozen=True)
class Chain:
    """The blocks of a model, in order, and the head that follows the last of them.

    Args:
        blocks: at least one.
        head: from the input of the first module that is no block to the outputs of the model.
    """

    blocks: tuple[Block, ...]
    head: Block

    @property
    def ends(self) -> tuple[str, ...]:
        """For each block the module at whose input it ends."""
        return (*(block.name for block in self.blocks[1:]), self.head.name)

    def upto(self, model: nn.Module, count: int) -> nn.Module:
        """Return the first ``count`` blocks of a model, at least one, as a module of its own parts."""
        parts = [block.parts for block in self.blocks[:count]]
        if all(each is not None for each in parts):
            return part_of_chain(model, [name for each in parts for name in each or ()])
        return Upto(model, self.ends[count - 1])


def part_of_chain(model: nn.Module, names: Sequence[str]) -> nn.Sequential:
    """Return modules of a model one after another; the very same objects.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> part_of_chain(model, ["1", "2"])[1] is model[2]
    True
    """
    return nn.Sequential(*(inner_module(model, name, "a chain of blocks") for name in names))


# Up to an input ------------------------------------------------------------------------------------------


class _Stop:
    """A hook before a module that keeps its first input, and ends the forward pass there."""

    def __init__(self, goes_on: bool) -> None:
        self.goes_on = goes_on
        self.value: Any = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = first_input(args, kwargs)
        if self.goes_on:
            # what runs after it may overwrite it in place
            self.value = value.clone() if isinstance(value, Tensor) else value
            return
        self.value = value
        raise Stopped(self)


class Upto(nn.Module):
    """A model up to the input of one of its modules, which is what ``forward`` returns.

    The forward pass ends there, so that nothing that comes after is computed, unless the model is sharded
    by FSDP2 part by part: it must then be run to its end. It holds the model itself and puts a hook into it
    only while it runs. A compiled model is run as it was before it was compiled.

    Args:
        model: any that calls the module with a tensor first.
        name: of the module.

    Raises:
        OptionError: a name that matches nothing, with the nearest.
        ModelError: a forward pass doesn't call the module.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> Upto(model, "2")(torch.ones(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        inner = inner_module(model, name, "Upto")
        self.model, self.name = model, plain_name(name)
        self._path = next(path for path, module in model.named_modules() if module is inner)
        self._eager = is_compiled(model)

    @property
    def called_as(self) -> nn.Module:
        """The module that inputs are handed on to."""
        return self.model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module would be given."""
        stop = _Stop(goes_on=runs_to_its_end(self.model, [self._path]))
        handle = self.model.get_submodule(self._path).register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with torch.compiler.set_stance("force_eager") if self._eager else nullcontext():
                self.model(*args, **kwargs)
        except Stopped as stopped:
            # of another one around this one
            if stopped.by is not stop:
                raise
        finally:
            handle.remove()
        if stop.value is None:
            raise ModelError(f"the forward pass of the model hasn't called {self.name!r}")
        return stop.value

    def extra_repr(self) -> str:
        """Say where it ends."""
        return f"up to the input of {self.name}"


# Which modules are blocks --------------------------------------------------------------------------------


def units_of(model: nn.Module, *, norms: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the names of modules that a block can begin with, and whether each is of several layers.

    A module of several layers is one where its class is there more than once, or, of a plain
    ``nn.Sequential``, where another has the same layers. Else what counts are layers with parameters, but
    not normalizations and activations, which go with the layer before them, unless ``norms``.
    """
    kinds = Counter(_kind(module) for module in _bare_modules(model))

    def look(module: nn.Module, name: str) -> Iterator[tuple[str, bool]]:
        for own, child in module.named_children():
            path = f"{name}.{own}" if name and own != "_orig_mod" else own if own != "_orig_mod" else name
            inner = getattr(child, "_orig_mod", child)
            if next(child.parameters(), None) is None:
                continue
            if not norms and (isinstance(inner, NORMS) or activation_name(inner)):
                continue
            kind = _kind(inner)
            if kind is not None and kinds[kind] > 1:
                yield path, True
            elif (
                next(iter(inner.children()), None) is None or next(inner.parameters(False), None) is not None
            ):
                yield path, False
            else:
                yield from look(inner, path)

    yield from look(getattr(model, "_orig_mod", model), "")


def _bare_modules(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if not hasattr(module, "_orig_mod")]


def _kind(module: nn.Module) -> Any:
    """What modules of several layers have in common, ``None`` for a single layer and for plain containers."""
    inside = list(module.modules())[1:]
    if not inside or isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        return None
    if next(module.parameters(), None) is None:
        return None
    if not is_chain(module):
        return type(module)
    plain = all(next(iter(each.children()), None) is None or is_chain(each) for each in inside)
    return tuple(type(each) for each in inside) if plain else None


def find_blocks(model: nn.Module, example: Any, blocks: Sequence[str] | None = None) -> Chain:
    """Find the chain of blocks of a model.

    The model is run on the example, once in evaluation and once in training mode, and is afterwards as it
    was. Where blocks aren't named, they are the parts of several layers whose class is there more than once,
    such as the residual blocks of a ResNet or the layers of a transformer; in a model without these, its
    linear layers and convolutions. Normalizations, activations and whatever has no parameters go with the
    block before them; what comes before the first block belongs to it. The last part with parameters
    is the head. A place is no cut if what follows depends on what is before it by another way too, as within
    a residual block.

    Args:
        model: any whose blocks are called once each, one after another, with a tensor.
        example: a batch of inputs, of two examples or more.
        blocks: names of the modules that blocks begin with, in order; ``None``: found.

    Raises:
        OptionError: a name that matches nothing, with the nearest; not in order.
        ModelError: there is no chain of blocks.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> chain = find_blocks(net, torch.ones(2, 4))
    >>> [block.parts for block in chain.blocks], chain.head.parts
    ([('0', '1'), ('2', '3')], ('4',))

    Source: P1 (N, U).
    """
    if blocks is None:
        # a part that joins blocks, so that they look like others, knows them
        known = (getattr(part, "chain_blocks", None) for part in model.modules())
        blocks = next((names for names in known if isinstance(names, tuple)), None)
    wanted = {name for name, p in model.named_parameters() if p.requires_grad}
    with ExitStack() as stack:
        stack.enter_context(untouched(model, parameters=False))
        if is_compiled(model):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for p in model.parameters():
            if p.is_floating_point():
                p.requires_grad_(True)
        record = CallRecord()
        with evaluating(model), torch.enable_grad():
            record.run(model, example)
        names, cuts = _cuts(model, record, blocks)
        trained = _trained(model, record, cuts, wanted)
        if blocks is None:
            # a block without anything to train goes with the one after it
            kept = [number for number in range(len(names)) if trained[number]]
            names, cuts = [names[number] for number in kept], [cuts[number] for number in kept]
            trained = _trained(model, record, cuts, wanted) if kept else []
        if len(names) < 2:
            raise _no_chain(model)
        found = _described(model, record, names, cuts, trained)
        alike = _parts_in_training(model, example, names)
    joined = [
        Block(b.name, b.trains, b.parts if b.parts == other else None, b.inputs, b.outputs, b.channels_first)
        for b, other in zip(found, alike, strict=True)
    ]
    return Chain(tuple(joined[:-1]), joined[-1])


def _no_chain(model: nn.Module) -> ModelError:
    return ModelError(
        f"no chain of blocks was found in {type(model).__name__}: parts with parameters that are called once "
        "each, one after another, each with what the one before gives; name the modules that blocks begin "
        "with, as blocks=['layer1', 'layer2']"
    )


def _is_cut(record: CallRecord, call: ModuleCall) -> bool:
    """Whether what follows depends on what is before by this input alone."""
    if call.node is None:
        return False
    before, _ = reached_from([call.node])
    ends = [leaf.grad_fn for leaf in leaves(record.outputs) if isinstance(leaf, Tensor)]
    after, _ = reached_from(ends, without=call.node)
    return not (before - {call.node}) & after


def _cuts(
    model: nn.Module, record: CallRecord, blocks: Sequence[str] | None
) -> tuple[list[str], list[ModuleCall | None]]:
    """The names of the modules that blocks, and in the end the head, begin with, and their calls."""
    units = list(units_of(model))
    if blocks is not None:
        return _named_cuts(model, record, list(blocks), [name for name, _ in units])
    for names in (_main(units, record), [name for name, _ in _single(model)]):
        calls = _in_order(record, names)
        found = calls[:1] + [call for call in calls[1:] if _is_cut(record, call)]
        if len(found) > 1:
            return [call.name for call in found], [None, *found[1:]]
    raise _no_chain(model)


def _single(model: nn.Module) -> Iterator[tuple[str, bool]]:
    for name, module in inner_modules(model).items():
        inner = getattr(module, "_orig_mod", module)
        has = next(inner.parameters(recurse=False), None) is not None
        if has and not isinstance(inner, NORMS) and not activation_name(inner):
            yield name, False


def _main(units: list[tuple[str, bool]], record: CallRecord) -> list[str]:
    """Parts of several layers, with the last single layer that follows them; or else single layers."""
    large = [name for name, several in units if several]
    calls = _in_order(record, large)
    if not calls:
        return [name for name, _ in units]
    rest = _in_order(record, [name for name, several in units if not several])
    after = [call for call in rest if call.begin > calls[-1].end]
    ends = [call for call in reversed(after) if _is_cut(record, call)] or after
    return [*(call.name for call in calls), *(call.name for call in ends[:1])]


def _in_order(record: CallRecord, names: Sequence[str]) -> list[ModuleCall]:
    """The calls of modules that are called once, with a tensor of fractions first."""
    wanted = set(names)
    count = Counter(call.name for call in record.calls)
    return [
        call
        for call in record.calls
        if call.name in wanted and count[call.name] == 1 and isinstance(call.given, Tensor)
    ]


def _named_cuts(
    model: nn.Module, record: CallRecord, blocks: list[str], units: list[str]
) -> tuple[list[str], list[ModuleCall | None]]:
    if not blocks:
        raise OptionError("blocks is empty; name the modules that blocks begin with, or leave it out")
    calls: list[ModuleCall] = []
    for name in blocks:
        inner_module(model, name, "blocks")
        found = record.of(plain_name(name))
        if len(found) != 1 or not isinstance(found[0].given, Tensor):
            times = f"{len(found)} times" if len(found) != 1 else "without a tensor"
            raise ModelError(
                f"the block {name!r} is called {times} in a forward pass; a block is called once, with a "
                "tensor"
            )
        call = found[0]
        if calls and call.begin < calls[-1].end:
            one, other = call.name, calls[-1].name
            if one.startswith(f"{other}.") or other.startswith(f"{one}."):
                raise OptionError(f"blocks names {one!r} and {other!r}, of which one holds the other")
            raise OptionError(
                f"blocks names {other!r} before {one!r}, but the model calls {one!r} first; give them in the "
                "order in which they are called"
            )
        calls.append(call)
    after = [call for call in _in_order(record, units) if call.begin > calls[-1].end]
    calls += next(([call] for call in after if _is_cut(record, call)), [])
    if len(calls) < 2:
        raise ModelError(
            f"nothing with parameters follows the block {blocks[-1]!r}, which is the only one; name blocks "
            "before it"
        )
    for call in calls[1:]:
        if not _is_cut(record, call):
            raise ModelError(
                f"the model can't be cut before {call.name!r}: what follows depends on what is before by "
                "another way too, such as a skip connection; name blocks that hold both of its ends"
            )
    return [call.name for call in calls], [None, *calls[1:]]


def _trained(
    model: nn.Module, record: CallRecord, cuts: Sequence[ModuleCall | None], wanted: set[str]
) -> list[list[str]]:
    """For each block the names of the parameters that reach its end and not its beginning."""
    ends = [leaf.grad_fn for leaf in leaves(record.outputs) if isinstance(leaf, Tensor)]
    names = {id(p): name for name, p in model.named_parameters()}
    seen: set[int] = set()
    found = []
    for cut in [*cuts[1:], None]:
        _, reached = reached_from(ends if cut is None else [cut.node])
        mine = [names[each] for each in names if each in reached - seen and names[each] in wanted]
        found.append(mine)
        seen |= reached
    return found


def _shortest(model: nn.Module, parameters: Sequence[str]) -> tuple[str, ...]:
    """Parameters by the names of the parts that hold nothing else, where there are such."""
    left, found = list(map(plain_name, parameters)), list[str]()
    everyone = [plain_name(name) for name, _ in model.named_parameters()]
    for name in inner_modules(model):
        inside = [each for each in everyone if each.startswith(f"{name}.")]
        if inside and set(inside) <= set(left):
            found.append(name)
            left = [each for each in left if each not in inside]
    return (*found, *left)


def _described(
    model: nn.Module,
    record: CallRecord,
    names: Sequence[str],
    cuts: Sequence[ModuleCall | None],
    trained: Sequence[Sequence[str]],
) -> list[Block]:
    found = []
    for number, (name, cut) in enumerate(zip(names, cuts, strict=True)):
        end = cuts[number + 1] if number + 1 < len(cuts) else None
        begins = record.inputs if cut is None else cut.given
        ends = Interface().part(record.outputs) if end is None else end.given
        parts = record.parts(cut, end)
        if parts is not None and not _computes(model, parts, record, cut, end):
            parts = None
        found.append(
            Block(
                name=name,
                trains=_shortest(model, trained[number]),
                parts=parts,
                inputs=tuple(begins.shape[1:]) if isinstance(begins, Tensor) else (),
                outputs=tuple(ends.shape[1:]) if isinstance(ends, Tensor) else (),
                channels_first=None if end is None else _channelsfirst_input(model, end.name),
            )
        )
    return found


def _computes(
    model: nn.Module,
    parts: Sequence[str],
    record: CallRecord,
    begin: ModuleCall | None,
    end: ModuleCall | None,
) -> bool:
    """Whether the parts by themselves give what the model has there."""
    given: Any = record.inputs if begin is None else begin.values
    wanted: Any = record.outputs if end is None else end.values
    with evaluating(model), torch.no_grad():
        try:
            result = part_of_chain(model, parts)(given.clone())
        except Exception:
            return False
    return isinstance(result, Tensor) and result.shape == wanted.shape and torch.allclose(result, wanted)


def _channelsfirst_input(model: nn.Module, name: str) -> bool | None:
    """Whether the first layer within a module works on ``[C, L]``."""
    for part in inner_module(model, name, "blocks").modules():
        if next(part.parameters(recurse=False), None) is not None:
            return True if isinstance(part, (nn.Conv1d, nn.BatchNorm1d)) else None
    return None


def _parts_in_training(model: nn.Module, example: Any, names: Sequence[str]) -> list[tuple[str, ...] | None]:
    """The parts as a pass in training mode shows them: something between them may only happen there."""
    record = CallRecord()
    begin_training(model)
    try:
        with torch.no_grad():
            record.run(model, example)
    except Exception:
        # such as a batch norm that was given one example alone
        return [None] * len(names)
    calls = [record.of(name) for name in names[1:]]
    if any(len(each) != 1 for each in calls):
        return [None] * len(names)
    cuts = [None, *(each[0] for each in calls), None]
    return [record.parts(begin, end) for begin, end in pairwise(cuts)]
