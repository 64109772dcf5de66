"""Freezing: what isn't trained has no gradient, and evaluates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

from torch import nn

from thalweg.errors import OptionError, nearest, shortened
from thalweg.layers.modes import held, kept_held, known_held, set_mode

__all__ = ["check_patterns", "frozen", "plain_name", "trained_names"]

_COMPILED = "_orig_mod."


def plain_name(name: str) -> str:
    """Return a name without what ``torch.compile`` puts into it.

    >>> plain_name("_orig_mod.layer._orig_mod.weight")
    'layer.weight'
    """
    return name.replace(_COMPILED, "")


def check_patterns(model: nn.Module, patterns: Sequence[str], what: str) -> None:
    """Refuse a pattern that matches nothing of a model.

    Args:
        model: its parameters, buffers and parts have names.
        patterns: such as ``"head"``, ``"*.bias"``.
        what: they are, for the message.

    Raises:
        OptionError: naming the nearest.

    >>> check_patterns(nn.Sequential(nn.Linear(2, 2)), ["1.*"], "trains")
    Traceback (most recent call last):
    thalweg.errors.OptionError: '1.*' of trains matches no parameter or part of the model; known: 0, 0.bias, \
0.weight
    """
    names = _names(model)
    for pattern in patterns:
        if not any(_matches(name, pattern) for name in names):
            raise OptionError(
                f"{pattern!r} of {what} matches no parameter or part of the model; "
                + nearest(pattern, [name for name in names if name])
            )


def trained_names(model: nn.Module, patterns: Sequence[str] | None) -> set[str]:
    """Return the names of the parameters that patterns leave to be trained.

    A parameter is, where a pattern matches its name or that of a part that holds it. Without patterns those
    are that need a gradient.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> sorted(trained_names(model, ["2"])), sorted(trained_names(model, ["*.bias"]))
    (['2.bias', '2.weight'], ['0.bias', '2.bias'])
    """
    if patterns is None:
        return {name for name, p in model.named_parameters() if p.requires_grad}
    return {name for name, _ in model.named_parameters() if _held_by(plain_name(name), patterns)}


@contextmanager
def frozen(
    module: nn.Module, *, trains: Sequence[str] | None = None, of: nn.Module | None = None
) -> Iterator[list[str]]:
    """Freeze what isn't to be trained; afterwards everything needs gradients, and has modes, as before.

    What is frozen needs no gradient, so that an optimizer which is made of the parameters that do has no
    state for it and lets nothing decay. A part whose parameters are all frozen is put into evaluation mode,
    where it stays while thalweg trains: its batch norms keep their statistics, its dropout is off. Of
    parts without parameters, those with buffers, such as a batch norm without weights, go with the part
    before them; others, such as dropout, with the part that they give to, the next one.

    Args:
        module: that is trained.
        trains: patterns over names of ``of``, see :func:`trained_names`; ``None``: what needs a
            gradient now.
        of: the model whose parameters may be frozen; the module's own others are left as they are.
            ``None``: the module.

    Yields:
        The names in the module of the parameters that are trained.

    Raises:
        OptionError: a pattern that matches nothing, or nothing that is left to be trained.

    In a loop of one's own::

        with frozen(model, trains=["head"]):
            optimizer = torch.optim.Adam(p for p in model.parameters() if p.requires_grad)
            begin_training(model)           # of thalweg.layers.modes: model.train() would thaw modes
            ...

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(), nn.Linear(2, 1))
    >>> with frozen(model, trains=["3"]) as names:
    ...     print(names, [part.training for part in model])
    ['3.weight', '3.bias'] [False, False, True, True]
    >>> all(p.requires_grad for p in model.parameters()), model[0].training
    (True, True)

    Source: P3, P4 (N, U, S).
    """
    of = module if of is None else of
    if trains is not None:
        check_patterns(of, trains, "trains")
    wanted = trained_names(of, trains)
    own = {id(p): name in wanted for name, p in of.named_parameters()}
    before = [
        (p, p.requires_grad) for p in {id(p): p for p in [*of.parameters(), *module.parameters()]}.values()
    ]
    staying = held(module)
    try:
        for p, _ in before:
            if id(p) in own:
                p.requires_grad_(own[id(p)])
        names = [name for name, p in module.named_parameters() if p.requires_grad]
        if not names:
            there = shortened([name for name, _ in of.named_parameters()], 4)
            raise OptionError(
                f"nothing would be trained; let trains name parameters that are, such as {there}"
            )
        with kept_held(module):
            # said part by part, also of a model that is in evaluation mode as a whole
            set_mode(module, True)
            chosen = _frozen_parts(module)
            for part in [*staying, *chosen]:
                set_mode(part, False)
            with known_held(chosen):
                yield names
    finally:
        for p, needed in before:
            p.requires_grad_(needed)


def _frozen_parts(module: nn.Module) -> list[nn.Module]:
    """The outermost parts that are frozen as a whole, in the order in which they are listed."""
    found: list[nn.Module] = []

    def is_frozen(part: nn.Module) -> bool | None:
        """Whether all of its parameters are frozen; ``None`` where it has none."""
        needed = [p.requires_grad for p in part.parameters()]
        return not any(needed) if needed else None

    def look(part: nn.Module) -> None:
        children = list(part.children())
        states = [is_frozen(child) for child in children]
        # parameters of the part itself count as coming before its children
        first = [p.requires_grad for p in part.parameters(recurse=False)]
        begins = not any(first) if first else None
        for number, (child, state) in enumerate(zip(children, states, strict=True)):
            around_before = [each for each in [begins, *states[:number]] if each is not None]
            around_after = [each for each in states[number + 1 :] if each is not None]
            if state is None:
                measured = next(iter(child.buffers()), None) is not None
                near = (
                    [*around_before[::-1], *around_after]
                    if measured
                    else [*around_after, *around_before[::-1]]
                )
                state = near[0] if near else False
                if state:
                    found.append(child)
            elif state:
                found.append(child)
            else:
                look(child)

    whole = is_frozen(module)
    if whole:
        return [module]
    if whole is False:
        look(module)
    return found


def _names(model: nn.Module) -> list[str]:
    found = [
        *(name for name, _ in model.named_modules() if name),
        *(name for name, _ in model.named_parameters()),
        *(name for name, _ in model.named_buffers()),
    ]
    return list(dict.fromkeys(plain_name(name) for name in found))


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, plain_name(pattern))


def _held_by(name: str, patterns: Sequence[str]) -> bool:
    parts = name.split(".")
    holders = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return any(_matches(holder, pattern) for holder in holders for pattern in patterns)
