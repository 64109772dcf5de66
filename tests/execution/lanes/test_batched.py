"""Every layer's twin against torch's own layer, lane by lane."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from thalweg.execution.lanes.batched import Batched, aligned
from thalweg.execution.lanes.forward import forward_of
from thalweg.randomness.keyed import LaneDraws, Site, keep_mask

LANES, BATCH, WIDTH = 3, 6, 4


def lane_tensors(modules: list[nn.Module]) -> dict[str, Tensor]:
    named = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
    return {
        name: torch.stack([each[name].detach() for each in named]).requires_grad_(
            named[0][name].requires_grad
        )
        for name in named[0]
    }


def replicas(module: nn.Module) -> list[nn.Module]:
    made = []
    for lane in range(LANES):
        each = copy.deepcopy(module).double()
        for p in [*each.parameters(), *(b for b in each.buffers() if b.is_floating_point())]:
            p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(lane)).double().abs() + 0.1
        made.append(each)
    return made


def no_draw(index: int, site: Site) -> Tensor:
    raise AssertionError("nothing random here")


PLAIN = """
    ReLU LeakyReLU Hardtanh ReLU6 Hardshrink Softshrink Softsign Identity Tanh Sigmoid GELU ELU SELU CELU SiLU
    Mish Softplus LogSigmoid Tanhshrink Hardsigmoid Hardswish PReLU
"""

LAYERS = [
    *(getattr(nn, name)() for name in PLAIN.split()),
    nn.GELU("tanh"),
    nn.Threshold(0.1, 2.0),
    nn.PReLU(WIDTH),
    nn.Softmax(1),
    nn.Softmax(-1),
    nn.LogSoftmax(1),
    nn.Linear(WIDTH, 5),
    nn.Linear(WIDTH, 5, bias=False),
    nn.LayerNorm(WIDTH),
    nn.LayerNorm(WIDTH, elementwise_affine=False),
    nn.LayerNorm(WIDTH, eps=0.3),
    nn.BatchNorm1d(WIDTH),
    nn.BatchNorm1d(WIDTH, affine=False),
    nn.BatchNorm1d(WIDTH, momentum=None),
    nn.BatchNorm1d(WIDTH, eps=0.2, momentum=0.7),
    nn.BatchNorm1d(WIDTH, track_running_stats=False),
    nn.Unflatten(1, (2, 2)),
    nn.Flatten(),
    nn.Dropout(0.0),
    nn.Sequential(nn.Linear(WIDTH, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 2), nn.Tanh())),
]


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_twin_is_the_layer_lane_by_lane(layer: nn.Module) -> None:
    modules = replicas(layer)
    tensors = lane_tensors(modules)
    batched = Batched(modules[0])
    for step in range(3):
        x = torch.randn(
            LANES, BATCH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(step)
        )
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        got = batched(tensors, ours, draw=no_draw, training=True)
        expected = torch.stack([m.train()(theirs[lane]) for lane, m in enumerate(modules)])
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
        weights = torch.randn_like(expected)
        learned = [name for name, t in tensors.items() if t.requires_grad]
        grads = torch.autograd.grad((got * weights).sum(), [ours, *(tensors[n] for n in learned)])
        own = [[dict(m.named_parameters())[n] for m in modules] for n in learned]
        flat = torch.autograd.grad((expected * weights).sum(), [theirs, *(p for each in own for p in each)])
        stacked = [
            flat[0],
            *(torch.stack(flat[1 + LANES * i : 1 + LANES * (i + 1)]) for i in range(len(own))),
        ]
        for one, other in zip(grads, stacked, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    for name, tensor in tensors.items():  # running statistics moved alike
        expected = torch.stack(
            [{**dict(m.named_parameters()), **dict(m.named_buffers())}[name] for m in modules]
        )
        torch.testing.assert_close(tensor.detach(), expected.detach(), rtol=1e-12, atol=1e-12)
    x = torch.randn(LANES, BATCH, WIDTH, dtype=torch.float64)
    got = batched(tensors, x, draw=no_draw, training=False)
    expected = torch.stack([m.eval()(x[lane]) for lane, m in enumerate(modules)])
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_linear_and_batch_norm_take_inputs_of_more_dimensions() -> None:
    for layer, shape in (
        (nn.Linear(4, 3), (5, 2, 4)),
        (nn.BatchNorm1d(2), (5, 2, 4)),
        (nn.PReLU(2), (5, 2, 4)),
    ):
        modules = replicas(layer)
        x = torch.randn(LANES, *shape, dtype=torch.float64)
        got = Batched(modules[0])(lane_tensors(modules), x, draw=no_draw, training=True)
        expected = torch.stack([m(x[lane]) for lane, m in enumerate(modules)])
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_a_layer_used_twice_and_tied_weights_are_followed() -> None:
    relu, shared = nn.ReLU(), nn.Linear(WIDTH, WIDTH)
    tied = nn.Linear(WIDTH, WIDTH)
    tied.weight = shared.weight
    module = nn.Sequential(shared, relu, shared, relu, tied)
    modules = replicas(module)
    x = torch.randn(LANES, BATCH, WIDTH, dtype=torch.float64)
    got = Batched(modules[0])(lane_tensors(modules), x, draw=no_draw, training=True)
    expected = torch.stack([m(x[lane]) for lane, m in enumerate(modules)])
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_dropout_takes_its_mask_from_the_draws() -> None:
    x = torch.ones(3, 5, 4)
    draws = LaneDraws([7, 8, 7], torch.device("cpu"))
    draws.step = 2
    got = Batched(nn.Sequential(nn.Dropout(0.25)))({}, x, draw=draws, training=True)
    mask = keep_mask(draws(0, Site("uniform", (5, 4), torch.float32)), 0.25, torch.float32)
    assert torch.equal(got, mask)
    assert torch.equal(got[0], got[2])
    assert not torch.equal(got[0], got[1])
    assert set(got.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}


def test_what_has_no_twin_is_named() -> None:
    class Own(nn.Linear):
        pass

    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda *_: None)
    for module, name in ((Own(2, 2), "Own"), (nn.Conv1d(1, 1, 1), "Conv1d"), (hooked, "Linear with hooks")):
        with pytest.raises(TypeError, match=name):
            Batched(module)
        assert forward_of(module).form == "vmap"


@pytest.mark.parametrize("count", [1, 21, 64, 2145])
def test_aligned_changes_no_values(count: int) -> None:
    x = torch.randn(count, dtype=torch.float64)
    torch.testing.assert_close(aligned(nn.functional.gelu, x), nn.functional.gelu(x), rtol=1e-13, atol=1e-15)
    if count % 3 == 0:
        turned = x.view(1, 3, -1).transpose(1, 2)
        got = aligned(nn.functional.gelu, turned)
        torch.testing.assert_close(got, nn.functional.gelu(turned), rtol=1e-13, atol=1e-15)
