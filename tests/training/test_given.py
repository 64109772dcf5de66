"""Losses with a state, labels that don't count, types that differ: what ``fit`` makes of what it is given."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg import objectives, schedules
from thalweg.errors import DataError, OptionError, UserError
from thalweg.objectives import as_loss
from thalweg.objectives.dividing import Division
from thalweg.randomness import streams
from thalweg.strategies import Averaging, Settings, Strategy
from thalweg.training.steps import make_step
from thalweg.training.watch import SilentTrainingWatcher

G = torch.Generator().manual_seed(0)
X = torch.randn(60, 5, generator=G)
Y = torch.randint(3, (60,), generator=G)


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, outputs))


def fit(loss: Any, y: Any = Y, x: Any = X, model: nn.Module | None = None, **more: Any) -> Any:
    given: dict[str, Any] = {"optimizer": "sgd", "steps": 4, "batch_size": 20, **more}
    return thalweg.fit(model or network(), (x, y), loss, **given)


# Losses ------------------------------------------------------------------------------------------------


class Centers(nn.Module):
    """A loss with a center for each class, which it learns, and a buffer that it replaces at each call."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(3, 3))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls = self.calls + 1
        near = (outputs - self.centers[targets]).square().mean()
        return F.cross_entropy(outputs, targets) * (1 + self.calls / 10) + near


class Ends(Strategy):
    """Ends a training by Ctrl-C after some steps."""

    name, priority = "ends", 99
    settings = Settings()

    def __init__(self, at: int | None) -> None:
        self.left = at

    def after_step(self, trainer: Any) -> None:
        if self.left is not None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt


def test_a_loss_that_changes_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    def run(out: str, at: int | None, resume: bool = False) -> tuple[nn.Module, Centers]:
        model, loss = network(), Centers()
        optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=0.1)
        fit(
            loss, model=model, optimizer=optimizer, steps=9, out=tmp_path / out, resume=resume,
            strategies=[Ends(at)], checkpoint_seconds=0,
        )  # fmt: skip
        return model, loss

    model, loss = run("whole", None)
    with pytest.raises(KeyboardInterrupt):
        run("parts", 5)
    resumed, its = run("parts", None, resume=True)
    for one, other in ((model, resumed), (loss, its)):
        assert all(torch.equal(a, other.state_dict()[name]) for name, a in one.state_dict().items())
    assert loss.centers.abs().max() > 0.1


def test_parameters_of_a_loss_that_nobody_trains_are_said() -> None:
    said: list[str] = []

    class Listening(SilentTrainingWatcher):
        def note(self, text: str) -> None:
            said.append(text)

    fit(Centers(), watcher=Listening())
    assert [text for text in said if "parameters of its own (centers)" in text]
    said.clear()
    fit(Centers().requires_grad_(False), watcher=Listening())
    assert not said


def test_a_loss_that_shows_later_what_it_divides_by_is_refused() -> None:
    """A mean over what isn't masked, of which the first batches have everything."""

    def masked(outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs[:, 0] - targets[:, 0]).square()
        return (errors * targets[:, 1]).sum() / targets[:, 1].sum()

    division = Division(as_loss(masked), remedy="leave accumulation out")
    outputs, goal = torch.randn(8, 1, generator=G), torch.randn(8, generator=G)
    full, holes = torch.ones(8), torch.tensor([1.0, 1, 1, 0, 1, 0, 0, 1])
    for _ in range(3):
        assert division.part(outputs, torch.stack([goal, full], 1)).kind == "mean"
    # looked at anew at the fourth part, as at every power of two
    with pytest.raises(OptionError, match="isn't the mean over its parts"):
        division.part(outputs, torch.stack([goal, holes], 1))


@pytest.mark.parametrize("parts", [8, 5, 1])
def test_parts_of_one_example_are_compared_again_later(parts: int) -> None:
    """By whole batches, since one example alone tells nothing; 1: the same, by parts of several."""

    def masked(outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs[:, 0] - targets[:, 0]).square()
        return (errors * targets[:, 1]).sum() / targets[:, 1].sum()

    def taken(batches: list[Tensor]) -> int:
        model = nn.Linear(3, 1)
        take = make_step(
            "gradient", torch.optim.SGD(model.parameters(), lr=0.0), model, masked, parts=max(parts, 2)
        )
        for number, mask in enumerate(batches, 1):
            x, goal = torch.randn(len(mask), 3, generator=G), torch.randn(len(mask), generator=G)
            with suppress(OptionError):
                take(x, torch.stack([goal, mask], 1), 0.0)
                continue
            return number
        return 0

    full, holes = torch.ones(8), torch.tensor([1.0, 1, 1, 0, 1, 1, 0, 1])
    assert taken([full] * 3 + [holes] * 200) == 4
    assert taken([full] * 70 + [holes] * 200) <= 128
    assert taken([full] * 200) == 0
    assert taken([holes]) == 1


def test_outputs_that_diverge_dont_make_a_mean_something_else() -> None:
    division = Division(as_loss(lambda o, t: (o - t).square().mean()), remedy="")
    for outputs in (torch.ones(4), torch.full((4,), math.nan), torch.full((4,), math.inf), torch.ones(4)):
        assert division.part(outputs, torch.zeros(4)).divisor == 4


def test_several_yes_or_no_for_each_example() -> None:
    goals = torch.randn(60, 3, generator=G) > 0
    named, torchs = network(), network()
    fit("bce", goals, model=named, hyperparameters={"lr": 0.5})
    fit(nn.BCEWithLogitsLoss(), goals, model=torchs, hyperparameters={"lr": 0.5})
    assert all(torch.equal(a, b) for a, b in zip(named.parameters(), torchs.parameters(), strict=True))


def test_a_class_of_losses_is_made() -> None:
    assert fit(nn.CrossEntropyLoss, validation=(X, Y)).final == fit("cross-entropy", validation=(X, Y)).final


# Labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "log-loss", "balanced-accuracy"])
def test_labels_that_the_loss_leaves_out_count_in_no_metric(metric: str) -> None:
    for ignored in (-100, 2):
        some = torch.where(torch.arange(60) % 3 == 0, ignored, Y % 2)
        counts = some != ignored
        loss = nn.CrossEntropyLoss(ignore_index=ignored)
        found = fit(loss, some, validation=(X, some), metric=metric).final
        alone = fit(loss, some, validation=(X[counts], some[counts]), metric=metric).final
        assert found["validation"] == pytest.approx(alone["validation"], rel=1e-6)


def test_a_metric_by_name_refuses_classes_below_0() -> None:
    some = torch.where(torch.arange(60) % 3 == 0, -1, Y)

    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, ignore_index=-1)

    with pytest.raises(DataError, match="class number -1, but the metric 'accuracy' takes"):
        fit(own, some, validation=(X, some), metric="accuracy")


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64"])
def test_labels_of_wide_unsigned_types(kind: str) -> None:
    for labels in (Y.numpy().astype(kind), torch.from_numpy(Y.numpy().astype(kind))):
        fitted = fit("cross-entropy", labels, validation=(X, labels), metric="accuracy")
        assert fitted.final == fit("cross-entropy", validation=(X, Y), metric="accuracy").final


# Types -------------------------------------------------------------------------------------------------


def test_arrays_of_doubles_stay_so_for_a_model_in_double() -> None:
    model, twin = network(1).double(), network(1).double()
    x = X.double() / 3
    y = x.sum(1, keepdim=True)
    fit("mse", y.numpy(), x.numpy(), model, hyperparameters={"lr": 0.1})
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for step in range(4):
        part = streams.order(60, seed=0, epoch=step // 3)[step % 3 * 20 :][:20]
        optimizer.zero_grad()
        F.mse_loss(twin(x[part]), y[part]).backward()
        optimizer.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "doubles": (lambda: fit("cross-entropy", x=X.double()), "inputs are torch.float64, but .*; give inputs"),
    "validation": (
        lambda: fit("cross-entropy", validation=(X.double(), Y)),
        "inputs are torch.float64, but the model's weights are torch.float32",
    ),
    "pixels": (lambda: fit("cross-entropy", x=X.to(torch.uint8)), r"of pixels by inputs.float\(\) / 255"),
    "complex inputs": (lambda: fit("cross-entropy", x=X.to(torch.complex64)), "view_as_real"),
    "complex targets": (
        lambda: fit("mse", torch.complex(X[:, 0], X[:, 1]), model=network(1)), "the targets are complex",
    ),
    "text": (lambda: fit("cross-entropy", np.array(["a", "b", "c"])[Y]), "number classes from 0 on"),
    "objects": (lambda: fit("cross-entropy", Y.numpy().astype(object)), "type object doesn't hold numbers"),
    "probabilities": (
        lambda: fit("bce", torch.rand(60, generator=G), model=network(1)), r"BCEWithLogitsLoss\(\) for prob",
    ),
    "nothing": (lambda: fit("cross-entropy", Y[:0], X[:0]), "the training data hold no examples; give at"),
    "no batches": (lambda: fit("cross-entropy", validation=[]), "validation data hold no examples"),
    "empty loader": (
        lambda: fit("cross-entropy", validation=DataLoader(TensorDataset(X[:0], Y[:0]))),
        "validation data hold no examples",
    ),
    "seed below 0": (lambda: fit("cross-entropy", seed=-1), "seed is -1, but must be a whole number"),
    "large seed": (lambda: fit("cross-entropy", seed=2**70), "from 0 to 9223372036854775807"),
    "half a seed": (lambda: fit("cross-entropy", seed=0.5), "seed is 0.5"),
    "rate as text": (lambda: fit("cross-entropy", hyperparameters={"lr": "0.1"}), "sgd: lr is '0.1', but"),
    "unknown number": (
        lambda: fit("cross-entropy", optimizer=torch.optim.SGD, hyperparameters={"rate": 1.0}),
        r"SGD\(parameters, rate=1.0\) raises TypeError",
    ),
    "rate of nan": (lambda: fit("cross-entropy", schedule=lambda step: math.nan), "gives nan at step 0"),
    "negative rate": (
        lambda: fit("cross-entropy", schedule=lambda step: 1.0 - step), "of lr gives -1.0 at step 2",
    ),
    "schedule of text": (lambda: fit("cross-entropy", schedule=lambda step: "a"), "gives 'a' at step 0"),
    "strategy by name": (lambda: fit("cross-entropy", strategies=["averaging"]), "isn't an object of a"),
    "one strategy": (lambda: fit("cross-entropy", strategies=Averaging()), "one strategy, 'averaging'; give"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_in_a_sentence(what: str) -> None:
    act, says = REFUSED[what]
    with pytest.raises(UserError, match=says):
        act()


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    fitted = fit("cross-entropy", steps=np.int64(2), batch_size=np.int32(20), seed=np.uint8(3))
    assert fitted.updates == 2
    ensemble = thalweg.fit_ensemble(
        "mlp:4", (X, Y), "cross-entropy", members=np.int64(2), epochs=np.int32(1), batch_size=np.int64(20)
    )
    assert len(ensemble.models) == 2


def test_a_driver_refuses_a_factor_that_is_none() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    driver = schedules.Driver(optimizer, {"lr": lambda step: 1.0 if step < 2 else math.inf})
    driver.step()
    with pytest.raises(OptionError, match="schedule of lr gives inf at step 2"):
        driver.step()


def test_metrics_by_name_say_what_else_there_is() -> None:
    with pytest.raises(OptionError, match="give a function of outputs and targets"):
        objectives.metric("accuracy", objectives.Task(kind="custom"))
