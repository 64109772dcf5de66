"""Data that can't be learnt from as they are, and data that look odd and are fine."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.diagnosis.cases import facts, inputs, net, numbers, three_classes, two_classes
from torch import Tensor, nn

from thalweg.diagnosis.data_checks import advice, suspect_data
from thalweg.diagnosis.neighbours import Learnable, learnable
from thalweg.diagnosis.suspicion import Suspicion

X = inputs()
TWO, THREE, Y = two_classes(X), three_classes(X), numbers(X)
MIXED = torch.randperm(len(X), generator=torch.Generator().manual_seed(1))
OTHERS = inputs(5)


def found(
    x: Tensor, y: Tensor, *, model: nn.Module | None = None, loss: Any = None, **options: Any
) -> list[Suspicion]:
    classes = not y.dtype.is_floating_point
    outputs = 3 if classes else y.shape[-1]
    made = net(outputs, columns=x.shape[-1]) if model is None else model
    seen = facts(made, (x, y), loss or (nn.CrossEntropyLoss() if classes else nn.MSELoss()), **options)
    return list(suspect_data(seen, learnable(seen)))


def codes(suspicions: list[Suspicion], least: float = 0.75) -> list[str]:
    return [s.code for s in suspicions if s.weight >= least]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(bad: float) -> None:
    x = X.clone()
    x[17, 2] = bad
    (suspicion,) = [s for s in found(x, THREE) if s.certain]
    assert suspicion.code == "input-values"
    assert "row 17" in suspicion.evidence[0]
    y = Y.clone()
    y[5] = bad
    assert [s.code for s in found(X, y) if s.certain] == ["labels"]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: 100 * x,
        lambda x: x * torch.tensor([1.0, 1000.0, 1.0, 1.0]),
        lambda x: x + 40,
        lambda x: x / 1000,
        lambda x: x * torch.tensor([1.0, 0.001, 1.0, 1.0]),
    ],
)
def test_inputs_far_from_one(change: Any) -> None:
    assert codes(found(change(X), THREE)) == ["input-scale"]


@pytest.mark.parametrize(
    "change", [lambda x: x, lambda x: (x > 0).float(), lambda x: 2.5 * x + 1, lambda x: x / 4]
)
def test_inputs_near_one_are_left_alone(change: Any) -> None:
    assert codes(found(change(X), THREE), 0.5) == []


def test_a_norm_first_or_a_table_of_vectors_makes_scale_harmless() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))
    assert codes(found(100 * X, THREE, model=model), 0.3) == []
    words = torch.randint(500, (len(X), 4), generator=torch.Generator().manual_seed(0))
    table = nn.Sequential(nn.Embedding(500, 3), nn.Flatten(), nn.Linear(12, 3))
    assert codes(found(words, THREE, model=table), 0.3) == []


def test_pixels_that_hardly_move_are_harmless_beside_others() -> None:
    pixels = torch.rand(len(X), 64, generator=torch.Generator().manual_seed(0))
    pixels[:, :8] *= 1e-3
    assert "input-scale" not in codes(found(pixels, THREE), 0.5)


def test_numbers_that_stand_for_gaps() -> None:
    x = X.clone()
    x[::9, 1] = -999.0
    (suspicion,) = [s for s in found(x, THREE) if s.certain]
    assert suspicion.code == "input-scale"
    assert "-999" in suspicion.title
    counts = X.clone()
    counts[:, 1] = 999.0 * (torch.arange(len(X)) % 2)
    assert not any("stands for" in s.title for s in found(counts, THREE))


@pytest.mark.parametrize(
    ("factor", "shift", "least"), [(1e5, 5e5, 0.75), (1.0, 100.0, 0.75), (1e-3, 0.0, 0.5)]
)
def test_targets_far_from_one(factor: float, shift: float, least: float) -> None:
    assert "target-scale" in codes(found(X, factor * Y + shift), least)
    assert "target-scale" not in codes(found(X, Y), 0.3)
    assert "target-scale" not in codes(found(X, THREE), 0.3)


def test_sorted_examples() -> None:
    order = THREE.argsort(stable=True)
    data = torch.utils.data.TensorDataset(X[order], THREE[order])

    def seen(**options: Any) -> list[Suspicion]:
        loader = torch.utils.data.DataLoader(data, batch_size=16, **options)
        known = facts(net(3), loader, nn.CrossEntropyLoss(), batch_size=None)
        return [s for s in suspect_data(known, None) if s.code == "order"]

    (suspicion,) = seen(shuffle=False)
    assert suspicion.certain
    assert seen(shuffle=True) == []
    mixed = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, THREE), batch_size=16)
    assert [
        s for s in suspect_data(facts(net(3), mixed, nn.CrossEntropyLoss()), None) if s.code == "order"
    ] == []


def test_sorted_numbers() -> None:
    order = Y[:, 0].argsort()
    data = torch.utils.data.TensorDataset(X[order], Y[order])
    known = facts(net(1), torch.utils.data.DataLoader(data, batch_size=16), nn.MSELoss())
    assert [s.code for s in suspect_data(known, None) if s.certain] == ["order"]


# Labels and the other part ----------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [-2, -1, 1, 2])
def test_shifted_labels_are_told_with_their_shift(places: int) -> None:
    (suspicion,) = [s for s in found(X, THREE.roll(places, 0)) if s.certain]
    assert suspicion.code == "labels"
    assert f"targets.roll({-places}, 0)" in suspicion.remedy.code  # type: ignore[union-attr]


def test_labels_that_were_mixed_are_told_by_the_validation_data() -> None:
    validation = OTHERS, three_classes(OTHERS)
    assert [s.code for s in found(X, THREE[MIXED], validation=validation) if s.certain] == ["labels"]
    assert codes(found(X, THREE, validation=validation), 0.5) == []


def test_noisy_labels_in_both_parts_are_no_fault() -> None:
    noise = torch.rand(len(X), generator=torch.Generator().manual_seed(2)) < 0.25
    noisy = torch.where(noise, torch.randint(3, (len(X),), generator=torch.Generator().manual_seed(3)), THREE)
    theirs = torch.where(noise.roll(7), torch.zeros_like(THREE), three_classes(OTHERS))
    assert codes(found(X, noisy, validation=(OTHERS, theirs)), 0.75) == []


def test_a_validation_part_that_is_prepared_otherwise() -> None:
    theirs = three_classes(OTHERS)
    for validation in (
        (50 * OTHERS, theirs),
        (OTHERS + 5, theirs),
        (-OTHERS, theirs),
        (OTHERS, (theirs + 1) % 3),
    ):
        suspicions = found(X, THREE, validation=validation)
        assert "split-mismatch" in codes(suspicions), validation
        assert any(s.certain for s in suspicions)
    assert codes(found(X, THREE, validation=(OTHERS, theirs)), 0.5) == []


@pytest.mark.parametrize("factor", [50.0, 0.1])
def test_another_scale_is_said_as_such(factor: float) -> None:
    suspicions = found(X, THREE, validation=(factor * OTHERS, three_classes(OTHERS)))
    assert any("another scale" in s.title for s in suspicions)


def test_another_numbering_is_told_apart_from_other_inputs() -> None:
    suspicions = found(X, THREE, validation=(OTHERS, (three_classes(OTHERS) + 1) % 3))
    assert any("numbered otherwise" in s.title for s in suspicions)


def test_neighbours_know_what_can_be_learnt() -> None:
    known = learnable(facts(net(3), (X, THREE), nn.CrossEntropyLoss()))
    assert isinstance(known, Learnable)
    assert known.training > 0.6
    assert known.across > 0.6
    nothing = learnable(facts(net(3), (X, THREE[MIXED]), nn.CrossEntropyLoss()))
    assert nothing is not None
    assert nothing.training < 3 * nothing.error
    line = learnable(facts(net(1), (X, X[:, :1]), nn.MSELoss()))
    assert line is not None
    assert line.training > 0.6


def test_rare_classes_are_advice() -> None:
    rare = (torch.arange(len(X)) % 40 == 0).long()
    seen = list(advice(facts(net(2), (X, rare), nn.CrossEntropyLoss())))
    assert [(f.code, f.severity) for f in seen] == [("imbalance", "advice")]
    assert list(advice(facts(net(3), (X, THREE), nn.CrossEntropyLoss()))) == []
