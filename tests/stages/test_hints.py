"""Hints, softened outputs and auxiliary heads: each step is that of a loop in plain torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import thalweg
from thalweg.errors import UserError
from thalweg.layers.modes import begin_training
from thalweg.randomness.streams import seed32
from thalweg.run.sampler import orders
from thalweg.stages import Ramp, Stage, auxiliary_heads, hints, regressor_for
from thalweg.stages.taps import Tapped
from thalweg.strategies import Strategy
from thalweg.training import Fitted

X = torch.randn(40, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long() + (X[:, 0] > 0.5).long()
SIZE = 10


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def networks() -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(1)
    teacher = nn.Sequential(
        nn.Linear(5, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3)
    )
    student = nn.Sequential(
        nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)
    )
    return teacher.double(), student.double()


def linear(guided: tuple[int, ...], hint: tuple[int, ...]) -> nn.Module:
    """A regressor, and a head, that is drawn alike wherever it is."""
    out = hint if isinstance(hint, int) else hint[-1]
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Linear(guided[-1], out, dtype=torch.float64)


def batches(name: str, epochs: int) -> list[Tensor]:
    return [
        rows
        for epoch in range(epochs)
        for rows in orders(len(X), [seed32(0, "stage", name)], epoch)[0].split(SIZE)
    ]


def fit(model: nn.Module, stages: list[Stage], **more: Any) -> Fitted:
    given = {"validation": (X, Y), "metric": "accuracy", "batch_size": SIZE, "evaluations": 2, **more}
    return thalweg.fit(model, (X, Y), "cross-entropy", sgd, stages=stages, **given)


def alike(mine: nn.Module, theirs: nn.Module) -> None:
    for (name, value), other in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def soft(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    return F.kl_div(F.log_softmax(student / t, 1), F.softmax(teacher / t, 1), reduction="batchmean") * t * t


def test_a_hint_first_then_labels_and_softened_outputs_as_by_hand() -> None:
    teacher, student = networks()
    twin, asked = copy.deepcopy(student), copy.deepcopy(teacher).eval()
    before = copy.deepcopy(teacher.state_dict())
    stages = hints(
        student, teacher, X[:2], hint="2", guided="3", loss="cross-entropy",
        softened=Ramp(start=2.0, end=1.0), temperature=3.0, regressor=linear, hint_epochs=2, epochs=1,
    )  # fmt: skip
    fitted = fit(student, stages)

    regressor = linear((4,), (16,))
    optimizer = sgd([*twin[:4].parameters(), *regressor.parameters()])
    for rows in batches("hints 1", 2):
        optimizer.zero_grad()
        (0.5 * F.mse_loss(regressor(twin[:4](X[rows])), asked[:3](X[rows]).detach())).backward()
        optimizer.step()
    assert all(p.grad is None for p in twin[4:].parameters())
    optimizer = sgd(twin.parameters())
    for step, rows in enumerate(batches("hints 2", 1)):
        optimizer.zero_grad()
        outputs, said = twin(X[rows]), asked(X[rows]).detach()
        # cross-entropy is the divergence and a constant
        loss = F.cross_entropy(outputs, Y[rows]) + (2.0 - step / 4) * soft(outputs, said, 3.0)
        loss.backward()
        optimizer.step()
    alike(student, twin)
    # what is judged isn't what is trained
    final = fitted.final["validation_loss"]
    assert final == pytest.approx(float(F.cross_entropy(twin(X), Y).detach()))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters())
    assert all(part.training for part in teacher.modules())


@pytest.mark.parametrize("how", ["first", "together"])
def test_layers_that_nobody_asks_for_are_not_run_and_it_changes_no_bit(
    how: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for stops in (True, False):
        if not stops:
            monkeypatch.setattr(Tapped, "_may_stop", lambda tapped: False)
        teacher, student = networks()
        stages = hints(
            student, teacher, X[:2], hint="2", guided="3", loss="cross-entropy", how=how, regressor=linear,
            epochs=1, hint_epochs=2, adds=[Perturbed()],
        )  # fmt: skip
        # a copy of the teacher has its hook too
        asked, mine = calls_of(teacher[4]), calls_of(student[4])
        fit(student, stages[:1])
        assert bool(asked) != stops
        assert bool(mine) != (stops and how == "first")
        found.append(student.state_dict())
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def calls_of(layer: nn.Module) -> list[int]:
    """Grows by one with each call."""
    calls: list[int] = []
    layer.register_forward_hook(lambda *given: calls.append(1))
    return calls


class Perturbed(Strategy):
    """Changes batches, so that the teacher is asked anew in each step."""

    def batch(self, trainer: Any, inputs: Any, targets: Tensor, keys: Any) -> tuple[Any, Tensor]:
        return {**inputs, "inputs": 0.9 * inputs["inputs"]} if isinstance(
            inputs, dict
        ) else 0.9 * inputs, targets


def test_of_a_layer_that_is_called_twice_the_last_output_is_regressed() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.first, self.inner, self.last = (
                nn.Linear(a, b).double() for a, b in ((5, 4), (4, 4), (4, 3))
            )

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.last(self.inner(torch.tanh(self.inner(self.first(x)))))
            return found

    class InTraining(Twice):
        """Which shows only in training."""

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            found: Tensor = self.last(self.inner(torch.tanh(self.inner(x)) if self.training else x))
            return found

    for kind in (Twice, InTraining):
        teacher, student = kind(), kind()
        [stage, _] = hints(student, teacher, X[:2], hint="inner", guided="inner", loss="cross-entropy")
        assert stage.build is not None
        module: Any = stage.build(student)
        begin_training(module)
        hint = teacher.eval()(X), teacher.inner(torch.tanh(teacher.inner(teacher.first(X))))
        mine = student.inner(torch.tanh(student.inner(student.first(X))))
        found = module(X)
        torch.testing.assert_close(found["regressed"], module.rest.taught.regressor(mine))
        if kind is Twice:
            torch.testing.assert_close(found["hint"], hint[1])
        module.close()


def test_both_at_once_as_by_hand() -> None:
    teacher, student = networks()
    twin, asked = copy.deepcopy(student), copy.deepcopy(teacher).eval()
    [stage] = hints(
        student, teacher, X[:2], hint="2", guided="3", loss="cross-entropy", how="together",
        hint_weight=Ramp(start=1.0, end=0.0), regressor=linear, epochs=2,
    )  # fmt: skip
    fit(student, [stage], validation=None, metric=None)
    regressor = linear((4,), (16,))
    optimizer = sgd([*twin.parameters(), *regressor.parameters()])
    for step, rows in enumerate(batches("hints", 2)):
        optimizer.zero_grad()
        hint = 0.5 * F.mse_loss(regressor(twin[:4](X[rows])), asked[:3](X[rows]).detach())
        (F.cross_entropy(twin(X[rows]), Y[rows]) + (1 - step / 8) * hint).backward()
        optimizer.step()
    alike(student, twin)


def test_without_softened_outputs_a_hint_is_followed_by_labels_alone() -> None:
    teacher, student = networks()
    stages = hints(
        student, teacher, X[:2], hint="2", guided="3", loss="cross-entropy", epochs=1, hint_epochs=1
    )
    assert [(stage.name, stage.loss) for stage in stages][1] == ("hints 2", "cross-entropy")
    fitted = fit(student, stages)
    assert fitted.best_state is not None
    assert fitted.best_state.keys() == student.state_dict().keys()
    assert not any(part._forward_hooks for model in (teacher, student) for part in model.modules())


def test_auxiliary_heads_as_by_hand_and_gone() -> None:
    _, student = networks()
    twin = copy.deepcopy(student)
    keys = list(student.state_dict())
    stages = auxiliary_heads(
        student, X[:2], {"1": 0.3, "3": Ramp(start=1.0, end=0.0)}, loss="cross-entropy", make_head=linear,
        epochs=2,
    )  # fmt: skip
    fitted = fit(student, stages)
    heads = [linear((4,), (3,)) for _ in range(2)]
    optimizer = sgd([*twin.parameters(), *(p for head in heads for p in head.parameters())])
    for step, rows in enumerate(batches("auxiliary heads", 2)):
        optimizer.zero_grad()
        loss = F.cross_entropy(twin(X[rows]), Y[rows])
        loss = loss + 0.3 * F.cross_entropy(heads[0](twin[:2](X[rows])), Y[rows])
        loss = loss + (1 - step / 8) * F.cross_entropy(heads[1](twin[:4](X[rows])), Y[rows])
        loss.backward()
        optimizer.step()
    alike(student, twin)
    assert list(student.state_dict()) == keys
    assert fitted.final["validation_loss"] == pytest.approx(float(F.cross_entropy(twin(X), Y).detach()))
    assert not any(part._forward_hooks for part in student.modules())


def test_a_convolutional_hint() -> None:
    torch.manual_seed(0)
    images = torch.randn(20, 1, 8, 8)
    teacher = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    student = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(108, 3)
    )
    stages = hints(
        student, teacher, images[:2], hint="1", guided="2", loss="cross-entropy", epochs=1, hint_epochs=3
    )
    module = stages[0].build(student)  # type: ignore[misc]
    regressor = module.rest.taught.regressor  # type: ignore[union-attr]
    assert (regressor.in_channels, regressor.out_channels, regressor.kernel_size) == (3, 6, (3, 3))
    module.close()  # type: ignore[operator]
    fitted = thalweg.fit(
        student, (images, Y[:20]), "cross-entropy", "adam", stages=stages, batch_size=5,
        validation=(images, Y[:20]), hyperparameters={"lr": 0.01},
    )  # fmt: skip
    first = fitted.stages[0].curve
    assert first[0].validation_loss is not None
    assert first[-1].validation_loss is not None
    assert first[-1].validation_loss < 0.9 * first[0].validation_loss


@pytest.mark.parametrize(
    ("guided", "hint", "made"),
    [
        ((7, 5), (7, 3), "Linear(in_features=5, out_features=3, bias=True)"),
        ((2, 6, 5, 4), (3, 6, 4, 2), "Conv3d(2, 3, kernel_size=(1, 2, 3), stride=(1, 1, 1))"),
    ],
)
def test_what_regressors_are_made(guided: tuple[int, ...], hint: tuple[int, ...], made: str) -> None:
    regressor = regressor_for(guided, hint)
    assert repr(regressor) == made
    assert regressor(torch.zeros(2, *guided)).shape == (2, *hint)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hint": "9"}, "there is no part '9' in the model, which hint names"),
        ({"guided": "layer"}, "there is no part 'layer' in the model, which guided names"),
        ({"guided": None}, "hint and guided name a pair of layers"),
        ({"guided": None, "hint": None}, "the teacher says nothing"),
        ({"temperature": 0}, "temperature is 0, but must be"),
        ({"softened": -1.0}, "softened is -1.0, but must be at least 0"),
        ({"hint_weight": lambda share: share - 0.5}, "hint_weight is -0.5 where 0 % of a stage is done"),
        ({"how": "last"}, "how is 'last'"),
    ],
)
def test_what_hints_refuse(given: dict[str, Any], said: str) -> None:
    teacher, student = networks()
    values: dict[str, Any] = {"hint": "2", "guided": "3", "loss": "cross-entropy", **given}
    with pytest.raises(UserError) as found:
        hints(student, teacher, X[:2], **values)
    assert str(found.value).startswith(said)


def test_shapes_and_tasks_that_dont_fit_are_refused() -> None:
    _, student = networks()
    pixels = nn.Sequential(
        nn.Unflatten(1, (1, 1, 5)), nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(10, 4)
    ).double()
    with pytest.raises(UserError, match=r"no regressor joins guided features of shape \[4\] with a hint of"):
        hints(student, pixels, X[:2], hint="1", guided="3", loss="cross-entropy")
    with pytest.raises(UserError, match=r"the teacher gives \[4\] for an example and the student \[3\]"):
        hints(student, pixels, X[:2], hint=None, guided=None, loss="cross-entropy", softened=1.0)
    with pytest.raises(UserError, match=r"layers is empty"):
        auxiliary_heads(student, X[:2], [], loss="cross-entropy")
    with pytest.raises(UserError, match=r"there is no part '7' in the model, which layers names"):
        auxiliary_heads(student, X[:2], ["7"], loss="cross-entropy")
