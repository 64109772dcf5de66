"""Starting points, as functions on tensors and on modules, drawn from named streams.

The same seed gives the same start on every device, whatever the order in which layers were made: a
parameter's draws depend on the seed and its name. The only property of a start that is known for certain to
matter is that it breaks symmetry between units; the rest are heuristics, chosen by how they train.
"""

from __future__ import annotations

from thalweg.initial.biases import (
    OutputBias,
    marginals,
    open_gates,
    output_bias,
    positive_biases,
    set_constants,
    set_output_bias,
)
from thalweg.initial.modules import Initialized, initialize
from thalweg.initial.saved import Taken, from_saved, read_tensors, tensors_of
from thalweg.initial.schemes import SCHEMES, draw

__all__ = [
    "SCHEMES",
    "Initialized",
    "OutputBias",
    "Taken",
    "draw",
    "from_saved",
    "initialize",
    "marginals",
    "open_gates",
    "output_bias",
    "positive_biases",
    "read_tensors",
    "set_constants",
    "set_output_bias",
    "tensors_of",
]
