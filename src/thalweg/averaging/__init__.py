"""Averages: of the points that training visits, and of models' predictions."""

from __future__ import annotations

from thalweg.averaging.ensembles import Snapshots, averaged_probabilities
from thalweg.averaging.running import Average, Exponential, Kind, Tail, Uniform, update
from thalweg.averaging.statistics import estimate_batch_norm

__all__ = [
    "Average",
    "Exponential",
    "Kind",
    "Snapshots",
    "Tail",
    "Uniform",
    "averaged_probabilities",
    "estimate_batch_norm",
    "update",
]
