"""Curvature over two processes: batches apart under DDP, parameters apart as DTensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from thalweg.curvature import (
    EmpiricalFisher,
    GaussNewtonMatrix,
    Hessian,
    curvature_along,
    diagonal,
    interpolation,
    lanczos,
    loss_surface,
    noise_scale,
    spectral_density,
    stability,
    step_prediction,
    trace,
)

MATRICES = (Hessian, GaussNewtonMatrix, EmpiricalFisher)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(13, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (13,), generator=generator)
    # uneven over the processes: 5 and 3 examples, 4 and 1
    sizes = [5, 3, 4, 1]
    return list(zip(torch.split(x, sizes), torch.split(y, sizes), strict=True))


def of_batches(model: nn.Module, own: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    found = {made.__name__: made(model, "cross-entropy", own).to_dense() for made in MATRICES}
    hessian = Hessian(model, "cross-entropy", own)
    v = torch.ones(hessian.shape[0], dtype=torch.float64)
    along = curvature_along(hessian, v)
    noise = noise_scale(model, "cross-entropy", own)
    again = noise_scale(model, "cross-entropy", own, memory=0)
    step = step_prediction(model, "cross-entropy", own, 0.1 * v, layers=False).whole
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    numbers = [along.value, along.low, along.high, noise.value, noise.low, noise.trace, again.value]
    numbers += [step.first, step.second, step.actual, stability(sgd, hessian, tolerance=1e-9).limit]
    surface = loss_surface(model, "cross-entropy", own, points=3, metric=_right)
    line = interpolation(
        model, "cross-entropy", own, model, {n: 2 * p for n, p in net().state_dict().items()}
    )
    drawn = {"surface": surface.losses, "scores": surface.scores, "line": line.losses}
    return {
        **found,
        "numbers": torch.tensor(numbers, dtype=torch.float64),
        **{name: torch.from_numpy(value) for name, value in drawn.items()},
    }


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).double().mean()


class Bowl(nn.Module):
    """``x'Ax / 2 + sum x^4`` of a matrix and a vector, which may be spread."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, inputs: Tensor) -> Tensor:
        whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in (self.a, self.b)]
        x = torch.cat([p.reshape(-1) for p in whole])
        n = len(x)
        matrix = torch.from_numpy(np.random.default_rng(0).standard_normal((n, n)))
        return x @ (matrix + matrix.T) @ x / 2 + (x**4).sum()


def of_shards(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    one = torch.zeros(1, dtype=torch.float64), torch.zeros(1)
    hessian = Hessian(Bowl(a, b), lambda outputs, _: outputs, one)
    found = lanczos(hessian, count=2, tolerance=1e-9)
    values = [p.value for p in (*found.largest_pairs, *found.smallest_pairs)]
    density = spectral_density(hessian, samples=2, steps=6)
    numbers = [*values, trace(hessian, samples=3).value, *density.mean(np.square)]
    vector = [t.full_tensor() if isinstance(t, DTensor) else t for t in found.largest.vector]
    diag = [t.full_tensor() if isinstance(t, DTensor) else t for t in diagonal(hessian, samples=3).values]
    flat = torch.cat([t.reshape(-1) for t in vector])
    surface = loss_surface(hessian.model, lambda outputs, _: outputs, one, points=3)
    return {
        "surface": torch.from_numpy(surface.losses),
        "numbers": torch.tensor(numbers, dtype=torch.float64),
        "vector": flat * flat[0].sign(),
        "diagonal": torch.cat([t.reshape(-1) for t in diag]),
    }


def starts() -> list[Tensor]:
    # five rows over two processes: three and two
    return [torch.linspace(-1, 1.5, 15).double().reshape(5, 3), torch.tensor([0.3, -0.7, 2.0]).double()]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        own = batches()[:2] if rank == 0 else batches()[2:]
        found = of_batches(DistributedDataParallel(net()), own)
        mesh = init_device_mesh("cpu", (2,))
        a, b = starts()
        spread = of_shards(distribute_tensor(a, mesh, [Shard(0)]), b)
        torch.save([found, spread], f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    alone = [of_batches(net(), batches()), of_shards(*starts())]
    for rank in range(2):
        for found, right in zip(torch.load(tmp_path / f"{rank}.pt"), alone, strict=True):
            for name, value in right.items():
                torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize("made", ["Hessian", "GaussNewtonMatrix", "EmpiricalFisher"])
def test_a_convolution_has_the_matrices_of_its_dense_jacobian(made: str) -> None:
    from torch.func import functional_call, jacrev
    from torch.nn import functional as F

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Softplus(), nn.Flatten(), nn.Linear(8, 3)).double()
    x, y = torch.randn(5, 1, 3, 3, dtype=torch.float64), torch.randint(3, (5,))
    names = dict(model.named_parameters())

    def outputs(flat: Tensor) -> Tensor:
        parts = torch.split(flat, [p.numel() for p in names.values()])
        given = {n: part.reshape(p.shape) for part, (n, p) in zip(parts, names.items(), strict=True)}
        return functional_call(model, given, (x,))  # type: ignore[no-any-return]

    flat = torch.cat([p.detach().flatten() for p in names.values()])
    if made == "Hessian":
        right = jacrev(jacrev(lambda f: F.cross_entropy(outputs(f), y)))(flat)
    elif made == "GaussNewtonMatrix":
        j = jacrev(outputs)(flat).reshape(15, -1)
        z = outputs(flat).detach()
        h = jacrev(jacrev(lambda f: F.cross_entropy(f.reshape(5, 3), y)))(z.flatten())
        right = j.T @ h @ j
    else:
        j = jacrev(lambda f: F.cross_entropy(outputs(f), y, reduction="none"))(flat)
        right = j.T @ j / 5
    matrix = {each.__name__: each for each in MATRICES}[made]
    found = matrix(model, "cross-entropy", [(x[:3], y[:3]), (x[3:], y[3:])]).to_dense()
    torch.testing.assert_close(found, right)
