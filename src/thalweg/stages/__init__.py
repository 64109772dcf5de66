"""Learning in stages: lists of stages, and the functions that write them.

A training in stages is a list of :class:`Stage`; ``thalweg.fit(stages=...)`` carries it out. Each function
here returns such a list or is a piece of one, and each piece is usable alone.
"""

from __future__ import annotations

from thalweg.stages.auxiliary import auxiliary_heads
from thalweg.stages.blocks import Block, Chain, Upto, find_blocks
from thalweg.stages.curriculum import ExampleWeights, curriculum, curriculum_controls
from thalweg.stages.difficulty import difficulty_by, difficulty_of
from thalweg.stages.freezing import frozen
    "hint_loss",
    "hints",
    "regressor_for",
    "softened_loss",
