"""Groups and their numbers: apart, added later, climbing, decaying, scheduled."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch

from contract.subjects import (
    SUBJECTS,
    Problem,
    Subject,
    close,
    every_subject,
    numbered,
    promised,
    train,
    trees_equal,
)
from thalweg import catalogue
from thalweg.errors import OptionError
from thalweg.schedules import Driver, Linear

# Decay that isn't added to the gradient: before the step, after it, or at an iterate beside the parameter.
DECOUPLED = {"adamw": "before", "lion": "before", "muon": "before", "soap": "after"}
ITERATE = "schedule-free"

# Numbers whose later values can't matter, and why.
SETTLED = {
    ("adagrad", "initial_accumulator_value"): "every sum begins with it, before the first step",
    ("sgd", "dampening"): "there is no velocity",
    ("rprop", "step_size_max"): "the ceiling is far away",
    ("rprop", "step_size_min"): "the floor is far away",
    ("muon", "eps"): "no momentum is that small",
    **{(name, "sgd_lr"): "no gradient steps come first" for name in catalogue.names() if name[:3] == "cg-"},
    **{
        (subject.name, "damping"): "it is the first one; later ones follow from how steps went"
        for subject in SUBJECTS
        if subject.name.startswith("levenberg-marquardt")
    },
}


@every_subject
def test_groups_that_agree_are_one_group(subject: Subject) -> None:
    whole, split = Problem(), Problem()
    one = subject.make(whole.params)
    params = split.params
    two = subject.make([{"params": params[:2]}, {"params": []}, {"params": params[2:]}])
    train(subject, one, whole, range(5))
    train(subject, two, split, range(5))
    assert trees_equal(whole.params, split.params)


@every_subject
def test_each_group_has_numbers_of_its_own(subject: Subject) -> None:
    number = subject.number
    together, apart = Problem(), Problem()
    with promised(subject, "groups of their own"):
        slow = {number: 0.005}
        one = subject.make([{"params": together.params[:3], **slow}, {"params": together.params[3:]}])
        two = subject.make(apart.params[:3], **slow), subject.make(apart.params[3:])
        for step in range(6):
            numbered(together.params, step)
            numbered(apart.params, step)
            for optimizer in (one, *two):
                optimizer.step()
        assert trees_equal(together.params, apart.params)


@every_subject
def test_a_group_added_later_begins_anew(subject: Subject) -> None:
    grown, fresh = Problem(), Problem()
    early = [p for p in grown.params if p is not grown.inner]
    one = subject.make(early)
    train(subject, one, grown, range(3))
    fresh.load_state_dict(grown.state_dict())
    one.add_param_group({"params": [grown.inner]})
    if subject.step_kind == "gradient":
        two = subject.make([fresh.inner])
        for step in range(3, 7):
            numbered([grown.inner], step)
            numbered([fresh.inner], step)
            one.step()
            two.step()
        assert trees_equal(grown.inner, fresh.inner)
    else:
        # what was learned about curvature holds for other parameters
        others = [p for p in fresh.params if p is not fresh.inner]
        begun = {"sgd_steps": 0} if "sgd_steps" in subject.numbers else {}
        two = subject.make([*others, fresh.inner], **begun)
        train(subject, one, grown, range(3, 7))
        train(subject, two, fresh, range(3, 7))
        assert trees_equal(grown.params, fresh.params)
    assert not torch.equal(grown.inner, Problem().inner)


@every_subject
def test_a_group_that_is_refused_is_not_there(subject: Subject) -> None:
    tried, untried = Problem(), Problem()
    one, two = subject.make(tried.params), subject.make(untried.params)
    more = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    # what is out of range is the affair of whoever's own rule it is
    wrong = "much" if subject.name == "own" else -1.0
    with pytest.raises(OptionError):
        one.add_param_group({"params": [more], subject.number: wrong})
    assert len(one.param_groups) == 1
    train(subject, one, tried, range(2))
    train(subject, two, untried, range(2))
    assert trees_equal(tried.params, untried.params)


@every_subject
def test_maximize_climbs(subject: Subject) -> None:
    up, down = Problem(), Problem()
    with promised(subject, "maximize"):
        climbing = subject.make([{"params": up.params, "maximize": True}])
        falling = subject.make(down.params)
        if subject.step_kind != "gradient":
            for step in range(4):
                high = climbing.step(subject.closure(climbing, lambda now=step: up.residuals(now), -1))
                low = falling.step(subject.closure(falling, lambda now=step: down.residuals(now)))
                assert torch.equal(-high, low)
            assert trees_equal(up.params, down.params)
            return
        for step in range(6):
            numbered(up.params, step)
            for p, q in zip(up.params, down.params, strict=True):
                q.grad = None if p.grad is None else -p.grad
            climbing.step()
            falling.step()
        assert trees_equal(up.params, down.params)


@every_subject
def test_weight_decay_is_coupled_or_decoupled_exactly(subject: Subject) -> None:
    a, b = Problem().params, Problem().params
    with promised(subject, "weight decay"):
        decayed = subject.make([{"params": a, "weight_decay": 0.1}])
        plain = subject.make(b, weight_decay=0.0)
        kind = DECOUPLED.get(subject.name.partition(":")[0], "coupled")
        if subject.entry.call.fixed.get("decoupled_weight_decay"):
            kind = "before"
        if subject.name.startswith(ITERATE):
            kind = "iterate"
        follow_decay(decayed, plain, a, b, kind)


@pytest.mark.parametrize(
    "subject",
    [s for s in SUBJECTS if "decoupled_weight_decay" in inspect.signature(s.entry.call.target).parameters],
    ids=lambda subject: subject.name,
)
@pytest.mark.parametrize("decoupled", [True, False])
def test_decay_is_what_the_switch_says(subject: Subject, decoupled: bool) -> None:
    a, b = Problem().params, Problem().params
    decayed = subject.make([{"params": a, "weight_decay": 0.1, "decoupled_weight_decay": decoupled}])
    plain = subject.make(b, weight_decay=0.0)
    follow_decay(decayed, plain, a, b, "before" if decoupled else "coupled")


def follow_decay(decayed: Any, plain: Any, a: list[Any], b: list[Any], kind: str) -> None:
    """Give the undecayed optimizer by hand what the other does by itself."""
    lr, decay = plain.param_groups[0]["lr"], 0.1
    for step in range(6):
        numbered(a, step)
        with torch.no_grad():
            for p, q in zip(a, b, strict=True):
                q.grad = None if p.grad is None else p.grad + (decay * p if kind == "coupled" else 0)
                if kind == "before" and q.grad is not None:
                    q.mul_(1 - lr * decay)
            before = [q.detach().clone() for q in b]
            decayed.step()
            plain.step()
            first_of_soap = "bases" in plain.state[b[0]] and step == 0
            for q, old in zip(b, before, strict=True):
                if kind == "after" and q.grad is not None and not first_of_soap:
                    q.mul_(1 - lr * decay)
                elif kind == "iterate" and q.grad is not None:
                    follow_iterate(plain, q, old, lr * decay)
        close(a, b)


def follow_iterate(plain: Any, y: torch.Tensor, old: torch.Tensor, pull: float) -> None:
    """Decay the iterate of an averaging optimizer by what its training point was, warm-up included."""
    group, state = plain.param_groups[0], plain.state[y]
    t, beta1 = float(state["step"]), group["betas"][0]
    rate = min(1.0, t / max(group["warmup_steps"], 1.0))
    weight = t ** group["r"] * float(state["lr_max"]) ** group["weight_lr_power"]
    share = weight / float(state["weight_sum"])
    state["z"].sub_(rate * pull * old)
    y.sub_((beta1 * share + 1 - beta1) * rate * pull * old)


NUMBERS = [(subject, number) for subject in SUBJECTS for number in subject.numbers]


@pytest.mark.parametrize(("subject", "number"), NUMBERS, ids=[f"{s.name}-{n}" for s, n in NUMBERS])
def test_every_number_follows_its_schedule(subject: Subject, number: str) -> None:
    """As if a fresh optimizer with that step's value had taken over; and not as without a schedule."""
    hyper = next(h for h in subject.entry.hyperparameters if h.name == number)
    base = 4 if hyper.whole else subject.settings.get(number, hyper.default) or hyper.high / 2
    # some have to stay whole, some over 1
    fall = Linear(total=4 if hyper.whole else 8 if hyper.low < 1 else 40)
    driven, handed, steady = Problem(), Problem(), Problem()
    optimizer = subject.make(driven.params, **{number: base})
    driver = Driver(optimizer, {subject.key(number): fall})
    state: dict[str, Any] = {}
    for step in range(4):
        train(subject, optimizer, driven, range(step, step + 1))
        driver.step()
        fresh = subject.make(handed.params, **{number: base})
        if state:
            fresh.load_state_dict({"state": state, "param_groups": fresh.state_dict()["param_groups"]})
        Driver(fresh, {subject.key(number): lambda _, now=step: float(fall(now))})  # type: ignore[misc]
        train(subject, fresh, handed, range(step, step + 1))
        state = copy.deepcopy(fresh.state_dict()["state"])
        assert trees_equal(driven.params, handed.params)
    constant = subject.make(steady.params, **{number: base})
    train(subject, constant, steady, range(4))
    same = trees_equal(driven.params, steady.params)
    assert same == ((subject.name, number) in SETTLED)


@every_subject
def test_torchs_schedulers_and_ours_move_the_rate_alike(subject: Subject) -> None:
    theirs, ours = Problem(), Problem()
    one, two = subject.make(theirs.params), subject.make(ours.params)
    with promised(subject, "a rate"):
        driver = Driver(two, {"lr": lambda step: 1 / (1 + step)})
        scheduler = torch.optim.lr_scheduler.LambdaLR(one, lambda step: 1 / (1 + step))
        for step in range(4):
            train(subject, one, theirs, range(step, step + 1))
            train(subject, two, ours, range(step, step + 1))
            scheduler.step()
            driver.step()
        assert trees_equal(theirs.params, ours.params)


@every_subject
def test_a_rate_may_be_a_tensor(subject: Subject) -> None:
    a, b = Problem(), Problem()
    if "lr" not in subject.numbers:
        assert "lr" not in subject.make(a.params).param_groups[0]
        return
    one = subject.make(a.params, lr=torch.tensor(0.25, dtype=torch.float64))
    two = subject.make(b.params, lr=0.25)
    train(subject, one, a, range(3))
    train(subject, two, b, range(3))
    assert trees_equal(a.params, b.params)
