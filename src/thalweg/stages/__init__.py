"""Learning in stages: lists of stages, and the functions that write them.

A training in stages is a list of :class:`Stage`; ``thalweg.fit(stages=...)`` carries it out. Each function
here returns such a list or is a piece of one, and each piece is usable alone.
"""

from __future__ import annotations

from thalweg.stages.freezing import frozen
from thalweg.stages.stage import GIVEN, Stage

__all__ = ["GIVEN", "Stage", "frozen"]
