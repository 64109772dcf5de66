"""Second-order methods: directions, searches, and what joins them."""

from thalweg.secondorder.damping import GaussNewton, LevenbergMarquardt
from thalweg.secondorder.directions import BFGS, LBFGS, ConjugateGradient, SteepestDescent
from thalweg.secondorder.minimizing import METHODS, minimize
from thalweg.secondorder.newton import Newton, NewtonCG, Normalized
from thalweg.secondorder.searches import Backtracking, Exact, Fixed, Values
from thalweg.secondorder.solution import Counts, Record, Solution, Status
from thalweg.secondorder.squares import least_squares
from thalweg.secondorder.wolfe import HagerZhang, StrongWolfe

__all__ = [
    "BFGS",
    "LBFGS",
    "METHODS",
    "Backtracking",
    "ConjugateGradient",
    "Counts",
    "Exact",
    "Fixed",
    "GaussNewton",
    "HagerZhang",
    "LevenbergMarquardt",
    "Newton",
    "NewtonCG",
    "Normalized",
    "Record",
    "Solution",
    "Status",
    "SteepestDescent",
    "StrongWolfe",
    "Values",
    "least_squares",
    "minimize",
]
