"""What was random while training, averaged out at test time: over draws, and over crops of an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from thalweg.data.augmentation.crops import Crops, crops
from thalweg.errors import OptionError
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.layers.sampling import sampled_outputs
from thalweg.settings.choices import Activation
from thalweg.settings.tables import MOST, Settings, settle

__all__ = [
    "Activation",
    "Averaged",
    "PredictionSettings",
    "as_outputs",
    "probabilities",
    "softmax_of_several",
]


class PredictionSettings(Settings):
    """``[prediction]``: over what the result of a training averages its predictions.

    Attributes:
        samples: so many draws of everything random in the model (dropout, stochastic depth, fractional
            pooling); absent: none, each layer does what it does in evaluation.
        crops: a fixed set of so many crops of each image: 5, or 10 with their mirror images; 1: the image.
        window: share of the sides that a crop sees.
        calibrate: ``"temperature"``: probabilities are those at the temperature under which the validation
            data are likeliest (:mod:`thalweg.calibration.temperature`); absent: they are the model's own.
    """

    samples: int | None = Field(default=None, ge=2, le=MOST["samples"])
    crops: Crops = 1
    window: float = Field(default=0.875, gt=0, lt=1)
    calibrate: Literal["temperature"] | None = None

    @property
    def averages(self) -> dict[str, Any]:
        """What :class:`Averaged` takes of it."""
        return self.model_dump(exclude={"calibrate"})

    @property
    def on(self) -> bool:
        """Whether anything is averaged."""
        return self.samples is not None or self.crops > 1


class Averaged(nn.Module):
    """A model whose predictions are means over draws of its randomness and over crops of its inputs.

    With the model's probabilities ``p(x, z)`` of inputs x and draws z, over S draws and V crops::

        mean = 1/(S*V) * sum_j sum_v p(crop_v(x), z_j)

    It takes the model's inputs and gives outputs as the model does, those that mean these probabilities, so
    that any loss, metric or ensemble takes it in the model's place. It is for prediction: no gradients.

    Args:
        model: any that gives one tensor.
        samples: draws, at least 2; ``None``: the layers' own evaluation.
        crops: of images, 5 or 10; 1: none.
        window: share of the sides that a crop sees.
        activation: from outputs to what is averaged: softmax over the last axis, sigmoid, or outputs
            themselves.
        seed: of the draws.

    Raises:
        OptionError: a value out of range.
        DataError: when called, crops of what are no images.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    >>> images = torch.rand(4, 1, 8, 8)
    >>> averaged = Averaged(model, samples=16, crops=5)
    >>> averaged(images).shape, len(list(averaged.draws(images)))
    (torch.Size([4, 3]), 16)

    Source: A5, A6, A7 (S); Gal and Ghahramani 2016, Krizhevsky et al. 2012, Graham 2014.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        samples: int | None = None,
        crops: Crops = 1,
        window: float = 0.875,
        activation: Activation = "softmax",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings: PredictionSettings = settle(
            PredictionSettings, "averaging", samples=samples, crops=crops, window=window
        )
        if activation not in ("softmax", "sigmoid", "identity"):
            raise OptionError(
                f"activation = {activation!r} isn't known: 'softmax', 'sigmoid' and 'identity' are"
            )
        self.activation, self.seed = activation, seed
        self._seen = _OverCrops(model, self.settings, activation)
        self.training = model.training

    @torch.no_grad()
    def draws(self, inputs: Any) -> Iterator[Tensor]:
        """Go through the probabilities of each draw, float64 ``[B, *]``, averaged over crops.

        Without samples there is one, of the model in evaluation.
        """
        if self.settings.samples is not None:
            # without a mode of its own: beside one in training the whole model would be a frozen part
            self._seen.training = self._seen.model.training
            yield from sampled_outputs(self._seen, inputs, samples=self.settings.samples, seed=self.seed)
            return
        with evaluating(self._seen):
            made = self._seen(*(inputs if isinstance(inputs, tuple) else (inputs,)))
        yield made

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Tensor:
        """Return outputs that mean the averaged probabilities."""
        total, count = torch.zeros(()), 0
        for count, each in enumerate(self.draws(inputs), 1):
            total = each if count == 1 else total + (each - total) / count
        return as_outputs(total, self.activation, torch.float32)


class _OverCrops(nn.Module):
    """The probabilities of a model, averaged over crops, in one mode or another."""

    def __init__(self, model: nn.Module, settings: PredictionSettings, activation: Activation) -> None:
        super().__init__()
        self.model, self._settings, self._activation = model, settings, activation
        # so that a model in evaluation mode isn't one part of this that is kept in it
        self.training = model.training

    def forward(self, *inputs: Any) -> Tensor:
        if self._settings.crops == 1:
            return probabilities(outputs_of(self.model, *inputs), self._activation)
        (images,) = inputs
        total, count = torch.zeros(()), 0
        # one after another: together they would take so many times the memory
        for count, view in enumerate(crops(images, self._settings.crops, window=self._settings.window), 1):
            each = probabilities(outputs_of(self.model, view), self._activation)
            total = each if count == 1 else total + (each - total) / count
        return total


def probabilities(outputs: Tensor, activation: Activation) -> Tensor:
    """Return what outputs mean: probabilities of classes, or the outputs themselves; in float64."""
    wide = outputs.to(torch.float32 if outputs.device.type == "mps" else torch.float64)
    if activation == "softmax":
        return softmax_of_several(wide)
    return wide.sigmoid() if activation == "sigmoid" else wide


def softmax_of_several(outputs: Tensor) -> Tensor:
    """Return the softmax over the last axis, which of a single output would be 1 whatever it is.

    Raises:
        OptionError: there is a single output.
    """
    if outputs.ndim and outputs.shape[-1] == 1:
        raise OptionError(
            "the model gives a single output, whose softmax is 1 for every example; for one logit take "
            "activation='sigmoid', for a number 'identity'"
        )
    return outputs.softmax(-1)


def as_outputs(mean: Tensor, activation: Activation, dtype: torch.dtype) -> Tensor:
    """Return outputs that mean these probabilities, so that any loss and metric can score them.

    >>> p = torch.tensor([[0.25, 0.75]], dtype=torch.float64)
    >>> as_outputs(p, "softmax", torch.float32).softmax(-1)
    tensor([[0.2500, 0.7500]])
    """
    tiny = torch.finfo(dtype).tiny
    if activation == "softmax":
        return mean.clamp_min(tiny).log().to(dtype)
    if activation == "sigmoid":
        return (mean.clamp_min(tiny).log() - (1 - mean).clamp_min(tiny).log()).to(dtype)
    return mean.to(dtype)
