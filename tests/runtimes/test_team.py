"""Torch's threads and our own: the same bits, and nothing awake that isn't needed."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch

from thalweg import rules, runtimes
from thalweg.runtimes import team
from thalweg.runtimes.kernels import JOB, SLOT

pytestmark = pytest.mark.skipif("cpu" not in runtimes.available(), reason="Numba isn't installed")

SHAPES = [(300_000,), (7,), (250, 1000), (1,), (0,), (90_000,)]


@pytest.fixture(params=["torch's", "our own"])
def threads(request, monkeypatch):
    """Steps run on these threads, whatever the test's process had."""
    made = team._openmp() if request.param == "torch's" else team._Team()
    if made is None:
        pytest.skip("torch's threads aren't GNU OpenMP's")
    monkeypatch.setattr(team, "_threads", made)
    before = torch.get_num_threads()
    yield made
    torch.set_num_threads(before)


def trajectory(number, runtime, steps=4):
    torch.set_num_threads(number)
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(shape, generator=generator) for shape in SHAPES]
    states = runtimes.initial_states(rules.adam, params, {}, {})
    cache = {}
    for t in range(1, steps + 1):
        grads = [torch.randn(shape, generator=generator) for shape in SHAPES]
        runtimes.apply(rules.adam, params, grads, states, {}, {}, t, runtime=runtime, cache=cache)
    return torch.cat([p.flatten() for p in params]).numpy()


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_any_number_of_threads_gives_the_same_bits(threads, number):
    assert np.array_equal(trajectory(number, "cpu"), trajectory(1, "eager"))


def test_the_number_of_threads_may_change_from_step_to_step(threads):
    p, g, cache = [torch.zeros(200_000)], [torch.ones(200_000)], {}
    for step, number in enumerate((1, 3, 2, 2, 4, 1), 1):
        torch.set_num_threads(number)
        runtimes.apply(rules.sgd, p, g, {}, {"lr": 1.0}, {}, step, runtime="cpu", cache=cache)
        assert p[0].unique().tolist() == [-step]


def test_one_thread_asks_nobody(monkeypatch):
    monkeypatch.setattr(team, "run", lambda job: pytest.fail("a helper was asked"))
    trajectory(1, "cpu", steps=1)


def test_a_job_has_a_slot_for_each_thread_and_each_chunk_is_in_one(monkeypatch):
    jobs = []

    def alone(job):
        jobs.append(job.copy())
        team._Team().run(job)

    monkeypatch.setattr(team, "run", alone)
    before = torch.get_num_threads()
    try:
        trajectory(3, "cpu", steps=1)
    finally:
        torch.set_num_threads(before)
    slots = jobs[0][JOB["slots"] :].reshape(3, SLOT["words"])
    ends = slots[:, SLOT["end"]].tolist()
    assert jobs[0][JOB["slot_count"]] == 3
    assert slots[:, SLOT["begin"]].tolist() == [0, *ends[:2]]
    assert 0 < ends[0] < ends[1] < ends[2]


def test_our_threads_sleep_between_steps(monkeypatch):
    own = team._Team()
    monkeypatch.setattr(team, "_threads", own)
    before = torch.get_num_threads()
    try:
        trajectory(2, "cpu")
    finally:
        torch.set_num_threads(before)
    time.sleep(0.05)  # torch's own stay awake for a moment
    begin = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - begin < 0.25
    assert len(own.idle) == len(own.everyone) <= (os.cpu_count() or 1)


def test_no_more_threads_of_our_own_than_processors(monkeypatch):
    own = team._Team()
    monkeypatch.setattr(team, "_threads", own)
    taken = own.take(1000)
    assert len(taken) == len(own.everyone) == (os.cpu_count() or 1)
    own.idle += taken
