"""Each shape against its closed form at every step, and against torch's scheduler where there is one."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from thalweg import schedules
from thalweg.errors import OptionError

T = 40


def cosine_between(a, b, p):
    return b + (a - b) * (1 + math.cos(math.pi * p)) / 2


CLOSED = {
    "constant": (schedules.Constant(factor=0.3), lambda t: 0.3),
    "step": (schedules.Step(every=7, gamma=0.5), lambda t: 0.5 ** (t // 7)),
    "exponential": (schedules.Exponential(rate=0.05), lambda t: math.exp(-0.05 * t)),
    "inverse-time": (schedules.InverseTime(rate=0.3), lambda t: 1 / (1 + 0.3 * t)),
    "inverse-time, slide": (schedules.InverseTime(), lambda k: 1 / (k + 1)),
    "inverse-square, slide": (schedules.InverseSquare(), lambda k: 1 / (k + 1) ** 2),
    "piecewise": (
        schedules.Piecewise(boundaries=(10, 25), factors=(1.0, 0.5, 0.1)),
        lambda t: 1.0 if t < 10 else 0.5 if t < 25 else 0.1,
    ),
    "piecewise, one piece": (schedules.Piecewise(boundaries=(), factors=(0.7,)), lambda t: 0.7),
    "linear": (schedules.Linear(total=T), lambda t: max(1 - t / T, 0)),
    "linear, final": (schedules.Linear(total=T, final=0.2), lambda t: max(1 - 0.8 * t / T, 0.2)),
    "polynomial": (
        schedules.Polynomial(total=T, power=1.5, final=0.1),
        lambda t: 0.1 + 0.9 * (1 - min(t, T) / T) ** 1.5,
    ),
    "cosine": (schedules.Cosine(total=T), lambda t: cosine_between(1, 0, min(t, T) / T)),
    "cosine, final": (schedules.Cosine(total=T, final=0.1), lambda t: cosine_between(1, 0.1, min(t, T) / T)),
    "cosine, restarts": (
        schedules.Cosine(total=T, final=0.05, cycles=3),
        lambda t: cosine_between(1, 0.05, (3 * t % T) / T if t < T else 1),
    ),
    "one-cycle": (
        schedules.OneCycle(total=T, peak_at=12, start=0.1, final=0.001),
        lambda t: (
            cosine_between(0.1, 1, t / 12) if t < 12 else cosine_between(1, 0.001, min((t - 12) / 28, 1))
        ),
    ),
    "one-cycle, momentum": (
        schedules.OneCycle(total=T, peak_at=12, start=1.0, peak=0.9, final=1.0),
        lambda t: cosine_between(1, 0.9, t / 12) if t < 12 else cosine_between(0.9, 1, min((t - 12) / 28, 1)),
    ),
    "one-cycle, from the peak": (
        schedules.OneCycle(total=T, peak_at=0, final=0.5),
        lambda t: cosine_between(1, 0.5, min(t / T, 1)),
    ),
    "one-cycle, to the peak": (
        schedules.OneCycle(total=T, peak_at=T, start=0.1, final=1.0),
        lambda t: cosine_between(0.1, 1, min(t / T, 1)),
    ),
    "warmup-stable-decay": (
        schedules.WarmupStableDecay(total=T, warmup=4, decay=10, final=0.1),
        lambda t: (t + 1) / 5 if t < 4 else 1 if t < 30 else 1 - 0.9 * min((t - 30) / 10, 1),
    ),
    "warmup-stable-decay, bare": (
        schedules.WarmupStableDecay(total=T, warmup=0, decay=0, final=0.1),
        lambda t: 1 if t < T else 0.1,
    ),
    "warmup": (
        schedules.Warmup(steps=5, then=schedules.Cosine(total=35), start=0.25),
        lambda t: 0.25 + 0.75 * (t + 1) / 6 if t < 5 else cosine_between(1, 0, min((t - 5) / 35, 1)),
    ),
    "warmup to a lower start": (
        schedules.Warmup(steps=5, then=schedules.OneCycle(total=35, peak_at=10, start=0.2)),
        lambda t: (
            0.2 * (t + 1) / 6
            if t < 5
            else cosine_between(0.2, 1, (t - 5) / 10)
            if t < 15
            else cosine_between(1, 4e-6, min((t - 15) / 25, 1))
        ),
    ),
    "sequence": (
        schedules.Sequential(
            schedules=(
                schedules.Linear(total=20, final=0.5),
                schedules.Constant(),
                schedules.Exponential(rate=1.0),
            ),
            lengths=(10, 5),
        ),
        lambda t: 1 - 0.5 * t / 20 if t < 10 else 1 if t < 15 else math.exp(-(t - 15)),
    ),
    "sequence of one": (schedules.Sequential(schedules=(schedules.Constant(),), lengths=()), lambda t: 1),
    "scaled": (3.0 * schedules.Linear(total=T) * 0.5, lambda t: 1.5 * max(1 - t / T, 0)),
    "scaled sequence in a warm-up": (
        schedules.Warmup(
            steps=3,
            then=2.0
            * schedules.Sequential(schedules=(schedules.Step(every=4), schedules.Constant()), lengths=(8,)),
        ),
        lambda t: 2 * (t + 1) / 4 if t < 3 else 2 * (0.5 ** ((t - 3) // 4) if t - 3 < 8 else 1),
    ),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_form_at_every_step(name):
    schedule, form = CLOSED[name]
    steps = np.arange(T + 20)
    at_once = schedule(steps)
    assert at_once.dtype == np.float64
    assert at_once.flags.writeable
    np.testing.assert_allclose(at_once, [form(int(t)) for t in steps], rtol=1e-13, atol=1e-16)
    assert [schedule(int(t)) for t in steps] == at_once.tolist()
    assert type(schedule(3)) is float
    assert schedule(steps.reshape(5, 12)).tolist() == at_once.reshape(5, 12).tolist()


@pytest.mark.parametrize("name", CLOSED)
def test_script_is_the_same_function(name):
    schedule, _ = CLOSED[name]
    text = schedule.script()
    assert len(text.splitlines()) == 1
    function = eval(text, {"math": math})
    np.testing.assert_allclose(
        [function(t) for t in range(T + 20)], schedule(np.arange(T + 20)), rtol=1e-14, atol=1e-16
    )


def torch_factors(make, steps, base=1.0):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = make(optimizer)
    factors = []
    for _ in range(steps):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize(
    ("make", "schedule"),
    [
        (lambda o: lr_scheduler.StepLR(o, 7, gamma=0.3), schedules.Step(every=7, gamma=0.3)),
        (lambda o: lr_scheduler.ExponentialLR(o, math.exp(-0.05)), schedules.Exponential(rate=0.05)),
        (
            lambda o: lr_scheduler.CosineAnnealingLR(o, T - 1, eta_min=0.1),
            schedules.Cosine(total=T - 1, final=0.1),
        ),
        (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 10), schedules.Cosine(total=50, cycles=5)),
        (
            lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.2, total_iters=30),
            schedules.Linear(total=30, final=0.2),
        ),
        (lambda o: lr_scheduler.PolynomialLR(o, 30, power=2.0), schedules.Polynomial(total=30, power=2.0)),
        (
            lambda o: lr_scheduler.LinearLR(o, start_factor=0.1 + 0.9 / 9, total_iters=8),
            schedules.Warmup(steps=8, start=0.1),
        ),
        (
            lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=T + 1, pct_start=0.3, cycle_momentum=False),
            schedules.OneCycle(total=T, peak_at=0.3 * (T + 1) - 1),
        ),
        (
            lambda o: lr_scheduler.MultiStepLR(o, [10, 20], gamma=0.1),
            schedules.Piecewise(boundaries=(10, 20), factors=(1.0, 0.1, 0.01)),
        ),
    ],
)
def test_torch(make, schedule):
    np.testing.assert_allclose(torch_factors(make, T), schedule(np.arange(T)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CLOSED)
def test_as_the_function_of_lambda_lr(name):
    schedule, form = CLOSED[name]
    factors = torch_factors(lambda o: lr_scheduler.LambdaLR(o, schedule), T, base=0.5)
    np.testing.assert_allclose(factors, [0.5 * form(t) for t in range(T)], rtol=1e-13, atol=1e-16)


def test_lambda_lr_resumes():
    schedule = schedules.Cosine(total=T)

    def begin():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        return optimizer, lr_scheduler.LambdaLR(optimizer, schedule)

    optimizer, scheduler = begin()
    for _ in range(9):
        optimizer.step()
        scheduler.step()
    again, resumed = begin()
    again.load_state_dict(optimizer.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resumed.load_state_dict(scheduler.state_dict())
    again.step()
    resumed.step()
    assert again.param_groups[0]["lr"] == pytest.approx(0.1 * schedule(10), rel=1e-13)


def test_schedules_are_values():
    assert schedules.Cosine(total=9) == schedules.Cosine(total=9)
    assert len({schedules.Cosine(total=9), schedules.Cosine(total=9), schedules.Cosine(total=8)}) == 2
    assert (
        len(
            {
                schedules.Piecewise(boundaries=[1], factors=[1, 2]),
                schedules.Piecewise(boundaries=(1,), factors=(1, 2)),
            }
        )
        == 1
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: schedules.Step(every=0), "every of a schedule is 0 but must be at least 1"),
        (lambda: schedules.Step(every=1, gamma=0), "gamma"),
        (lambda: schedules.Exponential(rate=-1), "rate"),
        (lambda: schedules.InverseTime(rate=-1), "rate"),
        (lambda: schedules.InverseSquare(rate=-1), "rate"),
        (lambda: schedules.Piecewise(boundaries=(3, 2), factors=(1, 2, 3)), "in rising order"),
        (lambda: schedules.Piecewise(boundaries=(2,), factors=(1,)), "one more than"),
        (lambda: schedules.Linear(total=0), "total"),
        (lambda: schedules.Linear(total=1, final=-1), "final"),
        (lambda: schedules.Polynomial(total=1, power=0), "power"),
        (lambda: schedules.Cosine(total=1, cycles=0), "cycles"),
        (lambda: schedules.OneCycle(total=4, peak_at=5), "peak_at"),
        (lambda: schedules.OneCycle(total=4, peak_at=2, start=-1), "start"),
        (lambda: schedules.WarmupStableDecay(total=4, warmup=3, decay=2), "total"),
        (lambda: schedules.WarmupStableDecay(total=4, warmup=-1, decay=2), "warmup"),
        (lambda: schedules.Warmup(steps=0), "steps"),
        (lambda: schedules.Warmup(steps=1, start=2), "start"),
        (lambda: schedules.Sequential(schedules=(), lengths=()), "schedules"),
        (lambda: schedules.Sequential(schedules=(schedules.Constant(),), lengths=(1,)), "one fewer"),
        (
            lambda: schedules.Sequential(schedules=(schedules.Constant(),) * 2, lengths=(0,)),
            "at least 1 each",
        ),
    ],
)
def test_bad_arguments(make, words):
    with pytest.raises(OptionError, match=words):
        make()
