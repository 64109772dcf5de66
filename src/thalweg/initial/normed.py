"""Weights that a layer computes anew in each pass: weight and spectral norm, and other parametrizations.

What such a layer multiplies by is no parameter. A scheme draws that weight, as of a plain layer of the same
name, and what it is computed from is set so that it comes out: within rounding under weight norm, divided by
its largest singular value under spectral norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from thalweg.initial.weights import whole, write
from thalweg.layers.modes import evaluating

__all__ = ["Normed", "normed"]


@dataclass(frozen=True)
class Normed:
    """A weight that a layer computes.

    Args:
        layer: that has it.
        name: of the weight in the layer.
        sources: the parameters that it is computed from.
    """

    layer: nn.Module
    name: str
    sources: tuple[Tensor, ...]

    @property
    def weight(self) -> Tensor:
        """The weight, of the shape and type that a plain layer's has."""
        if not parametrize.is_parametrized(self.layer, self.name):
            return self.sources[-1].detach()
        steps = _steps(self.layer, self.name)
        # in training mode spectral norm goes on with its power iteration
        with torch.no_grad(), evaluating(steps):
            weight: Tensor = steps()
        return weight

    @torch.no_grad()
    def put(self, values: Tensor) -> str | None:
        """Let the weight become these values, as far as that can be; return what the person should know.

        Raises:
            NotImplementedError: what it is computed by can't be inverted.
        """
        if parametrize.is_parametrized(self.layer, self.name):
            return self._through(values)
        hook = next(each for each in _hooks(self.layer) if each.name == self.name)
        if isinstance(hook, WeightNorm):
            scale, direction = self.sources
            write(scale, torch.norm_except_dim(values, 2, hook.dim))
            write(direction, values)
            setattr(self.layer, self.name, hook.compute_weight(self.layer))
            return None
        write(self.sources[0], values)
        u, v = _singular(values, hook.dim)
        getattr(self.layer, f"{self.name}_u").copy_(u)
        getattr(self.layer, f"{self.name}_v").copy_(v)
        setattr(self.layer, self.name, hook.compute_weight(self.layer, do_power_iteration=False))
        return _SPECTRAL

    def _through(self, values: Tensor) -> str | None:
        steps = _steps(self.layer, self.name)
        said, wanted, vectors = None, values, list[tuple[Tensor, Tensor]]()
        for step in reversed(list(steps)):
            spectral = hasattr(step, "_u") and hasattr(step, "_v")
            if spectral:
                found = _singular(wanted, step.dim)  # type: ignore[arg-type]
                vectors += zip((step.get_buffer("_u"), step.get_buffer("_v")), found, strict=True)
                said = _SPECTRAL
            inverse = getattr(step, "right_inverse", None)
            if inverse is None:
                raise NotImplementedError(type(step).__name__)
            try:
                wanted = inverse(wanted)
            except (ValueError, RuntimeError, NotImplementedError) as problem:
                raise NotImplementedError(type(step).__name__) from problem
        # nothing is written before all could be inverted
        for buffer, vector in vectors:
            buffer.copy_(vector)
        begins = (wanted,) if isinstance(wanted, Tensor) else tuple(wanted)
        for source, value in zip(self.sources, begins, strict=True):
            write(source, value)
        if said is None and not torch.allclose(whole(self.weight), values, rtol=1e-3, atol=1e-6):
            kinds = ", ".join(type(step).__name__ for step in steps)
            said = f"its parametrization ({kinds}) makes another weight of the one that was drawn"
        return said


_SPECTRAL = (
    "spectral norm divides the weight by its largest singular value, so that the scheme's scale is lost"
)


def _steps(layer: nn.Module, name: str) -> parametrize.ParametrizationList:
    """What a parametrized weight goes through."""
    found: parametrize.ParametrizationList = layer.parametrizations[name]  # type: ignore[index,assignment]
    return found


def _singular(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The singular vectors of the largest singular value, that power iteration would find."""
    matrix = values.movedim(dim, 0).flatten(1)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, 0], right[0]


def _hooks(layer: nn.Module) -> Iterator[WeightNorm | SpectralNorm]:
    """Torch's older weight and spectral norm, which work by hooks."""
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            yield hook


def normed(layer: nn.Module) -> dict[str, Normed]:
    """Return by name the weights that a layer computes.

    >>> layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    >>> [tuple(source.shape) for source in normed(layer)["weight"].sources]
    [(2, 1), (2, 3)]
    """
    found = {}
    if parametrize.is_parametrized(layer):
        for name in layer.parametrizations:  # type: ignore[union-attr]
            steps = _steps(layer, name)
            sources = (
                [steps.original]
                if steps.is_tensor
                else [getattr(steps, f"original{n}") for n in range(steps.ntensors)]
            )
            found[name] = Normed(layer, name, tuple(sources))
    for hook in _hooks(layer):
        suffixes = ("_g", "_v") if isinstance(hook, WeightNorm) else ("_orig",)
        sources = [getattr(layer, f"{hook.name}{suffix}") for suffix in suffixes]
        found[hook.name] = Normed(layer, hook.name, tuple(sources))
    return found
