"""Second-order methods: directions, searches, and what joins them.

A ``Tally`` counts every call of the function just before it is made, and bounds them: whatever a method
evaluates for, it can't exceed its limit. A search that only its largest step ends says so, and the next
goes on from there; many in a row mean that the function has no lower bound. Directions from curvature go
along the gradient once where a search found no step. ``minimize`` returns the lowest point of the way where
no tolerance was met. What a lane does never depends on its company.

The torch optimizers keep a direction's state in that of their first parameter, frozen or not, beside which
parameters it is of (it is lost where others are trained) and ``n_iter``, ``func_evals`` and ``passes``,
summed over all steps. Entries of others are kept and saved. The batch is the same within a step and may be
another in the next; what is carried over is right for that: pairs (s, y) come from one batch each,
Levenberg-Marquardt's damping is how far models are trusted, and ``NonlinearCG`` computes the gradient
before anew on a batch that it sees to be another. ``optimizer.track(net)`` keeps buffers as the first call
in a step leaves them; without it trial points move them.
"""

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
