"""The run directory: a run is a directory, written whole or not at all, and only read afterwards.

::

    config.toml         what was asked for
    environment.json    machine and versions
    events.jsonl        what happened, a line each, only ever appended to
    checkpoints/        states, under a name that holds a count and a checksum
    ...                 whatever the run leaves: results.json, winner.toml, report.html

Every file but ``events.jsonl`` is written beside its place, synced, and renamed into it. An event is
synced before :meth:`RunDirectory.append` returns; a last line torn by a kill is dropped on resuming.

A state is ``NAME.COUNT.CHECKSUM.pt``; what is given as a checkpoint's name is the stem. One that is damaged
is passed over for an older one, and a training takes the newest whose best weights are there too.
``write_whole`` follows links, and writes into a FIFO or a device rather than replacing it. ``output.say``
writes what is shown beside the work and may be lost, ``output.give`` a result, whose loss is an error.
"""

from __future__ import annotations

from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.environment import environment
from thalweg.run.directory.writing import drop_state, load_state, save_state, write_whole

__all__ = ["RunDirectory", "drop_state", "environment", "load_state", "save_state", "write_whole"]
