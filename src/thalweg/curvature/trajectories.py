"""The loss on the plane in which a training moved.

Source: INDEX X7. Li, Xu, Taylor, Studer and Goldstein, Visualizing the loss landscape of neural nets, 2018,
section 7; Lorch, Visualizing deep network training trajectories with PCA, 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.curvature.landscapes import NORM_NOTES, Floats
from thalweg.curvature.places import Measure, Places, place_of
from thalweg.errors import DataError, OptionError
from thalweg.objectives import Loss
from thalweg.settings.tables import whole_number

__all__ = ["TrajectoryPlane", "trajectory_plane"]

# Below this share of the first direction's, a second one is rounding.
_LINE = 1e-10


@dataclass(frozen=True, kw_only=True)
class TrajectoryPlane:
    """The loss on the plane through the last point of a training that lies nearest to the others.

    Attributes:
        first, second: coordinates along the two principal directions, ``[a]`` and ``[b]``; 0 is the last
            point. The unit is the Euclidean distance in the space of parameters.
        losses: ``[b, a]``.
        scores: of the metric, likewise; NaN without one.
        path: ``[m, 2]``, where the points lie when projected onto the plane, the last one at (0, 0).
        path_losses: ``[m]``, the loss at the points themselves, which may lie off the plane.
        off: ``[m]``, how far from the plane they lie.
        shares: of the squared distances to the last point, what lies along the first and the second
            direction.
        statistics: of batch norm, as for :class:`~thalweg.curvature.landscapes.LossSurface`.
        passes: forward passes over all batches that it took.
    """

    first: Floats = field(repr=False)
    second: Floats = field(repr=False)
    losses: Floats = field(repr=False)
    scores: Floats = field(repr=False)
    path: Floats = field(repr=False)
    path_losses: Floats = field(repr=False)
    off: Floats = field(repr=False)
    shares: tuple[float, float]
    statistics: str
    passes: int

    @property
    def share(self) -> float:
        """What the plane holds of the squared distances to the last point."""
        return sum(self.shares)

    @property
    def unit(self) -> str:
        """What 1 on an axis is, in words."""
        return "1 is a distance of 1 in the space of all parameters"

    @property
    def note(self) -> str:
        """What is to be known of batch norm; ``""``: nothing."""
        return NORM_NOTES[self.statistics]


def trajectory_plane(
    model: nn.Module,
    loss: str | Callable[[Any, Any], Any] | Loss,
    batches: Iterable[Any],
    trajectory: Sequence[nn.Module | Mapping[str, Tensor]],
    *,
    metric: Measure | None = None,
    margin: float = 0.2,
    points: int = 25,
    statistics: str = "estimated",
    progress: Callable[[float], None] | None = None,
) -> TrajectoryPlane:
    """Compute the loss on the plane in which a training mostly moved.

    With ``x_0, ..., x_n`` the points, the matrix of rows ``x_i - x_n`` has the singular values s; the plane
    is spanned by its two first right singular vectors, and holds ``(s_1^2 + s_2^2) / sum s^2`` of the squared
    distances. A share near 1 says that little is hidden. Random walks too lie mostly in a plane, where they
    look like arcs: a smooth arc alone tells nothing.

    Args:
        model, loss, batches: as for :class:`Hessian`. The model is called in its mode.
        trajectory: points in their order, at least 3 that don't lie on one line: models, or what their
            ``state_dict()`` returned.
        metric: as for :func:`~thalweg.curvature.landscapes.loss_surface`.
        margin: how far beyond the points the plane is drawn, in shares of their extent, from 0.
        points: along each axis, at least 2.
        statistics: of batch norm in evaluation mode: ``"estimated"`` anew at each point over these batches,
            or ``"kept"``, those of the last point.
        progress: told the share that is done.

    Raises:
        OptionError: an argument out of range, points of another model, or all on one line.
        DataError: there is no batch, or a point isn't finite.

    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> points = [{"weight": torch.tensor([p]).double()} for p in ([3.0, 4.0], [3.0, 0.0], [0.0, 0.0])]
    >>> batch = torch.eye(2).double(), torch.zeros(2, 1).double()
    >>> plane = trajectory_plane(model, "mse", batch, points, points=2)
    >>> round(plane.share, 6), plane.path_losses.tolist()
    (1.0, [12.5, 4.5, 0.0])

    Source: Li et al. 2018, section 7.2. Deviation: distances are from the last point and not from the mean,
    since the plane goes through the last one; and all parameters count, biases and scales of batch norm too.
    """
    points = whole_number("points", points, least=2)
    if not (0 <= margin < math.inf):
        raise OptionError(f"trajectory_plane: margin is {margin}; give a number from 0")
    if len(trajectory) < 3:
        raise OptionError(
            f"trajectory_plane: a plane needs at least 3 points, and there are {len(trajectory)}; between "
            "two, take interpolation"
        )
    places = Places(model, loss, batches, measure=metric, statistics=statistics)
    tensors = places.tensors
    names = [name for name, _ in places.model.named_parameters() if name in tensors]
    visited = [
        place_of(given, tensors, names, "trajectory_plane", f"point {number}")
        for number, given in enumerate(trajectory)
    ]
    last = visited[-1]
    rows = [[there[name] - last[name] for name in names] for there in visited]
    path, off, shares, directions = _plane(rows)
    low, high = path.min(0), path.max(0)
    extent = np.maximum(high - low, 0.1 * float((high - low).max()))
    first, second = (
        np.linspace(low[k] - margin * extent[k], high[k] + margin * extent[k], points) for k in (0, 1)
    )
    own = places.running if places.statistics == "estimated" else frozenset[str]()
    begin = {name: value for name, value in last.items() if name not in own}
    losses, scores = np.zeros((points, points)), np.zeros((points, points))
    steps = points + 1
    with places.visiting():
        places.at(begin)
        path_losses = [
            places.at({name: value for name, value in there.items() if name not in own})[0]
            for there in visited
        ]
        if progress is not None:
            progress(1 / steps)
        for row, b in enumerate(second):
            for column, a in enumerate(first):
                moved = {
                    name: last[name] + float(a) * d + float(b) * e
                    for name, d, e in zip(names, *directions, strict=True)
                }
                losses[row, column], scores[row, column] = places.at(begin | moved)
            if progress is not None:
                progress((row + 2) / steps)
    return TrajectoryPlane(
        first=first, second=second, losses=losses, scores=scores, path=path,
        path_losses=np.array(path_losses), off=off, shares=shares, statistics=places.statistics,
        passes=places.passes,
    )  # fmt: skip


def _plane(rows: list[list[Tensor]]) -> tuple[Floats, Floats, tuple[float, float], list[list[Tensor]]]:
    """Project differences from the last point; return coordinates, distances, shares and both directions."""
    # products of all pairs, since there are far fewer points than parameters
    count = len(rows)
    gram = np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1):
            pairs = zip(rows[i], rows[j], strict=True)
            gram[i, j] = gram[j, i] = float(sum((a.double() * b.double()).sum() for a, b in pairs))
    if not np.isfinite(gram).all():
        raise DataError("trajectory_plane: a point isn't finite; leave out those behind the divergence")
    squares, left = np.linalg.eigh(gram)
    squares, left = np.clip(squares[::-1], 0, None), left[:, ::-1]
    if squares[1] <= _LINE * squares[0]:
        raise OptionError(
            "trajectory_plane: all points lie on one line, or are one; give others, or take interpolation"
        )
    path = left[:, :2] * np.sqrt(squares[:2])
    # which way a direction points is free: the training comes from the right, and from above
    signs = np.where(path[np.argmax(np.abs(path), 0), (0, 1)] < 0, -1.0, 1.0)
    path = path * signs
    directions = []
    for k in (0, 1):
        weights = left[:, k] * signs[k] / math.sqrt(squares[k])
        directions.append(
            [
                sum(
                    (float(w) * row[place].double() for w, row in zip(weights, rows, strict=True)),
                    torch.zeros(()),
                ).to(rows[0][place])
                for place in range(len(rows[0]))
            ]
        )
    off = np.sqrt(np.clip(np.diag(gram) - (path**2).sum(1), 0, None))
    total = float(squares.sum())
    return path, off, (float(squares[0]) / total, float(squares[1]) / total), directions
