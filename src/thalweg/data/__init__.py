"""Data: what a person has, read, understood, split and prepared.

Regression targets from files are standardised by the training part: ``prepared.task.center`` and ``.scale``
lead back, and a metric of that task scores in the target's own units, so that predictions of different
splits can be stacked. What comes from a person's code is taken as given. Large arrays stay as they were
read, or mapped from their file, and become inputs batch by batch: ask ``in_tensors(examples)`` before
``inputs``, which would make all of them. Statistics are summed block by block in NumPy's order, so that
their bits are those of ``winner.py``. What a header says is compared with the file's size before memory is
taken. Initial weights are drawn within ``own_generators(seed, "initial")``, the order of epoch e is
``streams.order(n, seed=seed, epoch=e)``, and the ragged rest of an epoch is dropped.
"""

from thalweg.data.examples import DatasetExamples, Examples, TensorExamples
from thalweg.data.load import announcement, describe, load
from thalweg.data.prepare import prepare, split
from thalweg.data.source import Prepared, Source
from thalweg.objectives import Task

__all__ = [
    "DatasetExamples",
    "Examples",
    "Prepared",
    "Source",
    "Task",
    "TensorExamples",
    "announcement",
    "describe",
    "load",
    "prepare",
    "split",
]
