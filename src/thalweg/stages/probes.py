"""Linear probes at every depth of a model, how new data look to it, and how much more data would help."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import DataError, OptionError
from thalweg.layers.interface import Interface
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched
from thalweg.randomness import streams
from thalweg.stages.blocks import Chain, find_blocks
from thalweg.stages.calls import first_input
from thalweg.stages.examples import example_blocks, given_examples
from thalweg.stages.linear_probes import (
    PENALTIES,
    Estimate,
    FeatureProbe,
    difference,
    is_classes,
    probe_features,
    score_of,
)
from thalweg.stages.prefixed import head_for
from thalweg.stages.taps import inner_module

__all__ = [
    "BlockFeatures",
    "DomainError",
    "PartScore",
    "Probes",
    "domain_errors",
    "features_of_blocks",
    "probe_blocks",
    "probe_parts",
]


# Features ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BlockFeatures:
    """What each block of a model gives for examples, one row an example.

    Args:
        names: of the blocks.
        values: for each block float32 or float64 ``[N, D]``, on the CPU.
        targets: of the examples, on the CPU.
    """

    names: tuple[str, ...]
    values: tuple[Tensor, ...]
    targets: Tensor

    def at(self, places: Tensor) -> BlockFeatures:
        """Return the features of some of the examples."""
        return BlockFeatures(self.names, tuple(each[places] for each in self.values), self.targets[places])


class _KeepsPooled:
    """A hook before a module that keeps its first input, pooled."""

    def __init__(self, pool: nn.Module) -> None:
        self.pool = pool
        self.value: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        value = first_input(args, kwargs)
        # at once, since what runs after it may overwrite it in place
        self.value = self.pool(value).detach().to("cpu", copy=True)


@contextmanager
def _kept(model: nn.Module, chain: Chain) -> Iterator[list[_KeepsPooled]]:
    keeps, handles = [], []
    for block, end in zip(chain.blocks, chain.ends, strict=True):
        pool = head_for(block.outputs, 1, channels_first=block.channels_first)[:-1]
        keep = _KeepsPooled(pool)
        keeps.append(keep)
        module = inner_module(model, end, "a probe")
        handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        yield keeps
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def features_of_blocks(
    model: nn.Module, data: Any, *, blocks: Sequence[str] | None = None, batch_size: int = 256
) -> BlockFeatures:
    """Compute what each block of a model gives, in evaluation mode and brought to one row an example.

    Of images it is the mean over the image, of tokens that over tokens, as
    :func:`thalweg.stages.prefixed.head_for` has it. The model is afterwards as it was.

    Args:
        model: any with a chain of blocks: see :func:`thalweg.stages.blocks.find_blocks`.
        data: as for :func:`thalweg.fit`: ``(inputs, targets)``, a dictionary or a map-style Dataset.
        blocks: names of the modules that blocks begin with, in order; ``None``: found.
        batch_size: how many examples at a time.

    Raises:
        ModelError: there is no chain of blocks, or the model doesn't take the inputs.
        DataError: data that come in batches, or fewer than two examples.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> found = features_of_blocks(model, (torch.ones(5, 4), torch.zeros(5)))
    >>> [(name, list(each.shape)) for name, each in zip(found.names, found.values)]
    [('0', [5, 3])]
    """
    first = next(iter(model.parameters()), None)
    examples = given_examples(data, "features", torch.device("cpu") if first is None else first.device)
    if len(examples) < 2:
        raise DataError(f"features were asked of {len(examples)} example; give at least two")
    some, _ = examples.batch(torch.arange(2))
    chain = find_blocks(model, some, blocks)
    found: list[list[Tensor]] = [[] for _ in chain.blocks]
    targets: list[Tensor] = []
    with (
        untouched(model, parameters=False),
        Interface(own=("probes",)).attached(model),
        evaluating(model),
        _kept(model, chain) as keeps,
    ):
        for inputs, wanted in example_blocks(examples, batch_size):
            outputs_of(model, inputs)
            for keep, list_ in zip(keeps, found, strict=True):
                assert keep.value is not None
                list_.append(keep.value)
            targets.append(wanted.detach().cpu())
    names = tuple(block.name for block in chain.blocks)
    return BlockFeatures(names, tuple(torch.cat(each) for each in found), torch.cat(targets))


# Probes at every depth -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probes:
    """How well a linear map does on the features of each block.

    Args:
        names: of the blocks.
        probes: of each.
        features: how many each gives.
    """

    names: tuple[str, ...]
    probes: tuple[FeatureProbe, ...]
    features: tuple[int, ...]

    @property
    def best(self) -> int:
        """The number of the block, from 1, whose features do best on validation; of equal ones the last."""
        errors = [float(each.errors.mean()) for each in self.probes]
        return max(number for number, error in enumerate(errors, 1) if error == min(errors))

    @property
    def tied(self) -> tuple[int, ...]:
        """The blocks that the best one isn't better than for certain, itself among them."""
        best = self.probes[self.best - 1].errors
        return tuple(
            number
            for number, each in enumerate(self.probes, 1)
            if number == self.best or difference(each.errors, best).low <= 0
        )

    def __repr__(self) -> str:
        lines = [
            f"{number} {name!r} ({size} features): {probe.score!r}, penalty {probe.penalty:g}"
            for number, (name, size, probe) in enumerate(
                zip(self.names, self.features, self.probes, strict=True), 1
            )
        ]
        tied = ", ".join(map(str, self.tied))
        return "\n".join(["Probes", *lines, f"best {self.best}, not told apart: {tied}"])


def probe_blocks(
    model: nn.Module | BlockFeatures,
    data: Any,
    validation: Any,
    *,
    blocks: Sequence[str] | None = None,
    penalties: Sequence[float] = PENALTIES,
    outputs: int | None = None,
    batch_size: int = 256,
) -> Probes:
    """Fit a linear map to the features of each block, and score it on validation.

    Logistic regression for class numbers, ridge regression for numbers: see
    :func:`thalweg.stages.linear_probes.probe_features`. Scores of two blocks are compared example by example.

    Args:
        model: any with a chain of blocks.
        data, validation: as for :func:`thalweg.fit`: ``(inputs, targets)``, a dictionary, a map-style
            Dataset; or what :func:`features_of_blocks` gave for them.
        blocks, batch_size: as for :func:`features_of_blocks`.
        penalties: that are tried, see :func:`thalweg.stages.linear_probes.fit_linear`.
        outputs: how many classes; ``None``: up to the largest class number.

    Raises:
        ModelError, DataError: as :func:`features_of_blocks`.

    >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> found = probe_blocks(model, (x, (x[:, 0] > 0).long()), (x, (x[:, 0] > 0).long()))
    >>> found.names, len(found.probes)
    (('0', '2'), 2)

    Source: P4 (S): a linear classifier on different stages; Alain and Bengio 2016.
    """
    train, there = (
        each
        if isinstance(each, BlockFeatures)
        else features_of_blocks(_module(model), each, blocks=blocks, batch_size=batch_size)
        for each in (data, validation)
    )
    if outputs is None and is_classes(train.targets):
        outputs = int(max(train.targets.max(), there.targets.max())) + 1
    probes = tuple(
        probe_features(x, train.targets, (y, there.targets), penalties=penalties, outputs=outputs)
        for x, y in zip(train.values, there.values, strict=True)
    )
    return Probes(train.names, probes, tuple(each.shape[1] for each in train.values))


def _module(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"the model is of type {type(model).__name__}, not a torch.nn.Module; give a module"
        )
    return model


# How much data there is ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PartScore:
    """What a probe makes of a part of the training examples.

    Attributes:
        examples: in the part.
        draws: parts of that size that were tried.
        score: mean over them; the interval is of validation examples and of draws.
        errors: of each validation example, the mean over draws.
    """

    examples: int
    draws: int
    score: Estimate
    errors: Tensor


def probe_parts(
    features: Tensor,
    targets: Tensor,
    validation: tuple[Tensor, Tensor],
    *,
    parts: Sequence[float] = (0.125, 0.25, 0.5, 1.0),
    draws: int = 3,
    penalties: Sequence[float] = PENALTIES,
    outputs: int | None = None,
    seed: int = 0,
) -> list[PartScore]:
    """Compute a learning curve: how well a linear map does that is fitted to parts of the examples.

    Classes keep their shares in a part, as nearly as can be, with one example at least.

    Args:
        features, targets, validation, penalties, outputs: as for
            :func:`thalweg.stages.linear_probes.probe_features`.
        parts: in (0, 1], in rising order.
        draws: of each part but the whole.
        seed: of the parts.

    Raises:
        OptionError: a part out of range.

    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> y = (x[:, 0] > 0).long()
    >>> [point.examples for point in probe_parts(x, y, (x, y))]
    [8, 16, 32, 64]
    """
    classes = is_classes(targets)
    if outputs is None and classes:
        outputs = int(max(targets.max(), validation[1].max())) + 1
    found = []
    for part in parts:
        if not 0 < part <= 1:
            raise OptionError(f"a part is {part!r} of the examples, but must be above 0 and at most 1")
        errors, sizes = [], []
        for draw in range(1 if part == 1 else draws):
            places = _part(targets, part, streams.seed32(seed, "part", draw))
            probe = probe_features(
                features[places], targets[places], validation, penalties=penalties, outputs=outputs
            )
            errors.append(probe.errors)
            sizes.append(len(places))
        each = torch.stack(errors)
        score = score_of(each.mean(0), classes=False) if len(each) > 1 else score_of(each[0], classes=classes)
        if len(each) > 1:
            among = float(each.mean(1).var()) / len(each)
            half = math.sqrt(((score.high - score.low) / 2) ** 2 + 1.96**2 * among)
            score = Estimate(score.value, score.value - half, score.value + half)
        found.append(PartScore(examples=sizes[0], draws=len(each), score=score, errors=each.mean(0)))
    return found


def _part(targets: Tensor, part: float, seed: int) -> Tensor:
    """Places of a part of the examples, in order; of each class its share."""
    if part == 1:
        return torch.arange(len(targets))
    order = torch.from_numpy(streams.order(len(targets), seed=seed, epoch=0))
    if not is_classes(targets):
        return order[: max(round(part * len(targets)), 2)].sort().values
    chosen = []
    for label in torch.unique(targets):
        mine = order[targets[order] == label]
        chosen.append(mine[: max(round(part * len(mine)), 1)])
    return torch.cat(chosen).sort().values


# How similar the data are --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DomainError:
    """How well two sets of examples can be told apart by the features of a block.

    Attributes:
        error: of a linear classifier on examples that it wasn't fitted to: 0.5 where nothing tells them
            apart, 0 where all does.
        distance: ``2 * (1 - 2 * error)``, from 0 to 2.
    """

    error: Estimate
    distance: float


def domain_errors(
    one: BlockFeatures, other: BlockFeatures, *, penalties: Sequence[float] = PENALTIES, seed: int = 0
) -> list[DomainError]:
    """Compute how far two data sets lie apart in the features of each block.

    A linear classifier is fitted to tell which set an example is of, on half of the examples, as many of
    each set, and judged on the others. Unlike a Frechet distance of means and covariances its error doesn't
    depend on units and number of features, is not biased with few examples, and has an interval.

    Args:
        one, other: features of both by the same model.
        penalties: as for :func:`thalweg.stages.linear_probes.fit_linear`.
        seed: of the halves.

    Raises:
        DataError: fewer than four examples of a set.

    >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    >>> near, far = (BlockFeatures(("0",), (x[200:] + shift,), torch.zeros(200)) for shift in (0.0, 9.0))
    >>> here = BlockFeatures(("0",), (x[:200],), torch.zeros(200))
    >>> [round(domain_errors(here, each)[0].distance) for each in (near, far)]
    [0, 2]

    Source: P4 (S): very similar and very different data; Ben-David et al., Analysis of representations for
    domain adaptation, 2006 (the proxy A-distance).
    """
    count = min(len(one.targets), len(other.targets))
    if count < 4:
        raise DataError(f"there are {count} examples of one of the sets; give at least 4")
    chosen = [
        each.at(torch.from_numpy(streams.order(len(each.targets), seed=seed, epoch=number))[:count])
        for number, each in enumerate((one, other))
    ]
    half = count // 2
    labels = torch.tensor([0, 1]).repeat_interleave(half)
    there = torch.tensor([0, 1]).repeat_interleave(count - half)
    found = []
    for a, b in zip(chosen[0].values, chosen[1].values, strict=True):
        probe = probe_features(
            torch.cat([a[:half], b[:half]]), labels, (torch.cat([a[half:], b[half:]]), there),
            penalties=penalties, outputs=2,
        )  # fmt: skip
        error = Estimate(1 - probe.score.value, 1 - probe.score.high, 1 - probe.score.low)
        found.append(DomainError(error=error, distance=2 * (1 - 2 * min(error.value, 0.5))))
    return found
