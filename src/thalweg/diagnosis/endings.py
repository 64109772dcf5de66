"""Whether a model's last layer, its loss and its targets go together.

Everything here follows from what is computed on one batch: which of torch's functions the outputs end with,
which loss they go into, which values the targets have. Where a combination can't be right it is certain, and
where it may be meant it is left to a trial.

Source: INDEX X1-X8 as mechanisms; E1 for what losses expect.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from thalweg.diagnosis import changes
from thalweg.diagnosis.class_losses import (
    binary_cross_entropy,
    cross_entropy,
    divergence,
    negative_likelihood,
)
from thalweg.diagnosis.ending_remedies import (
    RANGES,
    around_loss,
    changed_call,
    interval,
    of_one_unit,
    share_outside,
    without,
)
from thalweg.diagnosis.facts import Facts
from thalweg.diagnosis.finding import Remedy
from thalweg.diagnosis.number_losses import losses_of_numbers
from thalweg.diagnosis.suspicion import Suspicion
from thalweg.diagnosis.trace import Operation

__all__ = ["suspect_endings"]

_ELEMENTWISE = (
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
)  # fmt: skip
_NUMBERS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


def suspect_endings(facts: Facts) -> Iterator[Suspicion]:
    """Go through what may be wrong with output, loss and targets."""
    if facts.traced is None:
        return
    yield from _cut_off(facts)
    yield from _not_one_number(facts)
    spread = list(_broadcast(facts))
    if spread:
        yield from spread
        return
    fed = _fed(facts)
    if fed is not None and fed.kind in ("softmax", "log-softmax"):
        yield from _softmax_axis(facts, fed)
    compared = facts.compared
    if compared is None:
        yield from _own_loss(facts, fed)
        return
    if len(compared.sources) > 1 and compared.sources[0] == -2:
        yield _swapped(facts, compared)
    name = compared.name
    if name == "cross_entropy":
        yield from cross_entropy(facts, fed)
    elif name == "nll_loss":
        yield from negative_likelihood(facts, fed)
    elif name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        yield from binary_cross_entropy(facts, fed, logits=name != "binary_cross_entropy")
    elif name == "kl_div":
        yield from divergence(facts, fed)
    elif name in _NUMBERS:
        yield from losses_of_numbers(facts, fed, compared)
        if facts.direct:
            yield from _wrong_way(facts)


def _fed(facts: Facts) -> Operation | None:
    """What the loss is fed by, behind what only passes numbers on."""
    traced = facts.traced
    assert traced is not None
    number = traced.output
    if traced.compared is not None and traced.operations[traced.compared].sources:
        first = traced.operations[traced.compared].sources[0]
        number = first if first >= 0 else number
    found = traced.behind(number, through=("passing", "dropout"))
    return None if found is None else traced.operations[found]


def _cut_off(facts: Facts) -> Iterator[Suspicion]:
    if "doesn't depend on any parameter" not in facts.problem:
        return
    frozen = not any(p.requires_grad for p in facts.model.parameters())
    outputs = facts.traced is not None and facts.traced.output is not None and not frozen
    if frozen:
        yield Suspicion(
            code="frozen",
            weight=1,
            certain=True,
            title="no parameter is trained",
            evidence=("all parameters have requires_grad=False",),
            remedy=Remedy(
                text="set requires_grad on what is to be trained",
                change=changes.trained_whole,
                code="model.requires_grad_(True)",
            ),
        )
    elif outputs:
        yield Suspicion(
            code="frozen",
            weight=1,
            certain=True,
            title="the loss has no gradient: it is cut off from the parameters",
            evidence=(facts.problem,),
            cause="something between parameters and loss can't be differentiated, or was detached: "
            ".detach(), .data, .item(), numpy(), argmax, round, torch.no_grad()",
            remedy=Remedy(text="compute outputs and loss without leaving autograd"),
        )


def _broadcast(facts: Facts) -> Iterator[Suspicion]:
    traced, targets = facts.traced, facts.batch_targets
    if traced is None or not isinstance(targets, Tensor):
        return
    for op in traced.operations[traced.begin :]:
        if len(op.shapes) < 2 or (op.kind == "loss" and op.name not in _ELEMENTWISE):
            continue
        one, other = op.shapes[0], op.shapes[1]
        wide = _spread(one, other)
        paired = {one, other} == {tuple(traced.shape), tuple(targets.shape)}
        most = max(math.prod(one), math.prod(other))
        spread = math.prod(wide) > most or (
            one != other and 1 in (*one[1:], *other[1:]) and math.prod(one) != math.prod(other)
        )
        if not paired or one == other or not spread or min(math.prod(one), math.prod(other)) < 2:
            continue
        if op.kind != "loss" and len(one) == len(other) and one[0] == other[0]:
            # several outputs of an example beside its one target, as quantiles are learnt
            continue
        if targets.ndim > 1 and targets.shape[-1] > 1 and traced.shape[-1:] in ((1,), ()):
            yield _too_few(facts, targets.shape[-1])
            return
        yield Suspicion(
            code="loss-function",
            weight=1,
            certain=True,
            title=f"outputs of shape {list(traced.shape)} are compared with targets of shape "
            f"{list(targets.shape)}",
            evidence=(
                facts.problem
                or f"the loss computes {list(wide)} differences: every output against every target",
            ),
            cause="shapes that differ by an axis of one are spread over each other",
            remedy=Remedy(
                text="bring outputs and targets to one shape",
                change=around_loss(_in_one_shape),
                code="loss(outputs.reshape(targets.shape), targets)",
            ),
        )
        return


def _in_one_shape(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda outputs, targets: loss(outputs.reshape(targets.shape), targets)


def _too_few(facts: Facts, wanted: int) -> Suspicion:
    traced = facts.traced
    assert traced is not None
    last = [n for n in traced.weights if traced.operations[n].kind == "weights"]
    change = changes.new_last_layer(traced.operations[last[-1]].parameters, wanted) if last else None
    return Suspicion(
        code="output-units",
        weight=1,
        certain=True,
        title=f"one output is compared with {wanted} targets",
        evidence=(
            f"outputs of shape {list(traced.shape)} are spread over targets of shape "
            f"{list(facts.batch_targets.shape)}",
        ),
        remedy=Remedy(
            text=f"give the last layer {wanted} outputs", code=f"nn.Linear(..., {wanted})", change=change
        ),
    )


def _not_one_number(facts: Facts) -> Iterator[Suspicion]:
    if "numbers, not one" not in facts.problem:
        return
    yield Suspicion(
        code="loss-function",
        weight=1,
        certain=True,
        title="the loss gives a number for each example",
        evidence=(facts.problem,),
        cause="reduction='none', or no mean over the batch",
        remedy=Remedy(
            text="take the mean over the batch",
            change=around_loss(lambda loss: lambda outputs, targets: loss(outputs, targets).mean()),
            code="loss(outputs, targets).mean()",
        ),
    )


def _spread(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape to which torch spreads two; ``()`` where it can't."""
    if not _fit(one, other):
        return ()
    return tuple(torch.broadcast_shapes(one, other))  # type: ignore[no-untyped-call]


def _fit(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one), reversed(other), strict=False))


def _softmax_axis(facts: Facts, fed: Operation) -> Iterator[Suspicion]:
    axis = fed.options.get("dim", fed.options.get(1))
    width = fed.shape[-1] if fed.shape else 1
    if len(fed.shape) >= 2 and width == 1 and axis in (1, -1, None):
        yield Suspicion(
            code="output-activation",
            weight=1,
            certain=True,
            title="softmax over a single output is always 1",
            evidence=("its gradient is exactly zero, so that nothing is learnt",),
            cause="a softmax shares 1 among the outputs of an example, and there is one",
            remedy=of_one_unit(facts, fed),
        )
    elif axis == 0 and len(fed.shape) >= 2:
        function = torch.log_softmax if fed.kind == "log-softmax" else torch.softmax
        yield Suspicion(
            code="output-activation",
            weight=1,
            certain=True,
            title="softmax is taken over the examples of a batch, not over the outputs of each",
            evidence=(f"dim=0 of outputs of shape {list(fed.shape)}",),
            remedy=Remedy(
                text="take the softmax over the last axis",
                code=f"torch.{fed.name}(x, dim=-1)",
                change=changed_call(fed, lambda x: function(x, -1)),
            ),
        )


def _swapped(facts: Facts, compared: Operation) -> Suspicion:
    return Suspicion(
        code="loss-function",
        weight=1,
        certain=compared.name not in _NUMBERS[:2],
        title="outputs and targets of the loss are swapped",
        evidence=(f"{compared.name} is given the targets where it expects outputs",),
        remedy=Remedy(
            text="give outputs first",
            code=f"{compared.name}(outputs, targets)",
            change=around_loss(lambda loss: lambda outputs, targets: loss(targets, outputs)),
        ),
    )


def _own_loss(facts: Facts, fed: Operation | None) -> Iterator[Suspicion]:
    """Losses that call none of torch's: what can be said of any function of outputs and targets."""
    if facts.direct or facts.judge.kind == "classes":
        yield from _wrong_way(facts)
    if fed is None or facts.judge.kind != "numbers" or fed.name not in RANGES:
        return
    outside = share_outside(facts, *RANGES[fed.name])
    if outside > 0.05:
        yield Suspicion(
            code="output-activation",
            weight=0.95,
            certain=True,
            title=f"the model ends with {fed.name}, and targets lie beyond what it can give",
            evidence=(f"{100 * outside:.0f} % of the targets aren't {interval(fed.name)}",),
            remedy=without(fed, "a number of any size is predicted"),
        )


def _wrong_way(facts: Facts) -> Iterator[Suspicion]:
    """A loss that is larger for perfect predictions than for a constant one."""
    targets, outputs = facts.batch_targets, facts.outputs
    if not isinstance(targets, Tensor) or not isinstance(outputs, Tensor) or len(targets) < 4:
        return
    try:
        if facts.judge.kind == "numbers" and outputs.numel() == targets.numel():
            exact = targets.to(outputs.dtype).reshape(outputs.shape)
            forms = [exact]
            still = exact.mean(0, keepdim=True).expand_as(exact).contiguous()
        elif facts.judge.kind == "classes" and outputs.ndim == 2 and outputs.shape[1] > 1:
            number = facts.judge.numbers(targets)
            assert number is not None
            hot = F.one_hot(number, outputs.shape[1]).to(outputs.dtype)
            forms = [10 * hot, hot.clamp(1e-4, 1 - 1e-4), (hot * (1 - 2e-4) + 1e-4).log()]
            share = hot.mean(0, keepdim=True).clamp(min=1e-4).expand_as(hot).contiguous()
            still = share
        else:
            return
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            perfect = [float(facts.setup.loss(form, targets)) for form in forms]
            stills = [float(facts.setup.loss(form, targets)) for form in (still, still.clamp(min=1e-9).log())]
    except Exception:
        # a loss that can't be asked this says nothing of its sign
        return
    constant = max(s for s in stills[: 1 if facts.judge.kind == "numbers" else 2])
    if all(math.isfinite(p) and p > constant + 1e-6 * abs(constant) for p in perfect):
        yield Suspicion(
            code="loss-function",
            weight=0.95,
            certain=True,
            title="the loss is larger for perfect predictions than for a constant one",
            evidence=(
                f"{min(perfect):.3g} for outputs that equal the targets, {constant:.3g} for their mean",
            ),
            cause="the loss has the wrong sign, or compares other things than it should",
            remedy=Remedy(
                text="turn the sign of the loss",
                code="-loss",
                change=around_loss(lambda loss: lambda o, t: -loss(o, t)),
            ),
        )
