"""Batch normalization: the slide against its derivative by hand, finite differences, and torch's layer."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from thalweg.errors import ModelError, OptionError
from thalweg.layers.norm import BatchNorm, batch_norm, insert_batch_norm


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def slide(rows: Tensor, gamma: Tensor, beta: Tensor, delta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(8.35)-(8.37) entry by entry: rows ``[m, F]``."""
    rows, gamma, beta = rows.detach(), gamma.detach(), beta.detach()
    m, features = rows.shape
    out = torch.empty_like(rows)
    means, variances = torch.empty(features).double(), torch.empty(features).double()
    for j in range(features):
        mean = sum(float(rows[i, j]) for i in range(m)) / m
        variance = sum((float(rows[i, j]) - mean) ** 2 for i in range(m)) / m
        sigma = math.sqrt(delta + variance)
        for i in range(m):
            out[i, j] = float(gamma[j]) * (float(rows[i, j]) - mean) / sigma + float(beta[j])
        means[j], variances[j] = mean, variance
    return out, means, variances


def by_hand(rows: Tensor, gamma: Tensor, delta: float, above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of rows, gamma and beta, derived on paper: [m, F], [F], [F]."""
    mean, variance = rows.mean(0), rows.var(0, correction=0)
    sigma = torch.sqrt(delta + variance)
    standard = (rows - mean) / sigma
    own = above * gamma
    return (
        (own - own.mean(0) - standard * (own * standard).mean(0)) / sigma,
        (above * standard).sum(0),
        above.sum(0),
    )


@pytest.mark.parametrize("delta", [1e-8, 0.5])
def test_the_function_is_the_slide_and_its_gradient_the_derivative(delta: float) -> None:
    rows, gamma, beta, above = drawn(7, 3), drawn(3, seed=1), drawn(3, seed=2), drawn(7, 3, seed=3)
    for leaf in (rows, gamma, beta):
        leaf.requires_grad_()
    values, mean, variance = batch_norm(rows, gamma, beta, delta=delta)
    for got, expected in zip((values, mean, variance), slide(rows, gamma, beta, delta), strict=True):
        torch.testing.assert_close(got.detach(), expected)
    gradients = torch.autograd.grad((values * above).sum(), (rows, gamma, beta))
    expected_gradients = by_hand(rows.detach(), gamma.detach(), delta, above)
    for got, expected in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (3, 3, 2, 4)])
@pytest.mark.parametrize("axis", [1, -1])
def test_gradients_against_finite_differences(shape: tuple[int, ...], axis: int) -> None:
    h = drawn(*shape).movedim(1, axis).contiguous().requires_grad_()
    gamma, beta = drawn(3, seed=1).requires_grad_(), drawn(3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *given: batch_norm(*given, delta=0.1, axis=axis).values, (h, gamma, beta)
    )
    layer = BatchNorm(3, delta=0.1, axis=axis).double()
    assert torch.autograd.gradcheck(layer, (h,))


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (3, 3, 2, 4), (2, 3, 2, 2, 3)])
@pytest.mark.parametrize("axis", [1, -1])
def test_the_layer_is_the_function_and_a_feature_map_has_one_mean(shape: tuple[int, ...], axis: int) -> None:
    h = drawn(*shape)
    layer = BatchNorm(3, axis=axis).double()
    with torch.no_grad():
        layer.weight.copy_(drawn(3, seed=1))
        layer.bias.copy_(drawn(3, seed=2))
    got = layer(h.movedim(1, axis)).movedim(axis, 1)
    rows = h.movedim(1, -1).reshape(-1, 3)
    expected, mean, variance = slide(rows, layer.weight, layer.bias, 1e-8)
    torch.testing.assert_close(got.movedim(1, -1).reshape(-1, 3).detach(), expected)
    torch.testing.assert_close(layer.running_mean, 0.1 * mean)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * variance)


@pytest.mark.parametrize("momentum", [0.1, 0.3, 1.0, None])
def test_running_averages_with_m_and_torchs_with_one_less(momentum: float | None) -> None:
    ours = BatchNorm(3, momentum=momentum).double()
    torchs_way = BatchNorm(3, momentum=momentum, unbiased=True, delta=1e-5).double()
    torchs = nn.BatchNorm1d(3, momentum=momentum).double()
    mean, variance = torch.zeros(3).double(), torch.ones(3).double()
    for step in range(1, 6):
        h = drawn(5, 3, seed=step)
        share = 1 / step if momentum is None else momentum
        mean = (1 - share) * mean + share * h.mean(0)
        variance = (1 - share) * variance + share * h.var(0, correction=0)
        ours(h)
        torch.testing.assert_close(torchs_way(h), torchs(h))
    torch.testing.assert_close(ours.running_mean, mean)
    torch.testing.assert_close(ours.running_var, variance)
    for name, buffer in torchs.named_buffers():
        torch.testing.assert_close(torchs_way.get_buffer(name), buffer)
    h = drawn(4, 3, seed=9)
    torch.testing.assert_close(ours.eval()(h), (h - mean) / torch.sqrt(1e-8 + variance))
    torch.testing.assert_close(torchs_way.eval()(h), torchs.eval()(h))


def test_a_torch_checkpoint_loads_and_a_layer_without_running_averages_works() -> None:
    torchs = nn.BatchNorm2d(4)
    torchs(torch.randn(3, 4, 2, 2))
    ours = BatchNorm(4)
    ours.load_state_dict(torchs.state_dict())
    assert torch.equal(ours.running_var, torchs.running_var)
    bare = BatchNorm(3, running=False, affine=False).double().eval()
    assert not bare.state_dict()
    torch.testing.assert_close(bare(drawn(5, 3)), batch_norm(drawn(5, 3)).values)


def test_lanes_of_batch_norm_are_each_their_own() -> None:
    layers = [BatchNorm(3, unbiased=unbiased) for unbiased in (False, False)]
    h = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    parameters, buffers = stack_module_state(layers)
    buffers = {name: buffer.clone() for name, buffer in buffers.items()}

    def call(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        out: Tensor = functional_call(layers[0], {**p, **b}, (x,))
        return out

    out = vmap(call)(parameters, buffers, h)
    for lane, layer in enumerate(layers):
        torch.testing.assert_close(out[lane], layer(h[lane]))
        torch.testing.assert_close(buffers["running_var"][lane], layer.running_var)


def test_it_takes_away_what_a_bias_or_a_scale_before_it_does() -> None:
    """The gradient never proposes to change only the mean or the deviation of a unit."""
    h = drawn(8, 3).requires_grad_()
    values = batch_norm(h, delta=0.0).values
    (gradient,) = torch.autograd.grad((values * drawn(8, 3, seed=1)).sum(), h)
    zero = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(gradient.sum(0), zero)
    torch.testing.assert_close((gradient * h.detach()).sum(0), zero)
    torch.testing.assert_close(batch_norm(5 * h + 2, delta=0.0).values, values)


def test_what_cant_be_normalized_is_said() -> None:
    with pytest.raises(ModelError, match=r"a batch of shape \[4, 2\] hasn't 3 features along axis 1"):
        BatchNorm(3)(torch.zeros(4, 2))
    with pytest.raises(ModelError, match="a single entry a feature gives nothing but beta"):
        BatchNorm(3)(torch.zeros(1, 3))
    with pytest.raises(OptionError, match=r"delta = -1.0 isn't allowed"):
        BatchNorm(3, delta=-1.0)
    with pytest.raises(OptionError, match=r"momentum = 0 isn't allowed"):
        BatchNorm(3, momentum=0)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)
        self.mixer = nn.Linear(4, 4)
        self.again = self.conv  # the same layer under a second name

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).flatten(2).transpose(1, 2)
        out: Tensor = self.head(torch.tanh(self.mixer(x)).mean(1))
        return out


def test_it_is_put_before_activations_and_the_redundant_bias_goes() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5), nn.Tanh(), nn.Linear(5, 3)
    ).double()
    twin = [model[0].weight, model[3].weight]
    x = drawn(6, 1, 8, 8)
    result = insert_batch_norm(model, delta=1e-4)
    assert result.normalized == {"0": "relu", "3": "tanh"}
    assert result.dropped == ("0.bias", "3.bias")
    assert model[0][0].bias is None
    assert model[3][1].axis == -1
    h = torch.relu(batch_norm(F.conv2d(x, twin[0]), delta=1e-4).values).flatten(1)
    h = torch.tanh(batch_norm(h @ twin[1].T, delta=1e-4).values)
    torch.testing.assert_close(model(x), model[5](h))


def test_a_model_with_code_of_its_own_is_seen_on_an_example() -> None:
    model = Own().eval()
    result = insert_batch_norm(model, example=torch.zeros(2, 1, 6, 6))
    assert result.normalized == {"conv": "relu", "mixer": "tanh"}
    assert model.again is model.conv
    assert not model.conv[1].training
    assert model.train()(torch.randn(3, 1, 6, 6)).shape == (3, 2)
    assert model.mixer[1].running_mean.shape == (4,)


def test_named_layers_and_what_cant_be_done() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    with pytest.raises(ModelError, match="no layer was found that leads into an activation"):
        insert_batch_norm(model)
    with pytest.raises(OptionError, match="there is no linear layer or convolution '3'"):
        insert_batch_norm(model, layers=["3"])
    assert insert_batch_norm(model, layers=["1"]).normalized == {"1": "as told"}
    with pytest.raises(ModelError, match="the model is itself the layer"):
        insert_batch_norm(nn.Linear(2, 2), layers=[""])
