"""Second-order methods: directions, searches, and what joins them."""

from thalweg.secondorder.damping import GaussNewtonDirection, LevenbergMarquardtMethod
from thalweg.secondorder.directions import (
    BFGSDirection,
    ConjugateGradientDirection,
    LBFGSDirection,
    SteepestDescentDirection,
)
from thalweg.secondorder.minimizing import METHODS, minimize
from thalweg.secondorder.newton import NewtonCGDirection, NewtonDirection, NormalizedDirection
from thalweg.secondorder.nonlinear_least_squares import least_squares
from thalweg.secondorder.searches import Backtracking, Exact, Fixed, Values
from thalweg.secondorder.solution import Counts, IterationRecord, Solution, Status
from thalweg.secondorder.wolfe import HagerZhang, StrongWolfe

__all__ = [
    "METHODS",
    "BFGSDirection",
    "Backtracking",
    "ConjugateGradientDirection",
    "Counts",
    "Exact",
    "Fixed",
    "GaussNewtonDirection",
    "HagerZhang",
    "IterationRecord",
    "LBFGSDirection",
    "LevenbergMarquardtMethod",
    "NewtonCGDirection",
    "NewtonDirection",
    "NormalizedDirection",
    "Solution",
    "Status",
    "SteepestDescentDirection",
    "StrongWolfe",
    "Values",
    "least_squares",
    "minimize",
]
