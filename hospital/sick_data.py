"""Faults of the inputs, the labels, the split and the order."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from hospital import bases
from hospital.bases import sgd
from hospital.case import Given, changed, reinputted, sick
from hospital.nets import mlp

__all__ = ["CASES", "in_order", "labelled", "raw_columns", "validated"]

_WILD = (
    "exploding-gradient oscillating-loss nonfinite-loss dying-relu cliff saturation constant-output "
    "ill-conditioned"
)
_SLOW = "slow-convergence underfitting constant-output saddle ill-conditioned"
_BAD = "overfitting underfitting slow-convergence gradient-noise constant-output"


def labelled(found: Given, change) -> Given:  # type: ignore[no-untyped-def]
    """Change the targets of training alone."""
    return replace(found, y=change(found.y))


def _shuffled(found: Given) -> Given:
    order = torch.randperm(len(found.y), generator=torch.Generator().manual_seed(3))
    return labelled(found, lambda y: y[order])


def _damaged(share: float, classes: int):  # type: ignore[no-untyped-def]
    def change(found: Given) -> Given:
        draws = torch.Generator().manual_seed(4)
        hit = torch.rand(len(found.y), generator=draws) < share
        other = torch.randint(classes, (len(found.y),), generator=draws)
        return labelled(found, lambda y: torch.where(hit, other, y))

    return change


def validated(found: Given, x, y=None) -> Given:  # type: ignore[no-untyped-def]
    """Change what the person validates and tests with."""
    y = y or (lambda values: values)
    assert found.validation is not None
    return replace(
        found,
        validation=(x(found.validation[0]), y(found.validation[1])),
        test=(x(found.test[0]), y(found.test[1])),
    )


def _same(values: Tensor) -> Tensor:
    return values


def in_order(found: Given) -> Given:
    """Sort the examples by their targets, and don't shuffle."""
    order = found.y.reshape(len(found.y), -1)[:, 0].argsort(stable=True)
    return replace(found, x=found.x[order], y=found.y[order], shuffle=False)


def _holed(value: float):  # type: ignore[no-untyped-def]
    def change(found: Given) -> Given:
        x = found.x.clone()
        x[5::97, ..., 1] = value
        return replace(found, x=x)

    return change


def raw_columns(x: Tensor) -> Tensor:
    """Columns in the units of their own: from thousandths to ten thousands."""
    return x * 10.0 ** torch.linspace(-3, 4, x.shape[1])


def _wine_units(x: Tensor) -> Tensor:
    """Thirteen columns as they are measured: alcohol, acids, ash, magnesium, ..., proline."""
    middle = torch.tensor([13, 2.3, 2.4, 19.5, 99.7, 2.3, 2.0, 0.36, 1.6, 5.1, 0.96, 2.6, 747])
    width = torch.tensor([0.8, 1.1, 0.27, 3.3, 14.3, 0.63, 1.0, 0.12, 0.57, 2.3, 0.23, 0.71, 315])
    return x * width + middle


CASES = [
    # scale of inputs
    sick(
        "images from 0 to 255, MLP, SGD",
        "input-scale learning-rate-high",
        bases.digits,
        lambda found: reinputted(found, lambda x: 255 * x),
        also=_WILD,
    ),
    sick(
        "images from 0 to 255, CNN, momentum",
        "input-scale learning-rate-high",
        bases.digit_images_sgd,
        lambda found: reinputted(found, lambda x: 255 * x),
        also=_WILD,
    ),
    sick(
        "images from 0 to 255, units with tanh",
        "input-scale hidden-activation learning-rate-high",
        bases.digits,
        lambda found: reinputted(found, lambda x: 255 * x),
        model=lambda: mlp(64, 48, 10, act=nn.Tanh),
        also=_WILD,
        cured=lambda seed: changed(bases.digits(seed), model=lambda: mlp(64, 48, 10, act=nn.Tanh)),
    ),
    sick(
        "wine as measured, SGD",
        "input-scale learning-rate-high",
        bases.wine,
        lambda found: reinputted(found, _wine_units),
        also=_WILD + " slow-convergence underfitting",
    ),
    sick(
        "tumours as measured, SGD",
        "input-scale learning-rate-high",
        bases.cancer_logit,
        lambda found: reinputted(found, raw_columns),
        opt=sgd(0.01),
        also=_WILD + " slow-convergence underfitting",
        cured=bases.cancer_logit,
    ),
    sick(
        "regression with columns of very different scale",
        "input-scale",
        bases.friedman,
        lambda found: reinputted(found, raw_columns),
        also=_WILD + " slow-convergence underfitting",
    ),
    sick(
        "a column of years among small ones",
        "input-scale",
        bases.houses,
        lambda found: reinputted(found, lambda x: torch.cat([x[:, :3], 2014 + 5 * x[:, 3:4], x[:, 4:]], 1)),
        also=_SLOW + " oscillating-loss dying-relu",
    ),
    sick(
        "sequences in the thousands, GRU",
        "input-scale",
        bases.waves,
        lambda found: reinputted(found, lambda x: 4000 * x + 10000),
        epochs=10,
        cured=lambda seed: changed(bases.waves(seed), epochs=10),
        also=_SLOW + " saturation vanishing-gradient",
    ),
    sick(
        "sequences far from zero, LSTM",
        "input-scale",
        bases.forecast,
        lambda found: reinputted(found, lambda x: 20 * x + 500),
        also=_SLOW + " saturation vanishing-gradient",
    ),
    sick(
        "inputs of a ten-thousandth, SGD",
        "input-scale learning-rate-low epochs-few",
        bases.blobs,
        lambda found: reinputted(found, lambda x: 1e-4 * x),
        also=_SLOW,
    ),
    sick(
        "inputs of a thousandth, attention",
        "input-scale learning-rate-low epochs-few",
        bases.wave_attention,
        lambda found: reinputted(found, lambda x: 1e-3 * x + 3.0),
        also=_SLOW,
    ),
    sick(
        "brightness around 5,000, CNN",
        "input-scale learning-rate-high",
        bases.shapes,
        lambda found: reinputted(found, lambda x: 5000 + 200 * x),
        also=_WILD + " slow-convergence underfitting",
    ),
    # labels
    sick("labels shuffled, digits", "labels", bases.digits, _shuffled, also=_BAD, tried=False),
    sick(
        "labels one row off, moons",
        "labels",
        bases.moons,
        lambda found: labelled(found, lambda y: y.roll(1)),
        also=_BAD,
        tried=False,
    ),
    sick(
        "labels one row off, CNN",
        "labels",
        bases.shapes,
        lambda found: labelled(found, lambda y: y.roll(1)),
        also=_BAD,
        tried=False,
        epochs=8,
    ),
    sick(
        "targets one row off, regression",
        "labels",
        bases.friedman,
        lambda found: labelled(found, lambda y: y.roll(1, 0)),
        also=_BAD,
        tried=False,
    ),
    sick("targets shuffled, forecast", "labels", bases.forecast, _shuffled, also=_BAD, tried=False),
    sick("labels shuffled, words", "labels", bases.words, _shuffled, also=_BAD, tried=False),
    sick(
        "four labels of five drawn anew, blobs",
        "labels",
        bases.blobs,
        _damaged(0.8, 6),
        also=_BAD,
        tried=False,
    ),
    sick(
        "most labels drawn anew, CNN on digits",
        "labels",
        bases.digit_images,
        _damaged(0.75, 10),
        also=_BAD,
        tried=False,
    ),
    sick(
        "class numbers from one",
        "labels output-units",
        bases.wine,
        lambda found: replace(found, y=found.y + 1, test=(found.test[0], found.test[1] + 1)),
        raises=True,
    ),
    sick(
        "two classes mixed into one another, digits",
        "labels",
        bases.digits,
        lambda found: labelled(
            found, lambda y: torch.where(y % 2 == 0, (y // 4) * 2 * (torch.arange(len(y)) % 2), y)
        ),
        also=_BAD,
        tried=False,
    ),
    # validation prepared otherwise
    sick(
        "class numbers coded otherwise in validation",
        "split-mismatch labels",
        bases.digits,
        lambda found: validated(found, _same, lambda y: (y + 3) % 10),
        also="overfitting",
        tried=False,
    ),
    sick(
        "names of classes in another order in validation",
        "split-mismatch labels",
        bases.blobs,
        lambda found: validated(found, _same, lambda y: 5 - y),
        also="overfitting",
        tried=False,
    ),
    sick(
        "black on white in validation, white on black in training",
        "split-mismatch",
        bases.digit_images,
        lambda found: validated(found, lambda x: 1 - x),
        also="overfitting",
        tried=False,
    ),
    sick(
        "validation not standardized",
        "split-mismatch input-scale",
        bases.houses,
        lambda found: validated(found, lambda x: 40 * x + 90),
        also="overfitting",
        tried=False,
    ),
    sick(
        "columns in another order in validation",
        "split-mismatch",
        bases.cancer,
        lambda found: validated(found, lambda x: x.flip(1)),
        also="overfitting",
        tried=False,
    ),
    sick(
        "validation negated, recurrent",
        "split-mismatch",
        bases.forecast,
        lambda found: validated(found, lambda x: 0.2 * x + 3),
        also="overfitting",
        tried=False,
    ),
    sick(
        "validation upside down, CNN",
        "split-mismatch labels",
        bases.colours,
        lambda found: validated(found, lambda x: x.flip(1)),
        also="overfitting",
        tried=False,
    ),
    # order
    sick(
        "sorted by class, not shuffled, digits",
        "order",
        bases.digits,
        in_order,
        epochs=8,
        also="oscillating-loss gradient-noise",
        cured=lambda seed: changed(bases.digits(seed), epochs=8),
    ),
    sick(
        "sorted by class, not shuffled, CNN",
        "order",
        bases.digit_images_sgd,
        in_order,
        also="oscillating-loss gradient-noise",
    ),
    sick(
        "sorted by target, not shuffled, regression",
        "order",
        bases.friedman_sgd,
        in_order,
        also="oscillating-loss gradient-noise",
    ),
    sick(
        "sorted by class, not shuffled, waves",
        "order",
        bases.waves,
        in_order,
        epochs=8,
        also="oscillating-loss gradient-noise",
    ),
    # numbers that are none
    sick(
        "holes in the table (NaN)",
        "input-values input-scale nonfinite-loss",
        bases.houses,
        _holed(float("nan")),
        also="nonfinite-loss",
    ),
    sick(
        "infinity in sequences",
        "input-values input-scale nonfinite-loss",
        bases.forecast,
        lambda found: replace(found, x=found.x.clone().index_fill_(0, torch.tensor([7, 130]), float("inf"))),
        also="nonfinite-loss",
    ),
    sick(
        "targets that are no number",
        "input-values target-scale labels nonfinite-loss",
        bases.machine,
        lambda found: labelled(
            found, lambda y: y.clone().index_fill_(0, torch.tensor([9, 99, 200]), float("nan"))
        ),
        also="nonfinite-loss",
    ),
    sick("holes filled with -9999", "input-scale", bases.friedman, _holed(-9999.0), also=_WILD),
]
