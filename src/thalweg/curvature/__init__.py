"""Curvature of a model's loss: products with Hessian, Gauss-Newton matrix and Jacobian; eigenvalues.

Two layers. ``products`` differentiates graphs that somebody has made, at one point, alone or in lanes.
``operators`` makes the graphs from model, loss and batches; the model is afterwards as it was, and every
product begins with the generators' states at the operator's making, so that dropout is one function. An
operator keeps no graph from product to product, since nobody tells it when parameters change: a kernel
leaves no trace in their versions. Within ``held()`` it keeps that of a single batch.
"""

from thalweg.curvature.densities import SpectralDensity, spectral_density
from thalweg.curvature.eigenvalues import Eigenpair, ExtremeEigenvalues, lanczos, power_iteration
from thalweg.curvature.jacobians import Jacobian
from thalweg.curvature.landscapes import (
    Interpolation,
    LossSurface,
    filter_normalized,
    interpolation,
    loss_surface,
)
from thalweg.curvature.model_matrices import EmpiricalFisher, GaussNewtonMatrix, Hessian
from thalweg.curvature.noise import NoiseScale, noise_scale, noise_scale_of
from thalweg.curvature.preconditioned import Preconditioned
from thalweg.curvature.sampling import Interval, curvature_along, over_batches
from thalweg.curvature.stability import StabilityBound, seen_by, stability
from thalweg.curvature.steps import StepEffect, StepPrediction, step_of, step_prediction
from thalweg.curvature.traces import DiagonalEstimate, TraceEstimate, diagonal, trace
from thalweg.curvature.trajectories import TrajectoryPlane, trajectory_plane

__all__ = [
    "DiagonalEstimate",
    "Eigenpair",
    "EmpiricalFisher",
    "ExtremeEigenvalues",
    "GaussNewtonMatrix",
    "Hessian",
    "Interpolation",
    "Interval",
    "Jacobian",
    "LossSurface",
    "NoiseScale",
    "Preconditioned",
    "SpectralDensity",
    "StabilityBound",
    "StepEffect",
    "StepPrediction",
    "TraceEstimate",
    "TrajectoryPlane",
    "curvature_along",
    "diagonal",
    "filter_normalized",
    "interpolation",
    "lanczos",
    "loss_surface",
    "noise_scale",
    "noise_scale_of",
    "over_batches",
    "power_iteration",
    "seen_by",
    "spectral_density",
    "stability",
    "step_of",
    "step_prediction",
    "trace",
    "trajectory_plane",
]
