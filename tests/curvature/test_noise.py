"""The gradient's noise scale against its definition by brute force, and how often its interval covers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.curvature import noise_scale, noise_scale_of
from thalweg.errors import DataError, OptionError


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def net(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs))


def per_example(model: nn.Module, loss: object, x: Tensor, y: Tensor) -> Tensor:
    rows = []
    for i in range(len(x)):
        found = torch.autograd.grad(loss(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))  # type: ignore[operator]
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
def test_batches_of_one_example_give_the_definition(loss: str) -> None:
    model = net()
    x = torch.randn(40, 4)
    y = torch.randint(3, (40,)) if loss == "cross-entropy" else torch.randn(40, 3)
    rows = per_example(model, F.cross_entropy if loss == "cross-entropy" else F.mse_loss, x, y)
    centred = rows - rows.mean(0)
    trace = float((centred**2).sum()) / 39
    singles = [(x[i : i + 1], y[i : i + 1]) for i in range(40)]
    found = noise_scale(model, loss, singles)
    assert (found.examples, found.batches) == (40, 40)
    assert found.trace == pytest.approx(trace)
    assert found.squared_norm == pytest.approx(float((rows.mean(0) ** 2).sum()) - trace / 40)
    # the gradient of all examples that there are is known
    whole = noise_scale(model, loss, singles, population=40)
    assert whole.squared_norm == pytest.approx(float((rows.mean(0) ** 2).sum()))
    assert whole.value == pytest.approx(trace / float((rows.mean(0) ** 2).sum()))
    # gradients that don't fit into memory are computed again
    again = noise_scale(model, loss, singles, memory=0)
    assert again.value == pytest.approx(found.value, rel=1e-12)
    assert again.high == pytest.approx(found.high, rel=1e-12)


def test_ragged_batches_have_no_bias() -> None:
    model = net()
    x, y = torch.randn(500, 4), torch.zeros(500, dtype=torch.long)
    rows = per_example(model, F.cross_entropy, x, y)
    mean = rows.mean(0)
    trace = float(((rows - mean) ** 2).sum()) / len(x)
    rng = np.random.default_rng(0)
    traces, norms = [], []
    for _ in range(200):
        sizes = [3, 17, 8, 1, 11]
        parts = [rows[rng.integers(0, 500, size)].mean(0) for size in sizes]
        found = noise_scale_of([[part] for part in parts], sizes)
        traces.append(found.trace)
        norms.append(found.squared_norm)
    for values, right in ((traces, trace), (norms, float(mean @ mean))):
        error = float(np.std(values)) / math.sqrt(len(values))
        assert abs(float(np.mean(values)) - right) < 4 * error
        assert error < 0.1 * right


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(("scale", "batches"), [(24.0, 8), (24.0, 16), (400.0, 8), (2.0, 5)])
def test_the_interval_covers(scale: float, batches: int, power: float) -> None:
    # noise whose variances fall as a power, which is what makes estimates vary
    rng = np.random.default_rng(1)
    variances = np.arange(1, 201.0) ** -power
    variances *= scale / variances.sum()
    gradient = rng.normal(size=200)
    gradient /= np.linalg.norm(gradient)
    covered, values, trials = 0, [], 60
    for _ in range(trials):
        drawn = gradient + rng.normal(size=(batches, 200)) * np.sqrt(variances / 32)
        found = noise_scale_of([[torch.from_numpy(row)] for row in drawn], [32] * batches)
        assert found.low <= found.value <= found.high
        covered += found.low <= scale <= found.high
        values.append(found.value)
    assert covered / trials > 0.9
    if power < 2:
        assert np.median(values) == pytest.approx(scale, rel=0.35)


def test_what_is_said_of_a_batch_size() -> None:
    found = noise_scale_of([[torch.tensor([1.0])], [torch.tensor([3.0])], [torch.tensor([2.0])]], [4, 4, 4])
    s = found.value
    assert found.batch_size == s
    assert found.progress(s) == found.efficiency(s) == 0.5
    assert found.progress(1e9) == pytest.approx(1.0)
    assert found.efficiency(1e-9) == pytest.approx(1.0)
    assert found.norm_bias(s / 2) == pytest.approx(2.0)


def test_without_a_gradient_there_is_no_upper_end_and_without_noise_no_width() -> None:
    torch.manual_seed(2)
    none = noise_scale_of([[torch.randn(50)] for _ in range(8)], [32] * 8)
    assert none.high == math.inf
    assert none.low > 100
    same = noise_scale_of([[torch.ones(5)]] * 4, [8] * 4)
    assert (same.value, same.low, same.high, same.trace) == (0.0, 0.0, 0.0, 0.0)
    two = noise_scale_of([[torch.tensor([1.0])], [torch.tensor([1.5])]], [4, 4])
    assert two.low <= two.value <= two.high == math.inf


def test_sums_over_examples_and_ignored_ones_count_as_the_loss_counts() -> None:
    model = net()
    x, y = torch.randn(20, 4), torch.randint(3, (20,))
    parts = list(zip(x.split([8, 7, 5]), y.split([8, 7, 5]), strict=True))
    mean = noise_scale(model, "cross-entropy", parts)
    total = noise_scale(model, nn.CrossEntropyLoss(reduction="sum"), parts)
    assert total.value == pytest.approx(mean.value)
    assert total.trace == pytest.approx(mean.trace)
    # three more that are ignored
    more = [(torch.cat([a, a[:1]]), torch.cat([b, torch.tensor([-100])])) for a, b in parts]
    ignoring = noise_scale(model, nn.CrossEntropyLoss(), more)
    assert (ignoring.examples, ignoring.value) == (20.0, pytest.approx(mean.value))


def test_part_of_the_parameters_and_nothing_left_behind() -> None:
    model = net()
    x, y = torch.randn(20, 4), torch.randint(3, (20,))
    parts = list(zip(x.split(5), y.split(5), strict=True))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    found = noise_scale(model, "cross-entropy", parts, parameters=["2"])
    rows = []
    for a, b in parts:
        loss = F.cross_entropy(model(a), b)
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model[2].parameters()))]))
    assert found.value == noise_scale_of([[row] for row in rows], [5] * 4).value
    assert all(bool((p.grad == 1).all()) for p in model.parameters() if p.grad is not None)


def test_what_is_wrong_is_said() -> None:
    model, x, y = net(), torch.randn(20, 4), torch.randint(3, (20,))
    with pytest.raises(OptionError, match="there is 1 batch, and noise shows between several"):
        noise_scale(model, "cross-entropy", (x, y))
    with pytest.raises(OptionError, match="population is 10, but the batches hold 20 examples"):
        noise_scale(model, "cross-entropy", [(x[:10], y[:10]), (x[10:], y[10:])], population=10)
    with pytest.raises(OptionError, match="there are 1 gradients but 2 sizes"):
        noise_scale_of([[x]], [1, 2])
    with pytest.raises(DataError, match="gradient of a batch isn't finite"):
        noise_scale(model, "cross-entropy", [(x * math.nan, y), (x, y)])
    with pytest.raises(OptionError, match="level is 95"):
        noise_scale(model, "cross-entropy", [(x[i::4], y[i::4]) for i in range(4)], level=95)
