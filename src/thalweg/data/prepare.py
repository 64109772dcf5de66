"""From a source to the examples of one replicate: split, then prepare with the training part's statistics."""

from __future__ import annotations

import numpy as np
import torch

from thalweg.data.source import Indices, Prepared, Source
from thalweg.randomness.streams import seed32

__all__ = ["prepare", "split"]


def split(source: Source, *, seed: int, replicate: int) -> dict[str, Indices]:
    """Split rows into 60 % training, 20 % validation and 20 % test, stratified by class.

    A source that brings its test part keeps it, and the rest is split 80 to 20. Both cuts are scikit-learn's
    ``train_test_split`` with ``random_state = seed32(seed, "split", replicate)``.

    Returns:
        Row numbers by ``train``, ``validation`` and ``test``, in shuffled order.
    """
    # takes a second to import, which processes that only train needn't wait for
    from sklearn.model_selection import train_test_split

    rows, labels = np.arange(source.rows), source.labels
    state = seed32(seed, "split", replicate)
    test = np.arange(source.test_rows)
    if not source.fixed_test:
        rows, test = train_test_split(rows, test_size=0.2, random_state=state, stratify=labels)
    part = 0.2 if source.fixed_test else 0.25
    strata = None if labels is None else labels[rows]
    train, validation = train_test_split(rows, test_size=part, random_state=state, stratify=strata)
    return {"train": train, "validation": validation, "test": test}


def prepare(source: Source, *, seed: int, replicate: int, device: torch.device | str = "cpu") -> Prepared:
    """Split a source for one replicate and prepare it; statistics come from the training part alone.

    Args:
        source: from :func:`thalweg.data.load`.
        seed: of the race.
        replicate: number of the split, from 0.
        device: where tensors and batches lie.

    Raises:
        DataError: what shows only then, such as a collate function that raises.

    >>> from thalweg import data
    >>> prepared = prepare(data.load("digits"), seed=0, replicate=0)
    >>> len(prepared.train), len(prepared.validation), len(prepared.test)
    (1077, 360, 360)
    >>> prepared.input_shape, prepared.outputs, prepared.train.inputs.shape
    ((1, 8, 8), 10, torch.Size([1077, 1, 8, 8]))
    """
    indices = split(source, seed=seed, replicate=replicate)
    return source.fit(indices, torch.device(device))
