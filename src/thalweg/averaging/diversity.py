"""How much the members of an ensemble differ, and what that is worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.errors import OptionError

__all__ = ["Ambiguity", "ambiguity", "disagreement"]


def disagreement(predictions: Tensor) -> Tensor:
    """Return which share of examples pairs of members predict differently, ``D_ab = mean_i [c_ai != c_bi]``.

    Args:
        predictions: class numbers ``[M, N]``, of M members.

    Returns:
        float64 ``[M, M]``, symmetric, with zeros on the diagonal.

    Raises:
        OptionError: another shape, or no examples.

    >>> disagreement(torch.tensor([[0, 1, 2, 2], [0, 1, 2, 0]])).tolist()
    [[0.0, 0.25], [0.25, 0.0]]

    Source: A2 (S); Kuncheva and Whitaker 2003.
    """
    if predictions.ndim != 2 or not predictions.shape[1]:
        raise OptionError(
            f"predictions have the shape {list(predictions.shape)}; give class numbers [members, examples]"
        )
    # member by member: all pairs of all examples at once would be M times the memory
    return torch.stack([(predictions != one).double().mean(1) for one in predictions])


@dataclass(frozen=True)
class Ambiguity:
    """The squared error of an ensemble, ``ensemble = member - ambiguity``.

    Attributes:
        member: mean squared error of the members, on average.
        ambiguity: mean square of the members' distance from their mean.
        ensemble: mean squared error of their mean.
    """

    member: float
    ambiguity: float
    ensemble: float


def ambiguity(predictions: Tensor, targets: Tensor) -> Ambiguity:
    """Take the squared error of an ensemble's mean apart: what its members err, less what they differ.

    With ``f = mean_m f_m``, and squares summed over the trailing axes::

        mean_i (f_i - y_i)^2 = mean_m mean_i (f_mi - y_i)^2 - mean_m mean_i (f_mi - f_i)^2

    exactly. An ensemble is never worse than its members on average, and better by as much as they disagree.
    Of probabilities and one-hot targets it is the Brier score that is taken apart.

    Args:
        predictions: ``[M, N]`` or ``[M, N, *]``.
        targets: ``[N]`` or ``[N, *]``.

    Raises:
        OptionError: shapes that don't fit.

    >>> ambiguity(torch.tensor([[0.0], [2.0]]), torch.tensor([2.0]))
    Ambiguity(member=2.0, ambiguity=1.0, ensemble=1.0)

    Source: A2 (S); Krogh and Vedelsby 1995.
    """
    if predictions.ndim < 2 or predictions.shape[1:] != targets.shape or not predictions.numel():
        raise OptionError(
            f"predictions of shape {list(predictions.shape)} don't go with targets of shape "
            f"{list(targets.shape)}; give [members, *] and [*]"
        )
    goal = targets.detach().double().reshape(len(targets), -1)
    each = predictions.detach().double().reshape(len(predictions), *goal.shape)
    mean = each.mean(0)

    def error(distance: Tensor) -> float:
        return float(distance.square().sum(-1).mean())

    return Ambiguity(error(each - goal), error(each - mean), error(mean - goal))
