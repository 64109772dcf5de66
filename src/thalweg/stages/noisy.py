"""Parameters with noise on them: K points around theirs, computed at once as lanes.

Linear layers make most of the cost, and need less than K layers would. With ``W_k = W + sigma * E_k`` and
inputs that all lanes have in common, as the first layer's are, ``x W_k' = x W' + sigma * x E_k'``: no ``W_k``
is made, half of the products come from ``E_(k + K/2) = -E_k``, and the gradient of W is one product, of the
sum over lanes. With inputs of its own for each lane, the gradient of W is one product over all lanes and
examples together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from thalweg.layers.following import is_chain
from thalweg.objectives.nests import leaves
from thalweg.randomness.keyed import unkeyed
from thalweg.randomness.noise import noise
from thalweg.randomness.streams import seed32

__all__ = ["Noisy", "computed_as_lanes", "draw"]

_ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity,
    nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus,
    nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip


def draw(
    count: int, samples: int, antithetic: bool, at: tuple[int, int] | None, device: torch.device
) -> Tensor:
    """Draw standard normal noise in one piece: ``[K, count]``, or ``[K / 2, count]`` where antithetic.

    Args:
        count: of numbers for one sample.
        samples, antithetic: K; whether half of the samples are the others with the sign turned around.
        at: seed and step that decide it; ``None``: torch's generator does.
        device: where it lies. On a CPU the draws are the same on every machine.
    """
    rows = samples // 2 if antithetic else samples
    if at is None:
        return torch.empty(rows, count, device=device).normal_()
    seed, step = at
    if device.type == "cpu":
        return noise(rows, count, seed=seed, stream="blur", step=step)
    with unkeyed():
        generator = torch.Generator(device).manual_seed(seed32(seed, "blur", step))
        return torch.empty(rows, count, device=device).normal_(generator=generator)


class Noisy(NamedTuple):
    """A parameter, and the noise on it.

    Attributes:
        parameter: ``[*shape]``.
        eps: ``[K, *shape]``, or ``[K / 2, *shape]`` where antithetic.
        sigma: what it is multiplied by.
        antithetic: whether its opposites are meant too.
    """

    parameter: Tensor
    eps: Tensor
    sigma: float
    antithetic: bool

    @classmethod
    def of(
        cls, parameters: Sequence[Tensor], drawn: Tensor, sigma: float, *, antithetic: bool
    ) -> list[Noisy]:
        """Share the noise of :func:`draw` out to parameters."""
        parts = torch.split(drawn, [p.numel() for p in parameters], 1)
        return [
            cls(p, part.view(-1, *p.shape).to(p.device, p.dtype), sigma, antithetic)
            for p, part in zip(parameters, parts, strict=True)
        ]

    def points(self) -> Tensor:
        """The parameter at all points, ``[K, *shape]``."""
        made: Tensor = _Points.apply(*self)  # type: ignore[no-untyped-call]
        return made

    def at(self, k: int) -> Tensor:
        """The parameter at one point, ``[*shape]``."""
        rows = len(self.eps)
        return torch.add(self.parameter, self.eps[k % rows], alpha=self.sigma if k < rows else -self.sigma)

    def around(self, base: Tensor, slope: Tensor) -> Tensor:
        """``base + sigma * slope``, and where antithetic ``base - sigma * slope`` after it."""
        if not self.antithetic:
            return torch.add(base, slope, alpha=self.sigma)
        both = [torch.add(base, slope, alpha=self.sigma), torch.sub(base, slope, alpha=self.sigma)]
        return torch.cat(both)


class _Points(torch.autograd.Function):
    """``theta + sigma * eps_k``, whose gradient is the sum of those of the points."""

    generate_vmap_rule = True

    @staticmethod
    def forward(parameter: Tensor, eps: Tensor, sigma: float, antithetic: bool) -> Tensor:
        return Noisy(parameter, eps, sigma, antithetic).around(parameter, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = slopes
        # a convolution's may come transposed, and is summed much faster as it lies in memory
        axes = [0, *sorted(range(1, slope.ndim), key=slope.stride, reverse=True)]
        back = [axes.index(axis) - 1 for axis in range(1, slope.ndim)]
        return slope.permute(axes).sum(0).permute(back), None, None, None


def computed_as_lanes(
    model: nn.Module, noisy: dict[str, Noisy], buffers: dict[str, Tensor], args: Any, kwargs: Any
) -> Any:
    """Return the outputs of a model at all points, with a first axis of K.

    Args:
        model: any that can be computed under :func:`torch.vmap`.
        noisy: parameters by name.
        buffers: by name, ``[K, *shape]``; they are changed as the model changes them.
        args, kwargs: what the model is given, at all points alike.
    """

    if not kwargs and len(args) == 1 and (layers := _plain_layers(model, noisy)) is not None:
        return _through(layers, args[0], noisy)

    def one(marks: dict[str, Tensor], held: dict[str, Tensor]) -> Any:
        with _Asked({id(mark): noisy[name] for name, mark in marks.items()}):
            return functional_call(model, {**marks, **held}, args, kwargs)

    # stand for parameters that are made where they are asked for; whatever else came upon one would fail
    count = {name: len(each.eps) * (2 if each.antithetic else 1) for name, each in noisy.items()}
    marks = {
        name: torch.empty((count[name], *each.parameter.shape), dtype=each.parameter.dtype, device="meta")
        for name, each in noisy.items()
    }
    found = torch.vmap(one, randomness="same")(marks, buffers)
    if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in leaves(found)):
        raise RuntimeError("what stands for a parameter came through")
    return found


def _plain_layers(model: nn.Module, noisy: dict[str, Noisy]) -> list[tuple[str, nn.Module]] | None:
    """The layers of a plain chain, where each is linear or elementwise; these need no ``vmap`` around them.

    It would take longer than the layers of a small net.
    """
    if not is_chain(model) or torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return None
    found, common = [], True
    for name, part in model.named_modules(remove_duplicate=False):
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks:
            return None
        if is_chain(part):
            continue
        linear = _is_linear(part, name, noisy)
        if not (linear or type(part) in _ELEMENTWISE or (common and type(part) is nn.Flatten)):
            return None
        common = common and f"{name}.weight" not in noisy
        found.append((name, part))
    return found


def _is_linear(part: nn.Module, name: str, noisy: dict[str, Noisy]) -> bool:
    if type(part) is not nn.Linear or "forward" in vars(part):
        return False
    # of either both are blurred or neither, in what is quick
    return part.bias is None or (f"{name}.weight" in noisy) == (f"{name}.bias" in noisy)


def _through(layers: list[tuple[str, nn.Module]], x: Tensor, noisy: dict[str, Noisy]) -> Tensor:
    axis: int | None = None
    for name, layer in layers:
        weight = noisy.get(f"{name}.weight")
        if weight is None:
            x = layer(x)
        else:
            x, axis = _linear(x, axis, weight, noisy.get(f"{name}.bias")), 0
    assert axis == 0
    return x


class _Asked(TorchFunctionMode):
    """Puts parameters with noise in the place of marks wherever torch is called with one."""

    def __init__(self, noisy: dict[int, Noisy]) -> None:
        super().__init__()
        self._noisy, self._made = noisy, dict[int, Tensor]()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return self._linear(*args, **kwargs)
        return func(*map(self._given, args), **{name: self._given(value) for name, value in kwargs.items()})

    def _given(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)) and any(id(each) in self._noisy for each in value):
            return type(value)([self._given(each) for each in value])
        noisy = self._noisy.get(id(value))
        if noisy is None:
            return value
        if id(value) not in self._made:
            self._made[id(value)] = _below(lambda nothing, axis: noisy.points(), value, None)
        return self._made[id(value)]

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        noisy = self._noisy.get(id(weight))
        input, shift = self._given(input), None if bias is None else self._noisy.get(id(bias))
        # below lanes, nobody would cast what is multiplied
        if noisy is None or torch.is_autocast_enabled(input.device.type):
            return F.linear(input, self._given(weight), self._given(bias))
        found = _below(lambda x, axis: _linear(x, axis, noisy, shift), weight, input)
        return found if bias is None or shift is not None else found + bias


def _below(function: Callable[[Any, Any], Tensor], mark: Tensor, x: Tensor | None) -> Tensor:
    found: Tensor = _Below.apply(function, mark, x)  # type: ignore[no-untyped-call]
    return found


class _Below(torch.autograd.Function):
    """A function of a whole tensor, and of its axis of lanes if it has one, called from within lanes."""

    @staticmethod
    def forward(function: Any, mark: Any, x: Any) -> Tensor:
        raise AssertionError("a mark has lanes")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, function: Any, mark: Any, x: Any) -> tuple[Tensor, int]:
        return function(x, in_dims[2]), 0


def _linear(x: Tensor, axis: int | None, weight: Noisy, bias: Noisy | None) -> Tensor:
    """``[K, ..., out]`` of inputs ``[..., in]``, or ``[K, ..., in]``."""
    if axis is None:
        base = F.linear(x, weight.parameter, None if bias is None else bias.parameter)
        rows = x.reshape(1, -1, x.shape[-1]).expand(len(weight.eps), -1, -1)
        slopes = torch.bmm(rows, weight.eps.mT)
        if bias is not None:
            slopes = slopes + bias.eps.unsqueeze(1)
        return weight.around(base, slopes.view(-1, *base.shape))
    x = x.movedim(axis, 0)
    rows = x.reshape(len(x), -1, x.shape[-1])
    shift: tuple[Any, Any] = (None, None) if bias is None else (bias.parameter, bias.eps)
    found: Tensor = _OwnInputs.apply(rows, *weight, *shift)  # type: ignore[no-untyped-call]
    return found.view(*x.shape[:-1], found.shape[-1])


class _OwnInputs(torch.autograd.Function):
    """A linear layer whose lanes have inputs of their own: ``[K, N, in]`` to ``[K, N, out]``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, eps: Tensor, sigma: float, antithetic: bool,
        bias: Tensor | None, bias_eps: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.noisy = eps, sigma, antithetic
        points = Noisy(weight, *ctx.noisy).around(weight, eps)
        ctx.save_for_backward(x, weight, points)
        if bias is None or bias_eps is None:
            return torch.bmm(x, points.mT)
        shift = Noisy(bias, bias_eps, sigma, antithetic).around(bias, bias_eps)
        return torch.baddbmm(shift.unsqueeze(1), x, points.mT)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        (slope,) = slopes
        x, weight, points = ctx.saved_tensors
        if torch.is_grad_enabled():
            # whoever takes gradients of gradients takes them through the weight
            points = Noisy(weight, *ctx.noisy).points()
        needs = ctx.needs_input_grad
        return (
            torch.bmm(slope, points) if needs[0] else None,
            slope.flatten(0, 1).T @ x.flatten(0, 1) if needs[1] else None,
            None, None, None,
            slope.sum((0, 1)) if needs[5] else None,
            None,
        )  # fmt: skip
