"""Continuation: a series of objectives over the same parameters, each easier than the next.

The blurred loss with less and less noise is one such series (:func:`continuation`), a homotopy another
(:mod:`thalweg.stages.homotopy`). The idea breaks down in three ways, which are looked for here: the function
isn't convex however much it is blurred (:func:`curvature_when_blurred`); the minimum of the blurred function
leads to a worse one than the plain training finds, or it takes so many steps that nothing is gained
(:func:`compare`).

Source: P7 (N 8.7.6, U slide 37-38, K).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from thalweg.curvature import Hessian, lanczos
from thalweg.errors import OptionError
from thalweg.layers.modes import set_own_mode
from thalweg.secondorder.minimizing import minimize
from thalweg.settings.tables import is_number, whole_number
from thalweg.stages.blurring import Blurred, BlurredLoss, blur
from thalweg.stages.progress import Changing, by_progress, said_of
from thalweg.stages.stage import Stage

__all__ = [
    "ContinuationFailure",
    "Continued",
    "Curvature",
    "FoundMinimum",
    "compare",
    "continuation",
    "curvature_when_blurred",
    "lengths_of",
    "minimize_by_continuation",
    "never_convex",
    "sigmas_of",
]

Failure = Literal["too many steps", "not convex", "worse minimum"]


def continuation(
    model: nn.Module,
    loss: Any,
    sigmas: Sequence[Changing],
    *,
    epochs: int | Sequence[int] | None = None,
    steps: int | Sequence[int] | None = None,
    samples: int = 8,
    antithetic: bool = True,
    draws: str = "step",
    name: str = "blur",
    **settings: Any,
) -> list[Stage]:
    """Return stages that lower the loss blurred by Gaussian noise on the parameters, less and less.

    Stage i lowers ``J_i(theta) = E J(theta + sigma_i * eps)``, over ``samples`` draws
    (:class:`thalweg.stages.blurring.Blurred`), beginning where the one before has ended. Where sigma is 0 the
    stage is a plain one; give 0 as the last. What is evaluated on validation data is the model without noise.

    Args:
        model: that is to be trained.
        loss: a name, or a function of outputs and targets.
        sigmas: of each stage: a number of at least 0, or a function of the part of the stage that is done.
        epochs, steps: of each stage, or one number for each.
        samples, antithetic, draws: as for :class:`~thalweg.stages.blurring.Blurred`.
        name: of the stages, followed by their numbers.
        settings: other settings of every :class:`thalweg.stages.Stage`.

    Raises:
        OptionError: a value out of range, no sigma at all, or not as many epochs as sigmas.

    >>> stages = continuation(nn.Linear(2, 1), "mse", [0.3, 0.1, 0], epochs=5)
    >>> [(stage.name, stage.epochs, stage.about["sigma"]) for stage in stages]
    [('blur 1', 5, 0.3), ('blur 2', 5, 0.1), ('blur 3', 5, 0.0)]

    Source: P7 (N 8.40, K).
    """
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"the model is of type {type(model).__name__}, not a torch.nn.Module; give a module"
        )
    given = sigmas_of(sigmas)
    lengths = zip(
        lengths_of("epochs", epochs, len(given)), lengths_of("steps", steps, len(given)), strict=True
    )
    # said now and not when the stage begins
    blurs = {"samples": samples, "antithetic": antithetic, "draws": draws}
    Blurred(nn.Identity(), 0.0, **blurs)  # type: ignore[arg-type]
    about = settings.pop("about", {})
    stages = []
    for number, (sigma, (long, many)) in enumerate(zip(given, lengths, strict=True), 1):
        own = {"name": f"{name} {number}", "epochs": long, "steps": many, **settings}
        own["about"] = {"sigma": said_of(sigma), **blurs, **about}
        if is_number(sigma) and sigma == 0:
            stages.append(Stage(loss=loss, **own))
            continue
        own.setdefault("validation_loss", loss)
        build = functools.partial(Blurred, sigma=sigma, **blurs)  # type: ignore[arg-type]
        stages.append(Stage(build=build, loss=BlurredLoss(loss), **own))
    return stages


def sigmas_of(sigmas: Any) -> list[Changing]:
    """Return the noise of each stage, checked.

    Raises:
        OptionError: none at all, or one out of range.
    """
    if is_number(sigmas) or callable(sigmas):
        sigmas = [sigmas]
    found = list(sigmas)
    if not found:
        raise OptionError("sigmas is empty; give the noise of each stage, such as [0.3, 0.1, 0]")
    for sigma in found:
        by_progress("sigma", sigma, least=0)
    return found


def lengths_of(name: str, value: Any, count: int) -> list[int | None]:
    """Return one length for each of so many stages, from one number or as many.

    Raises:
        OptionError: neither one nor as many.
    """
    if value is None or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise OptionError(
            f"{name} are {len(value)} numbers for {count} sigmas; give one for each, or one for all"
        )
    return list(value)


# Whether it became convex -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ContinuationFailure:
    """A way in which a continuation breaks down, as far as it was seen.

    Attributes:
        failure: which of the three.
        sentence: the evidence.
    """

    failure: Failure
    sentence: str

    def __str__(self) -> str:
        return self.sentence


class Curvature(NamedTuple):
    """How much a blurred function curves along a direction in which it curves down, if there is one.

    Attributes:
        sigma: of the noise.
        value: ``v' H v``, H the Hessian of the blurred function and v of length 1. Below 0 it proves that the
            function isn't convex; above 0 it proves nothing, since only one point was looked at.
        error: standard error of it, from other draws than those by which v was found.
    """

    sigma: float
    value: float
    error: float

    @property
    def curves_down(self) -> bool:
        """Whether it is below 0 by more than three standard errors, so that the function isn't convex."""
        return self.value + 3 * self.error < 0


class _AtPoint(nn.Module):
    """A function of a tensor as a model: its parameter is the point, its output the value."""

    def __init__(self, function: Callable[[Tensor], Tensor], point: Tensor) -> None:
        super().__init__()
        self.point, self._function = nn.Parameter(point.detach().clone()), function

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the value, for one example."""
        return self._function(self.point).reshape(1)


def curvature_when_blurred(
    model: nn.Module | Callable[[Tensor], Tensor],
    data: Any,
    loss: Any = None,
    *,
    sigmas: Sequence[float],
    samples: int = 16,
    antithetic: bool = True,
    repeats: int = 8,
    most_products: int = 30,
    seed: int = 0,
) -> list[Curvature]:
    """Look for a direction in which the blurred function curves down, at a point, for each sigma.

    The direction is that of the smallest eigenvalue of the Hessian of one blurred function, by Lanczos
    iteration (:func:`thalweg.curvature.lanczos`). The curvature along it is measured again on ``repeats``
    blurred functions with other draws, whose mean has no bias from the search.

    Args:
        model: any module, at the weights to look at; or a function of a tensor to a number.
        data: a batch or batches, as for :class:`thalweg.curvature.Hessian`; for a function the point, a
            tensor.
        loss: of the model: a name, or a function of outputs and targets.
        sigmas: at least 0.
        samples, antithetic: of each blurred function, as for :class:`~thalweg.stages.blurring.Blurred`.
        repeats: at least 2.
        most_products: of the Lanczos iteration, at least 1.
        seed: of the draws.

    Returns:
        One for each sigma.

    Raises:
        OptionError: a value out of range, a model without a loss.

    >>> down = curvature_when_blurred(
    ...     lambda theta: -theta.square().sum(), torch.zeros(3, dtype=torch.float64), sigmas=[0.1, 10.0]
    ... )
    >>> [(round(found.value, 6), found.curves_down) for found in down]
    [(-2.0, True), (-2.0, True)]

    Source: P7 (N): -theta'theta isn't convex however much it is blurred; X3.
    """
    repeats = whole_number("repeats", repeats, least=2)
    if isinstance(model, nn.Module):
        if loss is None:
            raise OptionError("the loss of the model isn't known; give it, as loss='cross-entropy'")
        batches, own = data, loss
    else:
        if not isinstance(data, Tensor) or not data.is_floating_point():
            raise OptionError("of a function the point is needed, as a tensor of fractions")
        model = _AtPoint(model, data)
        ones = torch.zeros(1, dtype=data.dtype, device=data.device)
        batches, own = (ones, ones), _value
    found = []
    for sigma in sigmas_of(sigmas):
        blurred = Blurred(model, sigma, samples, antithetic=antithetic)
        set_own_mode(blurred, True)
        hessian = Hessian(blurred, BlurredLoss(own), batches)
        blurred.follow(progress=0.0, step=0, seed=seed)
        v = lanczos(hessian, ends="smallest", most_products=most_products, seed=seed).smallest.vector
        v = [part.to(p.dtype) for part, p in zip(v, hessian.vectors.leaves, strict=True)]
        values = []
        for step in range(1, repeats + 1):
            blurred.follow(progress=0.0, step=step, seed=seed)
            along = zip(v, hessian @ v, strict=True)
            values.append(sum(float((a.double() * b.double()).sum()) for a, b in along))
        spread = torch.tensor(values, dtype=torch.float64)
        found.append(Curvature(blurred.sigma, float(spread.mean()), float(spread.std()) / math.sqrt(repeats)))
    return found


def _value(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def never_convex(found: Sequence[Curvature]) -> ContinuationFailure | None:
    """Return a failure where a function curves down at every sigma that was tried, and ``None`` otherwise.

    >>> print(never_convex([Curvature(0.1, -2.0, 0.0), Curvature(1.0, -1.5, 0.1)]))
    not convex however much it was blurred: at each sigma from 0.1 to 1 the blurred function curves down in \
some direction (at 1 by -1.5, standard error 0.1)
    >>> never_convex([Curvature(0.1, -2.0, 0.0), Curvature(1.0, 0.5, 0.1)])

    Source: P7 (N).
    """
    if not found or not all(each.curves_down for each in found):
        return None
    last = max(found, key=lambda each: each.sigma)
    least = min(each.sigma for each in found)
    reach = (
        f"at each sigma from {least:g} to {last.sigma:g}" if len(found) > 1 else f"at sigma {last.sigma:g}"
    )
    return ContinuationFailure(
        failure="not convex",
        sentence=f"not convex however much it was blurred: {reach} the blurred function curves down in some "
        f"direction (at {last.sigma:g} by {last.value:.3g}, standard error {last.error:.2g})",
    )


# Whether it was worth it --------------------------------------------------------------------------------


class FoundMinimum(NamedTuple):
    """What came of a training.

    Attributes:
        value: of the true objective at its end, the lower the better.
        work: that it took, in any unit that is the same for all, such as passes over the data; of a step with
            K draws K times that of a plain one.
        curve: pairs of work and value on the way, where they are known.
    """

    value: float
    work: float
    curve: Sequence[tuple[float, float]] = ()


def compare(continued: Sequence[FoundMinimum], direct: Sequence[FoundMinimum]) -> list[ContinuationFailure]:
    """Say what speaks against a continuation: a worse minimum than without it, or too many steps.

    Those in the same place are a pair, such as of the same seed. It led to a worse minimum where the mean
    difference of pairs is above 0 by more than chance: its interval of 95 % by Student's t, of at least two
    pairs, lies above 0. It took too many steps where in most pairs the direct training was at least as low at
    less work.

    Args:
        continued: outcomes of trainings by continuation.
        direct: of trainings without it, as many.

    Returns:
        None, one or both.

    Raises:
        OptionError: not as many of one as of the other, none, or values that aren't numbers.

    >>> slow, quick = FoundMinimum(0.5, 900.0), FoundMinimum(0.5, 100.0)
    >>> [found.failure for found in compare([slow, slow], [quick, quick])]
    ['too many steps']
    >>> worse = [FoundMinimum(2.0, 9), FoundMinimum(2.1, 9)]
    >>> [found.failure for found in compare(worse, [FoundMinimum(1.0, 9)] * 2)]
    ['worse minimum']

    Source: P7 (N): "the minimum of this blurred function may track to a local rather than a global minimum";
    "it might require so many incremental cost functions that the cost of the entire procedure remains high".
    """
    if not continued or len(continued) != len(direct):
        raise OptionError(
            f"there are {len(continued)} outcomes by continuation and {len(direct)} without; give pairs, at "
            "least one"
        )
    if any(math.isnan(each.value) or not each.work > 0 for each in (*continued, *direct)):
        raise OptionError("an outcome has no value, or no work; give numbers, and work above 0")
    return [*_worse(continued, direct), *_too_long(continued, direct)]


def _worse(continued: Sequence[FoundMinimum], direct: Sequence[FoundMinimum]) -> list[ContinuationFailure]:
    # which takes long to import, and every training imports this room
    from scipy import stats

    differences = [a.value - b.value for a, b in zip(continued, direct, strict=True)]
    count, mean = len(differences), sum(differences) / len(differences)
    one, other = (sum(each.value for each in some) / count for some in (continued, direct))
    said = f"the continuation led to a worse minimum: {one:.4g} against {other:.4g} without"
    if count == 1:
        if mean <= 0:
            return []
        said += ", in a single pair, which may be chance"
    else:
        spread = math.sqrt(sum((each - mean) ** 2 for each in differences) / (count - 1))
        reach = (
            float(stats.t.ppf(0.975, count - 1)) * spread / math.sqrt(count) if math.isfinite(mean) else 0.0
        )
        if not mean - reach > 0:
            return []
        said += f" (difference {mean:.3g}, 95 % from {mean - reach:.3g} to {mean + reach:.3g}, n = {count})"
    return [ContinuationFailure(failure="worse minimum", sentence=said)]


def _too_long(continued: Sequence[FoundMinimum], direct: Sequence[FoundMinimum]) -> list[ContinuationFailure]:
    pairs = []
    for mine, other in zip(continued, direct, strict=True):
        reached = [work for work, value in [*other.curve, (other.work, other.value)] if value <= mine.value]
        if reached and min(reached) < mine.work:
            pairs.append((mine, min(reached)))
    if 2 * len(pairs) <= len(continued):
        return []
    mine, least = max(pairs, key=lambda pair: pair[0].work / max(pair[1], 1e-300))
    said = (
        f"too many steps: in {len(pairs)} of {len(continued)} pairs the direct training was as low at less "
        f"work, as at {least:g} against {mine.work:g} for {mine.value:.4g}"
    )
    return [ContinuationFailure(failure="too many steps", sentence=said)]


# A person's own objective -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Continued:
    """What :func:`minimize_by_continuation` found.

    Attributes:
        point: where it ended.
        value: of the function there.
        path: the minimum of each blurred function, in order.
        direct: where the minimization of the function itself from the same start ended.
        direct_value: of the function there.
        work: evaluations of the function by continuation, and directly.
        curvatures: of the blurred functions at the start, see :func:`curvature_when_blurred`.
        failures: what speaks against it.
    """

    point: Tensor
    value: float
    path: list[Tensor]
    direct: Tensor
    direct_value: float
    work: tuple[float, float]
    curvatures: list[Curvature]
    failures: list[ContinuationFailure]


def minimize_by_continuation(
    function: Callable[[Tensor], Tensor],
    start: Tensor,
    sigmas: Sequence[float],
    *,
    samples: int = 64,
    antithetic: bool = True,
    seed: int = 0,
    method: str = "bfgs",
    max_iterations: int = 200,
) -> Continued:
    """Minimize a function by a series of blurred ones, and directly from the same start, and compare.

    Args:
        function: of a tensor to a scalar tensor; it has to be computable under :func:`torch.vmap`.
        start: where both begin.
        sigmas: of the series, at least 0; the function itself comes last.
        samples, antithetic, seed: of the draws, which are the same in all of the series.
        method: of :func:`thalweg.secondorder.minimizing.minimize`.
        max_iterations: of each minimization.

    Raises:
        OptionError: a value out of range.

    >>> def wells(t):                       # the lower one is at -1.04
    ...     return ((t.square() - 1).square() + 0.3 * t).sum()
    >>> found = minimize_by_continuation(wells, torch.tensor([1.5], dtype=torch.float64), [1.0, 0.5, 0.2])
    >>> round(found.point.item(), 2), round(found.direct.item(), 2), found.failures
    (-1.04, 0.96, [])

    Source: P7 (N 8.40).
    """
    given = [float(sigma(0.0) if callable(sigma) else sigma) for sigma in sigmas_of(sigmas)]
    path, work, point = list[Tensor](), 0.0, start.detach().clone()
    for sigma in given:
        blurred = blur(function, sigma, samples=samples, antithetic=antithetic, seed=seed)
        found = minimize(blurred, point, method=method, max_iterations=max_iterations)
        point, work = found.x, work + found.counts.evaluations * (samples if sigma else 1)
        path.append(point)
    last = minimize(function, point, method=method, max_iterations=max_iterations)
    direct = minimize(function, start, method=method, max_iterations=max_iterations)
    curvatures = curvature_when_blurred(
        function, start, sigmas=given, samples=samples, antithetic=antithetic, seed=seed
    )
    outcomes = [
        FoundMinimum(float(last.value), work + last.counts.evaluations),
        FoundMinimum(float(direct.value), direct.counts.evaluations),
    ]
    failures = [] if (never := never_convex(curvatures)) is None else [never]
    return Continued(
        point=last.x,
        value=outcomes[0].value,
        path=path,
        direct=direct.x,
        direct_value=outcomes[1].value,
        work=(outcomes[0].work, outcomes[1].work),
        curvatures=curvatures,
        failures=[*failures, *compare(outcomes[:1], outcomes[1:])],
    )
