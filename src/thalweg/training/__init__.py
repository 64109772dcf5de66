"""The training loop, and ``fit``, which carries one training through.

The clock counts steps of the plan: a batch of twice the usual size is two, a second-order step as much as
its compute in recipes and races. Process by process a loader gives its share of each part of a batch (sizes
differ by one at most); ``make_step`` weighs its loss by the share, so that the mean over processes is that
of the batch, and says by ``randomness.keyed.portion`` which examples these are, so that random layers draw
what the whole batch would. What a training steps on is ``backend.wrapped(model)``; state, names and
evaluations are the model's own.

A state with sharded tensors is written in two parts: marks stand for them in the state, all processes write
them through torch's distributed checkpoints into ``NAME.COUNT.shards/``, and process 0 writes the rest with
the checksums of these files. It loads onto any number of processes, or whole into one. Shards go with the
last state that refers to them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalweg.training.backend import OneProcess as OneProcess
    from thalweg.training.fitting import fit as fit
    from thalweg.training.parallel import DistributedDataParallel as DistributedDataParallel
    from thalweg.training.parallel import FullyShardedDataParallel as FullyShardedDataParallel
    from thalweg.training.param_groups import Pattern as Pattern
    from thalweg.training.param_groups import parameter_groups as parameter_groups
    from thalweg.training.steps import FORWARD_BACKWARD as FORWARD_BACKWARD
    from thalweg.training.trainer import Training as Training
    from thalweg.training.trainer import train_loop as train_loop
    from thalweg.training.training_run import Fitted as Fitted

__all__ = [
    "FORWARD_BACKWARD",
    "DistributedDataParallel",
    "Fitted",
    "FullyShardedDataParallel",
    "OneProcess",
    "Pattern",
    "Training",
    "fit",
    "parameter_groups",
    "train_loop",
]

# imported when first used: who only trains needs neither the classes for several processes nor fit
_WHERE = {
    "DistributedDataParallel": "thalweg.training.parallel",
    "FORWARD_BACKWARD": "thalweg.training.steps",
    "Fitted": "thalweg.training.training_run",
    "FullyShardedDataParallel": "thalweg.training.parallel",
    "OneProcess": "thalweg.training.backend",
    "Pattern": "thalweg.training.param_groups",
    "Training": "thalweg.training.trainer",
    "train_loop": "thalweg.training.trainer",
    "fit": "thalweg.training.fitting",
    "parameter_groups": "thalweg.training.param_groups",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in _WHERE:
            return getattr(importlib.import_module(_WHERE[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
