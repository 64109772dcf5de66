"""What lies beneath a training loop: the few verbs that differ between one process and many."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from thalweg.errors import ThalwegError
from thalweg.settings.choices import Precision, words_of
from thalweg.settings.tables import one_of

__all__ = ["Backend", "OneProcess", "Precision", "agree", "copied", "cpu_copy", "on_rank_0", "rows"]

_T = TypeVar("_T")


class Backend(Protocol):
    """How a model is set up, gradients are had, numbers are shared, and states are saved and loaded.

    Gradients are clipped by :mod:`thalweg.optim.clipping`, which takes sharded ones as they are. Every
    process of a backend goes through the same loop and calls these verbs in the same order; those with a rank
    other than 0 write nothing.

    Attributes:
        device: where the model and its batches lie.
        rank, world: number of this process, and of how many.
        sharded: whether parameters are, so that each process holds a part of each.
        scales: whether gradients are scaled, so that half precision doesn't lose small ones.
    """

    device: torch.device
    rank: int
    world: int
    sharded: bool
    scales: bool

    def set_up(self, model: nn.Module) -> nn.Module:
        """Bring a model to where it is trained, or shard it; its parameters are what is optimized."""

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Return what a training step calls instead of the model: it, or what wraps it."""

    def forward_context(self) -> AbstractContextManager[Any]:
        """Surround a forward pass with its loss, such as with autocast."""

    def gradient_sync(self, wanted: bool) -> AbstractContextManager[Any]:
        """Surround a pass forward and backward whose gradients are or aren't to be shared with others."""

    def backward(self, loss: Tensor) -> None:
        """Compute gradients into ``.grad``: the mean over processes, where they are shared."""

    def unscaled(self, optimizer: torch.optim.Optimizer) -> bool:
        """Take scaling back from gradients; say whether they are finite, so that a step can be taken."""

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return a tensor, of one shape everywhere, of each process."""

    def collect(self, value: _T) -> list[_T]:
        """Return a small value of each process."""

    def broadcast(self, value: _T) -> _T:
        """Return the value of process 0; what others give doesn't matter."""

    def sync_buffers(self, model: nn.Module) -> None:
        """Make buffers alike again where a forward pass has changed them in each process for itself."""

    def full_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors whole, on the CPU."""

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the state of both, under ``"model"`` and ``"optimizer"``; not a copy."""

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`save` returned."""


class OneProcess:
    """One process, on a CPU or a GPU.

    Args:
        device: as torch spells it.
        precision: ``"bfloat16"`` computes forward passes under autocast; parameters and gradients stay as
            they are, and no scaling of gradients is needed. ``"float16"`` does, and scales the loss so that
            small gradients aren't lost; a step whose gradients overflow is left out, and the scale halved.

    Raises:
        OptionError: an unknown precision.

    >>> backend = OneProcess(precision="bfloat16")
    >>> layer = backend.set_up(nn.Linear(2, 2))
    >>> with backend.forward_context():
    ...     layer(torch.ones(1, 2)).dtype
    torch.bfloat16
    """

    sharded = False

    def __init__(self, device: torch.device | str = "cpu", *, precision: Precision = "float32") -> None:
        one_of("precision", precision, words_of(Precision))
        self.device = torch.device(device)
        self.rank, self.world = 0, 1
        self.forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext
        if precision != "float32":
            half = torch.bfloat16 if precision == "bfloat16" else torch.float16
            self.forward_context = lambda: torch.autocast(self.device.type, dtype=half)
        self._scaler = torch.amp.GradScaler(self.device.type) if precision == "float16" else None
        self.scales = self._scaler is not None

    def set_up(self, model: nn.Module) -> nn.Module:
        """Move the model to the device."""
        return model.to(self.device)

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Return the model."""
        return model

    def gradient_sync(self, wanted: bool) -> AbstractContextManager[Any]:
        """There is nobody to share with."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, scaled where that is needed."""
        if self._scaler is not None:
            loss = self._scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def unscaled(self, optimizer: torch.optim.Optimizer) -> bool:
        """Unscale, and find the next step's scale.

        Where the scale has fallen to 1 already gradients aren't finite by themselves, which others have
        to notice.
        """
        scaler = self._scaler
        if scaler is None:
            return True
        scaler.unscale_(optimizer)
        found = scaler._found_inf_per_device(optimizer)
        finite = not any(bool(value.item()) for value in found.values()) or scaler.get_scale() <= 1
        scaler.update()
        return finite

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return the value alone."""
        return [value]

    def collect(self, value: _T) -> list[_T]:
        """Return the value alone."""
        return [value]

    def broadcast(self, value: _T) -> _T:
        """Return the value."""
        return value

    def sync_buffers(self, model: nn.Module) -> None:
        """There is nobody to differ from."""

    def full_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies on the CPU."""
        return {name: cpu_copy(value) for name, value in state.items()}

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return both states, and the scale of gradients."""
        scaler = {} if self._scaler is None else {"scaler": self._scaler.state_dict()}
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), **scaler}

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Take both states over."""
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if self._scaler is not None and "scaler" in state:
            self._scaler.load_state_dict(state["scaler"])


def agree(backend: Backend, *flags: bool) -> tuple[bool, ...]:
    """Return of each flag whether it is up in any process: the same everywhere.

    >>> agree(OneProcess(), True, False)
    (True, False)
    """
    if backend.world == 1:
        return flags
    # one exchange for all flags, and the same answer everywhere, so that all take the same way from here
    found = torch.stack(backend.gather(torch.tensor(flags, dtype=torch.uint8)))
    return tuple(bool(flag) for flag in found.amax(0).tolist())


def on_rank_0(backend: Backend, action: Callable[[], _T]) -> _T:
    """Let process 0 alone do something, and return its value, or raise its error, in all.

    >>> on_rank_0(OneProcess(), lambda: 3)
    3
    """
    if backend.world == 1:
        return action()
    value, problem = None, None
    if backend.rank == 0:
        try:
            value = action()
        except ThalwegError as error:
            problem = error
    # the error travels as the value does: who raised it alone would leave the others waiting
    value, problem = backend.broadcast((value, problem))
    if problem is not None:
        raise problem
    return value  # type: ignore[return-value]


def rows(count: int, rank: int, world: int) -> tuple[int, int]:
    """Return first and last-but-one of the examples of a batch that are a process's share.

    As :func:`torch.tensor_split` has it: shares differ by one at most, the first ones are the larger.

    >>> [rows(33, rank, 2) for rank in range(2)]
    [(0, 17), (17, 33)]
    """
    size, more = divmod(count, world)
    begin = rank * size + min(rank, more)
    return begin, begin + size + (rank < more)


def cpu_copy(value: Tensor) -> Tensor:
    """Return a copy on the CPU, of its own memory: safetensors refuses tensors that share some."""
    return value.detach().cpu().contiguous().clone()


def copied(state: Any) -> Any:
    """Copy a state of tensors, numbers, strings, lists, tuples and dictionaries."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(copied(value) for value in state)
    return copy.deepcopy(state)
