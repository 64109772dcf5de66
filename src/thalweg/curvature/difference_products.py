"""Products with a model's curvature from differences, where a gradient can't be differentiated again (O13).

They take two gradients each, or two passes forward and a gradient, and keep nothing but where dropout
begins. Where the model has kinks, as ReLU and max-pooling have, a difference sees how gradients change over
its width, with the units that switch within it: it converges to another thing than the curvature of the piece
that the point lies in, and the less stably the smaller the width.

Source: INDEX O13 (C s95); Dauphin et al. 2014, section on Hessian-vector products by differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.curvature.differences import difference_product, width
from thalweg.curvature.differentiation import gradient_of, graph_of
from thalweg.curvature.vectors import Space, Vector
from thalweg.randomness.generators import set_generator_states

__all__ = ["DifferenceProducts", "Replay", "bend_of", "kinks_of", "slope_of"]

_SPACE = Space()
_KINKS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.Threshold, nn.Hardtanh, nn.Hardsigmoid,
    nn.Hardswish, nn.Hardshrink, nn.Softshrink, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.FractionalMaxPool2d,
)  # fmt: skip


def kinks_of(model: nn.Module) -> list[str]:
    """Return the names of the classes of layers with kinks, which ``forward`` may have besides.

    >>> kinks_of(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Tanh()))
    ['ReLU']
    """
    return sorted({type(part).__name__ for part in model.modules() if isinstance(part, _KINKS)})


class Replay:
    """Computes something of one batch again and again, at other parameters, with the same random draws.

    Args:
        compute: gives outputs and what is wanted of them, from the parameters as they are.
        model: whose buffers are each time as they are now.
        leaves: parameters.
        states: of the generators, as each pass begins.
    """

    def __init__(self, compute: Callable[[], Any], model: nn.Module, leaves: Vector, states: Any) -> None:
        self._compute, self._leaves = compute, leaves
        self._device, self._states = leaves[0].device, states
        # a layer may change them in each pass, as spectral norm does
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]

    def here(self) -> Any:
        """Compute at the parameters as they are."""
        set_generator_states(self._states, self._device)
        with torch.no_grad():
            for buffer, value in self._buffers:
                buffer.copy_(value)
        with torch.enable_grad():
            return self._compute()

    @contextmanager
    def moved(self) -> Iterator[Callable[[Vector], None]]:
        """Give what moves the parameters; afterwards they are as they were, to the bit."""
        homes = [leaf.detach().clone() for leaf in self._leaves]

        def to(x: Vector) -> None:
            with torch.no_grad():
                for leaf, value in zip(self._leaves, x, strict=True):
                    leaf.copy_(value)

        try:
            yield to
        finally:
            to(homes)


class DifferenceProducts:
    """Products with the Hessian of a loss, or with ``J' B J`` of outputs, by differences.

    Args:
        replay: gives a loss; or outputs, where ``bend`` is given.
        leaves: parameters.
        bend: ``B``, from outputs and a vector of their shape; None: the Hessian is wanted.
        slope: with ``bend`` the loss's gradient with respect to outputs.
    """

    def __init__(
        self,
        replay: Replay,
        leaves: Vector,
        bend: Callable[[Tensor, Tensor], Tensor] | None = None,
        slope: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._replay, self._leaves, self._bend, self._slope = replay, leaves, bend, slope

    @property
    def gradient(self) -> Vector:
        """The gradient of the loss."""
        value = self._replay.here()
        return gradient_of(value, self._leaves, None if self._slope is None else self._slope(value))

    def product(self, v: Vector) -> Vector:
        """Return the product with a vector; zero for zero."""
        if not float(_SPACE.norm_max(v)):
            return [torch.zeros_like(t) for t in v]
        x = [leaf.detach().clone() for leaf in self._leaves]
        if self._bend is None:
            with self._replay.moved() as to:

                def gradient(there: Vector) -> Vector:
                    to(there)
                    return gradient_of(self._replay.here(), self._leaves)

                return difference_product(gradient, x, v, _SPACE, narrow=True)
        h = width(x, v, _SPACE, narrow=True)
        with self._replay.moved() as to:
            ends = []
            for step in (h, -h):
                to(_SPACE.add(x, step, v))
                with torch.no_grad():
                    ends.append(self._replay.here().detach())
        outputs = self._replay.here()
        pushed = (ends[0] - ends[1]) * (0.5 / h).to(ends[0].dtype)
        return gradient_of(outputs, self._leaves, self._bend(outputs.detach(), pushed))


def bend_of(loss: Callable[[Tensor], Tensor], outputs: Tensor, q: Tensor) -> Tensor:
    """Return ``Hq``, H the Hessian of a loss with respect to outputs."""
    z = outputs.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = graph_of(loss(z).sum(), [z])
    return gradient_of(slope, [z], q)[0]


def slope_of(loss: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    """Return the gradient of a loss with respect to outputs."""
    z = outputs.detach().requires_grad_()
    with torch.enable_grad():
        return gradient_of(loss(z).sum(), [z])[0]
