"""Temperature scaling against SciPy's scalar minimizer, closed forms, and the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from thalweg.calibration.assessment import reliability
from thalweg.calibration.temperature import fit_temperature
from thalweg.errors import DataError, OptionError


def drawn(rows: int, classes: int, true: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs whose classes were drawn at a temperature."""
    generator = np.random.default_rng(seed)
    z = 4 * generator.standard_normal((rows, classes))
    p = np.exp(log_softmax(z / true, axis=1))
    y = [generator.choice(classes, p=row / row.sum()) for row in p]
    return torch.tensor(z), torch.tensor(y)


def twin(z: np.ndarray, y: np.ndarray) -> float:
    def loss(logarithm: float) -> float:
        return float(-log_softmax(z / math.exp(logarithm), axis=1)[np.arange(len(y)), y].mean())

    middle = math.log(np.abs(z[np.isfinite(z)]).max())
    found = minimize_scalar(
        loss, bounds=(middle - 12, middle + 12), method="bounded", options={"xatol": 1e-11}
    )
    return math.exp(found.x)


@pytest.mark.parametrize("size", [1e-12, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize(("rows", "classes", "true"), [(400, 3, 2.0), (300, 10, 0.5), (60, 2, 1.0)])
def test_it_is_scipys_minimum_whatever_the_size_of_the_outputs(
    rows: int, classes: int, true: float, size: float
) -> None:
    z, y = drawn(rows, classes, true)
    z = z * size
    found = fit_temperature(z, y)
    assert found.value == pytest.approx(twin(z.numpy(), y.numpy()), rel=1e-5)
    p = found(z).softmax(1)
    # where the likelihood is greatest, outputs are on average what was expected of them
    slope = ((p * z).sum(1) - z[torch.arange(rows), y]).mean() / z.abs().max()
    assert float(slope) == pytest.approx(0, abs=1e-7)
    assert found.after <= found.before
    assert found.examples == rows


def test_it_finds_the_temperature_that_classes_were_drawn_at() -> None:
    z, y = drawn(20_000, 4, 2.5)
    found = fit_temperature(z.float(), y)
    assert found.value == pytest.approx(2.5, rel=0.05)
    before, after = z.softmax(1), found(z).softmax(1)
    assert reliability(after, y).error < 0.02 < reliability(before, y).error
    assert torch.equal(before.argmax(1), after.argmax(1))
    assert found.before == pytest.approx(float(torch.nn.functional.cross_entropy(z, y)))
    assert found.after == pytest.approx(float(torch.nn.functional.cross_entropy(z / found.value, y)))


def test_closed_form_of_one_confidence_and_one_logit() -> None:
    """n outputs (a, 0) of which a share q is right: T = a / log(q / (1 - q))."""
    z = torch.tensor([[3.0, 0.0]]).expand(10, 2)
    y = torch.tensor([0] * 7 + [1] * 3)
    expected = 3.0 / math.log(0.7 / 0.3)
    assert fit_temperature(z, y).value == pytest.approx(expected, rel=1e-7)
    for logit in (-z[:, 0], -z[:, :1]):
        assert fit_temperature(logit, y).value == pytest.approx(expected, rel=1e-7)
    assert fit_temperature(z.half(), y.float().unsqueeze(1)).value == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("z", "y", "error", "words"),
    [
        (torch.eye(3), torch.arange(3), DataError, "every one of the 3 examples .* ever lower"),
        (torch.zeros(3, 2), torch.zeros(3), DataError, "better than chance"),
        (-torch.eye(3), torch.arange(3), DataError, "better than chance.* ever higher"),
        (torch.eye(3), torch.tensor([0, 1, 3]), OptionError, "a class number 3, but outputs .* 0 to 2"),
        (torch.eye(3), torch.tensor([0, -1, 2]), OptionError, "a class number -1"),
        (torch.eye(3), torch.tensor([0.5, 1, 2]), OptionError, "no class numbers"),
        (torch.eye(3), torch.arange(2), OptionError, r"shape \[3, 3\] don't go with targets of shape \[2\]"),
        (torch.zeros(0, 3), torch.zeros(0), OptionError, "at least one example"),
        (torch.zeros(2, 3, 4), torch.zeros(2), OptionError, "don't go with"),
        (torch.tensor([[1.0, 0.0], [math.nan, 0.0]]), torch.tensor([0, 1]), DataError, "row 1 aren't finite"),
    ],
)
def test_what_has_no_temperature_is_said(
    z: torch.Tensor, y: torch.Tensor, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        fit_temperature(z, y)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_classes_that_are_masked_by_minus_infinity_are_left_out(size: float) -> None:
    z, y = drawn(200, 4, 2.0)
    z = z * size
    masked = z.clone()
    hidden = torch.rand(z.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    hidden[torch.arange(200), y] = False
    masked[hidden] = -math.inf
    found = fit_temperature(masked, y)
    assert found.value == pytest.approx(twin(masked.numpy(), y.numpy()), rel=1e-5)
    assert math.isfinite(found.before)
    for mask in (-1e9 * size, -1e300):
        assert fit_temperature(z.masked_fill(hidden, mask), y).value == pytest.approx(found.value, rel=1e-6)
    assert found.after <= found.before
    # a row that has one class left says nothing of temperatures
    one = torch.full((50, 4), -math.inf, dtype=torch.float64)
    one[:, 2] = 7 * size
    more = fit_temperature(torch.cat([masked, one]), torch.cat([y, torch.full((50,), 2)]))
    assert more.value == pytest.approx(found.value, rel=1e-6)


def test_one_logit_may_be_infinite_on_the_side_that_came() -> None:
    z = torch.tensor([[3.0, 0.0]]).expand(10, 2)
    y = torch.tensor([0] * 7 + [1] * 3)
    logits = torch.cat([-z[:, 0], torch.tensor([-math.inf, math.inf])])
    found = fit_temperature(logits, torch.cat([y, torch.tensor([0, 1])]))
    assert found.value == pytest.approx(3.0 / math.log(0.7 / 0.3), rel=1e-7)


@pytest.mark.parametrize(
    ("z", "y", "words"),
    [
        ([[0.0, -math.inf], [0.0, 1.0]], [1, 1], r"row 0 has the output -inf for its own class 1, .*unmask"),
        ([[0.0, math.inf], [0.0, 1.0]], [1, 1], "the outputs of row 0 aren't finite"),
        ([[0.0, math.nan], [0.0, 1.0]], [0, 1], "the outputs of row 0 aren't finite"),
        ([0.5, math.inf], [0, 0], r"row 1 has the output inf for the other class"),
        ([0.5, -math.inf], [0, 1], r"row 1 has the output -inf for its own class 1"),
        ([[0.0, -math.inf], [-math.inf, 1.0]], [0, 1], "no row has two classes to choose from"),
    ],
)
def test_infinities_that_no_temperature_mends(z: list[float], y: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        fit_temperature(torch.tensor(z), torch.tensor(y))
