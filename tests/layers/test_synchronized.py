"""Synchronized batch norm, alone: what torch gives; two halves in two threads: what the whole gives."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from thalweg.layers import BatchNorm
from thalweg.layers.synchronized import Synchronized


class Meeting:
    """Adds up what two threads bring."""

    def __init__(self, count: int) -> None:
        self._barrier, self._held = threading.Barrier(count), {}

    def total(self, rank: int) -> Callable[[Tensor], Tensor]:
        def add(mine: Tensor) -> Tensor:
            self._held[rank] = mine.clone()
            self._barrier.wait(20)
            found = torch.stack([self._held[r] for r in sorted(self._held)]).sum(0)
            self._barrier.wait(20)
            return found

        return add


@pytest.mark.parametrize(
    "make",
    [lambda: nn.BatchNorm1d(3), lambda: nn.BatchNorm1d(3, momentum=None), lambda: BatchNorm(3),
     lambda: BatchNorm(3, unbiased=True, affine=False), lambda: BatchNorm(3, running=False)],
)  # fmt: skip
def test_shares_normalize_as_the_whole(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 3, dtype=torch.float64)
    weight = torch.randn(7, 3, dtype=torch.float64)
    whole = make().double()
    expected = (whole(x) * weight).square().sum()
    meeting, halves = Meeting(2), (slice(0, 6), slice(6, 7))
    parts = [x[half] for half in halves]
    layers = [make().double() for _ in halves]
    losses: dict[int, Tensor] = {}

    def work(rank: int) -> None:
        # the second half is a single example, which alone has no statistics
        with Synchronized(meeting.total(rank)):
            losses[rank] = (layers[rank](parts[rank]) * weight[halves[rank]]).square().sum()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(losses[0] + losses[1], expected, rtol=1e-12, atol=1e-12)
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(dict(layers[0].named_buffers())[name], buffer, rtol=1e-12, atol=1e-12)
        assert torch.equal(dict(layers[0].named_buffers())[name], dict(layers[1].named_buffers())[name])


def test_gradients_alone_are_torchs() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 2, 5, dtype=torch.float64, requires_grad=True)
    layer = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
    expected = torch.autograd.grad(layer(x).pow(3).sum(), [x, *layer.parameters()])
    with Synchronized(lambda mine: mine.clone()):
        found = torch.autograd.grad(layer(x).pow(3).sum(), [x, *layer.parameters()])
        assert torch.equal(layer.eval()(x), layer(x))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_half_precision_is_normalized_in_single() -> None:
    x = torch.randn(64, 2).half() + 100
    with Synchronized(lambda mine: mine.clone()):
        out = nn.BatchNorm1d(2)(x)
    assert out.dtype == torch.float16
    assert out.float().mean(0).abs().max() < 0.01
