"""What torch.nn lacks, and what puts it into a model that is there already.

Random layers draw by torch's functions, so that :class:`thalweg.randomness.keyed.Keyed` gives them the
numbers of a run, whether it trains alone or as one of many lanes.
"""

from __future__ import annotations

from thalweg.layers.following import activated
from thalweg.layers.norm import BatchNorm, Insertion, Normalized, batch_norm, insert_batch_norm
from thalweg.layers.placing import insert_dropout, insert_maxout, insert_skips
from thalweg.layers.residual import (
    Skip,
    StochasticDepth,
    drop_rates,
    set_stochastic_depth,
    skip_around,
    stochastic_depth,
)
from thalweg.layers.sampling import Sampled, sampled_outputs, sampled_prediction
from thalweg.layers.units import Dropout, FractionalMaxPool2d, Maxout, dropout, maxout

__all__ = [
    "BatchNorm",
    "Dropout",
    "FractionalMaxPool2d",
    "Insertion",
    "Maxout",
    "Normalized",
    "Sampled",
    "Skip",
    "StochasticDepth",
    "activated",
    "batch_norm",
    "drop_rates",
    "dropout",
    "insert_batch_norm",
    "insert_dropout",
    "insert_maxout",
    "insert_skips",
    "maxout",
    "sampled_outputs",
    "sampled_prediction",
    "set_stochastic_depth",
    "skip_around",
    "stochastic_depth",
]
