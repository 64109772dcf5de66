"""Training and evaluation mode, part by part: what a person has set is kept.

``model.train()`` puts every part of a model into training mode, also a batch norm whose statistics somebody
has frozen by ``eval()``. Whoever trains a model calls :func:`begin_training` instead, and :func:`evaluating`
where it is only evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias, TypeVar
from weakref import WeakSet

from torch import nn

from thalweg.errors import shortened

__all__ = [
    "Modes",
    "astray",
    "begin_training",
    "end_training",
    "evaluating",
    "held",
    "in_mode_of",
    "kept_held",
    "kept_modes",
    "known_held",
    "modes_of",
    "said_held",
    "set_evaluation",
    "set_mode",
    "set_modes",
    "set_own_mode",
]

_M = TypeVar("_M", bound=nn.Module)

Modes: TypeAlias = list[tuple[nn.Module, bool]]
"""Every part of a model, and whether it is in training mode."""

# Parts that stayed in evaluation while their model was trained, and then was put into evaluation as a whole.
_STAYED: WeakSet[nn.Module] = WeakSet()
# Parts of which it is known already that they evaluate.
_KNOWN: WeakSet[nn.Module] = WeakSet()


def modes_of(model: nn.Module) -> Modes:
    """Return the present mode of every part."""
    return [(part, part.training) for part in model.modules()]


def set_modes(modes: Modes) -> None:
    """Put every part into a mode, those first that hold others.

    By ``train`` and ``eval``, since some layers do more in them, such as to merge low-rank factors.
    """
    for part, training in modes:
        if part.training != training:
            part.train(training)
    for part, training in modes:
        part.training = training


def astray(modes: Modes) -> bool:
    """Say whether the model as a whole, or a part that is to evaluate, is in another mode than its own."""
    return modes[0][0].training is not modes[0][1] or any(
        part.training for part, training in modes if not training
    )


def set_mode(part: nn.Module, training: bool) -> None:
    """Put a part, with all that it holds, into a mode; whoever does takes it back afterwards."""
    part.train(training)


def set_own_mode(part: nn.Module, training: bool) -> None:
    """Put a part into a mode, and leave what it holds in the modes that these are in."""
    part.training = training


def in_mode_of(made: _M, part: nn.Module) -> _M:
    """Return what was made to stand beside a part, or in its place, in the mode of that part."""
    return made.train(part.training)


def held(model: nn.Module) -> set[nn.Module]:
    """Return the parts that stay in evaluation while the model is trained, as far as their modes say.

    Those are the parts in evaluation mode; where all are, as in a model that was trained before or is only
    used, those that stayed so then.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> _ = model[1].eval()
    >>> held(model) == {model[1]}, held(model.eval())
    (True, set())
    """
    still = {part for part in model.modules() if not part.training}
    whole = len(still) == sum(1 for _ in model.modules())
    return {part for part in still if part in _STAYED} if whole else still


def said_held(model: nn.Module) -> str | None:
    """Return a sentence that names the outermost parts that are :func:`held`, where there are some.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> _ = model[1].eval()
    >>> said_held(model)
    'what is in evaluation mode stays so while training: 1 (BatchNorm1d)'
    """
    staying, names = held(model), list[str]()
    for name, part in model.named_modules():
        within = any(name.startswith(f"{outer.partition(' ')[0]}.") for outer in names)
        if part in staying and part not in _KNOWN and not within:
            names.append(f"{name} ({type(part).__name__})".lstrip())
    if not names:
        return None
    return f"what is in evaluation mode stays so while training: {shortened(names, 3)}"


def begin_training(model: nn.Module) -> Modes:
    """Put a model into training mode, but for parts that are :func:`held` or that its ``train`` keeps out.

    Returns:
        The modes, for :func:`set_modes`.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    >>> _ = model[1].eval()
    >>> _ = begin_training(model)
    >>> [part.training for part in model]
    [True, False, True]
    """
    staying = held(model)
    model.train()
    modes = [(part, part.training and part not in staying) for part in model.modules()]
    set_modes(modes)
    return modes


def end_training(model: nn.Module, modes: Modes) -> None:
    """Put a model into evaluation mode as a whole, and remember for a next training which parts were held."""
    for part, training in modes:
        (_STAYED.discard if training else _STAYED.add)(part)
    model.eval()


def set_evaluation(model: nn.Module) -> nn.Module:
    """Put a model into evaluation mode as a whole, remember which parts were :func:`held`, and return it."""
    for part in held(model):
        _STAYED.add(part)
    return model.eval()


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Put each part of a model back into its own mode afterwards."""
    modes = modes_of(model)
    try:
        yield
    finally:
        set_modes(modes)


@contextmanager
def kept_held(model: nn.Module) -> Iterator[None]:
    """Give each part back its own mode afterwards, and whether it counts as :func:`held`."""
    stayed = {part for part in model.modules() if part in _STAYED}
    with kept_modes(model):
        try:
            yield
        finally:
            for part in model.modules():
                (_STAYED.add if part in stayed else _STAYED.discard)(part)


@contextmanager
def known_held(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Within, :func:`said_held` doesn't name these parts, nor what they hold: somebody has just chosen so."""
    added = {part for outer in parts for part in outer.modules() if part not in _KNOWN}
    for part in added:
        _KNOWN.add(part)
    try:
        yield
    finally:
        for part in added:
            _KNOWN.discard(part)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each part of it back into its own mode afterwards."""
    with kept_modes(model):
        model.eval()
        yield
