"""A run directory to one HTML file that opens from disk and fetches nothing.

Tables are Jinja templates with autoescape, pictures are bokeh's. How an optimizer looks depends on its
place in ``plan.optimizers`` alone. Names that go onto a canvas pass through ``canvas.plain``, since bokeh
would read formulas into them.
"""

from thalweg.report.alone import write_picture, write_pictures
from thalweg.report.landscapes import caption_of, picture_of
from thalweg.report.page import render, write, write_diagnosis

__all__ = [
    "caption_of",
    "picture_of",
    "render",
    "write",
    "write_diagnosis",
    "write_picture",
    "write_pictures",
]
