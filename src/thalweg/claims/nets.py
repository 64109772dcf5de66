"""Small data, small nets and short trainings that several claims share."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from thalweg import data
from thalweg.execution.sweep import Sweep
from thalweg.initial import initialize
from thalweg.randomness import streams
from thalweg.schedules import Plateau
from thalweg.test_problems import tasks
from thalweg.test_problems.tasks import SmallProblem

__all__ = [
    "Parts",
    "best",
    "descend",
    "drawn",
    "mislabelled",
    "mlp",
    "noisy_task",
    "parts",
    "right",
    "seconds_of_steps",
]

Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Parts:
    """Inputs and targets of the three parts of a data set."""

    train: Examples
    validation: Examples
    test: Examples


def drawn(*shape: int, seed: int, of: str = "") -> Tensor:
    """Return float64 draws of the standard normal distribution; ``of`` keeps several of a seed apart."""
    return streams.normal(shape, seed=seed, stream=f"claims/{of}", dtype=torch.float64)


def parts(name: str, seed: int, *, examples: int | None = None, flat: bool = True) -> Parts:
    """Split a built-in data set by a seed.

    Args:
        name: of the data set.
        seed: of the split.
        examples: how many are left to train on; by default 60 %.
        flat: one row of numbers for each example.
    """
    prepared = data.prepare(data.load(name), seed=seed, replicate=0)
    found = []
    for each in (prepared.train, prepared.validation, prepared.test):
        assert isinstance(each, data.TensorExamples)
        found.append((each.inputs.flatten(1) if flat else each.inputs, each.targets))
    (inputs, targets), validation, test = found
    return Parts((inputs[:examples], targets[:examples]), validation, test)


def mislabelled(targets: Tensor, share: float, seed: int) -> Tensor:
    """Return classes of which a share are drawn anew, evenly among all classes."""
    uniform = streams.uniform((2, len(targets)), seed=seed, stream="claims/mislabelled")
    other = (uniform[0] * (int(targets.max()) + 1)).long()
    return torch.where(uniform[1] < share, other, targets)


def mlp(
    *widths: int,
    seed: int,
    scheme: str = "he",
    activation: Callable[[], nn.Module] = nn.ReLU,
    after: Callable[[int], Sequence[nn.Module]] = lambda width: (),
    **options: Any,
) -> nn.Sequential:
    """Make a net of linear layers with its initial weights, float32.

    Args:
        widths: of its inputs, of each layer, of its outputs.
        seed: of the weights.
        scheme, options: as for :func:`thalweg.initial.initialize`.
        activation: between layers.
        after: what follows each of these, by its width.
    """
    layers: list[nn.Module] = []
    for before, width in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(before, width), activation(), *after(width)]
    net = nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))
    initialize(net, scheme, seed=seed, **options)
    return net


def right(outputs: Tensor, examples: Examples) -> float:
    """Return the share of examples whose class has the largest output."""
    return (outputs.argmax(-1) == examples[1]).double().mean().item()


def best(found: Sweep, *, by: str = "validation_loss", **where: Any) -> dict[str, Any]:
    """Return the last evaluation of the setting that ends lowest in a column.

    Scores of a run that diverged are 0, and its losses infinite.

    Args:
        found: of one seed.
        by: name of the column.
        where: the settings among which is chosen, by values of columns.
    """
    rows = found.final()
    for name, value in where.items():
        rows = rows.filter(polars.col(name) == value)
    losses, scores = polars.col("^(train|validation)_loss$"), polars.col(f"^({found.metric}|test)$")
    return rows.with_columns(losses.fill_null(math.inf), scores.fill_null(0.0)).sort(by).row(0, named=True)


def descend(
    problem: SmallProblem,
    lanes: Sequence[tuple[float, Callable[[int], float]]],
    *,
    batch: int | Callable[[int], int],
    steps: int,
    seed: int,
    looks: int = 40,
) -> Tensor:
    """Descend along gradients of random batches, in several lanes that see the same batches.

    Args:
        problem: begun at its starting point.
        lanes: the rate of each of K lanes, and what it is multiplied by at a step; a
            :class:`~thalweg.schedules.Plateau` is shown the loss at each look.
        batch: how many examples, drawn with replacement, or that from the number of a step; all of the
            examples, each once, where it is as many as there are.
        steps: how many.
        seed: of the batches.
        looks: how often the loss over all examples is taken.

    Returns:
        Losses ``[looks + 1, K]``, the first before any step; infinite where they aren't numbers.
    """
    points = [p.expand(len(lanes), *p.shape).clone() for p in problem.parameters()]
    loss, slope = _of_lanes(problem)
    generator = torch.Generator().manual_seed(seed)
    curve = [loss(points)]
    for step in range(steps):
        size = batch(step) if callable(batch) else batch
        chosen = torch.arange(problem.examples)
        if size < problem.examples:
            chosen = torch.randint(problem.examples, (size,), generator=generator)
        rates = torch.tensor([rate * factor(step) for rate, factor in lanes], dtype=points[0].dtype)
        for point, gradient in zip(points, slope(points, chosen), strict=True):
            point -= rates.reshape(-1, *[1] * (point.ndim - 1)) * gradient
        if (step + 1) * looks // steps > step * looks // steps:
            curve.append(loss(points))
            for (_, factor), value in zip(lanes, curve[-1].tolist(), strict=True):
                if isinstance(factor, Plateau):
                    factor.observe(value)
    return torch.stack(curve).nan_to_num(torch.inf)


def _of_lanes(
    problem: SmallProblem,
) -> tuple[Callable[[list[Tensor]], Tensor], Callable[[list[Tensor], Tensor], Sequence[Tensor]]]:
    """Return loss and gradient for parameters ``[K, ...]``."""
    if not isinstance(problem.template, nn.Linear):
        return vmap(problem.loss), vmap(grad(problem.batch_loss), (0, None))

    def losses(points: list[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = inputs @ points[0].mT + (points[1][:, None] if len(points) > 1 else 0.0)
        weight = problem.scale * problem.examples / len(targets)
        if problem.per_example is None:
            return weight * (outputs - targets).square().sum((1, 2))
        penalty = problem.penalty / 2 * points[0].square().sum((1, 2))
        return weight * problem.per_example(outputs, targets).sum(-1) + penalty

    def slope(points: list[Tensor], chosen: Tensor) -> Sequence[Tensor]:
        # a call of vmap takes longer than such small products
        leaves = [point.detach().requires_grad_() for point in points]
        total = losses(leaves, problem.inputs[chosen], problem.targets[chosen]).sum()
        return torch.autograd.grad(total, leaves)

    return lambda points: losses(points, problem.inputs, problem.targets), slope


def noisy_task(name: str, seed: int, *, dimensions: int = 5) -> SmallProblem:
    """Return a task by its name, or ``"least-squares"``: a quadratic whose examples disagree.

    That one fits 400 points with errors; its scales differ by about ten.
    """
    if name != "least-squares":
        return tasks.get(name, seed=seed)
    scales = torch.logspace(0, -0.5, dimensions, dtype=torch.float64)
    inputs = drawn(400, dimensions, seed=seed, of="inputs") * scales
    targets = inputs.sum(1, keepdim=True) + drawn(400, 1, seed=seed, of="errors")
    model = nn.Linear(dimensions, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    return SmallProblem(
        name=name, title="Least squares", summary="a quadratic", source="made up", inputs=inputs,
        targets=targets, scale=1 / len(targets), template=model,
    )  # fmt: skip


def seconds_of_steps(net: nn.Module, batches: Sequence[Tensor], *, rounds: int = 60) -> list[float]:
    """Return the shortest time of a gradient of each batch; they take turns to see the same load."""
    took: list[list[float]] = [[] for _ in batches]
    for _ in range(rounds):
        for batch, times in zip(batches, took, strict=True):
            began = time.perf_counter()
            net.zero_grad()
            torch.autograd.backward(net(batch).square().mean())
            times.append(time.perf_counter() - began)
    return [min(times) for times in took]
