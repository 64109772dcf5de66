"""The driver on torch's optimizers, and the plateau against torch's."""

import math
import random

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from thalweg import schedules
from thalweg.errors import OptionError


def parameters(n=1):
    return [torch.nn.Parameter(torch.ones(2)) for _ in range(n)]


def test_drives_anything_numeric_from_each_groups_base():
    a, b = parameters(2)
    optimizer = torch.optim.AdamW(
        [{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.2, "betas": (0.5, 0.99)}]
    )
    linear, cosine = schedules.Linear(total=10), schedules.Cosine(total=10, final=0.5)
    driver = schedules.Driver(optimizer, {"lr": linear, "betas.0": cosine, "weight_decay": linear})
    for step in range(12):
        for group, lr, betas in zip(
            optimizer.param_groups, (0.1, 0.2), ((0.9, 0.999), (0.5, 0.99)), strict=True
        ):
            assert group["lr"] == lr * linear(step)
            assert group["betas"] == (betas[0] * cosine(step), betas[1])
            assert group["weight_decay"] == 0.01 * linear(step)
        assert driver.values()[1]["betas.0"] == 0.5 * cosine(step)
        driver.step()


def test_drives_momentum_of_sgd():
    optimizer = torch.optim.SGD(parameters(), lr=1, momentum=0.9)
    driver = schedules.Driver(optimizer, {"momentum": schedules.Step(every=1, gamma=0.5)})
    driver.step()
    assert optimizer.param_groups[0]["momentum"] == 0.45
    assert optimizer.param_groups[0]["lr"] == 1


def test_equals_lambda_lr_on_a_real_run():
    def run(with_driver):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        schedule = schedules.build("one-cycle", total=20)
        if with_driver:
            scheduler = schedules.Driver(optimizer, {"lr": schedule})
        else:
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        for _ in range(20):
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().sum().backward()
            optimizer.step()
            scheduler.step()
        return model.weight.detach().clone()

    assert torch.equal(run(True), run(False))


def test_a_tensor_rate_is_filled_in_place():
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam(parameters(), lr=rate, foreach=False)
    held = optimizer.param_groups[0]["lr"]
    driver = schedules.Driver(optimizer, {"lr": schedules.Linear(total=2)})
    driver.step()
    assert optimizer.param_groups[0]["lr"] is held
    assert held.item() == 0.25


def test_a_group_added_later():
    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    driver = schedules.Driver(optimizer, {"lr": schedules.Linear(total=10)})
    driver.step()
    optimizer.add_param_group({"params": parameters(), "lr": 5.0})
    driver.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.8, 4.0]


def test_a_function_is_a_schedule():
    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    driver = schedules.Driver(optimizer, {"lr": lambda step: 1 / (1 + step)})
    driver.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("late", [False, True])
def test_resume(late):
    """Whatever the optimizer holds when the second driver is made: rates as they were, or as they begin."""

    def begin(state=None):
        optimizer = torch.optim.Adam(parameters(), lr=0.1)
        if state is not None:
            optimizer.load_state_dict(state)
        plateau = schedules.Plateau(higher_is_better=True, patience=1)
        return optimizer, schedules.Driver(optimizer, {"lr": schedules.Cosine(total=30), "betas.0": plateau})

    metrics = [0.1, 0.2, 0.2, 0.2, 0.15, 0.1, 0.3, 0.3, 0.2, 0.2]
    optimizer, driver = begin()
    for metric in metrics[:5]:
        driver.step()
        driver.observe(metric)
    state, optimizer_state = driver.state_dict(), optimizer.state_dict()
    again, resumed = begin(optimizer_state if late else None)
    again.load_state_dict(optimizer_state)
    resumed.load_state_dict(state)
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    for metric in metrics[5:]:
        for one in (driver, resumed):
            one.step()
            one.observe(metric)
        assert driver.values() == resumed.values()
    assert driver.state_dict() == resumed.state_dict()
    assert driver.state_dict()["plateaus"]["betas.0"]["factor"] < 0.1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lrr", "no number 'lrr' to drive; did you mean 'lr'"),
        ("betas", "has 2 numbers, 'betas' is none"),
        ("betas.2", "'betas.2' is none"),
        ("betas.x", "'betas.x' is none"),
        ("lr.0", "leave out the index"),
        ("amsgrad", "no number 'amsgrad'"),
        ("params", "no number 'params'"),
    ],
)
def test_bad_names(name, words):
    optimizer = torch.optim.Adam(parameters())
    with pytest.raises(OptionError, match=words):
        schedules.Driver(optimizer, {name: schedules.Constant()})


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("cooldown", [0, 3])
@pytest.mark.parametrize("patience", [0, 2])
# the worst infinity first, and between; the best one late (it ends all progress)
@pytest.mark.parametrize("infinite", [{}, {0: 1}, {0: 1, 1: 1, 7: 1}, {9: -1, 20: 1, 30: -1}])
def test_plateau_is_torchs(mode, relative, cooldown, patience, infinite):
    optimizer = torch.optim.SGD(parameters(), lr=1.0)
    theirs = ReduceLROnPlateau(
        optimizer,
        mode=mode,
        factor=0.3,
        patience=patience,
        threshold=0.05,
        threshold_mode="rel" if relative else "abs",
        cooldown=cooldown,
        min_lr=0.01,
        eps=0.0,
    )
    ours = schedules.Plateau(
        higher_is_better=mode == "max",
        decay=0.3,
        patience=patience,
        threshold=0.05,
        relative=relative,
        cooldown=cooldown,
        minimum=0.01,
    )
    draw = random.Random(7)
    factors = []
    for step in range(60):
        metric = (
            math.nan if step % 11 == 5 else 1.0 + draw.random() * (0.97**step if mode == "min" else step / 20)
        )
        if step in infinite:
            metric = (math.inf if mode == "min" else -math.inf) * infinite[step]
        theirs.step(metric)
        factors.append(ours.observe(metric))
        assert factors[-1] == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        assert ours(step) == factors[-1]
    assert min(factors) < 0.1


def test_plateau_with_a_negative_best():
    plateau = schedules.Plateau(higher_is_better=True, patience=0, threshold=0.01)
    assert [plateau.observe(metric) for metric in (-0.5, -0.4, -0.4, -0.41)] == pytest.approx(
        [1, 1, 0.1, 0.01]
    )


def test_plateau_repeats_and_has_a_floor():
    plateau = schedules.Plateau(higher_is_better=False, patience=1, minimum=0.005)
    assert [plateau.observe(1.0) for _ in range(9)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01, 0.005, 0.005, 0.005]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("decay", 1.0), ("decay", 0.0), ("patience", -1), ("threshold", -1), ("cooldown", -1), ("minimum", 2)],
)
def test_plateau_refuses(name, value):
    with pytest.raises(OptionError, match=name):
        schedules.Plateau(**{"higher_is_better": True, name: value})
