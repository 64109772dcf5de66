"""The judge's own plain training loop, which knows nothing of thalweg."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hospital.case import Given, score, worst

__all__ = ["spent", "step_once", "train", "trained"]


def train(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int,
    examples: int,
    shuffle: bool = True,
    seed: int = 0,
    before_step: Callable[[nn.Module], object] | None = None,
    falls: bool = False,
) -> float:
    """Train in place until so many examples have been seen; return the mean loss of the last pass.

    It ends early where the loss or an output is no number any more. A rate that falls does so by torch's
    cosine, over all of the steps.
    """
    steps = max(1, math.ceil(examples / batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if falls else None
    draws = torch.Generator().manual_seed(seed)
    model.train()
    seen, losses, count = 0, 0.0, 0
    while seen < examples:
        order = torch.randperm(len(x), generator=draws) if shuffle else torch.arange(len(x))
        losses, count = 0.0, 0
        for chosen in order.split(batch_size):
            # a last single example breaks batch norm, as in people's own loops; they leave it out
            if len(chosen) == 1 and batch_size > 1:
                continue
            optimizer.zero_grad(set_to_none=True)
            value = loss(model(x[chosen]), y[chosen])
            value.backward()
            if before_step is not None:
                before_step(model)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            seen += len(chosen)
            losses += float(value.detach())
            count += 1
            if not math.isfinite(losses):
                return math.nan
            if seen >= examples:
                break
    return losses / max(count, 1)


def trained(given: Given, seed: int, *, examples: int | None = None) -> float:
    """Train as given with one seed and return the score on its test set; what raises scores worst."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = given.model()
            optimizer = given.optimizer(model)
            train(
                model,
                optimizer,
                given.loss,
                given.x,
                given.y,
                batch_size=given.batch_size,
                examples=spent(given) if examples is None else examples,
                shuffle=given.shuffle,
                seed=seed,
            )
        except (RuntimeError, ValueError, IndexError):
            return worst(given.scored)
        return judged(model, given.read, given)


def judged(model: nn.Module, read: Callable[[Tensor], Tensor], given: Given) -> float:
    """Return the score of a trained module on the test set."""
    model.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return score(given.scored, read(model(given.test[0])), given.test[1])
        except (RuntimeError, ValueError, IndexError):
            return worst(given.scored)


def spent(given: Any) -> int:
    """Return the examples whose gradients a training takes."""
    return len(given.x) * given.epochs


def step_once(given: Given, seed: int) -> float:
    """Do the first step of a training; return the loss. Raises what it raises."""
    torch.manual_seed(seed)
    model = given.model()
    optimizer = given.optimizer(model)
    return train(
        model,
        optimizer,
        given.loss,
        given.x,
        given.y,
        batch_size=given.batch_size,
        examples=1,
        shuffle=given.shuffle,
        seed=seed,
    )
