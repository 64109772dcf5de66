"""Parameter groups by pattern: what decays, and how fast each part learns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from thalweg.catalogue import Entry
from thalweg.errors import OptionError

__all__ = ["Pattern", "groups_for", "parameter_groups"]


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """What holds for parameters whose names match.

    Attributes:
        match: such as ``"head.*"`` or ``"*.bias"``; case counts.
        rate: multiplies their learning rate; 0 freezes them.
        decay: whether they decay; ``None``: as without.
    """

    match: str
    rate: float = 1.0
    decay: bool | None = None


def parameter_groups(
    model: nn.Module,
    *,
    lr: float | None = None,
    decay_all: bool = True,
    depth_factor: float = 1.0,
    patterns: Sequence[Pattern] = (),
) -> list[dict[str, Any]]:
    """Return groups for a torch optimizer, by how their parameters are treated.

    The rate of a layer is ``lr * depth_factor**(layers above it)``, times that of every pattern that matches;
    layers are the parts that hold parameters themselves, in the order in which they are listed.

    Args:
        model: its parameters that need a gradient are grouped.
        lr: the base rate; needed where rates differ.
        decay_all: ``False``: biases, scales and shifts (parameters with one axis at most) don't decay.
        depth_factor: in ``(0, 1]``.
        patterns: may match several parameters, and a parameter several patterns.

    Returns:
        Dictionaries with ``"params"``, ``"lr"`` where it was given, and ``"weight_decay": 0.0`` where nothing
        is to decay.

    Raises:
        OptionError: a pattern that matches nothing, rates that differ without ``lr``, a factor or a rate out
            of range.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> groups = parameter_groups(model, lr=0.1, decay_all=False, depth_factor=0.5)
    >>> [(len(group["params"]), group.get("lr"), group.get("weight_decay")) for group in groups]
    [(1, 0.05, None), (1, 0.05, 0.0), (1, 0.1, None), (1, 0.1, 0.0)]
    """
    if not 0 < depth_factor <= 1:
        raise OptionError(f"depth_factor is {depth_factor}, but must be above 0 and at most 1")
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for pattern in patterns:
        if not 0 <= pattern.rate < math.inf:
            raise OptionError(
                f"the rate of the pattern {pattern.match!r} is {pattern.rate}, but must be a finite number "
                "of at least 0; give 1 for the usual rate, 0 to freeze what matches"
            )
        if not any(fnmatchcase(name, pattern.match) for name in named):
            raise OptionError(
                f"the pattern {pattern.match!r} matches no parameter; there are "
                + ", ".join(list(named)[:6])
                + (" and more" if len(named) > 6 else "")
            )
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in named))
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in named.items():
        rate = depth_factor ** (len(layers) - 1 - layers.index(name.rpartition(".")[0]))
        decays = decay_all or parameter.ndim > 1
        for pattern in patterns:
            if fnmatchcase(name, pattern.match):
                rate *= pattern.rate
                decays = decays if pattern.decay is None else pattern.decay
        group = groups.setdefault((rate, decays), {"params": []})
        group["params"].append(parameter)
        if rate != 1:
            if lr is None:
                raise OptionError("rates differ from group to group, so the base rate is needed; give lr")
            group["lr"] = lr * rate
        elif lr is not None:
            group["lr"] = lr
        if not decays:
            group["weight_decay"] = 0.0
    return list(groups.values())


def groups_for(
    entry: Entry, model: nn.Module, hyperparameters: Mapping[str, Any], **differing: Any
) -> list[dict[str, Any]]:
    """Return groups for an optimizer of the catalogue.

    Args:
        entry: of the optimizer; where it doesn't decay, groups say nothing of that.
        model: see :func:`parameter_groups`, which ``differing`` is for.
        hyperparameters: what is absent has its default.
    """
    defaults = {hyper.name: hyper.default for hyper in entry.hyperparameters}
    lr = hyperparameters.get("lr", defaults.get("lr"))
    made = parameter_groups(model, lr=None if lr is None else float(lr), **differing)
    if "weight_decay" not in defaults:
        for group in made:
            group.pop("weight_decay", None)
    return made
