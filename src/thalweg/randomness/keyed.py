"""Random functions inside anybody's module, replaced by draws that depend on the run alone.

While a :class:`Keyed` mode is active, dropout and its relatives, ``torch.rand``, ``bernoulli_`` and so on
take their numbers from a source: the i-th call of a forward pass draws from the stream ``"module/i"`` of
:mod:`thalweg.randomness.streams`, at the number of the step and with the run's seed as its lane. Lanes draw
for all runs at once and outside of ``vmap``, the ordinary loop draws as it goes, and both get the same
numbers.

What nothing replaces draws from generators that :mod:`thalweg.randomness.generators` seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from thalweg.randomness import streams

__all__ = [
    "Draw",
    "DrawRecorder",
    "Keyed",
    "LaneDraws",
    "RunDraws",
    "Site",
    "keep_mask",
    "portion",
    "unkeyed",
]


class Site(NamedTuple):
    """One random call of a forward pass: what it draws, for one run."""

    kind: Literal["uniform", "normal"]
    shape: tuple[int, ...]
    dtype: torch.dtype


Draw = Callable[[int, Site], Tensor]
"""Number of the call in call order, and what it asks for, to the numbers."""


class DrawRecorder:
    """A source that notes what is asked for, and gives zeros and halves."""

    def __init__(self, device: torch.device) -> None:
        self.sites: list[Site] = []
        self._device = device

    def __call__(self, index: int, site: Site) -> Tensor:
        """Note the call."""
        assert index == len(self.sites)
        self.sites.append(site)
        value = 0.5 if site.kind == "uniform" else 0.0
        return torch.full(site.shape, value, dtype=site.dtype, device=self._device)


_portion: ContextVar[tuple[int, int, int] | None] = ContextVar("portion", default=None)


@contextmanager
def portion(whole: int, begin: int, end: int) -> Iterator[None]:
    """Say that a forward pass is of the examples ``begin`` to ``end`` of a batch of ``whole``.

    What is drawn for examples is then what a pass over the whole batch would have drawn for these: where the
    first axis is as long as the examples are many, or a multiple of that (heads beside each other), or else
    the first axis that is as long, the draw of the whole batch is cut. Draws of other shapes are the
    same whatever the portion.

    >>> draws = RunDraws(seed=1, device=torch.device("cpu"))
    >>> with Keyed(draws):
    ...     whole = torch.nn.functional.dropout(torch.ones(5, 4), 0.5)
    >>> with portion(5, 3, 5), Keyed(draws):
    ...     torch.equal(torch.nn.functional.dropout(torch.ones(2, 4), 0.5), whole[3:])
    True
    """
    token = _portion.set((whole, begin, end))
    try:
        yield
    finally:
        _portion.reset(token)


_unkeyed: ContextVar[bool] = ContextVar("unkeyed", default=False)


@contextmanager
def unkeyed() -> Iterator[None]:
    """Let random functions draw by torch's generators within, for whoever seeds one by the step.

    >>> with Keyed(RunDraws(seed=1, device=torch.device("cpu"))), unkeyed():
    ...     drawn = torch.rand(2, generator=torch.Generator().manual_seed(0))
    >>> torch.equal(drawn, torch.rand(2, generator=torch.Generator().manual_seed(0)))
    True
    """
    token = _unkeyed.set(True)
    try:
        yield
    finally:
        _unkeyed.reset(token)


class RunDraws:
    """The source of one run: draws as it is asked. ``step`` is set before each training step."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device, self.step = seed, device, 0

    def __call__(self, index: int, site: Site) -> Tensor:
        """Draw ``[*shape]``; for a :func:`portion` of a batch its part of the whole one's draw."""
        part = _portion.get()
        axis = None if part is None else _examples_axis(site.shape, part[2] - part[1])
        if part is None or axis is None:
            return _draw(index, site, self.step, self.seed, self.device)
        whole, begin, end = part
        times = site.shape[axis] // (end - begin)
        shape = (*site.shape[:axis], whole * times, *site.shape[axis + 1 :])
        drawn = _draw(index, site._replace(shape=shape), self.step, self.seed, self.device)
        return drawn.narrow(axis, begin * times, (end - begin) * times).contiguous()


def _examples_axis(shape: tuple[int, ...], examples: int) -> int | None:
    if shape and shape[0] >= examples and shape[0] % examples == 0:
        return 0
    return shape.index(examples) if examples in shape else None


class LaneDraws:
    """The source of many runs: draws ``[K, *shape]``, once for runs that share a seed.

    Args:
        seeds: of the K lanes.
        device: where the numbers lie.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        distinct = list(dict.fromkeys(seeds))
        self.device, self.step, self.lanes = device, 0, len(seeds)
        self._distinct = torch.tensor(distinct, dtype=torch.int64, device=device)
        self._slot = torch.tensor([distinct.index(seed) for seed in seeds], device=device)

    def __call__(self, index: int, site: Site) -> Tensor:
        """Draw ``[K, *shape]``."""
        drawn = _draw(index, site, self.step, self._distinct, self.device)
        if len(self._distinct) == 1:
            return drawn.expand(self.lanes, *site.shape)
        return drawn if len(self._distinct) == self.lanes else drawn.index_select(0, self._slot)


def _draw(index: int, site: Site, step: int, lane: int | Tensor, device: torch.device) -> Tensor:
    function = streams.uniform if site.kind == "uniform" else streams.normal
    return function(
        site.shape,
        seed=0,
        stream=f"module/{index}",
        step=step,
        lane=lane,
        dtype=site.dtype,
        device=device,
    )


def keep_mask(uniform: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """Return dropout's mask: ``1 / (1 - p)`` where ``uniform >= p``, else 0; all 0 at p = 1."""
    scale = 0.0 if p >= 1 else 1 / (1 - p)
    return (uniform >= p).to(dtype).mul_(scale)


class Keyed(TorchFunctionMode):
    """Replace random functions by draws from a source, for one forward pass.

    Covers ``dropout``, ``dropout1d`` .. ``3d``, ``alpha_dropout``, ``feature_alpha_dropout``, the dropout of
    ``scaled_dot_product_attention``, ``rand``, ``randn``, ``randint``, ``randperm``, ``bernoulli``,
    ``normal``, their ``_like`` and in-place forms, ``exponential_`` and ``gumbel_softmax``. Others keep
    torch's generator.

    >>> draws = RunDraws(seed=1, device=torch.device("cpu"))
    >>> with Keyed(draws):
    ...     first = torch.nn.functional.dropout(torch.ones(4), 0.5)
    >>> with Keyed(draws):
    ...     again = torch.nn.functional.dropout(torch.ones(4), 0.5)
    >>> torch.equal(first, again)
    True
    """

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self._draw, self._calls = draw, 0

    def draw(self, kind: Literal["uniform", "normal"], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Draw for the next call of the pass."""
        index = self._calls
        self._calls += 1
        if dtype in (torch.float32, torch.float64):
            return self._draw(index, Site(kind, tuple(shape), dtype))
        drawn = self._draw(index, Site(kind, tuple(shape), torch.float32))
        return drawn.to(dtype)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        replacement = None if _unkeyed.get() else _REPLACED.get(func)
        kwargs = kwargs or {}
        return func(*args, **kwargs) if replacement is None else replacement(self, func, *args, **kwargs)


def _dropout(
    mode: Keyed, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    if not training or p == 0.0:
        return input
    # Drawn in float32 for every dtype, so that a model drops the same elements in any precision.
    mask = keep_mask(mode.draw("uniform", input.shape, torch.float32), p, input.dtype)
    return input.mul_(mask) if inplace else input * mask


def _dropout_(mode: Keyed, func: Any, input: Tensor, p: float, train: bool) -> Tensor:
    return _dropout(mode, func, input, p, train, True)


def _features(shape: Sequence[int], channel_dim: int) -> tuple[int, ...]:
    return tuple(size if axis <= channel_dim else 1 for axis, size in enumerate(shape))


def _feature_dropout(spatial: int) -> Callable[..., Tensor]:
    def replaced(
        mode: Keyed, func: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0.0:
            return input
        # Without a batch dimension channels come first; a 3-D input of dropout2d counts as batched there.
        channel_dim = 0 if input.dim() == spatial + 1 and spatial != 2 else 1
        uniform = mode.draw("uniform", _features(input.shape, channel_dim), torch.float32)
        mask = keep_mask(uniform, p, input.dtype)
        return input.mul_(mask) if inplace else input * mask

    return replaced


def _alpha_dropout(by_feature: bool) -> Callable[..., Tensor]:
    def replaced(
        mode: Keyed, func: Any, input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0.0:
            return input
        shape = _features(input.shape, 1) if by_feature else tuple(input.shape)
        keep = mode.draw("uniform", shape, torch.float32) >= p
        low = -1.7580993408473766
        scale = 0.0 if p >= 1 else 1 / math.sqrt((1 - p) * (1 + p * low * low))
        dropped = torch.where(keep, input, input.new_full((), low)) * scale - scale * low * p
        return input.copy_(dropped) if inplace else dropped

    return replaced


def _attention(
    mode: Keyed, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kw: Any
) -> Any:
    names = ("attn_mask", "dropout_p", "is_causal")
    options = {**dict(zip(names, args, strict=False)), **kw}
    p = options.get("dropout_p", 0.0)
    if p == 0.0:
        return func(query, key, value, **options)
    if options.get("enable_gqa"):
        repeat = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeat, -3), value.repeat_interleave(repeat, -3)
    scale = options.get("scale") or 1 / math.sqrt(query.shape[-1])
    weights = (query * scale) @ key.transpose(-2, -1)
    bias = options.get("attn_mask")
    if options.get("is_causal"):
        bias = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).tril()
    if bias is not None:
        weights = weights.masked_fill(~bias, -math.inf) if bias.dtype == torch.bool else weights + bias
    hidden = (weights == -math.inf).all(-1, keepdim=True)  # torch gives zeros where everything is masked
    weights = torch.softmax(weights, -1).masked_fill(hidden, 0.0)
    return _dropout(mode, func, weights, p) @ value


def _shape_of(size: tuple[Any, ...], kw: dict[str, Any]) -> tuple[int, ...]:
    size = kw.pop("size", size)
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else tuple(size)


def _place(kw: dict[str, Any]) -> torch.dtype:
    return kw.get("dtype") or torch.get_default_dtype()


def _rand(kind: Literal["uniform", "normal"]) -> Callable[..., Tensor]:
    def replaced(mode: Keyed, func: Any, *size: Any, **kw: Any) -> Tensor:
        return mode.draw(kind, _shape_of(size, kw), _place(kw))

    return replaced


def _rand_like(kind: Literal["uniform", "normal"]) -> Callable[..., Tensor]:
    def replaced(mode: Keyed, func: Any, input: Tensor, **kw: Any) -> Tensor:
        return mode.draw(kind, input.shape, kw.get("dtype") or input.dtype)

    return replaced


def _randint(mode: Keyed, func: Any, *args: Any, **kw: Any) -> Tensor:
    low: int = kw.get("low", 0)
    given = [*args, *(kw[name] for name in ("high", "size") if name in kw)]
    low, high, size = (low, *given) if len(given) == 2 else given
    uniform = mode.draw("uniform", tuple(size), torch.float64)
    return torch.floor(uniform * (high - low)).add(low).to(kw.get("dtype") or torch.int64)


def _randperm(mode: Keyed, func: Any, n: int, **kw: Any) -> Tensor:
    return torch.argsort(mode.draw("uniform", (n,), torch.float64), stable=True)


def _bernoulli(mode: Keyed, func: Any, input: Tensor, p: float | None = None, **kw: Any) -> Tensor:
    chance = input if p is None else p
    return (mode.draw("uniform", input.shape, torch.float32) < chance).to(input.dtype)


def _bernoulli_(mode: Keyed, func: Any, input: Tensor, p: Any = 0.5, **kw: Any) -> Tensor:
    return input.copy_((mode.draw("uniform", input.shape, torch.float32) < p).to(input.dtype))


def _uniform_(mode: Keyed, func: Any, input: Tensor, low: float = 0, high: float = 1, **kw: Any) -> Tensor:
    low, high = float(kw.get("from", low)), float(kw.get("to", high))
    return input.copy_(mode.draw("uniform", input.shape, input.dtype) * (high - low) + low)


def _normal_(mode: Keyed, func: Any, input: Tensor, mean: float = 0, std: float = 1, **kw: Any) -> Tensor:
    return input.copy_(mode.draw("normal", input.shape, input.dtype) * std + mean)


def _normal(mode: Keyed, func: Any, mean: Any, std: Any = 1.0, size: Any = None, **kw: Any) -> Any:
    if size is None:
        like = mean if isinstance(mean, Tensor) else std
        other = std.shape if isinstance(std, Tensor) else like.shape
        return mode.draw("normal", np.broadcast_shapes(like.shape, other), like.dtype) * std + mean
    return mode.draw("normal", tuple(size), _place(kw)) * std + mean


def _exponential_(mode: Keyed, func: Any, input: Tensor, lambd: float = 1.0, **kw: Any) -> Tensor:
    return input.copy_(-torch.log1p(-mode.draw("uniform", input.shape, input.dtype)) / lambd)


def _gumbel_softmax(
    mode: Keyed,
    func: Any,
    logits: Tensor,
    tau: float = 1,
    hard: bool = False,
    eps: float = 1e-10,
    dim: int = -1,
) -> Tensor:
    uniform = mode.draw("uniform", logits.shape, logits.dtype)
    # 1 - u lies in (0, 1]; u = 0 would give an infinite exponential's logarithm.
    noise = -torch.log((-torch.log1p(-uniform)).clamp_min(torch.finfo(logits.dtype).tiny))
    soft = torch.softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    one_hot = torch.zeros_like(soft).scatter(dim, soft.argmax(dim, keepdim=True), 1.0)
    return one_hot - soft.detach() + soft


_REPLACED: dict[Any, Callable[..., Any]] = {
    F.dropout: _dropout,
    torch.dropout: _dropout,
    torch.dropout_: _dropout_,
    F.dropout1d: _feature_dropout(1),
    F.dropout2d: _feature_dropout(2),
    F.dropout3d: _feature_dropout(3),
    F.alpha_dropout: _alpha_dropout(False),
    F.feature_alpha_dropout: _alpha_dropout(True),
    F.scaled_dot_product_attention: _attention,
    F.gumbel_softmax: _gumbel_softmax,
    torch.rand: _rand("uniform"),
    torch.randn: _rand("normal"),
    torch.rand_like: _rand_like("uniform"),
    torch.randn_like: _rand_like("normal"),
    torch.randint: _randint,
    torch.randperm: _randperm,
    torch.bernoulli: _bernoulli,
    torch.Tensor.bernoulli: _bernoulli,
    torch.Tensor.bernoulli_: _bernoulli_,
    torch.Tensor.uniform_: _uniform_,
    torch.Tensor.normal_: _normal_,
    torch.normal: _normal,
    torch.Tensor.exponential_: _exponential_,
}
