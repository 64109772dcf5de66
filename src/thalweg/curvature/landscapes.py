"""The loss around a point, and between two points: what a picture of it shows and what it doesn't.

A picture shows two directions, or one, of as many as there are parameters. Valleys in it are real; that a
direction isn't there says nothing. Two pictures compare where their axes have the same unit, which
filter-normalized directions give.

Source: INDEX X3, X4, X9. Goodfellow, Vinyals and Saxe, Qualitatively characterizing neural network
optimization problems, 2015; Li, Xu, Taylor, Studer and Goldstein, Visualizing the loss landscape of neural
nets, 2018; Izmailov et al., Averaging weights leads to wider optima, 2018 (batch norm).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from thalweg.curvature.places import Measure, Places, place_of
from thalweg.curvature.vectors import Vector
from thalweg.errors import OptionError
from thalweg.objectives import Loss
from thalweg.randomness import streams
from thalweg.settings.tables import whole_number

__all__ = ["NORM_NOTES", "Interpolation", "LossSurface", "filter_normalized", "interpolation", "loss_surface"]

Floats = npt.NDArray[np.float64]

NORM_NOTES = {
    "none": "",
    "batch": "batch norm goes by the statistics of each batch, as in training",
    "estimated": "batch norm's running statistics are estimated anew at each point, over all batches",
    "kept": "batch norm keeps the running statistics that the model has, at each point",
    "interpolated": "batch norm's running statistics lie on the straight line, too",
}


@dataclass(frozen=True, kw_only=True)
class LossSurface:
    """The loss on a plane through a point.

    Attributes:
        first, second: coordinates along the two directions, ``[a]`` and ``[b]``. Of filter-normalized
            directions at 1 each filter has moved by as much as it is long; of a person's own it is a whole
            direction.
        losses: ``[b, a]``, infinite or NaN where they are.
        scores: of the metric, likewise; NaN without one.
        centre: the loss at the point itself, ``(0, 0)``.
        normalized: whether the directions are filter-normalized.
        statistics: of batch norm: ``"none"`` where there is no such layer, ``"batch"``, ``"estimated"`` or
            ``"kept"``.
        passes: forward passes over all batches that it took.
    """

    first: Floats = field(repr=False)
    second: Floats = field(repr=False)
    losses: Floats = field(repr=False)
    scores: Floats = field(repr=False)
    centre: float
    normalized: bool
    statistics: str
    passes: int

    @property
    def unit(self) -> str:
        """What 1 on an axis is, in words."""
        if self.normalized:
            return "1 is a step in which each filter moves by its own length, in a random direction"
        return "1 is the whole direction that was given"

    @property
    def note(self) -> str:
        """What is to be known of batch norm; ``""``: nothing."""
        return NORM_NOTES[self.statistics]


@dataclass(frozen=True, kw_only=True)
class Interpolation:
    """The loss on the straight line through two points.

    Attributes:
        at: ``[m]``; 0 is the first point, 1 the second.
        losses: there.
        scores: of the metric; NaN without one.
        distance: from the first point to the second, Euclidean, over all parameters.
        statistics: of batch norm, as for :class:`LossSurface`; or ``"interpolated"``.
        passes: forward passes over all batches that it took.
    """

    at: Floats = field(repr=False)
    losses: Floats = field(repr=False)
    scores: Floats = field(repr=False)
    distance: float
    statistics: str
    passes: int

    @property
    def barrier(self) -> float:
        """How far the loss between the ends rises over the straight line between those of the ends, at most.

        0 where it never does. It is measured where the loss is: a narrow barrier may lie between.
        """
        inside = (self.at >= 0) & (self.at <= 1)
        at, losses = self.at[inside], self.losses[inside]
        chord = (1 - at) * losses[0] + at * losses[-1]
        return max(0.0, float(np.max(losses - chord)))

    @property
    def unit(self) -> str:
        """What 1 on the axis is, in words."""
        return f"0 is the first point, 1 the second, at a distance of {self.distance:.3g}"

    @property
    def note(self) -> str:
        """What is to be known of batch norm; ``""``: nothing."""
        return NORM_NOTES[self.statistics]


def filter_normalized(direction: Vector, weights: Vector, axes: Sequence[int] | None = None) -> Vector:
    """Scale each filter of a direction to the length of the same filter of the weights.

    With ``w_i`` the filter i of a weight and ``d_i`` that of the direction, ``d_i`` becomes
    ``d_i |w_i| / |d_i|`` (Frobenius norms). So a step is as large, relative to what it changes, in all layers
    and networks: with batch norm, or along a chain of relu, longer filters compute the same.

    A filter is all that leads to one output: a row of a matrix, a kernel with all its input channels. Of
    tensors with one axis or none, biases and the scales and shifts of batch norm, the direction becomes zero,
    as in the paper's code; a filter of zeros doesn't move.

    Args:
        direction, weights: tensors of the same shapes.
        axes: of each tensor, the axis along which its filters lie; None: the first.

    >>> weights = [torch.tensor([[0.0, 10.0]]), torch.ones(1)]
    >>> [d.tolist() for d in filter_normalized([torch.tensor([[3.0, 4.0]]), torch.ones(1)], weights)]
    [[[6.0, 8.0]], [0.0]]

    Source: Li et al. 2018, section 4.
    """
    found = []
    for place, (d, w) in enumerate(zip(direction, weights, strict=True)):
        if d.ndim < 2:
            found.append(torch.zeros_like(d))
            continue
        axis = 0 if axes is None else axes[place]
        others = [each for each in range(d.ndim) if each != axis]
        own = d.square().sum(others, keepdim=True).sqrt()
        goal = w.square().sum(others, keepdim=True).sqrt()
        found.append(d * torch.where(own > 0, goal / own.clamp(min=torch.finfo(own.dtype).tiny), 0 * own))
    return found


def loss_surface(
    model: nn.Module,
    loss: str | Callable[[Any, Any], Any] | Loss,
    batches: Iterable[Any],
    *,
    directions: tuple[Any, Any] | None = None,
    metric: Measure | None = None,
    span: float = 1.0,
    points: int = 25,
    statistics: str = "estimated",
    parameters: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> LossSurface:
    """Compute the loss on a plane through the point where a model is.

    ``L(x + a d1 + b d2)`` for a and b from ``-span`` to ``span``, with d1 and d2 drawn from a normal
    distribution and filter-normalized (:func:`filter_normalized`). In many dimensions two random directions
    are nearly orthogonal. The model is afterwards as it was.

    Args:
        model, loss, batches, parameters: as for :class:`Hessian`. The model is called in its mode: put it
            into evaluation mode for the loss that it has then.
        directions: two of a person's own, in any form that :class:`Hessian` takes, which aren't normalized:
            eigenvectors, steps. None: random ones.
        metric: of all outputs and targets, computed beside the loss; None: none.
        span: how far, above 0.
        points: along each axis, at least 2; of an odd number the middle one is the model's own.
        statistics: of batch norm in evaluation mode. ``"estimated"``: anew at each point over these batches,
            at the cost of one more pass; ``"kept"``: those of the centre, which belong to no other point, so
            that the loss rises more steeply for want of them alone.
        seed: of the random directions.
        progress: told the share that is done.

    Returns:
        A surface; it takes ``points**2`` losses over all batches.

    Raises:
        OptionError: an argument out of range.
        DataError: there is no batch.

    >>> model = nn.Linear(1, 1, bias=False).double()
    >>> one = torch.ones(1, 1).double()
    >>> _ = nn.init.constant_(model.weight, 2.0)
    >>> found = loss_surface(model, "mse", (one, 0 * one), directions=([one], [2 * one]), points=3)
    >>> found.losses.tolist()  # (2 + a + 2 b)^2
    [[1.0, 0.0, 1.0], [1.0, 4.0, 9.0], [9.0, 16.0, 25.0]]

    Source: Li et al. 2018. Deviation: they keep the statistics of batch norm.
    """
    points = whole_number("points", points, least=2)
    if not (0 < span < math.inf):
        raise OptionError(f"loss_surface: span is {span}; give a number above 0")
    places = Places(model, loss, batches, measure=metric, statistics=statistics, parameters=parameters)
    vectors = places.vectors
    home = {name: p.detach().clone() for name, p in vectors.parameters.items()}
    if directions is None:
        axes = _filter_axes(places.model, list(vectors.parameters))
        first, second = (
            filter_normalized(_drawn(places, seed, number), list(home.values()), axes) for number in (0, 1)
        )
    else:
        first, second = (vectors.take(each)[0] for each in directions)
    along = np.linspace(-span, span, points)
    losses, scores = np.zeros((points, points)), np.zeros((points, points))
    with places.visiting():
        centre, _ = places.at(home)
        for row, b in enumerate(along):
            for column, a in enumerate(along):
                there = {
                    name: w + float(a) * d + float(b) * e
                    for (name, w), d, e in zip(home.items(), first, second, strict=True)
                }
                losses[row, column], scores[row, column] = places.at(there)
            if progress is not None:
                progress((row + 1) / points)
    return LossSurface(
        first=along, second=along.copy(), losses=losses, scores=scores, centre=centre,
        normalized=directions is None, statistics=places.statistics, passes=places.passes,
    )  # fmt: skip


def interpolation(
    model: nn.Module,
    loss: str | Callable[[Any, Any], Any] | Loss,
    batches: Iterable[Any],
    begin: nn.Module | Mapping[str, Tensor],
    end: nn.Module | Mapping[str, Tensor],
    *,
    metric: Measure | None = None,
    low: float = -0.25,
    high: float = 1.25,
    points: int = 31,
    statistics: str = "estimated",
    progress: Callable[[float], None] | None = None,
) -> Interpolation:
    """Compute the loss on the straight line through two points.

    ``L((1 - a) begin + a end)`` for a from ``low`` to ``high``; 0 and 1 are always among them. All
    parameters move, trained or not, and all buffers of real numbers that the two points hold; what they don't
    hold stays as the model has it. The model is afterwards as it was.

    Args:
        model, loss, batches: as for :class:`Hessian`. The model is called in its mode.
        begin, end: models, or what their ``state_dict()`` returned.
        metric: as for :func:`loss_surface`.
        low, high: ends, low at most 0 and high at least 1.
        points: at least 2.
        statistics: of batch norm in evaluation mode. ``"estimated"``: anew at each point over these batches,
            at the ends as well, so that the loss there may differ a little from that of the two points;
            ``"interpolated"``: on the straight line between those of the two, which are the statistics of no
            network between them, and show a barrier where there may be none; ``"kept"``: the model's own.
        progress: told the share that is done.

    Raises:
        OptionError: an argument out of range, a point of another model.
        DataError: there is no batch.

    >>> model = nn.Linear(1, 1, bias=False).double()
    >>> one = torch.ones(1, 1).double()
    >>> found = interpolation(
    ...     model, "mse", (one, one), {"weight": 0 * one}, {"weight": 2 * one}, low=0, high=1, points=3
    ... )
    >>> found.losses.tolist(), found.distance, found.barrier
    ([1.0, 0.0, 1.0], 2.0, 0.0)

    Source: Goodfellow, Vinyals and Saxe 2015; batch norm: Izmailov et al. 2018.
    """
    points = whole_number("points", points, least=2)
    if not (-math.inf < low <= 0 and 1 <= high < math.inf):
        raise OptionError(
            f"interpolation: low is {low} and high {high}; give one of at most 0 and one of at least 1"
        )
    places = Places(
        model, loss, batches, measure=metric, statistics=statistics,
        known=("estimated", "interpolated", "kept"),
    )  # fmt: skip
    tensors, trained = places.tensors, [name for name, _ in places.model.named_parameters()]
    ends = [
        place_of(given, tensors, trained, "interpolation", what)
        for given, what in ((begin, "begin"), (end, "end"))
    ]
    own = frozenset[str]() if places.statistics == "interpolated" else places.running
    moved = [name for name in tensors if name in ends[0] and name in ends[1] and name not in own]
    squares = (_square(ends[1][name] - ends[0][name]) for name in trained if name in tensors)
    at = np.unique(np.concatenate([np.linspace(low, high, points), [0.0, 1.0]]))
    found = []
    with places.visiting():
        for number, a in enumerate(at):
            share = float(a)
            found.append(
                places.at({name: (1 - share) * ends[0][name] + share * ends[1][name] for name in moved})
            )
            if progress is not None:
                progress((number + 1) / len(at))
    return Interpolation(
        at=at, losses=np.array([loss for loss, _ in found]), scores=np.array([score for _, score in found]),
        distance=math.sqrt(sum(squares)), statistics=places.statistics, passes=places.passes,
    )  # fmt: skip


def _square(tensor: Tensor) -> float:
    return (
        float(tensor.double().square().sum())
        if not tensor.is_complex()
        else float(tensor.abs().square().sum())
    )


def _drawn(places: Places, seed: int, number: int) -> Vector:
    vectors = places.vectors
    drawn = streams.normal(
        (vectors.size,), seed=seed, stream="curvature/landscape", step=number, device=vectors.device
    )
    return vectors.from_local(vectors.local_of(drawn))


def _filter_axes(model: nn.Module, names: Sequence[str]) -> list[int]:
    """The axis of each parameter along which its filters lie."""
    second = {
        id(part.weight) for part in model.modules() if isinstance(part, _ConvTransposeNd) and part.groups == 1
    }
    known = dict(model.named_parameters())
    return [1 if id(known[name]) in second else 0 for name in names]
