"""Whether probabilities mean what they say, and one number that puts them right."""

from __future__ import annotations

from thalweg.calibration.assessment import BrierParts, Reliability, brier_parts, brier_score, reliability
from thalweg.calibration.temperature import Temperature, fit_temperature, tempered

__all__ = [
    "BrierParts",
    "Reliability",
    "Temperature",
    "brier_parts",
    "brier_score",
    "fit_temperature",
    "reliability",
    "tempered",
]
