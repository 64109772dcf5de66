"""What people hand over: models, losses and data of every form; no traceback, no false word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from tests.diagnosis.cases import inputs, net, numbers, three_classes
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg
from thalweg.diagnosis import Diagnosis
from thalweg.errors import UserError

X = inputs()
THREE, Y = three_classes(X), numbers(X)
CE = nn.CrossEntropyLoss()


def adam(rate: float = 0.02) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda p: torch.optim.Adam(p, lr=rate)


def diagnosed(*given: Any, **options: Any) -> Diagnosis:
    return thalweg.diagnose(*given, **{"batch_size": 32, "epochs": 15, "budget": 1500, **options})


def named(found: Diagnosis) -> list[str]:
    return [f.code for f in found.findings if f.severity != "advice"]


class Parts(nn.Module):
    """Returns several things, in one of the forms that people use."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.inner, self.form = net(3), form

    def forward(self, x: Tensor) -> Any:
        hidden, logits = x * 2, self.inner(x)
        if self.form == "named":
            return Answer(logits, hidden)
        return {"logits": logits, "hidden": hidden} if self.form == "dict" else (logits, hidden)


class Answer(NamedTuple):
    logits: Tensor
    hidden: Tensor


PICKED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "dict": lambda o, t: F.cross_entropy(o["logits"], t) + 0 * o["hidden"].sum(),
    "tuple": lambda o, t: F.cross_entropy(o[0], t),
    "named": lambda o, t: F.cross_entropy(o.logits, t),
}


@pytest.mark.parametrize("form", ["dict", "tuple", "named"])
@pytest.mark.parametrize("own", [True, False])
def test_a_loss_may_pick_its_part_or_be_given_it(form: str, own: bool) -> None:
    found = diagnosed(Parts(form), (X, THREE), PICKED[form] if own else CE, adam())
    assert named(found) == []
    assert found.skill > 0.6


class Language(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(vocabulary, 16), nn.Linear(16, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.table(x))


LOSSES: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda o, t: F.cross_entropy(o.transpose(1, 2), t),
    lambda o, t: F.cross_entropy(o.reshape(-1, o.shape[-1]), t.reshape(-1)),
]


@pytest.mark.parametrize("loss", LOSSES)
def test_classes_of_each_position_are_on_the_axis_that_the_loss_is_given(loss: Any) -> None:
    tokens = torch.randint(9, (200, 6), generator=torch.Generator().manual_seed(0))
    assert named(diagnosed(Language(9), (tokens, (tokens + 1) % 9), loss, adam(0.05))) == []


def test_sparse_gradients_are_measured() -> None:
    table = nn.Sequential(nn.EmbeddingBag(50, 3, sparse=True))
    words = torch.randint(50, (200, 5), generator=torch.Generator().manual_seed(0))
    targets = (words < 25).sum(1) > 2
    found = diagnosed(table, (words, targets.long()), CE, lambda p: torch.optim.SparseAdam(list(p), lr=0.05))
    assert found.gradients > 0


def test_lazy_layers_become_what_the_data_make_of_them() -> None:
    model = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyLinear(3))
    assert named(diagnosed(model, (X, THREE), CE, adam())) == []
    assert torch.nn.parameter.is_lazy(model[0].weight)


def test_examples_one_by_one() -> None:
    assert named(diagnosed(net(3), [(x, y) for x, y in zip(X, THREE, strict=True)], CE, adam())) == []


class Raises(nn.Module):
    def __init__(self, when: str) -> None:
        super().__init__()
        self.inner, self.when = net(3), when

    def forward(self, x: Tensor) -> Tensor:
        if self.when == "evaluating" and not self.training:
            raise RuntimeError("not while evaluating")
        return self.inner(x)


class Own(Exception):
    pass


def raising(error: type[Exception]) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        raise error("not like this")

    return loss


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((Raises("evaluating"), (X, THREE), CE, adam()), "not while evaluating"),
        ((net(3), (X, THREE), raising(Own), adam()), "not like this"),
        ((net(3), (X, THREE), raising(AttributeError), adam()), "not like this"),
        ((net(3), (X, THREE), raising(KeyError), adam()), "not like this"),
        ((nn.ReLU(), (X, THREE), CE, "adam"), "no parameter"),
        ((net(3).requires_grad_(False), (X, THREE), CE, "adam"), "no parameter"),
        ((raising(RuntimeError), (X, THREE), CE, adam()), "makes the model"),
        ((lambda: Raises("x").nothing, (X, THREE), CE, adam()), "makes the model raises AttributeError"),
        ((net(3), (X, THREE), CE, adam(-1.0)), "makes the optimizer raises ValueError"),
        ((nn.Linear(4, 3, device="meta"), (X, THREE), CE, adam()), "meta"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        diagnosed(*given)


@pytest.mark.parametrize(
    ("metric", "said"), [("acuracy", "did you mean 'accuracy'"), (5, "a name or a function")]
)
def test_a_metric_that_there_is_not(metric: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        diagnosed(net(3), (X, THREE), CE, adam(), metric=metric)


@pytest.mark.parametrize("targets", [torch.ones(len(X), 1), torch.zeros(len(X), dtype=torch.long)])
def test_targets_that_are_all_the_same(targets: Tensor) -> None:
    loss: Any = CE if targets.ndim == 1 else nn.MSELoss()
    found = diagnosed(net(1 if targets.ndim > 1 else 3), (X, targets), loss, adam())
    assert named(found) == ["labels"]


def test_a_budget_by_which_nothing_can_be_told_is_said() -> None:
    found = diagnosed(net(3), (X, THREE), CE, adam(1e-6), budget=1)
    assert any("little can be told" in note for note in found.notes)
    assert "Nothing is wrong" not in str(found)


def test_remedies_found_behind_a_fault_can_be_applied_to_what_was_given() -> None:
    """Each remedy changes the set-up that was handed over, whichever was mended before it was found."""
    model = net(2)
    found = diagnosed(model, (X, THREE), CE, lambda p: torch.optim.SGD(p, lr=1e-4), budget=4000)
    assert named(found) == ["output-units", "learning-rate-low"]
    for finding in found.findings[:2]:
        assert finding.remedy is not None
        setup = finding.remedy.apply(found.setup)
        trained, optimizer = setup.start(0)
        inputs_, targets = setup.batch(torch.arange(32))
        before = [p.detach().clone() for p in trained.parameters()]
        setup.loss(trained(inputs_), targets).backward()
        optimizer.step()
        assert any(not torch.equal(a, b) for a, b in zip(before, trained.parameters(), strict=True))
    assert model[2].out_features == 2


def test_an_interruption_leaves_everything_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()

    def interrupt(what: str, share: float) -> None:
        if share > 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diagnosed(model, (X, THREE), CE, adam(1e-6), progress=interrupt)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_another_width_of_validation_is_no_traceback() -> None:
    with pytest.raises(UserError, match="cannot be multiplied"):
        diagnosed(net(3), (X, THREE), CE, adam(), validation=(X[:, :3], THREE))
