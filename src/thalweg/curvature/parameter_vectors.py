"""Vectors of a model's trained parameters, in the forms in which people have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.curvature.differentiation import outside_inference
from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import ModelError, OptionError, nearest

__all__ = ["ParameterVectors"]


class ParameterVectors:
    """Lists of tensors, dictionaries by name and flat tensors, as lists in the order of the parameters.

    Args:
        model: whose parameters that want a gradient count; a tied one counts once, by its first name.
        owner: what errors name.

    Attributes:
        parameters: by name.
        size: of all of them together, n.

    Raises:
        ModelError: no parameter wants a gradient, or they lie on several devices.
    """

    def __init__(self, model: nn.Module, owner: str) -> None:
        self._owner = owner
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.size = sum(p.numel() for p in self.parameters.values())
        if not self.size:
            raise ModelError(
                f"{owner}: the model has no parameter with requires_grad=True, by which the loss could be "
                f"differentiated; unfreeze one"
            )
        devices = {p.device for p in self.parameters.values()}
        if len(devices) > 1:
            named = " and ".join(sorted(map(str, devices)))
            raise ModelError(f"{owner}: parameters lie on {named}; bring them to one device")
        (self.device,) = devices

    @property
    def leaves(self) -> Vector:
        """The parameters themselves."""
        return list(self.parameters.values())

    def take(self, v: Any) -> tuple[Vector, Callable[[Vector], Any]]:
        """Return a vector as a list in the types of the parameters, and what brings a list to its form.

        Raises:
            OptionError: names, number or shapes aren't those of the parameters.
        """
        if isinstance(v, Tensor):
            if tuple(v.shape) != (self.size,):
                raise OptionError(
                    f"{self._owner}: a flat vector has shape {tuple(v.shape)}, but there are {self.size} "
                    f"trained elements; give [{self.size}]"
                )
            return self.unflat(v), self.flat
        if isinstance(v, Mapping):
            for name in v:
                if name not in self.parameters:
                    raise OptionError(
                        f"{self._owner}: no trained parameter is called {name!r}; "
                        f"{nearest(str(name), self.parameters)}"
                    )
            missing = [name for name in self.parameters if name not in v]
            if missing:
                raise OptionError(f"{self._owner}: the vector lacks {missing[0]!r}; give a tensor for each")
            given = [v[name] for name in self.parameters]
            return self._fitting(given), lambda found: dict(zip(self.parameters, found, strict=True))
        return self._fitting(list(v)), list

    def _fitting(self, given: list[Any]) -> Vector:
        if len(given) != len(self.parameters):
            raise OptionError(
                f"{self._owner}: the vector has {len(given)} tensors, but {len(self.parameters)} parameters "
                f"are trained; give one for each"
            )
        for tensor, (name, p) in zip(given, self.parameters.items(), strict=True):
            if not isinstance(tensor, Tensor) or tensor.shape != p.shape:
                got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise OptionError(
                    f"{self._owner}: {name!r} has shape {tuple(p.shape)}, but the vector's tensor for it is "
                    f"{got}; give the same shape"
                )
        return [
            outside_inference(tensor).detach().to(p)
            for tensor, p in zip(given, self.parameters.values(), strict=True)
        ]

    def flat(self, vector: Vector) -> Tensor:
        """Return a list side by side, ``[n]``, in the widest of its types."""
        dtype = Space().dtype(vector)
        return torch.cat([t.detach().reshape(-1).to(dtype) for t in vector])

    def unflat(self, flat: Tensor) -> Vector:
        """Return ``[n]`` as a list of tensors, in the types and on the device of the parameters."""
        flat = outside_inference(flat).detach().to(self.device)
        return Space().unravel(flat, [p.detach() for p in self.parameters.values()])

    def identity(self) -> Tensor:
        """Return the identity, ``[n, n]``."""
        return torch.eye(self.size, dtype=Space().dtype(self.leaves), device=self.device)
