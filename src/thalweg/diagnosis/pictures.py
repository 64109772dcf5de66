"""What can be drawn of a set-up: the loss around and along a short training, its spectrum, its noise.

It costs gradients, so that it is asked for, and has a budget. What was measured of a run is kept in a file of
its directory: a report draws it without the code of the model.

Source: INDEX X3, X6, X7, X9.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.curvature import (
    Hessian,
    Interpolation,
    LossSurface,
    NoiseScale,
    SpectralDensity,
    TrajectoryPlane,
    interpolation,
    lanczos,
    loss_surface,
    noise_scale,
    seen_by,
    spectral_density,
    stability,
    trajectory_plane,
)
from thalweg.diagnosis.facts import Facts, gather
from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.trial import train
from thalweg.errors import OptionError, RunDirectoryError, ThalwegError
from thalweg.layers.modes import set_evaluation, set_mode
from thalweg.layers.norm_statistics import measured_layers
from thalweg.randomness import streams
from thalweg.randomness.generators import own_generators, undisturbed
from thalweg.randomness.streams import seed32
from thalweg.run.directory.writing import reason, write_whole

__all__ = ["FILE", "Measured", "Picture", "Pictures", "read_pictures", "store_pictures", "take_pictures"]

Measured: TypeAlias = LossSurface | TrajectoryPlane | Interpolation | SpectralDensity | NoiseScale
"""What a picture is drawn from."""

FILE = "pictures.json"
"""Where pictures of a run are kept, in its directory."""

_KINDS: dict[str, Any] = {
    each.__name__: each for each in (LossSurface, TrajectoryPlane, Interpolation, SpectralDensity, NoiseScale)
}
_PAIRS = ("shares", "ends", "names")
_CANT = (ThalwegError, RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)
# Points of a training that a plane is laid through, along each side of a plane, and between two points.
_SNAPSHOTS, _SIDE, _COARSE_SIDE, _ALONG = 12, 15, 9, 25
# Examples that a loss is of; random vectors of a density with their products; products for an end.
_FEWEST_ROWS, _ROWS, _VECTORS, _STEPS, _PRODUCTS = 32, 256, 3, 14, 20
_NOISY_BATCHES = 16
# A pass forward costs a third of a gradient, a product of curvature two.
_FORWARD, _PRODUCT = 1 / 3, 2.0
_MEMORY = 2**29
# A loss beyond so many of the first ones has diverged.
_BROKEN = 100.0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What was measured, and what belongs beside it.

    Attributes:
        title: what it is of.
        found: what is drawn.
        names: of the two ends of a way.
        ends, limit, matrix: of a spectrum: the smallest and the largest eigenvalue, the curvature beyond
            which the optimizer is unstable, and whose eigenvalues they are.
        batch_size: of a noise scale: the one in use.
    """

    title: str
    found: Measured
    names: tuple[str, str] = ("begin", "end")
    ends: tuple[float, float] | None = None
    limit: float | None = None
    matrix: str = "Hessian"
    batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """All that could be drawn.

    Attributes:
        shown: in the order in which they are shown.
        gradients: what they cost, in gradients of a batch of the set-up's size.
        notes: what couldn't be drawn, and why.
    """

    shown: tuple[Picture, ...]
    gradients: float
    notes: tuple[str, ...] = ()


@dataclass
class _Taking:
    """What is known while pictures are taken."""

    setup: Setup
    facts: Facts
    seed: int
    budget: float
    say: Callable[[str, float], None]
    spent: float = 0.0
    side: int = _SIDE
    rows: int = _ROWS

    @property
    def left(self) -> float:
        return self.budget - self.spent

    def batches(self, rows: Tensor) -> list[tuple[Any, Any]]:
        return [self.setup.batch(part) for part in torch.split(rows, max(32, self.setup.batch_size))]

    def drawn(self, count: int) -> Tensor:
        """Training examples, without repetition."""
        known = self.facts.held.rows
        order = streams.order(len(known), seed=seed32(self.seed, "diagnosis", "pictures"), epoch=0)
        return known[torch.from_numpy(order)][:count]

    def within(self, what: str, share: float) -> Callable[[float], None]:
        """What is told how much of a picture is done, which is such a share of all."""
        begun = self.spent / self.budget
        return lambda done: self.say(f"drawing {what}", min(1.0, begun + share * done))


@torch.enable_grad()
def take_pictures(
    setup: Setup,
    *,
    budget: float,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
    result: Mapping[str, Tensor] | None = None,
    checkpoints: Sequence[Mapping[str, Tensor]] = (),
) -> Pictures:
    """Measure what can be drawn of a set-up: nothing of it is changed.

    A short training leads from its first weights; of a run its result is the end instead, and its
    checkpoints are what lies between. Then, as far as the budget reaches: the loss on the straight line
    from begin to end, the noise of gradients at the end of the short training, the loss around the end,
    the loss on the plane of the way, the spectrum at the beginning beside the bound of stability.

    Args:
        setup: of which.
        budget: gradients of a batch that may be computed.
        seed: of everything random.
        progress: called with what is being done, and the share of the budget that is spent.
        result: what a run has led to: its tensors by name.
        checkpoints: points of the run on the way there.
    """
    with undisturbed():
        facts = gather(setup, seed=seed)
        if facts.problem:
            return Pictures(shown=(), gradients=1.0, notes=(f"nothing can be drawn: {facts.problem}",))
        say = progress or (lambda what, share: None)
        taking = _Taking(setup=setup, facts=facts, seed=seed, budget=max(1.0, budget), say=say, spent=1.0)
        with own_generators(seed, "diagnosis", "pictures"):
            shown, notes = _all(taking, result, checkpoints)
    return Pictures(shown=tuple(shown), gradients=taking.spent, notes=tuple(notes))


def _all(
    taking: _Taking, result: Mapping[str, Tensor] | None, checkpoints: Sequence[Mapping[str, Tensor]]
) -> tuple[list[Picture], list[str]]:
    path = _short_training(taking)
    model, _ = taking.setup.start(taking.seed)
    twice = 2 if measured_layers(model) else 1
    short = len(path) > 1
    if result is not None:
        way: list[Mapping[str, Tensor]] = [path[0], *checkpoints, result]
        names = ("first weights", "result of the run")
    else:
        way, names = [*path], ("first weights", "end of the short training")
    wanted: list[tuple[str, Callable[[], float], Callable[[Callable[[float], None]], Picture]]] = []
    size = taking.setup.batch_size

    def forward(passes: int) -> float:
        return passes * twice * _FORWARD * taking.rows / size

    if len(way) > 1:
        wanted.append(
            (
                "the straight line to the end",
                lambda: forward(_ALONG + 2),
                lambda say: _line(taking, model, way[0], way[-1], names, say),
            )
        )
    if short:
        wanted.append(
            (
                "the noise of gradients",
                lambda: _NOISY_BATCHES * max(4, size) / size,
                lambda say: _noisy(taking, model, path[-1]),
            )
        )
    wanted.append(
        (
            "the loss around the end" if len(way) > 1 else "the loss around the first weights",
            lambda: forward(taking.side**2 + 1),
            lambda say: _around(taking, model, way[-1], names[1] if len(way) > 1 else names[0], say),
        )
    )
    if len(way) > 2:
        wanted.append(
            (
                "the plane of the way",
                lambda: forward(taking.side**2 + len(way) + 1),
                lambda say: _along(taking, model, way, names, say),
            )
        )
    wanted.append(
        (
            "the spectrum at the beginning",
            lambda: _PRODUCT * (_VECTORS * _STEPS + 2 * _PRODUCTS + 1) * taking.rows / size,
            lambda say: _spectrum(taking),
        )
    )
    # all of them on fewer examples rather than some of them on many
    known = len(taking.facts.held.rows)
    for taking.side, least in ((_SIDE, 2 * _FEWEST_ROWS), (_COARSE_SIDE, _FEWEST_ROWS)):
        taking.rows = min(_ROWS, known)
        while sum(cost() for _, cost, _ in wanted) > taking.left and taking.rows > min(least, known):
            taking.rows = max(min(least, known), int(0.9 * taking.rows))
        if sum(cost() for _, cost, _ in wanted) <= taking.left:
            break
    shown, notes = [], []
    for name, cost, draw in wanted:
        price = cost()
        if price > taking.left:
            notes.append(f"the budget is too small for a picture of {name}, which takes {price:,.0f} more")
            continue
        say = taking.within(name, price / taking.budget)
        say(0.0)
        try:
            shown.append(draw(say))
        except torch.OutOfMemoryError:
            raise
        except _CANT as problem:
            said = " ".join(str(problem).split())[:200]
            notes.append(f"{name} can't be drawn: {said}")
        taking.spent += price
    return shown, notes


def _short_training(taking: _Taking) -> list[dict[str, Tensor]]:
    """Train for a short while; return the first weights and points on the way, as long as all is finite."""
    setup, begin = taking.setup, taking.setup.start
    steps = max(1, min(setup.steps, int(taking.left / 3)))
    path: list[dict[str, Tensor]] = []
    held = sum(p.numel() * p.element_size() for p in taking.facts.model.parameters())
    points = max(1, min(_SNAPSHOTS, steps, int(_MEMORY / max(1, held))))
    due = {round(steps * (k + 1) / points) for k in range(points)}
    done = [0]

    def start(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model, optimizer = begin(seed)
        path.append(_copied(model))

        def noted(*_: Any) -> None:
            done[0] += 1
            if done[0] in due:
                path.append(_copied(model))

        optimizer.register_step_post_hook(noted)
        return model, optimizer

    taking.say("training for a short while", taking.spent / taking.budget)
    trial = train(
        replace(setup, start=start), taking.facts.judge, taking.facts.held, steps=steps, seed=taking.seed
    )
    taking.spent += trial.gradients
    if trial.failed:
        # what lies behind a divergence shows nothing but that
        steps = next(
            (k for k, v in enumerate(trial.losses) if not abs(v) <= _BROKEN * abs(trial.losses[0])),
            trial.steps,
        )
    path = [point for point, step in zip(path, (0, *sorted(due)), strict=False) if step <= steps]
    finite = [all(bool(torch.isfinite(t).all()) for t in point.values()) for point in path]
    return path[: max(1, finite.index(False) if False in finite else len(path))]


def _copied(model: nn.Module) -> dict[str, Tensor]:
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value.detach().clone() for name, value in named.items()}


def _at(model: nn.Module, point: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
            if name in point:
                value.copy_(point[name])


def _line(
    taking: _Taking,
    model: nn.Module,
    begin: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    names: tuple[str, str],
    say: Callable[[float], None],
) -> Picture:
    set_evaluation(model)
    batches = taking.batches(taking.drawn(taking.rows))
    found = interpolation(model, taking.setup.loss, batches, begin, end, points=_ALONG, progress=say)
    return Picture(title=f"From the {names[0]} to the {names[1]}", found=found, names=names)


def _around(
    taking: _Taking, model: nn.Module, point: Mapping[str, Tensor], name: str, say: Callable[[float], None]
) -> Picture:
    _at(model, point)
    set_evaluation(model)
    batches = taking.batches(taking.drawn(taking.rows))
    found = loss_surface(
        model, taking.setup.loss, batches, points=taking.side, seed=taking.seed, progress=say
    )
    return Picture(title=f"Around the {name}", found=found)


def _along(
    taking: _Taking,
    model: nn.Module,
    way: Sequence[Mapping[str, Tensor]],
    names: tuple[str, str],
    say: Callable[[float], None],
) -> Picture:
    set_evaluation(model)
    batches = taking.batches(taking.drawn(taking.rows))
    found = trajectory_plane(model, taking.setup.loss, batches, way, points=taking.side, progress=say)
    title = f"The way from the {names[0]} to the {names[1]}"
    return Picture(title=title, found=found, names=("begin", "end"))


def _noisy(taking: _Taking, model: nn.Module, point: Mapping[str, Tensor]) -> Picture:
    size = max(4, taking.setup.batch_size)
    parts = [part for part in torch.split(taking.drawn(_NOISY_BATCHES * size), size) if len(part) == size]
    if len(parts) < 4:
        raise OptionError(f"there are {len(parts)} whole batches of {size}, and noise shows between several")
    _at(model, point)
    set_mode(model, training=True)
    found = noise_scale(model, taking.setup.loss, [taking.setup.batch(part) for part in parts])
    return Picture(
        title="Noise of gradients at the end of the short training",
        found=found,
        batch_size=taking.setup.batch_size,
    )


def _spectrum(taking: _Taking) -> Picture:
    """The spectrum at the beginning: behind too large a step units are dead, and the rate looks innocent."""
    model, optimizer = taking.setup.start(taking.seed)
    batches = taking.batches(taking.drawn(taking.rows))
    operator = Hessian(model, taking.setup.loss, batches)
    matrix: Any = operator
    limit, name = None, "Hessian"
    try:
        bound = stability(optimizer, operator, tolerance=0.05, most_products=_PRODUCTS, seed=taking.seed)
        if bound.second_moment == "none":
            limit = bound.constant / bound.rate
        else:
            matrix, limit = seen_by(optimizer, operator), 1 / bound.rate
            name = f"Hessian as {type(optimizer).__name__} sees it"
    except (ThalwegError, ZeroDivisionError):
        # an optimizer without such a bound, or that doesn't move
        pass
    with operator.held():
        ends = lanczos(matrix, tolerance=0.05, most_products=_PRODUCTS, seed=taking.seed)
        found = spectral_density(matrix, samples=_VECTORS, steps=_STEPS, seed=taking.seed)
    return Picture(
        title="The spectrum at the first weights",
        found=found,
        ends=(ends.smallest.value, ends.largest.value),
        limit=limit if limit is not None and math.isfinite(limit) else None,
        matrix=name,
    )


# In a run directory --------------------------------------------------------------------------------------


def store_pictures(pictures: Pictures, directory: Path) -> Path:
    """Keep pictures in a run directory, in place of those that are there.

    Raises:
        RunDirectoryError: it can't be written.
    """
    kept = {
        "version": 1,
        "gradients": pictures.gradients,
        "notes": list(pictures.notes),
        "pictures": [
            {
                **{name: _plain(value) for name, value in vars(each).items() if name != "found"},
                "kind": type(each.found).__name__,
                "found": {name: _plain(value) for name, value in vars(each.found).items()},
            }
            for each in pictures.shown
        ],
    }
    place = directory / FILE
    try:
        write_whole(place, json.dumps(kept, ensure_ascii=False, allow_nan=False).encode())
    except OSError as problem:
        raise RunDirectoryError(
            f"{place} can't be written ({reason(problem)}); make the directory writable, or ask for a page"
        ) from problem
    return place


def read_pictures(directory: Path) -> Pictures | None:
    """Return the pictures that a run directory holds; ``None``: it has none. No code is run.

    Raises:
        RunDirectoryError: they are damaged.
    """
    place = directory / FILE
    if not place.is_file():
        return None
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        shown = tuple(_picture(each) for each in kept["pictures"])
        notes = tuple(str(note) for note in kept["notes"])
        return Pictures(shown=shown, gradients=float(kept["gradients"]), notes=notes)
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as problem:
        raise RunDirectoryError(
            f"{place} isn't what thalweg writes there ({type(problem).__name__}: {problem}); remove it, or "
            "diagnose the run with pictures again"
        ) from problem


def _picture(kept: Mapping[str, Any]) -> Picture:
    kind = _KINDS[kept["kind"]]
    given = {field.name: _back(field.name, kept["found"][field.name]) for field in dataclasses.fields(kind)}
    found = kind(**given)
    if isinstance(found, (LossSurface, TrajectoryPlane)) and found.losses.shape != (
        len(found.second),
        len(found.first),
    ):
        raise ValueError(f"losses of shape {found.losses.shape} don't go with their axes")
    beside = {name: _back(name, value) for name, value in kept.items() if name not in ("kind", "found")}
    return Picture(found=found, **beside)


def _plain(value: Any) -> Any:
    """As JSON, which knows no infinity."""
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value]
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else str(float(value))
    return value


def _back(name: str, value: Any) -> Any:
    if name in _PAIRS:
        return value if value is None else tuple(_number(each) for each in value)
    if isinstance(value, list):
        return np.array(
            [[_number(each) for each in row] if isinstance(row, list) else _number(row) for row in value]
        )
    return _number(value)


def _number(value: Any) -> Any:
    return float(value) if value in ("inf", "-inf", "nan") else value
