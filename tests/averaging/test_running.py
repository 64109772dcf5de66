"""Running averages against their closed forms over a hundred steps, in float64."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from thalweg.averaging.running import (
    Average,
    AverageKind,
    ExponentialAverage,
    Tail,
    Uniform,
    tensors_of,
    update,
)
from thalweg.errors import ModelError, OptionError

STEPS = 100
POINTS = torch.randn(STEPS, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def weighted(weights: list[float]) -> Tensor:
    """The plain weighted mean, which needs all points at once."""
    w = torch.tensor(weights, dtype=torch.float64)
    return (w[:, None] * POINTS[: len(weights)]).sum(0) / w.sum()


def uniform(t: int) -> Tensor:
    return weighted([1.0] * t)


def tail(t: int) -> Tensor:
    return POINTS[t - 1] if t < 40 else weighted([0.0] * 39 + [1.0] * (t - 39))


def literal(t: int) -> Tensor:
    """(8.39) from the first point on: it has the weight a^(t-1), value i (1-a) a^(t-i)."""
    a = 0.9
    return weighted([a ** (t - 1)] + [(1 - a) * a ** (t - i) for i in range(2, t + 1)])


def corrected(t: int) -> Tensor:
    """The running average that begins with zeros, divided by 1 - a^t."""
    mean = torch.zeros(5, dtype=torch.float64)
    for point in POINTS[:t]:
        mean = 0.9 * mean + 0.1 * point
    return mean / (1 - 0.9**t)


def ramp(t: int) -> Tensor:
    mean = POINTS[0]
    for i in range(2, t + 1):
        decay = min(0.9, (1 + i) / (10 + i))
        mean = decay * mean + (1 - decay) * POINTS[i - 1]
    return mean


CASES: list[tuple[AverageKind, Callable[[int], Tensor]]] = [
    (Uniform(), uniform),
    (Tail(start=40), tail),
    (ExponentialAverage(decay=0.9, warmup="none"), literal),
    (ExponentialAverage(decay=0.9, warmup="corrected"), corrected),
    (ExponentialAverage(decay=0.9, warmup="ramp"), ramp),
]
ids = [repr(kind) for kind, _ in CASES]


@pytest.mark.parametrize(("kind", "closed"), CASES, ids=ids)
def test_the_running_average_is_the_closed_form_at_every_step(
    kind: AverageKind, closed: Callable[[int], Tensor]
) -> None:
    model = nn.Linear(5, 1, bias=False).double()
    average = Average(model, kind)
    for t in range(1, STEPS + 1):
        model.weight.data.copy_(POINTS[t - 1])
        average.update()
        expected = closed(t)
        got = average.state_dict()["averages"]["weight"][0]
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert average.count == STEPS


def test_decays_at_the_ends() -> None:
    for warmup in ("ramp", "corrected", "none"):
        assert [ExponentialAverage(decay=0.0, warmup=warmup).weight(t) for t in (1, 2, 50)] == [1.0] * 3
    slow = ExponentialAverage(decay=1 - 1e-12, warmup="corrected")
    assert slow.weight(1000) == pytest.approx(1 / 1000, rel=1e-3)  # nearly the plain mean


def test_torchs_average_model_is_the_same() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    ours = Average(model, ExponentialAverage(decay=0.9, warmup="none"))
    for _ in range(10):
        model(torch.randn(8, 3))
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        torchs.update_parameters(model)
        ours.update()
    averages = ours.state_dict()["averages"]
    for name, value in torchs.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(averages[name], value)
    assert int(averages["1.num_batches_tracked"]) == 10


def test_buffers_can_be_the_latest() -> None:
    model = nn.BatchNorm1d(2)
    average = Average(model, Uniform(), buffers="latest")
    for value in (1.0, 2.0, 6.0):
        model.weight.data.fill_(value)
        model.running_mean.fill_(value)
        average.update()
    averages = average.state_dict()["averages"]
    assert averages["weight"].tolist() == [3.0, 3.0]
    assert averages["running_mean"].tolist() == [6.0, 6.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_float32(dtype: torch.dtype) -> None:
    model = nn.Linear(1, 1, bias=False).to(dtype)
    average = Average(model, ExponentialAverage(decay=0.999, warmup="none"))
    model.weight.data.fill_(0.0)
    average.update()
    model.weight.data.fill_(1.0)
    for _ in range(500):
        average.update()
    kept = average.state_dict()["averages"]["weight"].clone()
    assert kept.dtype == torch.float32
    assert float(kept) == pytest.approx(1 - 0.999**500, rel=1e-4)
    with average.swapped():
        assert model.weight.dtype == dtype
        assert float(model.weight.detach()) == pytest.approx(float(kept), rel=1e-2)
    assert float(model.weight.detach()) == 1.0
    assert torch.equal(average.state_dict()["averages"]["weight"], kept)
    with average.swapped():
        model.weight.data.fill_(0.25)
    assert float(average.state_dict()["averages"]["weight"]) == 0.25


def test_swapping_keeps_identities_and_gives_back_even_after_an_error() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    average = Average(model, Uniform())
    average.update()
    first = model.weight.detach().clone()
    model.weight.data.add_(2.0)
    average.update()
    parameter, address, now = model.weight, model.weight.data_ptr(), model.weight.detach().clone()
    with average.swapped():
        torch.testing.assert_close(model.weight.detach(), first + 1)
    held = average.state_dict()["averages"]["weight"].clone()
    with contextlib.suppress(KeyError), average.swapped():
        raise KeyError("inside")
    assert torch.equal(average.state_dict()["averages"]["weight"], held)
    assert model.weight is parameter
    assert model.weight.data_ptr() == address
    assert optimizer.param_groups[0]["params"][0] is model.weight
    assert torch.equal(model.weight, now)
    with average.swapped():
        for misuse in (average.update, average.state_dict, lambda: average.swapped().__enter__()):
            with pytest.raises(AssertionError, match="holds the average"):
                misuse()
    other = nn.Linear(3, 2)
    average.copy_to(other)
    torch.testing.assert_close(other.weight.detach(), first + 1)
    with average.swapped(other):
        torch.testing.assert_close(other.weight.detach(), first + 1)
    assert torch.equal(model.weight, now)


def test_a_saved_average_goes_on_bit_for_bit() -> None:
    def train(model: nn.Module, average: Average, steps: range) -> None:
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.data.add_(torch.randn(parameter.shape, generator=generator))
            average.update()

    torch.manual_seed(0)
    whole = nn.Linear(4, 3)
    parts = nn.Linear(4, 3)
    parts.load_state_dict(whole.state_dict())
    kind = ExponentialAverage(decay=0.95)
    one, other = Average(whole, kind), Average(parts, kind)
    train(whole, one, range(20))
    train(parts, other, range(7))
    file = io.BytesIO()
    torch.save({"average": other.state_dict(), "model": parts.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = nn.Linear(4, 3)
    resumed.load_state_dict(saved["model"])
    again = Average(resumed, kind)
    again.load_state_dict(saved["average"])
    train(resumed, again, range(7, 20))
    assert again.count == one.count
    for name, value in one.state_dict()["averages"].items():
        assert torch.equal(again.state_dict()["averages"][name], value)
    empty = Average(resumed, kind)
    empty.load_state_dict(Average(whole, kind).state_dict())
    assert empty.count == 0


def test_loading_copies() -> None:
    model = nn.Linear(2, 2)
    one, other = Average(model, Uniform()), Average(model, Uniform())
    one.update()
    other.load_state_dict(one.state_dict())
    model.weight.data.add_(1.0)
    other.update()
    assert not torch.equal(one.state_dict()["averages"]["weight"], other.state_dict()["averages"]["weight"])


def test_what_doesnt_fit_is_said() -> None:
    model = nn.Linear(2, 2)
    average = Average(model, Uniform())
    with pytest.raises(ModelError, match="nothing was averaged yet"), average.swapped():
        pass
    average.update()
    with pytest.raises(ModelError, match="'bias' isn't in both"):
        average.copy_to(nn.Linear(2, 2, bias=False))
    with pytest.raises(ModelError, match=r"the saved average of 'weight' has the shape \[2, 2\]"):
        Average(nn.Linear(3, 2), Uniform()).load_state_dict(average.state_dict())
    with pytest.raises(ModelError, match="it is another model's"):
        Average(nn.Linear(2, 2, bias=False), Uniform()).load_state_dict(average.state_dict())
    model.register_parameter("bias", None)
    with pytest.raises(ModelError, match="'bias' isn't among what was averaged"):
        average.update()
    grown = nn.Sequential(nn.Linear(2, 2))
    average = Average(grown, Uniform())
    average.update()
    grown.append(nn.Linear(2, 2))
    with pytest.raises(ModelError, match=r"'1\.bias' isn't among what was averaged"):
        average.update()
    for wrong in ({"decay": 1.0}, {"decay": -0.1}, {"decay": math.nan}, {"warmup": "slow"}):
        with pytest.raises(OptionError):
            ExponentialAverage(**wrong)
    with pytest.raises(OptionError, match="start = 0"):
        Tail(start=0)
    with pytest.raises(OptionError, match="buffers = 'mean'"):
        Average(model, Uniform(), buffers="mean")


def test_tensors_and_parts_that_are_exchanged_are_followed() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    average = Average(model, Uniform())
    for value in (1.0, 2.0, 6.0):
        model[0].weight = nn.Parameter(torch.full((1, 1), value))
        model[1] = nn.Linear(1, 1, bias=False)
        model[1].weight.data.fill_(2 * value)
        average.update()
    averages = average.state_dict()["averages"]
    assert {name: float(value) for name, value in averages.items()} == {"0.weight": 3.0, "1.weight": 6.0}


def test_names_are_torchs_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.LSTM(2, 2))
    model[2].weight = model[0].weight
    model.register_buffer("extra", None)
    expected = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    found = tensors_of(model)
    assert found.keys() == expected.keys()
    assert all(found[name] is expected[name] for name in found)


def test_update_takes_mixed_types_and_shared_tensors_count_once() -> None:
    averages = [torch.zeros(2), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.float64)]
    update(averages, [torch.ones(2).half(), torch.tensor([3, 4]), torch.ones(2, dtype=torch.float64)], 0.25)
    assert [average.tolist() for average in averages] == [[0.25] * 2, [3, 4], [0.25] * 2]
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    average = Average(model, Uniform())
    average.update()
    assert set(average.state_dict()["averages"]) == {"0.weight", "0.bias", "1.bias"}


def test_the_mean_across_a_valley_is_near_its_bottom() -> None:
    """What averaging is for: steps that leap from wall to wall never come near the bottom."""
    model = nn.Linear(1, 1, bias=False).double()
    model.weight.data.fill_(1.0)
    average = Average(model, Uniform())
    for _ in range(STEPS):
        model.weight.data.mul_(-0.999)  # gradient descent on a w^2 / 2 with a rate of 1.999 / a
        average.update()
    with average.swapped():
        assert abs(float(model.weight.detach())) < 0.01
    assert abs(float(model.weight.detach())) > 0.9
