"""A set-up's model as the set-up's loop calls it: its interface, its mode, random numbers of its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from thalweg.diagnosis.setup import Setup
from thalweg.layers.interface import Interface
from thalweg.layers.modes import set_evaluation, set_mode
from thalweg.randomness.generators import own_generators

__all__ = ["computing", "learning", "starting"]


@contextmanager
def computing(
    setup: Setup, model: nn.Module, *, seed: int, stream: str, gradients: bool = True
) -> Iterator[None]:
    """Call a model within as a trial does, and leave everybody's generators as they are.

    Args:
        setup: whose model it is, which says whether its loss takes a part of the outputs alone.
        model: as it begins, or trained.
        seed, stream: of random numbers drawn within.
        gradients: whether autograd takes note; else the model is put into evaluation.
    """
    with _apart(seed, stream, gradients=gradients), _interface(setup).attached(model):
        if not gradients:
            set_evaluation(model)
        yield


@contextmanager
def starting(setup: Setup, *, seed: int, stream: str) -> Iterator[tuple[nn.Module, torch.optim.Optimizer]]:
    """Begin a set-up's model and optimizer, and call the model within as :func:`computing` does."""
    with _apart(seed, stream):
        model, optimizer = setup.start(seed)
        with _interface(setup).attached(model):
            yield model, optimizer


def learning(model: nn.Module) -> None:
    """Let a model that was given in evaluation throughout be trained, as torch's loops do."""
    if not any(part.training for part in model.modules()):
        set_mode(model, training=True)


def _interface(setup: Setup) -> Interface:
    return Interface() if setup.takes_part else Interface(own=("loss",))


@contextmanager
def _apart(seed: int, stream: str, *, gradients: bool = True) -> Iterator[None]:
    with (
        own_generators(seed, "diagnosis", stream),
        warnings.catch_warnings(),
        torch.set_grad_enabled(gradients),
    ):
        # what torch says of broken shapes is said by a finding
        warnings.simplefilter("ignore")
        yield
