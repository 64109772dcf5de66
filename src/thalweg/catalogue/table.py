"""The table itself: the optimizers of the lectures, in the order of the race.

Which numbers are searched and on which scale follows published tuning protocols (Choi et al. 2019, Schmidt
et al. 2021): rates and eps logarithmically, momentum and betas by their distance from 1. The ends of the
ranges are this project's own: wide enough for small and middling networks, with every default well inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from torch.optim import Optimizer

from thalweg import optim, rules
from thalweg.catalogue.entry import Call, Entry, Hyperparameter
from thalweg.errors import RuleError, nearest
from thalweg.rules import Rule

__all__ = ["get", "names"]

_BETAS = MappingProxyType({"betas": ("beta1", "beta2")})


def names() -> tuple[str, ...]:
    """Return the names of the catalogue, in the order of the race.

    >>> names()
    ('sgd', 'momentum', 'nesterov', 'adagrad', 'rmsprop', 'adam', 'adamw')
    """
    return tuple(_TABLE)


def get(name: str) -> Entry:
    """Return the entry of a name.

    Raises:
        RuleError: there is none; the nearest names are shown.

    >>> get("momentum").title
    'SGD with momentum'
    """
    if name not in _TABLE:
        raise RuleError(
            f"there is no optimizer {name!r}; {nearest(name, _TABLE)} "
            f"(your own: 'file.py:name' or 'package.module:name')"
        )
    return _TABLE[name]


def _entry(
    name: str,
    title: str,
    family: str,
    summary: str,
    source: str,
    rule: Rule,
    target: type[Optimizer],
    hyperparameters: Iterable[Hyperparameter],
    options: Mapping[str, bool | str] = MappingProxyType({}),
    pairs: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> Entry:
    listed = tuple(hyperparameters)
    return Entry(
        name=name,
        title=title,
        family=family,
        summary=summary,
        source=source,
        hyperparameters=listed,
        rule=rule,
        options=MappingProxyType({**rule.options, **options}),
        call=Call(
            target=target,
            spelling=f"torch.optim.{target.__name__}",
            fixed=MappingProxyType(dict(options)),
            pairs=pairs,
            always=tuple(hyper.name for hyper in listed if hyper.searched),
        ),
    )


def _searched(
    name: str, default: float, low: float, high: float, scale: Literal["log", "complement"] = "log"
) -> Hyperparameter:
    return Hyperparameter(name=name, default=default, low=low, high=high, scale=scale, searched=True)


# Listed so that anybody can set them or give them a range; 0 switches them off.
_DECAY = Hyperparameter(name="weight_decay", default=0.0, low=1e-6, high=1e-1)
_DAMPENING = Hyperparameter(name="dampening", default=0.0, low=0.0, high=1.0, scale="linear")
_NO_MOMENTUM = Hyperparameter(name="momentum", default=0.0, low=0.0, high=0.999, scale="complement")
_MOMENTUM = _searched("momentum", 0.9, 0.0, 0.999, "complement")
_ADAM = (
    _searched("lr", 1e-3, 1e-5, 1e-1),
    _searched("beta1", 0.9, 0.5, 0.99, "complement"),
    _searched("beta2", 0.999, 0.9, 0.9999, "complement"),
)
_SPACES = "dimensions and scales of the space after Choi et al. 2019, Schmidt et al. 2021; its ends are ours"

_TABLE: Mapping[str, Entry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            _entry(
                "sgd", "SGD", "descent",
                "Gradient descent on minibatches.",
                f"O1; {_SPACES}",
                rules.sgd, optim.SGD,
                (_searched("lr", 1e-3, 1e-4, 1e1), _NO_MOMENTUM, _DAMPENING, _DECAY),
            ),
            _entry(
                "momentum", "SGD with momentum", "descent",
                "Gradient descent with a velocity, the rate outside it.",
                f"O2; Polyak 1964; {_SPACES}",
                rules.sgd, optim.SGD,
                (_searched("lr", 1e-3, 1e-4, 1e0), _MOMENTUM, _DAMPENING, _DECAY),
            ),
            _entry(
                "nesterov", "SGD with Nesterov momentum", "descent",
                "Gradient descent with a velocity, the gradient taken where the velocity leads.",
                f"O3; Nesterov 1983, Sutskever et al. 2013; {_SPACES}",
                rules.sgd, optim.SGD,
                (_searched("lr", 1e-3, 1e-4, 1e0), _MOMENTUM, _DECAY),
                {"nesterov": True},
            ),
            _entry(
                "adagrad", "AdaGrad", "adaptive",
                "A rate for each parameter, shrinking with the sum of its squared gradients.",
                f"O4; Duchi et al. 2011; {_SPACES}",
                rules.adagrad, optim.Adagrad,
                (
                    _searched("lr", 1e-2, 1e-4, 1e0),
                    _searched("eps", 1e-10, 1e-12, 1e-2),
                    Hyperparameter(name="lr_decay", default=0.0, low=1e-6, high=1e-1),
                    Hyperparameter(name="initial_accumulator_value", default=0.0, low=1e-6, high=1e0),
                    _DECAY,
                ),
            ),
            _entry(
                "rmsprop", "RMSProp", "adaptive",
                "A rate for each parameter, by the running average of its squared gradients.",
                f"O5; Hinton 2012; {_SPACES}",
                rules.rmsprop, optim.RMSprop,
                (
                    _searched("lr", 1e-2, 1e-5, 1e-1),
                    _searched("alpha", 0.99, 0.5, 0.999, "complement"),
                    _searched("eps", 1e-8, 1e-10, 1e-2),
                    _NO_MOMENTUM,
                    _DECAY,
                ),
            ),
            _entry(
                "adam", "Adam", "adaptive",
                "Running averages of gradient and squared gradient, both corrected for their start at 0.",
                f"O6; Kingma and Ba 2015; {_SPACES}",
                rules.adam, optim.Adam,
                (*_ADAM, _searched("eps", 1e-8, 1e-10, 1e-2), _DECAY),
                pairs=_BETAS,
            ),
            _entry(
                "adamw", "AdamW", "adaptive",
                "Adam with weight decay apart from the gradient.",
                f"O6; Loshchilov and Hutter 2019; {_SPACES}",
                rules.adamw, optim.AdamW,
                (
                    *_ADAM,
                    _searched("weight_decay", 1e-2, 1e-5, 1e0),
                    Hyperparameter(name="eps", default=1e-8, low=1e-10, high=1e-2),
                ),
                pairs=_BETAS,
            ),
        )
    }
)  # fmt: skip
