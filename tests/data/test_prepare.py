from __future__ import annotations

import numpy as np
import pytest

from thalweg.data import load, prepare, split
from thalweg.data.source import fingerprint_of


@pytest.mark.parametrize("name", ["wine", "diabetes"])
def test_parts_are_whole_disjoint_and_of_the_stated_sizes(name: str) -> None:
    source = load(name)
    parts = split(source, seed=1, replicate=0)
    joined = np.concatenate(list(parts.values()))
    assert sorted(joined.tolist()) == list(range(source.rows))
    for part, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert abs(len(parts[part]) - share * source.rows) <= 2


def test_split_is_stratified() -> None:
    source = load("breast-cancer")
    labels = source.labels
    assert labels is not None
    for rows in split(source, seed=1, replicate=0).values():
        assert abs(labels[rows].mean() - labels.mean()) < 0.01


def test_split_depends_on_seed_and_replicate_alone() -> None:
    source = load("wine")
    again = split(load("wine"), seed=1, replicate=2)
    for part, rows in split(source, seed=1, replicate=2).items():
        assert np.array_equal(rows, again[part])
    for other in (split(source, seed=1, replicate=3), split(source, seed=2, replicate=2)):
        assert not np.array_equal(other["test"], again["test"])


def test_fingerprint_tells_contents_apart() -> None:
    a = np.arange(6.0)
    prints = {
        fingerprint_of([a]),
        fingerprint_of([a.reshape(2, 3)]),
        fingerprint_of([a.astype(np.float32)]),
        fingerprint_of([a, a]),
        fingerprint_of([a + 1]),
        fingerprint_of(["a", "b"]),
        fingerprint_of(["ab"]),
        fingerprint_of([np.array(["a", None], dtype=object)]),
    }
    assert len(prints) == 8
    assert fingerprint_of([a[::2]]) == fingerprint_of([a[::2].copy()])


def test_prepared_lies_on_the_device() -> None:
    prepared = prepare(load("iris"), seed=0, replicate=0, device="meta")
    assert prepared.train.inputs is not None
    assert prepared.train.inputs.device.type == "meta"
