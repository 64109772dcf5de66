"""Networks as people write them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["Attention", "ConvNet", "Recurrent", "Times", "initialized", "mlp"]

Layer = Callable[[], nn.Module]


def mlp(
    *sizes: int,
    act: Layer | None = nn.ReLU,
    norm: Callable[[int], nn.Module] | None = None,
    dropout: float = 0.0,
    last: Sequence[nn.Module] = (),
) -> nn.Sequential:
    """Return linear layers with something between them; ``last`` follows the last."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(before, after))
        if number < len(sizes) - 2:
            layers += [norm(after)] if norm else []
            layers += [act()] if act else []
            layers += [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*layers, *last)


def initialized(model: nn.Module, change: Callable[[Tensor], object], *, biases: bool = False) -> nn.Module:
    """Return a model whose weights (``biases``: biases too) were set by a function in place."""
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() > 1 or biases:
                change(value)
    return model


class Times(nn.Module):
    """Multiplies by a number."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return self.by * x


class ConvNet(nn.Module):
    """Two convolutions, pooling, two linear layers."""

    def __init__(
        self,
        size: int,
        classes: int,
        channels: int = 1,
        *,
        width: int = 8,
        hidden: int = 32,
        act: Layer = nn.ReLU,
        norm: bool = False,
        momentum: float = 0.1,
        dropout: float = 0.0,
        bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width, momentum=momentum) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(2 * width, momentum=momentum) if norm else nn.Identity()
        self.act = act()
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(dropout)
        self.fc1 = nn.Linear(2 * width * (size // 4) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, classes)
        if bias:
            for layer in (self.conv1, self.conv2, self.fc1):
                nn.init.constant_(layer.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.act(self.bn1(self.conv1(x))))
        x = self.pool(self.act(self.bn2(self.conv2(x))))
        x = self.drop(self.act(self.fc1(x.flatten(1))))
        return self.fc2(x)


class Recurrent(nn.Module):
    """A recurrent layer (``"RNN"``, ``"GRU"``, ``"LSTM"``); its last output goes to a linear layer."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        hidden: int = 24,
        kind: str = "GRU",
        layers: int = 1,
        **more: object,
    ) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(inputs, hidden, layers, batch_first=True, **more)
        self.fc = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])


class Attention(nn.Module):
    """Words or vectors with positions, one or more encoder layers, the mean, a linear layer."""

    def __init__(
        self,
        outputs: int,
        *,
        vocabulary: int = 0,
        inputs: int = 0,
        length: int = 24,
        width: int = 16,
        layers: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width) if vocabulary else nn.Linear(inputs, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=dropout, batch_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))
