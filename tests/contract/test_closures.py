"""The closures that people write: each is followed as it is meant, or refused in one sentence."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contract.subjects import SUBJECTS, Problem, Subject, close, half_square, trees_equal
from thalweg import optim
from thalweg.errors import OptionError
from thalweg.secondorder.closures import ClosureOptimizer


def needing(*step_kind: str) -> Any:
    found = [subject for subject in SUBJECTS if subject.step_kind in step_kind]
    return pytest.mark.parametrize("subject", found, ids=[subject.name for subject in found])


class Scene:
    """A problem, an optimizer of it, and what closures are made of."""

    def __init__(self, subject: Subject) -> None:
        self.problem, self.other = Problem(), Problem()
        self.optimizer = subject.make(self.problem.params)

    def residuals(self) -> Tensor:
        return self.problem.residuals(2)

    def loss(self) -> Tensor:
        return half_square(self.residuals())

    def backward(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss


def returns_loss(scene: Scene) -> Any:
    return scene.backward()


def returns_detached(scene: Scene) -> Any:
    return scene.backward().detach()


def returns_number(scene: Scene) -> Any:
    return scene.backward().item()


def clears_by_zero(scene: Scene) -> Any:
    scene.optimizer.zero_grad(set_to_none=False)
    loss = scene.loss()
    loss.backward()
    return loss


def clears_nothing(scene: Scene) -> Any:
    loss = scene.loss()
    loss.backward()
    return loss


def in_parts(scene: Scene) -> Any:
    scene.optimizer.zero_grad()
    parts = [half_square(part) for part in scene.residuals().tensor_split(2)]
    for part in parts:
        part.backward(retain_graph=True)
    return sum(part.detach() for part in parts)


@needing("closure")
@pytest.mark.parametrize(
    "way",
    [returns_detached, returns_number, clears_by_zero, clears_nothing, in_parts],
    ids=lambda way: way.__name__,
)
def test_closures_that_call_backward_are_one_closure(subject: Subject, way: Callable[[Scene], Any]) -> None:
    usual, other = Scene(subject), Scene(subject)
    for _ in range(3):
        one = usual.optimizer.step(lambda: returns_loss(usual))
        two = other.optimizer.step(lambda: way(other))
        other_loss = two.item() if isinstance(two, Tensor) else two
        assert one.item() == pytest.approx(other_loss, rel=1e-9)
    close(usual.problem.params, other.problem.params, 1e-6 if way is in_parts else 1e-14)
    assert not torch.equal(usual.problem.inner, Problem().inner)


def without_backward(scene: Scene) -> Any:
    return scene.loss()


def returns_nothing(scene: Scene) -> Any:
    scene.backward()


def returns_many(scene: Scene) -> Any:
    scene.backward()
    return scene.residuals()


def of_another_model(scene: Scene) -> Any:
    loss = half_square(scene.other.residuals(2))
    loss.backward()
    return loss


def loss_of_another_model(scene: Scene) -> Any:
    return half_square(scene.other.residuals(2))


def loss_without_graph(scene: Scene) -> Any:
    with torch.no_grad():
        return scene.loss()


def loss_detached(scene: Scene) -> Any:
    return scene.loss().detach()


def residuals_detached(scene: Scene) -> Any:
    return scene.residuals().detach()


def residuals_of_another_model(scene: Scene) -> Any:
    return scene.other.residuals(2)


def residuals_after_backward(scene: Scene) -> Any:
    residuals = scene.residuals()
    half_square(residuals).backward()
    return residuals


def loss_before_outputs(scene: Scene) -> Any:
    return half_square, scene.residuals()


def loss_of_its_own(scene: Scene) -> Any:
    outputs = scene.residuals()
    return outputs, lambda _: half_square(outputs)


def constant_loss(scene: Scene) -> Any:
    return scene.residuals(), lambda _: torch.tensor(1.0)


def loss_of_each(scene: Scene) -> Any:
    return scene.residuals(), lambda outputs: outputs.square()


WRONG: dict[str, list[tuple[Callable[[Scene], Any], str]]] = {
    "closure": [
        (without_backward, "left no gradients of the parameters; it has to call backward"),
        (of_another_model, "left no gradients of the parameters"),
        (returns_nothing, "returned NoneType; it has to return the loss"),
        (returns_many, r"returned \(6, 2\); it has to return the loss"),
    ],
    "graph": [
        (returns_loss, "has called backward, after which its graph is gone"),
        (returns_detached, "has no graph .* without calling backward or detach"),
        (returns_number, "returned float; it has to return the loss with the graph"),
        (returns_nothing, "returned NoneType; it has to return the loss with the graph"),
        (loss_without_graph, "has no graph"),
        (loss_of_another_model, "depends on no parameter of the optimizer"),
        (lambda scene: scene.residuals(), r"returned \(6, 2\); it has to return the loss"),
    ],
    "outputs": [
        (returns_loss, "returned one number, as a loss is"),
        (returns_detached, "returned one number, as a loss is"),
        (loss_detached, "returned one number, as a loss is"),
        (returns_number, "returned float; it has to return residuals"),
        (returns_nothing, "returned NoneType; it has to return residuals"),
        (residuals_detached, "has no graph"),
        (residuals_of_another_model, "depends on no parameter of the optimizer"),
        (residuals_after_backward, "has called backward"),
        (loss_before_outputs, "returned tuple; it has to return residuals, or a pair of outputs"),
        (loss_of_its_own, "doesn't depend on the outputs that it is given"),
        (constant_loss, "doesn't depend on the outputs that it is given"),
        (loss_of_each, r"loss of outputs returned shape \(6, 2\); return one number"),
    ],
}


@needing("closure", "graph", "outputs")
def test_a_closure_of_another_kind_is_refused_and_nothing_moves(subject: Subject) -> None:
    """At the first step and later, in one sentence that names the optimizer; no step does nothing."""
    for later in (False, True):
        for wrong, said in WRONG[subject.step_kind]:
            scene = Scene(subject)
            if later:
                subject.step(scene.optimizer, scene.residuals)
            for p in scene.problem.params:
                # of an earlier backward, which is none of this closure's
                p.grad = torch.ones_like(p) if p.requires_grad else None
            before = copy.deepcopy(scene.problem.params)
            with pytest.raises(OptionError, match=said) as caught:
                scene.optimizer.step(lambda wrong=wrong, scene=scene: wrong(scene))  # type: ignore[misc]
            sentence, name = str(caught.value), type(scene.optimizer).__name__
            assert sentence.startswith((f"{name}: the closure", f"{name}: what the closure returned"))
            assert ". " not in sentence
            assert trees_equal(scene.problem.params, before)


@needing("graph", "outputs")
def test_gradients_that_are_zero_by_right_are_no_error(subject: Subject) -> None:
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = subject.make([p])
    assert float(subject.step(optimizer, lambda: p * 3).detach()) == 0
    assert torch.equal(p, torch.zeros_like(p))


@needing("graph", "outputs")
def test_a_wall_without_a_graph_shortens_the_step(subject: Subject) -> None:
    """Where a function isn't defined a closure may return a plain infinity."""
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = subject.make([p])
    infinite = torch.full((1,), torch.inf, dtype=torch.float64)
    if subject.entry.call.fixed.get("line_search_fn", "") is None:
        pytest.skip("steps of a fixed length have nothing to shorten")
    for _ in range(3):
        subject.step(optimizer, lambda: (p - 3) if p.detach().abs() < 2.5 else infinite)
    assert 1 < float(p.detach()) < 2.5


# arguments that are numbers: what they can't be, besides no number at all and no finite one
NUMBERS: dict[str, list[float]] = {
    "lr": [0, -1],
    "sgd_lr": [0, -1],
    "sgd_steps": [-1],
    "max_iter": [-1],
    "max_eval": [0, -1],
    "tolerance_grad": [-1e-9],
    "tolerance_change": [-1e-9],
    "history_size": [0, -1],
    "reset": [0, -1],
    "max_products": [0, -1],
    "damping": [-1],
    "accuracy": [0, 1, -1],
}
WORDS = ("line_search_fn", "formula", "hessian", "solver", "scale")
CLASSES = [
    kind for kind in vars(optim).values() if isinstance(kind, type) and issubclass(kind, ClosureOptimizer)
]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_option_out_of_range_is_refused_in_its_own_words(kind: type[ClosureOptimizer]) -> None:
    """As it is made, and where it comes to be so later; by the name under which it was given."""
    known = inspect.signature(kind).parameters
    assert set(known) <= {"params", "modified", "maximize", *NUMBERS, *WORDS}
    p = nn.Parameter(torch.ones(2, dtype=torch.float64))
    for name in known.keys() & NUMBERS.keys():
        wrong = [*NUMBERS[name], float("nan"), float("inf"), "much", [1.0], torch.ones(2)]
        for value in wrong if known[name].default is None else [*wrong, None]:
            options = {"solver": "cg"} if name == "max_products" and "solver" in known else {}
            if name == "max_eval" and value is None:
                continue
            with pytest.raises(OptionError, match=f"^{kind.__name__}: {name} is ") as caught:
                kind([p], **{name: value}, **options)
            assert "; give a" in str(caught.value)
            optimizer = kind([p], **options)
            optimizer.param_groups[0][name] = value
            with pytest.raises(OptionError, match=f"^{kind.__name__}: {name} is "):
                optimizer.step(lambda: p.sum())
    for name in known.keys() & set(WORDS):
        with pytest.raises(OptionError, match=f"^{kind.__name__}: .*'strange'"):
            kind([p], **{name: "strange"})
