"""Much Gaussian noise at little cost, such as on all parameters of a model in every step.

As in :mod:`thalweg.randomness.streams`, a draw is a pure function of ``(seed, stream, step, lane)`` and of
its position, from the words of Philox-4x32-10. The arithmetic is that of float32 and of 32-bit integers, each
operation rounded by itself, so that Numba computes many at once, and torch, where Numba isn't there, comes to
the same bits.

Source: Salmon et al. 2011; Box and Muller 1958; polynomials of Cephes (Moshier 1989).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.randomness.streams import MULTIPLIERS, WEYL, philox4x32, stream_key

__all__ = ["noise"]

# log(1 + x) - x + x^2 / 2 over x^3, highest power first, on [sqrt(1/2) - 1, sqrt(2) - 1]
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
# sine and cosine on an eighth of a turn to both sides
_SINE = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COSINE = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_TURN = 2 * math.pi / 2**32
# what takes the exponent from the bits of a number so that the rest lies between sqrt(1/2) and sqrt(2)
_ROOT_BITS = 0x3F3504F3
_MASK = 0xFFFFFFFF
_AT_ONCE = 2**16


def noise(lanes: int, count: int, *, seed: int, stream: str, step: int = 0) -> Tensor:
    """Draw from the standard normal distribution, on the CPU.

    Two words of 32 bits w and v give ``sqrt(-2*log(u)) * (cos, sin)(2*pi*v / 2^32)`` with
    ``u = (floor(w / 2) + 1/2) / 2^31``: at most 6.66 in magnitude.

    Args:
        lanes: how many draws, numbered from 0; each is the same beside any number of others.
        count: length of a draw; a shorter one is the beginning of a longer one.
        seed, stream, step: decide the draws, as in :func:`thalweg.randomness.streams.bits`.

    Returns:
        float32 tensor ``[lanes, count]``.

    >>> drawn = noise(2, 1000, seed=1, stream="example")
    >>> drawn.shape, bool(drawn.mean().abs() < 0.1), bool((drawn.std() - 1).abs() < 0.1)
    (torch.Size([2, 1000]), True, True)
    >>> torch.equal(noise(1, 10, seed=1, stream="example")[0], drawn[0, :10])
    True
    """
    blocks = -(-count // 4)
    drawn = torch.empty(lanes, 4 * blocks)
    fill, key = _kernel(), stream_key(seed, stream)
    (_by_torch if fill is None else fill)(drawn.numpy(), step, key)
    return drawn[:, :count]


def _by_torch(out: npt.NDArray[np.float32], step: int, key: int) -> None:
    lanes, blocks = torch.from_numpy(out), out.shape[1] // 4
    for number, lane in enumerate(lanes):
        for begin in range(0, blocks, _AT_ONCE):
            block = torch.arange(begin, min(begin + _AT_ONCE, blocks))
            words = philox4x32((block, step, number, 0), (key & _MASK, key >> 32))
            values = [
                part * radius
                for radius, parts in ((_radius(words[0]), _circle(words[1])),
                                      (_radius(words[2]), _circle(words[3])))
                for part in parts
            ]  # fmt: skip
            torch.stack(values, -1, out=lane[4 * begin : 4 * (begin + len(block))].view(-1, 4))


def _radius(word: Tensor) -> Tensor:
    value = (word >> 1).to(torch.float32) + 0.5
    bits = value.view(torch.int32)
    exponent = (bits - _ROOT_BITS) >> 23
    x = (bits - (exponent << 23)).view(torch.float32) - 1.0
    square = x * x
    y = torch.full_like(x, _LOG[0])
    for factor in _LOG[1:]:
        y = y * x + factor
    y = x + (y * x * square - 0.5 * square)
    return torch.sqrt(-2.0 * ((exponent - 31).to(torch.float32) * math.log(2) + y))


def _circle(word: Tensor) -> tuple[Tensor, Tensor]:
    quarter = (word + 2**29) >> 30
    x = (word - (quarter << 30)).to(torch.float32) * _TURN
    square = x * x
    sine = ((_SINE[0] * square + _SINE[1]) * square + _SINE[2]) * square * x + x
    cosine = ((_COSINE[0] * square + _COSINE[1]) * square + _COSINE[2]) * square * square
    cosine = cosine - 0.5 * square + 1.0
    odd = quarter & 1 != 0
    one, other = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    return (
        torch.where((quarter + 1) & 2 != 0, -one, one),
        torch.where(quarter & 2 != 0, -other, other),
    )


@cache
def _kernel() -> Callable[[npt.NDArray[np.float32], int, int], None] | None:
    """The same by Numba, compiled on the first draw, which takes a vector of numbers at once."""
    try:
        import numba
        from llvmlite import ir
        from numba.extending import intrinsic
    except ImportError:
        return None
    if getattr(numba.config, "DISABLE_JIT", False):
        return None

    def cast(given: Any, to: Any, kind: Callable[[], Any]) -> Any:
        """The same bits as another type."""

        def same_bits(typing: Any, x: Any) -> Any:
            def written(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                return builder.bitcast(args[0], kind())

            return to(given), written

        return intrinsic(same_bits)

    bits_of = cast(numba.float32, numba.int32, lambda: ir.IntType(32))
    number_of = cast(numba.int32, numba.float32, lambda: ir.FloatType())
    u64, i32, f32 = np.uint64, np.int32, np.float32
    mask, half_word = u64(_MASK), u64(32)
    m0, m1 = (u64(each) for each in MULTIPLIERS)
    w0, w1 = (u64(each) for each in WEYL)
    l0, l1, l2, l3, l4, l5, l6, l7, l8 = (f32(each) for each in _LOG)
    s0, s1, s2 = (f32(each) for each in _SINE)
    c0_, c1_, c2_ = (f32(each) for each in _COSINE)
    half, one, two, turn, log2 = f32(0.5), f32(1.0), f32(-2.0), f32(_TURN), f32(math.log(2))
    root, shift, all_bits = i32(_ROOT_BITS), i32(23), i32(31)
    eighth, quarter_of = u64(1 << 29), u64(30)
    inline = numba.njit(inline="always")

    def radius(word: Any) -> Any:
        value = f32(i32(word >> u64(1))) + half
        bits = bits_of(value)
        exponent = i32(i32(bits - root) >> shift)
        x = number_of(i32(bits - i32(exponent << shift))) - one
        square = x * x
        y = l0 * x + l1
        y = y * x + l2
        y = y * x + l3
        y = y * x + l4
        y = y * x + l5
        y = y * x + l6
        y = y * x + l7
        y = y * x + l8
        y = x + (y * x * square - half * square)
        return np.sqrt(two * (f32(i32(exponent - all_bits)) * log2 + y))

    def circle(word: Any) -> Any:
        quarter = i32((word + eighth) >> quarter_of)
        x = f32(i32(i32(word) - i32(quarter << i32(30)))) * turn
        square = x * x
        sine = ((s0 * square + s1) * square + s2) * square * x + x
        cosine = ((c0_ * square + c1_) * square + c2_) * square * square
        cosine = cosine - half * square + one
        odd = (quarter & i32(1)) != 0
        first = sine if odd else cosine
        second = cosine if odd else sine
        first = -first if ((quarter + i32(1)) & i32(2)) != 0 else first
        second = -second if (quarter & i32(2)) != 0 else second
        return first, second

    radius, circle = inline(radius), inline(circle)

    def fill(out: Any, step: Any, key: Any) -> None:
        for lane in range(out.shape[0]):
            row = out[lane]
            for block in range(out.shape[1] // 4):
                c0, c1, c2, c3 = u64(block), u64(step), u64(lane), u64(0)
                k0, k1 = u64(key) & mask, u64(key) >> half_word
                for _ in range(10):
                    product0, product1 = c0 * m0, c2 * m1
                    c0, c1 = (product1 >> half_word) ^ c1 ^ k0, product1 & mask
                    c2, c3 = (product0 >> half_word) ^ c3 ^ k1, product0 & mask
                    k0, k1 = (k0 + w0) & mask, (k1 + w1) & mask
                r, (a, b) = radius(c0), circle(c1)
                row[4 * block] = a * r
                row[4 * block + 1] = b * r
                r, (a, b) = radius(c2), circle(c3)
                row[4 * block + 2] = a * r
                row[4 * block + 3] = b * r

    signature = numba.void(numba.float32[:, ::1], numba.uint64, numba.uint64)
    compiled: Callable[..., None] = numba.njit(signature, nogil=True)(fill)
    return compiled
