"""Torch's, NumPy's and Python's generators: seeded for a run, watched, saved, and given back.

A Dataset that augments, or a module that calls ``numpy.random``, draws from these. :func:`own_generators` is
the one place that seeds them all, for every run and whoever carries it out; their states belong to every
checkpoint.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from thalweg.randomness.streams import seed32

__all__ = [
    "apart",
    "generator_states",
    "noticed_draws",
    "own_generators",
    "seed_generators",
    "seed_torch",
    "seeds",
    "set_generator_states",
    "undisturbed",
]

_T = TypeVar("_T")


@contextmanager
def undisturbed(*own: object) -> Iterator[None]:
    """Give torch's generators, of every device in use, NumPy's and Python's back as they were.

    Args:
        own: torch generators that are given back too; or a DataLoader, with those of it and its samplers.

    >>> before = random.getstate()
    >>> with undisturbed():
    ...     _ = random.random()
    >>> random.getstate() == before
    True
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    # torch.manual_seed seeds every GPU, so every GPU's generator is put back
    begun = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if begun else []
    others = [(generator, generator.get_state()) for generator in _generators(own)]
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            for generator, state in others:
                generator.set_state(state)


def _generators(own: tuple[object, ...]) -> Iterator[torch.Generator]:
    for each in own:
        if isinstance(each, torch.Generator):
            yield each
            continue
        for name in ("generator", "sampler", "batch_sampler"):
            inner = getattr(each, name, None)
            if inner is not None and inner is not each:
                yield from _generators((inner,))


def apart(
    make: Callable[[], Iterable[_T]], seed: int, *names: int | str, own: Sequence[object] = ()
) -> Iterator[_T]:
    """Go through what draws at random, by generators of its own that a seed decides; nobody else's move.

    They are put in place for each item anew, so that whoever goes through the items may draw in between.

    Args:
        make: gives the items; called within.
        seed, names: as for :func:`own_generators`.
        own: as for :func:`undisturbed`.

    >>> def drawing():
    ...     yield random.random()
    ...     yield random.random()
    >>> random.seed(1)
    >>> first = [(round(drawn, 3), round(random.random(), 3)) for drawn in apart(drawing, 0)]
    >>> random.seed(1)
    >>> [between for _, between in first] == [round(random.random(), 3) for _ in range(2)]
    True
    """
    device = torch.device("cuda" if torch.cuda.is_initialized() else "cpu")  # type: ignore[no-untyped-call]
    held = list(_generators(tuple(own)))
    items: Iterator[_T] | None = None
    states: tuple[dict[str, Any], list[Tensor]] | None = None
    while True:
        with undisturbed(*held):
            if items is None or states is None:
                seed_generators(seed, *names)
                for number, generator in enumerate(held):
                    generator.manual_seed(seed32(seed, "own", number, *names))
                items = iter(make())
            else:
                set_generator_states(states[0], device)
                for generator, state in zip(held, states[1], strict=True):
                    generator.set_state(state)
            try:
                item = next(items)
            except StopIteration:
                return
            states = generator_states(device), [generator.get_state() for generator in held]
        yield item


@contextmanager
def own_generators(seed: int, *names: int | str) -> Iterator[None]:
    """Let everything draw from generators of a run's own, which its seed decides; then give them back.

    Args:
        seed: of the run.
        names: what they are for, so that two purposes under one seed draw different numbers.

    >>> with own_generators(3):
    ...     first = torch.rand(()).item(), np.random.rand(), random.random()
    >>> with own_generators(3):
    ...     first == (torch.rand(()).item(), np.random.rand(), random.random())
    True
    """
    with undisturbed():
        seed_generators(seed, *names)
        yield


def seed_generators(seed: int, *names: int | str) -> None:
    """Seed torch's (of all devices), NumPy's and Python's generators, each with a number of its own."""
    own = seeds(seed, *names)
    seed_torch(own["torch"])
    np.random.seed(own["numpy"])  # noqa: NPY002
    random.seed(own["python"])


def seed_torch(seed: int) -> None:
    """Do what ``torch.manual_seed`` does, without its millisecond for devices that aren't there.

    Of each kind of device that hasn't begun it notes the seed with the stack of calls.

    >>> seed_torch(3)
    >>> first = torch.rand(2)
    >>> _ = torch.manual_seed(3)
    >>> torch.equal(first, torch.rand(2))
    True
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def seeds(seed: int, *names: int | str) -> dict[str, int]:
    """Return what :func:`seed_generators` seeds each generator with.

    >>> list(seeds(3, "data"))
    ['torch', 'numpy', 'python']
    """
    return {kind: seed32(seed, kind, *names) for kind in ("torch", "numpy", "python")}


@contextmanager
def noticed_draws() -> Iterator[list[str]]:
    """Notice whose generators are drawn from within; the list is filled at the end.

    >>> with noticed_draws() as whose:
    ...     _ = random.random()
    >>> whose
    ["Python's"]
    """
    whose: list[str] = []
    before = generator_states(torch.device("cpu"))
    yield whose
    after = generator_states(torch.device("cpu"))
    for name, called in (("torch", "torch's"), ("numpy", "NumPy's"), ("python", "Python's")):
        if not _alike(before[name], after[name]):
            whose.append(called)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, list):
        return all(_alike(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def generator_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all generators, as plain values and tensors that a checkpoint can hold."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, torch.tensor(words, dtype=torch.int64), gauss],
    }


def set_generator_states(state: Mapping[str, Any], device: torch.device) -> None:
    """Take over what :func:`generator_states` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
