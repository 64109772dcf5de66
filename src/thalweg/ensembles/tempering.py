"""The temperature of probabilities that were evaluated together, and what it is worth."""

from __future__ import annotations

import torch

from thalweg.calibration.assessment import reliability
from thalweg.calibration.temperature import Temperature, fit_temperature, tempered
from thalweg.ensembles.evaluate import EnsembleEvaluation, calibrated
from thalweg.errors import DataError
from thalweg.training.results import TemperatureRecord

__all__ = ["ensemble_temperature", "recorded"]

_TINY = torch.finfo(torch.float64).tiny


def ensemble_temperature(evaluation: EnsembleEvaluation) -> Temperature:
    """Find the temperature of probabilities that were evaluated.

    Raises:
        DataError: none is the best.
    """
    if "validation" not in evaluation.predicted:
        raise DataError("some probabilities of the validation split aren't finite")
    p, targets = evaluation.predicted["validation"]
    # up to a number for each example, which changes no probability, outputs are their logarithms
    return fit_temperature(p.clamp_min(_TINY).log(), targets)


def recorded(evaluation: EnsembleEvaluation, found: Temperature) -> TemperatureRecord:
    """Write down what a temperature is worth on each split."""
    likelihoods, errors = {}, {}
    for name, (p, targets) in evaluation.predicted.items():
        rows = torch.arange(len(p))
        scaled = tempered(p, found.value)
        both = [-each.clamp_min(_TINY).log()[rows, targets].mean().item() for each in (p, scaled)]
        likelihoods[name] = (both[0], both[1])
        errors[name] = reliability(p, targets).error, reliability(scaled, targets).error
    p, targets = evaluation.predicted["test"]
    bins = reliability(tempered(p, found.value), targets)
    return TemperatureRecord(
        value=found.value, examples=found.examples, nll=likelihoods, error=errors,
        calibration=calibrated(bins, tempered(p, found.value), targets),
    )  # fmt: skip
