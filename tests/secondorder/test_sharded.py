"""Parameters spread unevenly over two processes take the same steps as in one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from thalweg.errors import OptionError
from thalweg.secondorder import least_squares, minimize
from thalweg.secondorder.curvature_optimizers import GaussNewton, NewtonCG
from thalweg.secondorder.optimizers import LBFGS

METHODS = ("lbfgs", "cg-fr", "cg-pr+", "cg-hz", "newton-cg", "steepest-descent")


def starts() -> list[Tensor]:
    # five rows over two processes: three and two
    return [
        torch.linspace(-1, 1.5, 15, dtype=torch.float64).reshape(5, 3),
        torch.tensor([0.3, -0.7, 2.0]).double(),
    ]


def function(p: list[Tensor]) -> Tensor:
    bowl = (p[0] ** 4).sum() / 4 + ((p[0] - 0.5) ** 2).sum()
    value = bowl + 3 * ((p[1] - 1) ** 2).sum() + (p[1] ** 4).sum() / 10
    return value.full_tensor() if isinstance(value, DTensor) else value


def whole(tensors: list[Tensor]) -> list[Tensor]:
    return [t.full_tensor() if isinstance(t, DTensor) else t for t in tensors]


def outputs(p: list[Tensor]) -> Tensor:
    whole = [t.full_tensor() if isinstance(t, DTensor) else t for t in p]
    return torch.cat([(whole[0] ** 2 - 0.5).reshape(-1), whole[0] @ whole[1], whole[1] - 1])


def by_products(tensors: list[Tensor], method: str) -> list[Tensor]:
    return whole(least_squares(outputs, tensors, method=method, solver="cg", max_iterations=4).x)


def by_face(tensors: list[Tensor]) -> list[Tensor]:
    params = [nn.Parameter(t) for t in tensors]
    optimizer = LBFGS(params, line_search_fn="strong_wolfe", max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = function(list(params))
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    for other in (NewtonCG(params), GaussNewton(params, solver="cg")):
        other.step(lambda other=other: function(params) if isinstance(other, NewtonCG) else outputs(params))
    return whole([p.detach() for p in params])


def everything(tensors: list[Tensor]) -> dict[str, list[Tensor]]:
    found = {m: whole(minimize(function, tensors, method=m, max_iterations=5).x) for m in METHODS}
    models = {m: by_products(tensors, m) for m in ("gauss-newton", "levenberg-marquardt")}
    return {**found, **models, "face": by_face(tensors)}


def work(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    try:
        mesh = init_device_mesh("cpu", (2,))
        tensors: list[Tensor] = [distribute_tensor(t, mesh, [Shard(0)]) for t in starts()]
        found = everything(tensors)
        refusals = []
        for method in ("bfgs", "newton"):
            try:
                minimize(function, tensors, method=method)
            except OptionError as error:
                refusals.append(str(error))
        try:
            least_squares(outputs, tensors)
        except OptionError as error:
            refusals.append(str(error))
        if rank == 1:
            torch.save((found, refusals), Path(folder) / "found.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    mp.spawn(work, args=(port, str(tmp_path)), nprocs=2)
    found, refusals = torch.load(tmp_path / "found.pt")
    for name, alone in everything(starts()).items():
        for mine, theirs in zip(found[name], alone, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12, msg=name)
    assert len(refusals) == 3
    assert all("sharded over processes" in refusal for refusal in refusals)
