"""Closures among several processes: over which groups they communicate, and the mean of their losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = [
    "Exchange",
]

Group: TypeAlias = Any


class Exchange:
    """Watches over which process groups a closure communicates, and compares or averages its value over them.

    Processes that train one model together need one loss, or they go different ways; processes that train a
    model each must not wait for one another. Which of the two it is shows in the closure: under DDP or FSDP,
    or where gradients are averaged by hand, it communicates, and process groups count their operations.
    So nothing is exchanged with processes that the closure doesn't communicate with.

    Args:
        params: what is trained.
        backward: whether the closure calls ``backward``, when DDP communicates; otherwise a forward pass
            through DDP counts.
    """

    def __init__(self, params: Sequence[Tensor], *, backward: bool) -> None:
        self._device = params[0].device
        self._params = {id(p) for p in params}
        self._backward = backward
        self._groups = _groups_of_several()

    def call(self, closure: Callable[[], Any]) -> tuple[Any, list[Group]]:
        """Return what a closure returned, and over which groups it communicated."""
        if not self._groups:
            return closure(), []
        before = [_operations(group, self._device) for group in self._groups]
        with self._through_ddp() as passed:
            found = closure()
        after = [_operations(group, self._device) for group in self._groups]
        return found, [
            group
            for group, then, now in zip(self._groups, before, after, strict=True)
            if now != then or group in passed
        ]

    @contextmanager
    def _through_ddp(self) -> Iterator[list[Group]]:
        """Collect the groups of DDP modules with these parameters that are called within, if that counts."""
        found: list[Group] = []
        if self._backward:
            yield found
            return

        def note(module: torch.nn.Module, inputs: Any) -> None:
            if isinstance(module, torch.nn.parallel.DistributedDataParallel) and any(
                id(p) in self._params for p in module.parameters()
            ):
                found.append(module.process_group)

        handle = register_module_forward_pre_hook(note)
        try:
            yield found
        finally:
            handle.remove()

    def mean(self, value: Tensor, groups: Sequence[Group]) -> Tensor:
        """Return the mean of a scalar over the processes of groups; equal values stay as they are."""
        for group in groups:
            rows = self._rows(value, group)
            same = (rows == rows[0]).all()
            value = torch.where(same, rows[0], rows.to(torch.float64).mean().to(rows.dtype))
        return value

    def agree(self, value: Tensor, groups: Sequence[Group]) -> bool:
        """Whether a scalar is the same in all processes of groups."""
        for group in groups:
            rows = self._rows(value, group)
            if not bool((rows == rows[0]).all() | rows.isnan().all()):
                return False
        return True

    def _rows(self, value: Tensor, group: Group) -> Tensor:
        own = value.detach().to(self._device).reshape(1).contiguous()
        found = [torch.empty_like(own) for _ in range(group.size())]
        dist.all_gather(found, own, group=group)
        return torch.cat(found)


def _groups_of_several() -> list[Group]:
    if not (dist.is_available() and dist.is_initialized()):
        return []
    return [group for group in dist.distributed_c10d._world.pg_map if group.size() > 1]


def _operations(group: Group, device: torch.device) -> int:
    """Return how many collective operations a group has seen; 0 where its backend doesn't count."""
    try:
        return int(group._get_backend(device)._get_sequence_number_for_group())
    except (AttributeError, RuntimeError):
        return 0
