"""A run directory to one HTML file that opens from disk and fetches nothing."""

from thalweg.report.page import render, write

__all__ = ["render", "write"]
