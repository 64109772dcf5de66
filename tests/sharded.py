"""What two processes check together: functions on sharded tensors give what they give on whole ones.

Started by tests/test_sharded.py, in a process for each rank.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Shard, distribute_tensor

from thalweg.averaging import Average, ExponentialAverage, Uniform
from thalweg.initial import SCHEMES, initialize, set_output_bias
from thalweg.optim.clipping import clip_by_norm, clip_by_unit, clip_by_value, total_norm
from thalweg.optim.suggested_rates import first_order_rate, polyak_rate

# 5 rows on two ranks lie as 3 and 2
SHAPES = [(5, 4), (4, 6), (5,), (2, 3, 5)]


def work(rank: int, ranks: int, file: str) -> None:
    """Run every check as one of the ranks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=ranks)
    try:
        mesh = init_device_mesh("cpu", (ranks,))
        for placement in (Shard(0), Shard(-1)):
            clipping(mesh, placement)
        averaging(mesh, rank)
        starting(mesh)
    finally:
        dist.destroy_process_group()


def drawn(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def spread(tensors: list[Tensor], mesh: DeviceMesh, placement: Placement) -> list[Tensor]:
    # the last stays whole, as where only a part of a model is sharded
    return [distribute_tensor(t.clone(), mesh, [placement]) for t in tensors[:-1]] + [tensors[-1].clone()]


def whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def same(sharded: list[Tensor], plain: list[Tensor]) -> None:
    for one, other in zip(sharded, plain, strict=True):
        torch.testing.assert_close(whole(one), other)


def clipping(mesh: DeviceMesh, placement: Placement) -> None:
    plain, sharded = drawn(0), spread(drawn(0), mesh, placement)
    for p in (1.0, 2.0, float("inf")):
        norm = total_norm(sharded, p)
        assert not isinstance(norm, DTensor)
        torch.testing.assert_close(norm, total_norm(plain, p))
    torch.testing.assert_close(first_order_rate(sharded), first_order_rate(plain))
    torch.testing.assert_close(polyak_rate(2.0, sharded), polyak_rate(2.0, plain))
    one, other = clip_by_norm(sharded, 0.5), clip_by_norm(plain, 0.5)
    torch.testing.assert_close(one.factor, other.factor)
    same(sharded, plain)
    plain, sharded = drawn(1), spread(drawn(1), mesh, placement)
    clip_by_value(plain, 0.3)
    clip_by_value(sharded, 0.3)
    same(sharded, plain)
    plain, sharded = drawn(2), spread(drawn(2), mesh, placement)
    clip_by_unit(drawn(3), plain, share=0.2)
    clip_by_unit(spread(drawn(3), mesh, placement), sharded, share=0.2)
    same(sharded, plain)
    assert not torch.equal(plain[0], drawn(2)[0])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 5), nn.Linear(5, 3)
        self.norm = nn.BatchNorm1d(5)


def shard(net: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for module in net.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            spread_out = distribute_tensor(parameter.detach(), mesh, [Shard(0)])
            module.register_parameter(name, nn.Parameter(spread_out))
    return net


def averaging(mesh: DeviceMesh, rank: int) -> None:
    for kind in (Uniform(), ExponentialAverage(decay=0.9)):
        torch.manual_seed(0)
        plain = Net()
        torch.manual_seed(0)
        sharded = shard(Net(), mesh)
        one, other = Average(plain, kind), Average(sharded, kind)
        for step in range(5):
            for p, q in zip(plain.parameters(), sharded.parameters(), strict=True):
                change = torch.full(p.shape, float(step))
                p.data.add_(change)
                q.data.add_(distribute_tensor(change, mesh, [Shard(0)]))
            one.update()
            other.update()
        averages = other.state_dict()["averages"]
        for name, value in one.state_dict()["averages"].items():
            mine = averages[name]
            if name.startswith(("one", "two")):
                assert isinstance(mine, DTensor)
                assert mine.to_local().shape[0] in (value.shape[0] // 2, -(-value.shape[0] // 2))
            assert torch.equal(whole(mine), value)
        before = whole(sharded.one.weight.detach()).clone()
        with one.swapped(), other.swapped():
            assert torch.equal(whole(sharded.one.weight.detach()), plain.one.weight.detach())
        assert torch.equal(whole(sharded.one.weight.detach()), before)
        again = Average(sharded, kind)
        again.load_state_dict(other.state_dict())
        assert isinstance(again.state_dict()["averages"]["one.weight"], DTensor)


def starting(mesh: DeviceMesh) -> None:
    for scheme in SCHEMES:
        plain, sharded = Net(), shard(Net(), mesh)
        options = {"k": 2} if scheme == "sparse" else {}
        initialize(plain, scheme, seed=3, bias=0.5, **options)
        initialize(sharded, scheme, seed=3, bias=0.5, **options)
        shares = torch.tensor([0.2, 0.3, 0.5])
        set_output_bias(plain.two, shares, "softmax")
        set_output_bias(sharded.two, shares, "softmax")
        for p, q in zip(plain.parameters(), sharded.parameters(), strict=True):
            assert isinstance(q, DTensor)
            assert torch.equal(whole(q.detach()), p.detach())
