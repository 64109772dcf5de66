"""Optimizers for any PyTorch loop: torch's names and arguments, the rules of the lectures inside."""

from __future__ import annotations

from thalweg.optim.adaptive import Adagrad, Adam, AdamW, NAdam, RMSprop
from thalweg.optim.base import RuleOptimizer
from thalweg.optim.custom import from_rule
from thalweg.optim.descent import SGD, Momentum, Nesterov
from thalweg.optim.muon import Muon
from thalweg.optim.quickprop import Quickprop
from thalweg.optim.schedule_free import ScheduleFreeAdamW
from thalweg.optim.sign import Lion, Rprop
from thalweg.optim.soap import SOAP
from thalweg.secondorder.curvature_optimizers import GaussNewton, LevenbergMarquardt, Newton, NewtonCG
from thalweg.secondorder.optimizers import BFGS, LBFGS, NonlinearCG, SteepestDescent

__all__ = [
    "BFGS",
    "LBFGS",
    "SGD",
    "SOAP",
    "Adagrad",
    "Adam",
    "AdamW",
    "GaussNewton",
    "LevenbergMarquardt",
    "Lion",
    "Momentum",
    "Muon",
    "NAdam",
    "Nesterov",
    "Newton",
    "NewtonCG",
    "NonlinearCG",
    "Quickprop",
    "RMSprop",
    "Rprop",
    "RuleOptimizer",
    "ScheduleFreeAdamW",
    "SteepestDescent",
    "from_rule",
]
