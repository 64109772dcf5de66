"""Data: what a person has, read, understood, split and prepared."""

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
