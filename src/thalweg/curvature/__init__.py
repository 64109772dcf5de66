"""Curvature of a model's loss: products with Hessian, Gauss-Newton matrix and Jacobian; eigenvalues.

Two layers. ``products`` differentiates graphs that somebody has made, at one point, alone or in lanes.
``operators`` makes the graphs from model, loss and batches; the model is afterwards as it was, and every
product begins with the generators' states at the operator's making, so that dropout is one function. An
operator keeps no graph from product to product, since nobody tells it when parameters change: a kernel
leaves no trace in their versions. Within ``held()`` it keeps that of a single batch.
"""

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
