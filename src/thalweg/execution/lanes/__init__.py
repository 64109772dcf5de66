"""K replicas of a model as one program.

A forward pass is *batched* (``nn.Sequential`` of layers that have a twin in
:mod:`~thalweg.execution.lanes.batched`) or *vmap* (anything else). The sum of the lanes' losses is
differentiated once, and each rule updates its slice of the stack. Random functions inside a module draw
call i of a pass from the stream ``"module/i"``, at the step, with the run's seed as its lane. Modules that
draw from torch's, NumPy's or Python's generators are refused: all lanes would get the same numbers.
"""

from __future__ import annotations

from thalweg.execution.lanes.chunks import Eliminate, Keep, LaneKeeper, LaneProgress, plan, promise, run

__all__ = ["Eliminate", "Keep", "LaneKeeper", "LaneProgress", "plan", "promise", "run"]
