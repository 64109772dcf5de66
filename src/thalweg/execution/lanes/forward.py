"""The forward pass of K replicas, in one of two forms, and the loss of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from thalweg.execution.lanes.batched import Batched, missing_elements
from thalweg.layers.interface import Interface
from thalweg.layers.modes import begin_training, set_evaluation, set_modes
from thalweg.objectives import Loss
from thalweg.objectives.comparing import for_numbers
from thalweg.objectives.dividing import divided
from thalweg.objectives.nests import leaves, mapped, rebuilt
from thalweg.randomness.generators import undisturbed
from thalweg.randomness.keyed import Draw, DrawRecorder, Keyed, Site

__all__ = ["Forward", "Vmapped", "by_rows", "forward_of", "lane_losses", "measured_losses"]


class Forward(Protocol):
    """Stacked tensors ``[K, ...]`` and inputs ``[K, B, ...]`` to outputs ``[K, B, ...]``; nests of these."""

    @property
    def form(self) -> Literal["batched", "vmap"]:
        """Which of the two forms this is."""

    def __call__(self, tensors: Mapping[str, Tensor], x: Any, *, draw: Draw, training: bool) -> Any:
        """Run the pass; buffers such as running statistics are updated in place when training."""


class _Sequence:
    """The batched form."""

    form: Literal["batched"] = "batched"

    def __init__(self, module: nn.Module) -> None:
        self._batched = Batched(module)

    def __call__(self, tensors: Mapping[str, Tensor], x: Any, *, draw: Draw, training: bool) -> Any:
        if not isinstance(x, Tensor):
            # layers one after another take one tensor: a batch with one entry is that
            (x,) = leaves(x)
        return self._batched(tensors, x, draw=draw, training=training)


class Vmapped:
    """Any module under ``torch.vmap``, with its random numbers drawn outside.

    Args:
        module: the template; its own values are never used.
    """

    form: Literal["vmap"] = "vmap"

    def __init__(self, module: nn.Module) -> None:
        self._module, self._modes = module, begin_training(module)
        self._sites: dict[tuple[Any, ...], list[Site]] = {}
        self._mapped = vmap(self._one)
        self._evaluates = False
        self._nest: Any = None

    def __call__(self, tensors: Mapping[str, Tensor], x: Any, *, draw: Draw, training: bool) -> Any:
        """Map inputs ``[K, B, ...]`` to outputs ``[K, B, ...]``."""
        if self._evaluates is training:
            set_modes(self._modes) if training else set_evaluation(self._module)
            self._evaluates = not training
        key = (training, *(leaf.shape[1:] for leaf in leaves(x)))
        if key not in self._sites:
            self._sites[key] = self._record(tensors, mapped(lambda leaf: leaf[0], x))
        drawn = [draw(index, site) for index, site in enumerate(self._sites[key])]
        output = self._mapped(dict(tensors), x, drawn)
        return output if isinstance(output, Tensor) else rebuilt(self._nest, output)

    def _one(self, tensors: dict[str, Tensor], x: Any, drawn: list[Tensor]) -> Any:
        if not drawn:
            return self._flat(functional_call(self._module, tensors, (x,)))
        with Keyed(lambda index, site: drawn[index]):
            return self._flat(functional_call(self._module, tensors, (x,)))

    def _flat(self, output: Any) -> Any:
        """Tensors alone, since torch maps over no class that nobody has registered."""
        if isinstance(output, Tensor):
            return output
        self._nest = output
        return list(leaves(output))

    def _record(self, tensors: Mapping[str, Tensor], x: Any) -> list[Site]:
        recorder = DrawRecorder(next(leaves(x)).device)
        first = {name: tensor[0].detach().clone() for name, tensor in tensors.items()}
        with torch.no_grad(), undisturbed(), Keyed(recorder):
            functional_call(self._module, first, (x,))
        return recorder.sites


def forward_of(module: nn.Module) -> Forward:
    """Return the batched form where every layer has a twin, otherwise the vmap form.

    Parts that stay in evaluation mode while a model is trained have no twin.

    >>> forward_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU())).form, forward_of(nn.Bilinear(2, 2, 1)).form
    ('batched', 'vmap')
    """
    # layers with twins take one tensor and return one
    interface = Interface.detach(module)
    try:
        if not all(training for _, training in begin_training(module)):
            raise TypeError("a part stays in evaluation mode")
        return _Sequence(module)
    except TypeError:
        if interface is not None:
            interface.attach(module)
        return Vmapped(module)


def lane_losses(loss: Loss) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a loss over lanes: outputs ``[K, B, ...]`` and targets ``[K, B, ...]`` to ``[K]``.

    A person's own function is mapped over the lanes by ``torch.vmap``.
    """
    each = loss.per_example
    if each is None:
        return _mapped(loss)
    if loss.name == "cross-entropy":
        # Outputs lie in memory as [K, C, B]: over the middle dimension it takes a quarter of the time.
        return lambda outputs, targets: F.cross_entropy(
            outputs.transpose(1, 2), targets.flatten(1), reduction="none"
        ).mean(-1)
    if loss.name == "bce":
        return lambda outputs, targets: by_rows(each, outputs, targets).mean(-1)

    def by_number(outputs: Tensor, targets: Tensor) -> Tensor:
        outputs, targets = for_numbers(outputs, targets, lanes=True, name=f"the loss {loss.name!r}")
        return each(outputs.flatten(1).unsqueeze(-1), targets.flatten(1)).mean(-1)

    return by_number


def _mapped(function: Callable[[Any, Tensor], Any]) -> Callable[[Any, Tensor], Any]:
    """A function of outputs and targets over lanes, where outputs may be any nest of tensors."""
    plain = vmap(function)

    def over_lanes(outputs: Any, targets: Tensor) -> Any:
        if isinstance(outputs, Tensor):
            return plain(outputs, targets)
        parts = list(leaves(outputs))
        return vmap(lambda some, goals: function(rebuilt(outputs, some), goals))(parts, targets)

    return over_lanes


def measured_losses(loss: Loss) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]:
    """Return the losses ``[K]`` of a block, and what each divides by: ``[K]``, NaN where that isn't known.

    ``None`` in its place: they are sums.
    """
    losses = lane_losses(loss)
    summed = False

    def by_example(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        found = losses(outputs, targets)
        return found, torch.full_like(found, targets.shape[1], dtype=torch.float64)

    def one(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal summed
        found = divided(loss.function, *loss.compare(outputs, targets), lanes=True)
        # as a side effect: vmap hands on tensors alone, and the kind is the same in all lanes
        summed = found.kind == "sum"
        divisor = math.nan if found.divisor is None else found.divisor
        return loss.scalar(found.value), torch.as_tensor(divisor, dtype=torch.float64)

    def by_function(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        value, divisor = _mapped(one)(outputs, targets)
        return value, None if summed else divisor

    return by_function if loss.per_example is None else by_example


def by_rows(each: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    """Apply a function of each example to all lanes' rows, with rows added to whole vectors.

    Args:
        each: outputs ``[N, C]`` and targets ``[N]`` to ``[N]``.
        outputs: ``[K, B, C]``, or ``[K, B]`` for one number each.
        targets: ``[K, B]``, or ``[K, B, 1]``.

    Returns:
        ``[K, B]``, whose bits don't depend on K (see :mod:`thalweg.execution.lanes.batched`).
    """
    if outputs.ndim == 2:
        # a number each, without an axis of its own
        outputs = outputs.unsqueeze(-1)
    if targets.ndim == 3 and targets.shape[2] == 1:
        targets = targets[..., 0]
    extra = missing_elements(targets.numel(), outputs.device)
    rows = F.pad(outputs.flatten(0, 1), (0, 0, 0, extra))
    goals = F.pad(targets.reshape(-1), (0, extra))
    return each(rows, goals)[: targets.numel()].view(targets.shape)
