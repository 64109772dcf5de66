"""The rows of the second-order optimizers: which way and how far, over larger batches.

A step works on one batch, which stays the same within the step (N, on conjugate gradients over minibatches),
for up to ``max_iter`` iterations; the next step takes the next batch. How large batches are belongs to each
pool: ``batch_factor`` times the race's batch, growing to ``batch_growth`` times that by the end (E3). Batches
begin larger than a first-order method's, since curvature magnifies what a small one is wrong by (K).
Gauss-Newton and Levenberg-Marquardt are raced without matrices. The ends of all ranges are this project's
own; iterations on a batch after Le et al., On optimization methods for deep learning, 2011.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from thalweg import optim
from thalweg.catalogue.entry import Call, Entry, Hyperparameter, StepKind, bounded
from thalweg.secondorder.closures import ClosureOptimizer

__all__ = ["OF_RUN", "SECOND_ORDER"]


def _factor(default: float) -> Hyperparameter:
    return Hyperparameter(
        name="batch_factor", default=default, low=4.0, high=64.0, searched=True, least=1.0, of_run=True
    )


_GROWTH = Hyperparameter(
    name="batch_growth", default=1.0, low=1.0, high=16.0, searched=True, least=1.0, of_run=True
)
OF_RUN = (_factor(16.0), _GROWTH)
"""What the runs of an optimizer that evaluates as often as it likes have of their own: their batches."""

_RATE = Hyperparameter(name="lr", default=1.0, low=1e-3, high=1e1)


def _iterations(default: float, high: float) -> Hyperparameter:
    """The classes take 0 too, as torch's does, with which a step does nothing."""
    return Hyperparameter(name="max_iter", default=default, low=1, high=high, searched=True, least=1)


def _entry(
    name: str,
    title: str,
    family: str,
    summary: str,
    formula: str,
    source: str,
    target: type[ClosureOptimizer],
    step_kind: StepKind,
    hyperparameters: tuple[Hyperparameter, ...],
    fixed: Mapping[str, Any] = MappingProxyType({}),
    *,
    dense: bool = False,
) -> Entry:
    hyperparameters = bounded(hyperparameters, target.bounds, {})
    return Entry(
        name=name,
        title=title,
        family=family,
        summary=summary,
        formula=formula,
        source=source,
        hyperparameters=hyperparameters,
        rule=None,
        options=MappingProxyType({}),
        call=Call(
            target=target,
            spelling=f"thalweg.optim.{target.__name__}",
            imports=("import thalweg.optim",),
            fixed=MappingProxyType(dict(fixed)),
            always=tuple(hyper.name for hyper in hyperparameters if hyper.searched),
        ),
        scheduled=False,
        step_kind=step_kind,
        dense=dense,
    )


_OF_A_BATCH = (_iterations(20, 32), *OF_RUN, _RATE)
_PRODUCTS = Hyperparameter(name="max_products", default=10, low=1, high=50, searched=True)


def _conjugate(name: str, title: str, formula: str, spelled: str, source: str) -> Entry:
    return _entry(
        name, f"Conjugate gradients, {title}", "conjugate",
        f"Directions that don't undo what earlier ones gained, with the beta of {title}.",
        f"d = -g + beta * d_before, beta = {spelled};  p = p + a * d, a "
        f"by a line search",
        source,
        optim.NonlinearCG, "closure",
        (
            *_OF_A_BATCH,
            Hyperparameter(name="sgd_steps", default=0, low=1, high=100),
            Hyperparameter(name="sgd_lr", default=0.01, low=1e-4, high=1e0),
        ),
        {"formula": formula},
    )  # fmt: skip


SECOND_ORDER: tuple[Entry, ...] = (
    _entry(
        "lbfgs", "L-BFGS", "secant",
        "Newton's direction from the last few pairs of steps and changes of the gradient.",
        "p = p - a * M g, M from the last history_size pairs (s, y) by two loops, a by a line search",
        "O12; Nocedal 1980, Liu and Nocedal 1989",
        optim.LBFGS, "closure",
        (*_OF_A_BATCH, Hyperparameter(name="history_size", default=100, low=1, high=100)),
        {"line_search_fn": "strong_wolfe"},
    ),
    _entry(
        "bfgs", "BFGS", "secant",
        "Newton's direction with an inverse Hessian that every step improves.",
        "M = (I - r s y') M (I - r y s') + r s s', r = 1 / s'y;  p = p - a * M g, a by a line search",
        "O12; Broyden, Fletcher, Goldfarb, Shanno 1970",
        optim.BFGS, "closure",
        _OF_A_BATCH,
        dense=True,
    ),
    _conjugate(
        "cg-fr", "Fletcher-Reeves", "fletcher-reeves", "g'g / g_before'g_before",
        "O11; Fletcher and Reeves 1964",
    ),
    _conjugate(
        "cg-pr", "Polak-Ribière", "polak-ribiere", "g'(g - g_before) / g_before'g_before",
        "O11; Polak and Ribière 1969",
    ),
    _conjugate(
        "cg-pr+", "Polak-Ribière, never negative", "polak-ribiere+",
        "max(0, g'(g - g_before) / g_before'g_before)",
        "O11; Polak and Ribière 1969, Powell 1984",
    ),
    _conjugate(
        "cg-hs", "Hestenes-Stiefel", "hestenes-stiefel", "g'y / d_before'y, y = g - g_before",
        "O11; Hestenes and Stiefel 1952",
    ),
    _conjugate(
        "cg-dy", "Dai-Yuan", "dai-yuan", "g'g / d_before'y, y = g - g_before",
        "O11; Dai and Yuan 1999",
    ),
    _conjugate(
        "cg-hz", "Hager-Zhang", "hager-zhang",
        "(y - 2 d_before y'y / d_before'y)'g / d_before'y, y = g - g_before",
        "O11; Hager and Zhang 2005",
    ),
    _entry(
        "newton", "Newton's method", "newton",
        "To the minimum of the quadratic that the Hessian describes, eigenvalues made positive.",
        "p = p - a * (|H| + damping * I)^-1 g, a by a line search",
        "O9; N algorithm 8.8 and (8.28)",
        optim.Newton, "graph",
        (
            Hyperparameter(name="damping", default=0.0, low=1e-6, high=1e1, searched=True),
            _iterations(1, 8),
            *OF_RUN, _RATE,
        ),
        {"modified": True, "line_search_fn": "strong_wolfe"},
        dense=True,
    ),
    _entry(
        "newton-cg", "Newton-CG", "newton",
        "Newton's direction without a matrix, by conjugate gradients that go along negative curvature too.",
        "H d = -g by conjugate gradients, at most max_products of them;  p = p + a * d, a by a line search",
        "O9, O13; Dembo and Steihaug 1983",
        optim.NewtonCG, "graph",
        (
            _PRODUCTS,
            _iterations(1, 8),
            *OF_RUN, _RATE,
        ),
    ),
    _entry(
        "gauss-newton", "Gauss-Newton", "newton",
        "Newton's direction with what the loss bends by, and not the network.",
        "J'HJ d = -g by conjugate gradients, H that of the loss in the outputs;  p = p + a * d, a by halving",
        "O10; Gauss 1809, Schraudolph 2002, Martens 2010",
        optim.GaussNewton, "outputs",
        (
            _PRODUCTS,
            _iterations(1, 8),
            *OF_RUN, _RATE,
        ),
        {"solver": "cg"},
    ),
    _entry(
        "levenberg-marquardt", "Levenberg-Marquardt", "newton",
        "Gauss-Newton, diagonally loaded, with a damping that follows how well it predicts.",
        "(J'HJ + mu * I) d = -g by conjugate gradients;  p = p + d where that gains;  mu falls with the gain "
        "over what was predicted, and grows where there is none",
        "O10; Levenberg 1944, Marquardt 1963, Martens 2010",
        optim.LevenbergMarquardt, "outputs",
        (
            Hyperparameter(name="damping", default=1e-3, low=1e-5, high=1e2, searched=True),
            _PRODUCTS,
            _iterations(1, 8),
            *OF_RUN,
        ),
        {"solver": "cg"},
    ),
    _entry(
        "steepest-descent", "Steepest descent", "descent",
        "The gradient's direction with a line search: it zig-zags where contours are long.",
        "p = p - a * g, a by a line search",
        "O14, O15; Cauchy 1847",
        optim.SteepestDescent, "closure",
        _OF_A_BATCH,
    ),
)  # fmt: skip
