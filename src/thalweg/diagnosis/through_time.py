"""Whether what stands early in a sequence can be learnt: how the gradient shrinks on its way through time.

Source: INDEX X5, K; Bengio, Simard and Frasconi 1994.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thalweg.diagnosis.computing import learning, starting
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Finding, Remedy

__all__ = ["forgets", "shares_by_step"]

_ROWS = 64
# Below this share of the largest gradient of a step nothing is learnt of another one.
_LOST = 1e-4


def shares_by_step(facts: Facts, *, seed: int) -> tuple[str, list[float]] | None:
    """Return the first recurrent layer, and by step the gradient that reaches what it is given there.

    As shares of the largest; root mean squares over examples and features. ``None``: no layer of torch's is
    recurrent, or no gradient gets there.
    """
    setup = facts.setup
    with starting(setup, seed=seed, stream="time") as (model, _):
        learning(model)
        found = next(
            ((name, part) for name, part in model.named_modules() if isinstance(part, nn.RNNBase)), None
        )
        if found is None:
            return None
        given: list[Tensor] = []

        def begin(part: nn.Module, values: tuple[Any, ...]) -> Any:
            if not values or not isinstance(values[0], Tensor) or values[0].ndim != 3:
                return None
            # what is given may come from data alone, which ask for no gradient
            given.append(values[0].detach().requires_grad_())
            return given[-1], *values[1:]

        name, layer = found
        handle = layer.register_forward_pre_hook(begin)
        inputs, targets = setup.batch(facts.held.rows[:_ROWS])
        loss = setup.loss(model(inputs), targets)
        handle.remove()
        if not given or not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            return None
        gradient: Tensor | None = torch.autograd.grad(loss, given[:1], allow_unused=True)[0]
    if gradient is None:
        return None
    by_step = gradient.double().movedim(1 if layer.batch_first else 0, 0)
    sizes = by_step.reshape(len(by_step), -1).square().mean(1).sqrt()
    most = float(sizes.max())
    return (name, (sizes / most).tolist()) if most > 0 else None


def forgets(facts: Facts, *, seed: int) -> Finding | None:
    """Name it where the first half of the sequences gets hardly any gradient."""
    try:
        found = shares_by_step(facts, seed=seed)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None
    if found is None or len(found[1]) < 8:
        return None
    name, shares = found
    half = max(shares[: len(shares) // 2])
    if half >= _LOST:
        return None
    reached = sum(share >= _LOST for share in shares)
    return Finding(
        code="depth",
        severity="risk",
        title="the sequences are longer than the recurrent layer remembers",
        evidence=(
            f"at the start, the gradient that reaches {name or 'the model'} in the first half of "
            f"{len(shares)} steps is at most {half:.1g} of the largest; in {reached} of all it is over "
            f"{_LOST:g}",
            "no change of rate, optimizer, scale or first weights was enough",
        ),
        cause="the gradient is multiplied from step to step on its way back, and vanishes",
        remedy=Remedy(
            text="take an LSTM or a GRU whose forget gate begins open, attention, or shorter sequences; give "
            "the mean over steps to the next layer instead of the last one",
            code="nn.LSTM(...); thalweg.initial.open_gates(model, forget=3.0)",
        ),
        confidence=0.55,
    )
