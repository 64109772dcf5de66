"""Curvature of a model's loss: products with Hessian, Gauss-Newton matrix and Jacobian; eigenvalues."""

from thalweg.curvature.operators import GaussNewtonMatrix, Hessian, Jacobian
from thalweg.curvature.spectrum import (
    DiagonalEstimate,
    Eigenpair,
    ExtremeEigenvalues,
    TraceEstimate,
    diagonal,
    lanczos,
    power_iteration,
    trace,
)

__all__ = [
    "DiagonalEstimate",
    "Eigenpair",
    "ExtremeEigenvalues",
    "GaussNewtonMatrix",
    "Hessian",
    "Jacobian",
    "TraceEstimate",
    "diagonal",
    "lanczos",
    "power_iteration",
    "trace",
]
