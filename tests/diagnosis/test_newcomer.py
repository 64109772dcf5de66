"""What a person who has never seen the code hands over, and the sentence that they should read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from sklearn.datasets import load_wine
from tests.diagnosis.cases import facts, inputs, net, three_classes
from torch import Tensor, nn

import thalweg
from thalweg.diagnosis.data_checks import suspect_data
from thalweg.diagnosis.diagnosing import _tried
from thalweg.diagnosis.endings import suspect_endings
from thalweg.diagnosis.neighbours import related
from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.signals import signal_of, suspect_signals
from thalweg.diagnosis.structure import suspect_structure
from thalweg.diagnosis.through_time import forgets, shares_by_step
from thalweg.diagnosis.trial import TrialPoint, TrialRun
from thalweg.diagnosis.trying import Patient
from thalweg.errors import ModelError

X = inputs()
THREE = three_classes(X)
CE = nn.CrossEntropyLoss()


def certain(*given: Any, **options: Any) -> list[str]:
    known = facts(*given, **options)
    return [s.code for s in [*suspect_endings(known), *suspect_data(known, None)] if s.certain]


# Copies -----------------------------------------------------------------------------------------------------


class Counting(torch.optim.SGD):
    """An optimizer that keeps something beside its groups, as people write them."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.1)
        self.first = self.param_groups[0]["params"][0]

    def step(self, closure: Any = None) -> Any:
        self.first.grad.mul_(1.0)
        return super().step(closure)


@pytest.mark.parametrize("kind", [lambda p: torch.optim.LBFGS(p, lr=0.5), Counting])
def test_optimizers_that_keep_more_than_their_groups_are_copied_whole(kind: Any) -> None:
    """torch's own copies of optimizers leave the rest out, by which LBFGS can't take a step."""
    model = net(3)
    optimizer = kind(model.parameters())
    setup = Setup.of(model, (X, THREE), CE, optimizer, batch_size=240, epochs=2)
    made, copied = setup.start(0)

    def closure() -> Tensor:
        copied.zero_grad()
        loss: Tensor = CE(made(X), THREE)
        loss.backward()
        return loss

    closure()
    before = copy.deepcopy(model.state_dict())
    copied.step(closure)
    assert float(CE(made(X), THREE).detach()) < float(CE(model(X), THREE).detach())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# Losses that mean something else ----------------------------------------------------------------------------


def pinball(outputs: Tensor, targets: Tensor) -> Tensor:
    shares = torch.tensor([0.1, 0.5, 0.9])
    errors = targets - outputs
    return torch.maximum(shares * errors, (shares - 1) * errors).mean()


def test_several_outputs_for_one_target_may_be_meant() -> None:
    """Quantiles beside each other; all pairs of examples are never meant."""
    y = X[:, :1]
    assert certain(net(3), (X, y), pinball) == []
    assert certain(net(3), (X, y), nn.MSELoss()) == ["loss-function"]

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net(1)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.inner(x)[:, 0]
            return found

    assert certain(Flat(), (X, y), lambda o, t: (o - t).abs().mean()) == ["loss-function"]


# Narrow layers that are meant -------------------------------------------------------------------------------


def codes(model: nn.Module, data: Any, loss: Any) -> list[str]:
    known = facts(model, data, loss)
    return [s.code for s in suspect_structure(known, signal_of(known))]


def test_a_bottleneck_of_what_rebuilds_its_inputs_is_meant() -> None:
    torch.manual_seed(0)
    x = inputs(columns=12)
    model = nn.Sequential(nn.Linear(12, 2), nn.ReLU(), nn.Linear(2, 12))
    noisy = x + 0.3 * inputs(seed=5, columns=12)
    assert "capacity" not in codes(model, (x, x), nn.MSELoss())
    assert "capacity" not in codes(model, (noisy, x), nn.MSELoss())
    assert "capacity" in codes(model, (x, x.flip(1)), nn.MSELoss())


# Cut graphs -------------------------------------------------------------------------------------------------


class Cut(nn.Module):
    def __init__(self, way: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.way = nn.Linear(4, 16), nn.Linear(16, 3), way

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.way(torch.relu(self.first(x))))
        return found


@pytest.mark.parametrize(
    ("way", "changes"),
    [
        (lambda h: h.detach(), True),
        (lambda h: torch.tensor(h.detach().numpy()), False),
        (lambda h: torch.from_numpy(h.detach().numpy()), False),
    ],
)
def test_a_graph_that_is_cut_is_told_whether_or_not_code_can_mend_it(way: Any, changes: bool) -> None:
    known = facts(Cut(way), (X, THREE), CE)
    (cut,) = [s for s in suspect_signals(known, signal_of(known)) if s.code == "frozen"]
    assert cut.weight > 0.9
    assert cut.remedy is not None
    assert (cut.remedy.change is not None) is changes


def test_a_graph_that_only_the_person_can_mend_is_named_first() -> None:
    model = Cut(lambda h: torch.tensor(h.detach().numpy()))
    found = thalweg.diagnose(model, (X, THREE), CE, lambda p: torch.optim.SGD(p, lr=1e-3), budget=2000)
    assert found.findings[0].code == "frozen"


# Inputs that don't go through -------------------------------------------------------------------------------

PICTURES = torch.rand(60, 8, 8, 1, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(60) % 3


def convolutional() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


@pytest.mark.parametrize(
    ("model", "x", "said"),
    [
        (convolutional(), PICTURES, r"inputs.permute\(0, 3, 1, 2\)"),
        (convolutional(), PICTURES[..., 0], r"inputs\[:, None\]"),
        (nn.Linear(64, 3), PICTURES[..., 0], r"nn.Flatten\(\)"),
        (net(3), (X[:60] > 0).to(torch.uint8), r"inputs.float\(\) / 255"),
        (net(3), (X[:60] > 0).long(), r"inputs.float\(\)"),
    ],
)
def test_inputs_that_do_not_go_through_are_told_what_would(model: nn.Module, x: Tensor, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        thalweg.diagnose(model, (x, CLASSES), CE, "adam")


# Sequences that are forgotten -------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: Any = nn.RNN, *, mean: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = kind(2, 12, batch_first=batch_first)
        self.last, self.mean, self.axis = nn.Linear(12, 2), mean, 1 if batch_first else 0

    def forward(self, x: Tensor) -> Tensor:
        states = self.inner(x if self.axis else x.transpose(0, 1))[0]
        found: Tensor = self.last(states.mean(self.axis) if self.mean else states.select(self.axis, -1))
        return found


def long_ago(steps: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(160, steps, 2, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0, 0] > 0).long()


@pytest.mark.parametrize("batch_first", [True, False])
def test_gradients_through_time_are_those_of_autograd(batch_first: bool) -> None:
    x, y = long_ago(20)
    model = Recurrent(batch_first=batch_first)
    known = facts(model, (x, y), CE)
    found = shares_by_step(known, seed=0)
    assert found is not None
    given = x[known.held.rows[:64]].clone().requires_grad_()
    CE(model(given), y[known.held.rows[:64]]).backward()
    assert given.grad is not None
    sizes = given.grad.square().mean((0, 2)).sqrt()
    torch.testing.assert_close(torch.tensor(found[1]), sizes / sizes.max(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("model", "steps", "said"),
    [(Recurrent(), 60, True), (Recurrent(), 6, False), (Recurrent(mean=True), 60, False), (net(2), 0, False)],
)
def test_sequences_that_are_too_long_are_told(model: nn.Module, steps: int, said: bool) -> None:
    data = long_ago(steps) if steps else (X, THREE.clamp(max=1))
    assert (forgets(facts(model, data, CE), seed=0) is not None) is said


def test_what_is_forgotten_is_named_where_nothing_else_helps() -> None:
    found = thalweg.diagnose(Recurrent(), long_ago(60), CE, "adam", epochs=3, budget=700)
    assert [f.code for f in found.findings if f.severity != "advice"] == ["depth"]


# Targets that are mostly noise ------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [False, True])
def test_a_weak_relation_is_no_damage(classes: bool) -> None:
    """Targets of which a tenth of the variance can be told aren't told from none by short trainings."""
    x = torch.randn(1500, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1500, 1, generator=torch.Generator().manual_seed(1))
    for strength, said in ((0.3, True), (0.0, False)):
        y = strength * x[:, :1] + noise
        target: Tensor = (y[:, 0] > 0).long() if classes else y
        known = facts(net(2 if classes else 1, columns=8), (x, target), CE if classes else nn.MSELoss())
        assert related(known) is said


def test_what_one_and_zero_mean_is_said() -> None:
    def distance(outputs: Tensor, targets: Tensor) -> Tensor:
        same = targets[:, None] == targets
        far = (outputs[:, None] - outputs).square().sum(-1)
        return torch.where(same, far, (1 - far).clamp(min=0)).mean()

    found = thalweg.diagnose(net(16), (X, THREE), distance, "adam", epochs=2, budget=300)
    assert (found.by_loss, found.scale) == (True, "the share of the first loss that is gone")
    found = thalweg.diagnose(net(3), (X, THREE), CE, "adam", epochs=2, budget=300)
    assert (found.by_loss, found.scale) == (False, "0 is a constant prediction")


def test_columns_brought_back_are_judged_by() -> None:
    """Nothing is found wrong with a training whose validation data were read in another order."""
    wine = load_wine()
    rows = torch.randperm(178, generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(wine.data, dtype=torch.float32)[rows]
    x, y = (x - x.mean(0)) / x.std(0), torch.as_tensor(wine.target)[rows]
    order = torch.randperm(13, generator=torch.Generator().manual_seed(5))
    found = thalweg.diagnose(
        net(3, columns=13), (x[:110], y[:110]), CE, "adam", batch_size=16, epochs=30,
        validation=(x[110:, order], y[110:]), budget=2000,
    )  # fmt: skip
    named = [each for each in found.findings if each.severity != "advice"]
    assert [each.code for each in named] == ["split-mismatch"]
    assert named[0].remedy is not None
    assert "learning rate" not in named[0].remedy.text
    assert found.skill > 0.85
    assert "overfitting" not in [each.code for each in found.findings]


@pytest.mark.parametrize(("training", "ends"), [(0.99, True), (0.5, False)])
def test_a_loss_that_is_too_sure_of_other_examples_is_no_illness(training: float, ends: bool) -> None:
    """A likelihood's value on a few other examples is anything; what is learnt is said by the others."""

    def likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
        mean, scale = outputs[:, :1], outputs[:, 1:].exp()
        return (((targets - mean) / scale) ** 2 / 2 + scale.log()).mean()

    known = facts(net(2), (X, X[:, :1]), likelihood)
    assert known.judge.kind == "other"
    patient = Patient(facts=known, budget=1000.0)
    run = TrialRun(points=[TrialPoint(10, training, -0.6)], steps=10, planned=10)
    patient.try_ = lambda *_, **__: run  # type: ignore[method-assign]
    assert (_tried(patient, known, None, 0) is None) is ends
