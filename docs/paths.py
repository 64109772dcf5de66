"""Draw the path of every optimizer on three surfaces, one SVG each: ``make docs``.

Contours come from contourpy, which bokeh brings along; the SVG is written here, so that it is small, the same
bytes each time on one machine, and readable in a diff. Coordinates are whole tenths of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import contourpy
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from thalweg import catalogue
from thalweg.catalogue import Entry
from thalweg.test_problems import surfaces
from thalweg.training.steps import make_step

FOLDER = Path(__file__).parent / "images" / "paths"
BUDGET = 200
"""Evaluations at most: points at which the function and its derivatives are computed."""
CLOSE = 1e-4
"""How far over the minimum's value counts as having arrived."""
RATES = tuple(round(digit * 10.0**power, 10) for power in range(-4, 1) for digit in (1, 2, 5))
"""The learning rates tried."""

_STAYING, _FEW, _ROOM = 50, 60, 1e9
_SIDE, _GAP, _EDGE, _TOP, _BOTTOM = 236, 20, 14, 60, 74
_TENTHS = 10 * _SIDE
# light at the bottom of a valley, so that a path stands out where it ends
_BANDS = (
    "#f7fbff", "#eaf2fa", "#dde9f5", "#cfe0f0", "#bfd5ea", "#aecae4",
    "#9dbddc", "#8cb0d4", "#7ba3cb", "#6b95c1", "#5d88b7",
)  # fmt: skip
_PATH, _INK, _MINUS = "#c24e00", "#1b1f24", "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Scene:
    """A surface as it is drawn.

    Attributes:
        surface: with two dimensions, whose minimal value is 0.
        residuals: ``x [..., 2]`` to what sums up, squared, to the surface's value.
        title: over the panel.
        floor: contours are evenly spaced in the logarithm of value + floor.
    """

    surface: surfaces.Surface
    residuals: Callable[[Tensor], Tensor]
    title: str
    floor: float

    @property
    def name(self) -> str:
        return self.surface.name


def scenes() -> tuple[Scene, ...]:
    """Return the three surfaces: badly conditioned, curved, and with several minima."""
    bowl = surfaces.get("quadratic", condition=40, seed=6)
    valley, hills = surfaces.get("rosenbrock"), surfaces.get("himmelblau")
    assert isinstance(bowl, surfaces.Quadratic)
    assert isinstance(valley, surfaces.LeastSquares)
    assert isinstance(hills, surfaces.LeastSquares)
    root = torch.tensor(bowl.eigenvectors * np.sqrt(bowl.eigenvalues / 2))
    return (
        Scene(
            replace(bowl, bounds=((-1.25, 1.25), (-1.25, 1.25))),
            lambda x: x @ root,
            "Quadratic, condition 40",
            0.02,
        ),
        Scene(valley, valley.residuals, "Rosenbrock's valley", 0.5),
        # beside the top of the hill between the minima
        Scene(replace(hills, start=(-0.6, -0.6)), hills.residuals, "Himmelblau's four minima", 4.0),
    )


@dataclass(frozen=True)
class Walk:
    """Where an optimizer went.

    Attributes:
        points: the start and the point after each step, float64 ``[steps + 1, 2]``.
        evaluations: at how many points the function was computed.
        value: at the last point.
        rate: the learning rate, where one was chosen; None: every number is the default.
    """

    points: npt.NDArray[np.float64]
    evaluations: int
    value: float
    rate: float | None

    @property
    def steps(self) -> int:
        return len(self.points) - 1

    @property
    def arrived(self) -> bool:
        return self.value <= CLOSE


class _Walkers(nn.Module):
    """Points on a surface that don't know of each other; the output of the network are their residuals."""

    def __init__(self, scene: Scene, shape: Sequence[int], count: int) -> None:
        super().__init__()
        self.scene = scene
        start = scene.surface.initial().reshape(tuple(shape))
        self.places = nn.ParameterList(start.clone() for _ in range(count))
        self.seen: set[tuple[float, ...]] = set()

    def where(self) -> Tensor:
        return torch.stack([place.reshape(2) for place in self.places])

    def forward(self, _: Any) -> Tensor:
        x = self.where()
        self.seen.add(tuple(x.detach().reshape(-1).tolist()))
        return self.scene.residuals(x)


def _squares(outputs: Tensor, _: Any) -> Tensor:
    return outputs.square().sum()


def walk(entry: Entry, scene: Scene, rates: Sequence[float] = RATES) -> Walk:
    """Walk down a surface with the best of some learning rates.

    Best is, among the rates with which it doesn't leave the picture, what arrives first to stay, or if none
    does, what is lowest when the budget is spent. Methods with a search have their defaults, and a step is
    one iteration.

    Args:
        entry: of the catalogue. Weight decay is off, since it would move the minimum.
        scene: where.
        rates: left aside by methods with a search.
    """
    return _by_search(entry, scene) if entry.step_kind != "gradient" else _by_rate(entry, scene, rates)


def _by_search(entry: Entry, scene: Scene) -> Walk:
    walkers = _Walkers(scene, (2,), 1)
    optimizer = entry.make(walkers.parameters(), max_iter=1)
    step = make_step(entry.step_kind, optimizer, walkers, _squares)  # type: ignore[arg-type]
    points, value = [scene.surface.initial()], math.inf
    while len(walkers.seen) < BUDGET and value > CLOSE:
        step(None, torch.empty(0), _ROOM)
        points.append(walkers.where()[0].detach().clone())
        value = float(scene.surface(points[-1]))
        if torch.equal(points[-1], points[-2]):
            break
    return Walk(torch.stack(points).numpy(), len(walkers.seen), value, None)


def _by_rate(entry: Entry, scene: Scene, rates: Sequence[float]) -> Walk:
    # Muon and SOAP are of matrices; one row is the least
    walkers = _Walkers(scene, (1, 2) if entry.family == "matrix" else (2,), len(rates))
    groups = [{"params": [p], "lr": lr} for p, lr in zip(walkers.places, rates, strict=True)]
    decay = {"weight_decay": 0.0} if any(one.name == "weight_decay" for one in entry.hyperparameters) else {}
    optimizer: Any = entry.make(groups, **decay)
    step = make_step(entry.step_kind, optimizer, walkers, _squares)  # type: ignore[arg-type]
    low, high = torch.tensor(_bounds(scene), dtype=torch.float64).T
    start, alive = scene.surface.initial(), torch.ones(len(rates), dtype=torch.bool)
    points = [walkers.where().detach()]
    # the last step after which each was not there
    left = torch.zeros(len(rates), dtype=torch.int64)
    for count in range(1, BUDGET + 1):
        step(None, torch.empty(0), _ROOM)
        with torch.no_grad():
            here = walkers.where()
            alive &= ((here >= low) & (here <= high)).all(-1)
            for place, well in zip(walkers.places, alive.tolist(), strict=True):
                if not well:
                    # back at the start, without a gradient, for whatever lies out there
                    place.copy_(start.reshape(place.shape)).requires_grad_(False)
            if hasattr(optimizer, "eval"):
                optimizer.eval()
            points.append(walkers.where().clone())
            if hasattr(optimizer, "eval"):
                optimizer.train()
            left[~(scene.surface(points[-1]) <= CLOSE) | ~alive] = count
        if count - int(left.min()) >= _STAYING or not alive.any():
            break
    values = scene.surface(torch.stack(points))
    best = min(range(len(rates)), key=lambda i: (not alive[i], int(left[i]), float(values[-1, i])))
    steps = min(int(left[best]) + 1, len(points) - 1)
    course = torch.stack(points)[: steps + 1, best]
    return Walk(course.numpy(), steps, float(values[steps, best]), rates[best])


def picture(entry: Entry, walks: Sequence[tuple[Scene, Walk]], lands: dict[str, str]) -> str:
    """Return an SVG of an optimizer's walks, side by side, over what :func:`land` made of each scene."""
    width = 2 * _EDGE + len(walks) * _SIDE + (len(walks) - 1) * _GAP
    height = _TOP + _SIDE + _BOTTOM
    told = "; ".join(f"{scene.title}: {', '.join(_words(walk))}" for scene, walk in walks)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="system-ui, Helvetica, Arial, sans-serif" '
        f'font-size="12.5" fill="{_INK}">',
        f"<title>{escape(entry.title)} on three surfaces</title>",
        f"<desc>{escape(told)}</desc>",
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="6" fill="#fff" '
        f'stroke="#c9d1d9"/>',
        f'<text x="{_EDGE}" y="26" font-size="16" font-weight="600">{escape(entry.title)}</text>',
        _legend(width - _EDGE - 232, 21),
        *(
            f'<marker id="{name}" viewBox="-30 -30 60 60" markerUnits="userSpaceOnUse" markerWidth="60" '
            f'markerHeight="60"><circle r="{radius}" fill="{_PATH}"/></marker>'
            for name, radius in (("large", 26), ("small", 16))
        ),
    ]
    for k, (scene, walk) in enumerate(walks):
        x = _EDGE + k * (_SIDE + _GAP)
        first, second = _words(walk)
        lines += [
            f'<text x="{x}" y="{_TOP - 9}" font-weight="600">{escape(scene.title)}</text>',
            _panel(x, scene, walk, lands[scene.name]),
            _axes(x, scene),
            f'<text x="{x}" y="{_TOP + _SIDE + 40}">{escape(first)}</text>',
            f'<text x="{x}" y="{_TOP + _SIDE + 58}">{escape(second)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _words(walk: Walk) -> tuple[str, str]:
    setting = "defaults" if walk.rate is None else f"lr {walk.rate:g}"
    taken = f"{walk.steps} step{'s' * (walk.steps != 1)}"
    if walk.rate is None:
        taken += f", {walk.evaluations} evaluations"
    x, y = (f"{number:.2f}".replace("-0.00", "0.00").replace("-", _MINUS) for number in walk.points[-1])
    end = "arrived at" if walk.arrived else f"f = {_short(walk.value)} at"
    return f"{setting}: {taken}", f"{end} ({x}, {y})"


def _short(value: float) -> str:
    return f"{value:.1e}".replace("e-0", f"e{_MINUS}") if value < 0.01 else f"{value:.2g}"


def _legend(x: float, y: float) -> str:
    """What the marks mean, in a row."""
    parts = []
    for shift, mark, word in ((0, _start, "start"), (60, _goal, "minimum"), (146, _end, "end of path")):
        parts.append(f'<g transform="translate({x + shift} {y}) scale(.1)">{mark(0, 0)}</g>')
        parts.append(f'<text x="{x + shift + 12}" y="{y + 4.5}">{word}</text>')
    return "\n".join(parts)


def _start(x: int, y: int) -> str:
    return f'<circle cx="{x}" cy="{y}" r="48" fill="#fff" stroke="{_INK}" stroke-width="18"/>'


def _goal(x: int, y: int) -> str:
    d = f"M{x - 50} {y - 50}l100 100m0 -100l-100 100"
    return (
        f'<path d="{d}" fill="none" stroke="#fff" stroke-width="48"/>'
        f'<path d="{d}" fill="none" stroke="{_INK}" stroke-width="24"/>'
    )


def _end(x: int, y: int) -> str:
    return f'<path d="M{x} {y - 62}l62 62l-62 62l-62 -62Z" fill="{_PATH}" stroke="#fff" stroke-width="16"/>'


def _panel(x: int, scene: Scene, walk: Walk, drawn: str) -> str:
    """The picture itself; an inner ``svg`` cuts off what lies outside."""
    rate = "" if walk.rate is None else f' data-lr="{walk.rate:g}"'
    end = " ".join(f"{number:.4g}" for number in walk.points[-1])
    course = _tenths(scene, walk.points)
    corners = [tuple(corner) for corner in course.tolist()]
    minima = _tenths(scene, np.array([point.x for point in scene.surface.minima]))
    line, dot = _outline(corners), "large" if walk.steps <= _FEW else "small"
    return "\n".join(
        [
            f'<svg id={quoteattr(scene.name)} x="{x}" y="{_TOP}" width="{_SIDE}" height="{_SIDE}" '
            f'viewBox="0 0 {_TENTHS} {_TENTHS}"{rate} data-steps="{walk.steps}" data-end="{end}">',
            drawn,
            f'<path d="{line}" fill="none" stroke="#fff" stroke-width="36" stroke-linejoin="round" '
            f'opacity=".75"/>',
            f'<path class="path" d="{line}" fill="none" stroke="{_PATH}" stroke-width="15" '
            f'stroke-linejoin="round" marker-mid="url(#{dot})"/>',
            *(_goal(a, b) for a, b in minima.tolist()),
            _start(*corners[0]),
            _end(*corners[-1]),
            f'<rect width="{_TENTHS}" height="{_TENTHS}" fill="none" stroke="#57606a" stroke-width="20"/>',
            "</svg>",
        ]
    )


def _axes(x: int, scene: Scene) -> str:
    """The ends of both axes."""
    (left, right), (low, high) = _bounds(scene)
    bottom, right_end = _TOP + _SIDE + 15, x + _SIDE - 5
    said = 'font-size="11" fill="#424a53"'
    return "\n".join(
        [
            f'<text x="{x}" y="{bottom}" {said}>x {_number(left)}</text>',
            f'<text x="{x + _SIDE}" y="{bottom}" {said} text-anchor="end">{_number(right)}</text>',
            f'<text x="{right_end}" y="{_TOP + 14}" {said} text-anchor="end">y {_number(high)}</text>',
            f'<text x="{right_end}" y="{_TOP + _SIDE - 6}" {said} text-anchor="end">{_number(low)}</text>',
        ]
    )


def _number(value: float) -> str:
    return f"{value:g}".replace("-", _MINUS)


def _bounds(scene: Scene) -> tuple[tuple[float, float], tuple[float, float]]:
    assert scene.surface.bounds is not None
    return scene.surface.bounds


def _tenths(scene: Scene, points: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Points ``[n, 2]`` as tenths of a pixel from the panel's upper left corner."""
    (left, right), (low, high) = _bounds(scene)
    scaled = np.stack([(points[:, 0] - left) / (right - left), (high - points[:, 1]) / (high - low)], 1)
    return np.rint(np.clip(scaled * _TENTHS, -9 * _TENTHS, 10 * _TENTHS)).astype(np.int64)


def _outline(corners: Sequence[tuple[int, ...]]) -> str:
    """A path through corners, each told by where it lies from the one before."""
    moves = (f"{bx - ax} {by - ay}" for (ax, ay), (bx, by) in pairwise(corners))
    return f"M{corners[0][0]} {corners[0][1]}l{' '.join(moves)}"


def land(scene: Scene) -> str:
    """Return the contours of a scene, as SVG paths: the highest first, each lower region over it."""
    (left, right), (low, high) = _bounds(scene)
    x, y = np.linspace(left, right, 161), np.linspace(low, high, 161)
    grid = torch.tensor(np.stack(np.meshgrid(x, y), -1))
    heights = torch.log(scene.surface(grid) + scene.floor).numpy()
    levels = np.linspace(math.log(scene.floor), float(heights.max()), len(_BANDS) + 1)[1:-1]
    generator = contourpy.contour_generator(x, y, heights, fill_type="OuterOffset")
    parts = [f'<rect width="{_TENTHS}" height="{_TENTHS}" fill="{_BANDS[-1]}"/>']
    for level, colour in zip(levels[::-1], _BANDS[-2::-1], strict=True):
        polygons, offsets = generator.filled(heights.min() - 1, level)
        rings = [
            _simplified(_tenths(scene, points[a:b]).astype(float))
            for points, ends in zip(polygons, offsets, strict=True)
            for a, b in pairwise(ends.tolist())
        ]
        outline = "".join(_outline(ring) + "Z" for ring in rings if len(ring) > 2)
        parts.append(
            f'<path d="{outline}" fill="{colour}" fill-rule="evenodd" stroke="#4a6f9c" stroke-opacity=".45" '
            f'stroke-width="6"/>'
        )
    return "\n".join(parts)


def _simplified(ring: npt.NDArray[np.float64], tolerance: float = 2.5) -> list[tuple[int, ...]]:
    """A closed line without the corners that make no difference (Douglas and Peucker 1973)."""
    kept = np.zeros(len(ring), dtype=bool)
    middle = int(np.hypot(*(ring - ring[0]).T).argmax())
    kept[[0, middle]] = True
    spans = [(0, middle), (middle, len(ring) - 1)]
    while spans:
        a, b = spans.pop()
        if b - a < 2:
            continue
        across = ring[b] - ring[a]
        away = ring[a + 1 : b] - ring[a]
        length = math.hypot(*across) or 1.0
        distance = np.abs(away[:, 0] * across[1] - away[:, 1] * across[0]) / length
        farthest = a + 1 + int(distance.argmax())
        if distance.max() > tolerance:
            kept[farthest] = True
            spans += [(a, farthest), (farthest, b)]
    return [tuple(map(int, point)) for point in ring[kept].tolist()]


def pictures() -> dict[Path, str]:
    """Return the file of each optimizer, and what should stand in it."""
    ground = scenes()
    lands = {scene.name: land(scene) for scene in ground}
    return {
        FOLDER / f"{name}.svg": picture(
            catalogue.get(name), [(scene, walk(catalogue.get(name), scene)) for scene in ground], lands
        )
        for name in catalogue.names()
    }


def main() -> None:
    """Write every picture, and drop those of optimizers that are gone."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    drawn = pictures()
    for path, text in drawn.items():
        path.write_text(text, encoding="utf-8")
    for path in set(FOLDER.glob("*.svg")) - set(drawn):
        path.unlink()
    print(f"{FOLDER.relative_to(Path(__file__).parent.parent)}: {len(drawn)} pictures")


if __name__ == "__main__":
    main()
