"""Named random streams without state: a draw depends on what it is for, never on what was drawn before.

A draw is a pure function of ``(seed, stream, step, lane)`` and of its position in the draw, computed by the
counter-based generator Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", 2011): the key holds 64 bits of BLAKE2 over ``(seed, stream)``, the counter is ``(block, step, low
and high half of the lane)``. So a lane draws the same beside any other lanes, in any slot and on any device,
the first ``n`` of a longer draw are the draw of ``n``, and resuming needs nothing but the step.

Only integer operations and correctly rounded ``+ - * /`` and square roots are used, so that the bits are the
same on every device. On a CPU, Numba computes the words where it is installed; the words are the same.

Source: DESIGN (lanes), Salmon et al. 2011; Box and Muller 1958.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thalweg.errors import OptionError

__all__ = [
    "MULTIPLIERS",
    "WEYL",
    "bits",
    "compile_words",
    "normal",
    "order",
    "philox4x32",
    "seed32",
    "stream_key",
    "uniform",
]

_MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
"""Of Philox-4x32, for the first and the third word of a counter."""

WEYL = (0x9E3779B9, 0xBB67AE85)
"""What the two words of its key grow by each round."""

_ROUNDS = 10


def philox4x32(
    counter: Sequence[int | Tensor], key: Sequence[int | Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Encrypt a counter under a key with Philox-4x32-10.

    Ten times, with 32-bit words ``c`` and ``k``: ``c = (hi(M1*c2) ^ c1 ^ k0, lo(M1*c2), hi(M0*c0) ^ c3 ^ k1,
    lo(M0*c0))``, after which each ``k`` grows by its Weyl constant.

    Args:
        counter: four words, each an int or an int64 tensor with values in ``[0, 2**32)``; they broadcast.
        key: two such words.

    Returns:
        Four int64 tensors of words in ``[0, 2**32)``.

    >>> [hex(int(word)) for word in philox4x32((0, 0, 0, 0), (0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']

    Source: Salmon et al. 2011; test vectors in Random123.
    """
    device = _device_of((*counter, *key))
    words = (torch.as_tensor(word, dtype=torch.int64, device=device) for word in (*counter, *key))
    c0, c1, c2, c3, k0, k1 = words
    for _ in range(_ROUNDS):
        # The product may exceed 63 bits: int64 wraps around, and the mask after the shift drops the sign.
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + WEYL[0]) & _MASK, (k1 + WEYL[1]) & _MASK
    return c0, c1, c2, c3


def bits(
    shape: Sequence[int],
    *,
    seed: int,
    stream: str,
    step: int = 0,
    lane: int | Tensor = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw 32 random bits an element.

    Args:
        shape: of one lane's draw.
        seed: any int.
        stream: what the draw is for; different names give independent draws.
        step: in ``[0, 2**32)``.
        lane: the lane's own number, any int64; an int64 tensor ``[K]`` draws for K lanes at once. A tensor
            without dimensions counts as one lane, and works under ``torch.vmap``.
        device: where the result lies; default: where ``lane`` lies, else the CPU.

    Returns:
        int64 tensor ``[*shape]``, or ``[K, *shape]``, with values in ``[0, 2**32)``.

    >>> bits((3,), seed=1, stream="example").tolist() == bits((5,), seed=1, stream="example")[:3].tolist()
    True
    """
    count = math.prod(shape)
    words = _words(count, seed, stream, step, lane, device)
    return words[..., :count].reshape(_full_shape(shape, lane))


def uniform(
    shape: Sequence[int],
    *,
    seed: int,
    stream: str,
    step: int = 0,
    lane: int | Tensor = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw uniformly from ``[0, 1)``: multiples of ``2**-24`` in float32, of ``2**-53`` in float64.

    Args:
        shape, seed, stream, step, lane, device: as in :func:`bits`.
        dtype: ``torch.float32`` or ``torch.float64``.

    Returns:
        Tensor ``[*shape]``, or ``[K, *shape]`` for ``lane`` of shape ``[K]``.

    Raises:
        OptionError: for another ``dtype``.

    >>> lanes = torch.tensor([7, 8])
    >>> both = uniform((4,), seed=1, stream="dropout", step=3, lane=lanes)
    >>> both.shape, torch.equal(both[1], uniform((4,), seed=1, stream="dropout", step=3, lane=8))
    (torch.Size([2, 4]), True)
    """
    count = math.prod(shape)
    each = _words_each(dtype)
    words = _words(count * each, seed, stream, step, lane, device)[..., : count * each]
    if each == 1:
        drawn = (words >> 8).to(dtype).mul_(2.0**-24)
    else:
        drawn = _fraction53(words[..., 0::2], words[..., 1::2])
    return drawn.reshape(_full_shape(shape, lane))


def normal(
    shape: Sequence[int],
    *,
    seed: int,
    stream: str,
    step: int = 0,
    lane: int | Tensor = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw from the standard normal distribution, by Box and Muller's transform.

    Two uniforms u in (0, 1] and v in [0, 1) give ``sqrt(-2*log(u)) * (cos(2*pi*v), sin(2*pi*v))``, in float64
    for both dtypes. Logarithm, cosine and sine are summed here, since libraries round them differently from
    device to device, and from a vector's middle to its end.

    Args:
        shape, seed, stream, step, lane, device: as in :func:`bits`.
        dtype: ``torch.float32`` (at most 6.66 in magnitude) or ``torch.float64`` (at most 8.57).

    Returns:
        Tensor ``[*shape]``, or ``[K, *shape]`` for ``lane`` of shape ``[K]``.

    Raises:
        OptionError: for another ``dtype``.

    >>> drawn = normal((1000,), seed=1, stream="noise")
    >>> bool(drawn.mean().abs() < 0.1), bool((drawn.std() - 1).abs() < 0.1)
    (True, True)

    Source: Box and Muller 1958.
    """
    device = _resolve_device(lane, device)
    if device.type == "mps":  # has no float64
        here = lane.cpu() if isinstance(lane, Tensor) else lane
        drawn = normal(shape, seed=seed, stream=stream, step=step, lane=here, dtype=dtype, device="cpu")
        return drawn.to(device)
    count = math.prod(shape)
    each = _words_each(dtype)
    pairs = (count + 1) // 2
    words = _words(2 * pairs * each, seed, stream, step, lane, device)[..., : 2 * pairs * each]
    if each == 1:
        u = (words[..., 0::2] + 1).double() * 2.0**-32
        v = words[..., 1::2].double() * 2.0**-32
    else:
        u = _fraction53(words[..., 0::4], words[..., 1::4]) + 2.0**-53
        v = _fraction53(words[..., 2::4], words[..., 3::4])
    radius = torch.sqrt(-2.0 * _log(u))
    cosine, sine = _circle(v)
    both = torch.stack((radius * cosine, radius * sine), -1).flatten(-2)
    return both[..., :count].to(dtype).reshape(_full_shape(shape, lane))


def compile_words() -> None:
    """Compile what computes words on a CPU, where Numba is there, which the first draw would do.

    For whoever forks processes: each has it then.
    """
    _kernel()


def stream_key(seed: int, stream: str) -> int:
    """Return the key of a stream under Philox: 64 bits of BLAKE2 over the seed and the name.

    >>> 0 <= stream_key(0, "dropout") < 2**64, stream_key(0, "dropout") == stream_key(1, "dropout")
    (True, False)
    """
    return int.from_bytes(_digest("stream", seed, stream), "little")


def seed32(seed: int, *names: int | str) -> int:
    """Derive a seed for a library that takes one: 31 bits of BLAKE2 over the seed and the names.

    Args:
        seed: any int.
        names: what the seed is for, such as ``"split", 3``; ``1`` and ``"1"`` differ.

    Returns:
        An int in ``[0, 2**31)``.

    >>> seed32(0, "split", 3) == seed32(0, "split", 3), seed32(0, "split", 3) == seed32(0, "split", 4)
    (True, False)
    """
    return int.from_bytes(_digest("seed", seed, *names), "little") & 0x7FFFFFFF


def order(n: int, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Shuffle ``0 .. n-1`` as a pure function of the seed and the epoch.

    ``argsort(Philox(key=[seed, epoch]).random_raw(n), kind="stable")`` with NumPy's Philox (4x64), so that
    anybody can write the same order in one line of NumPy.

    Args:
        n: number of examples.
        seed, epoch: in ``[0, 2**64)``.

    Returns:
        int64 array ``[n]``.

    >>> order(5, seed=0, epoch=0).tolist() == order(5, seed=0, epoch=0).tolist()
    True
    >>> sorted(order(5, seed=0, epoch=1).tolist())
    [0, 1, 2, 3, 4]
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    raw = np.random.Philox(key=key).random_raw(n)
    return np.argsort(raw, kind="stable").astype(np.int64, copy=False)


def _digest(purpose: str, seed: int, *names: int | str) -> bytes:
    parts = [
        operator.index(seed),
        *(name if isinstance(name, str) else operator.index(name) for name in names),
    ]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8, person=purpose.encode()).digest()


def _device_of(words: Sequence[int | Tensor]) -> torch.device:
    return next((word.device for word in words if isinstance(word, Tensor)), torch.device("cpu"))


def _resolve_device(lane: int | Tensor, device: torch.device | str | None) -> torch.device:
    return _device_of((lane,)) if device is None else torch.device(device)


def _full_shape(shape: Sequence[int], lane: int | Tensor) -> tuple[int, ...]:
    return (*(lane.shape if isinstance(lane, Tensor) else ()), *shape)


def _words_each(dtype: torch.dtype) -> int:
    if dtype not in (torch.float32, torch.float64):
        raise OptionError(f"random numbers of {dtype} can't be drawn: draw torch.float32 and convert it")
    return 1 if dtype == torch.float32 else 2


def _words(
    count: int, seed: int, stream: str, step: int, lane: int | Tensor, device: torch.device | str | None
) -> Tensor:
    """At least ``count`` words as int64 ``[..., 4 * blocks]``, word i from block i // 4."""
    device = _resolve_device(lane, device)
    blocks = -(-count // 4)
    assert 0 <= step <= _MASK, "step over 32 bits"
    assert blocks <= _MASK + 1, "size of a draw over 32 bits"
    key = stream_key(seed, stream)
    fill = _kernel() if device.type == "cpu" and not (isinstance(lane, Tensor) and lane.ndim == 0) else None
    if fill is not None:
        lanes = lane.cpu() if isinstance(lane, Tensor) else torch.tensor([lane])
        drawn = np.empty((len(lanes), 4 * blocks), dtype=np.int64)
        fill(drawn, lanes.numpy().view(np.uint64), step, key)
        words = torch.from_numpy(drawn)
        return words if isinstance(lane, Tensor) else words[0]
    number = torch.as_tensor(lane, dtype=torch.int64, device=device).unsqueeze(-1)
    block = torch.arange(blocks, device=device)
    counter = (block, step, number & _MASK, (number >> 32) & _MASK)
    return torch.stack(philox4x32(counter, (key & _MASK, key >> 32)), -1).flatten(-2)


@cache
def _kernel() -> Callable[[npt.NDArray[np.int64], npt.NDArray[np.uint64], int, int], None] | None:
    """The words by Numba, compiled on the first draw; torch takes over ten times longer."""
    try:
        import numba
    except ImportError:
        return None
    if getattr(numba.config, "DISABLE_JIT", False):
        return None
    u64 = np.uint64
    mask, half = u64(_MASK), u64(32)
    m0, m1 = u64(MULTIPLIERS[0]), u64(MULTIPLIERS[1])
    w0, w1 = u64(WEYL[0]), u64(WEYL[1])

    def fill(out: Any, lanes: Any, step: Any, key: Any) -> None:
        for k in range(out.shape[0]):
            for block in range(out.shape[1] // 4):
                c0, c1, c2, c3 = u64(block), u64(step), lanes[k] & mask, lanes[k] >> half
                k0, k1 = u64(key) & mask, u64(key) >> half
                for _ in range(_ROUNDS):
                    product0, product1 = c0 * m0, c2 * m1
                    c0, c1 = (product1 >> half) ^ c1 ^ k0, product1 & mask
                    c2, c3 = (product0 >> half) ^ c3 ^ k1, product0 & mask
                    k0, k1 = (k0 + w0) & mask, (k1 + w1) & mask
                out[k, 4 * block] = c0
                out[k, 4 * block + 1] = c1
                out[k, 4 * block + 2] = c2
                out[k, 4 * block + 3] = c3

    signature = numba.void(
        numba.int64[:, ::1], numba.types.Array(numba.uint64, 1, "A"), numba.uint64, numba.uint64
    )
    compiled: Callable[..., None] = numba.njit(signature, nogil=True)(fill)
    return compiled


def _fraction53(high: Tensor, low: Tensor) -> Tensor:
    return ((high >> 5) * 2**26 + (low >> 6)).double() * 2.0**-53


def _log(u: Tensor) -> Tensor:
    """log(u) for u in (0, 1]: u = m * 2**e, and log(m) = 2*atanh(s) with s = (m-1)/(m+1)."""
    m, e = torch.frexp(u)
    low = m < math.sqrt(0.5)
    m, e = torch.where(low, 2.0 * m, m), torch.where(low, e - 1, e)
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    tail = torch.zeros_like(s)
    for n in range(19, 1, -2):
        tail = (tail + 1.0 / n) * square
    return e.double() * math.log(2.0) + 2.0 * (s + s * tail)


def _circle(turn: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of 2*pi*turn, for turn in [0, 1), by their series within an eighth of a turn."""
    quarter = torch.floor(4.0 * turn + 0.5)
    x = (turn - 0.25 * quarter) * (2.0 * math.pi)
    square = x * x
    cosine, sine = torch.zeros_like(x), torch.zeros_like(x)
    for n in range(16, 0, -2):
        cosine = (1.0 / math.factorial(n) - cosine) * square
        sine = (1.0 / math.factorial(n + 1) - sine) * square
    cosine, sine = 1.0 - cosine, x - x * sine
    swap = quarter.remainder(2.0) == 1.0
    a, b = torch.where(swap, sine, cosine), torch.where(swap, cosine, sine)
    negative_a = (quarter == 1.0) | (quarter == 2.0)
    negative_b = (quarter == 2.0) | (quarter == 3.0)
    return torch.where(negative_a, -a, a), torch.where(negative_b, -b, b)
