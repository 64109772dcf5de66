"""From a source to the examples of one replicate: split, then prepare with the training part's statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from thalweg.data.source import Indices, Prepared, Source
from thalweg.errors import DataError
from thalweg.randomness.streams import order, seed32

__all__ = ["prepare", "some_of", "split"]


def split(source: Source, *, seed: int, replicate: int, examples: int | None = None) -> dict[str, Indices]:
    """Split rows into 60 % training, 20 % validation and 20 % test, stratified by class.

    A source that brings its test part keeps it, and the rest is split 80 to 20. Both cuts are scikit-learn's
    ``train_test_split`` with ``random_state = seed32(seed, "split", replicate)``.

    Args:
        source: from :func:`thalweg.data.load`.
        seed, replicate: of the split.
        examples: so many of the training part are left in it (:func:`some_of`); ``None``: all.

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
    if examples is not None:
        train = train[some_of(len(train), examples, None if labels is None else labels[train], seed=state)]
    return {"train": train, "validation": validation, "test": test}


def some_of(count: int, examples: int, labels: Any, *, seed: int) -> Indices:
    """Choose some examples at random, classes in their shares; of fewer they are a part of those of more.

    Args:
        count: how many there are.
        examples: how many are wanted, 1 to ``count``.
        labels: the class of each, an array ``[count]``; ``None`` where there are none.
        seed: of the choice.

    Returns:
        Places, int64 ``[examples]``; of each class its share, rounded, and one at least.

    Raises:
        DataError: more are wanted than there are, or fewer than there are classes.

    >>> places = some_of(8, 4, np.array([0, 0, 0, 0, 0, 0, 1, 1]), seed=0)
    >>> int((places >= 6).sum())
    1
    """
    if not 1 <= examples <= count:
        raise DataError(
            f"{examples:,} training examples are wanted, but there are {count:,}; give a number from 1 to "
            f"{count:,}"
        )
    shuffled = order(count, seed=seed32(seed, "examples"), epoch=0)
    if labels is None:
        return shuffled[:examples]
    known, which, counts = np.unique(np.asarray(labels)[shuffled], return_inverse=True, return_counts=True)
    if examples < len(known):
        raise DataError(
            f"{examples:,} training examples are wanted, but there are {len(known):,} classes; give at least "
            "one for each"
        )
    # the place of each within its class, as a share of it: the first ones are those of any smaller choice
    places = np.empty(count)
    for number in range(len(known)):
        of_class = np.flatnonzero(which == number)
        places[of_class] = (np.arange(len(of_class)) + 0.5) / counts[number]
        places[of_class[0]] = -1
    return shuffled[np.argsort(places, kind="stable")[:examples]]


def prepare(
    source: Source,
    *,
    seed: int,
    replicate: int,
    device: torch.device | str = "cpu",
    examples: int | None = None,
) -> Prepared:
    """Split a source for one replicate and prepare it; statistics come from the training part alone.

    Args:
        source: from :func:`thalweg.data.load`.
        seed: of the race.
        replicate: number of the split, from 0.
        device: where tensors and batches lie.
        examples: so many of the training part are learnt from; ``None``: all.

    Raises:
        DataError: what shows only then, such as a collate function that raises; more examples than there are.

    >>> from thalweg import data
    >>> prepared = prepare(data.load("digits"), seed=0, replicate=0)
    >>> len(prepared.train), len(prepared.validation), len(prepared.test)
    (1077, 360, 360)
    >>> prepared.input_shape, prepared.outputs, prepared.train.inputs.shape
    ((1, 8, 8), 10, torch.Size([1077, 1, 8, 8]))
    """
    indices = split(source, seed=seed, replicate=replicate, examples=examples)
    return source.fit(indices, torch.device(device))
