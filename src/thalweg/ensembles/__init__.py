"""Ensembles: members trained, stored, evaluated together."""

from __future__ import annotations

from thalweg.ensembles.fit import Ensemble, fit_ensemble

__all__ = ["Ensemble", "fit_ensemble"]
