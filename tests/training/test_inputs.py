"""What people give to ``fit`` in other forms than the usual: it works, or one sentence says what to do."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as sk
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import thalweg
from thalweg import objectives
from thalweg.errors import DataError, OptionError, UserError
from thalweg.objectives import Task, activations
from thalweg.strategies import EarlyStopping, Guard, Initialization

X = torch.randn(128, 5, generator=torch.Generator().manual_seed(0))
SIDE = (X.sum(1) > 0).long()
THREE = SIDE + (X[:, 0] > 0.7).long()


def named(given: Any) -> str:
    """What a case is called: ``str`` of a function has its address, which differs from process to process."""
    return str(getattr(given, "__name__", given))


def network(outputs: int = 2, norm: bool = False, head: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(5, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(8, outputs), *([head] if head else []))


class Items(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A Dataset of 128 items."""

    def __init__(self, item: Callable[[int], Any]) -> None:
        self.item = item

    def __len__(self) -> int:
        return 128

    def __getitem__(self, n: int) -> Any:
        return self.item(n)


def fit(model: nn.Module, y: Tensor, loss: Any, **more: Any) -> thalweg.training.Fitted:
    given: dict[str, Any] = {
        "validation": (X, y), "epochs": 3, "seed": 1, "hyperparameters": {"lr": 0.1}, "evaluations": 3,
        **more,
    }  # fmt: skip
    given.setdefault("optimizer", "sgd")
    return thalweg.fit(model, (X, y), loss, **given)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "int64": lambda y: y,
    "int32": lambda y: y.int(),
    "uint8": lambda y: y.byte(),
    "float": lambda y: y.float(),
    "double": lambda y: y.double(),
    "column": lambda y: y.unsqueeze(1),
    "float column": lambda y: y.float().unsqueeze(1),
    "one-hot": lambda y: F.one_hot(y, 3),
    "float one-hot": lambda y: F.one_hot(y, 3).float(),
}


@pytest.mark.parametrize("loss", ["cross-entropy", F.cross_entropy, nn.CrossEntropyLoss()], ids=named)
@pytest.mark.parametrize("form", FORMS)
def test_class_labels_of_any_form_are_the_same_training(form: str, loss: Any) -> None:
    usual = fit(network(3), THREE, "cross-entropy", metric="accuracy")
    same = fit(network(3), FORMS[form](THREE), loss, metric="accuracy")
    assert same.final["validation"] == usual.final["validation"]
    assert same.final["validation_loss"] == pytest.approx(usual.final["validation_loss"], rel=1e-5)
    balanced = fit(network(3), FORMS[form](THREE), loss, metric="balanced-accuracy").final["validation"]
    guess = usual.model(X).argmax(1)
    assert balanced == pytest.approx(sk.balanced_accuracy_score(THREE, guess))


@pytest.mark.parametrize(
    "loss", ["bce", F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss()], ids=named
)
@pytest.mark.parametrize("form", ["int64", "int32", "uint8", "float", "double", "bool"])
@pytest.mark.parametrize("metric", ["accuracy", "auc"])
def test_two_classes_of_any_type_are_the_same_training(form: str, loss: Any, metric: str) -> None:
    y = SIDE.bool() if form == "bool" else FORMS[form](SIDE)
    y = y if loss == "bce" else y.unsqueeze(1)
    found = fit(network(1), y, loss, metric=metric)
    usual = fit(network(1), SIDE, "bce", metric=metric)
    assert found.final["validation_loss"] == pytest.approx(usual.final["validation_loss"], rel=1e-5)
    logits = usual.model(X).flatten().detach()
    truth = sk.accuracy_score(SIDE, logits > 0) if metric == "accuracy" else sk.roc_auc_score(SIDE, logits)
    assert usual.final["validation"] == pytest.approx(truth)


def test_labels_of_a_loader_and_of_a_dataset_are_understood_batch_by_batch() -> None:
    y = THREE.int()
    for data in (DataLoader(TensorDataset(X, y), 32), Items(lambda n: (X[n], y[n]))):
        found = thalweg.fit(
            network(3), data, "cross-entropy", "sgd", validation=data, metric="accuracy", epochs=2,
            hyperparameters={"lr": 0.5},
        )  # fmt: skip
        assert found.final["validation"] > 0.6
    loader = DataLoader(TensorDataset(X, SIDE.int()), 32)
    assert not thalweg.fit(network(1), loader, "bce", "sgd", epochs=1).failed
    with pytest.raises(DataError, match=r"the batch's targets are values from 1 to 3, but .*subtract 1"):
        thalweg.fit(
            network(3), DataLoader(TensorDataset(X, THREE + 1), 128), "cross-entropy", "sgd", epochs=1
        )


@pytest.mark.parametrize(
    ("y", "loss", "outputs", "words"),
    [
        (THREE + 1, "cross-entropy", 3, r"the training targets are values from 1 to 3, but the loss "
         r"'cross-entropy' takes class numbers from 0 to 2, for the model's 3 outputs; subtract 1"),
        (SIDE * 2 - 1, "cross-entropy", 2, r"are -1 and 1, but .*; give \(targets > 0\).long\(\)"),
        (SIDE * 2 - 1, nn.CrossEntropyLoss(), 2, r"are -1 and 1, but .*CrossEntropyLoss' takes class"),
        (SIDE * 2.0 - 1, nn.BCEWithLogitsLoss(), 1, r"are -1 and 1, but .*'BCEWithLogitsLoss' takes 0"),
        (SIDE + 1, "bce", 1, r"are 1 and 2, but the loss 'bce' takes 0 and 1; subtract 1"),
        (THREE, "cross-entropy", 2, r"values from 0 to 2, but .* from 0 to 1, .*give 3 outputs"),
        (THREE, "bce", 1, r"values from 0 to 2, but the loss 'bce' takes 0 and 1"),
        (X[:, 0], "cross-entropy", 3, r"the training targets hold .*class numbers, from 0 on"),
        (torch.stack([SIDE, SIDE], 1), "cross-entropy", 2, r"outputs' shape \[128, 2\] but aren't one-hot"),
    ],
)  # fmt: skip
def test_labels_that_cant_be_meant_get_a_sentence(y: Tensor, loss: Any, outputs: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        fit(network(outputs), y, loss, validation=None)


def test_ignored_labels_and_probabilities_are_legitimate() -> None:
    y = THREE.clone()
    y[::5] = -100
    assert not fit(network(3), y, nn.CrossEntropyLoss()).failed
    y[::5] = 7
    assert not fit(network(3), y, functools.partial(F.cross_entropy, ignore_index=7)).failed
    soft = torch.rand(128, 3).softmax(1)
    assert not fit(network(3), soft, "cross-entropy").failed
    assert not fit(network(4), (torch.rand(128, 4) > 0.5).float(), nn.BCEWithLogitsLoss()).failed


def test_labels_for_each_token() -> None:
    tokens = torch.randint(3, (128, 4), generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Linear(5, 12), nn.Unflatten(1, (3, 4)))
    for loss in ("cross-entropy", F.cross_entropy):
        assert not fit(model, tokens, loss, epochs=1).failed
    found = fit(model, tokens, "cross-entropy", metric="accuracy", epochs=1)
    right = (found.model(X).argmax(1) == tokens).double().mean()
    assert found.final["validation"] == pytest.approx(float(right))
    flat = nn.Linear(5, 12)
    with pytest.raises(OptionError, match=r"it needs outputs of shape \(128, 'classes', 4\)"):
        fit(flat, tokens, lambda outputs, targets: outputs.square().mean(), metric="accuracy", epochs=1)


def test_a_class_in_validation_alone() -> None:
    y = SIDE.clone()
    y[0] = 2
    found = thalweg.fit(
        network(3), (X, SIDE), "cross-entropy", "sgd", validation=(X, y), metric="balanced-accuracy", epochs=1
    )
    guess = found.model(X).argmax(1)
    assert found.final["validation"] == pytest.approx(sk.balanced_accuracy_score(y, guess))
    with pytest.raises(DataError, match=r"the validation targets are values from 0 to 2, but .* 0 to 1"):
        thalweg.fit(network(2), (X, SIDE), "cross-entropy", "sgd", validation=(X, y), epochs=1)
    metric = objectives.metric("balanced-accuracy", Task(kind="classification", classes=("0", "1")))
    reduced = torch.tensor([1.0, 0.0, 0.0])
    assert metric.score(reduced, torch.tensor([0, 1, 2])).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("loss", ["mse", "mae", "huber", F.mse_loss])
def test_numbers_of_several_columns_and_types(columns: int, loss: Any) -> None:
    y, more = (X[:, :columns] * 2 + X[:, 1:2]).double(), {"epochs": 10}
    if columns == 1:
        y, loss = y[:, 0], loss if isinstance(loss, str) else "mse"
    for metric, truth in (
        ("rmse", lambda y, p: sk.mean_squared_error(y, p) ** 0.5),
        ("mae", sk.mean_absolute_error),
        ("r2", sk.r2_score),
    ):
        found = fit(network(columns), y, loss, metric=metric, **more)
        expected = truth(y.numpy(), found.model(X).detach().numpy())
        assert found.final["validation"] == pytest.approx(expected, rel=1e-5)
    whole, more = (10 * y).round(), {"epochs": 10, "hyperparameters": {"lr": 1e-4}}
    ints = fit(network(columns), whole.int(), loss, metric="rmse", **more)
    assert ints.final["validation"] == pytest.approx(
        fit(network(columns), whole.float(), loss, metric="rmse", **more).final["validation"], rel=1e-6
    )


@pytest.mark.parametrize("metric", ["accuracy", "log-loss"])
def test_probabilities_arent_judged_as_logits(metric: str) -> None:
    model = network(1, head=nn.Sigmoid())
    y = SIDE.unsqueeze(1)
    with pytest.raises(OptionError, match=r"takes probabilities as outputs, but the metric .* takes logits"):
        fit(model, y, nn.BCELoss(), metric=metric)
    assert fit(model, y, nn.BCELoss(), metric="auc").final["validation"] > 0.5


# Models and batches that aren't one tensor ------------------------------------------------------------------

Output = namedtuple("Output", ["loss", "logits"])


class HuggingFace(dict):
    """As transformers' outputs: a dictionary with attributes."""


WRAPPED: dict[str, Callable[[Tensor], Any]] = {
    "tuple of 2": lambda out: (out, out),
    "Output of 2": lambda out: Output(None, out),
    "dict": lambda out: {"loss": None, "logits": out},
    "HuggingFace": lambda out: HuggingFace(loss=None, logits=out),
}


class Wrapping(nn.Module):
    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.wrap = nn.Linear(5, 2), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.layer(x))


def own_loss(outputs: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs if isinstance(outputs, Tensor) else last(outputs), targets)


def own_accuracy(outputs: Any, targets: Tensor) -> Tensor:
    return (last(outputs).argmax(1) == targets).double().mean()


def last(outputs: Any) -> Tensor:
    found: Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs[1]
    return found


@pytest.mark.parametrize("kind", WRAPPED)
def test_models_of_several_outputs_work_under_every_loss(kind: str) -> None:
    model = Wrapping(WRAPPED[kind])
    for loss in ("cross-entropy", F.cross_entropy, own_loss):
        assert not fit(model, SIDE, loss).failed
    found = fit(model, SIDE, own_loss, metric=own_accuracy)
    right = (last(found.model(X)).argmax(1) == SIDE).double().mean()
    assert found.final["validation"] == pytest.approx(float(right))
    named = fit(model, SIDE, own_loss, metric="accuracy")
    assert named.final["validation"] == pytest.approx(
        float((last(named.model(X)).argmax(1) == SIDE).double().mean())
    )


# Batches of one, lengths, engines ---------------------------------------------------------------------------


def test_a_loaders_last_batch_of_one_is_left_out_where_batch_norm_cant_take_it() -> None:
    loader = DataLoader(TensorDataset(X[:33], SIDE[:33]), 16)
    found = thalweg.fit(network(norm=True), loader, "cross-entropy", "sgd", epochs=4)
    assert found.updates == 12
    assert found.notes == ["batches of one example are left out: batch norm can't normalize them"]
    assert int(found.model[1].num_batches_tracked) == 12  # type: ignore[index]
    plain = thalweg.fit(network(), loader, "cross-entropy", "sgd", epochs=4)
    assert plain.notes == []
    frozen = network(norm=True)
    frozen[1].eval()  # type: ignore[index]
    notes = thalweg.fit(frozen, loader, "cross-entropy", "sgd", epochs=4).notes
    assert notes == ["what is in evaluation mode stays so while training: 1 (BatchNorm1d)"]
    alone = DataLoader(TensorDataset(X[:4], SIDE[:4]), 1)
    with pytest.raises(DataError, match="every batch has one example, which batch norm"):
        thalweg.fit(network(norm=True), alone, "cross-entropy", "sgd", epochs=1)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(8), thalweg.layers.BatchNorm(8)])
def test_parts_and_batches_of_one_under_batch_norm_get_a_sentence(norm: nn.Module) -> None:
    for size, parts in ((1, 1), (4, 4)):
        model = nn.Sequential(nn.Linear(5, 8), norm, nn.Linear(8, 2))
        with pytest.raises(DataError, match=rf"batch norm can't normalize one example .*a batch of {size}"):
            thalweg.fit(model, (X, SIDE), "cross-entropy", "sgd", epochs=1, batch_size=size, accumulate=parts)
    with pytest.raises(UserError, match="batch norm can't normalize one example by itself"):
        thalweg.race(network(3, norm=True), (X, THREE), trials=1, epochs=1, batch_size=1)


class Endless(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(X, SIDE, strict=True))


def test_iterables_without_a_length_train_by_steps() -> None:
    class Batches:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return iter([(X[:32], SIDE[:32]), (X[32:64], SIDE[32:64])])

    for data in (DataLoader(Endless(), 32), Batches()):
        assert thalweg.fit(network(), data, "cross-entropy", "sgd", steps=5).updates == 5
        with pytest.raises(DataError, match=r"don't say how many batches an epoch has; .* by steps in place"):
            thalweg.fit(network(), data, "cross-entropy", "sgd", epochs=1)


def test_an_engine_by_name_gets_the_objects_to_take() -> None:
    with pytest.raises(
        OptionError, match=r"backend is 'loop', but fit takes a backend as an object, such as"
    ):
        fit(network(), SIDE, "cross-entropy", backend="loop")


# Metrics that aren't defined --------------------------------------------------------------------------------


def test_metrics_that_the_validation_data_leave_undefined_are_refused_at_once(tmp_path: Path) -> None:
    ones = torch.ones(8, dtype=torch.long)
    for strategies in ([], [EarlyStopping()]):
        with pytest.raises(DataError, match=r"'auc' isn't defined on the validation data: .* single class"):
            fit(
                network(),
                SIDE,
                "cross-entropy",
                strategies=strategies,
                validation=(X[:8], ones),
                metric="auc",
            )
        with pytest.raises(DataError, match="'r2' isn't defined on the validation data: their targets"):
            fit(
                network(1), X[:, 0], "mse", strategies=strategies, validation=(X[:1], X[:1, 0]), metric="r2",
                out=tmp_path / "out",
            )  # fmt: skip
        assert not (tmp_path / "out").exists()


def test_early_stopping_on_ones_own_metric_that_never_is_a_number() -> None:
    found = fit(
        network(), SIDE, "cross-entropy", strategies=[EarlyStopping(patience=2)],
        metric=lambda outputs, targets: float("nan"), evaluations=12,
    )  # fmt: skip
    assert "was no finite number at any of 2 evaluations" in str(found.stopped)
    assert found.best is None


# Values that aren't finite ----------------------------------------------------------------------------------


def with_value(value: float, row: int = 17, column: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    x = X.to(dtype).clone()
    x[row, column] = value
    return x


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("split", ["training", "validation"])
@pytest.mark.parametrize("strategies", [[], [Guard(attempts=2)]])
def test_values_that_are_not_finite_are_named_and_no_divergence(
    value: float, split: str, strategies: list[Any], tmp_path: Path
) -> None:
    data, scored = (with_value(value), X) if split == "training" else (X, with_value(value))
    with pytest.raises(DataError, match=rf"the {split} inputs hold {value:g} in row 17, column 3") as said:
        thalweg.fit(
            network(), (data, SIDE), "cross-entropy", "sgd", strategies=strategies, validation=(scored, SIDE),
            epochs=40 if split == "training" and strategies else 3, out=tmp_path / "out",
        )  # fmt: skip
    assert "learning rate" not in str(said.value)
    assert (tmp_path / "out").exists() == (split == "training")


def test_targets_that_are_not_finite_are_named() -> None:
    y = X[:, :1].clone()
    y[5, 0] = float("nan")
    with pytest.raises(DataError, match="the validation targets hold nan in row 5, column 0"):
        fit(network(1), X[:, :1], "mse", validation=(X, y))
    with pytest.raises(DataError, match="the training targets hold nan in row 5"):
        fit(network(3), torch.where(torch.arange(128) == 5, float("nan"), THREE.float()), "cross-entropy")


def test_values_in_batches_and_nests_are_named_by_their_row() -> None:
    loader = DataLoader(TensorDataset(with_value(float("nan"), row=40), SIDE), 16)
    with pytest.raises(DataError, match="the validation inputs hold nan in row 40, column 3"):
        thalweg.fit(network(), (X, SIDE), "cross-entropy", "sgd", validation=loader, epochs=1)
    x = with_value(float("inf"), row=99)
    items = Items(lambda n: ({"a": x[n]}, SIDE[n]))

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            out: Tensor = self.net(batch["a"])
            return out

    with pytest.raises(DataError, match=r"the training inputs\['a'\] hold inf in row 99, column 3"):
        thalweg.fit(Inner(), items, "cross-entropy", "sgd", epochs=2)


def test_numbers_beyond_float32_are_refused_and_large_ones_said() -> None:
    large = with_value(1e300, dtype=torch.float64).numpy()
    with pytest.raises(DataError, match=r"the training inputs hold 1e\+300 in row 17, column 3 .*3.4e\+38"):
        thalweg.fit(network(), (large, SIDE.numpy()), "cross-entropy", "sgd", epochs=1)
    with pytest.raises(DataError, match=r"the validation inputs hold 1e\+300 in row 17, column 3"):
        thalweg.fit(network(), (X, SIDE), "cross-entropy", "sgd", validation=(large, SIDE.numpy()), epochs=1)
    found = fit(network(1), X[:, :1], "mse", optimizer="sgd", hyperparameters={"lr": 1e30})
    assert found.stopped is not None
    assert "lower the learning rate" in found.stopped
    torch.manual_seed(0)
    found = thalweg.fit(nn.Linear(5, 1), (with_value(1e30), X[:, :1]), "mse", "sgd", epochs=1, batch_size=128)
    assert "the training inputs reach 1e+30 in row 17, column 3" in str(found.stopped)


def test_a_loss_that_isnt_finite_from_the_start_is_no_divergence() -> None:
    model = network()
    with torch.no_grad():
        model[0].weight.fill_(float("inf"))  # type: ignore[index,union-attr,operator]
    found = fit(model, SIDE, "cross-entropy")
    assert "isn't finite before the first step" in str(found.stopped)


def test_a_race_names_what_makes_every_run_diverge_in_lanes_and_alone() -> None:
    def collate(items: list[Any]) -> tuple[Tensor, Tensor]:
        return torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])

    x = with_value(float("nan"), row=100, column=2)
    items = Items(lambda n: (x[n], SIDE[n]))
    for data, more in ((items, {"collate": collate}), ((with_value(1e300, dtype=torch.float64), SIDE), {})):
        words = "hold nan in row 100, column 2" if more else r"hold 1e\+300 in row 17, column 3"
        with pytest.raises(DataError, match=words):
            thalweg.race(network(), data, trials=1, splits=2, epochs=1, optimizers=["sgd"], **more)


# Which activation a loss implies ----------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["bce", nn.BCEWithLogitsLoss()])
def test_output_bias_of_one_logit_begins_at_the_share_of_the_second_class(loss: Any) -> None:
    y, head = (X[:, 0] > 1).long(), nn.Flatten(0) if loss != "bce" else None
    model = network(1, head=head)
    thalweg.fit(
        model, (X, y), loss, "sgd", strategies=[Initialization(output_bias=True)], epochs=1,
        hyperparameters={"lr": 0.0},
    )  # fmt: skip
    bias = model[2].bias  # type: ignore[index,union-attr]
    assert torch.sigmoid(bias).item() == pytest.approx(y.double().mean().item(), rel=1e-5)
    two = network(2)
    thalweg.fit(
        two, (X, y), "bce", "sgd", strategies=[Initialization(output_bias=True)], epochs=1,
        hyperparameters={"lr": 0.0},
    )  # fmt: skip
    assert two[2].bias.softmax(0)[1].item() == pytest.approx(y.double().mean().item(), rel=1e-5)  # type: ignore[index,union-attr]


@pytest.mark.parametrize("outputs", [1, 2])
def test_an_ensemble_of_one_logit_or_two_outputs_predicts_probabilities(outputs: int) -> None:
    ensemble = thalweg.fit_ensemble(
        lambda shape, wanted: nn.Linear(5, outputs), (X, SIDE.float()), "bce", "sgd", members=2, epochs=8,
        hyperparameters={"lr": 0.5}, validation=(X, SIDE.int()), metric="accuracy",
    )  # fmt: skip
    p = ensemble.predict(X)
    assert ensemble.activation == ("sigmoid" if outputs == 1 else "softmax")
    guess = (p.flatten() > 0.5).long() if outputs == 1 else p.argmax(1)
    assert (guess == SIDE).double().mean() > 0.9
    assert ensemble.evaluation is not None
    assert ensemble.evaluation.result["validation"] == pytest.approx((guess == SIDE).double().mean().item())
    assert ensemble.evaluation.calibration.error < 0.3


def test_a_trained_one_logit_model_predicts_both_classes(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "from torch import nn\n\n\ndef net(input_shape, outputs):\n    return nn.Linear(input_shape[0], 1)\n"
    )
    frame = np.column_stack([X.numpy(), SIDE.numpy()])
    header = ",".join([*"abcde", "side"])
    np.savetxt(tmp_path / "d.csv", frame, delimiter=",", header=header, comments="", fmt="%.6g")
    chosen = thalweg.recipe.Recipe.model_validate(
        {
            "data": {"spec": str(tmp_path / "d.csv"), "target": "side", "task": "classification"},
            "model": {"spec": f"{tmp_path / 'm.py'}:net"},
            "objective": {"loss": "bce", "metric": "accuracy"},
            "optimizer": {"name": "adam", "lr": 0.05},
            "training": {"batch_size": 16, "epochs": 10},
        }
    )
    thalweg.recipe.write(chosen, tmp_path / "r.toml")
    results, folder = thalweg.train(tmp_path / "r.toml", out=tmp_path / "out"), tmp_path / "out"
    assert results.result["test"] > 0.8
    made = thalweg.predict(folder, tmp_path / "d.csv")
    right = np.mean([int(float(value)) == int(side) for value, side in zip(made.values, SIDE, strict=True)])
    assert right > 0.85


def test_a_softmax_of_one_output_is_refused() -> None:
    with pytest.raises(OptionError, match="a single output, whose softmax is 1 for every example"):
        thalweg.averaging.Averaged(network(1), samples=None)(X)
    with pytest.raises(OptionError, match="a single output"):
        thalweg.averaging.averaged_probabilities([network(1)], X)


def test_what_losses_make_of_outputs() -> None:
    assert (
        activations.activation(objectives.loss("bce", Task(kind="classification", classes=("a", "b"))), 1)
        == "sigmoid"
    )
    assert activations.activation(nn.NLLLoss()) == "softmax"
    assert activations.activation(F.binary_cross_entropy) == "identity"

    def mse_loss(outputs: Tensor, targets: Tensor) -> Tensor:
        """A person's own, of whatever meaning, under torch's name."""
        return outputs.sum()

    assert activations.activation(mse_loss) is None
    assert activations.family(objectives.loss(F.mse_loss, Task(kind="regression"))) == "numbers"


def test_log_likelihoods_take_classes_and_no_probabilities() -> None:
    """Torch's ``nll_loss`` takes no fractions, as its cross-entropy does."""
    x = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(24) % 3

    def curve(targets: Tensor) -> list[float]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1))
        fitted = thalweg.fit(net, (x, targets), nn.NLLLoss(), "adam", steps=3, batch_size=8)
        return [each.train_loss for each in fitted.curve if each.train_loss is not None]

    assert curve(F.one_hot(y, 3).float()) == curve(y) != []
    with pytest.raises(DataError, match=r"are probabilities, but the loss 'NLLLoss' takes class numbers"):
        curve(torch.full((24, 3), 1 / 3))
