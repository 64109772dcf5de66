"""What the contract is tested on: every optimizer, one way to step it whatever it needs, one small problem.

What an optimizer can't do stands in :data:`REFUSALS`, and :func:`promised` holds it to saying so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg import catalogue, optim
from thalweg.catalogue import Call, Entry
from thalweg.catalogue.entry import StepKind
from thalweg.errors import UserError


@dataclass(frozen=True)
class Subject:
    """An entry, and the settings with which a few steps on the small problem do something."""

    entry: Entry
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def step_kind(self) -> StepKind:
        """What a step needs: a "gradient", a "closure" that calls backward, a "graph" or "outputs"."""
        return self.entry.step_kind

    @property
    def numbers(self) -> list[str]:
        """The hyperparameters of the optimizer itself."""
        return [hyper.name for hyper in self.entry.hyperparameters if not hyper.of_run]

    @property
    def number(self) -> str:
        """One of them that needn't be whole."""
        whole = {hyper.name for hyper in self.entry.hyperparameters if hyper.whole}
        return next(name for name in self.numbers if name not in whole)

    def make(self, params: Any, **settings: Any) -> Optimizer:
        return self.entry.make(params, **{**self.settings, **settings})

    def key(self, number: str) -> str:
        """What a hyperparameter is called in groups: ``beta1`` is ``betas.0``."""
        for pair, parts in self.entry.call.pairs.items():
            if number in parts:
                return f"{pair}.{parts.index(number)}"
        return number

    @property
    def torchs(self) -> Any:
        """torch's class of the same name, or None."""
        return getattr(torch.optim, getattr(self.entry.call.target, "__name__", ""), None)

    def closure(
        self, optimizer: Optimizer, residuals: Callable[[], Tensor], sign: int = 1
    ) -> Callable[[], Any]:
        """What this optimizer's step is called with, for half the sum of squares of residuals."""
        if self.step_kind == "outputs":
            assert sign == 1
            return residuals
        if self.step_kind == "graph":
            return lambda: sign * half_square(residuals())

        def with_backward() -> Tensor:
            optimizer.zero_grad()
            loss = sign * half_square(residuals())
            loss.backward()
            return loss

        return with_backward

    def step(self, optimizer: Optimizer, residuals: Callable[[], Tensor]) -> Any:
        """Take a step as a person would."""
        closure = self.closure(optimizer, residuals)
        if self.step_kind != "gradient":
            return optimizer.step(closure)
        closure()
        return optimizer.step()


def half_square(residuals: Tensor) -> Tensor:
    return residuals.square().sum() / 2


class Problem(nn.Module):
    """A regression in three batches, with every kind of parameter that training meets.

    Matrices and vectors, a number, one of no elements, a frozen one, and one without gradient until step 2.
    """

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        self.inner, self.bias = nn.Parameter(draw(3, 2)), nn.Parameter(draw(3))
        self.outer, self.scale = nn.Parameter(draw(2, 3)), nn.Parameter(draw())
        self.empty, self.late = nn.Parameter(draw(0, 4)), nn.Parameter(draw(2))
        self.frozen = nn.Parameter(draw(2), requires_grad=False)
        self.x, self.y = draw(3, 6, 2), draw(3, 6, 2)

    def forward(self, x: Tensor, late: bool = True) -> Tensor:
        hidden = torch.tanh(x @ self.inner.T + self.bias)
        outputs = hidden @ self.outer.T * self.scale + self.frozen + self.empty.sum()
        return outputs + self.late if late else outputs

    def residuals(self, step: int, net: Callable[..., Tensor] | None = None) -> Tensor:
        batch = step % 3
        return (self if net is None else net)(self.x[batch], step >= 2) - self.y[batch]

    @property
    def params(self) -> list[nn.Parameter]:
        return list(self.parameters())


def train(subject: Subject, optimizer: Optimizer, problem: Problem, steps: range, net: Any = None) -> None:
    for step in steps:
        subject.step(optimizer, lambda step=step: problem.residuals(step, net))  # type: ignore[misc]


def numbered(params: Sequence[Tensor], step: int) -> None:
    """Give every parameter a gradient of its own, the same for equal parameters at equal places."""
    generator = torch.Generator().manual_seed(1000 + step)
    for p in params:
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        p.grad = (0.3 * p.detach() + noise.to(p.dtype)) if p.requires_grad else None


def trees_equal(a: Any, b: Any) -> bool:
    """Whether two state dictionaries or lists of tensors are the same to the bit."""
    if isinstance(a, Tensor):
        return (
            isinstance(b, Tensor)
            and a.dtype == b.dtype
            and torch.equal(a.detach().nan_to_num(7.7), b.detach().nan_to_num(7.7))
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(trees_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(trees_equal, a, b))
    return bool(a == b)


def close(a: Sequence[Tensor], b: Sequence[Tensor], tolerance: float = 1e-11) -> None:
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=tolerance, atol=tolerance)


def _variant(
    name: str,
    settings: Mapping[str, Any] = MappingProxyType({}),
    step_kind: StepKind | None = None,
    **fixed: Any,
) -> Subject:
    """A row of the catalogue with options that the table doesn't spell."""
    entry = catalogue.get(name)
    settled = set(fixed) | {part for argument in fixed for part in entry.call.pairs.get(argument, ())}
    changed = replace(
        entry,
        name=_spelled(name, settings | fixed),
        hyperparameters=tuple(hyper for hyper in entry.hyperparameters if hyper.name not in settled),
        call=replace(entry.call, fixed={**entry.call.fixed, **fixed}),
        rule=None,
        step_kind=step_kind or entry.step_kind,
    )
    return Subject(changed, {**_settings(changed), **settings})


def _class(target: type[Optimizer], **fixed: Any) -> Subject:
    """A class without a row, of a row's numbers."""
    momentum = catalogue.get("momentum")
    entry = replace(
        momentum,
        name=_spelled(target.__name__, fixed),
        hyperparameters=tuple(hyper for hyper in momentum.hyperparameters if hyper.name != "dampening"),
        call=Call(target=target, spelling="", fixed=fixed),
        rule=None,
    )
    return Subject(entry, _settings(entry))


def _spelled(name: str, settings: Mapping[str, Any]) -> str:
    return ":".join([name, *(f"{key}={value}" for key, value in settings.items())])


def _settings(entry: Entry) -> dict[str, Any]:
    if entry.step_kind == "gradient":
        return {"lr": 0.02}
    # few iterations; damping, since a network's Hessian and its Gauss-Newton matrix are singular
    few = {"max_iter": 1 if entry.dense else 2, "damping": 0.1}
    return {hyper.name: few[hyper.name] for hyper in entry.hyperparameters if hyper.name in few}


CATALOGUE = [Subject(entry, _settings(entry)) for entry in map(catalogue.get, catalogue.names())]


def forgetful(p: Any, g: Any, trail: Any, *, lr: float = 0.05, t: int) -> Any:
    """Somebody's own rule: a mean of all gradients."""
    trail = trail * (1 - 1 / t) + g / t
    return p - lr * trail, trail


def _own() -> Subject:
    sgd = catalogue.get("sgd")
    call = Call(target=optim.from_rule(forgetful), spelling="")
    entry = replace(sgd, name="own", hyperparameters=sgd.hyperparameters[:1], call=call, rule=None)
    return Subject(entry, _settings(entry))


VARIANTS = [
    _own(),
    _variant("momentum", {"dampening": 0.3}),
    _variant("rmsprop", {"momentum": 0.5}, centered=True),
    _variant("adam", amsgrad=True),
    _variant("nadam", {"weight_decay": 0.1}, decoupled_weight_decay=True),
    _variant("rprop", overshoot="back", step_sizes=None),
    _variant("schedule-free", {"warmup_steps": 3, "r": 0.5, "weight_decay": 0.1}),
    _variant("soap", precondition_frequency=2, precondition_1d=True),
    _class(optim.Momentum),
    _class(optim.Momentum, spelling="average"),
    _class(optim.Nesterov),
    _variant("lbfgs", line_search_fn=None),
    _variant("lbfgs", line_search_fn="hager_zhang"),
    _variant("cg-pr+", {"sgd_steps": 2}),
    _variant("newton", modified=False, line_search_fn=None),
    _variant("newton", hessian="block"),
    _variant("newton", {"max_iter": 1}, step_kind="closure", hessian="finite-difference"),
    _variant("gauss-newton", solver="dense", max_products=None),
    _variant("levenberg-marquardt", solver="dense", max_products=None, scale="diagonal"),
]


SUBJECTS = CATALOGUE + VARIANTS
every_subject = pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
every_row = pytest.mark.parametrize("subject", CATALOGUE, ids=[subject.name for subject in CATALOGUE])


def searches(subject: Subject) -> bool:
    """Whether a step evaluates the loss as often as it likes."""
    return subject.step_kind != "gradient"


def first_order(subject: Subject) -> bool:
    return subject.step_kind == "gradient"


def without(number: str) -> Callable[[Subject], bool]:
    return lambda subject: number not in subject.numbers


def of_family(family: str) -> Callable[[Subject], bool]:
    return lambda subject: subject.entry.family == family


@dataclass(frozen=True)
class Refusal:
    """What some optimizers can't do: which, why, and what they say (a pattern)."""

    contract: str
    who: Callable[[Subject], bool]
    why: str
    said: str


REFUSALS = (
    Refusal(
        "groups of their own",
        searches,
        "one step size goes with one direction over all parameters",
        r"groups differ in \w+ \(.* and .*\), but one step size goes with one direction",
    ),
    Refusal(
        "maximize",
        lambda subject: subject.step_kind == "outputs",
        "sums of squares and convex losses have no maximum",
        r"a group sets maximize to True",
    ),
    Refusal(
        "weight decay",
        without("weight_decay"),
        "there is no such number; a penalty belongs in the loss",
        r"a group sets weight_decay to 0\.1",
    ),
    Refusal("a rate", without("lr"), "damping stands for it", r"has no number 'lr' to drive"),
    Refusal(
        "sharded",
        lambda subject: subject.entry.dense or subject.entry.call.fixed.get("solver") == "dense",
        "a matrix of all parameters has rows on every process",
        r"the parameters are sharded over processes",
    ),
    Refusal(
        "sharded",
        of_family("matrix"),
        "the rules need whole matrices",
        r"can't do with parameters sharded over processes",
    ),
    Refusal("lanes", searches, "its lanes are those of minimize", r"can't run in lanes"),
    Refusal(
        "low precision",
        searches,
        "differences of gradients and losses are lost in half precision",
        r"a tensor is b?float16, in which curvature drowns",
    ),
    Refusal("nothing", searches, "there is no direction", r"there is nothing to minimize over"),
    Refusal("complex", searches, "directions are real", r"complex64"),
    Refusal("complex", of_family("matrix"), "the rules are those of real matrices", r"can't do with complex"),
    Refusal("sparse", first_order, "rules need every element", r"is sparse, .* sparse=False"),
    Refusal(
        "compiled",
        lambda subject: subject.step_kind in ("graph", "outputs"),
        "compiled graphs are differentiated once",
        r"a compiled model .* can't be differentiated twice",
    ),
    Refusal("gradient scaler", searches, "a scaler unscales one gradient, not a function", r"GradScaler"),
)


@contextmanager
def promised(subject: Subject, contract: str) -> Iterator[None]:
    """Hold an optimizer to what is within, or, if the table says that it can't, to one clear sentence."""
    assert contract in {refusal.contract for refusal in REFUSALS}
    refusals = [r for r in REFUSALS if r.contract == contract and r.who(subject)]
    if not refusals:
        yield
        return
    with pytest.raises(UserError) as caught:
        yield
    said = str(caught.value)
    assert re.search(refusals[0].said, said), said
    assert "\n" not in said
    assert ". " not in said
