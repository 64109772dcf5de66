"""Orders of examples that a curriculum gives: which examples each step takes, the easier ones first.

Each is a function of the seed and of two numbers that say where it is, so that every process of a training
draws the same batch, and a training that is resumed goes on as if nothing had been.

Source: P8 (N).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.randomness import streams
from thalweg.run.sampler import Batches, Order, orders
from thalweg.settings.tables import is_number
from thalweg.stages.difficulty import as_difficulty, positions, relative_ranks
from thalweg.stages.progress import Changing, by_progress

__all__ = [
    "ByFrequency",
    "EasiestFirst",
    "Emphasis",
    "Mix",
    "Ordinary",
    "emphasis_of",
    "emphasis_on_easy",
]

Emphasis: TypeAlias = Callable[[Tensor, float], Tensor]
"""From ranks of examples, 0 for the easiest to 1, and progress to how much each counts, at least 0."""

_WORD = 2**32


def emphasis_on_easy(sharpness: float = 5.0, pace: Changing = lambda progress: progress) -> Emphasis:
    """Return what lets easy examples count more, and all the same in the end: ``exp(-k * (1 - p) * r)``.

    Here r is the rank of an example, from 0 to 1, k the sharpness, and p the pace, 1 where all count alike.

    Args:
        sharpness: above 0: first the easiest counts ``exp(sharpness)`` times as much as the hardest.
        pace: from progress to p, within 0 and 1.

    Raises:
        OptionError: a value out of range.

    >>> emphasis = emphasis_on_easy(sharpness=math.log(4))
    >>> ranks = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    >>> emphasis(ranks, 0.0).tolist(), emphasis(ranks, 1.0).tolist()
    ([1.0, 0.5, 0.25], [1.0, 1.0, 1.0])
    """
    if not is_number(sharpness) or not 0 < sharpness < math.inf:
        raise OptionError(f"sharpness is {sharpness!r}, but must be a number above 0")
    paced = by_progress("pace", pace, least=0, most=1)
    return lambda ranks, progress: torch.exp(-float(sharpness) * (1 - paced(progress)) * ranks)


@dataclass(frozen=True, eq=False)
class EasiestFirst:
    """Deterministic: the easiest share of the examples so far, each as often as the others.

    Where ``pace(s)`` is p, s of the stage being done, examples are taken from the ``ceil(p * N)`` easiest,
    in a shuffled order, each once before any comes again. What is added is taken from the next batch on.

    Args:
        difficulty: a number for each example, see :func:`thalweg.stages.difficulty.as_difficulty`; examples
            of the same are ordered by the seed.
        pace: from progress to the share of the examples, within 0 and 1; one at least is taken.

    Raises:
        DataError: a difficulty that isn't one. When an order is made: of another number of examples.
        OptionError: a pace that leaves its range.

    Used as ``order`` of :func:`thalweg.fit` or of a stage:

    >>> order = EasiestFirst([5, 1, 4, 2, 3, 0], pace=lambda progress: 0.5 + 0.5 * progress)(6, 0, 3)
    >>> sorted(order.take(0.0).tolist()), len(order.take(1.0))
    ([1, 3, 5], 3)

    Source: P8 (N): a deterministic curriculum; Bengio, Louradour, Collobert and Weston, Curriculum learning,
    2009.
    """

    difficulty: Any
    pace: Changing = 1.0
    _pace: Callable[[float], float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "difficulty", as_difficulty(self.difficulty))
        object.__setattr__(self, "_pace", by_progress("pace", self.pace, least=0, most=1))

    def __call__(self, examples: int, seed: int, batch_size: int) -> Order:
        """Return the order of a run."""
        difficulty = as_difficulty(self.difficulty, examples=examples)
        return _Easiest(positions(difficulty, seed), self._pace, seed, batch_size)


@dataclass(frozen=True, eq=False)
class Mix:
    """Stochastic: always a random mix of easy and hard examples, whose share of hard ones changes.

    The ``hard`` part of the examples that are the most difficult are the hard ones. Each example of a batch
    is one of them with probability ``share(s)``, s of the stage being done, and else an easy one. Easy ones
    are taken in a shuffled order, each once before any comes again, and so are the hard ones.

    Args:
        difficulty: as for :class:`EasiestFirst`.
        share: from progress to the share of hard examples, within 0 and 1. Where it is ``hard``, every
            example is as frequent as another.
        hard: which part of the examples is hard, above 0 and below 1; of both kinds there is one at least.

    Raises:
        DataError: a difficulty that isn't one. When an order is made: of another number of examples.
        OptionError: a value out of range.

    >>> order = Mix([3, 2, 1, 0], share=lambda progress: progress)(4, 0, 2)
    >>> sorted(order.take(0.0).tolist()), sorted(order.take(1.0).tolist())
    ([2, 3], [0, 1])

    Source: P8 (N): "a random mix of easy and difficult examples is always presented to the learner, but where
    the average proportion of the more difficult examples is gradually increased"; Zaremba and Sutskever,
    Learning to execute, 2014.
    """

    difficulty: Any
    share: Changing = 0.5
    hard: float = 0.5
    _share: Callable[[float], float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "difficulty", as_difficulty(self.difficulty))
        share = by_progress("the share of hard examples", self.share, least=0, most=1)
        object.__setattr__(self, "_share", share)
        if not is_number(self.hard) or not 0 < self.hard < 1:
            raise OptionError(
                f"hard is {self.hard!r}, but must be the part of the examples that counts as hard, above 0 "
                "and below 1"
            )

    def __call__(self, examples: int, seed: int, batch_size: int) -> Order:
        """Return the order of a run."""
        difficulty = as_difficulty(self.difficulty, examples=examples)
        hard = min(examples - 1, max(1, round(self.hard * examples)))
        return _Mixed(positions(difficulty, seed) >= examples - hard, self._share, seed, batch_size)


@dataclass(frozen=True, eq=False)
class ByFrequency:
    """Easy examples more frequently: each one of a batch is drawn by probabilities that change.

    ``P(example i) = e_i / sum_j e_j`` with ``e_i = emphasis(r_i, s)``, r_i its rank from 0 for the easiest to
    1, s the part of the stage that is done. Examples are drawn independently, so that one may come again
    before another comes at all.

    Args:
        difficulty: as for :class:`EasiestFirst`; equal ones have the same rank.
        emphasis: from ranks, float64 ``[N]``, and progress to numbers of at least 0, ``[N]``.

    Raises:
        DataError: a difficulty that isn't one. When an order is made: of another number of examples.
        OptionError: an emphasis below 0, not finite, or 0 for all.

    >>> order = ByFrequency([0, 1, 2, 3], lambda ranks, progress: (ranks < 0.5).double())(4, 0, 8)
    >>> set(order.take(0.0).tolist()) <= {0, 1}
    True

    Source: P8 (N): "or by sampling them more frequently".
    """

    difficulty: Any
    emphasis: Emphasis = field(default_factory=emphasis_on_easy)

    def __post_init__(self) -> None:
        difficulty = as_difficulty(self.difficulty)
        object.__setattr__(self, "difficulty", difficulty)
        ranks = relative_ranks(difficulty)
        for progress in (0.0, 0.5, 1.0):
            emphasis_of(self.emphasis, ranks, progress)

    def __call__(self, examples: int, seed: int, batch_size: int) -> Order:
        """Return the order of a run."""
        difficulty = as_difficulty(self.difficulty, examples=examples)
        return _Frequent(relative_ranks(difficulty), self.emphasis, seed, batch_size)


@dataclass(frozen=True, eq=False)
class Ordinary:
    """The usual shuffled order, for as many examples as there are difficulties.

    Args:
        difficulty: as for :class:`EasiestFirst`.

    >>> Ordinary([0, 1, 2, 3])(4, 0, 2).take(0.0).shape
    torch.Size([2])
    """

    difficulty: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "difficulty", as_difficulty(self.difficulty))

    def __call__(self, examples: int, seed: int, batch_size: int) -> Order:
        """Return the order of a run."""
        as_difficulty(self.difficulty, examples=examples)
        return Batches(examples, seed=seed, size=batch_size)


def emphasis_of(emphasis: Emphasis, ranks: Tensor, progress: float) -> Tensor:
    """Return how much each example counts, float64 ``[N]``.

    Raises:
        OptionError: not one number of at least 0 for each, or 0 for all.
    """
    found = emphasis(ranks, progress)
    if not isinstance(found, Tensor) or found.shape != ranks.shape:
        shape = f"shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise OptionError(
            f"the emphasis gives {shape} for {len(ranks)} ranks; let it give a tensor with one number for "
            "each"
        )
    found = found.detach().to("cpu", torch.float64)
    if not bool((found.isfinite() & (found >= 0)).all()) or not bool((found > 0).any()):
        odd = found[~(found >= 0) | ~found.isfinite()]
        what = f"{float(odd[0]):g} for an example" if len(odd) else "0 for all examples"
        raise OptionError(
            f"the emphasis gives {what} where {100 * progress:.0f} % of a stage is done, but must give "
            "finite numbers of at least 0, above 0 for some"
        )
    return found


def _size(usual: int, times: float, examples: int) -> int:
    return max(1, min(examples, round(usual * times)))


class _Easiest:
    """One order of all examples an epoch, of which those are passed over that aren't taken yet."""

    def __init__(self, places: Tensor, pace: Callable[[float], float], seed: int, size: int) -> None:
        self._places, self._pace, self.seed, self._size = places, pace, seed, size
        self.epoch, self._position = 0, 0
        self._order: tuple[int, Tensor] | None = None

    def take(self, share: float, times: float = 1.0) -> Tensor:
        examples = len(self._places)
        # a share of exactly so many may be computed a little above
        most = max(1, min(examples, math.ceil(self._pace(share) * examples - 1e-9)))
        missing = _size(self._size, times, examples)
        taken: list[Tensor] = []
        while missing:
            if self._order is None or self._order[0] != self.epoch:
                self._order = self.epoch, orders(examples, [self.seed], self.epoch)[0]
            rest = self._order[1][self._position :]
            found = (self._places[rest] < most).nonzero()[:missing, 0]
            taken.append(rest[found])
            missing -= len(found)
            if missing:
                self.epoch, self._position = self.epoch + 1, 0
            else:
                self._position += int(found[-1]) + 1
        return torch.cat(taken)

    def state(self) -> tuple[int, int]:
        return self.epoch, self._position

    def load(self, state: tuple[int, int]) -> None:
        self.epoch, self._position = state


class _Mixed:
    """Two orders, of the easy and of the hard examples; it is known how many were taken of each."""

    def __init__(self, is_hard: Tensor, share: Callable[[float], float], seed: int, size: int) -> None:
        self._kinds = [(~is_hard).nonzero()[:, 0], is_hard.nonzero()[:, 0]]
        self._share, self.seed, self._size = share, seed, size
        # the epoch is of the batch that was taken last: one of its own, since an example may come again at
        # any time
        self._taken, self.epoch = [0, 0], 0
        self._orders: list[tuple[int, Tensor] | None] = [None, None]

    def take(self, share: float, times: float = 1.0) -> Tensor:
        size = _size(self._size, times, sum(map(len, self._kinds)))
        drawn = streams.uniform(
            (size,), seed=self.seed, stream="curriculum", step=sum(self._taken) % _WORD, dtype=torch.float64
        )
        hard = drawn < self._share(share)
        made = torch.empty(size, dtype=torch.int64)
        for kind, places in enumerate((~hard, hard)):
            made[places] = self._next(kind, int(places.sum()))
        self.epoch = sum(self._taken)
        return made

    def _next(self, kind: int, missing: int) -> Tensor:
        examples, taken = self._kinds[kind], [torch.empty(0, dtype=torch.int64)]
        while missing:
            epoch, position = divmod(self._taken[kind], len(examples))
            held = self._orders[kind]
            if held is None or held[0] != epoch:
                seed = streams.seed32(self.seed, "curriculum", kind)
                held = self._orders[kind] = epoch, examples[orders(len(examples), [seed], epoch)[0]]
            found = held[1][position : position + missing]
            taken.append(found)
            missing -= len(found)
            self._taken[kind] += len(found)
        return torch.cat(taken)

    def state(self) -> tuple[int, int]:
        return self._taken[0], self._taken[1]

    def load(self, state: tuple[int, int]) -> None:
        self._taken, self.epoch = [*state], sum(state)


class _Frequent:
    """Independent draws, by a number that counts them."""

    def __init__(self, ranks: Tensor, emphasis: Emphasis, seed: int, size: int) -> None:
        self._ranks, self._emphasis, self.seed, self._size = ranks, emphasis, seed, size
        # of the batch that was taken last: one of its own, since an example may come again at any time
        self.epoch, self._drawn = 0, 0

    def take(self, share: float, times: float = 1.0) -> Tensor:
        size = _size(self._size, times, len(self._ranks))
        ends = emphasis_of(self._emphasis, self._ranks, share).cumsum(0)
        drawn = streams.uniform(
            (size,), seed=self.seed, stream="curriculum", step=self._drawn % _WORD, dtype=torch.float64
        )
        self._drawn += size
        self.epoch += 1
        # an example that counts 0 ends where the one before it does, and is passed over
        found = torch.searchsorted(ends, drawn * ends[-1], right=True)
        return found.clamp_max(int((ends < ends[-1]).sum()))

    def state(self) -> tuple[int, int]:
        return self.epoch, self._drawn

    def load(self, state: tuple[int, int]) -> None:
        self.epoch, self._drawn = state
