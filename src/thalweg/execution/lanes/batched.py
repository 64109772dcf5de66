"""Layers that train K replicas at once: the same arithmetic as torch's, with a lane dimension in front.

Activations travel as ``[K, B, ...]``. After a linear layer they lie in memory as ``[K, features, B]``: the
gradient of a weight then comes out of the matrix product in the order in which the weight is stored, and the
kernels that update it need no copy.

A lane's numbers must not depend on how many lanes there are. Matrix products and sums treat each lane alike
(with MKL in a reproducible mode), but torch computes the last few elements of an array, and of each thread's
share of it, with other functions than the rest; :func:`aligned` gives such functions whole vectors only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.randomness.keyed import Draw, Site, keep_mask

__all__ = ["Batched", "aligned", "missing_elements"]

_GRAIN = 32768  # elements below which torch doesn't split elementwise work over threads
_VECTORS = 64  # elements: two of the widest vectors there are, unrolled twice

_Names = Mapping[int, str]
_Layer = Callable[["_Pass", Tensor], Tensor]


class _Pass:
    """What the layers of one forward pass share."""

    def __init__(self, tensors: Mapping[str, Tensor], draw: Draw | None, training: bool) -> None:
        self.tensors, self.training = tensors, training
        self._draw, self._calls = draw, 0

    def uniform(self, shape: tuple[int, ...]) -> Tensor:
        """Numbers in [0, 1), ``[K, *shape]``."""
        assert self._draw is not None
        self._calls += 1
        return self._draw(self._calls - 1, Site("uniform", shape, torch.float32))


def aligned(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply an elementwise function so that no element's bits depend on where in memory it lies.

    Args:
        function: elementwise.
        x: any dense tensor; it is padded where whole vectors on every thread don't cover it.

    Returns:
        ``function(x)``.

    >>> x = torch.linspace(-3, 3, 21)
    >>> torch.equal(aligned(torch.nn.functional.gelu, x)[:5], aligned(torch.nn.functional.gelu, x[:5]))
    True
    """
    count = x.numel()
    extra = missing_elements(count, x.device)
    if extra == 0:
        return function(x)
    flipped = not x.is_contiguous() and x.dim() >= 3
    dense = x.transpose(1, 2) if flipped else x
    padded = F.pad(dense.reshape(-1), (0, extra))
    result = function(padded)[:count].view(dense.shape)
    return result.transpose(1, 2) if flipped else result


def missing_elements(count: int, device: torch.device) -> int:
    """Return how many elements to add to ``count`` so that whole vectors on every thread cover them."""
    if device.type != "cpu" or count == 0:
        return 0
    threads = min(torch.get_num_threads(), -(-count // _GRAIN))
    return -count % (_VECTORS * threads)


class Batched:
    """The forward pass of an ``nn.Sequential`` (nested ones too) of known layers, over K lanes.

    Args:
        module: the template.

    Raises:
        TypeError: a layer has no twin here; the message names it.
    """

    def __init__(self, module: nn.Module) -> None:
        names = {id(tensor): name for name, tensor in module.named_parameters()}
        names |= {id(tensor): name for name, tensor in module.named_buffers()}
        self._layers = _compile(module, names)
        # A ReLU right after a linear layer overwrites what that has just made, before it becomes a view.
        for index, layer in reversed(list(enumerate(self._layers))):
            if isinstance(layer, _Linear) and self._layers[index + 1 : index + 2] == [_relu]:
                layer.relu = True
                del self._layers[index + 1]

    def __call__(
        self, tensors: Mapping[str, Tensor], x: Tensor, *, draw: Draw | None, training: bool
    ) -> Tensor:
        """Map inputs ``[K, B, ...]`` to outputs ``[K, B, ...]``, with tensors ``[K, ...]`` by name."""
        state = _Pass(tensors, draw, training)
        for layer in self._layers:
            x = layer(state, x)
        return x


def _compile(module: nn.Module, names: _Names) -> list[_Layer]:
    kind = type(module)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, hook) for hook in hooks):
        raise TypeError(f"{kind.__name__} with hooks")
    if "forward" in vars(module):
        raise TypeError(f"{kind.__name__} with a forward of its own")
    if kind is nn.Sequential:
        return [
            layer for child in module._modules.values() for layer in _compile(cast(nn.Module, child), names)
        ]
    if kind in _EXACT:
        return _plain(module)
    if kind in _ALIGNED:
        return [lambda state, x: aligned(module, x)]
    if kind not in _TWINS:
        raise TypeError(kind.__name__)
    layer = _TWINS[kind](module, names)
    return [] if layer is None else [layer]


def _plain(module: nn.Module) -> list[_Layer]:
    if isinstance(module, nn.Identity):
        return []
    return [_relu] if isinstance(module, nn.ReLU) else [lambda state, x: module(x)]


def _relu(state: _Pass, x: Tensor) -> Tensor:
    return x.relu()


class _Linear:
    """``y = x @ W.T + b`` for each lane, and then ReLU if ``relu``."""

    def __init__(self, module: Any, names: _Names) -> None:
        self._weight = names[id(module.weight)]
        self._bias = None if module.bias is None else names[id(module.bias)]
        self.relu = False

    def __call__(self, state: _Pass, x: Tensor) -> Tensor:
        weight = state.tensors[self._weight]
        between = x.shape[1:-1]
        x = x.flatten(1, -2).transpose(1, 2)
        if self._bias is None:
            out = torch.bmm(weight, x)
        else:
            out = torch.baddbmm(state.tensors[self._bias].unsqueeze(2), weight, x)
        if self.relu:
            out = out.relu_()
        out = out.transpose(1, 2)
        return out if len(between) == 1 else out.reshape(len(out), *between, -1)


def _shifted(axis: int) -> int:
    return axis + 1 if axis >= 0 else axis


def _flatten(module: Any, names: _Names) -> _Layer:
    start, end = _shifted(module.start_dim), _shifted(module.end_dim)
    return lambda state, x: x.flatten(start, end)


def _unflatten(module: Any, names: _Names) -> _Layer:
    if not isinstance(module.dim, int):
        raise TypeError("Unflatten of a named dimension")
    axis = _shifted(module.dim)
    sizes = tuple(module.unflattened_size)
    return lambda state, x: torch.unflatten(x, axis, sizes)


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Callable[[Any, _Names], _Layer]:
    def make(module: Any, names: _Names) -> _Layer:
        if module.dim is None:
            raise TypeError(f"{type(module).__name__} without a dim")
        axis = _shifted(module.dim)
        return lambda state, x: function(x.contiguous(), axis)

    return make


def _dropout(module: Any, names: _Names) -> _Layer | None:
    p = float(module.p)

    def forward(state: _Pass, x: Tensor) -> Tensor:
        if not state.training:
            return x
        return x * keep_mask(state.uniform(tuple(x.shape[1:])), p, x.dtype)

    return forward if p > 0 else None


def _beside(tensor: Tensor, x: Tensor) -> Tensor:
    """Channels ``[K, C]`` shaped to broadcast against ``[K, B, C, ...]``."""
    return tensor.reshape(tensor.shape[0], 1, tensor.shape[1], *(1,) * (x.dim() - 3))


def _batch_norm(module: Any, names: _Names) -> _Layer:
    own = {
        role: names[id(tensor)]
        for role in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        if (tensor := getattr(module, role)) is not None
    }

    def forward(state: _Pass, x: Tensor) -> Tensor:
        if x.dim() == 2:
            raise TypeError("BatchNorm1d without a batch")
        tensor = {role: state.tensors[name] for role, name in own.items()}
        tracked = "running_mean" in tensor
        if state.training or not tracked:
            axes = (1, *range(3, x.dim()))
            count = x.shape[1] * x[0, 0, 0].numel()
            if count == 1:
                raise ValueError("batch norm needs more than one value a channel when training")
            variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
            if state.training and tracked:
                _track(tensor, module.momentum, mean.detach(), variance.detach() * (count / (count - 1)))
        else:
            mean, variance = _beside(tensor["running_mean"], x), _beside(tensor["running_var"], x)
        x = (x - mean) * torch.rsqrt(variance + module.eps)
        if "weight" in tensor:
            x = x * _beside(tensor["weight"], x)
        return x + _beside(tensor["bias"], x) if "bias" in tensor else x

    return forward


def _track(tensor: Mapping[str, Tensor], momentum: float | None, mean: Tensor, variance: Tensor) -> None:
    batches = tensor["num_batches_tracked"].add_(1)
    weight: Any = (1.0 / batches.to(mean.dtype)).unsqueeze(1) if momentum is None else momentum
    for running, seen in ((tensor["running_mean"], mean), (tensor["running_var"], variance)):
        running.mul_(1 - weight).add_(seen.reshape(running.shape) * weight)


def _layer_norm(module: Any, names: _Names) -> _Layer:
    own = {
        role: names[id(tensor)]
        for role in ("weight", "bias")
        if (tensor := getattr(module, role)) is not None
    }

    def forward(state: _Pass, x: Tensor) -> Tensor:
        x = F.layer_norm(x.contiguous(), module.normalized_shape, eps=module.eps)
        tensor = {role: state.tensors[name] for role, name in own.items()}
        gap = (1,) * (x.dim() - 1 - len(module.normalized_shape))
        if "weight" in tensor:
            weight = tensor["weight"]
            x = x * weight.reshape(weight.shape[0], *gap, *weight.shape[1:])
        if "bias" in tensor:
            bias = tensor["bias"]
            x = x + bias.reshape(bias.shape[0], *gap, *bias.shape[1:])
        return x

    return forward


def _prelu(module: Any, names: _Names) -> _Layer:
    weight_name = names[id(module.weight)]

    def forward(state: _Pass, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * _beside(state.tensors[weight_name], x))

    return forward


# Made of comparisons, sums and products alone: the same bits wherever an element lies.
_EXACT: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.Hardtanh,
    nn.ReLU6,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Softsign,
    nn.Threshold,
    nn.Identity,
)

_ALIGNED: tuple[type[nn.Module], ...] = (
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.LogSigmoid,
    nn.Tanhshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
)

_TWINS: dict[type[nn.Module], Callable[[Any, _Names], _Layer | None]] = {
    nn.Linear: _Linear,
    nn.Flatten: _flatten,
    nn.Unflatten: _unflatten,
    nn.Softmax: _softmax(torch.softmax),
    nn.LogSoftmax: _softmax(torch.log_softmax),
    nn.Dropout: _dropout,
    nn.BatchNorm1d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.PReLU: _prelu,
}
