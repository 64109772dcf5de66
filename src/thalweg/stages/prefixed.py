"""A frozen prefix before what is trained, and temporary heads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.layers.modes import evaluating
from thalweg.stages.taps import Closing

__all__ = ["HeadOf", "Headed", "MeanOver", "Prefixed", "head_for"]

HeadOf: TypeAlias = Callable[[tuple[int, ...], int], nn.Module]
"""From the shape of one example's features and the number of outputs to a head."""


class Prefixed(Closing):
    """A part that is frozen, and what is trained on its outputs: ``rest(prefix(x))``.

    The prefix is run without gradients and in evaluation mode, whatever mode the whole is in. What it
    gives goes on as one argument, of a tuple as several, ``rest(*z)``, and of a dictionary by name,
    ``rest(**z)``. As the prefix has no parameters to train, it gives the same for an example in every epoch:
    the training may compute it once, and train ``rest`` on what was kept.

    Args:
        prefix: frozen; it takes what the model takes.
        rest: is trained.

    >>> frozen_part, head = nn.Sequential(nn.Linear(4, 3), nn.Dropout()), nn.Linear(3, 2)
    >>> both = Prefixed(frozen_part, head)
    >>> y = both(torch.ones(5, 4))
    >>> y.sum().backward()
    >>> frozen_part[0].weight.grad, head.weight.grad.shape, frozen_part[1].training
    (None, torch.Size([2, 3]), True)

    Source: P1, P4, P6 (N, U, S).
    """

    def __init__(self, prefix: nn.Module, rest: nn.Module) -> None:
        super().__init__()
        self.prefix, self.rest = prefix, rest

    @property
    def called_as(self) -> nn.Module:
        """The module that inputs are handed on to."""
        return self.prefix

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the rest gives for what the prefix gives."""
        trains = any(part.training for part in self.prefix.modules())
        with torch.no_grad(), evaluating(self.prefix) if trains else nullcontext():
            z = self.prefix(*args, **kwargs)
        if isinstance(z, Mapping):
            return self.rest(**z)
        return self.rest(*z) if isinstance(z, (tuple, list)) else self.rest(z)


class Headed(Closing):
    """A part of a model with a head on top: ``head(body(x))``.

    Args:
        body: takes what the model takes.
        head: of its output.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    @property
    def called_as(self) -> nn.Module:
        """The module that inputs are handed on to."""
        return self.body

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the head gives."""
        return self.head(self.body(*args, **kwargs))


class MeanOver(nn.Module):
    """The mean over some axes.

    >>> MeanOver(-2, -1)(torch.ones(5, 3, 4, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Return the means."""
        return x.mean(self.axes)

    def extra_repr(self) -> str:
        """Say which."""
        return ", ".join(map(str, self.axes))


def head_for(
    shape: Sequence[int],
    outputs: int,
    *,
    channels_first: bool | None = None,
    like: nn.Module | None = None,
) -> nn.Sequential:
    """Return a head that is made to fit: a linear layer on features, brought to one row an example.

    ===============  ==================================================
    features         head
    ===============  ==================================================
    ``[D]``          linear
    ``[T, D]``       mean over the T tokens, linear
    ``[C, H, W]``    mean over the image, linear (more axes likewise)
    ===============  ==================================================

    Args:
        shape: of the features of one example.
        outputs: how many numbers the head gives, at least 1.
        channels_first: whether the first axis has the features; ``None``: unless there are two axes, where
            the last has. Of one-dimensional convolutions, ``[C, L]``, it is ``True``.
        like: a model on whose device, and with whose type, it is to be.

    Raises:
        ModelError: there is nothing to put a linear layer on.
        OptionError: no outputs.

    >>> head_for((8, 4, 4), 10)
    Sequential(
      (0): MeanOver(-2, -1)
      (1): Linear(in_features=8, out_features=10, bias=True)
    )
    """
    shape = tuple(shape)
    if isinstance(outputs, bool) or not isinstance(outputs, int) or outputs < 1:
        raise OptionError(f"a head was asked for {outputs!r} outputs; give a whole number of at least 1")
    if not shape or not math.prod(shape):
        raise ModelError(
            f"no head can be put on features of shape {list(shape)} an example; give a function that makes "
            "one"
        )
    first = len(shape) != 2 if channels_first is None else channels_first
    place = next((p for p in like.parameters() if p.is_floating_point()), None) if like is not None else None
    made: dict[str, Any] = {} if place is None else {"device": place.device, "dtype": place.dtype}
    axes = range(1 - len(shape), 0) if first else range(-len(shape), -1)
    before = [MeanOver(*axes)] if len(shape) > 1 else []
    return nn.Sequential(*before, nn.Linear(shape[0] if first else shape[-1], outputs, **made))
