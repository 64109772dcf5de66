"""Changes of a set-up, one function each: from a set-up to one that differs in a single thing.

Where the change is within a model's ``forward``, which may be anybody's code, calls of torch's functions are
changed while it runs (:class:`Rewritten`): the third ``sigmoid`` gives way to a ``relu``, whether a module or
a function has called it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.trace import plain_name
from thalweg.errors import ModelError
from thalweg.initial import initialize

__all__ = [
    "Call",
    "Change",
    "Filled",
    "Rewritten",
    "Standardize",
    "adam",
    "clipped",
    "falling",
    "faster",
    "gaps_filled",
    "new_last_layer",
    "no_dropout",
    "of_batch",
    "reinitialized",
    "rewritten",
    "rewritten_loss",
    "standardized_inputs",
    "standardized_targets",
    "then",
    "trained_whole",
    "with_decay",
]

Change: TypeAlias = Callable[[Setup], Setup]
Call: TypeAlias = tuple[str, int]
"""A call of a function of torch's in ``forward``: its name, and how many calls of that name come before."""


def then(*changes: Change) -> Change:
    """Return changes made one after the other."""

    def all_of_them(setup: Setup) -> Setup:
        for change in changes:
            setup = change(setup)
        return setup

    return all_of_them


# Models -------------------------------------------------------------------------------------------------


class Rewritten(nn.Module):
    """A model some of whose calls of torch's functions give way to others.

    Args:
        inner: the model.
        replaced: calls that give way to a function of their first tensor.
        followed: calls whose result goes through a function.

    >>> model = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid())
    >>> changed = Rewritten(model, replaced={("sigmoid", 0): torch.relu})
    >>> bool((changed(torch.full((1, 1), -9.0)) >= 0).all())
    True
    """

    def __init__(
        self,
        inner: nn.Module,
        replaced: Mapping[Call, Callable[[Tensor], Tensor]] | None = None,
        followed: Mapping[Call, Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.replaced, self.followed = dict(replaced or {}), dict(followed or {})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        with _Rewriting(self.replaced, self.followed):
            return self.inner(*args, **kwargs)


class _Rewriting(TorchFunctionMode):
    def __init__(self, replaced: Mapping[Call, Any], followed: Mapping[Call, Any]) -> None:
        super().__init__()
        self._replaced, self._followed = replaced, followed
        self._counts: dict[str, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = plain_name(func)
        call = (name, self._counts.get(name, 0))
        self._counts[name] = call[1] + 1
        other = self._replaced.get(call)
        if other is not None:
            named = kwargs or {}
            first = next(value for value in (*args, *named.values()) if isinstance(value, Tensor))
            return other(first)
        result = func(*args, **(kwargs or {}))
        behind = self._followed.get(call)
        return result if behind is None else behind(result)


def rewritten(
    replaced: Mapping[Call, Callable[[Tensor], Tensor]] | None = None,
    followed: Mapping[Call, Callable[[Tensor], Tensor]] | None = None,
) -> Change:
    """Change calls within the model; see :class:`Rewritten`."""
    return lambda setup: setup.with_model(lambda model: Rewritten(model, replaced, followed))


def rewritten_loss(replaced: Mapping[Call, Callable[[Tensor], Tensor]]) -> Change:
    """Change calls within the loss."""

    def changed(setup: Setup) -> Setup:
        loss = setup.loss

        def other(outputs: Any, targets: Any) -> Any:
            with _Rewriting(replaced, {}):
                return loss(outputs, targets)

        return setup.with_(loss=other, named_loss=None)

    return changed


class Standardize(nn.Module):
    """``(x - mean) / spread`` of each feature, in front of a model.

    Args:
        mean, spread: of a shape that goes with an example's.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)

    def forward(self, x: Tensor) -> Tensor:
        """Bring features to mean 0 and spread 1."""
        return (x.to(self.mean.dtype) - self.mean) / self.spread

    def extra_repr(self) -> str:
        """Say how many features there are."""
        return f"features={self.mean.numel()}"


def _scale_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and spread of each feature: of columns, of an image's channels, of a step of a sequence."""
    held = values.detach().double()
    if held.ndim >= 4:
        axes, shape = (0, *range(2, held.ndim)), (1, held.shape[1], *(1,) * (held.ndim - 2))
    else:
        axes, shape = tuple(range(held.ndim - 1)) or (0,), (*(1,) * (held.ndim - 1), held.shape[-1])
        if held.ndim == 1:
            shape = (1,)
    mean, spread = held.mean(axes), held.std(axes, correction=0)
    # a feature that is the same in all examples stays 0
    spread = torch.where(spread > 1e-12 * mean.abs().clamp(min=1e-30), spread, torch.ones_like(spread))
    return mean.reshape(shape), spread.reshape(shape)


def standardized_inputs(setup: Setup) -> Setup:
    """Put :class:`Standardize` in front of the model.

    Raises:
        ModelError: inputs aren't one tensor of fractions.
    """
    if not isinstance(setup.inputs, Tensor) or not setup.inputs.dtype.is_floating_point:
        raise ModelError("only inputs that are one tensor of fractions can be standardized")
    mean, spread = _scale_of(setup.inputs)
    kind = setup.inputs.dtype

    def front(model: nn.Module) -> nn.Module:
        return nn.Sequential(Standardize(mean.to(kind), spread.to(kind)), model)

    return setup.with_model(front)


class Filled(nn.Module):
    """Numbers that stand for gaps give way to a column's median, in front of a model.

    Args:
        gap: that stands for what is missing.
        medians: of each column's other values.
    """

    medians: Tensor

    def __init__(self, gap: float, medians: Tensor) -> None:
        super().__init__()
        self.gap = gap
        self.register_buffer("medians", medians)

    def forward(self, x: Tensor) -> Tensor:
        """Fill the gaps of ``[N, columns]``."""
        return torch.where(x == self.gap, self.medians, x)


def gaps_filled(gap: float) -> Change:
    """Fill gaps that a number stands for, and standardize what is there."""

    def filled(setup: Setup) -> Setup:
        inputs = setup.inputs
        there = [column[column != gap] for column in inputs.unbind(1)]
        front = Filled(gap, torch.stack([c.median() if len(c) else c.new_zeros(()) for c in there]))
        mean, spread = _scale_of(front(inputs))
        scaled = Standardize(mean.to(inputs.dtype), spread.to(inputs.dtype))
        return setup.with_model(lambda model: nn.Sequential(front, scaled, model))

    return filled


def standardized_targets(setup: Setup) -> Setup:
    """Let the loss compare with standardized targets; predictions are brought back by ``decode``."""
    if not isinstance(setup.targets, Tensor) or not setup.targets.dtype.is_floating_point:
        raise ModelError("only targets that are one tensor of fractions can be standardized")
    mean, spread = _scale_of(setup.targets)
    mean, spread = (each.to(setup.targets.dtype) for each in (mean, spread))
    if setup.targets.ndim == 1:
        mean, spread = mean.reshape(()), spread.reshape(())
    encode, decode = setup.encode, setup.decode
    return setup.with_(
        encode=lambda targets: (encode(targets) - mean) / spread,
        decode=lambda outputs: decode(outputs) * spread + mean,
    )


def reinitialized(scheme: str) -> Change:
    """Draw all weights anew by a scheme of :mod:`thalweg.initial`."""

    def anew(model: nn.Module) -> nn.Module:
        seed = int(torch.randint(0, 2**31, ()))
        initialize(model, scheme, seed=seed)
        for part in model.modules():
            if isinstance(part, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm):
                part.reset_parameters()
        return model

    return lambda setup: setup.with_model(anew)


def new_last_layer(parameters: tuple[Tensor, ...], outputs: int) -> Change:
    """Give the layer that holds a weight another number of outputs, begun anew.

    Raises:
        ModelError: the layer isn't ``nn.Linear``.
    """
    shapes = {tuple(p.shape) for p in parameters}

    def other(model: nn.Module) -> nn.Module:
        found = [
            name
            for name, part in model.named_modules()
            if isinstance(part, nn.Linear) and tuple(part.weight.shape) in shapes
        ]
        if not found:
            raise ModelError("the last layer isn't nn.Linear, so that only you can change its outputs")
        path, _, name = found[-1].rpartition(".")
        owner = model.get_submodule(path)
        old = model.get_submodule(found[-1])
        assert isinstance(old, nn.Linear)
        made = nn.Linear(old.in_features, outputs, dtype=old.weight.dtype, device=old.weight.device)
        setattr(owner, name, made)
        return model if found[-1] else made

    return lambda setup: setup.with_model(other)


def no_dropout(setup: Setup) -> Setup:
    """Leave dropout out, of modules and of functions."""

    def without(model: nn.Module) -> nn.Module:
        for part in model.modules():
            if isinstance(getattr(part, "dropout", None), float):
                # of recurrent layers and attention
                setattr(part, "dropout", 0.0)  # noqa: B010
        return _WithoutDropout(model)

    return setup.with_model(without)


class _WithoutDropout(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _NoDropout():
            return self.inner(*args, **kwargs)


class _NoDropout(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if "dropout" in plain_name(func) and args and isinstance(args[0], Tensor):
            return args[0]
        return func(*args, **(kwargs or {}))


def trained_whole(setup: Setup) -> Setup:
    """Train all parameters, also those that were frozen or that the optimizer wasn't given."""

    def whole(model: nn.Module, optimizer: Any) -> torch.optim.Optimizer:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        model.requires_grad_(True)
        missing = [p for p in model.parameters() if id(p) not in held]
        if missing:
            options = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
            optimizer.add_param_group({**options, "params": missing})
        found: torch.optim.Optimizer = optimizer
        return found

    return setup.with_optimizer(whole)


# Optimizers ---------------------------------------------------------------------------------------------


def faster(factor: float) -> Change:
    """Multiply all learning rates."""

    def change(_: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        for group in optimizer.param_groups:
            if "lr" in group:
                group["lr"] = group["lr"] * factor
        return optimizer

    return lambda setup: setup.with_optimizer(change)


def adam(rate: float = 1e-3) -> Change:
    """Train what was trained by Adam."""

    def change(_: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        held = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        return torch.optim.Adam(held, lr=rate)

    return lambda setup: setup.with_optimizer(change)


def with_decay(value: float) -> Change:
    """Set weight decay in all groups."""

    def change(_: nn.Module, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        for group in optimizer.param_groups:
            for name in ("weight_decay", "l2"):
                if name in group:
                    group[name] = value
        return optimizer

    return lambda setup: setup.with_optimizer(change)


# The loop -----------------------------------------------------------------------------------------------


def clipped(norm: float) -> Change:
    """Bound the norm of the gradient."""
    return lambda setup: setup.with_(clip=norm)


def falling(setup: Setup) -> Setup:
    """Let learning rates fall to 0 along half a cosine."""
    return setup.with_(falling=True)


def of_batch(size: int) -> Change:
    """Change the size of a batch; an epoch then has more or fewer steps."""
    return lambda setup: setup.with_(batch_size=min(size, setup.examples))
