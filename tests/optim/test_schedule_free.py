"""ScheduleFreeAdamW against the authors' package, and its two points."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from thalweg import optim
from thalweg.errors import OptionError

from .problems import close, parameters, set_gradients, snapshot, train

CASES: list[dict[str, Any]] = [
    {},
    {"lr": 0.05, "betas": (0.7, 0.9), "eps": 1e-4, "weight_decay": 0.1},
    {"lr": 0.05, "warmup_steps": 9},
    {"lr": 0.05, "warmup_steps": 4, "r": 1.5, "weight_lr_power": 1.0, "weight_decay": 0.1},
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_equal_to_the_authors_step_by_step(
    options: dict[str, Any], foreach: bool, dtype: torch.dtype
) -> None:
    package = pytest.importorskip("schedulefree")
    a, b = parameters(dtype), parameters(dtype)
    ours = optim.ScheduleFreeAdamW(a, **options)
    theirs = package.AdamWScheduleFree(b, foreach=foreach, **options)
    theirs.train()
    for step in range(40):
        lr = options.get("lr", 0.0025) * (1 + step % 3)
        for optimizer, params in ((ours, a), (theirs, b)):
            optimizer.param_groups[0]["lr"] = lr
            set_gradients(params, step)
            optimizer.step()
        close(a, b, dtype)
        if step % 10 == 5:
            ours.eval()
            theirs.eval()
            close(a, b, dtype)
            ours.train()
            theirs.train()
    for p, q in zip(a, b, strict=True):
        close(ours.state[p]["z"], theirs.state[q]["z"], dtype)
        close(ours.state[p]["exp_avg_sq"], theirs.state[q]["exp_avg_sq"], dtype)
        assert ours.state[p]["weight_sum"].item() == pytest.approx(theirs.param_groups[0]["weight_sum"])


def test_the_mean_is_the_mean_of_the_iterates() -> None:
    """With constant rates and no powers: every z weighs the same, and the start nothing."""
    p = torch.nn.Parameter(torch.tensor([1.0, -3.0], dtype=torch.float64))
    optimizer = optim.ScheduleFreeAdamW([p], lr=0.1, r=0.0, weight_lr_power=0.0)
    iterates = []
    for step in range(12):
        set_gradients([p], step)
        optimizer.step()
        iterates.append(optimizer.state[p]["z"].clone())
    optimizer.eval()
    close(p, torch.stack(iterates).mean(0))


def test_there_and_back_costs_no_bit_and_twice_is_once() -> None:
    a, b = parameters(torch.float32), parameters(torch.float32)
    looking, steady = optim.ScheduleFreeAdamW(a, lr=0.05), optim.ScheduleFreeAdamW(b, lr=0.05)
    looking.eval()
    looking.train()
    for step in range(8):
        train(looking, a, range(step, step + 1))
        train(steady, b, range(step, step + 1))
        looking.eval()
        mean = a[0].detach().clone()
        looking.eval()
        assert torch.equal(a[0], mean)
        assert step == 0 or not torch.equal(a[0], b[0])
        looking.train()
        looking.train()
        assert all(map(torch.equal, a, b))
        assert set(looking.state[a[0]]) == {"step", "z", "exp_avg_sq", "weight_sum", "lr_max"}


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_a_checkpoint_of_either_mode_goes_on_to_the_bit(evaluating: bool, dtype: torch.dtype) -> None:
    a = parameters(dtype)
    first = optim.ScheduleFreeAdamW(a, lr=0.05)
    train(first, a, range(5))
    if evaluating:
        first.eval()
    b = [torch.nn.Parameter(p.detach().clone()) for p in a]
    second = optim.ScheduleFreeAdamW(b)
    second.load_state_dict(snapshot(first))
    assert second.param_groups[0]["train_mode"] is not evaluating
    first.train()
    second.train()
    train(first, a, range(5, 10))
    train(second, b, range(5, 10))
    assert all(map(torch.equal, a, b))


def test_a_step_while_evaluating_is_refused() -> None:
    params = parameters()
    optimizer = optim.ScheduleFreeAdamW(params)
    train(optimizer, params, range(2))
    optimizer.eval()
    with pytest.raises(OptionError, match=r"call optimizer\.train\(\) before the forward pass"):
        train(optimizer, params, range(2, 3))
