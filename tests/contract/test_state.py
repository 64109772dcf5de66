"""What an optimizer remembers: saved, loaded, copied, handed to torch's class and back."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from contract.subjects import (
    SUBJECTS,
    Problem,
    Subject,
    close,
    every_subject,
    train,
    trees_equal,
)
from thalweg.schedules import Cosine, Driver


@every_subject
def test_a_state_taken_in_the_middle_continues_bit_for_bit(subject: Subject) -> None:
    """Through a file that holds no code, before some parameters had gradients, under a schedule."""
    number = subject.number
    for taken, dtype in ((1, torch.float32), (3, torch.float64)):
        first, second = Problem(dtype), Problem(dtype)
        begun = subject.make(first.params)
        driver = Driver(begun, {number: Cosine(total=10)})
        driven(subject, begun, driver, first, range(taken))
        file = io.BytesIO()
        torch.save([first.state_dict(), begun.state_dict(), driver.state_dict()], file)
        driven(subject, begun, driver, first, range(taken, 5))

        file.seek(0)
        model, state, steps = torch.load(file, weights_only=True)
        second.load_state_dict(model)
        resumed = subject.make(second.params)
        driver = Driver(resumed, {number: Cosine(total=10)})
        resumed.load_state_dict(state)
        driver.load_state_dict(steps)
        assert trees_equal(resumed.state_dict()["state"], state["state"])
        driven(subject, resumed, driver, second, range(taken, 5))
        assert trees_equal(first.params, second.params)
        assert trees_equal(begun.state_dict()["state"], resumed.state_dict()["state"])


def driven(subject: Subject, optimizer: Any, driver: Driver, problem: Problem, steps: range) -> None:
    for step in steps:
        train(subject, optimizer, problem, range(step, step + 1))
        driver.step()


@every_subject
def test_copies_go_ways_of_their_own(subject: Subject) -> None:
    problem = Problem()
    optimizer = subject.make(problem.params)
    train(subject, optimizer, problem, range(3))
    before = copy.deepcopy(optimizer.state_dict())
    twins = [
        copy.deepcopy((problem, optimizer)),
        pickle.loads(pickle.dumps((problem, optimizer))),
    ]
    for other, copied in twins:
        assert type(copied) is type(optimizer)
        train(subject, copied, other, range(3, 5))
    assert trees_equal(optimizer.state_dict(), before)
    train(subject, optimizer, problem, range(3, 5))
    for other, copied in twins:
        assert trees_equal(other.params, problem.params)
        assert trees_equal(copied.state_dict(), optimizer.state_dict())


@every_subject
def test_loading_copies_what_it_loads(subject: Subject) -> None:
    first, second = Problem(), Problem()
    one, two = subject.make(first.params), subject.make(second.params)
    train(subject, one, first, range(3))
    given = one.state_dict()
    before = copy.deepcopy(given)
    two.load_state_dict(given)
    train(subject, two, second, range(3, 6))
    assert trees_equal(one.state_dict(), before)


@every_subject
def test_a_checkpoints_numbers_win(subject: Subject) -> None:
    number = subject.number
    one = subject.make(Problem().params, **{number: 0.015625})
    two = subject.make(Problem().params)
    two.load_state_dict(one.state_dict())
    assert two.param_groups[0][number] == one.param_groups[0][number] != subject.settings.get(number)


@every_subject
def test_named_parameters_keep_their_names(subject: Subject) -> None:
    problem = Problem()
    optimizer = subject.make(problem.named_parameters())
    train(subject, optimizer, problem, range(1))
    names = [name for name, _ in problem.named_parameters()]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == names


@every_subject
def test_hooks_of_state_and_step_are_called(subject: Subject) -> None:
    problem = Problem()
    optimizer = subject.make(problem.params)
    said: list[str] = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: said.append("before")),
        optimizer.register_step_post_hook(lambda *_: said.append("after")),
        optimizer.register_state_dict_pre_hook(lambda *_: said.append("saving")),
        optimizer.register_state_dict_post_hook(lambda *_: said.append("saved")),
        optimizer.register_load_state_dict_pre_hook(lambda *_: said.append("loading")),
        optimizer.register_load_state_dict_post_hook(lambda *_: said.append("loaded")),
    ]
    train(subject, optimizer, problem, range(1))
    optimizer.load_state_dict(optimizer.state_dict())
    assert said == ["before", "after", "saving", "saved", "loading", "loaded"]
    for handle in handles:
        handle.remove()
    train(subject, optimizer, problem, range(1))
    assert len(said) == 6


@every_subject
def test_hooks_change_what_is_saved_and_loaded(subject: Subject) -> None:
    """A hook that returns another state is followed, whatever the optimizer does with the state itself."""
    first, second, third = Problem(), Problem(), Problem()
    one, two, three = (subject.make(problem.params) for problem in (first, second, third))
    train(subject, one, first, range(3))
    for problem in (second, third):
        problem.load_state_dict(first.state_dict())
    one.register_state_dict_post_hook(lambda _, found: {"wrapped": copy.deepcopy(found), "by": "a hook"})
    two.register_load_state_dict_pre_hook(lambda _, given: given["wrapped"])
    loaded: list[Any] = []
    two.register_load_state_dict_post_hook(lambda it: loaded.append(copy.deepcopy(it.state_dict())))
    given = one.state_dict()
    assert given.keys() == {"wrapped", "by"}
    two.load_state_dict(given)
    three.load_state_dict(given["wrapped"])
    # hooks that come after see what was made of it
    assert trees_equal(loaded[0], two.state_dict())
    assert trees_equal(loaded[0], given["wrapped"])
    train(subject, two, second, range(3, 5))
    train(subject, three, third, range(3, 5))
    assert trees_equal(second.params, third.params)
    assert trees_equal(two.state_dict(), three.state_dict())


@every_subject
def test_what_others_keep_in_the_state_stays(subject: Subject) -> None:
    """Entries of hooks or by hand, beside ours and where we keep nothing: saved, loaded, in nobody's way."""
    mine: dict[str, Any] = {
        "note": "mine",
        "seen": torch.arange(3),
        "wide": torch.tensor([1 / 3], dtype=torch.float64),
        "list": [1, 2.5, "x"],
    }
    plain, marked = Problem(torch.float32), Problem(torch.float32)
    if subject.name.startswith("newton:max_iter=1:hess"):
        plain, marked = Problem(), Problem()
    one, two = subject.make(plain.params), subject.make(marked.params)

    def mark(problem: Problem, optimizer: Any) -> None:
        for p in (problem.frozen, problem.inner, problem.late):
            optimizer.state[p] |= copy.deepcopy(mine)

    def marks(problem: Problem, optimizer: Any) -> list[dict[str, Any]]:
        marked = (problem.frozen, problem.inner, problem.late)
        return [{name: optimizer.state[p][name] for name in mine} for p in marked]

    mark(marked, two)
    two.state["of nobody"] = 5
    train(subject, one, plain, range(2))
    train(subject, two, marked, range(2))
    assert trees_equal(plain.params, marked.params)
    state = copy.deepcopy(two.state_dict())
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    resumed = subject.make(marked.params)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert trees_equal(marks(marked, resumed), [mine] * 3)
    assert resumed.state["of nobody"] == 5
    assert trees_equal(resumed.state_dict()["state"], state["state"])
    train(subject, one, plain, range(2, 4))
    train(subject, resumed, marked, range(2, 4))
    assert trees_equal(plain.params, marked.params)
    assert trees_equal(marks(marked, resumed), [mine] * 3)


@every_subject
def test_a_state_is_of_the_parameters_that_it_was_made_with(subject: Subject) -> None:
    """Layers of one shape, frozen and unfrozen around saving and loading: no curvature of another layer."""
    for saved_frozen, then_frozen in (("second", "first"), ("second", ""), ("", "first"), ("first", "first")):
        ways = [Layers(), Layers()]
        ends = []
        for restart, layers in enumerate(ways):
            layers.freeze(saved_frozen)
            optimizer: Any = subject.make(layers.parameters())
            for _ in range(2):
                subject.step(optimizer, layers.residuals)
            layers.freeze(then_frozen)
            optimizer.zero_grad()
            if restart:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = subject.make(layers.parameters())
                optimizer.load_state_dict(state)
            for _ in range(2):
                subject.step(optimizer, layers.residuals)
            ends.append([*layers.parameters(), optimizer.state_dict()["state"]])
        assert trees_equal(*ends)


class Layers(nn.Module):
    """Two layers of one shape, the curvature of which is not the same."""

    def __init__(self) -> None:
        super().__init__()
        begin = torch.linspace(-1, 1, 4, dtype=torch.float64).reshape(2, 2)
        self.first, self.second = nn.Parameter(begin.clone()), nn.Parameter(begin.clone() / 2)

    def freeze(self, name: str) -> None:
        for known, p in self.named_parameters():
            p.requires_grad_(known != name)

    def residuals(self) -> torch.Tensor:
        return torch.cat([(self.first**3 - 1).reshape(-1), (20 * (self.second - 1)).tanh().reshape(-1)])


@every_subject
def test_torchs_helper_for_checkpoints_gets_and_sets_the_state(subject: Subject) -> None:
    """It takes a step with zero gradients where there is no state yet, and names parameters by path."""
    first, second = Problem(), Problem()
    one = subject.make([p for p in first.params if p.requires_grad])
    two = subject.make([p for p in second.params if p.requires_grad])
    train(subject, one, first, range(2, 4))
    second.load_state_dict(first.state_dict())
    # what searches keep is all in the state of their first parameter
    options = StateDictOptions(strict=subject.step_kind == "gradient")
    set_optimizer_state_dict(second, two, get_optimizer_state_dict(first, one), options=options)
    train(subject, one, first, range(4, 6))
    train(subject, two, second, range(4, 6))
    assert trees_equal(first.params, second.params)


# Classes that torch has under the same name, but which don't do the same, and why.
OTHERWISE = {
    "muon": "torch's takes matrices alone; the rest is AdamW's here",
    "lbfgs": "torch's search is another; without a search the steps are the same",
    "lbfgs:line_search_fn=hager_zhang": "torch has no such search",
    "rprop:overshoot=back:step_sizes=None": "torch neither goes back nor does without limits",
}
TWINS = [subject for subject in SUBJECTS if subject.torchs is not None and subject.name not in OTHERWISE]


@pytest.mark.parametrize("subject", TWINS, ids=[subject.name for subject in TWINS])
def test_states_go_to_torchs_class_and_back(subject: Subject) -> None:
    """From ours to torch's to ours, beside ours alone, with options that are those of the state."""
    travelled, stayed = Problem(), Problem()
    ours = subject.make(stayed.params)
    optimizer: Any = subject.make(travelled.params)
    for step, other in ((2, None), (5, subject.torchs), (8, subject.make), (11, subject.torchs)):
        if other is not None:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer = other(travelled.params, lr=0.5)
            optimizer.load_state_dict(state)
        for now in range(step, step + 3):
            # one batch, since torch's LBFGS takes a change of batch for one of gradients
            batch = now % 3 if subject.step_kind == "gradient" else 0
            subject.step(optimizer, lambda batch=batch: travelled.residuals(batch))  # type: ignore[misc]
            subject.step(ours, lambda batch=batch: stayed.residuals(batch))  # type: ignore[misc]
        close(travelled.params, stayed.params, 1e-6)
        assert optimizer.param_groups[0]["lr"] == ours.param_groups[0]["lr"]


def test_what_torch_does_otherwise_it_refuses_itself() -> None:
    assert set(OTHERWISE) <= {subject.name for subject in SUBJECTS}
    with pytest.raises(ValueError, match="2D"):
        torch.optim.Muon([nn.Parameter(torch.ones(2))])
