"""Networks of the recipes beside this file: deep ones that are hard to train from nothing, and others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


def dense(input_shape: Shape, outputs: int, widths: Sequence[int], activation: type[nn.Module]) -> nn.Module:
    """Return fully connected layers: ``layer1``, ``act1``, ``layer2``, ..., ``head``."""
    net, width = nn.Sequential(), math.prod(input_shape)
    net.add_module("flat", nn.Flatten())
    for number, after in enumerate(widths, 1):
        net.add_module(f"layer{number}", nn.Linear(width, after))
        net.add_module(f"act{number}", activation())
        width = after
    net.add_module("head", nn.Linear(width, outputs))
    return net


def sigmoid6(input_shape: Shape, outputs: int) -> nn.Module:
    """Return six sigmoid layers of 100 units."""
    return dense(input_shape, outputs, [100] * 6, nn.Sigmoid)


def tanh6(input_shape: Shape, outputs: int) -> nn.Module:
    """Return six tanh layers of 100 units."""
    return dense(input_shape, outputs, [100] * 6, nn.Tanh)


def sigmoid4(input_shape: Shape, outputs: int) -> nn.Module:
    """Return four sigmoid layers of 100 units."""
    return dense(input_shape, outputs, [100] * 4, nn.Sigmoid)


def small(input_shape: Shape, outputs: int) -> nn.Module:
    """Return two ReLU layers of 128 and 64 units."""
    return dense(input_shape, outputs, [128, 64], nn.ReLU)


def three(input_shape: Shape, outputs: int) -> nn.Module:
    """Return three ReLU layers of 256, 128 and 64 units."""
    return dense(input_shape, outputs, [256, 128, 64], nn.ReLU)


def teacher(input_shape: Shape, outputs: int) -> nn.Module:
    """Return a wide and shallow net that is easy to train: three ReLU layers of 256 units."""
    return dense(input_shape, outputs, [256] * 3, nn.ReLU)


def thin(input_shape: Shape, outputs: int) -> nn.Module:
    """Return a deep and thin student, 15 ReLU layers of 32 units, with torch's start."""
    return dense(input_shape, outputs, [32] * 15, nn.ReLU)


def thin_he(input_shape: Shape, outputs: int) -> nn.Module:
    """Return the same student with He's start: weights of variance 2 / inputs, biases of 0."""
    net = thin(input_shape, outputs)
    for part in net:
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            nn.init.zeros_(part.bias)
    return net


def five_blocks(input_shape: Shape, outputs: int) -> nn.Module:
    """Return five convolutional blocks, ``block1`` to ``block5``, and a head."""
    net, channels = nn.Sequential(), input_shape[0]
    for number, after in enumerate((8, 16, 16, 32, 32), 1):
        stride = 2 if number in (1, 2, 4) else 1
        convolution = nn.Conv2d(channels, after, 3, stride=stride, padding=1)
        net.add_module(f"block{number}", nn.Sequential(convolution, nn.ReLU()))
        channels = after
    net.add_module("mean", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    net.add_module("head", nn.Linear(channels, outputs))
    return net


class RowByRow(nn.Module):
    """A recurrent net that reads an image row by row: ``h_t = tanh(W x_t + U h_(t-1) + b)``.

    Args:
        rows: numbers in a row.
        units: of h.
        outputs: classes.
    """

    def __init__(self, rows: int, units: int, outputs: int) -> None:
        super().__init__()
        self.inside, self.again = nn.Linear(rows, units), nn.Linear(units, units, bias=False)
        self.head = nn.Linear(units, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs after the last row."""
        given = self.inside(x.flatten(1, -2))
        h = torch.tanh(given[:, 0])
        for t in range(1, given.shape[1]):
            h = torch.tanh(given[:, t] + self.again(h))
        return self.head(h)


def row_by_row(input_shape: Shape, outputs: int) -> nn.Module:
    """Return a recurrent net of 64 units that reads images row by row."""
    return RowByRow(input_shape[-1], 64, outputs)
