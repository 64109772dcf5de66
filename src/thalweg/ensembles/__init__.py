"""Ensembles: members trained, stored, evaluated together.

Member k is the training with the seed ``member_seed(seed, k)``. How they are trained is chosen once, and
the choice is an event: lanes, or the loop, in which each member is a training in ``members/k/``, a run
directory that is gone once the member is done. Either way a finished member is ``member-k.safetensors`` and
then an event, which a resume reads. What is evaluated are the files, one model in memory at a time; single
models and snapshots likewise.
"""

from __future__ import annotations

from thalweg.ensembles.fit import Ensemble, fit_ensemble

__all__ = ["Ensemble", "fit_ensemble"]
