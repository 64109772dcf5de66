"""The training loop and what carries it, what its steps cost, and the choice between it and lanes."""

from __future__ import annotations

from thalweg.training import loop
from thalweg.training.choose import Choice
from thalweg.training.core import Training, advance
from thalweg.training.cost import measured_passes, step_seconds
from thalweg.training.engine import OneProcess
from thalweg.training.fitting import fit
from thalweg.training.fitting_many import Ensemble, fit_ensemble
from thalweg.training.groups import Pattern, parameter_groups
from thalweg.training.job import Fitted
from thalweg.training.parallel import DistributedDataParallel, FullyShardedDataParallel
from thalweg.training.processes import portable, run_many
from thalweg.training.steps import FORWARD_BACKWARD

__all__ = [
    "FORWARD_BACKWARD",
    "Choice",
    "DistributedDataParallel",
    "Ensemble",
    "Fitted",
    "FullyShardedDataParallel",
    "OneProcess",
    "Pattern",
    "Training",
    "advance",
    "fit",
    "fit_ensemble",
    "loop",
    "measured_passes",
    "parameter_groups",
    "portable",
    "run_many",
    "step_seconds",
]
