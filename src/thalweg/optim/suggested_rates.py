"""Learning rates that a first-order prediction suggests, and why they are only suggestions.

Along ``-e * g`` the first-order prediction of a decrease is ``e * g'g``. In a deep network the change of all
layers at once adds terms of every higher order, which the prediction doesn't see: of a chain of units
``x * w1 * .. * wl`` it is wrong by any factor where the product, and so the gradient, is small.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.optim.clipping import total_norm

__all__ = ["first_order_rate", "polyak_rate"]


@torch.no_grad()
def first_order_rate(gradients: Iterable[Tensor], decrease: float = 0.1) -> Tensor:
    """Compute the rate at which a step down the gradient is predicted to give a decrease: ``decrease / g'g``.

    Args:
        gradients: of the function that is to decrease, in the texts the network's output; may be sharded.
        decrease: positive.

    Returns:
        Tensor ``[]``; 0 where the gradient is 0, since no rate gives a decrease there.

    Raises:
        OptionError: a decrease that isn't positive.

    >>> first_order_rate([torch.tensor([1.0, 2.0])])
    tensor(0.0200)

    Source: R8 (N, U).
    """
    if not 0 < decrease < math.inf:
        raise OptionError(f"decrease = {decrease} isn't allowed: give a positive number")
    return _over_square(decrease, total_norm(gradients))


@torch.no_grad()
def polyak_rate(
    loss: Tensor | float, gradients: Iterable[Tensor], *, lowest: float = 0.0, largest: float = math.inf
) -> Tensor:
    """Compute Polyak's step for a loss: ``min((L - lowest) / g'g, largest)``.

    The rate of the first-order prediction, where what is wanted is the whole decrease to the lowest loss. For
    convex losses the distance to the solution then never grows.

    Args:
        loss: L.
        gradients: of the loss; may be sharded.
        lowest: the lowest loss there is, or a bound below it: 0 for networks that can fit their data.
        largest: bound on the rate, for losses of minibatches.

    Returns:
        Tensor ``[]``, not negative; 0 where the gradient is 0 or the loss isn't above ``lowest``.

    Raises:
        OptionError: ``largest`` isn't positive, or ``lowest`` isn't finite.

    >>> polyak_rate(2.0, [torch.tensor([2.0])])
    tensor(0.5000)

    Source: R8 as corrected; Polyak 1987; Loizou, Vaswani, Laradji and Lacoste-Julien 2021 for ``largest``.
    """
    if not largest > 0 or not math.isfinite(lowest):
        raise OptionError(
            f"largest = {largest} and lowest = {lowest} aren't allowed: give a positive and a finite number"
        )
    norm = total_norm(gradients)
    gap = torch.as_tensor(loss, dtype=norm.dtype, device=norm.device).detach() - lowest
    return _over_square(gap.clamp(min=0.0), norm).clamp(max=largest)


def _over_square(wanted: Tensor | float, norm: Tensor) -> Tensor:
    # two divisions, since the square may overflow where the quotient doesn't
    return torch.where(norm == 0, torch.zeros_like(norm), wanted / norm / norm)
