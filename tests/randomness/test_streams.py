"""Streams: published vectors, independence from company, and the distributions."""

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import stats

from thalweg.errors import OptionError
from thalweg.randomness import streams

# Random123 1.14.0, tests/kat_vectors, rows "philox4x32 10": counter, key, result.
KNOWN = """
00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1
"""
VECTORS = [[int(word, 16) for word in line.split()] for line in KNOWN.split("\n") if line]
DRAWS = [streams.uniform, streams.normal]


def twin(counter, key):
    """Philox-4x32-10 in Python's integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 % 2**32, p0 >> 32 ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def words(count, seed, stream, step, lane):
    digest = hashlib.blake2b(f'[{seed}, "{stream}"]'.encode(), digest_size=8, person=b"stream").digest()
    key = int.from_bytes(digest, "little")
    lane %= 2**64
    out = []
    for block in range(-(-count // 4)):
        out += twin((block, step, lane % 2**32, lane >> 32), (key % 2**32, key >> 32))
    return out[:count]


@pytest.fixture(params=["numba", "torch"])
def path(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(streams, "_kernel", lambda: None)
    else:
        pytest.importorskip("numba")
        assert streams._kernel() is not None
    return request.param


@pytest.mark.parametrize("vector", VECTORS)
def test_known_answers(vector):
    assert [int(word) for word in streams.philox4x32(vector[:4], vector[4:6])] == vector[6:]
    assert twin(vector[:4], vector[4:6]) == vector[6:]


def test_known_answers_at_once():
    columns = torch.tensor(VECTORS).T
    assert torch.equal(torch.stack(streams.philox4x32(columns[:4], columns[4:6])), columns[6:])


@pytest.mark.parametrize(("step", "lane"), [(0, 0), (7, 3), (2**32 - 1, 2**40 + 5), (1, -1), (1, -(2**63))])
def test_bits_are_the_documented_counters(path, step, lane):
    drawn = streams.bits((2, 5), seed=11, stream="dropout/0", step=step, lane=lane)
    assert drawn.shape == (2, 5)
    assert drawn.dtype == torch.int64
    assert drawn.flatten().tolist() == words(10, 11, "dropout/0", step, lane)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numba_and_torch_agree_to_the_bit(draw, dtype, monkeypatch):
    pytest.importorskip("numba")
    arguments = {"seed": 5, "stream": "s", "step": 9, "lane": torch.tensor([4, -9, 2**50]), "dtype": dtype}
    with_numba = draw((3, 7), **arguments)
    monkeypatch.setattr(streams, "_kernel", lambda: None)
    assert torch.equal(with_numba, draw((3, 7), **arguments))


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_lane_depends_on_its_own_number_alone(path, draw, dtype):
    lanes = torch.tensor([9, 2, 77, 5, 2])
    together = draw((6,), seed=1, stream="s", step=2, lane=lanes, dtype=dtype)
    assert together.shape == (5, 6)
    for slot, lane in enumerate(lanes.tolist()):
        assert torch.equal(together[slot], draw((6,), seed=1, stream="s", step=2, lane=lane, dtype=dtype))
    strided = draw((6,), seed=1, stream="s", step=2, lane=lanes[::2], dtype=dtype)
    assert torch.equal(strided, together[::2])


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_short_draw_is_the_beginning_of_a_long_one(path, draw, dtype):
    long = draw((101,), seed=1, stream="s", dtype=dtype)
    for n in (0, 1, 2, 3, 4, 5, 31, 100):
        assert torch.equal(draw((n,), seed=1, stream="s", dtype=dtype), long[:n])
    assert draw((), seed=1, stream="s", dtype=dtype) == long[0]


def test_every_word_of_the_key_matters(path):
    base = {"seed": 1, "stream": "s", "step": 1, "lane": 1}
    reference = streams.bits((4,), **base).tolist()
    for change in ({"seed": 2}, {"stream": "t"}, {"step": 2}, {"lane": 2}, {"lane": 1 + 2**32}):
        assert streams.bits((4,), **(base | change)).tolist() != reference


def test_under_vmap():
    lanes = torch.tensor([3, 8, 1])
    mapped = torch.vmap(lambda lane: streams.uniform((5,), seed=1, stream="s", lane=lane))(lanes)
    assert torch.equal(mapped, streams.uniform((5,), seed=1, stream="s", lane=lanes))


def test_uniform_is_the_top_bits(path):
    single = streams.uniform((8,), seed=1, stream="s")
    assert single.dtype == torch.float32
    assert single.tolist() == [(word >> 8) / 2**24 for word in words(8, 1, "s", 0, 0)]
    double = streams.uniform((4,), seed=1, stream="s", dtype=torch.float64)
    raw = words(8, 1, "s", 0, 0)
    assert double.tolist() == [
        ((a >> 5) * 2**26 + (b >> 6)) / 2**53 for a, b in zip(raw[::2], raw[1::2], strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_is_box_muller(path, dtype):
    drawn = streams.normal((6,), seed=1, stream="s", dtype=dtype)
    raw = words(12, 1, "s", 0, 0)
    expected = []
    for pair in range(3):
        if dtype == torch.float32:
            u, v = (raw[2 * pair] + 1) / 2**32, raw[2 * pair + 1] / 2**32
        else:
            a, b, c, d = raw[4 * pair : 4 * pair + 4]
            u, v = ((a >> 5) * 2**26 + (b >> 6) + 1) / 2**53, ((c >> 5) * 2**26 + (d >> 6)) / 2**53
        radius = math.sqrt(-2 * math.log(u))
        expected += [radius * math.cos(2 * math.pi * v), radius * math.sin(2 * math.pi * v)]
    torch.testing.assert_close(
        drawn, torch.tensor(expected, dtype=dtype), rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0
    )


def test_logarithm_and_circle_to_the_last_places():
    u = torch.cat(
        (
            torch.logspace(-16, 0, 5000, dtype=torch.float64),
            1 - torch.logspace(-15, -1, 999, dtype=torch.float64),
        )
    )
    torch.testing.assert_close(streams._log(u), torch.log(u), rtol=5e-16, atol=0)
    turn = torch.arange(8000, dtype=torch.float64) / 8000
    cosine, sine = streams._circle(turn)
    torch.testing.assert_close(cosine, torch.cos(2 * math.pi * turn), rtol=0, atol=8e-16)
    torch.testing.assert_close(sine, torch.sin(2 * math.pi * turn), rtol=0, atol=8e-16)
    exact = streams._circle(torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64))
    assert torch.stack(exact).tolist() == [[1, 0, -1, 0], [0, 1, 0, -1]]


@pytest.mark.parametrize(("draw", "distribution"), [(streams.uniform, "uniform"), (streams.normal, "norm")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distribution(draw, distribution, dtype):
    drawn = draw((2000,), seed=3, stream="s", lane=torch.arange(10), dtype=dtype)
    assert stats.kstest(drawn.double().flatten().numpy(), distribution).pvalue > 0.01
    assert bool(torch.isfinite(drawn).all())
    correlation = torch.corrcoef(drawn)[~torch.eye(10, dtype=torch.bool)]
    assert bool((correlation.abs() < 0.11).all())


def test_other_dtypes_are_refused():
    with pytest.raises(OptionError, match=r"torch\.float16"):
        streams.uniform((1,), seed=0, stream="s", dtype=torch.float16)


def test_default_dtype_does_not_matter():
    expected = streams.uniform((5,), seed=0, stream="s")
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(streams.uniform((5,), seed=0, stream="s"), expected)
        assert streams.normal((5,), seed=0, stream="s").dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_seed32():
    digest = hashlib.blake2b(b'[0, "split", 3]', digest_size=8, person=b"seed").digest()
    assert streams.seed32(0, "split", 3) == int.from_bytes(digest, "little") % 2**31
    assert streams.seed32(0, "a", "b") != streams.seed32(0, "a, b")
    assert streams.seed32(0, 1) != streams.seed32(0, "1")
    assert streams.seed32(np.int64(4), "x") == streams.seed32(4, "x")
    seeds = {streams.seed32(seed, "run", j) for seed in range(20) for j in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_order_is_three_lines_of_numpy():
    for seed, epoch in ((0, 0), (2**31, 7), (5, 1)):
        raw = np.random.Philox(key=[seed, epoch]).random_raw(50)
        assert streams.order(50, seed=seed, epoch=epoch).tolist() == np.argsort(raw, kind="stable").tolist()
    first = streams.order(1000, seed=3, epoch=0)
    assert first.dtype == np.int64
    assert sorted(first.tolist()) == list(range(1000))
    assert first.tolist() != streams.order(1000, seed=3, epoch=1).tolist()
    assert first.tolist() != streams.order(1000, seed=4, epoch=0).tolist()


@pytest.mark.parametrize(("dtype", "largest"), [(torch.float32, 6.661), (torch.float64, 8.572)])
@pytest.mark.parametrize("word", [0, 2**32 - 1])
def test_normal_numbers_of_the_lowest_and_highest_words_are_finite(
    dtype: torch.dtype, largest: float, word: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four thousand million words one is zero, whose logarithm is none."""
    monkeypatch.setattr(streams, "_words", lambda count, *rest: torch.full((count,), word))
    drawn = streams.normal((6,), seed=0, stream="words", dtype=dtype)
    assert bool(drawn.isfinite().all())
    assert float(drawn.abs().max()) <= largest
    if word == 0:
        # u is the smallest there is, and the angle is 0
        assert float(drawn[0]) == pytest.approx(largest, abs=0.01)
