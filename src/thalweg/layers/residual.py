"""Skip connections around any module, and stochastic depth, which leaves the module out at random."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from thalweg.errors import ModelError, OptionError
from thalweg.layers.modes import evaluating, in_mode_of
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched

__all__ = [
    "Skip",
    "StochasticDepth",
    "drop_rates",
    "set_stochastic_depth",
    "skip_around",
    "stochastic_depth",
]


def stochastic_depth(
    branch: Tensor,
    rate: float,
    *,
    training: bool,
    per: Literal["batch", "example"] = "batch",
    inverted: bool = False,
) -> Tensor:
    """Drop what a residual branch gives, at random.

    While training ``b * branch``, where b is 0 with chance ``rate`` and otherwise 1; in evaluation its
    expectation, ``(1 - rate) * branch``. Inverted: ``b / (1 - rate) * branch``, and in evaluation the branch.

    Args:
        branch: ``[B, *]``, what is added to the shortcut.
        rate: in ``[0, 1)``.
        per: one draw for the batch, as in the paper, or one for each example.

    Raises:
        OptionError: a rate outside of ``[0, 1)``.

    >>> stochastic_depth(torch.ones(2, 3), 0.25, training=False)[0].tolist()
    [0.75, 0.75, 0.75]

    Source: A8 (S); Huang, Sun, Liu, Sedra and Weinberger 2016.
    """
    _check_rate(rate)
    if rate == 0:
        return branch
    if not training:
        return branch if inverted else (1 - rate) * branch
    shape = () if per == "batch" else (len(branch), *(1 for _ in branch.shape[1:]))
    survives = torch.rand(shape, device=branch.device, dtype=torch.float32) >= rate
    kept = torch.where(survives, branch, torch.zeros_like(branch))
    return kept / (1 - rate) if inverted else kept


class StochasticDepth(nn.Module):
    """:func:`stochastic_depth` as a layer, to stand at the end of a residual branch.

    Args:
        rate: chance that the branch is dropped, in ``[0, 1)``.
        per: ``"batch"`` or ``"example"``.
        inverted: whether to scale while training instead of in evaluation.
        saves_work: for :class:`Skip`: a dropped branch isn't computed, so that training is faster. The draw
            is then looked at by the host, which waits for the device; not under ``vmap``, nor per example.

    Raises:
        OptionError: a value that isn't allowed.

    Source: A8 (S); Huang et al. 2016.
    """

    def __init__(
        self,
        rate: float,
        *,
        per: Literal["batch", "example"] = "batch",
        inverted: bool = False,
        saves_work: bool = False,
    ) -> None:
        super().__init__()
        _check_rate(rate)
        if per not in ("batch", "example"):
            raise OptionError(f"per = {per!r} isn't known: 'batch' and 'example' are")
        if saves_work and per == "example":
            raise OptionError(
                "saves_work needs per = 'batch': a batch with some examples dropped is computed"
            )
        self.rate, self.per, self.inverted, self.saves_work = rate, per, inverted, saves_work

    def forward(self, branch: Tensor) -> Tensor:
        """Drop or keep ``[B, *]``."""
        return stochastic_depth(
            branch, self.rate, training=self.training, per=self.per, inverted=self.inverted
        )

    def extra_repr(self) -> str:
        """Say what the layer is set to."""
        return f"rate={self.rate:g}, per={self.per!r}, inverted={self.inverted}"


class Skip(nn.Module):
    """A skip connection: ``shortcut(x) + drop(body(x))``.

    Args:
        body: any module of one tensor.
        shortcut: what brings x to the shape of the body's output; by default x itself.
        drop: stochastic depth of the branch.

    Raises:
        ModelError: when called, where the two shapes differ.

    >>> Skip(nn.Linear(4, 4))(torch.zeros(2, 4)).shape
    torch.Size([2, 4])

    Source: D3 (N, K); He, Zhang, Ren and Sun 2016.
    """

    def __init__(
        self, body: nn.Module, shortcut: nn.Module | None = None, drop: StochasticDepth | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the shortcut."""
        straight: Tensor = self.shortcut(x)
        drop = self.drop
        if drop is not None and drop.saves_work and drop.training and drop.rate > 0:
            if bool(torch.rand((), device=x.device, dtype=torch.float32) < drop.rate):
                return straight
            branch = self.body(x)
            branch = branch / (1 - drop.rate) if drop.inverted else branch
        else:
            branch = self.body(x)
            branch = branch if drop is None else drop(branch)
        if branch.shape != straight.shape:
            raise ModelError(
                f"a skip connection can't add {list(straight.shape)} to {list(branch.shape)}: make it by "
                "skip_around, which finds a projection"
            )
        added: Tensor = straight + branch
        return added


def skip_around(body: nn.Module, example: Tensor, *, drop: StochasticDepth | None = None) -> Skip:
    """Put a skip connection around a module, with a projection where its output has another shape.

    Around convolutions the projection is a 1x1 convolution without bias, with the stride that gives the same
    size; otherwise a linear layer without bias on the last axis.

    Args:
        body: any module of one tensor.
        example: a batch of its inputs; the body is run on it once, in evaluation mode.
        drop: stochastic depth of the branch.

    Raises:
        ModelError: no projection leads to the output's shape.

    >>> skip_around(nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.zeros(1, 3, 9, 9)).shortcut
    Conv2d(3, 8, kernel_size=(1, 1), stride=(2, 2), bias=False)

    Source: D3 (N, K); He et al. 2016, option B.
    """
    with untouched(body, parameters=False), evaluating(body), torch.no_grad():
        output = outputs_of(body, example)
    if output.shape == example.shape:
        return Skip(body, drop=drop)
    place: dict[str, Any] = {"device": example.device, "dtype": example.dtype}
    before, after = example.shape, output.shape
    if any(isinstance(module, _ConvNd) for module in body.modules()):
        shortcut = _convolution(before, after, place)
    elif before[:-1] == after[:-1]:
        shortcut = nn.Linear(before[-1], after[-1], bias=False, **place)
    else:
        shortcut = None
    if shortcut is None:
        raise ModelError(
            f"no projection leads from {list(before)} to {list(after)}: give a shortcut of your own"
        )
    return Skip(body, shortcut, drop)


def _convolution(before: torch.Size, after: torch.Size, place: dict[str, Any]) -> nn.Module | None:
    kinds: dict[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    if len(before) != len(after) or len(before) not in kinds or before[0] != after[0]:
        return None
    strides = []
    for size, wanted in zip(before[2:], after[2:], strict=True):
        # the strides of a 1x1 convolution that give this size are those with ceil(size / stride) == wanted
        stride = -(-size // wanted) if wanted else 0
        if stride == 0 or -(-size // stride) != wanted:
            return None
        strides.append(stride)
    return kinds[len(before)](before[1], after[1], 1, stride=tuple(strides), bias=False, **place)


def drop_rates(depth: int, rate: float, rule: Literal["linear", "constant"] = "linear") -> tuple[float, ...]:
    """Compute the drop rates of residual blocks in order.

    Linear: ``rate * l / depth`` for block l = 1 .. depth, since early blocks are needed by all; constant:
    ``rate``.

    Args:
        depth: number of blocks.
        rate: of the last one, in ``[0, 1)``.

    Raises:
        OptionError: another rule, or a rate outside of ``[0, 1)``.

    >>> drop_rates(4, 0.5)
    (0.125, 0.25, 0.375, 0.5)

    Source: A8 (S); Huang et al. 2016.
    """
    _check_rate(rate)
    if rule not in ("linear", "constant"):
        raise OptionError(f"rule = {rule!r} isn't known: 'linear' and 'constant' are")
    return tuple(rate * (block / depth if rule == "linear" else 1) for block in range(1, depth + 1))


def set_stochastic_depth(
    model: nn.Module, rate: float, rule: Literal["linear", "constant"] = "linear"
) -> dict[str, float]:
    """Give all of a model's residual blocks their drop rates, in the order in which it holds them.

    Blocks are :class:`Skip` modules, which get stochastic depth where they haven't, and
    :class:`StochasticDepth` layers elsewhere.

    Args:
        model: any.
        rate: of the last block, in ``[0, 1)``.
        rule: as of :func:`drop_rates`.

    Returns:
        Name of each block to its rate.

    Raises:
        OptionError: as :func:`drop_rates`.
        ModelError: the model has no such blocks.

    >>> blocks = nn.Sequential(*(Skip(nn.Linear(2, 2)) for _ in range(2)))
    >>> set_stochastic_depth(blocks, 0.4)
    {'0': 0.2, '1': 0.4}
    """
    blocks: dict[str, StochasticDepth] = {}
    inside: set[StochasticDepth] = set()
    for name, module in model.named_modules():
        if isinstance(module, Skip):
            if module.drop is None:
                module.drop = in_mode_of(StochasticDepth(0.0), module)
            inside.add(module.drop)
            blocks[name] = module.drop
        elif isinstance(module, StochasticDepth) and module not in inside:
            blocks[name] = module
    if not blocks:
        raise ModelError(
            "there are no residual blocks: put Skip around modules, or StochasticDepth into branches"
        )
    rates = dict(zip(blocks, drop_rates(len(blocks), rate, rule), strict=True))
    for name, block in blocks.items():
        block.rate = rates[name]
    return rates


def _check_rate(rate: float) -> None:
    if not 0 <= rate < 1:
        raise OptionError(f"rate = {rate} isn't allowed: the chance to be dropped lies in [0, 1)")
