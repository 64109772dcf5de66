"""Curvature of a loss."""
