"""Targets that are dictionaries, tuples or a list with an entry for each example."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import thalweg
from thalweg.errors import OptionError, UserError
from thalweg.objectives import nests

G = torch.Generator().manual_seed(0)
X = torch.randn(48, 5, generator=G)
KIND = (X.sum(1) > 0).long()
BOX = X @ torch.randn(5, 4, generator=G)
TARGETS = {"kind": KIND, "box": BOX}


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.kind, self.box = nn.Linear(5, 2), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"kind": self.kind(x), "box": self.box(x)}


def together(outputs: Any, targets: Any) -> Tensor:
    return F.cross_entropy(outputs["kind"], targets["kind"]) + F.mse_loss(outputs["box"], targets["box"])


def in_order(outputs: Any, targets: Any) -> Tensor:
    return together(outputs, {"kind": targets[0], "box": targets[1]})


def right(outputs: Any, targets: Any) -> float:
    return float((outputs["kind"].argmax(1) == targets["kind"]).double().mean())


class Items(Dataset[Any]):
    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, place: int) -> Any:
        return X[place], {"kind": KIND[place], "box": BOX[place]}


class Boxes(Dataset[Any]):
    """Of each example another number of boxes."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, place: int) -> Any:
        return X[place], {"boxes": BOX[place].expand(1 + place % 3, 4), "name": str(place)}


def listed(items: list[Any]) -> Any:
    return torch.stack([x for x, _ in items]), [target for _, target in items]


def of_boxes(outputs: Any, targets: list[Any]) -> Tensor:
    each = [
        F.mse_loss(box.expand_as(target["boxes"]), target["boxes"])
        for box, target in zip(outputs["box"], targets, strict=True)
    ]
    return torch.stack(each).mean() + 0 * outputs["kind"].sum()


def boxes_near(outputs: Any, targets: list[Any]) -> float:
    far = [float((box - t["boxes"]).abs().max()) for box, t in zip(outputs["box"], targets, strict=True)]
    return sum(far) / len(far)


boxes_near.higher_is_better = False  # type: ignore[attr-defined]


def by_hand(model: nn.Module, batches: list[Any]) -> None:
    for inputs, targets in batches:
        model.zero_grad()
        together(model(inputs), targets).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad


def train(data: Any, loss: Any, **more: Any) -> Any:
    asked: dict[str, Any] = {"epochs": 2, "batch_size": 8, "hyperparameters": {"lr": 0.1}, **more}
    return thalweg.fit(Heads(), data, loss, "sgd", **asked)


def weights(fitted: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in fitted.model.parameters()])


def test_several_targets_are_trained_as_by_hand() -> None:
    batches = [(X[rows], {"kind": KIND[rows], "box": BOX[rows]}) for rows in (slice(0, 8), slice(8, 16))]
    model = Heads()
    by_hand(model, batches)
    found = train(batches, together, epochs=1)
    expected = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(weights(found), expected)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    "data",
    [(X, TARGETS), ({"x": X}, TARGETS), {"x": X, "labels": TARGETS}, Items()],
    ids=["tensors", "named inputs", "one dictionary", "dataset"],
)
def test_all_forms_of_data_give_the_same(data: Any, accumulate: int) -> None:
    expected = train((X, (KIND, BOX)), in_order, validation=(X, (KIND, BOX)))
    found = train(data, together, validation=data, metric=right, accumulate=accumulate)
    torch.testing.assert_close(weights(found), weights(expected), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        outputs = found.model(X)
    assert found.final["validation"] == pytest.approx(right(outputs, TARGETS))
    assert found.final["validation_loss"] == pytest.approx(float(together(outputs, TARGETS)), rel=1e-5)
    assert expected.final["validation_loss"] == pytest.approx(found.final["validation_loss"], rel=1e-5)


def test_a_list_of_targets_has_an_entry_for_each_example() -> None:
    usual = train(Boxes(), of_boxes, collate=listed, validation=Boxes(), metric=boxes_near)
    found = train(Boxes(), of_boxes, collate=listed, validation=Boxes(), metric=boxes_near, accumulate=3)
    torch.testing.assert_close(weights(found), weights(usual), rtol=1e-5, atol=1e-6)
    everything = listed([Boxes()[place] for place in range(len(X))])[1]
    with torch.no_grad():
        outputs = usual.model(X)
    assert usual.final["validation"] == pytest.approx(boxes_near(outputs, everything))
    assert usual.final["validation_loss"] == pytest.approx(float(of_boxes(outputs, everything)), rel=1e-5)


def test_a_loaders_targets_resume(tmp_path: Any) -> None:
    loader = DataLoader(Items(), batch_size=8, shuffle=True)
    first = train(loader, together, out=tmp_path / "run")
    again = train(copy.copy(loader), together)
    torch.testing.assert_close(weights(first), weights(again), rtol=0, atol=0)


def test_names_of_losses_and_metrics_need_one_target() -> None:
    with pytest.raises(OptionError, match=r"the targets are a dict \(kind, box\), but the loss 'mse'"):
        train((X, TARGETS), "mse", output="box")
    with pytest.raises(OptionError, match="the metric 'accuracy' is for classification, not for a custom"):
        train((X, TARGETS), together, validation=(X, TARGETS), metric="accuracy", output="kind")


def test_parts_of_other_lengths_are_refused() -> None:
    with pytest.raises(UserError, match="have 47 and 48 rows; there must be one for each example"):
        train((X, {"kind": KIND, "box": BOX[1:]}), together)


def test_examples_of_nests() -> None:
    assert nests.count_of([]) == 0
    assert nests.count_of({"a": torch.tensor(1.0)}) == 1
    value = {"a": torch.arange(3), "names": ["x", "y", "z"], "all": torch.ones(2)}
    found = nests.cut(value, 3, 1, 3)
    assert found["a"].tolist() == [1, 2]
    assert found["names"] == ["y", "z"]
    assert found["all"].tolist() == [1, 1]
    back = nests.joined([nests.cut(value, 3, 0, 1), found])
    assert back["a"].tolist() == [0, 1, 2]
    assert back["names"] == ["x", "y", "z"]


def test_an_ensembles_members_have_several_targets_one_after_another() -> None:
    asked: dict[str, Any] = {"epochs": 1, "members": 2, "hyperparameters": {"lr": 0.1}}
    found = thalweg.fit_ensemble(Heads, (X, TARGETS), together, "sgd", engine="loop", **asked)
    assert len(found.models) == 2
    with pytest.raises(OptionError, match="can't be lanes: the examples aren't whole tensors"):
        thalweg.fit_ensemble(Heads, (X, TARGETS), together, "sgd", engine="lanes", **asked)


@pytest.mark.parametrize("data", [(X, TARGETS), Items(), (X, (KIND, BOX))], ids=["tensors", "items", "tuple"])
@pytest.mark.parametrize("collate", [None, torch.utils.data.default_collate])
def test_a_sweep_says_that_it_takes_one_target(data: Any, collate: Any) -> None:
    if collate is not None and isinstance(data, tuple):
        pytest.skip("a Dataset's alone")
    with pytest.raises(UserError, match=r"are a (dict|tuple).*, but races, sweeps and recipes take one"):
        thalweg.sweep(Heads, data, "sgd", loss=together, metric=right, epochs=1, seeds=1, collate=collate)
