"""Temperature scaling: probabilities that are too sure, or not sure enough, put right by one number.

Training to a low loss leaves many networks surer than they are right. Dividing outputs by a temperature
before the softmax changes how sure they are and nothing else: the classes keep their order, and so
the accuracy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thalweg.errors import DataError, OptionError
from thalweg.secondorder.minimizing import minimize

__all__ = ["Temperature", "fit_temperature", "tempered"]


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """A temperature, and what it is worth on the examples that it was found on.

    Attributes:
        value: T, above 0; over 1 it makes predictions less sure.
        before, after: mean negative log-likelihood of these examples (natural logarithm) with T = 1 and T.
        examples: how many they were.
    """

    value: float
    before: float
    after: float
    examples: int

    def __call__(self, outputs: Tensor) -> Tensor:
        """Return outputs divided by the temperature, for softmax or sigmoid.

        >>> Temperature(value=2.0, before=1.0, after=0.5, examples=10)(torch.tensor([[4.0, 0.0]]))
        tensor([[2., 0.]])
        """
        return outputs / self.value


def fit_temperature(outputs: Tensor, targets: Tensor) -> Temperature:
    """Find the temperature under which outputs make given targets most likely.

    With outputs (logits) z_i and targets y_i::

        T = argmin_T  mean_i -log softmax(z_i / T)[y_i]

    and the sigmoid in place of the softmax for one logit. In ``1/T`` the loss is convex, so that there is one
    minimum; it is found by :func:`thalweg.secondorder.minimize` (L-BFGS, over ``log T``), in float64. Find it
    on validation data: on those that the weights were trained on, outputs are surer than they should be.

    Args:
        outputs: ``[N, C]``, or of one logit for the second of two classes ``[N]`` or ``[N, 1]``. Classes that
            an example can't have may be masked by minus infinity, its own excepted.
        targets: class numbers ``[N]``.

    Returns:
        The temperature; call it on outputs.

    Raises:
        OptionError: shapes that don't fit, class numbers that the outputs don't have.
        DataError: outputs that are NaN, infinite, or minus infinity for the class that came; or no
            temperature is the best: every example's class has the largest output, so that ever lower ones
            were better, the outputs don't tell the classes better than chance, so that ever higher ones were,
            or no example has two classes to choose from.

    >>> z = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    >>> found = fit_temperature(z, torch.tensor([0, 0, 1, 1]))  # sure of 98 %, right in 75 %
    >>> round(found.value, 4), round(found(z).softmax(1)[0, 0].item(), 4)
    (3.641, 0.75)

    Source: Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks".
    """
    z, y = _checked(outputs, targets)
    rows = torch.arange(len(z))
    right = z[rows, y]
    there = z.isfinite()
    if not bool((there.sum(1) > 1).any()):
        raise DataError(
            "no row has two classes to choose from, all others being -inf: any temperature is as good; give "
            "rows that have"
        )
    finite = z.masked_fill(~there, 0.0)
    # in b = 1/T the loss has the slope mean(E[z] - z_y), which rises from b = 0 to infinity
    if float((finite.sum(1) / there.sum(1) - right).mean()) >= 0:
        raise DataError(
            "the outputs don't tell the classes better than chance, so that ever higher temperatures were "
            "better; train the model first, or see that outputs and targets belong together"
        )
    if bool((right >= z.max(1).values).all()):
        raise DataError(
            f"every one of the {len(z)} examples has its own class as the largest output, so that ever lower "
            "temperatures were better; give more examples, some of which are predicted wrongly"
        )
    gaps = (z.max(1, keepdim=True).values - z)[there & (z < z.max(1, keepdim=True).values)].numpy()
    # outputs of the order of 1, whatever their size; masks may be finite, such as -1e9, and many
    scales = np.unique(np.quantile(gaps, (0.02, 0.1, 0.25, 0.5, 0.75, 1.0)))
    scale = min(scales, key=lambda scale: float(F.cross_entropy(z / scale, y)))

    def loss(logarithm: Tensor) -> Tensor:
        # what is masked has no slope, where 0 times infinity would be NaN
        outputs = (finite / scale * torch.exp(-logarithm)).masked_fill(~there, -math.inf)
        return F.cross_entropy(outputs, y)

    found = minimize(loss, torch.zeros((), dtype=torch.float64), tolerance=1e-9)
    value = float(found.x.exp()) * float(scale)
    return Temperature(
        value=value,
        before=float(F.cross_entropy(z, y)),
        after=float(F.cross_entropy(z / value, y)),
        examples=len(z),
    )


def tempered(probabilities: Tensor, value: float) -> Tensor:
    """Return probabilities as a temperature makes them of the outputs that they came of.

    ``p_k^(1/T) / sum_j p_j^(1/T)``, which is ``softmax(z / T)`` of ``p = softmax(z)``, and likewise for the
    sigmoid. Means over several models or draws, which come of no one output, are taken in the same way.

    Args:
        probabilities: ``[N, C]``, or of the second of two classes ``[N]`` or ``[N, 1]``.
        value: T, above 0.

    Raises:
        OptionError: T isn't a number above 0.

    >>> tempered(torch.tensor([[0.5, 0.25, 0.25]]), 0.5)
    tensor([[0.6667, 0.1667, 0.1667]], dtype=torch.float64)
    """
    if not 0 < value < math.inf:
        raise OptionError(f"a temperature is {value!r}, but must be above 0 and finite")
    p = probabilities.double()
    if p.ndim == 2 and p.shape[1] > 1:
        return (p.log() / value).softmax(1)
    return (torch.stack([1 - p, p]).log() / value).softmax(0)[1]


def _checked(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    z = outputs.detach().cpu().double()
    if z.ndim == 2 and z.shape[1] == 1:
        z = z[:, 0]
    if z.ndim == 1:
        # a logit of plus infinity leaves the second class alone, one of minus infinity the first
        sure = z == math.inf
        z = torch.stack([torch.where(sure, -math.inf, 0.0).to(z.dtype), z.masked_fill(sure, 0.0)], 1)
    y = targets.detach().cpu()
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if z.ndim != 2 or y.shape != z.shape[:1] or not len(z):
        raise OptionError(
            f"outputs of shape {list(outputs.shape)} don't go with targets of shape {list(targets.shape)}; "
            "give [N, C] or [N], and [N], with at least one example"
        )
    bad = z.isnan() | (z == math.inf)
    if bool(bad.any()):
        row = int(bad.any(1).nonzero()[0])
        raise DataError(f"the outputs of row {row} aren't finite; the model has diverged there")
    if y.is_floating_point() and not bool((y == y.round()).all()):
        raise OptionError("the targets are no class numbers; give whole numbers from 0 on")
    y = y.long()
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= z.shape[1]:
        raise OptionError(
            f"there is a class number {low if low < 0 else high}, but outputs of shape "
            f"{list(outputs.shape)} know the classes 0 to {z.shape[1] - 1}"
        )
    masked = (z[torch.arange(len(z)), y] == -math.inf).nonzero()
    if len(masked):
        row = int(masked[0])
        single = outputs.numel() == len(z)
        what = "inf for the other class" if single and not y[row] else f"-inf for its own class {int(y[row])}"
        raise DataError(
            f"row {row} has the output {what}, which no temperature makes possible; unmask that class, or "
            "leave the row out"
        )
    return z, y
