"""How difficult examples are: given, computed from the data, or by a model's loss or margin."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.errors import DataError
from thalweg.layers.interface import Interface, Output
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched
from thalweg.randomness import streams
from thalweg.run.targets import class_numbers, suited_loss
from thalweg.settings.tables import one_of
from thalweg.stages.examples import example_blocks, given_examples
from thalweg.stages.weighting import example_losses

__all__ = ["as_difficulty", "difficulty_by", "difficulty_of", "fingerprint", "positions", "relative_ranks"]


def as_difficulty(values: Any, *, examples: int | None = None) -> Tensor:
    """Return a number for each example, the larger the more difficult, as float64 ``[N]``.

    Args:
        values: ``[N]`` or ``[N, 1]``: a tensor, an array, or a list of numbers.
        examples: how many there are, where that is known.

    Raises:
        DataError: not one number an example, one that isn't finite, or the same for all.

    >>> as_difficulty([3, 1, 2])
    tensor([3., 1., 2.], dtype=torch.float64)
    >>> as_difficulty([1.0, float("nan")])
    Traceback (most recent call last):
    thalweg.errors.DataError: the difficulty of example 1 is nan; give each example a finite number

    Source: P8 (N).
    """
    try:
        found = torch.as_tensor(np.asarray(values) if not isinstance(values, Tensor) else values)
        found = found.detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as problem:
        raise DataError(
            f"the difficulty is of type {type(values).__name__}; give a number for each example, as a "
            "tensor, an array or a list"
        ) from problem
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1:
        raise DataError(
            f"the difficulty has shape {list(found.shape)}, but must be one number for each example, [N]"
        )
    if examples is not None and len(found) != examples:
        raise DataError(
            f"there are {len(found)} difficulties for {examples} training examples; there must be one for "
            "each"
        )
    bad = (~found.isfinite()).nonzero()
    if len(bad):
        at = int(bad[0])
        raise DataError(
            f"the difficulty of example {at} is {float(found[at]):g}; give each example a finite number"
        )
    if len(found) < 2 or bool((found == found[0]).all()):
        shown = f" {float(found[0]):g}" if len(found) else " nothing"
        raise DataError(
            f"the difficulty of all {len(found)} examples is{shown}, so that none is easier than another; "
            "give numbers that differ, or train without a curriculum"
        )
    return found.clone()


def difficulty_by(function: Callable[[Any, Tensor], Any], data: Any, *, batch_size: int = 256) -> Tensor:
    """Compute a difficulty from the data: such as the length of each sequence.

    Args:
        function: from inputs ``[B, ...]`` and targets ``[B, ...]`` of some examples to a number for each.
        data: as for :func:`thalweg.fit`: ``(inputs, targets)``, a dictionary or a map-style Dataset.
        batch_size: how many at a time.

    Returns:
        float64 ``[N]``.

    Raises:
        DataError: as :func:`as_difficulty` and of data that come in batches.

    >>> padded = torch.tensor([[1, 2, 0], [3, 0, 0], [4, 5, 6]])
    >>> difficulty_by(lambda inputs, targets: (inputs != 0).sum(1), (padded, torch.zeros(3)))
    tensor([2., 1., 3.], dtype=torch.float64)

    Source: P8 (N): examples with longer-term dependencies are the more difficult.
    """
    examples = given_examples(data, "difficulties")
    found: list[Tensor] = []
    for inputs, targets in example_blocks(examples, batch_size):
        values = torch.as_tensor(np.asarray(part) if not isinstance(part := function(inputs, targets), Tensor)
                                 else part)  # fmt: skip
        if values.ndim == 0 or values.numel() != len(targets):
            name = getattr(function, "__name__", type(function).__name__)
            raise DataError(
                f"the function of difficulty {name!r} gives shape {list(values.shape)} for {len(targets)} "
                "examples; let it give one number for each"
            )
        found.append(values.detach().reshape(-1).to("cpu", torch.float64))
    return as_difficulty(torch.cat(found), examples=len(examples))


@torch.no_grad()
def difficulty_of(
    model: nn.Module,
    data: Any,
    *,
    loss: Any = "cross-entropy",
    by: Literal["loss", "margin"] = "loss",
    batch_size: int = 256,
    output: Output = None,
) -> Tensor:
    """Compute a difficulty by a model, such as one that a first short training has left.

    - ``"loss"``: the loss of the example alone.
    - ``"margin"``: how far the score of its class lies below the best other one, ``max_(c != y) z_c - z_y``;
      of a single logit z ``(1 - 2*y) * z``.

    The model evaluates, and is afterwards as it was, as all generators are. A first short training of a copy
    makes one that knows something::

        scored = copy.deepcopy(model)
        thalweg.fit(scored, data, "cross-entropy", "adam", epochs=1)
        stages = curriculum(difficulty_of(scored, data), epochs=20)

    Args:
        model: any module.
        data: as for :func:`thalweg.fit`: ``(inputs, targets)``, a dictionary or a map-style Dataset.
        loss: a name, or a function of outputs and targets, the mean or the sum over examples.
        by: see above.
        batch_size: how many examples at a time.
        output: as for :func:`thalweg.fit`.

    Returns:
        float64 ``[N]``.

    Raises:
        DataError: targets that are no class numbers, for margins; numbers that aren't finite, or all equal;
            data that come in batches.
        OptionError: an unknown loss, or one that isn't a mean or a sum over examples.
        ModelError: the model doesn't take the inputs.

    >>> model = nn.Linear(1, 2)
    >>> with torch.no_grad():
    ...     _ = model.weight.copy_(torch.tensor([[0.0], [1.0]])), model.bias.zero_()
    >>> x, y = torch.tensor([[2.0], [1.0], [-1.0]]), torch.tensor([1, 1, 1])
    >>> difficulty_of(model, (x, y), by="margin")
    tensor([-2., -1.,  1.], dtype=torch.float64)

    Source: P8 (K); Hacohen and Weinshall, On the power of curriculum learning in training deep networks,
    2019.
    """
    one_of("by", by, ("loss", "margin"))
    first = next(iter(model.parameters()), None)
    device = torch.device("cpu") if first is None else first.device
    examples = given_examples(data, "difficulties", device)
    suited = suited_loss(loss, {}) if by == "loss" else None
    interface, found = Interface(output), list[Tensor]()
    with untouched(model, parameters=False), interface.attached(model), evaluating(model):
        for inputs, targets in example_blocks(examples, batch_size):
            outputs = outputs_of(model, inputs)
            if suited is not None:
                found.append(example_losses(suited, outputs, targets).to("cpu", torch.float64))
            else:
                found.append(_below(interface.part(outputs, "the margin"), targets).to("cpu", torch.float64))
    return as_difficulty(torch.cat(found), examples=len(examples))


def _below(scores: Tensor, targets: Tensor) -> Tensor:
    """How far the class of each example lies below the best other one."""
    numbers: Tensor | None = class_numbers(targets)
    if numbers is None or scores.ndim not in (1, 2) or len(scores) != len(targets):
        raise DataError(
            f"outputs of shape {list(scores.shape)} and targets of shape {list(targets.shape)} have no "
            "margin, which is between scores of classes; take by='loss'"
        )
    scores = scores.double().reshape(len(scores), -1)
    if scores.shape[1] == 1:
        only: Tensor = (1 - 2 * numbers) * scores[:, 0]
        return only
    if int(numbers.min()) < 0 or int(numbers.max()) >= scores.shape[1]:
        raise DataError(
            f"the class numbers go from {int(numbers.min())} to {int(numbers.max())}, but the model has "
            f"{scores.shape[1]} outputs; number the classes from 0 to {scores.shape[1] - 1}"
        )
    others = scores.scatter(1, numbers[:, None], -math.inf).amax(1)
    below: Tensor = others - scores.gather(1, numbers[:, None])[:, 0]
    return below


def positions(difficulty: Tensor, seed: int) -> Tensor:
    """Return the place of each example from the easiest on, int64 ``[N]``; a seed orders equal ones.

    >>> positions(torch.tensor([0.3, 0.1, 0.2]), 0)
    tensor([2, 0, 1])
    """
    # examples may lie sorted by their class, so that the first of equal ones would be all of one
    shuffled = torch.from_numpy(
        streams.order(len(difficulty), seed=streams.seed32(seed, "difficulty"), epoch=0)
    )
    ordered = shuffled[torch.argsort(difficulty[shuffled], stable=True)]
    places = torch.empty_like(ordered)
    places[ordered] = torch.arange(len(ordered))
    return places


def relative_ranks(difficulty: Tensor) -> Tensor:
    """Return each example's rank, from 0 for the easiest to 1, float64 ``[N]``; equal ones share theirs.

    >>> relative_ranks(torch.tensor([5.0, 1.0, 1.0, 9.0, 2.0]))
    tensor([0.7500, 0.1250, 0.1250, 1.0000, 0.5000], dtype=torch.float64)
    """
    which: Tensor
    counts: Tensor
    _, which, counts = torch.unique(difficulty, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    middle: Tensor = ends - (counts.double() + 1) / 2
    return middle[which] / (len(difficulty) - 1)


def fingerprint(difficulty: Tensor) -> str:
    """Return a few letters by which a difficulty is told apart from another."""
    return hashlib.blake2b(difficulty.contiguous().numpy().tobytes(), digest_size=8).hexdigest()
