"""Optimizers for any PyTorch loop: torch's names and arguments, the rules of the lectures inside."""

from __future__ import annotations

from thalweg.optim.adaptive import Adagrad, Adam, AdamW, RMSprop
from thalweg.optim.base import RuleOptimizer
from thalweg.optim.custom import from_rule
from thalweg.optim.descent import SGD, Momentum, Nesterov
from thalweg.secondorder.faces import BFGS, LBFGS, NonlinearCG
from thalweg.secondorder.matrix_faces import GaussNewton, LevenbergMarquardt, Newton

__all__ = [
    "BFGS",
    "LBFGS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "GaussNewton",
    "LevenbergMarquardt",
    "Momentum",
    "Nesterov",
    "Newton",
    "NonlinearCG",
    "RMSprop",
    "RuleOptimizer",
    "from_rule",
]
