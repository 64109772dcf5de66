"""Layers of units: maxout, dropout plain and inverted, fractional max pooling."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.randomness import streams

__all__ = ["Dropout", "FractionalMaxPool2d", "Maxout", "dropout", "maxout"]


def maxout(h: Tensor, pieces: int, *, axis: int = 1) -> Tensor:
    """Take the largest of each run of ``pieces`` features.

    ``out[i] = max(h[i*k], .., h[i*k + k-1])`` for k pieces: with linear pieces a convex function of the
    input, piecewise linear, whose slope never vanishes everywhere. Where pieces are equal, the gradient is
    shared among them.

    Args:
        h: ``[B, units * pieces, *]``, or with the features along another axis.
        pieces: k, at least 1.
        axis: of the features.

    Returns:
        ``[B, units, *]``.

    Raises:
        ModelError: the features can't be divided by ``pieces``.

    >>> maxout(torch.tensor([[1.0, 4.0, -3.0, -2.0]]), 2).tolist()
    [[4.0, -2.0]]

    Source: D2 (N); Goodfellow, Warde-Farley, Mirza, Courville and Bengio 2013.
    """
    axis %= h.ndim
    if pieces < 1 or h.shape[axis] % pieces:
        raise ModelError(
            f"{h.shape[axis]} features can't be divided into maxout units of {pieces} pieces each"
        )
    shape = h.shape
    return h.reshape(*shape[:axis], -1, pieces, *shape[axis + 1 :]).amax(axis + 1)


class Maxout(nn.Module):
    """:func:`maxout` as a layer, to stand after a layer with ``units * pieces`` outputs.

    Args:
        pieces: how many linear pieces each unit has.
        axis: of the features: 1, or -1 after linear layers on more than two axes.

    >>> nn.Sequential(nn.Linear(5, 3 * 4), Maxout(4))(torch.zeros(2, 5)).shape
    torch.Size([2, 3])
    """

    def __init__(self, pieces: int, *, axis: int = 1) -> None:
        super().__init__()
        if pieces < 1:
            raise OptionError(f"pieces = {pieces} isn't allowed: a maxout unit has at least one")
        self.pieces, self.axis = pieces, axis

    def forward(self, h: Tensor) -> Tensor:
        """Bring ``[B, units * pieces, *]`` to ``[B, units, *]``."""
        return maxout(h, self.pieces, axis=self.axis)

    def extra_repr(self) -> str:
        """Say what the layer is set to."""
        return f"pieces={self.pieces}, axis={self.axis}"


def dropout(x: Tensor, p: float, *, training: bool, inverted: bool = True) -> Tensor:
    """Set units to zero at random while training, and make up for it.

    Inverted: ``x * mask / (1 - p)`` while training, x in evaluation. Plain: ``x * mask`` while training,
    ``(1 - p) * x`` in evaluation. Either way evaluation gives the expectation of training.

    Args:
        x: any shape; each element is a unit.
        p: chance of a unit to be dropped, in ``[0, 1)``.

    Raises:
        OptionError: p outside of ``[0, 1)``.

    >>> dropout(torch.ones(3), 0.25, training=False, inverted=False).tolist()
    [0.75, 0.75, 0.75]

    Source: A4 (S); Srivastava et al. 2014. S divides by p, which is the chance to be kept there.
    """
    _check_p(p)
    if inverted:
        return F.dropout(x, p, training)
    if not training:
        return (1 - p) * x
    # in float32 for every dtype, so that a model drops the same elements in any precision
    keep = torch.rand(x.shape, device=x.device, dtype=torch.float32) >= p
    return x * keep.to(x.dtype)


class Dropout(nn.Module):
    """:func:`dropout` as a layer.

    Args:
        p: chance of a unit to be dropped, in ``[0, 1)``.
        inverted: whether to scale while training, as torch does, or in evaluation.

    >>> Dropout(0.5, inverted=False).eval()(torch.ones(2)).tolist()
    [0.5, 0.5]
    """

    def __init__(self, p: float = 0.5, *, inverted: bool = True) -> None:
        super().__init__()
        _check_p(p)
        self.p, self.inverted = p, inverted

    def forward(self, x: Tensor) -> Tensor:
        """Drop units of x."""
        return dropout(x, self.p, training=self.training, inverted=self.inverted)

    def extra_repr(self) -> str:
        """Say what the layer is set to."""
        return f"p={self.p:g}, inverted={self.inverted}"


class FractionalMaxPool2d(nn.Module):
    """Max pooling over regions drawn at random, so that images shrink by less than a half at a time.

    While training each channel of each example draws its own regions. In evaluation the mean over a fixed set
    of draws is taken, the same for all examples, so that an example's result doesn't depend on its batch.
    That averages layer by layer; the paper averages predictions:
    :func:`~thalweg.layers.sampling.sampled_prediction` does.

    Args:
        kernel_size: of the regions.
        output_ratio: of output to input size, in ``(0, 1)``; or a pair, for height and width.
        draws: of the fixed set.
        seed: of the fixed set.

    Raises:
        OptionError: a value that isn't allowed.
        ModelError: when called, an image too small.

    >>> pool = FractionalMaxPool2d(output_ratio=0.7).eval()
    >>> x = torch.randn(2, 3, 20, 20)
    >>> pool(x).shape, torch.equal(pool(x)[:1], pool(x[:1]))
    (torch.Size([2, 3, 14, 14]), True)

    Source: A7 (S); Graham 2014.
    """

    def __init__(
        self,
        kernel_size: int = 2,
        *,
        output_ratio: float | tuple[float, float] = 1 / math.sqrt(2),
        draws: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        ratios = output_ratio if isinstance(output_ratio, tuple) else (output_ratio, output_ratio)
        if len(ratios) != 2 or not all(0 < ratio < 1 for ratio in ratios):
            raise OptionError(f"output_ratio = {output_ratio} isn't allowed: give one in (0, 1), or two")
        if kernel_size < 1 or draws < 1:
            raise OptionError(f"kernel_size = {kernel_size} and draws = {draws} must both be at least 1")
        self.kernel_size, self.output_ratio, self.draws, self.seed = kernel_size, ratios, draws, seed

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``[B, C, H, W]``."""
        height, width = (int(n * r) for n, r in zip(x.shape[-2:], self.output_ratio, strict=True))
        k = self.kernel_size
        if (
            x.ndim != 4
            or height < 1
            or width < 1
            or height + k - 1 > x.shape[-2]
            or width + k - 1 > x.shape[-1]
        ):
            raise ModelError(
                f"fractional pooling by {k}x{k} regions to {height}x{width} doesn't fit {list(x.shape)}: it "
                "needs [B, C, H, W] with room for all regions"
            )
        batch, channels = x.shape[:2]
        if self.training:
            return self._pool(x, torch.rand((batch, channels, 2), dtype=x.dtype, device=x.device))
        fixed = streams.uniform(
            (self.draws, 2), seed=self.seed, stream="layers/fractional-max-pool", device=x.device
        ).to(x.dtype)
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for draw in fixed:
            total = total + self._pool(x, draw.expand(batch, channels, 2))
        return total / self.draws

    def _pool(self, x: Tensor, samples: Tensor) -> Tensor:
        size: Any = self.kernel_size
        pooled: Tensor = F.fractional_max_pool2d(
            x, size, output_ratio=self.output_ratio, _random_samples=samples.contiguous()
        )
        return pooled

    def extra_repr(self) -> str:
        """Say what the layer is set to."""
        return f"{self.kernel_size}, output_ratio={self.output_ratio}, draws={self.draws}, seed={self.seed}"


def _check_p(p: float) -> None:
    if not 0 <= p < 1:
        raise OptionError(f"p = {p} isn't allowed: the chance to be dropped lies in [0, 1)")
