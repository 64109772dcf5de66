"""Averaging out at test time what was random while training, by sampling, for any model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import ParametrizationList

from thalweg.errors import ModelError, OptionError
from thalweg.layers.modes import begin_training, set_mode
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched
from thalweg.randomness.keyed import Keyed, RunDraws
from thalweg.randomness.streams import seed32

__all__ = ["Sampled", "sampled_outputs", "sampled_prediction"]


@dataclass(frozen=True)
class Sampled:
    """Predictions averaged over draws.

    Args:
        mean: ``[B, *]``.
        spread: standard deviation of a single draw's prediction, with n - 1: ``[B, *]``. Over
            ``sqrt(samples)`` it is the standard error of the mean.
        samples: how many draws.
    """

    mean: Tensor
    spread: Tensor
    samples: int


def sampled_prediction(
    model: nn.Module,
    inputs: Any,
    *,
    samples: int = 32,
    seed: int = 0,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Sampled:
    """Estimate ``E_z[f(x, z)]`` over a model's randomness z: the mean of several random passes.

    All parts run as in training, so that whatever is random draws, but batch normalization keeps to its
    running averages, parts that are in evaluation mode beside others that aren't stay so, and nothing is
    changed: no buffer, no mode, no generator. Sample j draws from the streams of step j: the
    result depends on the seed alone, and the first samples of more are the same.

    Args:
        model: any that gives one tensor.
        inputs: a batch; a tuple holds several arguments.
        samples: at least 2.
        seed: any int.
        transform: what to average, such as ``lambda outputs: outputs.softmax(-1)``; by default outputs.

    Raises:
        OptionError: fewer than 2 samples.
        ModelError: the model's output is no tensor.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    >>> result = sampled_prediction(model, torch.ones(3, 4), samples=10)
    >>> result.mean.shape, bool((result.spread > 0).all()), model.training
    (torch.Size([3, 2]), True, True)

    Source: A5 (S); Gal and Ghahramani 2016 for dropout.
    """
    mean = squares = value = torch.zeros(())
    for sample, output in enumerate(sampled_outputs(model, inputs, samples=samples, seed=seed)):
        value = output if transform is None else transform(output)
        wide = value.to(torch.float32 if value.device.type == "mps" else torch.float64)
        if sample == 0:
            mean, squares = wide, torch.zeros_like(wide)
            continue
        # Welford's: exact also where the spread is small against the mean
        change = wide - mean
        mean = mean + change / (sample + 1)
        squares = squares + change * (wide - mean)
    spread = (squares / (samples - 1)).sqrt()
    return Sampled(mean.to(value.dtype), spread.to(value.dtype), samples)


@torch.no_grad()
def sampled_outputs(model: nn.Module, inputs: Any, *, samples: int, seed: int = 0) -> Iterator[Tensor]:
    """Go through the outputs of random passes, one after another; see :func:`sampled_prediction`.

    >>> outputs = list(sampled_outputs(nn.Dropout(0.5), torch.ones(4), samples=3))
    >>> len(outputs), torch.equal(outputs[0], outputs[1])
    (3, False)
    """
    if samples < 2:
        raise OptionError(f"samples = {samples} isn't allowed: a mean with a spread needs at least 2")
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    device = next(
        (each.device for each in (*model.parameters(), *arguments) if isinstance(each, Tensor)),
        torch.device("cpu"),
    )
    draws = RunDraws(seed, device)
    for sample in range(samples):
        draws.step = sample
        with _random_alone(model), Keyed(draws):
            # what the mode doesn't cover, such as dropout inside of torch's recurrent layers
            torch.manual_seed(seed32(seed, "sample", sample))
            output = outputs_of(model, *arguments)
        if not isinstance(output, Tensor):
            raise ModelError(f"the model gives a {type(output).__name__}, of which there is no mean")
        yield output


@contextmanager
def _random_alone(model: nn.Module) -> Iterator[None]:
    """Everything as in training but what normalizes by the batch; what a pass changes comes back."""
    # values of parameters nobody changes in a pass without gradients
    with untouched(model, parameters=False):
        begin_training(model)
        for module in model.modules():
            if isinstance(module, (_NormBase, ParametrizationList)):
                set_mode(module, False)
        yield
