"""Constants of a start: output biases from marginal statistics, biases under ReLU, open gates, variances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError, nearest
from thalweg.initial.normed import normed
from thalweg.initial.weights import matching, role_of, whole, write
from thalweg.layers.following import activated

__all__ = [
    "OutputBias",
    "marginals",
    "open_gates",
    "output_bias",
    "positive_biases",
    "set_constants",
    "set_output_bias",
]

Activation = Literal["softmax", "sigmoid", "identity", "exp", "softplus"]


@dataclass(frozen=True)
class OutputBias:
    """A bias, and what the person should know of it.

    Args:
        values: ``[C]``, in float64.
        notes: a sentence each.
    """

    values: Tensor
    notes: tuple[str, ...]


def marginals(targets: Tensor, *, classes: int | None = None) -> Tensor:
    """Compute the mean of the targets over the training set, of class numbers their shares.

    Args:
        targets: class numbers ``[N]`` of an integer type, with ``classes``; otherwise ``[N]`` or ``[N, C]``.
        classes: how many there are, those that never occur included.

    Returns:
        float64 tensor ``[C]``.

    Raises:
        OptionError: no targets, or a class number outside ``[0, classes)``.

    >>> marginals(torch.tensor([0, 2, 2, 2]), classes=3).tolist()
    [0.25, 0.0, 0.75]
    """
    if len(targets) == 0:
        raise OptionError("there are no targets: marginal statistics need at least one example")
    if classes is None:
        return targets.reshape(len(targets), -1).double().mean(0)
    if targets.is_floating_point() or targets.ndim != 1:
        raise OptionError(
            f"targets of {targets.dtype} {list(targets.shape)} are no class numbers: give integers [N], or "
            "leave out classes"
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= classes:
        raise OptionError(f"class number {low if low < 0 else high} is outside of 0 to {classes - 1}")
    return torch.bincount(targets, minlength=classes).double() / len(targets)


def output_bias(statistics: Tensor, activation: Activation, *, examples: int | None = None) -> OutputBias:
    """Solve ``activation(b) = c``: the bias with which an output begins at the marginal statistics.

    softmax: ``b = log(c) - mean(log(c))``, the shortest of all solutions; sigmoid: ``log(c / (1 - c))``;
    identity: ``c``; exp: ``log(c)``; softplus: ``log(exp(c) - 1)``. A class that never occurs would need an
    infinite bias: it counts as half an example (of ``examples``), one that always occurs as half an example
    less; without ``examples`` as a share of 1e-6. The same for a mean of 0 under exp and softplus. This holds
    for an output whose weights are near zero: see :func:`set_output_bias`.

    Args:
        statistics: c, ``[C]``, as of :func:`marginals`: shares for softmax, shares of ones for sigmoid,
            means for the others. Shares or counts: softmax divides by their sum.
        activation: of the output; for cross-entropy on logits ``"softmax"`` or ``"sigmoid"``.
        examples: how many the statistics are of.

    Raises:
        OptionError: an unknown activation, or statistics that it can't have.

    >>> b = output_bias(torch.tensor([0.2, 0.3, 0.5]), "softmax").values
    >>> [round(p, 6) for p in torch.softmax(b, 0).tolist()]
    [0.2, 0.3, 0.5]

    Source: I5 (K, U).
    """
    if activation not in _INVERSES:
        raise OptionError(f"there is no output activation {activation!r}; {nearest(activation, _INVERSES)}")
    c = statistics.detach().double().cpu().reshape(-1)
    low, high = _RANGES[activation]
    if len(c) == 0 or not torch.isfinite(c).all() or bool((c < low).any()) or bool((c > high).any()):
        raise OptionError(
            f"statistics {c.tolist()[:10]} can't be those of {activation} outputs: give finite numbers from "
            f"{low:g} to {high:g}"
        )
    floor = 0.5 / examples if examples else 1e-6
    if activation == "softmax":
        if float(c.sum()) == 0:
            raise OptionError("statistics of softmax outputs sum to 0: give shares or counts of the classes")
        c = c / c.sum()
    notes = []
    if activation != "identity":
        said = "half an example" if examples else f"a share of {floor:g}"
        never = (c == 0).nonzero().flatten().tolist()
        if never:
            notes.append(f"outputs {never} never occur and count as {said}")
        c = torch.where(c == 0, floor, c)
    if activation == "sigmoid":
        always = (c == 1).nonzero().flatten().tolist()
        if always:
            notes.append(f"outputs {always} always occur and count as {said} less")
        c = torch.where(c == 1, 1 - floor, c)
    return OutputBias(_INVERSES[activation](c), tuple(notes))


_INVERSES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda c: c.log() - c.log().mean(),
    "sigmoid": torch.logit,
    "identity": lambda c: c,
    "exp": torch.log,
    # log(exp(c) - 1) without overflow
    "softplus": lambda c: c + torch.log(-torch.expm1(-c)),
}
_RANGES = {
    "softmax": (0.0, math.inf),
    "sigmoid": (0.0, 1.0),
    "identity": (-math.inf, math.inf),
    "exp": (0.0, math.inf),
    "softplus": (0.0, math.inf),
}


def set_output_bias(
    layer: nn.Module,
    statistics: Tensor,
    activation: Activation,
    *,
    examples: int | None = None,
    largest_norm: float | None = 0.1,
) -> OutputBias:
    """Give an output layer the bias of the marginal statistics, and make its weights small enough for it.

    The bias alone decides the first outputs only where the weights are near zero: over inputs of variance 1
    an output varies by the norm of the weights into it. Weights of a larger norm than ``largest_norm`` are
    scaled down to it, which is said.

    Args:
        layer: a linear layer or a convolution, with a bias.
        statistics, activation, examples: as for :func:`output_bias`.
        largest_norm: of the weights into an output; ``None``: weights stay, and large ones are only named.

    Returns:
        The bias that was set, with notes.

    Raises:
        OptionError: as :func:`output_bias`; as many statistics as outputs are needed.
        ModelError: the layer has no weight or no bias.

    >>> layer = nn.Linear(100, 3)
    >>> set_output_bias(layer, torch.tensor([0.2, 0.3, 0.5]), "softmax").notes
    ('weights into outputs [0, 1, 2] had norms up to ... and were scaled down to 0.1, so that the bias ...',)

    Source: I5 (K, U).
    """
    computed = normed(layer).get("weight")
    weight = layer._parameters.get("weight") if computed is None else computed.weight
    bias = layer._parameters.get("bias")
    role = None if weight is None else role_of(layer, "weight", weight)
    if weight is None or bias is None or role is None or isinstance(role, str):
        raise ModelError(
            f"a {type(layer).__name__} without weight or bias can't begin at marginal statistics"
        )
    result = output_bias(statistics, activation, examples=examples)
    if len(result.values) != len(bias):
        raise OptionError(f"{len(result.values)} statistics don't fit {len(bias)} outputs: give one for each")
    notes = list(result.notes)
    # a unit's weights lie along the second axis where the layer is transposed, group by group
    rows = whole(weight).double()
    if role.transposed:
        inputs = rows.shape[0] // role.blocks
        rows = rows.reshape(role.blocks, inputs, rows.shape[1], -1).transpose(1, 2)
    norms = rows.reshape(role.units, -1).norm(dim=1)
    limit = 0.1 if largest_norm is None else largest_norm
    large = (norms > limit).nonzero().flatten().tolist()
    if large:
        said = f"weights into outputs {large} {{}} norms up to {float(norms.max()):.3g}"
        if largest_norm is None:
            notes.append(
                said.format("have")
                + ": outputs begin at the statistics only up to as much, times the size of "
                "the inputs"
            )
        else:
            factor = torch.where(norms > limit, limit / norms, 1.0)
            spread = factor.unsqueeze(1).expand(role.units, role.per_unit)
            smaller = whole(weight) * role.arrange(spread).to(weight.dtype)
            try:
                said_of = None if computed is None else computed.put(smaller)
            except NotImplementedError:
                said_of = "its parametrization can't be given a weight"
            if said_of is not None:
                # what is divided by its norm again has no smaller weights
                return OutputBias(
                    _write_bias(bias, result.values),
                    (*notes, f"{said.format('keep')}: {said_of}, and outputs begin at the statistics only up "
                     "to as much, times the size of the inputs"),
                )  # fmt: skip
            if computed is None:
                write(weight, smaller)
            notes.append(
                said.format("had")
                + f" and were scaled down to {limit:g}, so that the bias decides the first "
                "outputs"
            )
    return OutputBias(_write_bias(bias, result.values), tuple(notes))


def _write_bias(bias: Tensor, values: Tensor) -> Tensor:
    write(bias, values.to(bias.device, bias.dtype))
    return values


def positive_biases(model: nn.Module, value: float = 0.1, *, example: Any = None) -> tuple[str, ...]:
    """Set the biases of all layers that lead into a ReLU to a small positive value.

    So that at the start most units are on for most inputs, and learn.

    Args:
        model: any.
        value: positive, usually 0.01 to 0.1.
        example: a batch on which to see what leads into what; without, ``nn.Sequential`` is read.

    Returns:
        Names of the biases that were set.

    Raises:
        OptionError: a value that isn't positive.
        ModelError: no layer with a bias leads into a ReLU.

    >>> positive_biases(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
    ('0.bias',)

    Source: I6 (K).
    """
    if not 0 < value < math.inf:
        raise OptionError(f"value = {value} isn't allowed: a bias under ReLU is to be positive, such as 0.1")
    set_: list[str] = []
    for name, activation in activated(model, example).items():
        bias = model.get_submodule(name)._parameters.get("bias")
        if activation in ("relu", "relu6") and bias is not None:
            write(bias, torch.full(bias.shape, value, dtype=bias.dtype))
            set_.append(f"{name}.bias" if name else "bias")
    if not set_:
        raise ModelError(
            "no layer with a bias was found to lead into a ReLU: give an example batch, on which the model "
            "is run"
        )
    return tuple(set_)


# torch stacks a layer's gates in this order
_GATES: Mapping[type[nn.Module], tuple[str, ...]] = {
    nn.LSTM: ("input", "forget", "cell", "output"),
    nn.LSTMCell: ("input", "forget", "cell", "output"),
    nn.GRU: ("reset", "update", "new"),
    nn.GRUCell: ("reset", "update", "new"),
}


def open_gates(
    module: nn.Module,
    *,
    forget: float | None = 1.0,
    update: float | None = 1.0,
    input: float | None = None,
    output: float | None = None,
    reset: float | None = None,
) -> tuple[str, ...]:
    """Set the biases of gates in all LSTMs and GRUs, so that they begin open.

    A gate is ``sigmoid(W x + b_ih + U h + b_hh)``: torch keeps two biases, of which the first gets the value
    and the second 0. At 1 a gate lets 73 % through, at 3 95 %. By default those are opened through which the
    state passes from step to step: the forget gate of an LSTM, ``c' = f*c + i*g``, and the update gate of a
    GRU, in torch ``h' = (1 - z)*n + z*h``.

    Args:
        module: an LSTM, GRU, cell of one, or anything that holds some; both directions and all layers count.
        forget, input, output: biases of an LSTM's gates; ``None`` leaves one as it is.
        update, reset: biases of a GRU's.

    Returns:
        What was set, such as ``"rnn.bias_ih_l0: forget"``.

    Raises:
        ModelError: nothing with gates and biases is there.

    >>> rnn = nn.LSTM(3, 2)
    >>> open_gates(rnn)
    ('bias_ih_l0: forget',)
    >>> (rnn.bias_ih_l0 + rnn.bias_hh_l0)[2:4].tolist()
    [1.0, 1.0]

    Source: I6 (K); Jozefowicz, Zaremba and Sutskever 2015.
    """
    values = {"forget": forget, "update": update, "input": input, "output": output, "reset": reset}
    done = []
    for name, layer in module.named_modules():
        gates = next((gates for kind, gates in _GATES.items() if isinstance(layer, kind)), ())
        for own, bias in layer.named_parameters(recurse=False):
            if not gates or not own.startswith(("bias_ih", "bias_hh")):
                continue
            first = own.startswith("bias_ih")
            now = whole(bias).clone()
            for gate, part in zip(gates, now.chunk(len(gates)), strict=True):
                value = values.get(gate)
                if value is not None:
                    part.fill_(value if first else 0.0)
                    if first:
                        done.append(f"{name}.{own}: {gate}" if name else f"{own}: {gate}")
            write(bias, now)
    if not done:
        raise ModelError("there is no LSTM or GRU with biases whose gates these could open")
    return tuple(done)


def set_constants(
    module: nn.Module, values: Mapping[str, float], *, activation: Activation = "identity"
) -> tuple[str, ...]:
    """Fill parameters with constants, such as those that stand for a variance.

    Args:
        module: any.
        values: pattern of parameters' names, such as ``"head.log_variance"`` or ``"*.log_std"``, to what
            ``activation`` of the parameter is to be.
        activation: what the model makes of the parameter: with ``"exp"`` and a variance of 1 it becomes 0.

    Returns:
        Names of the parameters that were filled.

    Raises:
        OptionError: a pattern that fits nothing, or a value that the activation can't have.

    >>> head = nn.Module()
    >>> head.log_variance = nn.Parameter(torch.full((2,), 5.0))
    >>> set_constants(head, {"log_*": 1.0}, activation="exp"), head.log_variance.tolist()
    (('log_variance',), [0.0, 0.0])

    Source: I7 (U).
    """
    if activation == "softmax":
        raise OptionError("constants can't be given through a softmax, whose outputs aren't each by itself")
    parameters = dict(module.named_parameters())
    filled = []
    for pattern, value in values.items():
        names = matching(pattern, parameters)
        solved = output_bias(torch.tensor([value], dtype=torch.float64), activation)
        if solved.notes:
            raise OptionError(f"{pattern!r} can't begin at {value}, which {activation} never reaches")
        for name in names:
            target = parameters[name]
            write(target, torch.full(target.shape, float(solved.values), dtype=target.dtype))
        filled += names
    return tuple(filled)
