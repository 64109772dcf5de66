"""What lies beneath a training loop: the few verbs that differ between one process and many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from thalweg.errors import OptionError

__all__ = ["Engine", "OneProcess", "Precision"]

Precision: TypeAlias = Literal["float32", "bfloat16"]


class Engine(Protocol):
    """How a model is set up, gradients are had, numbers are shared, and states are saved and loaded.

    Gradients are clipped by :mod:`thalweg.clipping`, which takes sharded ones as they are. Every process of
    an engine goes through the same loop; those with a rank other than 0 write nothing.

    Attributes:
        device: where the model and its batches lie.
        rank, world: number of this process, and of how many.
    """

    device: torch.device
    rank: int
    world: int

    def set_up(self, model: nn.Module) -> nn.Module:
        """Bring a model to where it is trained, wrapped or sharded; its parameters are what is optimized."""

    def surroundings(self) -> AbstractContextManager[Any]:
        """Surround a forward pass with its loss, such as with autocast."""

    def exchanging(self, wanted: bool) -> AbstractContextManager[Any]:
        """Surround a backward pass whose gradients are or aren't to be shared with other processes."""

    def backward(self, loss: Tensor) -> None:
        """Compute gradients into ``.grad``."""

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the state of both, under ``"model"`` and ``"optimizer"``; not a copy."""

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`save` returned."""


class OneProcess:
    """One process, on a CPU or a GPU.

    Args:
        device: as torch spells it.
        precision: ``"bfloat16"`` computes forward passes under autocast; parameters and gradients stay as
            they are, and no scaling of gradients is needed.

    Raises:
        OptionError: an unknown precision.

    >>> engine = OneProcess(precision="bfloat16")
    >>> layer = engine.set_up(nn.Linear(2, 2))
    >>> with engine.surroundings():
    ...     layer(torch.ones(1, 2)).dtype
    torch.bfloat16
    """

    def __init__(self, device: torch.device | str = "cpu", *, precision: Precision = "float32") -> None:
        if precision not in ("float32", "bfloat16"):
            raise OptionError(f"precision is {precision!r}, but must be float32 or bfloat16")
        self.device = torch.device(device)
        self.rank, self.world = 0, 1
        self.surroundings: Callable[[], AbstractContextManager[Any]] = nullcontext
        if precision == "bfloat16":
            self.surroundings = lambda: torch.autocast(self.device.type, dtype=torch.bfloat16)

    def set_up(self, model: nn.Module) -> nn.Module:
        """Move the model to the device."""
        return model.to(self.device)

    def exchanging(self, wanted: bool) -> AbstractContextManager[Any]:
        """There is nobody to share with."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return both states."""
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Take both states over."""
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
