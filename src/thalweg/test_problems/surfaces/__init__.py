"""Functions with known minima: what optimizers are tried on, and what can be said about each beforehand.

>>> from thalweg.test_problems import surfaces
>>> beale = surfaces.get("beale")
>>> beale.minima[0].x, beale.lowest
((3.0, 0.5), 0.0)
"""

from __future__ import annotations

from thalweg.test_problems.surfaces.base import LeastSquares, Point, Surface
from thalweg.test_problems.surfaces.quadratic import Quadratic
from thalweg.test_problems.surfaces.table import get, names

__all__ = ["LeastSquares", "Point", "Quadratic", "Surface", "get", "names"]
