"""A number that changes over time: step to factor, in closed form, without state.

A schedule is a frozen dataclass that is called with a step and gives the factor by which a base value is
multiplied at that step; steps count from 0. Beyond the ``total`` steps that they are made for,
:class:`Linear`, :class:`Polynomial`, :class:`Cosine`, :class:`OneCycle` and :class:`WarmupStableDecay` keep
their final value;
:class:`Step`, :class:`Exponential`, :class:`InverseTime` and :class:`InverseSquare` have no end and go on
falling. Checkpointing a schedule is checkpointing the step. Every schedule works as the function of torch's
``LambdaLR``; :class:`Driver` drives any numeric hyperparameter of any torch optimizer. :class:`Plateau` alone
looks at measurements and so has state.

The lecture texts call inverse-time decay "linear" and its square "quadratic" (C s99). Here they have the
field's names, and ``linear`` is the straight line to zero.
"""

from __future__ import annotations

from thalweg.schedules.base import Scaled, Schedule
from thalweg.schedules.compose import Sequential, Warmup
from thalweg.schedules.driver import Driver, Plateau
from thalweg.schedules.shapes import (
    Constant,
    Cosine,
    Exponential,
    InverseSquare,
    InverseTime,
    Linear,
    OneCycle,
    Piecewise,
    Polynomial,
    Step,
    WarmupStableDecay,
)
from thalweg.schedules.table import Description, build, describe, evaluate, names

__all__ = [
    "Constant",
    "Cosine",
    "Description",
    "Driver",
    "Exponential",
    "InverseSquare",
    "InverseTime",
    "Linear",
    "OneCycle",
    "Piecewise",
    "Plateau",
    "Polynomial",
    "Scaled",
    "Schedule",
    "Sequential",
    "Step",
    "Warmup",
    "WarmupStableDecay",
    "build",
    "describe",
    "evaluate",
    "names",
]
