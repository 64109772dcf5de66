"""Whether a model is built so that it can learn the task: depth, width, norms, dropout and weight decay.

Source: INDEX X5, X8 (depth), K.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from thalweg.diagnosis import changes
from thalweg.diagnosis.changes import Change, then
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Remedy
from thalweg.diagnosis.signals import Signal, calls_of, same
from thalweg.diagnosis.suspicion import Suspicion
from thalweg.diagnosis.trace import Operation

__all__ = ["suspect_structure"]


def suspect_structure(facts: Facts, signal: Signal | None) -> Iterator[Suspicion]:
    """Go through how the model is built."""
    if signal is None:
        return
    yield from _depth(facts, signal)
    yield from _norms(facts, signal)
    yield from _regularization(facts)
    yield from _capacity(facts, signal)


def _depth(facts: Facts, signal: Signal) -> Iterator[Suspicion]:
    """Many layers one after another, without norms and without ways around them."""
    assert facts.traced is not None
    plain = [op for op in signal.weights if op.kind == "weights"]
    if len(plain) < 9 or any(op.kind == "norm" for op in facts.traced.model) or signal.recurrent:
        return
    if any(op.kind == "linear" and len(op.sources) > 1 for op in facts.traced.model):
        return
    # those that bring a shape to the same shape can be left out
    alike = [op for op in plain[1:-1] if op.shapes and op.shapes[0] == op.shape]
    out = alike[: max(0, len(alike) - 2)]
    functions = []
    for op in out:
        behind = [
            other
            for other in signal.hidden
            if other.sources and other.sources[0] >= 0 and facts.traced.operations[other.sources[0]] is op
        ]
        functions += behind
    change = changes.rewritten(dict.fromkeys(calls_of([*out, *functions]), same)) if out else None
    yield Suspicion(
        code="depth",
        weight=0.85 if signal.vanishing else 0.75,
        title=f"{len(plain)} layers follow each other without a norm or a way around them",
        evidence=(f"the gradient of the first layer is {signal.ratio:.1g} times that of the last",),
        cause="signals and gradients are multiplied from layer to layer, and vanish or explode with depth",
        remedy=Remedy(
            text=f"leave {len(out)} of the layers out, or add norms or ways around them (x + f(x))",
            change=change,
            code="x = x + layer(x)",
        ),
    )


def _norms(facts: Facts, signal: Signal) -> Iterator[Suspicion]:
    if not signal.batch_normed:
        return
    size = facts.setup.batch_size
    parts = [part for part in facts.model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if size <= 4:
        yield Suspicion(
            code="batch-norm",
            weight=0.85,
            title=f"batch norm takes its statistics of {size} examples",
            evidence=(f"batches of {size}",),
            cause="mean and spread of so few examples are mostly noise, and of one there are none",
            remedy=Remedy(
                text="use larger batches",
                change=changes.of_batch(32),
                code="batch_size=32",
                settings={"training.batch_size": 32},
            ),
        )
    odd = [p for p in parts if p.momentum is not None and not 0.005 <= p.momentum <= 0.7]
    if odd:

        def usual(model: nn.Module) -> nn.Module:
            for part in model.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.momentum = 0.1
            return model

        yield Suspicion(
            code="batch-norm",
            weight=0.9,
            title=f"batch norm has momentum {odd[0].momentum:g}",
            evidence=("in torch, momentum is the share of the newest batch in the statistics: 0.1 is usual",),
            cause="the statistics that evaluation uses are those of the start, or of the last batch alone",
            remedy=Remedy(
                text="use momentum 0.1",
                code="nn.BatchNorm1d(..., momentum=0.1)",
                change=lambda setup: setup.with_model(usual),
            ),
        )


def _regularization(facts: Facts) -> Iterator[Suspicion]:
    traced = facts.traced
    assert traced is not None
    drops = [(op, _chance(op)) for op in traced.model if op.kind == "dropout"]
    chances = [p for _, p in drops if p > 0]
    decay = float(facts.group.get("weight_decay", 0.0) or 0.0)
    decoupled = facts.optimizer.lower() in ("adamw", "sgdw", "lion", "lamb", "muon")
    strong = decay >= (0.3 if decoupled else 0.02)
    off: list[changes.Change] = []
    said = []
    weight = 0.0
    if max(chances, default=0) > 0:
        off.append(changes.no_dropout)
        said.append(f"dropout of {', '.join(sorted({f'{p:g}' for p in chances}))}")
        weight = 0.9 if max(chances) >= 0.75 else 0.6 if max(chances) >= 0.5 else 0.35
        last = traced.behind(traced.output)
        if last is not None and traced.operations[last].kind == "dropout":
            weight = 0.95
            said[-1] += ", also of the outputs themselves"
    if decay:
        off.append(changes.with_decay(0.0))
        said.append(f"weight decay of {decay:g}")
        weight = max(weight, 0.9 if strong else 0.5 if decay >= (0.05 if decoupled else 2e-3) else 0.2)
    if off:
        yield Suspicion(
            code="regularization",
            weight=weight,
            title="regularization is so strong that little is learnt",
            evidence=tuple(said),
            remedy=Remedy(
                text="leave it out, and bring it back weakly once the model fits its training data",
                change=then(*off),
                code="weight_decay=0, dropout p=0",
            ),
        )


def _chance(op: Operation) -> float:
    found = op.options.get("p", op.options.get(1, 0.5))
    training = op.options.get("training", op.options.get(2, True))
    return float(found) if training and isinstance(found, (int, float)) else 0.0


def _capacity(facts: Facts, signal: Signal) -> Iterator[Suspicion]:
    widths = [
        op.shape[1] if len(op.shape) > 2 and op.name.startswith("conv") else op.shape[-1]
        for op in signal.weights[:-1]
    ]
    needed = facts.judge.classes if facts.judge.kind == "classes" else facts.width
    narrow = min(widths, default=0)
    linear = len(signal.weights) == 1
    if not linear and _reconstructs(facts):
        return
    if linear or (widths and narrow <= max(2, needed // 3)):
        said = "the model is a single linear layer" if linear else f"the narrowest layer has {narrow} units"
        yield Suspicion(
            code="capacity",
            weight=0.75 if not linear else 0.5,
            title="the model is too small",
            evidence=(said,),
            cause="what a narrow layer doesn't let through is lost to all behind it",
            remedy=Remedy(
                text="make hidden layers wider" if not linear else "add a hidden layer",
                change=_widened(facts),
            ),
        )


def _reconstructs(facts: Facts) -> bool:
    """Whether the targets are the inputs, so that a narrow layer is meant to hold them."""
    inputs, targets = facts.setup.inputs, facts.setup.targets
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor) or inputs.ndim < 2:
        return False
    x, y = inputs.reshape(len(inputs), -1), targets.reshape(len(targets), -1)
    if x.shape != y.shape or x.shape[1] < 3:
        return False
    # noise that was put on the inputs leaves them near their targets
    some = slice(0, 1000)
    error = (x[some].double() - y[some].double()).square().mean()
    return bool(error < 0.5 * y[some].double().var(0, correction=0).mean())


def _widened(facts: Facts, width: int = 64) -> Change | None:
    """Return what widens the layers of an ``nn.Sequential``, or gives a single one a hidden layer."""
    model = facts.model
    if any(isinstance(part, nn.RNNBase) for part in model.modules()):
        return _widened_recurrent(model, width)
    parts = list(model.children()) if isinstance(model, nn.Sequential) else [model]
    known = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d)
    if not all(isinstance(p, known) or not list(p.parameters()) for p in parts):
        return None
    layers = [p for p in parts if isinstance(p, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    if not layers or any(getattr(p, "groups", 1) != 1 for p in layers):
        return None

    def wide(_: nn.Module) -> nn.Module:
        made: list[nn.Module] = []
        # how many features the layer before gave, and gives now
        old = new = 0
        for part in parts:
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                made.append(type(part)(part.num_features // max(1, old) * new if old else part.num_features))
            elif isinstance(part, nn.Linear):
                inputs = part.in_features if not old else part.in_features // old * new
                last = part is layers[-1]
                if last and len(layers) == 1:
                    made += [nn.Linear(inputs, width), nn.ReLU()]
                    inputs = width
                old, new = part.out_features, part.out_features if last else max(width, part.out_features)
                made.append(nn.Linear(inputs, new, bias=part.bias is not None))
            elif isinstance(part, (nn.Conv1d, nn.Conv2d)):
                inputs = part.in_channels if not old else new
                old, new = part.out_channels, max(width // 4, part.out_channels)
                kind: Any = type(part)
                made.append(
                    kind(
                        inputs,
                        new,
                        part.kernel_size,
                        part.stride,
                        part.padding,
                        part.dilation,
                        bias=part.bias is not None,
                    )
                )
            else:
                made.append(part)
        first = next(iter(layers)).weight
        return nn.Sequential(*made).to(first.device, first.dtype)

    return lambda setup: setup.with_model(wide)


def _widened_recurrent(model: nn.Module, width: int) -> Change | None:
    """Return what widens the recurrent layers of any model, with the layers that take what they give.

    These are known by how many numbers they take; a trial that raises shows where that was wrong.
    """
    layers = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.RNNBase)]
    narrow = [(name, part) for name, part in layers if part.hidden_size < width and not part.proj_size]
    if not narrow:
        return None

    def wide(model: nn.Module) -> nn.Module:
        parts = list(model.named_modules())
        names = [name for name, _ in parts]
        takes: dict[str, int] = {}
        for name, old in narrow:
            ways = 2 if old.bidirectional else 1
            before, now = ways * old.hidden_size, ways * width
            _put(model, name, _like(old, takes.get(name, old.input_size), width))
            for other, part in parts[names.index(name) + 1 :]:
                if isinstance(part, nn.RNNBase) and part.input_size == before:
                    takes[other] = now
                    _put(model, other, _like(part, now, part.hidden_size))
                    break
                if isinstance(part, nn.Linear) and part.in_features % before == 0:
                    inputs, bias = part.in_features // before * now, part.bias is not None
                    _put(model, other, nn.Linear(inputs, part.out_features, bias=bias))
                    break
        first = next(model.parameters())
        return model.to(first.device, first.dtype)

    return lambda setup: setup.with_model(wide)


def _like(old: Any, inputs: int, width: int) -> nn.Module:
    options = {
        name: getattr(old, name) for name in ("num_layers", "bias", "batch_first", "dropout", "bidirectional")
    }
    if isinstance(old, nn.RNN):
        options["nonlinearity"] = old.nonlinearity
    made: nn.Module = type(old)(inputs, width, **options)
    return made


def _put(model: nn.Module, path: str, part: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, part)
