"""Many processes: DDP and FSDP2 beneath the loop, and what they agree on."""

from __future__ import annotations

import atexit
import datetime
import inspect
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import parallel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from thalweg.errors import OptionError, SaidElsewhere, ThalwegError, option
from thalweg.layers.synchronized import Synchronized
from thalweg.training.backend import Backend, OneProcess, Precision, cpu_copy

__all__ = [
    "DistributedDataParallel",
    "FullyShardedDataParallel",
    "is_first",
    "launched",
    "local_device",
    "together",
]

_T = TypeVar("_T")
_TIMEOUT = 600.0
_MEETING = 20.0
_LINGERING = 5.0
_CLAIM = "thalweg/said"
# sync_buffers() sees to buffers; what the option is called depends on torch's release
_UNSYNCHRONIZED = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(parallel.DistributedDataParallel.__init__).parameters
)


def launched() -> int:
    """Return how many processes torchrun, or whoever sets its variables, has started; 1 without.

    >>> launched()
    1
    """
    named = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return int(os.environ["WORLD_SIZE"]) if named else 1


def is_first() -> bool:
    """Whether this process is the one that writes and speaks.

    >>> is_first()
    True
    """
    return launched() == 1 or os.environ["RANK"] == "0"


def local_device(device: torch.device | str) -> torch.device:
    """Return the device of this process: of several GPUs the one that torchrun means for it.

    >>> local_device("cpu")
    device(type='cpu')
    """
    place = torch.device(device)
    plain = place.type == "cpu" or ":" in str(device)
    return place if plain else torch.device(place.type, int(os.environ.get("LOCAL_RANK", "0")))


class _Processes(OneProcess):
    """What both backends share: the other processes, and how numbers and values come from them."""

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        precision: Precision = "float32",
        sync_batch_norm: bool = False,
        timeout_seconds: float = _TIMEOUT,
    ) -> None:
        super().__init__(local_device(device), precision=precision)
        _join(self.device, timeout_seconds)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        if self._scaler is not None:
            # an example weighs so many times more in its share: the same gradients overflow as in one process
            self._scaler = torch.amp.GradScaler(self.device.type, init_scale=2.0**16 / self.world)
        self._synchronized = sync_batch_norm
        if sync_batch_norm:
            inner = self.forward_context
            self.forward_context = lambda: _both(inner(), Synchronized(_total))

    def all_reduce(self, value: Tensor) -> Tensor:
        """Return the mean over processes."""
        return _total(value.detach()) / self.world

    def gather(self, value: Tensor) -> list[Tensor]:
        """Return the tensors of all processes."""
        found = [torch.empty_like(value) for _ in range(self.world)]
        dist.all_gather(found, value.contiguous())
        return found

    def collect(self, value: _T) -> list[_T]:
        """Return the values of all processes."""
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def broadcast(self, value: _T) -> _T:
        """Return the value of process 0."""
        held: list[Any] = [value if self.rank == 0 else None]
        dist.broadcast_object_list(held, src=0)
        return held[0]  # type: ignore[no-any-return]

    def sync_buffers(self, model: nn.Module) -> None:
        """Average what batch norms have measured each for themselves; other buffers are process 0's."""
        measured: list[Tensor] = []
        others: list[Tensor] = []
        for module in model.modules():
            held = [buffer for buffer in module._buffers.values() if buffer is not None and buffer.numel()]
            if not isinstance(module, (_BatchNorm, _InstanceNorm)):
                others += held
            elif not (self._synchronized and isinstance(module, _BatchNorm)):
                measured += [buffer for buffer in held if buffer.is_floating_point()]
        with torch.no_grad():
            # one exchange for each device and type, not one for each buffer
            for group in _alike(measured):
                together = _total(torch.cat([buffer.flatten() for buffer in group])) / self.world
                _put(group, together)
            for group in _alike(others):
                together = torch.cat([buffer.flatten() for buffer in group])
                dist.broadcast(together, src=0)
                _put(group, together)

    def _alike_at_first(self, model: nn.Module) -> nn.Module:
        """Give all processes the model of process 0."""
        model = model.to(self.device)
        with torch.no_grad():
            # all go through the model in one order, so that the exchanges fit each other
            for tensor in [*model.parameters(), *model.buffers()]:
                if not isinstance(tensor, DTensor):
                    dist.broadcast(tensor.detach(), src=0)
        return model


class DistributedDataParallel(_Processes):
    """Many processes, started by torchrun; each holds the whole model and computes its share of every batch.

    The global batch is that of one process, in the same order, and gradients are its gradients within
    rounding, ragged shares included; random layers draw what one process draws. By torch's DDP, which shares
    gradients while they are computed.

    Args:
        device: ``"cpu"`` (gloo) or ``"cuda"`` (NCCL), where each process takes the GPU that is its own.
        precision: as of :class:`~thalweg.training.backend.OneProcess`.
        sync_batch_norm: batch norms normalize by the statistics of the whole batch, as one process does,
            instead of by those of each share.
        unused: whether a step may leave parameters without a gradient; ``None``: where a layer is known that
            does, as stochastic depth that saves work.
        timeout_seconds: after so long without the others a process gives up.

    Raises:
        OptionError: there are no other processes, or an unknown precision.

    Source: Li et al. 2020 (PyTorch Distributed).
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        precision: Precision = "float32",
        sync_batch_norm: bool = False,
        unused: bool | None = None,
        timeout_seconds: float = _TIMEOUT,
    ) -> None:
        super().__init__(
            device, precision=precision, sync_batch_norm=sync_batch_norm, timeout_seconds=timeout_seconds
        )
        self._unused = unused
        self._wrapped: parallel.DistributedDataParallel | None = None

    def set_up(self, model: nn.Module) -> nn.Module:
        """Give all processes the model of process 0, and prepare the exchange of its gradients."""
        model = self._alike_at_first(model)
        unused = self._unused
        if unused is None:
            unused = any(getattr(module, "saves_work", False) for module in model.modules())
        plain: dict[str, Any] = {_UNSYNCHRONIZED: False}
        self._wrapped = parallel.DistributedDataParallel(
            model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            **plain,
            find_unused_parameters=unused,
        )
        return model

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Return the model as DDP wraps it; state and names are those of the model itself."""
        assert self._wrapped is not None
        assert self._wrapped.module is model, "this backend was set up with another model"
        return self._wrapped

    def gradient_sync(self, wanted: bool) -> AbstractContextManager[Any]:
        """Leave the exchange of gradients to the last part of a batch."""
        assert self._wrapped is not None
        return nullcontext() if wanted else self._wrapped.no_sync()


class FullyShardedDataParallel(_Processes):
    """Many processes, started by torchrun; each holds a part of every parameter, its gradient and its state.

    By torch's FSDP2 (``fully_shard``): for models that are too large for one GPU, else as
    :class:`DistributedDataParallel`. Parameters become new ones, so that optimizers have to be made
    afterwards. Items of an ``nn.Sequential`` or ``nn.ModuleList`` with enough parameters are gathered one
    after another, the rest of the model together.

    Args:
        device, precision, sync_batch_norm, timeout_seconds: as of :class:`DistributedDataParallel`.
        unit_parameters: from how many parameters on an item is gathered by itself.

    Raises:
        OptionError: there are no other processes, or an unknown precision.

    Source: Zhao et al. 2023 (PyTorch FSDP).
    """

    sharded = True

    def __init__(
        self,
        device: torch.device | str = "cpu",
        *,
        precision: Precision = "float32",
        sync_batch_norm: bool = False,
        unit_parameters: int = 1_000_000,
        timeout_seconds: float = _TIMEOUT,
    ) -> None:
        super().__init__(
            device, precision=precision, sync_batch_norm=sync_batch_norm, timeout_seconds=timeout_seconds
        )
        self._unit_parameters = unit_parameters
        self.mesh = init_device_mesh(self.device.type, (self.world,))
        self._model: FSDPModule | None = None
        self._parameters: dict[str, nn.Parameter] = {}

    def set_up(self, model: nn.Module) -> nn.Module:
        """Give all processes the model of process 0, and shard it."""
        model = self._alike_at_first(model)
        for unit in [*_units(model, self._unit_parameters), model]:
            # gathered parameters would otherwise stay where others look for shards
            fully_shard(unit, mesh=self.mesh, reshard_after_forward=True)
        assert isinstance(model, FSDPModule)
        self._model, self._parameters = model, dict(model.named_parameters())
        return model

    @contextmanager
    def gradient_sync(self, wanted: bool) -> Iterator[None]:
        """Leave the exchange of gradients to the last part of a batch."""
        assert self._model is not None
        self._model.set_requires_gradient_sync(wanted)
        try:
            yield
        finally:
            self._model.set_requires_gradient_sync(True)

    def full_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bring shards together, one tensor at a time; only process 0 keeps them."""
        found = {}
        for name, value in state.items():
            one = value.full_tensor() if isinstance(value, DTensor) else value
            if self.rank == 0:
                found[name] = cpu_copy(one)
        return found

    def spread(self, state: Any) -> Any:
        """Shard tensors that stand whole under the names of parameters, wherever they are in a state."""
        own = self._parameters

        def look(value: Any, name: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: look(part, key) for key, part in value.items()}
            if isinstance(value, (list, tuple)):
                return type(value)(look(part, None) for part in value)
            return _as(value, own.get(name))

        return look(state, None)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Take states over; whole tensors, as one process or DDP saved them, are sharded."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        entries = {
            key: {name: _as(value, parameters[key]) for name, value in entry.items()}
            for key, entry in state["optimizer"]["state"].items()
        }
        own = model.state_dict()
        super().load(
            model,
            optimizer,
            {
                **state,
                "model": {name: _as(value, own.get(name)) for name, value in state["model"].items()},
                "optimizer": {**state["optimizer"], "state": entries},
            },
        )


def _as(value: Any, like: Any) -> Any:
    """Shard a whole tensor as another of its shape is."""
    plain = isinstance(value, Tensor) and not isinstance(value, DTensor)
    if plain and isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value


def _units(model: nn.Module, least: int) -> list[nn.Module]:
    """Modules to gather by themselves, inner ones first; none that shares a parameter with another."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found = []
    for module in model.modules():
        if isinstance(module, (nn.Sequential, nn.ModuleList)):
            for item in module.children():
                held = list(item.parameters())
                alone = all(owners[id(parameter)] == 1 for parameter in held)
                if sum(p.numel() for p in held) >= least and alone and not isinstance(item, nn.ModuleList):
                    found.append(item)
    return found[::-1]


# What processes are to each other ----------------------------------------------------------------------


def _join(device: torch.device, seconds: float) -> None:
    """Join the others, unless that is done."""
    if dist.is_initialized():
        return
    if launched() == 1:
        raise OptionError(
            "there are no other processes: start the script by torchrun --nproc-per-node 2 script.py, or "
            "leave the backend out"
        )
    backend = "gloo" if device.type == "cpu" else f"cpu:gloo,{device.type}:nccl"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    limit = datetime.timedelta(seconds=seconds)
    # torchrun's store stands before its processes do: where it can't be found, torchrun has gone
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    patience = min(limit, datetime.timedelta(seconds=_MEETING)) if kept else limit
    store, rank, world = next(rendezvous("env://", timeout=patience))
    # the short patience was for meeting alone
    store.set_timeout(limit)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def together(device: torch.device | str) -> Iterator[Backend]:
    """Join the processes that torchrun has started, if it has, and fail as one.

    The first process that fails says why; others that fail thereby, or in the same way, raise
    :class:`~thalweg.errors.SaidElsewhere`. What is within goes through the same collectives everywhere.

    Args:
        device: as the person named it.

    Yields:
        What numbers and values of all processes come by, without a model yet.
    """
    if launched() == 1:
        yield OneProcess()
        return
    try:
        others = _Processes(device)
    except RuntimeError as error:
        raise OptionError(
            f"{os.environ['WORLD_SIZE']} processes can't come together on {device} "
            f"({' '.join(str(error).split())[:100]}); check the device, or what torchrun was given"
        ) from error
    try:
        yield others
    except ThalwegError as error:
        first = _first_code(error.exit_code, speaks=not isinstance(error, SaidElsewhere))
        if first is not None:
            raise SaidElsewhere.of(first) from error
        raise
    except KeyboardInterrupt as error:
        first = _first_code(130)
        if first is not None:
            raise SaidElsewhere.of(first) from error
        raise
    except RuntimeError as error:
        first = _first_code(1)
        if not _is_loss_of_others(error):
            raise
        if first is not None:
            raise SaidElsewhere.of(first) from error
        raise ThalwegError(
            f"another process of this training has ended or doesn't answer; {option('resume', True)} goes on "
            "from the last checkpoint"
        ) from error
    except BaseException:
        _first_code(1)
        raise
    _leave()


def _first_code(own: int, *, speaks: bool = True) -> int | None:
    """The exit code of whoever says why all fail; ``None``: that is this process, which ends with ``own``."""
    try:
        store = dist.distributed_c10d._get_default_store()
    except (RuntimeError, ValueError):
        return own
    found: int | None = own
    try:
        if speaks and store.add(_CLAIM, 1) == 1:
            store.set(f"{_CLAIM}/code", str(own))
            found = None
        else:
            found = int(store.get(f"{_CLAIM}/code"))
        store.add(f"{_CLAIM}/seen", 1)
        _linger(store)
    except (RuntimeError, ValueError):
        # the store has gone with its process
        return found
    return found


def _linger(store: Any) -> None:
    """Where process 0 keeps the store, and not torchrun, let the others look into it before it goes."""
    if dist.get_rank() or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return
    until = time.monotonic() + _LINGERING
    while store.add(f"{_CLAIM}/seen", 0) < dist.get_world_size() and time.monotonic() < until:
        time.sleep(0.05)


def _is_loss_of_others(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        said = str(seen).lower()
        if isinstance(seen, dist.DistError) or any(
            word in said for word in ("gloo", "nccl", "connection closed by peer", "connection reset")
        ):
            return True
        seen = seen.__cause__
    return False


def _total(value: Tensor) -> Tensor:
    """The sum over processes, as a new tensor."""
    found = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(found)
    return found


@contextmanager
def _both(*contexts: AbstractContextManager[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def _alike(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    return list(groups.values())


def _put(group: Sequence[Tensor], values: Tensor) -> None:
    parts = torch.split(values, [tensor.numel() for tensor in group])
    for tensor, value in zip(group, parts, strict=True):
        tensor.copy_(value.reshape(tensor.shape))
