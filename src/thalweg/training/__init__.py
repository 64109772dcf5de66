"""The training loop, and ``fit``, which carries one training through."""

from __future__ import annotations

from thalweg.training.core import Training, advance
from thalweg.training.engine import OneProcess
from thalweg.training.fitting import fit
from thalweg.training.groups import Pattern, parameter_groups
from thalweg.training.job import Fitted
from thalweg.training.parallel import DistributedDataParallel, FullyShardedDataParallel
from thalweg.training.steps import FORWARD_BACKWARD

__all__ = [
    "FORWARD_BACKWARD",
    "DistributedDataParallel",
    "Fitted",
    "FullyShardedDataParallel",
    "OneProcess",
    "Pattern",
    "Training",
    "advance",
    "fit",
    "parameter_groups",
]
