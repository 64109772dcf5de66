"""What a scheme must know of a weight: its units, how many numbers each sums, and the draws it gets.

A weight is a stack of matrices with a row for each unit. A dense layer has one such matrix, a convolution one
a group, and a recurrent layer one a gate. Fans count the terms of the sums that pass through a layer: the
mean number that one output sums is the fan-in, and the mean number of outputs that one input reaches is the
fan-out. So groups divide both, and a stride divides the fan-out of a convolution and the fan-in of a
transposed one, at whose outputs the input is spread apart.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import UninitializedParameter

from thalweg.errors import OptionError
from thalweg.randomness import streams
from thalweg.runtimes.dtensors import is_dtensor

__all__ = ["NORMS", "Numbers", "Role", "Weight", "dense", "matching", "role_of", "roles", "whole", "write"]

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Layers that normalize: their scale of 1 and shift of 0 are their starting point."""

# One draw of streams holds eight bytes a word and several temporaries.
_CHUNK = 2**22


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A weight as a stack of matrices with a row for each unit.

    Args:
        shape: of the parameter.
        units: rows, all matrices together.
        fan_in: mean number of terms that an output sums.
        fan_out: mean number of outputs that an input reaches.
        blocks: number of matrices: groups of a convolution, gates of a recurrent layer.
        transposed: whether the parameter lies as that of a transposed convolution, ``[inputs, units, ...]``.
    """

    shape: tuple[int, ...]
    units: int
    fan_in: float
    fan_out: float
    blocks: int = 1
    transposed: bool = False

    @property
    def per_unit(self) -> int:
        """How many weights lead into a unit."""
        return math.prod(self.shape) // self.units

    def arrange(self, matrix: Tensor) -> Tensor:
        """Bring ``[units, per_unit]`` into the parameter's shape."""
        if not self.transposed:
            return matrix.reshape(self.shape)
        inputs, outputs = self.shape[0] // self.blocks, self.shape[1]
        return matrix.reshape(self.blocks, outputs, inputs, -1).transpose(1, 2).reshape(self.shape)


def dense(shape: Sequence[int]) -> Weight:
    """Describe a weight ``[outputs, inputs, *kernel]`` of a layer without groups or strides.

    >>> weight = dense((32, 16, 3, 3))
    >>> weight.fan_in, weight.fan_out
    (144, 288)
    """
    assert len(shape) >= 2
    field = math.prod(shape[2:])
    return Weight(shape=tuple(shape), units=shape[0], fan_in=shape[1] * field, fan_out=shape[0] * field)


def _convolution(layer: _ConvNd) -> Weight:
    field, steps = math.prod(layer.kernel_size), math.prod(layer.stride)
    inputs, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    transposed = isinstance(layer, _ConvTransposeNd)
    return Weight(
        shape=tuple(layer.weight.shape),
        units=layer.out_channels,
        fan_in=inputs * field / (steps if transposed else 1),
        fan_out=outputs * field / (1 if transposed else steps),
        blocks=layer.groups,
        transposed=transposed,
    )


def _stacked(shape: Sequence[int], blocks: int) -> Weight:
    rows, inputs = shape
    return Weight(shape=tuple(shape), units=rows, fan_in=inputs, fan_out=rows // blocks, blocks=blocks)


Role = Weight | Literal["bias", "second bias", "embedding"]
"""What a parameter is: a weight, a bias, a bias that is added to another one, or rows to look up."""


def roles(layer: nn.Module) -> dict[str, Role]:
    """Say what the layer's own parameters are, by name; those that nothing is known of aren't named.

    >>> {name: role if isinstance(role, str) else role.blocks for name, role in roles(nn.LSTM(3, 5)).items()}
    {'weight_ih_l0': 4, 'weight_hh_l0': 4, 'bias_ih_l0': 'bias', 'bias_hh_l0': 'second bias'}
    """
    found = {name: role_of(layer, name, p) for name, p in layer.named_parameters(recurse=False)}
    return {name: role for name, role in found.items() if role is not None}


def role_of(layer: nn.Module, name: str, parameter: Tensor) -> Role | None:
    """Say what one of the layer's tensors is; ``None`` where nothing is known of it."""
    if isinstance(parameter, UninitializedParameter):  # of a lazy layer: there is no shape yet
        return None
    for kinds, describe in _KINDS:
        if isinstance(layer, kinds):
            return describe(layer, name, parameter)
    return None


def _plain(layer: nn.Module, name: str, parameter: Tensor) -> Role | None:
    if name == "weight":
        return _convolution(layer) if isinstance(layer, _ConvNd) else dense(parameter.shape)
    return "bias" if name == "bias" else None


def _recurrent(layer: nn.Module, name: str, parameter: Tensor) -> Role | None:
    if name.startswith("weight_hr"):
        return dense(parameter.shape)
    if name.startswith(("weight_ih", "weight_hh")):
        assert isinstance(layer.hidden_size, int)
        return _stacked(parameter.shape, parameter.shape[0] // layer.hidden_size)
    return {"bias_ih": "bias", "bias_hh": "second bias"}.get(name[:7])  # type: ignore[return-value]


def _attention(layer: nn.Module, name: str, parameter: Tensor) -> Role | None:
    if name == "in_proj_weight":
        return _stacked(parameter.shape, 3)
    if name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        return dense(parameter.shape)
    return "bias" if name == "in_proj_bias" else None


def _embedding(layer: nn.Module, name: str, parameter: Tensor) -> Role | None:
    return "embedding" if name == "weight" else None


_Describe = Callable[[nn.Module, str, Tensor], Role | None]
_KINDS: tuple[tuple[tuple[type[nn.Module], ...], _Describe], ...] = (
    ((nn.Linear, nn.Bilinear, _ConvNd), _plain),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
    ((nn.MultiheadAttention,), _attention),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
)


@dataclass(frozen=True)
class Numbers:
    """The draws of one parameter: a function of the seed and the parameter's name alone.

    Args:
        seed: any int.
        name: of the parameter.
        dtype: ``torch.float32`` or ``torch.float64``.
        device: where they lie.

    >>> torch.equal(Numbers(0, "0.weight").normal((2, 3)), Numbers(0, "0.weight").normal((2, 3)))
    True
    """

    seed: int
    name: str
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw from ``[0, 1)``."""
        return self._draw(streams.uniform, "uniform", shape)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Draw from the standard normal distribution."""
        return self._draw(streams.normal, "normal", shape)

    def _draw(self, function: Callable[..., Tensor], kind: str, shape: Sequence[int]) -> Tensor:
        drawn = torch.empty(math.prod(shape), dtype=self.dtype, device=self.device)
        for step, part in enumerate(torch.split(drawn, _CHUNK)):
            part.copy_(
                function(
                    part.shape,
                    seed=self.seed,
                    stream=f"initial/{self.name}/{kind}",
                    step=step,
                    dtype=self.dtype,
                    device=self.device,
                )
            )
        return drawn.reshape(tuple(shape))


def whole(parameter: Tensor) -> Tensor:
    """Return the values of a parameter, gathered where it is sharded."""
    values = parameter.detach()
    return values.full_tensor() if is_dtensor(values) else values


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return the names that a pattern such as ``"encoder.*"`` fits.

    Raises:
        OptionError: it fits none.
    """
    known = list(names)
    found = [name for name in known if fnmatchcase(name, pattern)]
    if not found:
        close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.4) or known[:3]
        raise OptionError(
            f"{pattern!r} fits no parameter of the model, whose names are such as "
            + " or ".join(repr(name) for name in close)
        )
    return found


@torch.no_grad()
def write(parameter: Tensor, values: Tensor) -> None:
    """Put values into a parameter in place; of a sharded one, each process keeps its own part."""
    if is_dtensor(parameter):
        # here it has been imported: there is one
        from torch.distributed.tensor import DTensor, Replicate

        everywhere = [Replicate()] * parameter.device_mesh.ndim
        whole = DTensor.from_local(
            values.to(parameter.device, parameter.dtype), parameter.device_mesh, everywhere, run_check=False
        )
        values = whole.redistribute(placements=parameter.placements)
    parameter.copy_(values)
