"""What accompanies one run of training: each a function, an object with state, and a card in the docs.

Strategies are called in the order of ``priority``, and never know each other. What changes is in
``state_dict``; one resume test goes over all. ``follows`` says that a state goes back with the weights when
the guard returns to an earlier point. One that only ``observes`` changes no training, and may join or leave
a resume; checkpoints say who does.
"""

from __future__ import annotations

from thalweg.strategies.augmentation import Augmentation
from thalweg.strategies.averaging import Averaging
from thalweg.strategies.base import Keys, Scores, Settings, Strategy, Trainer, at_evaluation_weights, in_order
from thalweg.strategies.batch import BatchSize
from thalweg.strategies.clipping import Clipping
from thalweg.strategies.guard import Guard, trouble
from thalweg.strategies.initialization import Initialization
from thalweg.strategies.plateau import ReduceOnPlateau
from thalweg.strategies.rangetest import RangeTest, rate_range_test
from thalweg.strategies.snapshots import Snapshots, snapshot_steps
from thalweg.strategies.stopping import EarlyStopping, stopping_point
from thalweg.strategies.table import build, names

__all__ = [
    "Augmentation",
    "Averaging",
    "BatchSize",
    "Clipping",
    "EarlyStopping",
    "Guard",
    "Initialization",
    "Keys",
    "RangeTest",
    "ReduceOnPlateau",
    "Scores",
    "Settings",
    "Snapshots",
    "Strategy",
    "Trainer",
    "at_evaluation_weights",
    "build",
    "in_order",
    "names",
    "rate_range_test",
    "snapshot_steps",
    "stopping_point",
    "trouble",
]
