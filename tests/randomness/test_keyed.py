"""Random functions inside a module take their numbers from the run's own streams."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import vmap

from thalweg.execution.lanes.forward import Vmapped
from thalweg.randomness import streams
from thalweg.randomness.keyed import DrawRecorder, Keyed, LaneDraws, RunDraws, Site, keep_mask

CPU = torch.device("cpu")
X = torch.full((40, 50), 2.0)
IMAGES = torch.full((30, 20, 3, 3), 2.0)
ATTENTION = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))

CALLS: dict[str, Callable[[], Tensor]] = {
    "dropout": lambda: F.dropout(X, 0.3),
    "dropout in place": lambda: F.dropout(X.clone(), 0.3, inplace=True),
    "torch.dropout": lambda: torch.dropout(X, 0.3, True),
    "module": lambda: nn.Dropout(0.3)(X),
    "dropout1d": lambda: F.dropout1d(X[None].expand(30, 40, 50), 0.3),
    "dropout2d": lambda: F.dropout2d(IMAGES, 0.3),
    "dropout3d": lambda: F.dropout3d(IMAGES.unsqueeze(2), 0.3),
    "alpha dropout": lambda: F.alpha_dropout(X, 0.3, training=True),
    "feature alpha dropout": lambda: F.feature_alpha_dropout(IMAGES, 0.3, training=True),
    "rand": lambda: torch.rand(40, 50),
    "rand of a size": lambda: torch.rand(size=(40, 50), dtype=torch.float64),
    "randn": lambda: torch.randn((40, 50)),
    "rand_like": lambda: torch.rand_like(X),
    "randn_like": lambda: torch.randn_like(X, dtype=torch.float64),
    "randint": lambda: torch.randint(3, 9, (40, 50)),
    "randint up to": lambda: torch.randint(9, (40, 50)),
    "randperm": lambda: torch.randperm(200),
    "bernoulli": lambda: torch.bernoulli(torch.full((40, 50), 0.3)),
    "bernoulli_": lambda: torch.empty(40, 50).bernoulli_(0.3),
    "uniform_": lambda: torch.empty(40, 50).uniform_(-1, 3),
    "normal_": lambda: torch.empty(40, 50).normal_(1, 2),
    "normal": lambda: torch.normal(torch.ones(40, 50), 2.0),
    "normal of a size": lambda: torch.normal(1.0, 2.0, (40, 50)),
    "exponential_": lambda: torch.empty(40, 50).exponential_(2.0),
    "gumbel": lambda: F.gumbel_softmax(X, hard=True).cumsum(1),
    "attention": lambda: F.scaled_dot_product_attention(ATTENTION, ATTENTION, ATTENTION, dropout_p=0.3),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_replaced_and_keeps_its_distribution(name: str) -> None:
    call, draws = CALLS[name], RunDraws(3, CPU)
    with Keyed(draws):
        first = call()
    torch.manual_seed(1)
    with Keyed(draws):
        again = call()
    assert torch.equal(first, again)
    draws.step = 1
    with Keyed(draws):
        other = call()
    assert not torch.equal(first, other)
    torch.manual_seed(0)
    theirs = call()
    assert first.dtype == theirs.dtype
    assert first.shape == theirs.shape
    spread = theirs.double().std()
    size = theirs.numel() if theirs.dim() < 3 else theirs.shape[0] * theirs.shape[1]
    assert (first.double().mean() - theirs.double().mean()).abs() < 6 * spread / size**0.5 + 1e-12
    assert 0.7 < (first.double().std() / spread) < 1.4


def test_channels_fall_together() -> None:
    with Keyed(RunDraws(1, CPU)):
        dropped = F.dropout2d(IMAGES, 0.5)
    flat = dropped.flatten(2)
    assert torch.equal(flat.amin(2), flat.amax(2))
    assert 0 < (flat == 0).float().mean() < 1


def test_dropout_is_the_stream_of_its_call() -> None:
    draws = RunDraws(seed=9, device=CPU)
    draws.step = 4
    with Keyed(draws):
        F.dropout(X, 0.3)
        second = F.dropout(X, 0.3)
        assert F.dropout(X, 0.3, training=False) is X
    uniform = streams.uniform(X.shape, seed=0, stream="module/1", step=4, lane=9)
    assert torch.equal(second, X * keep_mask(uniform, 0.3, X.dtype))


def test_any_precision_drops_the_same_elements() -> None:
    with Keyed(RunDraws(1, CPU)):
        single = F.dropout(torch.ones(99), 0.5)
    with Keyed(RunDraws(1, CPU)):
        double = F.dropout(torch.ones(99, dtype=torch.float64), 0.5)
    assert torch.equal(single > 0, double > 0)
    assert double.max() == 2


def test_attention_with_dropout_is_attention_with_dropped_weights() -> None:
    bias = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    options = [{}, {"is_causal": True}, {"attn_mask": bias}, {"attn_mask": bias > 0.0, "scale": 0.3}]
    for option in options:
        with Keyed(lambda index, site: torch.ones(site.shape)):  # keeps everything
            kept = F.scaled_dot_product_attention(ATTENTION, ATTENTION, ATTENTION, dropout_p=0.5, **option)
        whole = F.scaled_dot_product_attention(ATTENTION, ATTENTION, ATTENTION, **option)
        torch.testing.assert_close(kept, 2 * whole)


def test_lanes_draw_what_their_runs_draw() -> None:
    site = Site("normal", (3, 2), torch.float64)
    for seeds in ([4, 4, 4], [4, 5, 4], [4, 5, 6]):
        draws = LaneDraws(seeds, CPU)
        draws.step = 6
        drawn = draws(2, site)
        for lane, seed in enumerate(seeds):
            alone = RunDraws(seed, CPU)
            alone.step = 6
            assert torch.equal(drawn[lane], alone(2, site))


class Noisy(nn.Module):
    """Draws here and there, in layers and in between."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(4, 4), nn.Dropout(0.4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.linear(x)) + 0.1 * torch.randn_like(x)
        if self.training:
            x = x * x.new_empty((len(x), 1)).bernoulli_(0.5)
        return F.dropout(x, 0.2, self.training)


def test_anybodys_module_draws_the_same_in_a_lane_as_alone() -> None:
    modules = [Noisy() for _ in range(3)]
    tensors = {name: torch.stack([m.state_dict()[name] for m in modules]) for name in modules[0].state_dict()}
    x = torch.randn(3, 7, 4)
    lanes, mapped = LaneDraws([1, 2, 3], CPU), Vmapped(modules[0])
    for training in (True, False, True):
        lanes.step += 1
        got = mapped(tensors, x, draw=lanes, training=training)
        for lane, module in enumerate(modules):
            alone = RunDraws(lane + 1, CPU)
            alone.step = lanes.step
            with Keyed(alone):
                torch.testing.assert_close(got[lane], module.train(training)(x[lane]))


def test_masks_may_be_batched_by_vmap() -> None:
    masks = torch.rand(3, 5)

    def one(x: Tensor, mask: Tensor) -> Tensor:
        with Keyed(lambda index, site: mask):
            return F.dropout(x, 0.5)

    got = vmap(one)(torch.ones(3, 5), masks)
    assert torch.equal(got, 2.0 * (masks >= 0.5))


def test_a_recorder_notes_every_call() -> None:
    recorder = DrawRecorder(CPU)
    with Keyed(recorder):
        F.dropout(torch.ones(2, 3), 0.5)
        torch.randn(4, dtype=torch.float64)
    assert recorder.sites == [
        Site("uniform", (2, 3), torch.float32),
        Site("normal", (4,), torch.float64),
    ]
