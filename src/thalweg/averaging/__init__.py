"""Averages: of the points that training visits, and of models' predictions.

All take lists of tensors, sharded ones included; numbers stay on the device.
"""

from __future__ import annotations

from thalweg.averaging.diversity import Ambiguity, ambiguity, disagreement
from thalweg.averaging.ensembles import KeptSnapshots, averaged_probabilities
from thalweg.averaging.predictions import Averaged
from thalweg.averaging.running import Average, AverageKind, ExponentialAverage, Tail, Uniform, update
from thalweg.layers.norm_statistics import estimate_batch_norm

__all__ = [
    "Ambiguity",
    "Average",
    "AverageKind",
    "Averaged",
    "ExponentialAverage",
    "KeptSnapshots",
    "Tail",
    "Uniform",
    "ambiguity",
    "averaged_probabilities",
    "disagreement",
    "estimate_batch_norm",
    "update",
]
