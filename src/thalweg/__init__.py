"""thalweg trains deep networks well.

>>> import thalweg
>>> thalweg.schedules.build("cosine", total=100)(0)
1.0

``thalweg.race``, ``thalweg.train``, ``thalweg.fit``, the other verbs and the submodules are imported when
they are first used, so that ``import thalweg`` itself costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thalweg import averaging as averaging
    from thalweg import calibration as calibration
    from thalweg import catalogue as catalogue
    from thalweg import claims as claims
    from thalweg import curvature as curvature
    from thalweg import data as data
    from thalweg import diagnosis as diagnosis
    from thalweg import ensembles as ensembles
    from thalweg import errors as errors
    from thalweg import execution as execution
    from thalweg import initial as initial
    from thalweg import layers as layers
    from thalweg import objectives as objectives
    from thalweg import optim as optim
    from thalweg import racing as racing
    from thalweg import randomness as randomness
    from thalweg import recipe as recipe
    from thalweg import report as report
    from thalweg import rules as rules
    from thalweg import run as run
    from thalweg import runtimes as runtimes
    from thalweg import schedules as schedules
    from thalweg import secondorder as secondorder
    from thalweg import settings as settings
    from thalweg import stages as stages
    from thalweg import strategies as strategies
    from thalweg import test_problems as test_problems
    from thalweg import training as training
    from thalweg.commands.verbs import predict as predict
    from thalweg.commands.verbs import race as race
    from thalweg.commands.verbs import train as train
    from thalweg.commands.verbs import transfer as transfer
    from thalweg.diagnosis import diagnose as diagnose
    from thalweg.ensembles.fit import fit_ensemble as fit_ensemble
    from thalweg.execution.sweep import sweep as sweep
    from thalweg.secondorder import least_squares as least_squares
    from thalweg.secondorder import minimize as minimize
    from thalweg.training.fitting import fit as fit

__all__ = [
    "__version__",
    "averaging",
    "calibration",
    "catalogue",
    "claims",
    "curvature",
    "data",
    "diagnose",
    "diagnosis",
    "ensembles",
    "errors",
    "execution",
    "fit",
    "fit_ensemble",
    "initial",
    "layers",
    "least_squares",
    "minimize",
    "objectives",
    "optim",
    "predict",
    "race",
    "racing",
    "randomness",
    "recipe",
    "report",
    "rules",
    "run",
    "runtimes",
    "schedules",
    "secondorder",
    "settings",
    "stages",
    "strategies",
    "sweep",
    "test_problems",
    "train",
    "training",
    "transfer",
]

__version__ = "0.1.0"

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in ("race", "train", "transfer", "predict"):
            return getattr(importlib.import_module("thalweg.commands.verbs"), name)
        if name == "diagnose":
            return importlib.import_module("thalweg.diagnosis").diagnose
        if name == "fit":
            return importlib.import_module("thalweg.training.fitting").fit
        if name == "sweep":
            return importlib.import_module("thalweg.execution.sweep").sweep
        if name == "fit_ensemble":
            return importlib.import_module("thalweg.ensembles.fit").fit_ensemble
        if name in ("minimize", "least_squares"):
            return getattr(importlib.import_module("thalweg.secondorder"), name)
        if name in __all__:
            return importlib.import_module(f"thalweg.{name}")
        raise AttributeError(f"module 'thalweg' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return __all__
