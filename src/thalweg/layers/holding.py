"""Whether an optimizer holds the parameters of the model that it is to train."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from thalweg.errors import OptionError, shortened
from thalweg.layers.untouched import untouched

__all__ = ["check_held", "strangers", "unreached"]


def check_held(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer that holds none of a model's parameters.

    >>> check_held(torch.optim.SGD(nn.Linear(2, 1).parameters()), nn.Linear(2, 1))
    Traceback (most recent call last):
    thalweg.errors.OptionError: the optimizer holds none of the model's parameters; make it over \
model.parameters()
    """
    there = {id(p) for p in model.parameters()}
    if not any(id(p) in there for group in optimizer.param_groups for p in group["params"]):
        raise OptionError(
            "the optimizer holds none of the model's parameters; make it over model.parameters()"
        )


def strangers(optimizer: torch.optim.Optimizer, *modules: nn.Module) -> list[Tensor]:
    """Return the parameters to be trained that an optimizer holds and none of these modules has.

    >>> one, other = nn.Linear(2, 1), nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.SGD([*one.parameters(), *other.parameters()])
    >>> len(strangers(optimizer, one)), len(strangers(optimizer, one, other))
    (1, 0)
    """
    known = {id(p) for module in modules for p in module.parameters()}
    return [
        p
        for group in optimizer.param_groups
        for p in group["params"]
        if p.requires_grad and id(p) not in known
    ]


def unreached(
    foreign: Sequence[Tensor],
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    loss: Callable[[], Tensor],
) -> str | None:
    """Compute a loss once, without a trace, and see whether parameters that aren't the model's matter for it.

    Parameters of a loss that is a plain function do. Those of a layer that was replaced after the optimizer
    was made don't, and the new layer's would never change.

    Args:
        foreign: the :func:`strangers`.
        optimizer: that holds them.
        model: to be trained.
        loss: of a batch.

    Returns:
        What is worth saying; ``None``: nothing is.

    Raises:
        OptionError: the optimizer lacks parameters of the model in their place.
    """
    with untouched(model, optimizer), torch.enable_grad():
        value = loss()
        if not value.requires_grad:
            return None
        slopes = torch.autograd.grad(value, list(foreign), allow_unused=True)
    idle = [p for p, slope in zip(foreign, slopes, strict=True) if slope is None]
    if not idle:
        return None
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missed = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    shapes = shortened([str(list(p.shape)) for p in idle], 3)
    what = (
        f"the optimizer holds parameters of shape {shapes} that are neither the model's nor have a part in "
        "the loss"
    )
    if missed:
        raise OptionError(
            f"{what}, and doesn't hold the model's {shortened(missed, 3)}, as where a layer was replaced "
            "after the optimizer was made; make it again, over model.parameters()"
        )
    return f"{what}: they stay as they are"
