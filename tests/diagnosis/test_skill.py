"""Skill against scikit-learn and by hand: 0 for a constant, 1 for perfect, whatever the loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from tests.diagnosis.cases import facts, inputs, net
from torch import Tensor, nn

from thalweg.diagnosis.skill import Judge, task_of


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(n: int, classes: int, seed: int = 1) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


def judge(classes: int) -> Judge:
    return Judge(kind="classes", classes=classes, values=tuple(map(float, range(classes))))


def test_accuracy_is_measured_from_the_most_frequent_class() -> None:
    y, scores = labels(300, 3), drawn(300, 3)
    most = float(torch.bincount(y).max()) / 300
    accuracy = accuracy_score(y, scores.argmax(1))
    assert judge(3)(scores, y) == pytest.approx((accuracy - most) / (1 - most))
    assert judge(3)(torch.nn.functional.one_hot(y, 3), y) == 1
    constant = torch.zeros(300, 3)
    constant[:, int(torch.bincount(y).argmax())] = 1
    assert judge(3)(constant, y) == pytest.approx(0)


def test_rare_classes_are_judged_by_rank() -> None:
    y = (torch.arange(300) % 10 == 0).long()
    scores = drawn(300) + y
    expected = 2 * roc_auc_score(y, scores) - 1
    assert judge(2)(scores[:, None], y) == pytest.approx(expected)
    assert judge(2)(torch.stack([-scores, scores], 1), y) == pytest.approx(expected)
    assert judge(2)(torch.zeros(300, 1), y) == pytest.approx(0)
    rounded = scores.round()
    assert judge(2)(rounded, y) == pytest.approx(2 * roc_auc_score(y, rounded) - 1)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_one_output_is_a_logit_or_a_probability(shift: float) -> None:
    y = labels(200, 2)
    right = y.double() * 2 - 1
    scores = 0.3 * right if shift == 0 else (right + 1) / 2 * 0.8 + 0.1
    assert judge(2)(scores, y) == 1
    assert judge(2)(scores[:, None], y[:, None].float()) == 1


def test_class_numbers_as_outputs_are_rounded() -> None:
    y = labels(200, 5)
    assert judge(5)(y + 0.4, y) == 1
    assert judge(5)(y + 1.0, y) < 0.3


def test_axes_of_classes() -> None:
    y = torch.randint(4, (10, 7), generator=torch.Generator().manual_seed(0))
    last = torch.nn.functional.one_hot(y, 4)
    assert judge(4)(last.double(), y) == judge(4)(last.movedim(-1, 1).double(), y) == 1


def test_numbers_are_the_share_of_variance() -> None:
    y, f = drawn(100, 2), drawn(100, 2, seed=2) * 0.1
    found = Judge(kind="numbers")(y + f, y)
    assert found == pytest.approx(r2_score(y, y + f))
    assert Judge(kind="numbers")(y.mean(0).expand_as(y), y) == pytest.approx(0)
    assert Judge(kind="numbers")(100 * y, y) == -1


def test_what_is_not_finite_is_the_worst_and_what_cannot_be_judged_is_not() -> None:
    y = drawn(10, 1)
    assert Judge(kind="numbers")(y * math.nan, y) == -1
    assert math.isnan(Judge(kind="numbers")(drawn(10, 3), y))
    assert math.isnan(judge(2)(drawn(10, 1), torch.zeros(10)))
    assert Judge(kind="other", start=2.0).of_loss(0.5) == pytest.approx(0.75)
    assert Judge(kind="other", start=2.0).of_loss(math.inf) == -1
    assert Judge(kind="other", start=2.0).of_loss(-7.0) == 1


def test_logarithms_of_rates_are_judged_as_rates() -> None:
    y = torch.randint(0, 9, (60, 1), generator=torch.Generator().manual_seed(0)).double()
    assert Judge(kind="numbers", logarithms=True)((y + 1e-9).log(), y) == pytest.approx(1)
    assert Judge(kind="numbers", logarithms=True)(y, y) == -1
    x = inputs()
    for log_input in (True, False):
        found = facts(net(1), (x, x[:, :1].exp().round()), nn.PoissonNLLLoss(log_input=log_input))
        assert (found.judge.kind, found.judge.logarithms) == ("numbers", log_input)


WHOLE = torch.arange(40) % 4


@pytest.mark.parametrize(
    ("targets", "loss", "metric", "outputs", "kind", "classes"),
    [
        (WHOLE, "cross_entropy", None, torch.zeros(8, 4), "classes", 4),
        (WHOLE, "cross_entropy", None, torch.zeros(8, 6), "classes", 6),
        (WHOLE, None, None, torch.zeros(8, 4), "classes", 4),
        (WHOLE[:, None].float(), "mse_loss", None, torch.zeros(8, 1), "numbers", 0),
        (WHOLE.float(), "mse_loss", "accuracy", torch.zeros(8, 1), "classes", 4),
        ((WHOLE > 1).float(), "binary_cross_entropy", None, torch.zeros(8, 1), "classes", 2),
        (torch.eye(4)[WHOLE], "mse_loss", None, torch.zeros(8, 4), "classes", 4),
        ((torch.eye(4)[WHOLE] + torch.eye(4)[WHOLE.flip(0)]).clamp(max=1), "binary_cross_entropy", None,
         torch.zeros(8, 4), "several classes", 4),
        (torch.rand(40, 2), "mse_loss", None, torch.zeros(8, 2), "numbers", 0),
        (torch.rand(40, 2), "poisson_nll_loss", None, torch.zeros(8, 2), "numbers", 0),
        (torch.rand(40, 2), "gaussian_nll_loss", None, torch.zeros(8, 2), "other", 0),
        # embeddings, whose class numbers say which belong together
        (WHOLE, None, None, torch.zeros(8, 16), "other", 0),
        (WHOLE, None, "accuracy", torch.zeros(8, 16), "classes", 16),
        (torch.rand(40, 2), "mse_loss", None, torch.zeros(8, 3), "other", 0),
        ({"a": WHOLE}, None, None, torch.zeros(8, 3), "other", 0),
    ],
)  # fmt: skip
def test_tasks(targets: Any, loss: str | None, metric: Any, outputs: Tensor, kind: str, classes: int) -> None:
    found = task_of(targets, loss, metric, outputs, direct=loss in ("mse_loss", "poisson_nll_loss"))
    assert (found.kind, found.classes) == (kind, classes)


def test_a_loss_of_ones_own_is_judged_by_numbers_only_if_it_takes_their_difference() -> None:
    y = torch.rand(40, 1)
    assert task_of(y, None, None, y[:8], direct=True).kind == "numbers"
    assert task_of(y, None, None, y[:8], direct=False).kind == "other"
