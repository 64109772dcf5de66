"""How an optimizer takes a step on a batch, whatever it has to be given for it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from thalweg.catalogue import Entry
from thalweg.catalogue.entry import StepKind
from thalweg.data.examples import moved
from thalweg.errors import OptionError, UserError
from thalweg.layers.passing import outputs_of
from thalweg.objectives import as_loss
from thalweg.objectives.dividing import Divided, Division
from thalweg.objectives.losses import no_gradient
from thalweg.objectives.nests import bottom, count_of, joined, leaves, mapped, of_examples
from thalweg.randomness.keyed import portion
from thalweg.secondorder.closures import ClosureOptimizer
from thalweg.secondorder.solution import BACKWARD, CURVED, FORWARD
from thalweg.training.backend import Backend, OneProcess, agree, rows

__all__ = [
    "FORWARD_BACKWARD",
    "ForwardContext",
    "TrainingStep",
    "check_rows",
    "least_work",
    "make_step",
    "shared",
    "split",
    "too_much_work",
]

FORWARD_BACKWARD = FORWARD + BACKWARD
"""Work of a forward with a backward pass: two matrix products more for each one forward."""

ForwardContext: TypeAlias = Callable[[], AbstractContextManager[Any]]


class TrainingStep(Protocol):
    """From a batch, and the work there is room for, to the loss before the step and its work.

    Work is in forward passes over the batch. Who can be told to end a step early is; others may go beyond.
    Of many processes each has its share of a batch of ``whole`` examples; the loss is that of the whole.
    """

    def __call__(
        self, inputs: Any, targets: Tensor, room: float, whole: int | None = None
    ) -> tuple[Tensor, float]: ...


def make_step(
    step_kind: StepKind,
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    loss: Callable[[Any, Tensor], Tensor],
    forward_context: ForwardContext = nullcontext,
    *,
    backend: Backend | None = None,
    parts: int = 1,
    proceed: Callable[[Tensor, bool], bool] | None = None,
) -> TrainingStep:
    """Return what takes a step of an optimizer on a batch.

    Args:
        step_kind: what its step has to be given.
        optimizer: over parameters of ``model``.
        model: from inputs to outputs.
        loss: from outputs and targets to a scalar: the mean over examples, or what one of torch's losses
            divides by instead, or a sum.
        forward_context: of every forward pass; a step on one batch draws the same numbers in all of them.
        backend: carries it out; by default one process.
        parts: a batch is computed in so many parts, one after another; the gradient is that of the whole.
        proceed: told the loss once gradients are there, and whether they are finite without their scale; says
            whether to take the step; for optimizers that need nothing but gradients.

    Raises:
        OptionError: parts, or many processes, for an optimizer that needs the graph of a whole batch; scaled
            gradients for one whose step computes several. When a step is taken: a loss that no parameter has
            a part in, or one that can't be computed in parts.
    """
    backend = OneProcess() if backend is None else backend
    if backend.scales and step_kind != "gradient":
        raise OptionError(
            f"{type(optimizer).__name__} calls a closure, in which no one scale fits all gradients; use "
            "bfloat16, which needs no gradient scaling, or float32"
        )
    if backend.world > 1 and step_kind in ("graph", "outputs"):
        raise OptionError(
            f"{type(optimizer).__name__} needs the graph of a whole batch, of which each of {backend.world} "
            "processes has a part; train in one process, or take an optimizer that needs gradients, as lbfgs"
        )
    if parts > 1 and step_kind in ("graph", "outputs"):
        raise OptionError(
            f"{type(optimizer).__name__} needs the graph of a whole batch, which can't be computed in "
            f"{parts} parts; leave accumulation out, or take smaller batches"
        )
    if isinstance(optimizer, ClosureOptimizer):
        # trial points leave batch norm's running statistics alone
        optimizer.track(model)

    # gradients are exchanged for what is called through the wrapper; messages speak of the model itself
    made, world = backend.wrapped(model), backend.world

    def called(inputs: Any) -> Any:
        return outputs_of(model, inputs, called=made)

    clear = _clearing(optimizer)
    loss = as_loss(loss)
    divide = Division(loss, remedy=_remedy(parts, world))

    def surrounded(inputs: Any, targets: Tensor) -> Tensor:
        with forward_context():
            return loss(called(inputs), targets)

    def plain(inputs: Any, targets: Tensor) -> Tensor:
        return loss(called(inputs), targets)

    def of_part(inputs: Any, targets: Tensor) -> tuple[Any, Divided]:
        with forward_context():
            outputs = called(inputs)
            return outputs, divide.part(outputs, targets)

    loss_of = plain if forward_context is nullcontext else surrounded

    most = [group.get("max_eval") for group in optimizer.param_groups]

    def gradients(inputs: Any, targets: Tensor, whole: int | None) -> Tensor:
        clear()
        # the plain case does what a bare loop does, and its bits are a bare loop's
        if parts == 1 and world == 1:
            value = loss_of(inputs, targets)
            if not value.requires_grad:
                raise no_gradient(loss.name)
            backend.backward(value)
            return value.detach()
        count = count_of(targets) if whole is None else whole
        tried = divide.due(count // (parts * world))
        pieces = [(inputs, targets)]
        if parts > 1:
            mine_count = count_of(targets)
            pieces = list(
                zip(split(inputs, parts, mine_count), split(targets, parts, mine_count), strict=True)
            )
        total = torch.zeros((), device=next(leaves(targets)).device)
        weight, unit, seen = 0.0, None if world == 1 or backend.scales else 1.0, []
        summed = False
        for number, (some_inputs, some_targets) in enumerate(pieces):
            begin, end = rows(count, number, len(pieces))
            size = end - begin
            mine: AbstractContextManager[Any] = nullcontext()
            if world > 1:
                mine = portion(size, *rows(size, backend.rank, world))
            # one exchange for a batch, with its last part
            with backend.gradient_sync(number == len(pieces) - 1), mine:
                outputs, found = of_part(some_inputs, some_targets)
                if not found.value.requires_grad:
                    raise no_gradient(loss.name)
                summed = found.kind == "sum"
                if summed:
                    # the exchange takes the mean over processes, and a sum is so many times that
                    value = found.value * world
                else:
                    if unit is None:
                        # half precision's scale fits losses of the size that a whole batch has
                        unit = float(backend.all_reduce(torch.tensor(found.positions, dtype=torch.float64)))
                    share = float(found.divisor or 0.0) / unit
                    weight += share
                    # gradients become the mean over processes, whose shares may differ
                    value = found.value * (share * world / count)
                backend.backward(value)
            total = total + value.detach()
            if tried:
                seen.append((_detached(outputs), some_targets))
        if tried and agree(backend, divide.unknown)[0]:
            # parts of one example each tell little
            before = divide.way
            divide.settle(*_joined(seen, backend))
            if agree(backend, divide.way != before)[0]:
                # all processes begin again or none, since each pass exchanges gradients
                return gradients(inputs, targets, whole)
        if world > 1:
            # one exchange for both; of the weight not the mean is wanted, but the sum
            both = torch.stack([total.double(), total.new_full((), weight, dtype=torch.float64)])
            both = backend.all_reduce(both)
            total, weight = both[0].to(total.dtype), float(both[1]) * world
        if not summed and abs(weight - count) > 1e-12 * count:
            # what the loss divides by isn't the number of examples, and is known only now
            factor = count / weight if weight else math.nan
            total = total * factor
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(factor)
        return total

    def by_gradient(
        inputs: Any, targets: Tensor, room: float, whole: int | None = None
    ) -> tuple[Tensor, float]:
        value = gradients(inputs, targets, whole)
        # before strategies look: they see gradients without their scale
        finite = backend.unscaled(optimizer)
        if finite if proceed is None else proceed(value, finite):
            optimizer.step()
        return value, FORWARD_BACKWARD

    def by_closure(
        inputs: Any, targets: Tensor, room: float, whole: int | None = None
    ) -> tuple[Tensor, float]:
        values: list[Tensor] = []
        for group, own in zip(optimizer.param_groups, most, strict=True):
            if own is not None:
                # what the budget still allows, and one at least: the step has to begin
                group["max_eval"] = int(max(1, min(own, room // FORWARD_BACKWARD)))

        def closure() -> Tensor:
            value = gradients(inputs, targets, whole)
            values.append(value)
            return value

        _quietly(optimizer, closure)
        # the first value is that of the point at which the step began
        return values[0], FORWARD_BACKWARD * len(values)

    def by_graph(inputs: Any, targets: Tensor, room: float, whole: int | None = None) -> tuple[Tensor, float]:
        before = optimizer.passes  # type: ignore[attr-defined]
        value = _quietly(optimizer, lambda: loss_of(inputs, targets))
        return value, optimizer.passes - before  # type: ignore[attr-defined]

    def by_outputs(
        inputs: Any, targets: Tensor, room: float, whole: int | None = None
    ) -> tuple[Tensor, float]:
        def closure() -> tuple[Tensor, Callable[[Tensor], Tensor]]:
            with forward_context():
                return outputs_of(model, inputs), lambda outputs: loss(outputs, targets)

        before = optimizer.passes  # type: ignore[attr-defined]
        value = _quietly(optimizer, closure)
        return value, optimizer.passes - before  # type: ignore[attr-defined]

    steps: Mapping[str, TrainingStep] = {
        "gradient": by_gradient,
        "closure": by_closure,
        "graph": by_graph,
        "outputs": by_outputs,
    }
    return steps[step_kind]


def _remedy(parts: int, world: int) -> str:
    if world > 1:
        return "train in one process, or give a loss that is a mean or a sum over examples"
    return "leave accumulation out, or give a loss that is a mean or a sum over examples"


def _detached(value: Any) -> Any:
    return mapped(Tensor.detach, value)


def _joined(seen: Sequence[tuple[Any, Tensor]], backend: Backend) -> tuple[Any, Tensor]:
    """The parts of a batch as one; of many processes, whose parts have an example each, those of all."""
    outputs, targets = joined([each for each, _ in seen]), joined([each for _, each in seen])
    if backend.world > 1:
        held = backend.collect(moved((outputs, targets), torch.device("cpu")))
        return joined([each for each, _ in held]), joined([each for _, each in held])
    return outputs, targets


def split(value: Any, parts: int, count: int | None = None) -> list[Any]:
    """Split a batch, tensors nested in tuples, lists and dictionaries, into parts of nearly equal size.

    Args:
        value: the batch; a number in it is that of all examples.
        parts: how many; no more than examples.
        count: how many examples it has, if that is known.

    Raises:
        OptionError: something in it hasn't a row for each.

    >>> [len(part) for part in split(torch.zeros(10, 2), 4)]
    [3, 3, 2, 2]
    >>> split({"x": torch.arange(3)}, 2)
    [{'x': tensor([0, 1])}, {'x': tensor([2])}]
    """
    if isinstance(value, Tensor):
        # no more parts than examples, however many are asked for
        pieces = value.tensor_split(min(parts, max(len(value), 1)))
        return [piece for piece in pieces if len(piece)]
    if of_examples(value):
        return [value[slice(*rows(len(value), n, parts))] for n in range(min(parts, len(value)))]
    check_rows(value, count, "computed in parts; leave accumulation out")
    cut = [split(leaf, parts) for leaf in leaves(value) if leaf.ndim]
    number = len(cut[0]) if cut else 0
    made = []
    for each in range(number):
        row = iter(cut)
        made.append(mapped(lambda leaf, row=row, each=each: next(row)[each] if leaf.ndim else leaf, value))
    return made


def check_rows(value: Any, count: int | None, what: str, error: type[UserError] = OptionError) -> None:
    """Refuse inputs of a batch of which nobody knows which rows are whose.

    Args:
        value: any nest.
        count: how many examples the batch has; ``None``: as many as its first tensor.
        what: can't be done with it then, and the remedy.
        error: to raise.
    """
    for part in bottom(value):
        if isinstance(part, Tensor):
            if not part.ndim:
                continue
            count = len(part) if count is None else count
            if len(part) != count:
                raise error(
                    f"a batch of {count} examples that holds a tensor of shape {list(part.shape)} can't be "
                    f"{what}"
                )
        elif part is not None and not isinstance(part, (bool, int, float)):
            raise error(f"a batch that holds {type(part).__name__} can't be {what}")


def shared(indices: Tensor, parts: int, rank: int, world: int) -> Tensor:
    """Return a process's share of a batch: of each part of it, since all compute the same part at a time.

    Raises:
        OptionError: there is not one example for each process and part.

    >>> shared(torch.arange(8), 2, 0, 2), shared(torch.arange(8), 2, 1, 2)
    (tensor([0, 1, 4, 5]), tensor([2, 3, 6, 7]))
    """
    if len(indices) < parts * world:
        raise OptionError(
            f"a batch of {len(indices)} has less than one example for each of {world} processes"
            f"{f' and {parts} parts' if parts > 1 else ''}; take a larger batch_size, or fewer processes"
        )
    return torch.cat([part[slice(*rows(len(part), rank, world))] for part in indices.tensor_split(parts)])


def _clearing(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """What ``zero_grad`` does, without torch's profiler, which costs more than all else that a loop adds."""
    if type(optimizer).zero_grad is not torch.optim.Optimizer.zero_grad or "zero_grad" in vars(optimizer):
        return optimizer.zero_grad

    def clear() -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                # not zeros: an optimizer leaves alone what took no part in the loss
                parameter.grad = None

    return clear


def _quietly(optimizer: torch.optim.Optimizer, closure: Callable[[], Any]) -> Any:
    """A step that finds no way down on its batch says so each time; the next batch is another function."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", f"{type(optimizer).__name__}: ", UserWarning)
        return optimizer.step(closure)


def least_work(entry: Entry, parameters: int) -> float:
    """Return the forward passes over a batch that a step takes at least, for so many parameters.

    >>> from thalweg import catalogue
    >>> least_work(catalogue.get("adam"), 1000), least_work(catalogue.get("newton"), 1000)
    (3.0, 6006.0)
    """
    if entry.step_kind == "graph" and entry.dense:
        return 2 * FORWARD_BACKWARD + CURVED * parameters
    return FORWARD_BACKWARD


def too_much_work(entry: Entry, parameters: int, steps: int) -> str | None:
    """Say why a run of so many steps of the plan has no room for one step; ``None`` where it has.

    >>> from thalweg import catalogue
    >>> too_much_work(catalogue.get("newton"), 1000, 10)
    'one step takes 6,006 forward passes over a batch with 1,000 parameters, and a whole run has 30'
    """
    needed, there = least_work(entry, parameters), FORWARD_BACKWARD * steps
    if needed <= there:
        return None
    return (
        f"one step takes {needed:,.0f} forward passes over a batch with {parameters:,} parameters, and a "
        f"whole run has {there:,.0f}"
    )
