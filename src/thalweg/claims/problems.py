"""Small problems that several claims are measured on: data as tensors, nets, and a short training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg import data
from thalweg.data.arrays import ArraySource
from thalweg.training import fit

__all__ = ["Examples", "accuracy", "digits", "mlp", "trained"]

Examples = tuple[Tensor, Tensor]
"""Inputs and labels."""


def digits(
    seed: int, *, train: int = 500, test: int = 600, classes: Sequence[int] = range(10)
) -> tuple[Examples, Examples]:
    """Return handwritten digits, float32 ``[N, 64]`` of about unit size, and labels from 0, in two sets.

    Args:
        seed: decides which examples are taken.
        train, test: how many; fewer where there aren't as many.
        classes: that are taken; labels count them from 0.
    """
    source = data.load("digits")
    assert isinstance(source, ArraySource)
    x = torch.as_tensor(source.x, dtype=torch.float32).flatten(1)
    y = torch.as_tensor(source.y)
    places = torch.full((10,), -1)
    places[list(classes)] = torch.arange(len(classes))
    labels = places[y]
    x, labels = x[labels >= 0], labels[labels >= 0]
    x = (x - x.mean()) / x.std()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    ours, theirs = order[:train], order[train : train + test]
    return (x[ours], labels[ours]), (x[theirs], labels[theirs])


def mlp(widths: Sequence[int], seed: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return linear layers of these widths with activations between them, begun from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def trained(
    model: nn.Module, train: Examples, *, lr: float, optimizer: Any = "adam", seed: int = 0, **more: Any
) -> nn.Module:
    """Train a classifier by :func:`thalweg.fit`, and return it in evaluation mode."""
    rate = {"hyperparameters": {"lr": lr}} if isinstance(optimizer, str) else {}
    fit(model, train, "cross-entropy", optimizer, seed=seed, evaluations=1, **{**rate, **more})
    return model


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples) -> float:
    """Return the share of examples that a model labels rightly."""
    return float((model(examples[0]).argmax(-1) == examples[1]).float().mean())
