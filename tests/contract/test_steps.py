"""One step: what it returns, what it leaves alone, and what it does with odd parameters and numbers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contract.subjects import (
    Problem,
    Subject,
    close,
    every_subject,
    half_square,
    numbered,
    promised,
    train,
    trees_equal,
)
from thalweg.errors import OptionError


@every_subject
def test_a_closure_runs_with_autograd_and_its_loss_is_returned(subject: Subject) -> None:
    problem, plain = Problem(), Problem()
    optimizer, by_hand = subject.make(problem.params), subject.make(plain.params)
    returned: list[Any] = []
    closure = subject.closure(optimizer, lambda: problem.residuals(2))

    def watched() -> Any:
        assert torch.is_grad_enabled()
        returned.append(closure())
        return returned[-1]

    before = float(half_square(problem.residuals(2)).detach())
    with torch.no_grad():
        given = optimizer.step(watched)
        assert not torch.is_grad_enabled()
    assert float(given.detach()) == pytest.approx(before)
    if subject.step_kind == "gradient":
        assert len(returned) == 1
        assert given is returned[0]
    subject.step(by_hand, lambda: plain.residuals(2))
    assert trees_equal(problem.params, plain.params)


@every_subject
def test_nothing_happens_without_gradients(subject: Subject) -> None:
    problem, undisturbed = Problem(), Problem()
    optimizer, other = subject.make(problem.params), subject.make(undisturbed.params)
    for step in range(4):
        optimizer.zero_grad()
        before = copy.deepcopy((problem.params, optimizer.state_dict()))
        assert optimizer.step() is None
        assert trees_equal((problem.params, optimizer.state_dict()), before)
        train(subject, optimizer, problem, range(step, step + 1))
        train(subject, other, undisturbed, range(step, step + 1))
    assert trees_equal(problem.params, undisturbed.params)


@every_subject
def test_gradients_without_the_closure_that_it_needs_are_refused(subject: Subject) -> None:
    problem = Problem()
    optimizer = subject.make(problem.params)
    half_square(problem.residuals(2)).backward()
    if subject.step_kind == "gradient":
        assert optimizer.step() is None
        return
    with pytest.raises(OptionError, match="step needs a closure that recomputes the loss; give it one"):
        optimizer.step()


@every_subject
def test_what_has_no_gradient_stays_and_the_rest_moves(subject: Subject) -> None:
    problem = Problem()
    optimizer = subject.make(problem.params)
    begun = copy.deepcopy(problem)
    # SOAP only looks around at its first step
    train(subject, optimizer, problem, range(2))
    for name in ("late", "frozen", "empty"):
        assert torch.equal(getattr(problem, name), getattr(begun, name)), name
    for name in ("inner", "bias", "outer", "scale"):
        assert not torch.equal(getattr(problem, name), getattr(begun, name)), name
    train(subject, optimizer, problem, range(2, 5))
    assert not torch.equal(problem.late, begun.late)
    assert torch.equal(problem.frozen, begun.frozen)


@every_subject
def test_a_step_over_nothing_but_frozen_parameters_is_no_error(subject: Subject) -> None:
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = subject.make([{"params": [frozen]}, {"params": []}])
    assert optimizer.step() is None
    given = subject.step(optimizer, lambda: nn.Parameter(torch.ones(1)) * 2 + frozen)
    assert subject.step_kind == "gradient" or float(given.detach()) == 9
    assert torch.equal(frozen, torch.ones(2))
    # and with groups of nothing at all there is nothing to save or to load
    bare = subject.make([{"params": []}])
    bare.load_state_dict(bare.state_dict())
    assert bare.step() is None
    assert bare.state_dict()["state"] == {}


@every_subject
def test_a_step_over_no_elements_is_none(subject: Subject) -> None:
    with promised(subject, "nothing"):
        empty = nn.Parameter(torch.ones(0, 3))
        optimizer = subject.make([empty])
        subject.step(optimizer, lambda: empty.sum() + nn.Parameter(torch.ones(1)))
        assert optimizer.step() is None


@every_subject
def test_unfrozen_and_frozen_on_the_way(subject: Subject) -> None:
    """Layer by layer: what is trained changes while the optimizer stays."""
    problem = Problem()
    problem.outer.requires_grad_(False)
    optimizer = subject.make(problem.params)
    train(subject, optimizer, problem, range(2, 4))
    resting = problem.outer.detach().clone()
    assert torch.equal(resting, Problem().outer)
    problem.outer.requires_grad_(True)
    problem.inner.requires_grad_(False)
    optimizer.zero_grad()
    inner = problem.inner.detach().clone()
    train(subject, optimizer, problem, range(4, 7))
    assert not torch.equal(problem.outer, resting)
    assert torch.equal(problem.inner, inner)


class Mixed(nn.Module):
    """Numbers of several types, all pulled to one."""

    def __init__(self, *dtypes: torch.dtype) -> None:
        super().__init__()
        self.kept = nn.ParameterList(
            nn.Parameter((torch.arange(6).reshape(2, 3) / 4).to(dtype)) for dtype in dtypes
        )

    def residuals(self) -> Tensor:
        return torch.cat([(p.to(torch.float64) - 1).reshape(-1) for p in self.kept])


@every_subject
def test_types_may_be_mixed(subject: Subject) -> None:
    """What is computed elementwise goes as if alone; what searches takes one step over all."""
    both = Mixed(torch.float32, torch.float64)
    alone = [Mixed(torch.float32), Mixed(torch.float64)]
    together = subject.make(list(both.parameters()))
    apart = [subject.make(list(module.parameters())) for module in alone]
    for _ in range(4):
        subject.step(together, both.residuals)
        for optimizer, module in zip(apart, alone, strict=True):
            subject.step(optimizer, module.residuals)
    assert [p.dtype for p in both.parameters()] == [torch.float32, torch.float64]
    if subject.step_kind == "gradient":
        assert trees_equal(list(both.kept), [p for module in alone for p in module.parameters()])
    assert half_square(both.residuals()) < half_square(Mixed(torch.float32, torch.float64).residuals())


@every_subject
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_single(subject: Subject, dtype: torch.dtype) -> None:
    """States are float32, and survive a checkpoint as such."""
    with promised(subject, "low precision"):
        params = Problem(dtype).params
        optimizer = subject.make(params)
        for step in range(3):
            numbered(params, step)
            optimizer.step()
        held = [
            value
            for entry in optimizer.state.values()
            for value in entry.values()
            if isinstance(value, Tensor)
        ]
        assert {value.dtype for value in held if value.ndim} <= {torch.float32}
        assert {value.dtype for value in held} <= {torch.float32, torch.float64}
        other = subject.make(Problem(dtype).params)
        other.load_state_dict(optimizer.state_dict())
        assert trees_equal(other.state_dict(), optimizer.state_dict())


@every_subject
def test_complex_parameters_are_pairs_of_numbers(subject: Subject) -> None:
    numbers = [nn.Parameter(torch.tensor([1 + 2j, -0.5j], dtype=torch.complex64))]
    with promised(subject, "complex"):
        pairs = [nn.Parameter(torch.view_as_real(numbers[0].detach()).clone())]
        one, two = subject.make(numbers), subject.make(pairs)
        for _ in range(4):
            numbers[0].grad = numbers[0].detach() * 0.5
            pairs[0].grad = pairs[0].detach() * 0.5
            one.step()
            two.step()
        assert torch.equal(torch.view_as_real(numbers[0].detach()), pairs[0].detach())


@every_subject
def test_strided_parameters_are_like_any_other(subject: Subject) -> None:
    whole, turned = Problem(), Problem()
    turned.inner = nn.Parameter(turned.inner.detach().t().contiguous().t())
    turned.outer = nn.Parameter(turned.outer.detach().repeat(1, 2)[:, :3])
    assert not turned.inner.is_contiguous()
    one, two = subject.make(whole.params), subject.make(turned.params)
    # products with a singular matrix magnify rounding, which depends on the processor
    magnifies = subject.name == "gauss-newton"
    steps, tolerance = (1, 1e-6) if magnifies else (4, 1e-9)
    train(subject, one, whole, range(steps))
    train(subject, two, turned, range(steps))
    close(whole.params, turned.params, tolerance)


@every_subject
def test_sparse_gradients_are_refused_or_filled(subject: Subject) -> None:
    with promised(subject, "sparse"):
        layer = nn.Embedding(4, 2, sparse=True)
        kept = layer.weight.detach().clone()
        optimizer = subject.make(layer.named_parameters())
        for _ in range(2):
            subject.step(optimizer, lambda: layer(torch.tensor([1])) - 3)
        assert torch.equal(kept[0], layer.weight[0])
        assert not torch.equal(kept[1], layer.weight[1])


@every_subject
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_harms_no_more_than_it_must(subject: Subject, bad: float) -> None:
    """A gradient of NaN goes where it was given; a search leaves the point, says so, and goes on later."""
    hurt, well = Problem(), Problem()
    one, two = subject.make(hurt.params), subject.make(well.params)
    if subject.step_kind == "gradient":
        for step in range(3):
            numbered(hurt.params, step)
            numbered(well.params, step)
            assert hurt.bias.grad is not None
            hurt.bias.grad[1] = bad
            one.step()
            two.step()
        for (name, p), q in zip(hurt.named_parameters(), well.params, strict=True):
            assert name == "bias" or torch.equal(p, q)
        return
    train(subject, one, hurt, range(2))
    before = copy.deepcopy(hurt.params)
    with pytest.warns(UserWarning, match="finite"):
        subject.step(one, lambda: hurt.residuals(2) * bad)
    assert trees_equal(hurt.params, before)
    lowered(subject, one, hurt)


@every_subject
def test_what_is_not_finite_on_the_way_shortens_a_search(subject: Subject) -> None:
    """A wall right behind the start, beyond which there are no numbers."""
    if subject.step_kind == "gradient":
        return
    p = nn.Parameter(torch.tensor([4.0, 0.01], dtype=torch.float64))
    optimizer = subject.make([p])

    def residuals() -> Tensor:
        return torch.cat([(p + 1).log() - p.log(), p - 1])

    start = float(half_square(residuals()).detach())
    with warnings.catch_warnings():
        # steps of a fixed length have nothing to shorten, and say that they stay
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(20):
            subject.step(optimizer, residuals)
            assert bool(p.detach().isfinite().all())
    if looks_how_far(subject):
        assert float(half_square(residuals()).detach()) < start


def lowered(subject: Subject, optimizer: Any, problem: Problem) -> None:
    """Look that training goes on; steps of a fixed length may overshoot."""

    def loss() -> float:
        return float(half_square(problem.residuals(2)).detach())

    before = loss()
    for _ in range(3):
        subject.step(optimizer, lambda: problem.residuals(2))
    assert (loss() < before) if looks_how_far(subject) else (loss() != before)


def looks_how_far(subject: Subject) -> bool:
    return subject.step_kind != "gradient" and subject.entry.call.fixed.get("line_search_fn", "") is not None


@every_subject
def test_an_error_in_the_closure_leaves_the_parameters(subject: Subject) -> None:
    problem = Problem()
    optimizer = subject.make(problem.params)
    train(subject, optimizer, problem, range(2))
    before = copy.deepcopy(problem.params)
    for after in (0, 1, 2):

        def failing(calls: list[int] = [after]) -> Tensor:  # noqa: B006
            calls[0] -= 1
            if calls[0] < 0:
                raise KeyError("a batch is gone")
            return problem.residuals(2)

        failed = raises(lambda fail=failing: subject.step(optimizer, fail))  # type: ignore[misc]
        if not failed:
            break
        assert trees_equal(problem.params, before)
    assert after > 0
    lowered(subject, optimizer, problem)


def raises(call: Callable[[], Any]) -> bool:
    try:
        call()
    except KeyError:
        return True
    return False
