"""Whether the learning signal gets through the model: functions between layers, first weights, frozen parts.

Source: INDEX X2 (equal units), X5 (variance through depth), K; I1-I8 for first weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from thalweg.diagnosis import changes
from thalweg.diagnosis.changes import Call, then
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Remedy
from thalweg.diagnosis.suspicion import Suspicion
from thalweg.diagnosis.trace import Operation

__all__ = [
    "Signal",
    "calls_of",
    "copied_units",
    "fresh_weights",
    "same",
    "signal_of",
    "suspect_signals",
]

# Gradients that differ by less, as a share of the largest, are equal but for rounding.
_EQUAL = 1e-4
_SQUASHING = ("sigmoid", "tanh", "hardsigmoid", "hardtanh", "softsign")
_BOUNDED = (*_SQUASHING, "softmax", "logsigmoid")


class Signal:
    """Numbers of the first forward and backward pass, layer by layer.

    Attributes:
        weights: operations with weights, in order.
        hidden: activations between them.
        slopes: root mean square of the gradient of each weight, in order.
        spreads: of the outputs of each.
        dead: largest share of units of a layer that give zero for all examples.
        flat: largest share of elements of a layer where its function is flat.
        normed: whether norms stand between layers.
        recurrent: whether any layer is.
    """

    def __init__(self, facts: Facts) -> None:
        traced = facts.traced
        assert traced is not None
        self.weights = [traced.operations[n] for n in traced.weights]
        behind = traced.all_behind(traced.weights[-1]) if traced.weights else set()
        self.hidden = [
            traced.operations[n]
            for n in sorted(behind)
            if traced.operations[n].kind in ("activation", "softmax", "log-softmax")
        ]
        names = {id(p): name for name, p in facts.model.named_parameters()}
        self.slopes, self.layers = [], []
        for op in self.weights:
            matrices = [p for p in op.parameters if p.ndim > 1 and id(p) in names]
            if matrices:
                grad = matrices[0].grad
                self.slopes.append(0.0 if grad is None else float(grad.double().square().mean().sqrt()))
                self.layers.append(names[id(matrices[0])])
        self.spreads = [op.statistics.spread for op in self.weights if op.statistics is not None]
        seen = [op.statistics for op in self.hidden if op.statistics is not None]
        self.dead = max((s.dead for s in seen), default=0.0)
        self.flat = max((s.flat for s in seen), default=0.0)
        self.normed = any(op.kind == "norm" for op in traced.model)
        self.batch_normed = any(op.name == "batch_norm" for op in traced.model)
        self.recurrent = any(op.kind == "recurrent" for op in self.weights)
        self.ratio = self.slopes[0] / self.slopes[-1] if self.slopes and self.slopes[-1] > 0 else math.nan

    @property
    def vanishing(self) -> bool:
        """Whether the first layer's gradient is far smaller than the last one's."""
        return len(self.slopes) > 2 and self.ratio < 1e-3

    @property
    def squashing(self) -> list[Operation]:
        """Hidden functions that are flat at both ends."""
        return [op for op in self.hidden if op.name in _SQUASHING]

    @property
    def bounded(self) -> list[Operation]:
        """Hidden functions with bounded values."""
        return [op for op in self.hidden if op.name in _BOUNDED]


def signal_of(facts: Facts) -> Signal | None:
    """Return the numbers; ``None`` where no pass went through the model."""
    return None if facts.traced is None or not facts.traced.weights else Signal(facts)


def suspect_signals(facts: Facts, signal: Signal | None) -> Iterator[Suspicion]:
    """Go through what may stop the learning signal."""
    yield from _frozen(facts)
    if signal is None:
        return
    yield from _cut(facts, signal)
    yield from _symmetric(facts, signal)
    yield from _hidden(facts, signal)
    yield from _first_weights(facts, signal)


# Frozen parts -----------------------------------------------------------------------------------------------


def _frozen(facts: Facts) -> Iterator[Suspicion]:
    if facts.strangers:
        shapes = ", ".join(str(list(s)) for s in facts.strangers[:3])
        yield Suspicion(
            code="frozen",
            weight=1,
            certain=True,
            title="some layers aren't part of the model",
            evidence=(
                f"weights of shape {shapes} are used in forward, and model.parameters() doesn't hold them",
            ),
            cause="layers in a plain list or dictionary, or made in forward, are never trained or saved",
            remedy=Remedy(
                text="keep them in nn.ModuleList or nn.ModuleDict", code="self.layers = nn.ModuleList(layers)"
            ),
        )
    if not facts.untrained:
        return
    sizes = dict(facts.model.named_parameters())
    whole = sum(p.numel() for p in sizes.values())
    part = sum(sizes[name].numel() for name in facts.untrained)
    still = [name for name in facts.untrained if sizes[name].requires_grad]
    why = "the optimizer wasn't given them" if still else "they have requires_grad=False"
    first = ", ".join(facts.untrained[:3]) + (" and others" if len(facts.untrained) > 3 else "")
    yield Suspicion(
        code="frozen",
        weight=1 if part == whole else (0.97 if still else 0.7),
        certain=part == whole,
        severity="error" if part == whole else "risk",
        title="a part of the model isn't trained",
        evidence=(f"{part:,} of {whole:,} parameters: {first}; {why}",),
        remedy=Remedy(
            text="train all parameters",
            change=changes.trained_whole,
            code="optimizer = ...(model.parameters())" if still else "model.requires_grad_(True)",
        ),
    )


def same(x: Tensor) -> Tensor:
    """Return what is given."""
    return x


def _cut(facts: Facts, signal: Signal) -> Iterator[Suspicion]:
    """Weights that are used and trained, and that no gradient reaches."""
    names = {id(p): name for name, p in facts.model.named_parameters()}
    held = set(facts.untrained)
    used = [p for op in facts.traced.model for p in op.parameters if id(p) in names] if facts.traced else []
    cut = [names[id(p)] for p in used if p.requires_grad and p.grad is None and names[id(p)] not in held]
    # under no_grad the operations don't even know that their weights are learnt
    if not cut or len(cut) == len(used):
        return
    assert facts.traced is not None
    loose = [op for op in facts.traced.model if op.name in ("detach", "data", "__get__") and op.sources]
    change = None
    # past numpy or a new tensor nothing leads on, and only the person can mend it
    reached = [p for op in signal.weights for p in op.parameters]
    leads_on = any(names[id(p)] in cut for p in reached if id(p) in names)
    if leads_on and any(op.name == "detach" for op in loose):
        calls = [(op.name, op.occurrence) for op in loose if op.name == "detach"]
        change = changes.rewritten(dict.fromkeys(calls, same))
    yield Suspicion(
        code="frozen",
        weight=0.95,
        severity="risk",
        title="no gradient reaches a part of the model",
        evidence=(
            f"{', '.join(sorted(set(cut))[:3])}: used in forward and given to the optimizer, without a "
            "gradient",
        ),
        cause=".detach(), .data, .numpy(), torch.tensor(...) or torch.no_grad() behind these layers",
        remedy=Remedy(text="leave out what cuts the gradient off", change=change, code="- .detach()"),
    )


# First weights ----------------------------------------------------------------------------------------------


def fresh_weights(signal: Signal) -> Remedy:
    """Return the remedy of drawing all first weights anew."""
    scheme, author = ("normalized", "Glorot") if signal.squashing else ("he", "He")
    return Remedy(
        text=f"draw the first weights by {author}'s scheme",
        change=changes.reinitialized(scheme),
        code=f"thalweg.initial.initialize(model, {scheme!r}, seed=0)",
        settings={"strategies.initialization": {"scheme": scheme}},
    )


def copied_units(facts: Facts, signal: Signal) -> list[tuple[str, int, int]]:
    """Return hidden weights with units that equal another in weights and gradient.

    With equal weights and gradients a pair stays equal. Weights that are all zero aren't by themselves
    copies: a branch that begins at zero gets a gradient of its own for each unit.

    Returns:
        Name of each weight, how many of its units are copies, and of how many.
    """
    names = {id(p): name for name, p in facts.model.named_parameters()}
    found = []
    for op in signal.weights[:-1]:
        for p in op.parameters:
            if p.ndim < 2 or len(p) < 2 or p.grad is None or p.grad.is_sparse:
                continue
            rows, slopes = (each.detach().reshape(len(p), -1).double() for each in (p, p.grad))
            _, which, counts = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
            tolerance = _EQUAL * float(slopes.abs().max())
            alone = int((counts == 1).sum())
            for group in torch.nonzero(counts > 1).flatten():
                left = slopes[which == group]
                while len(left):
                    # units of an LSTM's gates that begin equal are told apart by their gradients
                    near = ((left - left[:1]).abs() <= tolerance).all(1)
                    alone += int(near.sum()) == 1
                    left = left[~near]
            if alone < len(p):
                found.append((names.get(id(p), "a weight"), len(p) - alone, len(p)))
    return found


def _symmetric(facts: Facts, signal: Signal) -> Iterator[Suspicion]:
    names = {id(p): name for name, p in facts.model.named_parameters()}
    copied = {name for name, units, of in copied_units(facts, signal) if units == of}
    equal = []
    for op in signal.weights[:-1]:
        for p in op.parameters:
            if p.ndim > 1 and len(p) > 1 and bool((p == p[:1]).all()):
                name = names.get(id(p), "a weight")
                # a branch that begins at zero, as its author meant, gets another gradient for each unit
                equal += [name] if name in copied or bool((p != 0).any()) else []
    if equal:
        yield Suspicion(
            code="initialization",
            weight=1,
            certain=True,
            title="units of a layer begin as copies of each other",
            evidence=(f"all rows are equal in {', '.join(equal[:3])}",),
            cause="equal units get equal gradients and stay equal, so that a layer counts as a single unit",
            remedy=fresh_weights(signal),
        )


def _first_weights(facts: Facts, signal: Signal) -> Iterator[Suspicion]:
    spreads = [s for s in signal.spreads if s > 0] or [0.0]
    growth = spreads[-1] / spreads[0] if spreads[0] > 0 and len(spreads) > 1 else 1.0
    sizes = [
        float(p.detach().double().std(correction=0)) * math.sqrt(p[0].numel())
        for op in signal.weights
        for p in op.parameters
        if p.ndim > 1 and p.numel() > 4
    ]
    weight, said = 0.0, []
    large, small = max(sizes, default=1.0), min(sizes, default=1.0)
    scaled = facts.inputs is None or (facts.inputs.means**2 + facts.inputs.spreads**2).max() < 64
    if large > 6 and facts.traced is not None and not _only_embedding(facts):
        weight = 0.9 if large > 12 else 0.7
        said.append(
            f"weights spread {large:.2g} times as wide as 1 / sqrt(inputs of a unit); usual is .6 to 1.4"
        )
    if 0 < small < 0.12 and len(sizes) > 1 and not signal.normed:
        weight = max(weight, 0.9 if small < 0.06 else 0.6)
        said.append(
            f"weights spread {small:.2g} times as wide as 1 / sqrt(inputs of a unit); usual is .6 to 1.4"
        )
    if scaled and not signal.normed and not signal.recurrent and (growth > 100 or growth < 1e-3):
        weight = max(weight, 0.85)
        said.append(f"outputs of the last layer spread {growth:.2g} times as wide as those of the first")
    if signal.dead > 0.6 and scaled:
        weight = max(weight, 0.9)
        said.append(
            f"{100 * signal.dead:.0f} % of the units of a layer are zero for all examples at the start"
        )
    if signal.flat > 0.6 and scaled:
        weight = max(weight, 0.8)
        said.append(
            f"{100 * signal.flat:.0f} % of a layer's values lie where its function is flat, at the start"
        )
    if said:
        yield Suspicion(
            code="initialization",
            weight=weight,
            title="the first weights have the wrong size",
            evidence=tuple(said),
            cause="signals shrink or grow from layer to layer, and gradients with them",
            remedy=fresh_weights(signal),
        )
    elif len(signal.weights) > 2 and not signal.normed:
        # default first weights shrink signals slowly through many layers
        yield Suspicion(
            code="initialization",
            weight=0.45 if not signal.vanishing else 0.7,
            severity="risk",
            title="the first weights let signals shrink from layer to layer",
            evidence=(
                f"spread of outputs from {signal.spreads[0]:.2g} in the first layer to "
                f"{signal.spreads[-1]:.2g} in the last",
            )
            if signal.spreads
            else (),
            remedy=fresh_weights(signal),
        )


def _only_embedding(facts: Facts) -> bool:
    return facts.traced is not None and all(op.kind == "embedding" for op in facts.traced.model)


# Functions between layers -----------------------------------------------------------------------------------


def calls_of(operations: list[Operation]) -> list[Call]:
    """Return the calls of operations."""
    return [(op.name, op.occurrence) for op in operations]


def _hidden(facts: Facts, signal: Signal) -> Iterator[Suspicion]:
    traced = facts.traced
    assert traced is not None
    if not traced.nonlinear and len(signal.weights) > 1:
        inner = [op for op in signal.weights[:-1] if op.kind == "weights"]
        yield Suspicion(
            code="hidden-activation",
            weight=0.9,
            title="nothing but linear layers lies between inputs and outputs",
            evidence=(f"{len(signal.weights)} layers follow each other without an activation between them",),
            cause="linear layers one after another are a single linear layer",
            remedy=Remedy(
                text="put relu behind each layer but the last",
                code="nn.ReLU()",
                change=changes.rewritten(followed=dict.fromkeys(calls_of(inner), torch.relu)),
            ),
        )
    bounded = signal.bounded
    if bounded and not signal.recurrent:
        names = sorted({op.name for op in bounded})
        strong = any(op.kind == "softmax" for op in bounded)
        deep = len(bounded)
        weight = 0.9 if strong else (0.55 if deep == 1 else 0.7 if deep == 2 else 0.85)
        if names == ["tanh"] and not signal.vanishing:
            weight -= 0.25
        if signal.vanishing and not strong:
            weight = max(weight, 0.9)
        said = [f"{deep} {'layer' if deep == 1 else 'layers'} with {' and '.join(names)} between others"]
        if signal.vanishing:
            said.append(f"the gradient of the first layer is {signal.ratio:.1g} times that of the last")
        remedies = [changes.rewritten(dict.fromkeys(calls_of(bounded), torch.relu))]
        if deep > 2:
            remedies.append(changes.reinitialized("he"))
        yield Suspicion(
            code="hidden-activation",
            weight=weight,
            title=f"{' and '.join(names)} between layers stops the signal",
            evidence=tuple(said),
            cause="these functions are flat over most of their range, and each layer multiplies the gradient "
            "by their slope: at most .25 for sigmoid",
            remedy=Remedy(
                text=f"use relu in place of {' and '.join(names)}"
                + (", with weights drawn by He's scheme" if deep > 2 else ""),
                change=then(*remedies),
                code="nn.ReLU()",
            ),
        )
    if signal.dead > 0.3 and not bounded:
        relus = [op for op in signal.hidden if op.name in ("relu", "relu6")]
        yield Suspicion(
            code="hidden-activation",
            weight=0.4,
            severity="risk",
            title="many units of relu are dead at the start",
            evidence=(f"{100 * signal.dead:.0f} % of the units of a layer are zero for all examples",),
            remedy=Remedy(
                text="use leaky relu",
                code="nn.LeakyReLU()",
                change=changes.rewritten(dict.fromkeys(calls_of(relus), nn.functional.leaky_relu)),
            ),
        )
