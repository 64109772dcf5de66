"""Functions with known minima: what optimizers are tried on, and what can be said about each beforehand.

>>> from thalweg import surfaces
>>> beale = surfaces.get("beale")
>>> beale.minima[0].x, beale.lowest
((3.0, 0.5), 0.0)
"""

from __future__ import annotations

from thalweg.surfaces.base import LeastSquares, Point, Surface
from thalweg.surfaces.quadratic import Quadratic
from thalweg.surfaces.table import get, names

__all__ = ["LeastSquares", "Point", "Quadratic", "Surface", "get", "names"]
