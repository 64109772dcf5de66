"""The rows of the first-order optimizers of the lectures and of their descendants, in the order of the race.

Which numbers are searched and on which scale follows published tuning protocols (Choi et al. 2019, Schmidt
et al. 2021): rates and eps logarithmically, momentum and betas by their distance from 1. The ends of the
ranges are this project's own: wide enough for small and middling networks, with every default well inside.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch

from thalweg import optim, rules
from thalweg.catalogue.entry import Call, Entry, Hyperparameter, bounded
from thalweg.optim.base import RuleOptimizer
from thalweg.rules import Rule

__all__ = ["FIRST_ORDER"]

_BETAS = MappingProxyType({"betas": ("beta1", "beta2")})


def _entry(
    name: str,
    title: str,
    family: str,
    summary: str,
    formula: str,
    source: str,
    rule: Rule,
    target: type[RuleOptimizer],
    hyperparameters: Iterable[Hyperparameter],
    options: Mapping[str, bool | str] = MappingProxyType({}),
    pairs: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    *,
    raced: bool = False,
    scheduled: bool = True,
    fixed: Mapping[str, Any] | None = None,
) -> Entry:
    listed = bounded(hyperparameters, target.bounds, pairs)
    # A script needs thalweg only where torch lacks the class.
    home = "torch" if fixed is None and hasattr(torch.optim, target.__name__) else "thalweg"
    return Entry(
        name=name,
        title=title,
        family=family,
        summary=summary,
        formula=formula,
        source=source,
        hyperparameters=listed,
        rule=rule,
        options=MappingProxyType({**rule.options, **options}),
        call=Call(
            target=target,
            spelling=f"{home}.optim.{target.__name__}",
            imports=() if home == "torch" else ("import thalweg.optim",),
            fixed=MappingProxyType(dict(options if fixed is None else fixed)),
            pairs=pairs,
            always=tuple(hyper.name for hyper in listed if hyper.searched),
        ),
        raced=raced,
        scheduled=scheduled,
    )


def _listed(
    name: str,
    default: float,
    low: float,
    high: float,
    scale: Literal["log", "linear", "complement"] = "log",
    *,
    searched: bool = False,
    **narrower: float,
) -> Hyperparameter:
    """What is legal is what the class declares, but for ends that are narrower here."""
    return Hyperparameter(
        name=name,
        default=default,
        low=low,
        high=high,
        scale=scale,
        searched=searched,
        **narrower,  # type: ignore[arg-type]
    )


_searched = functools.partial(_listed, searched=True)

# Listed so that anybody can set them or give them a range; 0 switches them off.
_DECAY = _listed("weight_decay", 0.0, 1e-6, 1e-1)
# narrower than torch's classes, which take any: nothing outside of these is a method that somebody means
_DAMPENING = _listed("dampening", 0.0, 0.0, 1.0, "linear", least=0.0, most=1.0)
_NO_MOMENTUM = _listed("momentum", 0.0, 0.0, 0.999, "complement", below=1.0)
_MOMENTUM = _searched("momentum", 0.9, 0.0, 0.999, "complement", below=1.0)
_ADAM = (
    _searched("lr", 1e-3, 1e-5, 1e-1),
    _searched("beta1", 0.9, 0.5, 0.99, "complement"),
    _searched("beta2", 0.999, 0.9, 0.9999, "complement"),
)
_SPACES = "dimensions and scales of the space after Choi et al. 2019, Schmidt et al. 2021; its ends are ours"

FIRST_ORDER: tuple[Entry, ...] = (
    _entry(
        "sgd", "SGD", "descent",
        "Gradient descent on minibatches.",
        "p = p - lr * g",
        f"O1; {_SPACES}",
        rules.sgd, optim.SGD,
        (_searched("lr", 1e-3, 1e-4, 1e1), _NO_MOMENTUM, _DAMPENING, _DECAY),
        raced=True,
    ),
    _entry(
        "momentum", "SGD with momentum", "descent",
        "Gradient descent with a velocity, the rate outside it.",
        "v = momentum * v + g;  p = p - lr * v",
        f"O2; Polyak 1964; {_SPACES}",
        rules.sgd, optim.SGD,
        (_searched("lr", 1e-3, 1e-4, 1e0), _MOMENTUM, _DAMPENING, _DECAY),
        raced=True,
    ),
    _entry(
        "nesterov", "SGD with Nesterov momentum", "descent",
        "Gradient descent with a velocity, the gradient taken where the velocity leads.",
        "v = momentum * v + g;  p = p - lr * (g + momentum * v)",
        f"O3; Nesterov 1983, Sutskever et al. 2013; {_SPACES}",
        rules.sgd, optim.SGD,
        (
            _searched("lr", 1e-3, 1e-4, 1e0),
            # without any there is nothing to look ahead by
            _searched("momentum", 0.9, 0.0, 0.999, "complement", above=0.0, below=1.0),
            _DECAY,
        ),
        {"nesterov": True},
        raced=True,
    ),
    _entry(
        "adagrad", "AdaGrad", "adaptive",
        "A rate for each parameter, shrinking with the sum of its squared gradients.",
        "s = s + g^2;  p = p - lr * g / (sqrt(s) + eps)",
        f"O4; Duchi et al. 2011; {_SPACES}",
        rules.adagrad, optim.Adagrad,
        (
            _searched("lr", 1e-2, 1e-4, 1e0),
            _searched("eps", 1e-10, 1e-12, 1e-2),
            _listed("lr_decay", 0.0, 1e-6, 1e-1),
            _listed("initial_accumulator_value", 0.0, 1e-6, 1e0),
            _DECAY,
        ),
        raced=True,
    ),
    _entry(
        "rmsprop", "RMSProp", "adaptive",
        "A rate for each parameter, by the running average of its squared gradients.",
        "s = alpha * s + (1 - alpha) * g^2;  p = p - lr * g / (sqrt(s) + eps)",
        f"O5; Hinton 2012; {_SPACES}",
        rules.rmsprop, optim.RMSprop,
        (
            _searched("lr", 1e-2, 1e-5, 1e-1),
            _searched("alpha", 0.99, 0.5, 0.999, "complement"),
            _searched("eps", 1e-8, 1e-10, 1e-2),
            _NO_MOMENTUM,
            _DECAY,
        ),
        raced=True,
    ),
    _entry(
        "adam", "Adam", "adaptive",
        "Running averages of gradient and squared gradient, both corrected for their start at 0.",
        (
            "m = beta1 * m + (1 - beta1) * g;  s = beta2 * s + (1 - beta2) * g^2;  p = p - lr * (m / "
            "(1 - beta1^t)) / (sqrt(s / (1 - beta2^t)) + eps)"
        ),
        f"O6; Kingma and Ba 2015; {_SPACES}",
        rules.adam, optim.Adam,
        (*_ADAM, _searched("eps", 1e-8, 1e-10, 1e-2), _DECAY),
        pairs=_BETAS,
        raced=True,
    ),
    _entry(
        "nadam", "NAdam", "adaptive",
        "Adam with Nesterov's momentum, which is warmed up.",
        (
            "mu = beta1 * (1 - 0.96^(t * momentum_decay) / 2);  m, s as Adam's;  p = p - lr * ((1 - "
            "mu) * g / (1 - prod mu) + mu' * m / (1 - mu' * prod mu)) / (sqrt(s / (1 - beta2^t)) + "
            "eps), with mu' of the next step"
        ),
        f"O6; Dozat 2016; {_SPACES}",
        rules.nadam, optim.NAdam,
        (
            _searched("lr", 2e-3, 1e-5, 1e-1),
            _searched("beta1", 0.9, 0.5, 0.99, "complement"),
            _searched("beta2", 0.999, 0.9, 0.9999, "complement"),
            _searched("eps", 1e-8, 1e-10, 1e-2),
            _listed("momentum_decay", 4e-3, 1e-4, 1e-1),
            _DECAY,
        ),
        pairs=_BETAS,
    ),
    _entry(
        "adamw", "AdamW", "adaptive",
        "Adam with weight decay apart from the gradient.",
        "p = p - lr * weight_decay * p, then Adam's step without decay in the gradient",
        f"O6; Loshchilov and Hutter 2019; {_SPACES}",
        rules.adamw, optim.AdamW,
        (
            *_ADAM,
            _searched("weight_decay", 1e-2, 1e-5, 1e0),
            _listed("eps", 1e-8, 1e-10, 1e-2),
        ),
        pairs=_BETAS,
        raced=True,
    ),
    _entry(
        "rprop", "Rprop", "sign",
        "Steps that grow while a parameter's gradient keeps its sign and shrink where it changes.",
        (
            "d = clip(d * etaplus where g and g_before agree in sign, d * etaminus where they don't, "
            "step_size_min, step_size_max);  p = p - sign(g) * d where they agree; elsewhere p stays, "
            "and g counts as 0 next time"
        ),
        "O7; Riedmiller and Braun 1993; the ends of the space are ours",
        rules.rprop, optim.Rprop,
        (
            _searched("lr", 1e-2, 1e-6, 1e0),
            _searched("step_size_max", 50.0, 1e-4, 1e2),
            _listed("step_size_min", 1e-6, 1e-10, 1e-2),
            _listed("etaminus", 0.5, 0.1, 0.9, "linear"),
            _listed("etaplus", 1.2, 1.01, 2.0, "linear"),
        ),
        pairs={"etas": ("etaminus", "etaplus"), "step_sizes": ("step_size_min", "step_size_max")},
        scheduled=False,
    ),
    _entry(
        "quickprop", "Quickprop", "curvature",
        "A jump to the minimum of the parabola through the last two slopes of each parameter.",
        (
            "move = -sign(g) * min(|g / (g_before - g)|, growth) * |move_before|, less lr * g where g "
            "has kept its sign;  p = p + move"
        ),
        "O8; Fahlman 1988; the ends of the space are ours",
        rules.quickprop, optim.Quickprop,
        (
            _searched("lr", 1e-2, 1e-5, 1e1),
            _listed("growth", 1.75, 1.05, 3.0, "linear"),
            _DECAY,
        ),
    ),
    _entry(
        "schedule-free", "Schedule-Free AdamW", "averaging",
        "AdamW that averages its iterates, which stands for a schedule; the mean is evaluated.",
        (
            "y = (1 - beta1) * z + beta1 * x;  z = z - lr * g(y) / (sqrt(s / (1 - beta2^t)) + eps);  "
            "x = (1 - c) * x + c * z, with c = lr^2 over the sum of all lr^2; x is what counts"
        ),
        f"Defazio et al. 2024; {_SPACES}",
        rules.schedule_free_adamw, optim.ScheduleFreeAdamW,
        (
            _searched("lr", 2.5e-3, 1e-5, 1e-1),
            _searched("beta1", 0.9, 0.5, 0.99, "complement"),
            _searched("beta2", 0.999, 0.9, 0.9999, "complement"),
            _listed("eps", 1e-8, 1e-10, 1e-2),
            _DECAY,
            _listed("warmup_steps", 0.0, 0.0, 1e3, "linear"),
            # negative powers would weigh early iterates most
            _listed("r", 0.0, 0.0, 2.0, "linear", least=0.0),
            _listed("weight_lr_power", 2.0, 0.0, 4.0, "linear", least=0.0),
        ),
        pairs=_BETAS,
        scheduled=False,
    ),
    _entry(
        "lion", "Lion", "sign",
        "The sign of a mean of gradient and momentum: every step has the same length.",
        "p = p - lr * sign(beta1 * m + (1 - beta1) * g);  m = beta2 * m + (1 - beta2) * g",
        f"Chen et al. 2023; {_SPACES}",
        rules.lion, optim.Lion,
        (
            _searched("lr", 1e-4, 1e-6, 1e-2),
            _searched("beta1", 0.9, 0.5, 0.99, "complement"),
            _searched("beta2", 0.99, 0.9, 0.999, "complement"),
            _DECAY,
        ),
        pairs=_BETAS,
    ),
    _entry(
        "muon", "Muon", "matrix",
        "Momentum whose matrices are made orthogonal; AdamW for vectors, at the same rate.",
        (
            "v = momentum * v + (1 - momentum) * g;  p = p - lr * 0.2 * sqrt(max(rows, columns)) * "
            "orthogonal(v with Nesterov's look ahead), for matrices; AdamW for the rest"
        ),
        f"Jordan et al. 2024; Liu et al. 2025; {_SPACES}",
        rules.muon_adamw, optim.Muon,
        (
            _searched("lr", 1e-3, 1e-5, 1e-1),
            _searched("momentum", 0.95, 0.5, 0.99, "complement"),
            _searched("weight_decay", 0.1, 1e-4, 1e0),
            _listed("eps", 1e-7, 1e-10, 1e-4),
            _listed("beta1", 0.9, 0.5, 0.99, "complement"),
            _listed("beta2", 0.999, 0.9, 0.9999, "complement"),
            _listed("adamw_eps", 1e-8, 1e-10, 1e-2),
            _listed("adamw_ratio", 1.0, 1e-2, 1e2),
        ),
        {"adjust_lr_fn": "match_rms_adamw", "precision": "parameter"},
        {"adamw_betas": ("beta1", "beta2")},
        fixed={"adjust_lr_fn": "match_rms_adamw", "precision": "parameter", "others": "adamw"},
    ),
    _entry(
        "soap", "SOAP", "matrix",
        "Adam in slowly turning coordinates, a basis for each axis, in which gradients are uncorrelated.",
        (
            "L = beta2 * L + (1 - beta2) * G G';  R = beta2 * R + (1 - beta2) * G' G;  Adam's step on"
            " Q_L' G Q_R, turned back, with Q the eigenvectors of L and R;  further axes likewise"
        ),
        f"Vyas et al. 2024; {_SPACES}",
        rules.soap, optim.SOAP,
        (
            _searched("lr", 3e-3, 1e-5, 1e-1),
            _searched("beta1", 0.95, 0.5, 0.99, "complement"),
            _searched("beta2", 0.95, 0.9, 0.9999, "complement"),
            _searched("weight_decay", 1e-2, 1e-5, 1e0),
            _listed("eps", 1e-8, 1e-10, 1e-2),
        ),
        pairs=_BETAS,
    ),
)  # fmt: skip
