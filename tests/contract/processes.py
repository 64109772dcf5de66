"""What two processes do with every optimizer: parameters spread over both, and batches split between them.

They are started once for all cases, and write down by name what came out: tensors, or what was said.
"""

from __future__ import annotations

import copy
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from contract.subjects import CATALOGUE, Problem, Subject, half_square
from thalweg.errors import UserError

Found = dict[str, dict[str, Any]]
Place = Callable[[Tensor], Tensor]

# how somebody averages gradients: in all closures, and in two of them
WAYS = ("ddp", "by hand", "fsdp")
CASES = ("spread out", "split up", "each alone", *WAYS, "whole", "shares")


def starts() -> list[Tensor]:
    # over two processes: three rows and two, two elements and one, one and none; a number on both
    return [
        torch.linspace(-1, 1.5, 15, dtype=torch.float64).reshape(5, 3),
        torch.tensor([0.3, -0.7, 2.0], dtype=torch.float64),
        torch.tensor([1.1], dtype=torch.float64),
        torch.tensor(-0.4, dtype=torch.float64),
    ]


def whole(tensors: list[Any]) -> list[Tensor]:
    plain = [t.full_tensor() if isinstance(t, DTensor) else t for t in tensors]
    return [t.detach().clone() for t in plain]


def spread_out(subject: Subject, place: Place) -> list[Tensor]:
    """Four steps on parameters where ``place`` puts them, from a saved state in the middle."""
    params = [nn.Parameter(place(t)) for t in starts()]

    def residuals() -> Tensor:
        flat = [(p.full_tensor() if isinstance(p, DTensor) else p).reshape(-1) for p in params]
        together = torch.cat(flat)
        return together**3 / 5 + together - torch.linspace(0, 1, 20, dtype=torch.float64)

    optimizer = subject.make(params)
    for _ in range(2):
        subject.step(optimizer, residuals)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer = subject.make(params)
    optimizer.load_state_dict(state)
    for _ in range(2):
        subject.step(optimizer, residuals)
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    return whole(params)


def split_up(subject: Subject, rank: int, ranks: int) -> list[Tensor]:
    """Four steps, for which each process computes the gradient of its part of the batch."""
    problem = Problem()
    net = DistributedDataParallel(problem) if ranks > 1 else problem
    size = problem.x.shape[1] // ranks
    optimizer = subject.make(problem.params)
    part = slice(rank * size, (rank + 1) * size)

    def average(step: int) -> Tensor:
        """What the processes' losses have to be for their mean to be that of the whole batch."""
        batch = step % 3
        return ranks * half_square(net(problem.x[batch, part]) - problem.y[batch, part])

    for step in range(4):

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = average(step)
            loss.backward()
            loss = loss.detach()
            if ranks > 1:
                dist.all_reduce(loss)
            return loss / ranks

        if subject.step_kind in ("graph", "outputs"):
            # whoever differentiates the loss by itself needs the whole batch, and the module itself
            subject.step(optimizer, lambda step=step: problem.residuals(step))  # type: ignore[misc]
        else:
            closure()
            optimizer.step(closure if subject.step_kind == "closure" else None)
    return whole(problem.params)


class Small(nn.Module):
    """As :class:`Problem`, but what FSDP can shard."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
        self.x, self.y = Problem().x, Problem().y

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


def in_a_plain_loop(subject: Subject, rank: int, ranks: int, way: str) -> list[Tensor]:
    """Four steps, as somebody writes them who averages gradients, in one of several ways, and no losses."""
    problem: Problem | Small = Small() if way.startswith("fsdp") else Problem()
    net: Any = DistributedDataParallel(problem) if way == "ddp" else problem
    if way == "fsdp":
        fully_shard(net)
    size = problem.x.shape[1] // ranks
    optimizer = subject.make(list(problem.parameters()))
    part = slice(rank * size, (rank + 1) * size)

    def backward(step: int) -> Tensor:
        optimizer.zero_grad()
        # the mean over processes is the whole batch's sum
        loss = ranks * half_square(net(problem.x[step % 3, part]) - problem.y[step % 3, part])
        loss.backward()
        for p in problem.parameters():
            if way == "by hand" and p.grad is not None:
                dist.all_reduce(p.grad)
                p.grad /= ranks
        return loss

    for step in range(4):
        optimizer.step(lambda step=step: backward(step))  # type: ignore[misc]
    return whole(list(problem.parameters()))


def through_ddp(subject: Subject, rank: int, ranks: int, way: str) -> list[Tensor]:
    """Four steps of an optimizer that differentiates by itself what DDP has computed."""
    problem = Problem()
    net = DistributedDataParallel(problem) if ranks > 1 else problem
    size = problem.x.shape[1] // ranks
    rows = slice(None) if way == "whole" else slice(rank * size, (rank + 1) * size)
    optimizer = subject.make(problem.params)
    try:
        for step in range(4):
            subject.step(
                optimizer,
                lambda now=step % 3: net(problem.x[now, rows]) - problem.y[now, rows],  # type: ignore[misc]
            )
    except UserError:
        assert all(map(torch.equal, problem.params, Problem().params))
        raise
    return whole(problem.params)


def each_alone(subject: Subject, rank: int) -> list[Tensor]:
    """As many steps as the process has a number, on a batch of its own: nobody waits for anybody."""
    problem = Problem()
    optimizer = subject.make(problem.params)
    for _ in range(2 * rank):
        subject.step(optimizer, lambda: problem.residuals(rank))
    return whole(problem.params)


def said_or_done(case: Callable[[], list[Tensor]]) -> list[Tensor] | str:
    try:
        return case()
    except UserError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def work(rank: int, port: int, folder: str) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=2,
        # whoever goes ways of its own is found out, not waited for
        timeout=timedelta(seconds=60),
    )
    torch.set_num_threads(1)
    try:
        mesh = init_device_mesh("cpu", (2,))

        def place(t: Tensor) -> Tensor:
            return distribute_tensor(t, mesh, [Shard(0) if t.ndim else Replicate()])

        found: Found = {name: {} for name in CASES}
        for subject in CATALOGUE:
            # first, as long as nobody has to have waited
            found["each alone"][subject.name] = said_or_done(lambda s=subject: each_alone(s, rank))
        for subject in CATALOGUE:
            if subject.step_kind == "closure":
                for way in WAYS[: None if subject.name in ("lbfgs", "cg-pr+") else 1]:
                    found[way][subject.name] = said_or_done(
                        lambda s=subject, w=way: in_a_plain_loop(s, rank, 2, w)
                    )
            elif subject.step_kind in ("graph", "outputs"):
                for way in ("whole", "shares"):
                    found[way][subject.name] = said_or_done(
                        lambda s=subject, w=way: through_ddp(s, rank, 2, w)
                    )
            found["spread out"][subject.name] = said_or_done(lambda s=subject: spread_out(s, place))
            found["split up"][subject.name] = said_or_done(lambda s=subject: split_up(s, rank, 2))
        torch.save(found, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def two_processes(folder: Path) -> tuple[Found, Found]:
    """Return what each of the two found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    mp.spawn(work, args=(port, str(folder)), nprocs=2)
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    return first, second
