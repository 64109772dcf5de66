"""One rule for the shapes of outputs and targets: losses, metrics, fit, race, lanes and predict."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from small import prepared, problem, runs, workload
from thalweg import objectives
from thalweg.data.source import Prepared
from thalweg.errors import OptionError, UserError
from thalweg.execution import lanes, loop
from thalweg.objectives import Task, as_loss
from thalweg.objectives.comparing import Forms, for_classes

G = torch.Generator().manual_seed(2)
N = 40
X = torch.randn(N, 5, generator=G, dtype=torch.float64)
Y = X.sum(1) + 0.1 * torch.randn(N, generator=G, dtype=torch.float64)
NUMBER = Task(kind="regression", spread=1.0)


def named(given: Any) -> str:
    """What a case is called: ``str`` of a function has its address, which differs from process to process."""
    return str(getattr(given, "__name__", given))


class Flat(nn.Module):
    """Gives ``[N]``, and a bare number for a batch of one."""

    def __init__(self, features: int = 5) -> None:
        super().__init__()
        self.layer = nn.Linear(features, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)).squeeze()  # type: ignore[no-any-return]


def column() -> nn.Module:
    return nn.Linear(5, 1).double()


def start(model: nn.Module) -> nn.Module:
    for p in model.parameters():
        nn.init.constant_(p, 0.1)
    return model


def fourth(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).pow(4).mean()


def fourth_of_columns(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs[:, 0] - targets).pow(4).mean()


def fourth_of_last(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.reshape(len(targets), -1)[..., 0] - targets.reshape(-1)).pow(4).mean()


class Ours(nn.Module):
    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets) + 0.0


def far(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs - targets).abs().max())


def far_by_numpy(outputs: Tensor, targets: Tensor) -> float:
    return float(np.abs(outputs.numpy() - targets.numpy()).max())


SHAPES = {
    "[N] and [N, 1]": (Flat, Y[:, None]), "[N, 1] and [N]": (column, Y),
    "[N, 1] and [N, 1]": (column, Y[:, None]), "[N] and [N]": (Flat, Y),
}  # fmt: skip
LOSSES: dict[str, tuple[Any, Any]] = {
    "mse": ("mse", F.mse_loss), "mae": ("mae", F.l1_loss), "huber": ("huber", F.huber_loss),
    "torch's": (F.mse_loss, F.mse_loss), "a module": (nn.SmoothL1Loss(beta=0.5), nn.SmoothL1Loss(beta=0.5)),
    "a partial": (functools.partial(F.huber_loss, delta=0.5), functools.partial(F.huber_loss, delta=0.5)),
    "own": (fourth, fourth), "own, of the last axis": (fourth_of_last, fourth),
    "a module of ours": (Ours(), F.mse_loss),
}  # fmt: skip
METRICS: dict[Any, Any] = {
    "rmse": lambda o, t: (o - t).square().mean().sqrt(), "mae": lambda o, t: (o - t).abs().mean(),
    "r2": lambda o, t: 1 - (o - t).square().mean() / (t - t.mean()).square().mean(), far: far,
    far_by_numpy: far,
}  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shapes", SHAPES)
def test_fit_trains_and_judges_alike_whatever_the_axis_of_one(shapes: str, loss: str) -> None:
    build, targets = SHAPES[shapes]
    given, twin = LOSSES[loss]
    metric = list(METRICS)[list(LOSSES).index(loss) % len(METRICS)]
    fitted = thalweg.fit(
        start(build()), (X, targets), given, "sgd", steps=6, batch_size=N, hyperparameters={"lr": 0.01},
        validation=(X, targets), metric=metric, evaluations=1,
    )  # fmt: skip

    model = start(nn.Linear(5, 1).double())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(6):
        optimizer.zero_grad()
        twin(model(X).flatten(), Y).backward()
        optimizer.step()
    with torch.no_grad():
        outputs = model(X).flatten()
    found = torch.cat([p.flatten() for p in fitted.model.parameters()])
    torch.testing.assert_close(found, torch.cat([p.flatten() for p in model.parameters()]), rtol=1e-9, atol=0)
    assert fitted.final["validation_loss"] == pytest.approx(twin(outputs, Y).item(), rel=1e-9)
    assert fitted.final["validation"] == pytest.approx(float(METRICS[metric](outputs, Y)), rel=1e-9)


@pytest.mark.parametrize("shapes", ["[N] and [N, 1]", "[N, 1] and [N]"])
@pytest.mark.parametrize("given", [{"batch_size": 1}, {"batch_size": 8, "accumulate": 8}, {"loader": 13}])
def test_batches_and_parts_of_one_example_are_compared_alike(shapes: str, given: dict[str, Any]) -> None:
    build, targets = SHAPES[shapes]
    size = given.pop("loader", None)
    data: Any = (X, targets)
    if size is not None:
        # blocks of 13, 13, 13 and 1
        data = DataLoader(TensorDataset(X, targets), batch_size=size)
    fitted = thalweg.fit(
        start(build()), data, fourth, "sgd", steps=8, hyperparameters={"lr": 1e-3}, validation=data,
        metric="rmse", evaluations=1, **given,
    )  # fmt: skip
    with torch.no_grad():
        outputs = fitted.model(X).flatten()
    assert fitted.final["validation_loss"] == pytest.approx(fourth(outputs, Y).item(), rel=1e-9)
    assert fitted.final["validation"] == pytest.approx(float((outputs - Y).square().mean().sqrt()), rel=1e-9)
    given |= {} if size is None else {"batch_size": size}
    twin = thalweg.fit(
        start(column()), (X, Y[:, None]), fourth, "sgd", steps=8, hyperparameters={"lr": 1e-3},
        **({"batch_size": 1} | given),
    )  # fmt: skip
    if size is None:
        one, other = (torch.cat([p.flatten() for p in m.model.parameters()]) for m in (fitted, twin))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=0)


@pytest.mark.parametrize("loss", ["mse", fourth, fourth_of_columns, nn.L1Loss()], ids=named)
@pytest.mark.parametrize("metric", ["rmse", far], ids=named)
def test_a_model_that_gives_one_number_races_as_one_with_a_column(loss: Any, metric: Any) -> None:
    data, found = prepared("number", torch.float64), []
    for factory in (lambda shape, outputs: nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double(),
                    lambda shape, outputs: Flat(16)):  # fmt: skip
        common: dict[str, Any] = {
            "problem": problem(factory, data, "number", loss=loss, metric=metric),
            "workload": workload(epochs=2),
        }
        run = runs(1, names=["momentum"], rates=(0.01,))[0]
        found += [loop.run(run, **common), lanes.run([run], **common)[0]]
    for other in found[1:]:
        for name in ("train_loss", "validation_loss", "validation", "test", "test_predictions"):
            assert getattr(other, name) == pytest.approx(getattr(found[0], name), rel=1e-9), name
    assert (metric is far) != bool(found[0].test_predictions)


def test_targets_with_an_axis_of_one_race_like_those_without() -> None:
    data, found = prepared("number", torch.float64), []
    tall = {
        part: type(getattr(data, part))(getattr(data, part).inputs, getattr(data, part).targets[:, None])
        for part in ("train", "validation", "test")
    }
    for given in (data, Prepared(**{**vars(data), **tall})):
        common: dict[str, Any] = {
            "problem": problem(
                lambda shape, outputs: nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double(), given, "number"
            ),
            "workload": workload(epochs=2),
        }
        run = runs(1, names=["momentum"], rates=(0.01,))[0]
        found += [loop.run(run, **common), lanes.run([run], **common)[0]]
    for other in found[1:]:
        assert other.validation == pytest.approx(found[0].validation, rel=1e-9)
        assert other.train_loss == pytest.approx(found[0].train_loss, rel=1e-9)


def test_sequences_and_classes_of_tokens() -> None:
    outputs, targets = torch.randn(6, 4, 1, generator=G), torch.randn(6, 4, generator=G)
    expected = F.mse_loss(outputs[..., 0], targets)
    for loss in (as_loss(F.mse_loss), as_loss(lambda o, t: (o - t).square().mean())):
        assert loss(outputs, targets) == expected
        assert loss(outputs[..., 0], targets[..., None]) == expected
    square = torch.randn(4, 4, 1, generator=G)  # here broadcasting would find shapes that fit
    own = as_loss(lambda o, t: (o - t).square().mean())
    assert own(square, targets[:4]) == F.mse_loss(square[..., 0], targets[:4])
    scores, tokens = torch.randn(6, 3, 4, generator=G), torch.randint(0, 3, (6, 4), generator=G)
    for loss in (as_loss(nn.CrossEntropyLoss()), objectives.loss("cross-entropy", Task(kind="custom"))):
        assert loss(scores, tokens) == F.cross_entropy(scores, tokens)
        assert loss(scores[:, :, :1], tokens[:, :1]) == F.cross_entropy(scores[:, :, :1], tokens[:, :1])
        assert loss(scores, tokens[..., None]) == F.cross_entropy(scores, tokens)
        assert loss(scores, scores.softmax(1)) == F.cross_entropy(scores, scores.softmax(1))
        assert loss(scores[..., 0], tokens[:, 0]) == F.cross_entropy(scores[..., 0], tokens[:, 0])
        assert loss(scores[..., 0], tokens[:, :1]) == F.cross_entropy(scores[..., 0], tokens[:, 0])


def test_binary_cross_entropy_in_every_shape() -> None:
    logits, targets = torch.randn(9, generator=G), torch.randint(0, 2, (9,), generator=G)
    expected = F.binary_cross_entropy_with_logits(logits, targets.float())
    named = objectives.loss("bce", Task(kind="classification", classes=("a", "b")))
    for one in (logits, logits[:, None]):
        for other in (targets, targets[:, None]):
            assert named(one, other) == expected
            assert as_loss(nn.BCEWithLogitsLoss())(one, other.float()) == expected
    both = torch.stack([torch.zeros(9), logits], 1)
    for other in (targets, targets[:, None]):
        torch.testing.assert_close(named(both, other), expected)
    accuracy = objectives.metric("accuracy", Task(kind="classification", classes=("a", "b")))
    for one in (logits, logits[:, None], both):
        for other in (targets, targets[:, None]):
            found = accuracy.score(accuracy.reduce(one, other), other)
            assert found == ((logits > 0).long() == targets).double().mean()


def squared(outputs: Any, targets: Any) -> Any:
    return (outputs - targets).square().mean()


OWN = {
    "subtracts": (squared, "alike"),
    "takes the first column": (lambda o, t: squared(o[:, 0], t), "as given"),
    "takes the last axis": (lambda o, t: squared(o[..., 0], t), "as given"),
    "sums over the last axis": (lambda o, t: squared(o.sum(-1), t), "as given"),
    "by numpy": (lambda o, t: float(np.square(o.detach().numpy() - t.numpy()).mean()), "alike"),
    "spreads targets itself": (lambda o, t: F.mse_loss(o.flatten(1), t[:, None]), "as given"),
    "compares all pairs": (lambda o, t: squared(o - o.view(-1), t[:, None] - t), "as given"),
    "wants columns": (lambda o, t: squared(o[:, 0], t[:, 0]), "columns"),
}


@pytest.mark.parametrize("case", OWN)
def test_a_function_is_given_the_shapes_that_it_means(case: str) -> None:
    function, form = OWN[case]
    outputs, targets = torch.randn(8, 1, generator=G), torch.randn(8, generator=G)
    one, other = Forms(function)(outputs, targets)
    shapes = {"alike": ((8,), (8,)), "as given": ((8, 1), (8,)), "columns": ((8, 1), (8, 1))}[form]
    assert (tuple(one.shape), tuple(other.shape)) == shapes
    expected = squared(outputs[:, 0], targets)
    if case == "compares all pairs":
        expected = squared(outputs[:, 0, None] - outputs[:, 0], targets[:, None] - targets)
    assert float(function(one, other)) == pytest.approx(float(expected))
    if case not in ("compares all pairs", "spreads targets itself"):
        # and the other way round: the targets have the axis
        one, other = Forms(function)(outputs[:, 0], targets[:, None])
        assert float(function(one, other)) == pytest.approx(float(squared(outputs[:, 0], targets)))


def test_a_first_batch_of_one_example_decides_nothing() -> None:
    forms = Forms(squared)
    forms(torch.randn(1, 1), torch.randn(1))
    outputs, targets = torch.randn(8, 1, generator=G), torch.randn(8, generator=G)
    assert squared(*forms(outputs, targets)) == squared(outputs[:, 0], targets)


REFUSED: dict[str, tuple[Any, Any, Any]] = {
    "two outputs": (nn.Linear(5, 2).double(), Y, "mse"),
    "two outputs, torch's loss": (nn.Linear(5, 2).double(), Y[:, None], F.mse_loss),
    "as many outputs as examples": (nn.Linear(5, 8).double(), Y, nn.L1Loss()),
    "two axes of one": (nn.Sequential(nn.Linear(5, 1), nn.Unflatten(1, (1, 1))).double(), Y, "mse"),
    "classes": (nn.Linear(5, 3).double(), torch.zeros(N, 2, dtype=torch.long), nn.CrossEntropyLoss()),
}


@pytest.mark.parametrize("case", REFUSED)
def test_shapes_that_cannot_be_compared_are_one_sentence_before_training(case: str, tmp_path: Path) -> None:
    model, targets, loss = REFUSED[case]
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(
        UserError, match=r"can't compare outputs of shape \(8, .*targets of shape \(8,"
    ) as said:
        thalweg.fit(model, (X, targets), loss, "sgd", steps=3, batch_size=8, out=tmp_path / "out")
    assert str(said.value).count(". ") == 0
    assert not (tmp_path / "out").exists()
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_a_metric_refuses_columns_that_it_would_leave_out() -> None:
    for outputs in (torch.zeros(8, 2), torch.zeros(3, 8, 2)):
        with pytest.raises(OptionError, match="'rmse' needs one output for each example, not 2"):
            objectives.metric("rmse", NUMBER).reduce(outputs, torch.zeros(8))
    with pytest.raises(
        OptionError, match=r"can't compare outputs of shape \(7, 1\) with targets of shape \(8,\)"
    ):
        objectives.metric("mae", NUMBER).reduce(torch.zeros(7, 1), torch.zeros(8))


def test_a_metric_of_ones_own_is_given_whole_sequences() -> None:
    """Outputs ``[N, T, V]``: the first axis is that of examples, not of lanes."""
    outputs, targets = torch.randn(6, 4, 3, generator=G), torch.randint(0, 3, (6, 4), generator=G)

    def right(outputs: Tensor, targets: Tensor) -> float:
        assert outputs.shape[:2] == targets.shape
        return float((outputs.argmax(-1) == targets).double().mean())

    metric = objectives.metric(right, Task(kind="custom"))
    expected = (outputs.argmax(-1) == targets).double().mean()
    assert metric.score(metric.reduce(outputs, targets), targets) == expected
    both = torch.stack([outputs, outputs.roll(1, -1)])
    assert metric.score(both, targets, lanes=True)[0] == expected


def test_whole_numbers_of_the_shape_of_scores_are_no_probabilities() -> None:
    outputs, targets = torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64)
    with pytest.raises(OptionError, match=r"outputs of shape \(4, 3\) with targets of shape \(4, 3\)"):
        for_classes(outputs, targets)
    assert for_classes(outputs, targets.double())[1].shape == (4, 3)
