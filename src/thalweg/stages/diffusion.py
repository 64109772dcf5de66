"""Diffusion of a recurrent net: its step averaged over Gaussian noise on its weights, in closed form."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from thalweg.errors import ModelError
from thalweg.layers.interface import Interface
from thalweg.settings.tables import is_number
from thalweg.stages.continuation import lengths_of, sigmas_of
from thalweg.stages.progress import Changing, by_progress, said_of
from thalweg.stages.stage import Stage

__all__ = ["Diffused", "diffusion", "smoothed_relu", "smoothed_tanh"]


def smoothed_relu(mean: Tensor, variance: Tensor) -> Tensor:
    """Return the mean of relu(z) of a normal z: ``m * Phi(m / s) + s * phi(m / s)``.

    Args:
        mean: m, of any shape.
        variance: s^2, at least 0, of a shape that fits.

    >>> smoothed_relu(torch.zeros(1), torch.ones(1))
    tensor([0.3989])

    Source: P7 (N); Mobahi, Training recurrent neural networks by diffusion, 2016.
    """
    deviation = variance.clamp_min(torch.finfo(mean.dtype).tiny).sqrt()
    ratio = mean / deviation
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    found: Tensor = mean * torch.special.ndtr(ratio) + deviation * density
    return found


def smoothed_tanh(mean: Tensor, variance: Tensor) -> Tensor:
    """Return ``E tanh(z)`` of a normal z, within 0.02: ``tanh(m / sqrt(1 + pi/2 * s^2))``.

    Exact for ``erf(sqrt(pi)/2 * z)``, which has the slope of tanh at 0 and lies close to it.

    Args:
        mean, variance: as for :func:`smoothed_relu`.

    >>> smoothed_tanh(torch.ones(1), torch.zeros(1)) == torch.ones(1).tanh()
    tensor([True])

    Source: P7 (N); Mobahi 2016, who smooths erf.
    """
    return torch.tanh(mean / torch.sqrt(1 + math.pi / 2 * variance))


@dataclass
class _Noise:
    """How strong the noise is at present."""

    sigma: float


class _DiffusedRNN(nn.RNN):
    """An ``nn.RNN`` that takes its steps on average over noise, in training."""

    noise: _Noise

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:
        sigma = self.noise.sigma
        if not self.training or sigma == 0:
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            raise ModelError("sequences that are packed can't be diffused; give them padded, as one tensor")
        single = input.ndim == 2
        sequence = input.unsqueeze(1) if single else input.transpose(0, 1) if self.batch_first else input
        directions = 2 if self.bidirectional else 1
        layers = self.num_layers * directions
        if hx is None:
            hx = sequence.new_zeros(layers, sequence.shape[1], self.hidden_size)
        elif single:
            hx = hx.unsqueeze(1)
        ends: list[Tensor] = []
        for layer in range(self.num_layers):
            found = []
            for direction in range(directions):
                states, end = self._steps(sequence, hx[len(ends)], layer, direction, sigma)
                found.append(states)
                ends.append(end)
            sequence = torch.cat(found, -1)
            if layer < self.num_layers - 1 and self.dropout:
                sequence = nn.functional.dropout(sequence, self.dropout)
        last = torch.stack(ends)
        if single:
            return sequence.squeeze(1), last.squeeze(1)
        return (sequence.transpose(0, 1) if self.batch_first else sequence), last

    def _steps(
        self, sequence: Tensor, state: Tensor, layer: int, direction: int, sigma: float
    ) -> tuple[Tensor, Tensor]:
        end = f"l{layer}{'_reverse' if direction else ''}"
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if self.bias else [])]
        parts = [cast(Tensor, getattr(self, f"{name}_{end}")) for name in names]
        noisy = [sigma * part.requires_grad for part in parts]
        given = nn.functional.linear(sequence, parts[0], parts[2] if self.bias else None)
        # of a sum of products with noise: the squares of what is multiplied
        spread = noisy[0] ** 2 * sequence.square().sum(-1, keepdim=True) + sum(each**2 for each in noisy[2:])
        smooth = smoothed_relu if self.nonlinearity == "relu" else smoothed_tanh
        states = []
        order = range(len(sequence) - 1, -1, -1) if direction else range(len(sequence))
        for step in order:
            mean = given[step] + nn.functional.linear(state, parts[1], parts[3] if self.bias else None)
            variance = spread[step] + noisy[1] ** 2 * state.square().sum(-1, keepdim=True)
            state = smooth(mean, variance)
            states.append(state)
        return torch.stack(states[::-1] if direction else states), state


class Diffused(nn.Module):
    """A model whose recurrent layers take each step on average over Gaussian noise on their weights.

    In training a step ``h' = a(W h + U x + b)`` becomes ``E a(z)``, z normal with mean ``W h + U x + b`` and
    variance ``sigma^2 * (|h|^2 + |x|^2 + 2)``: what the step is on average where each trained weight and bias
    has independent noise of standard deviation sigma. Where sigma is large a net of tanh is close to a
    linear one with small weights, and the gradient doesn't depend on draws, as it does with
    :class:`~thalweg.stages.blurring.Blurred`. In evaluation, and where sigma is 0, it is the plain model.
    :meth:`close` puts the model back as it was, apart from what was trained.

    It goes with a training (:class:`thalweg.stages.progress.Follower`); in a loop of one's own call
    :meth:`follow` before each step.

    Args:
        model: any with ``nn.RNN`` layers, of tanh or ReLU; its parameters are those of this module. Gated
            layers (LSTM, GRU) have no closed form: take ``Blurred``.
        sigma: at least 0: a number, or a function of the part of the stage that is done.

    Raises:
        OptionError: sigma out of range.
        ModelError: no ``nn.RNN`` in it; when it is called: packed sequences.

    >>> model = nn.RNN(3, 4, batch_first=True)
    >>> x = torch.randn(2, 5, 3)
    >>> diffused = Diffused(model, 2.0)
    >>> small = diffused(x)[0].abs().max()
    >>> diffused.close()
    >>> bool(small < model(x)[0].abs().max()), type(model) is nn.RNN
    (True, True)

    Source: P7 (N); Mobahi, Training recurrent neural networks by diffusion, 2016. Deviation: he relaxes the
    recurrence to a penalty, whose diffusion he has in closed form; here each state is replaced by its mean,
    as if the noise were drawn anew at each step.
    """

    def __init__(self, model: nn.Module, sigma: Changing) -> None:
        super().__init__()
        self._sigma = by_progress("sigma", sigma, least=0)
        _recurrent(model)
        self.model, self._noise = model, _Noise(self._sigma(0.0))
        self._interface = Interface()
        for part in _recurrent(model):
            part.noise, part.__class__ = self._noise, _DiffusedRNN
        self.training = model.training

    @property
    def sigma(self) -> float:
        """The standard deviation of the noise at present."""
        return self._noise.sigma

    def follow(self, *, progress: float, step: int, seed: int) -> None:
        """Go with a training: sigma is that of the progress."""
        self._noise.sigma = self._sigma(progress)

    def forward(self, inputs: Any, /) -> Any:
        """Return what the model gives."""
        args, kwargs = self._interface.arguments(self.model, inputs)
        return self.model(*args, **kwargs)

    def close(self) -> None:
        """Put the model back as it was."""
        for part in self.model.modules():
            if isinstance(part, _DiffusedRNN):
                del part.noise
                part.__class__ = nn.RNN  # type: ignore[assignment]


def _recurrent(model: nn.Module) -> list[Any]:
    found = [part for part in model.modules() if type(part) is nn.RNN]
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no torch.nn.RNN, whose steps alone have a closed form under noise; "
            "take continuation, which draws samples, for LSTM, GRU and others"
        )
    return found


def diffusion(
    model: nn.Module,
    sigmas: Sequence[Changing],
    *,
    epochs: int | Sequence[int] | None = None,
    steps: int | Sequence[int] | None = None,
    name: str = "diffusion",
    **settings: Any,
) -> list[Stage]:
    """Return stages that train a recurrent net diffused less and less, each from where the one before ended.

    Args:
        model: with ``nn.RNN`` layers.
        sigmas: of each stage: a number of at least 0, or a function of the part of the stage that is done.
            Where it is 0 the stage is a plain one; give 0 as the last.
        epochs, steps: of each stage, or one number for each.
        name: of the stages, followed by their numbers.
        settings: other settings of every :class:`thalweg.stages.Stage`.

    Raises:
        OptionError: a value out of range, no sigma at all, or not as many epochs as sigmas.
        ModelError: no ``nn.RNN`` in it.

    >>> stages = diffusion(nn.RNN(2, 3), [1.0, 0.3, 0], epochs=4)
    >>> [(stage.name, stage.about["sigma"]) for stage in stages]
    [('diffusion 1', 1.0), ('diffusion 2', 0.3), ('diffusion 3', 0.0)]

    Source: P7 (N); Mobahi 2016.
    """
    _recurrent(model)
    given, about = sigmas_of(sigmas), settings.pop("about", {})
    lengths = zip(
        lengths_of("epochs", epochs, len(given)), lengths_of("steps", steps, len(given)), strict=True
    )
    stages = []
    for number, (sigma, (long, many)) in enumerate(zip(given, lengths, strict=True), 1):
        plain = is_number(sigma) and sigma == 0
        build: Callable[[nn.Module], nn.Module] | None = (
            None if plain else functools.partial(Diffused, sigma=sigma)
        )
        stages.append(
            Stage(
                name=f"{name} {number}", epochs=long, steps=many, build=build,
                about={"sigma": said_of(sigma), **about}, **settings,
            )
        )  # fmt: skip
    return stages
