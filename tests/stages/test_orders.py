"""Orders of a curriculum: their stated distributions, their place, and any number of processes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from thalweg.data.examples import TensorExamples
from thalweg.errors import DataError, OptionError
from thalweg.run.sampler import Batches, Order, OrderOf
from thalweg.stages.difficulty import positions, relative_ranks
from thalweg.stages.orders import ByFrequency, EasiestFirst, Mix, Ordinary, emphasis_on_easy
from thalweg.stages.progress import Ramp
from thalweg.training.loader import ExampleLoader

N = 60
DIFFICULTY = torch.from_numpy(np.random.default_rng(3).permutation(N)).double()
BY_RANK = DIFFICULTY.argsort()

ORDERS: dict[str, Callable[[], OrderOf]] = {
    "deterministic": lambda: EasiestFirst(DIFFICULTY, Ramp(start=0.1, until=0.7)),
    "stochastic": lambda: Mix(DIFFICULTY, Ramp(start=0.1, end=0.6)),
    "frequency": lambda: ByFrequency(DIFFICULTY),
    "plain": lambda: Ordinary(DIFFICULTY),
}


def taken(order: Order, batches: int, share: float | None = None) -> list[Tensor]:
    return [order.take(number / batches if share is None else share) for number in range(batches)]


def counts_of(found: list[Tensor]) -> Tensor:
    return torch.bincount(torch.cat(found), minlength=N)


# The easiest share so far -------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "size"), [(0.25, 7), (0.5, 7), (0.1, 7), (1.0, 7), (0.05, 16)])
def test_of_the_easiest_share_each_comes_once_before_any_comes_again(share: float, size: int) -> None:
    pool = math.ceil(share * N)
    found = torch.cat(taken(EasiestFirst(DIFFICULTY, share)(N, 5, size), 60, 0.3))
    for epoch in found[: len(found) // pool * pool].split(pool):
        assert sorted(epoch.tolist()) == sorted(BY_RANK[:pool].tolist())
    # and in another order each time
    assert not torch.equal(found[:pool], found[pool : 2 * pool])


def test_the_pool_grows_as_the_pace_says_from_one_batch_to_the_next() -> None:
    pace = Ramp(start=0.1, end=0.9, until=0.8)
    order = EasiestFirst(DIFFICULTY, pace)(N, 0, 8)
    places = positions(DIFFICULTY, 0)
    for number in range(40):
        share = number / 40
        assert int(places[order.take(share)].max()) < math.ceil(pace(share) * N - 1e-9)
    late = torch.cat(taken(order, 60, 1.0))
    assert set(places[late].tolist()) == set(range(math.ceil(0.9 * N)))


def test_where_a_pool_ends_in_its_pass_is_uniform_over_it() -> None:
    """First batches over many seeds: each example of the pool as often as another."""
    order = EasiestFirst(DIFFICULTY, 0.2)
    inside = counts_of([order(N, seed, 3).take(0.0) for seed in range(400)])[BY_RANK[:12]]
    assert int(inside.sum()) == 1200
    assert stats.chisquare(inside.numpy()).pvalue > 1e-3


def test_equal_difficulties_are_ordered_by_the_seed_and_never_by_where_they_lie() -> None:
    halves = torch.tensor([0.0] * 40 + [1.0] * 20)
    order = EasiestFirst(halves, 1 / 6)
    first = counts_of([order(N, seed, 10).take(0.0) for seed in range(200)])
    assert int(first[40:].sum()) == 0
    assert stats.chisquare(first[:40].numpy()).pvalue > 1e-3


# The random mix -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "hard"), [(0.1, 0.5), (0.35, 0.5), (0.7, 0.25), (0.5, 0.5)])
def test_hard_examples_of_a_batch_are_binomial_and_each_of_a_kind_as_often_as_another(
    share: float, hard: float
) -> None:
    size, batches = 6, 800
    order = Mix(DIFFICULTY, share, hard)(N, 11, size)
    found = taken(order, batches)
    is_hard = torch.zeros(N, dtype=torch.bool)
    is_hard[BY_RANK[N - round(hard * N) :]] = True
    drawn = Counter(int(is_hard[batch].sum()) for batch in found)
    expected = stats.binom(size, share).pmf(np.arange(size + 1)) * batches
    large = expected >= 5
    observed = np.array([drawn[number] for number in range(size + 1)], dtype=float)
    observed = np.append(observed[large], observed[~large].sum())
    wanted = np.append(expected[large], expected[~large].sum())
    keep = wanted > 0
    assert stats.chisquare(observed[keep], wanted[keep]).pvalue > 1e-3
    # each place of a batch alike
    for times in is_hard[torch.stack(found)].sum(0).tolist():
        assert stats.binomtest(times, batches, share).pvalue > 1e-4
    counts = counts_of(found)
    for kind in (is_hard, ~is_hard):
        assert int(counts[kind].max() - counts[kind].min()) <= 1


def test_the_share_of_hard_examples_grows_on_average_and_easy_ones_always_come() -> None:
    order = Mix(DIFFICULTY, Ramp(start=0.1, end=0.9))(N, 2, 10)
    hard = [(relative_ranks(DIFFICULTY)[batch] > 0.5).double().mean() for batch in taken(order, 500)]
    fifths = [float(torch.stack(hard[begin : begin + 100]).mean()) for begin in range(0, 500, 100)]
    # the standard error of each is below 0.016
    assert fifths == pytest.approx([0.18, 0.34, 0.5, 0.66, 0.82], abs=0.05)


# Probabilities that depend on progress ------------------------------------------------------------------


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_examples_come_as_often_as_their_probabilities_say_and_independently(progress: float) -> None:
    ranks = relative_ranks(DIFFICULTY)
    wanted = torch.exp(-3.0 * (1 - progress) * ranks)
    wanted = wanted / wanted.sum()
    order = ByFrequency(DIFFICULTY, emphasis_on_easy(3.0))(N, 4, 50)
    found = torch.cat(taken(order, 400, progress))
    assert stats.chisquare(counts_of([found]).numpy(), (wanted * len(found)).numpy()).pvalue > 1e-3
    # no draw tells of the next: neither within a batch nor from one to the next
    easy = (ranks[found] < ranks[found].median()).int()
    table = [[int(((easy[:-1] == a) & (easy[1:] == b)).sum()) for b in (0, 1)] for a in (0, 1)]
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_what_counts_nothing_never_comes() -> None:
    def emphasis(ranks: Tensor, progress: float) -> Tensor:
        return ((ranks > 0.3) & (ranks < 0.6)).double()

    found = torch.cat(taken(ByFrequency(DIFFICULTY, emphasis)(N, 4, 50), 100))
    ranks = relative_ranks(DIFFICULTY)[found]
    assert float(ranks.min()) > 0.3
    assert float(ranks.max()) < 0.6


# What all have in common --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("stop", [0, 1, 17, 39])
def test_an_order_goes_on_from_two_numbers_as_if_nothing_had_been(kind: str, stop: int) -> None:
    whole = ORDERS[kind]()(N, 8, 7)
    expected = []
    for number in range(40):
        batch = whole.take(number / 40, 1.5)
        expected.append((batch.tolist(), whole.epoch))
    first = ORDERS[kind]()(N, 8, 7)
    for number in range(stop):
        first.take(number / 40, 1.5)
    state = json.loads(json.dumps(first.state()))
    assert len(state) == 2
    assert all(type(each) is int for each in state)
    again = ORDERS[kind]()(N, 8, 7)
    again.take(0.9)
    again.load(tuple(state))
    found = []
    for number in range(stop, 40):
        batch = again.take(number / 40, 1.5)
        found.append((batch.tolist(), again.epoch))
    assert found == expected[stop:]


@pytest.mark.parametrize("kind", ORDERS)
def test_processes_take_their_shares_of_one_batch(kind: str) -> None:
    x = torch.arange(float(N))
    alone = ORDERS[kind]()(N, 8, 12)
    loaders = [ExampleLoader(TensorExamples(x, x), ORDERS[kind]()(N, 8, 12), 12) for _ in range(3)]
    for rank, loader in enumerate(loaders):
        loader.divide(rank, 3, 2)
    for number in range(20):
        shares = [loader.take(number / 20).keys.indices.reshape(2, 2) for loader in loaders]
        assert torch.cat(shares, 1).flatten().tolist() == alone.take(number / 20).tolist()


@pytest.mark.parametrize("kind", ORDERS)
def test_another_seed_is_another_order_and_a_batch_is_as_large_as_wanted(kind: str) -> None:
    one, other = (torch.cat(taken(ORDERS[kind]()(N, seed, 7), 10)) for seed in (1, 2))
    assert not torch.equal(one, other)
    assert [len(ORDERS[kind]()(N, 0, 7).take(0.5, times)) for times in (0.01, 1.0, 2.0, 100.0)] == [
        1,
        7,
        14,
        N,
    ]


@pytest.mark.parametrize("kind", ORDERS)
def test_difficulties_of_other_data_are_refused(kind: str) -> None:
    with pytest.raises(DataError, match=r"^there are 60 difficulties for 61 training examples"):
        ORDERS[kind]()(61, 0, 4)


def test_the_plain_order_is_the_usual_one() -> None:
    usual = Batches(N, seed=3, size=7)
    assert [batch.tolist() for batch in taken(Ordinary(DIFFICULTY)(N, 3, 7), 20)] == [
        usual.take(0.0).tolist() for _ in range(20)
    ]


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "pace above 1": (lambda: EasiestFirst(DIFFICULTY, 1.5), "pace is 1.5"),
    "pace that leaves": (lambda: EasiestFirst(DIFFICULTY, lambda s: 1 - 2 * s), "pace is -0.1"),
    "pace of text": (lambda: EasiestFirst(DIFFICULTY, "fast"), "pace is 'fast'"),  # type: ignore[arg-type]
    "share that is none": (lambda: Mix(DIFFICULTY, float("nan")), "share of hard examples is nan"),
    "all are hard": (lambda: Mix(DIFFICULTY, 0.5, 1.0), "hard is 1.0"),
    "sharpness": (lambda: emphasis_on_easy(0.0), "sharpness is 0.0"),
    "emphasis below 0": (
        lambda: ByFrequency(DIFFICULTY, lambda r, s: r - 0.5),
        "gives -0.127119 for an example",
    ),
    "emphasis of nothing": (lambda: ByFrequency(DIFFICULTY, lambda r, s: 0 * r), "gives 0 for all"),
    "emphasis of one": (lambda: ByFrequency(DIFFICULTY, lambda r, s: r.sum()), r"gives shape \[\] for 60"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_out_of_range_is_refused_in_a_sentence(case: str) -> None:
    make, said = BAD[case]
    with pytest.raises(OptionError, match=said):
        make()
