"""``Monitor`` in two processes: each watches its own share when it has time, and asks the other nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.diagnosis import Monitor

STEPS = 42


class Talk(TorchDispatchMode):
    """Counts what is said to the other process, but for what DDP's reducer says beneath Python."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "c10d" in func.namespace
        return func(*args, **(kwargs or {}))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    # five units on two processes: three and two
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2))


def trained(way: str, rank: int, *, watched: bool) -> tuple[list[Tensor], int, Any]:
    if way == "ddp":
        model: nn.Module = DistributedDataParallel(net())
    else:
        model = net()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    # one of them has time for every look, the other for hardly any
    watch = Monitor(model, optimizer, layers_every=2, noise_every=3, share=(1.0, 1e-4)[rank])
    draws = torch.Generator().manual_seed(rank)
    if watched:
        watch.__enter__()
    with Talk() as talk:
        for _ in range(STEPS):
            inputs = torch.randn(6, 4, generator=draws)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), (inputs[:, 0] > 0).long())
            loss.backward()
            optimizer.step()
            if watched:
                watch.step(loss)
    if watched:
        watch.__exit__(None, None, None)
    state = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    return [p.detach().clone() for p in state], talk.count, watch.report


def work(rank: int, folder: str, ways: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        for way in ways:
            alone, said, _ = trained(way, rank, watched=False)
            beside, also, report = trained(way, rank, watched=True)
            assert all(torch.equal(one, other) for one, other in zip(alone, beside, strict=True))
            assert said == also
            if rank == 0:
                assert report.steps == list(range(STEPS))
                assert report.noise
                assert {name.removeprefix("module.") for name in report.layers} == {"1", "3"}
            else:
                assert report.thinned > 1
                assert len(report.steps) < STEPS
            # of weights that lie apart, each has the norm of those that it holds
            parts = torch.stack([p.norm() for p in beside])
            assert report.weights[-1] == pytest.approx(float(parts.norm()), rel=0.2)
    finally:
        dist.destroy_process_group()


def test_processes_watch_without_waiting_for_each_other(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path), ("ddp", "fsdp2")), nprocs=2)
