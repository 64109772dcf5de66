"""What accompanies one run of training: each a function, an object with state, and a card in the docs."""

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
